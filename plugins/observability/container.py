"""The objects of this plugin, constructed and wired together once for a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial

import msgspec

from kernel import Cache, Database, Services
from plugins.observability.access import Owner
from plugins.observability.analytics.service import AnalyticsService
from plugins.observability.export import EventScanner
from plugins.observability.ingest.service import IngestService
from plugins.observability.ledger import Ledger
from plugins.observability.marks import MarkStore
from plugins.observability.measurements import IngestMetrics, measure
from plugins.observability.otlp.service import SpanIngest
from plugins.observability.partitions import Partitions
from plugins.observability.path_templates import Templates
from plugins.observability.removal import Removal
from plugins.observability.retention.apply import Retention
from plugins.observability.retention.watermark import IngestWatermark
from plugins.observability.rollups.refresh import Rollups
from plugins.observability.series import SeriesDictionary, SeriesKey
from plugins.observability.settings import ObservabilitySettings
from plugins.observability.store import EventStore

# So many of the latest runs may be marks of charts.
_JOBS_MAX = 200


class Container(msgspec.Struct, frozen=True):
    """What routes, commands, jobs and the log of the service's own requests share."""

    settings: ObservabilitySettings
    partitions: Partitions
    store: EventStore
    scanner: EventScanner
    removal: Removal
    ingest: IngestService
    spans: SpanIngest
    ledger: Ledger
    analytics: AnalyticsService
    rollups: Rollups
    retention: Retention
    marks: MarkStore
    templates: Templates
    now: Callable[[], datetime]
    db: Database


def make_container(services: Services) -> Container:
    """Construct the objects. Called through ``services.once``."""
    db, now = services.db, services.clock.now
    settings = services.settings(ObservabilitySettings)
    cache: Cache[tuple[Owner, SeriesKey], int] = services.cache.create(
        "observability.series", settings.series_cache_items
    )
    series = SeriesDictionary(db, cache, settings.series_max)
    partitions = Partitions(db)
    watermark = IngestWatermark(settings.limits, now)
    templates = Templates(settings.templates)
    request_templates = templates if settings.template_ingest else None
    metrics = IngestMetrics(services, now)
    ingest = IngestService(db, series, partitions, watermark, settings, now, services.usage, metrics, request_templates)
    spans = SpanIngest(ingest, templates, now)

    def figures() -> dict[str, int]:
        return {**ingest.figures(), **spans.figures()}

    services.provide_statistics(figures)
    measure(services, figures)
    rollups = Rollups(db)
    owned_services = partial(_owned_services, services)
    # Not what schedules start and what succeeds, which nobody would look for.
    list_jobs = partial(services.jobs.iterate, _JOBS_MAX, with_routine=False)
    removal = Removal(db, owned_services)
    services.purge_accounts_with(removal.purge_account)
    return Container(
        settings=settings,
        partitions=partitions,
        store=EventStore(db, series, partitions, watermark, owned_services, settings.tags_max_bytes, request_templates),
        scanner=EventScanner(
            db, owned_services, settings.export_timeout_s, settings.export_pause_s, settings.tags_max_bytes
        ),
        removal=removal,
        ingest=ingest,
        spans=spans,
        ledger=Ledger(db, now),
        analytics=AnalyticsService(db, now, owned_services),
        rollups=rollups,
        retention=Retention(db, rollups, settings.limits, settings.ledger_days, now),
        marks=MarkStore(db, list_jobs, owned_services),
        templates=templates,
        now=now,
        db=db,
    )


def _owned_services(services: Services, slug: str | None) -> Mapping[str, tuple[str, ...]]:
    """Return the services that an application owns, or those of each application, by slug."""
    applications = services.applications
    found = applications.all if slug is None else [applications.find(slug)]
    return {application.slug: application.services for application in found}
