"""Retention: how long events and rollups are kept, and how they are removed.

``watermark.py`` has the limits, and the times before which there is nothing any more; ``plan.py`` says what would be
removed, ``apply.py`` removes it.
"""
