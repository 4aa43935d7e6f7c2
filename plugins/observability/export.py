"""``/api/requests/export/``: every event that some filters match, as one file, however many there are.

A server-side cursor reads the events in batches (``EventScanner``), a format makes bytes of each batch (``CsvFormat``,
``NdjsonFormat``, ``ParquetFormat``), and the response is streamed, so that memory does not grow with the file. A file
ends with the number of its events and its digest: without this trailer, it is not complete.
"""

from __future__ import annotations

import csv
import hashlib
import io
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any, BinaryIO, Literal, Protocol

import msgspec
from psycopg import sql

from kernel import Database, Identity, InvalidError, Response, StreamingResponse, UnavailableError
from kernel.http import ConcurrencyLimit, escape_formula
from kernel.limits import Usage
from plugins.observability.access import SYSTEM, Access, OwnedServices
from plugins.observability.export_trailer import Trailer
from plugins.observability.filters import order_by, parse_ordering, validate_filters, with_tie_breaker
from plugins.observability.models import Event, FilterQuery
from plugins.observability.queries import QUERIES
from plugins.observability.requests_route import requests_route
from plugins.observability.store import resolve_filters, served_max_bytes, to_event

FormatName = Literal["csv", "ndjson", "parquet"]
COLUMNS = Event.__struct_fields__
# Rows that a fetch from the cursor returns: with the longest tags, 16 MiB.
_BATCH_EVENTS = 250
# Smaller row groups compress worse, larger ones need more memory.
_ROW_GROUP_EVENTS = 20_000
_ROW_GROUP_TAGS_BYTES = 16 * 1024 * 1024
_JSON = msgspec.json.Encoder()


class ExportQuery(FilterQuery, frozen=True):
    """Parameters of an export: the filters and the order of the list.

    Args:
        format: Of the file.
    """

    format: FormatName = "csv"


class ExportRoutes:
    """The handler of ``/api/requests/export/``.

    Args:
        scanner: Reads the events.
        exports_max: How many exports may run at the same time.
        stopping: Set once the process is asked to stop.
        usage: Counts exports.
    """

    def __init__(self, scanner: EventScanner, exports_max: int, stopping: threading.Event, usage: Usage) -> None:
        self._scanner = scanner
        self._limit = ConcurrencyLimit(exports_max, f"this process runs {exports_max} exports at most")
        self._stopping = stopping
        self._usage = usage

    @requests_route(
        "export/",
        policy="read",
        throttle="export",
        responses={200: {"text/csv": str, "application/x-ndjson": Event, "application/vnd.apache.parquet": bytes}},
    )
    def export(self, query: ExportQuery, identity: Identity) -> Response[StreamingResponse]:
        """Export every request log that some filters match, in order, in one snapshot of the database."""
        file_format = _FORMATS[query.format]()
        self._usage.add("exports", 1)
        batches = self._scanner.scan(query, Access.of(identity))
        file = ExportFile(file_format, batches, self._limit.acquire(), self._stopping)
        try:
            # An error in the first batch still has a status; any later one can only cut the file off.
            file.read_first_batch()
        except BaseException:
            file.close()
            raise
        headers = {
            "Content-Disposition": f'attachment; filename="requests.{query.format}"',
            "Cache-Control": "no-store",
        }
        return Response(StreamingResponse(file, file_format.media_type), headers=headers)


class EventScanner:
    """Reads any number of events, in batches and in one snapshot, through a server-side cursor.

    Args:
        db: The database.
        owned_services: Tells which services applications own.
        timeout_s: A scan may take this long.
        pause_s: The consumer may take this long between two batches; then the server ends the scan.
        tags_max_bytes: Longer tags are left out; see ``EventStore``.
    """

    def __init__(
        self, db: Database, owned_services: OwnedServices, timeout_s: float, pause_s: float, tags_max_bytes: int
    ) -> None:
        self._db = db
        self._owned_services = owned_services
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._tags_max_bytes = tags_max_bytes

    def scan(self, query: FilterQuery, access: Access = SYSTEM) -> Iterator[list[Event]]:
        """Return all events that some filters match, in order. Holds a connection until it is closed.

        Raises:
            InvalidError: A parameter is wrong; names it.
            UnavailableError: The database cannot be reached, or one of the time limits is exceeded.
        """
        validate_filters(query)
        return self._scan(query, access, order_by(with_tie_breaker(parse_ordering(query.ordering))))

    def _scan(self, query: FilterQuery, access: Access, order: sql.Composable) -> Iterator[list[Event]]:
        deadline = time.monotonic() + self._timeout_s
        # In place of the statement timeout, which is meant for requests: sorting all events may take longer.
        with self._db.transaction(self._timeout_s, repeatable_read=True) as connection:
            connection.execute(QUERIES["limit_export_pauses"], {"pause_ms": str(round(self._pause_s * 1000))})
            conditions = resolve_filters(connection, query, access, self._owned_services)
            # A named cursor is one of the server; a client-side cursor would fetch all rows at once.
            with connection.cursor(name="export") as cursor:
                statement = sql.SQL(QUERIES["scan_events"]).format(where=conditions.where, order=order)
                limits = {"tags_max_bytes": served_max_bytes(self._tags_max_bytes)}
                cursor.execute(statement, {**conditions.values, **limits})
                while rows := cursor.fetchmany(_BATCH_EVENTS):
                    yield [to_event(row) for row in rows]
                    if time.monotonic() > deadline:
                        raise UnavailableError(f"the export took longer than {self._timeout_s:g} s")


