"""Rollups: totals and latency histograms by hour and by day, and which of them can be trusted."""
