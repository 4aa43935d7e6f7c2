"""The named queries of this plugin."""

from __future__ import annotations

from kernel import load_queries

QUERIES = load_queries(__package__)
