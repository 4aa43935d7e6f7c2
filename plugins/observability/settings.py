"""The table ``[observability]`` of the configuration."""

from __future__ import annotations

from typing import Annotated

import msgspec

from kernel import Table, env


class ObservabilitySettings(Table, frozen=True):
    """Limits of ingest, and whether the service logs its own requests."""

    ingest_batch_size: Annotated[int, env("APM_INGEST_BATCH_SIZE"), msgspec.Meta(ge=1)] = 10_000
    ingest_max_events: Annotated[int, env("APM_INGEST_MAX_EVENTS"), msgspec.Meta(ge=1)] = 100_000
    ingest_max_errors: Annotated[int, env("APM_INGEST_MAX_ERRORS"), msgspec.Meta(ge=0)] = 100
    log_own_requests: bool = True
    series_cache_items: Annotated[int, msgspec.Meta(ge=1)] = 200_000
