"""``/api/requests/export/``: every event that meets some filters, as a file that says when it is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping
from threading import Event as Flag

from kernel import ConcurrencyLimit, Response, Route, Services, StreamingResponse, UnavailableError
from plugins.observability.exporting.formats import Csv, Format, Ndjson
from plugins.observability.exporting.model import ExportQuery, FormatName, Summary
from plugins.observability.exporting.parquet import Parquet
from plugins.observability.exporting.scanning import Scans
from plugins.observability.model import Event
from plugins.observability.routes import ROOTS
from plugins.observability.settings import ObservabilitySettings

_FORMATS: Mapping[FormatName, Callable[[], Format]] = {"csv": Csv, "ndjson": Ndjson, "parquet": Parquet}


class Exports:
    """The handler.

    Args:
        services: Have the database and the settings; say when this process stops.
    """

    def __init__(self, services: Services) -> None:
        settings = services.settings(ObservabilitySettings)
        self._scans = Scans(services.db, settings.export_timeout_s, settings.export_pause_s)
        self._limit = ConcurrencyLimit(
            settings.exports_max, f"this process runs {settings.exports_max} exports at most"
        )
        self._stopping = services.stopping
        self._log = services.log

    def export(self, query: ExportQuery) -> Response[StreamingResponse]:
        """Export every request log that meets some filters, in order, as it is at this moment."""
        file = _FORMATS[query.format]()
        batches = self._scans.scan(query)
        release = self._limit.acquire()
        pieces = _File(file, batches, release, self._stopping)
        try:
            # What is wrong by now still has a status to say so.
            pieces.look()
        except BaseException:
            pieces.close()
            raise
        headers = {
            "Content-Disposition": f'attachment; filename="requests.{query.format}"',
            "Cache-Control": "no-store",
        }
        return Response(StreamingResponse(pieces, file.media_type), headers=headers)

    def routes(self) -> list[Route]:
        """Return the route, under both roots."""
        first, *others = (f"{root}export/" for root in ROOTS)
        return [Route(path=first, aliases=tuple(others), handler=self.export, policy="read")]


class _File:
    """The pieces of a file. An error on the way ends the connection without the end that HTTP knows."""

    def __init__(
        self, file: Format, batches: Iterator[list[Event]], release: Callable[[], None], stopping: Flag
    ) -> None:
        self._file = file
        self._batches = batches
        self._release = release
        self._stopping = stopping
        self._first: list[Event] = []

    def look(self) -> None:
        """Read the first events."""
        self._first = next(self._batches, [])

    def __iter__(self) -> Iterator[bytes]:
        digest, rows = hashlib.sha256(), 0
        for piece, events in self._pieces():
            digest.update(piece)
            rows += events
            if piece:
                yield piece
        yield self._file.end(Summary(rows, digest.hexdigest()))

    def _pieces(self) -> Iterator[tuple[bytes, int]]:
        first, self._first = self._first, []
        yield self._file.begin() + self._file.add(first), len(first)
        for events in self._batches:
            if self._stopping.is_set():
                raise UnavailableError("the service is stopping")
            yield self._file.add(events), len(events)
        yield self._file.rest(), 0

    def close(self) -> None:
        """Return the connection to the pool, and release the slot."""
        try:
            if isinstance(self._batches, Generator):
                self._batches.close()
        finally:
            self._release()
