"""Rollups: totals and latency histograms by hour and by day, from which most analytics are computed.

Writers list the hours they write to in the table ``rollup_touched`` (``dirty_buckets.py``). A refresh computes these
hours and their days again (``refresh.py``); until then, analytics read the events of these hours.
``histogram.py`` has the format of histograms, and ``../timescale.py`` what TimescaleDB does differently.
"""
