"""Fetch all sources at once; one that fails costs nobody else anything."""
