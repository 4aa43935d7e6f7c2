"""What COPY does, done by statements: for a server that knows no COPY."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from plugins.observability.ingest import writing
from plugins.observability.ingest.copying import Connected

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
# Of the columns in a row; None is text.
_FORMATS = (None, ">q", ">i", ">h", ">i", None, None, None)
_INSERT = """
    INSERT INTO observability.event (id, time, series, status_code, latency_ms, trace_id, user_ref, tags)
    SELECT * FROM unnest(%s::uuid[], %s::timestamptz[], %s::integer[], %s::smallint[], %s::integer[], %s::text[],
                         %s::text[], %s::jsonb[]) AS e (id)
"""
_INSERT_NEW = f"""{_INSERT}
    WHERE NOT EXISTS (SELECT FROM observability.event_moved AS moved WHERE moved.id = e.id) ON CONFLICT DO NOTHING
"""


def copy_by_statements(patch: pytest.MonkeyPatch) -> None:
    """Let batches be written without COPY."""
    patch.setattr(writing, "copy_rows", insert_rows)
    patch.setattr(writing, "copy_new", insert_new)


def insert_rows(connection: Connected, rows: Sequence[bytes]) -> int:
    """Stand in for ``copy_rows``."""
    return connection.execute(_INSERT, _columns(rows)).rowcount


def insert_new(connection: Connected, rows: Sequence[bytes]) -> int:
    """Stand in for ``copy_new``."""
    return connection.execute(_INSERT_NEW, _columns(rows)).rowcount


def _columns(rows: Sequence[bytes]) -> list[list[Any]]:
    return [list(column) for column in zip(*(_values(row) for row in rows), strict=True)]


def _values(row: bytes) -> Iterator[Any]:
    """Take a row of the COPY format apart."""
    at = 2
    for number, form in enumerate(_FORMATS):
        (size,) = struct.unpack_from(">i", row, at)
        at += 4
        content = row[at : at + max(size, 0)]
        at += len(content)
        if size < 0:
            yield None
        elif number == 0:
            yield UUID(bytes=content)
        elif number == 1:
            yield _EPOCH + timedelta(microseconds=struct.unpack(">q", content)[0])
        elif form is not None:
            yield struct.unpack(form, content)[0]
        else:
            # jsonb has its version before it.
            yield content[number == len(_FORMATS) - 1 :].decode()
