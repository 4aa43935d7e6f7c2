"""Optional parts: example applications, and demo data."""