class Format(Protocol):
    """Makes the bytes of a file out of events, piece by piece.

    Args:
        media_type: Of the file.
    """

    media_type: str

    def header(self) -> bytes:
        """Return what comes before the first event."""

    def encode(self, events: Sequence[Event]) -> bytes:
        """Return the bytes of the next events, or nothing as long as they are buffered."""

    def flush(self) -> bytes:
        """Return what is still buffered."""

    def trailer(self, trailer: Trailer) -> bytes:
        """Return the end of the file."""


class CsvFormat:
    """Comma-separated values (RFC 4180) with a header line; the trailer is a comment."""

    media_type = "text/csv; charset=utf-8"

    def header(self) -> bytes:
        """Return the names of the columns."""
        return (",".join(COLUMNS) + "\r\n").encode()

    def encode(self, events: Sequence[Event]) -> bytes:
        """Return a record for each event; texts may contain line breaks."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows(map(_csv_cells, events))
        return text.getvalue().encode()

    def flush(self) -> bytes:
        """Return nothing: nothing is buffered."""
        return b""

    def trailer(self, trailer: Trailer) -> bytes:
        """Return the comment."""
        return f"# rows={trailer.rows} sha256={trailer.sha256}\r\n".encode()


class NdjsonFormat:
    """One JSON object a line, as in the list; the trailer is one more."""

    media_type = "application/x-ndjson"

    def header(self) -> bytes:
        """Return nothing."""
        return b""

    def encode(self, events: Sequence[Event]) -> bytes:
        """Return a line for each event."""
        return _JSON.encode_lines(events)

    def flush(self) -> bytes:
        """Return nothing: nothing is buffered."""
        return b""

    def trailer(self, trailer: Trailer) -> bytes:
        """Return the last line."""
        return _JSON.encode(trailer) + b"\n"


class ParquetFormat:
    """Parquet with zstd, made by pyarrow; the trailer is in the metadata of the footer.

    Raises:
        InvalidError: pyarrow is not installed.
    """

    media_type = "application/vnd.apache.parquet"

    def __init__(self) -> None:
        # Imported here, because it is an optional dependency and slow to import.
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as ex:
            message = (
                "Parquet needs pyarrow on the server: pip install 'tiercel[parquet]'. csv and ndjson need nothing."
            )
            raise InvalidError(errors={"format": [message]}) from ex
        self._table = pyarrow.Table
        self._schema = pyarrow.schema(
            [
                pyarrow.field("id", pyarrow.string(), nullable=False),
                pyarrow.field("time", pyarrow.timestamp("us", tz="UTC"), nullable=False),
                pyarrow.field("service", pyarrow.string(), nullable=False),
                pyarrow.field("endpoint", pyarrow.string(), nullable=False),
                pyarrow.field("method", pyarrow.string(), nullable=False),
                pyarrow.field("status_code", pyarrow.int16(), nullable=False),
                pyarrow.field("latency_ms", pyarrow.int32()),
                pyarrow.field("trace_id", pyarrow.string()),
                pyarrow.field("user_ref", pyarrow.string()),
                pyarrow.field("tags", pyarrow.string(), nullable=False),
            ]
        )
        self._buffer = _WriteBuffer()
        self._writer = pyarrow.parquet.ParquetWriter(
            self._buffer, self._schema, compression="zstd", write_page_checksum=True
        )
        self._events: list[Event] = []
        self._tags_bytes = 0

    def header(self) -> bytes:
        """Return the magic number."""
        return self._buffer.drain()

    def encode(self, events: Sequence[Event]) -> bytes:
        """Return a row group once there are enough events."""
        self._events += events
        self._tags_bytes += sum(len(event.tags) for event in events)
        is_full = len(self._events) >= _ROW_GROUP_EVENTS or self._tags_bytes >= _ROW_GROUP_TAGS_BYTES
        return self.flush() if is_full else b""

    def flush(self) -> bytes:
        """Return a row group with the buffered events."""
        if not self._events:
            return b""
        events, self._events, self._tags_bytes = self._events, [], 0
        columns = {
            "id": [str(event.id) for event in events],
            "tags": [bytes(event.tags).decode() for event in events],
        }
        columns |= {
            name: [getattr(event, name) for event in events] for name in self._schema.names if name not in columns
        }
        self._writer.write_table(self._table.from_pydict(columns, schema=self._schema))
        return self._buffer.drain()

    def trailer(self, trailer: Trailer) -> bytes:
        """Return the footer."""
        values = msgspec.structs.asdict(trailer)
        self._writer.add_key_value_metadata({name: str(value) for name, value in values.items()})
        self._writer.close()
        return self._buffer.drain()


class _WriteBuffer:
    """A writable file, as pyarrow needs it, whose content is taken out while it is written."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._length_bytes = 0

    def write(self, piece: Any) -> int:
        content = bytes(piece)
        self._pieces.append(content)
        self._length_bytes += len(content)
        return len(content)

    def tell(self) -> int:
        return self._length_bytes

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        self.closed = True

    def drain(self) -> bytes:
        content = b"".join(self._pieces)
        self._pieces.clear()
        return content


