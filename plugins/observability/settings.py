"""The table ``[observability]`` of the configuration."""

from __future__ import annotations

from typing import Annotated

import msgspec

from kernel import Table, env
from plugins.observability.model import INT32_MAX
from plugins.observability.retention.watermark import RetentionLimits
from plugins.observability.templates import DEFAULT_TEMPLATES, Templates

# A hundred years: more than there can be, and no overflow of dates.
DAYS_MAX = 36_500


class ObservabilitySettings(Table, frozen=True):
    """Limits of ingest, rules for endpoints, how long what is kept, and whether the service logs its own requests."""

    ingest_batch_size: Annotated[int, env("APM_INGEST_BATCH_SIZE"), msgspec.Meta(ge=1)] = 10_000
    ingest_max_events: Annotated[int, env("APM_INGEST_MAX_EVENTS"), msgspec.Meta(ge=1)] = 100_000
    ingest_max_errors: Annotated[int, env("APM_INGEST_MAX_ERRORS"), msgspec.Meta(ge=0)] = 100
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
