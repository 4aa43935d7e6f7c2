"""Store the requests that this service itself answered, as service ``tiercel``."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kernel import RequestRecord
from plugins.observability.ingest.preparing import prepare
from plugins.observability.ingest.writing import EventWriter
from plugins.observability.model import ENDPOINT_MAX, METHOD_MAX, EventIn

SERVICE = "tiercel"


class OwnRequests:
    """Takes batches of the request log.

    Args:
        writer: Stores events.
    """

    def __init__(self, writer: EventWriter) -> None:
        self._writer = writer

    def store(self, records: Sequence[RequestRecord]) -> None:
        """Store some records.

        Raises:
            UnavailableError: The database is away.
        """
        prepared, _ = prepare(range(len(records)), [_event(record) for record in records], records[-1].time)
        self._writer.write(prepared, sender=SERVICE, batch_size=len(records))


def _event(record: RequestRecord) -> EventIn:
    tags = {"request_id": record.request_id, "bytes": record.bytes}
    return EventIn(
        time=record.time,
        service=SERVICE,
        # Requests that met no route share one series: whoever probes for paths must not fill the dictionary.
        endpoint=(record.template or "(no route)")[:ENDPOINT_MAX],
        method=record.method[:METHOD_MAX],
        status_code=record.status,
        latency_ms=round(record.duration_ms),
        trace_id=record.trace_id,
        tags=msgspec.Raw(msgspec.json.encode(tags)),
    )
