"""The table ``[observability]`` of the configuration."""

from __future__ import annotations

from typing import Annotated

import msgspec

from kernel import Table, env
from plugins.observability.models import INT32_MAX
from plugins.observability.path_templates import DEFAULT_TEMPLATES, Templates
from plugins.observability.retention.watermark import RetentionLimits

# A hundred years: no events are older, and dates do not overflow.
DAYS_MAX = 36_500
# The most that ``tags_max_bytes`` can be set to: a page holds the events of its own budget of bytes.
TAGS_MAX_BYTES = 4 * 1024 * 1024


class ObservabilitySettings(Table, frozen=True):
    """Limits of ingest and exports, templates of endpoints, retention.

    Args:
        ingest_batch_size: Rows sent to the database at a time.
        ingest_max_events: The most items of one request.
        ingest_max_bytes: The most bytes of a batch, decompressed.
        ingest_max_errors: How many errors a response lists.
        tags_max_bytes: How long the tags of an event may be, as sent and as served.
        log_own_requests: Whether the requests that this service answers are stored as well.
        series_cache_items: How many ids of series a process remembers.
        series_max: How many series an account may have.
        templates: Names of segments by pattern; see ``Templates``.
        template_imports: Whether templates are applied to imported log files by default.
        template_ingest: Whether templates are applied to what clients send.
        exports_max: How many exports a process runs at the same time; further ones get 503.
        export_timeout_s: How long an export may take.
        export_pause_s: How long a client may take to read 250 rows of it, or 20,000 of Parquet.
        running_hour_wait_s: How long the rollups of the running hour are left until they are computed again.
        raw_days: How many days events are kept; 0 keeps them forever.
        hourly_days: How many days hourly rollups are kept; 0 keeps them forever.
        daily_days: How many days daily rollups are kept; 0 keeps them forever.
        ledger_days: After how many days the ledger's entries of a minute become one; 0 for never.
    """

    ingest_batch_size: Annotated[int, env("APM_INGEST_BATCH_SIZE"), msgspec.Meta(ge=1)] = 10_000
    ingest_max_events: Annotated[int, env("APM_INGEST_MAX_EVENTS"), msgspec.Meta(ge=1)] = 100_000
    ingest_max_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 64 * 1024 * 1024
    ingest_max_errors: Annotated[int, env("APM_INGEST_MAX_ERRORS"), msgspec.Meta(ge=0)] = 100
    tags_max_bytes: Annotated[int, msgspec.Meta(ge=1024, le=TAGS_MAX_BYTES)] = 64 * 1024
    log_own_requests: bool = True
    series_cache_items: Annotated[int, msgspec.Meta(ge=1)] = 200_000
    series_max: Annotated[int, msgspec.Meta(ge=1, le=INT32_MAX)] = 50_000
    templates: dict[str, str] = msgspec.field(default_factory=lambda: dict(DEFAULT_TEMPLATES))
    template_imports: bool = True
    template_ingest: bool = False
    exports_max: Annotated[int, msgspec.Meta(ge=0)] = 2
    export_timeout_s: Annotated[float, msgspec.Meta(gt=0, le=7 * 86_400)] = 3600.0
    export_pause_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 60.0
    running_hour_wait_s: Annotated[float, msgspec.Meta(ge=0)] = 300.0
    raw_days: Annotated[int, msgspec.Meta(ge=0, le=DAYS_MAX)] = 0
    hourly_days: Annotated[int, msgspec.Meta(ge=0, le=DAYS_MAX)] = 0
    daily_days: Annotated[int, msgspec.Meta(ge=0, le=DAYS_MAX)] = 0
    ledger_days: Annotated[int, msgspec.Meta(ge=0, le=DAYS_MAX)] = 7

    def __post_init__(self) -> None:
        try:
            Templates(self.templates)
        except ValueError as ex:
            raise ValueError(f"templates: {ex}") from ex
        _ = self.limits

    @property
    def limits(self) -> RetentionLimits:
        """How long events and rollups are kept."""
        return RetentionLimits(self.raw_days, self.hourly_days, self.daily_days)
