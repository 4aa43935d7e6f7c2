"""Store the requests that this service itself answers, as events of service ``tiercel``."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kernel.http import RequestRecord
from plugins.observability.ingest.normalize import normalize
from plugins.observability.ingest.service import IngestService
from plugins.observability.models import ENDPOINT_MAX, METHOD_MAX, EventIn
from plugins.observability.path_templates import NO_ROUTE

SERVICE = "tiercel"


class OwnRequests:
    """A subscriber of the feed of request records.

    Args:
        ingest: Stores events.
    """

    def __init__(self, ingest: IngestService) -> None:
        self._ingest = ingest

    def store(self, records: Sequence[RequestRecord]) -> None:
        """Store a batch of records.

        Raises:
            UnavailableError: The database is unavailable.
        """
        batch, _ = normalize(range(len(records)), [_event(record) for record in records], records[-1].time)
        self._ingest.store(batch, sender=SERVICE)


def _event(record: RequestRecord) -> EventIn:
    tags = {"request_id": record.request_id, "bytes": record.bytes}
    return EventIn(
        time=record.time,
        service=SERVICE,
        # Requests without a route share one series: probing for paths must not fill the dictionary.
        endpoint=(record.template or NO_ROUTE)[:ENDPOINT_MAX],
        method=record.method[:METHOD_MAX],
        status_code=record.status,
        latency_ms=record.duration_ms,
        trace_id=record.trace_id,
        tags=msgspec.Raw(msgspec.json.encode(tags)),
    )