class ExportFile:
    """The chunks of a file. An error while it is iterated cuts the response off, before the last chunk of HTTP.

    Args:
        file_format: Makes the bytes.
        batches: The events.
        release: Lets the next export begin.
        stopping: Set once the process is asked to stop.

    Attributes:
        rows: The number of events so far.
    """

    def __init__(
        self,
        file_format: Format,
        batches: Iterator[list[Event]],
        release: Callable[[], None],
        stopping: threading.Event,
    ) -> None:
        self._format = file_format
        self._batches = batches
        self._release = release
        self._stopping = stopping
        self._first: list[Event] = []
        self.rows = 0

    def read_first_batch(self) -> None:
        """Read the first events."""
        self._first = next(self._batches, [])

    def __iter__(self) -> Iterator[bytes]:
        digest = hashlib.sha256()
        for chunk, events in self._chunks():
            digest.update(chunk)
            self.rows += events
            if chunk:
                yield chunk
        yield self._format.trailer(Trailer(self.rows, digest.hexdigest()))

    def _chunks(self) -> Iterator[tuple[bytes, int]]:
        """Yield the chunks before the trailer, each with the number of events that went into it."""
        first, self._first = self._first, []
        yield self._format.header() + self._format.encode(first), len(first)
        for events in self._batches:
            if self._stopping.is_set():
                raise UnavailableError("the service is stopping")
            yield self._format.encode(events), len(events)
        yield self._format.flush(), 0

    def close(self) -> None:
        """Return the connection to the pool, and let the next export begin."""
        try:
            if isinstance(self._batches, Generator):
                self._batches.close()
        finally:
            self._release()


def write_export(
    scanner: EventScanner,
    query: ExportQuery,
    stream: BinaryIO,
    on_rows: Callable[[int], None] = lambda _rows: None,
    access: Access = SYSTEM,
) -> int:
    """Write every event that some filters match into a file; return how many.

    Args:
        scanner: Reads the events.
        query: The filters, the order and the format.
        stream: Opened for writing bytes.
        on_rows: Called with the number of events so far.
        access: Of whoever exports them.

    Raises:
        InvalidError: A parameter is wrong.
        OSError: The file cannot be written.
        UnavailableError: The database cannot be reached, or the export takes too long.
    """
    file = ExportFile(_FORMATS[query.format](), scanner.scan(query, access), lambda: None, threading.Event())
    with closing(file):
        for chunk in file:
            stream.write(chunk)
            on_rows(file.rows)
    return file.rows


def _csv_cells(event: Event) -> tuple[object, ...]:
    return (
        event.id,
        _json_time(event.time),
        _no_formula(event.service),
        _no_formula(event.endpoint),
        _no_formula(event.method),
        event.status_code,
        event.latency_ms,
        _no_formula(event.trace_id),
        _no_formula(event.user_ref),
        bytes(event.tags).decode(),
    )


def _json_time(time_utc: datetime) -> str:
    return time_utc.isoformat().removesuffix("+00:00") + "Z"


def _no_formula(text: str | None) -> str | None:
    return None if text is None else escape_formula(text)


_FORMATS: Mapping[FormatName, Callable[[], Format]] = {
    "csv": CsvFormat,
    "ndjson": NdjsonFormat,
    "parquet": ParquetFormat,
}
