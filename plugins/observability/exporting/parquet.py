"""Parquet, made piece by piece with pyarrow, where that is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from kernel import InvalidError
from plugins.observability.exporting.model import Summary
from plugins.observability.model import Event

# Fewer compress worse, more take more memory.
_ROW_GROUP_EVENTS = 20_000


class Parquet:
    """Row groups with zstd inside; number of rows and digest are in the footer's metadata.

    Raises:
        InvalidError: pyarrow is not installed.
    """

    media_type = "application/vnd.apache.parquet"

    def __init__(self) -> None:
        # An extra, and slow to import: whoever wants no Parquet needs neither.
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
                pyarrow.field("latency_ms", pyarrow.int32(), nullable=False),
                pyarrow.field("trace_id", pyarrow.string()),
                pyarrow.field("user_ref", pyarrow.string()),
                pyarrow.field("tags", pyarrow.string(), nullable=False),
            ]
        )
        self._sink = _Sink()
        self._writer = pyarrow.parquet.ParquetWriter(
            self._sink, self._schema, compression="zstd", write_page_checksum=True
        )
        self._events: list[Event] = []

    def begin(self) -> bytes:
        """Return the magic number."""
        return self._sink.take()

    def add(self, events: Sequence[Event]) -> bytes:
        """Return row groups that are full."""
        self._events += events
        return self._write() if len(self._events) >= _ROW_GROUP_EVENTS else b""

    def rest(self) -> bytes:
        """Return the last row group."""
        return self._write() if self._events else b""

    def end(self, summary: Summary) -> bytes:
        """Return the footer."""
        values = msgspec.structs.asdict(summary)
        self._writer.add_key_value_metadata({name: str(value) for name, value in values.items()})
        self._writer.close()
        return self._sink.take()

    def _write(self) -> bytes:
        events, self._events = self._events, []
        columns = {
            "id": [str(event.id) for event in events],
            "tags": [bytes(event.tags).decode() for event in events],
        }
        columns |= {
            name: [getattr(event, name) for event in events] for name in self._schema.names if name not in columns
        }
        self._writer.write_table(self._table.from_pydict(columns, schema=self._schema))
        return self._sink.take()


class _Sink:
    """A file that is taken away as it is written."""

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
        """Do nothing: there is nothing below."""

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        content = b"".join(self._pieces)
        self._pieces.clear()
        return content
