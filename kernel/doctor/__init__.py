"""What ``tiercel doctor`` gathers about a service that is in trouble, into one file that can be sent to somebody.

Nothing here needs a service that works: each part is read by itself, within a time limit, and one that fails leaves its
reason in its place. Nothing is started, repaired or written but the file. ``kernel.doctor.privacy`` says what is left
out.
"""
