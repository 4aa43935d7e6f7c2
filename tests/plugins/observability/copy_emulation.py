"""COPY emulated by INSERT, for a server that does not support COPY."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID

import pytest

from plugins.observability.ingest import copy
from plugins.observability.ingest.copy import Connected
from plugins.observability.queries import QUERIES

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
# Of the columns in a row; None for text.
_FORMATS = (None, ">q", ">i", ">h", ">i", None, None, None)
_INSERT = """
    INSERT INTO {} (id, time, series, status_code, latency_ms, trace_id, user_ref, tags)
    SELECT * FROM unnest(%s::uuid[], %s::timestamptz[], %s::integer[], %s::smallint[], %s::integer[], %s::text[],
                         %s::text[], %s::jsonb[])
"""
_TABLES = {QUERIES["copy_events"]: "observability.event", QUERIES["copy_staging"]: "event_staging"}


def emulate_copy(patch: pytest.MonkeyPatch) -> None:
    """Let ingest send rows by INSERT."""
    patch.setattr(copy, "_copy", _insert)


def _insert(connection: Connected, statement: LiteralString, rows: Sequence[bytes]) -> int:
    """Stand in for ``copy._copy``."""
    return connection.execute(_INSERT.format(_TABLES[statement]).encode(), _columns(rows)).rowcount


def _columns(rows: Sequence[bytes]) -> list[list[Any]]:
    return [list(column) for column in zip(*(_values(row) for row in rows), strict=True)]


def _values(row: bytes) -> Iterator[Any]:
    """Decode a row of the COPY format."""
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
            # A jsonb value is preceded by its version.
            yield content[number == len(_FORMATS) - 1 :].decode()
