"""Rollups: totals and latency histograms by hour and by day, which most questions are answered from.

Writers list the hours they write to in the table ``rollup_touched`` (``dirty_buckets.py``). A refresh computes these
hours and their days anew (``refresh.py``); until then, whoever needs them reads the events themselves.
``histogram.py`` has the format of histograms, and ``../timescale.py`` what TimescaleDB does differently.
"""
