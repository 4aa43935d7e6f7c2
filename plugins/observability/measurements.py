"""What is measured of request logs, for ``/metrics``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

from kernel import Services
from kernel.metrics import Reading
from plugins.observability.queries import QUERIES
from plugins.observability.settings import ObservabilitySettings

_BATCH_BUCKETS = (1, 10, 100, 1000, 10_000, 100_000)
# From a second to a day.
_LAG_BUCKETS_S = (1, 5, 15, 60, 300, 900, 3600, 21_600, 86_400)
# Counting series reads all of them.
_SERIES_MAX_AGE_S = 60.0


class IngestMetrics:
    """What is counted of events that arrive: of requests, and of the service's own.

    Args:
        services: Of the plugin.
        now: The clock.
    """

    def __init__(self, services: Services, now: Callable[[], datetime]) -> None:
        metrics = services.metrics
        self._is_on = metrics.is_on
        self._now = now
        self._events = metrics.counter(
            "events_total", "Events that were received, as the ingest ledger has them.", ("outcome",)
        )
        for outcome in ("stored", "duplicate", "rejected"):
            self._events.inc(outcome, by=0)
        self._batches = metrics.histogram(
            "batch_events", "Events that were stored together, or had been before.", buckets=_BATCH_BUCKETS
        )
        self._lag = metrics.histogram(
            "ingest_lag_seconds", "From the newest event of a batch to its arrival.", buckets=_LAG_BUCKETS_S
        )

    def count(self, times_us: Sequence[int], stored: int, duplicate: int, rejected: int) -> None:
        """Count a batch.

        Args:
            times_us: Unix times of its events, in microseconds, without those that were rejected before.
            stored: How many are stored now.
            duplicate: How many were stored before.
            rejected: How many are not stored.
        """
        if not self._is_on:
            return
        for outcome, number in (("stored", stored), ("duplicate", duplicate), ("rejected", rejected)):
            if number:
                self._events.inc(outcome, by=number)
        if times_us:
            self._batches.observe(len(times_us))
            self._lag.observe(max(0.0, self._now().timestamp() - max(times_us) / 1_000_000))


def measure(services: Services, figures: Callable[[], Mapping[str, int]]) -> None:
    """Measure what the database knows of request logs, and what ``/stats/`` shows.

    Args:
        services: Of the plugin.
        figures: Of events and spans, since the process started.
    """
    settings = services.settings(ObservabilitySettings)
    timeout_s = services.kernel_settings.metrics.source_timeout_s

    def read_figures() -> Iterator[Reading]:
        found = figures()
        text = "Events that went to a series of __other__."
        yield Reading("events_capped_total", text, found["events_capped"], kind="counter")
        text = "Events whose method is not a registered one."
        yield Reading("events_unknown_method_total", text, found["events_unknown_method"], kind="counter")
        text = "Spans that were ignored, because no HTTP server made them."
        yield Reading("spans_ignored_total", text, found["spans_ignored"], kind="counter")

    def read_store() -> Iterator[Reading]:
        with services.db.connection(timeout_s=timeout_s) as connection:
            row = connection.execute(QUERIES["measure_store"]).fetchone() or (0, 0.0, 0, None)
            watermarks = connection.execute(QUERIES["measure_watermarks"]).fetchall()
        hours, oldest_s, partitions, ahead_s = row
        yield Reading("rollup_waiting_hours", "Past hours whose rollups lack events, at most 1000.", hours)
        text = "For how long the first of these has been waiting."
        yield Reading("rollup_oldest_waiting_seconds", text, oldest_s)
        yield Reading("partitions", "Partitions of events; none on TimescaleDB.", partitions)
        if ahead_s is not None:
            text = "From now to the end of the last partition."
            yield Reading("partitions_ahead_seconds", text, ahead_s)
        text = "From when on there is everything, in seconds since 1970, where retention has removed something."
        for resolution, time_s in watermarks:
            yield Reading("watermark_time_seconds", text, time_s, {"resolution": resolution})

    def read_series() -> Iterator[Reading]:
        with services.db.connection(timeout_s=timeout_s) as connection:
            total, largest = connection.execute(QUERIES["measure_series"]).fetchone() or (0, 0)
        yield Reading("series", "Series of all accounts.", total)
        yield Reading("series_of_largest_account", "Series of the account that has most.", largest)
        yield Reading("series_max", "The most series of an account.", settings.series_max)

    services.metrics.read_in_process(read_figures)
    services.metrics.add_source("observability", read_store)
    services.metrics.add_source("observability_series", read_series, _SERIES_MAX_AGE_S)
