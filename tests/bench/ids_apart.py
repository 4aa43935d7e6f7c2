"""Tiercel with the ids of events in a table of their own, whose index is unique in place of that of the events.

Enough to measure batches with a key that are sent once; what is sent again fails.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from kernel.cli.main import main
from plugins.observability.ingest import service
from plugins.observability.ingest.copy import Connected, Copied, copy_rows, copy_stream

CREATE_IDS = "CREATE TABLE observability.bench_id (id uuid PRIMARY KEY)"
COPY_IDS = "COPY observability.bench_id (id) FROM STDIN (FORMAT BINARY)"
# A row begins with the number of its columns, and its id with its length.
_COLUMNS = struct.Struct(">h")
ID_BYTES = 4 + 16


def ids_stream(rows: Iterable[bytes]) -> bytes:
    """Return a whole COPY stream of the ids of encoded rows."""
    one = _COLUMNS.pack(1)
    return copy_stream(one + row[_COLUMNS.size : _COLUMNS.size + ID_BYTES] for row in rows)


def _copy_with_ids(connection: Connected, rows: Sequence[bytes], batch_size: int) -> Copied:
    with connection.cursor() as cursor, cursor.copy(COPY_IDS) as copy:
        copy.write(ids_stream(rows))
    return copy_rows(connection, rows, batch_size)


if __name__ == "__main__":
    service.copy_rows = _copy_with_ids  # type: ignore[attr-defined] # it imports that for itself only
    main()
