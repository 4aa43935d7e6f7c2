"""The parts of this plugin, put together once for a process."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec

from kernel import Cache, Services
from plugins.observability.analytics.service import AnalyticsService
from plugins.observability.ingest.batch import Ingest
from plugins.observability.ingest.ledger import Ledger
from plugins.observability.ingest.writing import EventWriter
from plugins.observability.partitions import Partitions
from plugins.observability.retention.apply import Retention
from plugins.observability.retention.watermark import IngestWatermark
from plugins.observability.rollups.refresh import Rollups
from plugins.observability.series import SeriesDictionary, SeriesKey
from plugins.observability.settings import ObservabilitySettings
from plugins.observability.store import EventStore
from plugins.observability.templates import Templates


class Parts(msgspec.Struct, frozen=True):
    """What routes, commands and the log of own requests share."""

    store: EventStore
    writer: EventWriter
    ingest: Ingest
    ledger: Ledger
    analytics: AnalyticsService
    rollups: Rollups
    retention: Retention
    batch_size: int
    templates: Templates
    template_imports: bool
    now: Callable[[], datetime]


def make_parts(services: Services) -> Parts:
    """Put the parts together. Called through ``services.once``."""
    settings = services.settings(ObservabilitySettings)
    cache: Cache[SeriesKey, int] = services.cache.create("observability.series", settings.series_cache_items)
    series = SeriesDictionary(services.db, cache, settings.series_max)
    templates = Templates(settings.templates)
    sent = templates if settings.template_ingest else None
    partitions = Partitions(services.db)
    watermark = IngestWatermark(settings.limits, services.clock.now)
    writer = EventWriter(services.db, series, partitions, watermark)
    services.provide_statistics(writer.figures)
    rollups = Rollups(services.db)
    return Parts(
        store=EventStore(services.db, series, partitions, watermark, sent),
        writer=writer,
        ingest=Ingest(settings, writer, services.clock.now, sent),
        ledger=Ledger(services.db),
        analytics=AnalyticsService(
            services.db, services.clock.now, lambda slug: services.applications.find(slug).services
        ),
        rollups=rollups,
        retention=Retention(services.db, rollups, settings.limits, settings.ledger_days, services.clock.now),
        batch_size=settings.ingest_batch_size,
        templates=templates,
        template_imports=settings.template_imports,
        now=services.clock.now,
    )
