"""Rollups: totals and latency histograms by hour and by day, which most questions are answered from.

Writers list the hours they write to in the table ``rollup_touched`` (``dirty_buckets.py``). A refresh computes these
hours and their days again (``refresh.py``); until then, questions about them are answered from the events.
``histogram.py`` has the format of histograms, and ``../timescale.py`` what TimescaleDB does differently.
"""
