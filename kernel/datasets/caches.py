"""The caches of every process of a service: forget names everywhere, and ask everybody for figures."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from psycopg import Connection
from psycopg.types.json import Jsonb

from kernel.cache import Caches, CacheStats
from kernel.datasets.store import QUERIES
from kernel.db.pool import Database

CLEAR_CHANNEL = "tiercel_cache"
REPORT_CHANNEL = "tiercel_cache_report"
# What listening connections call themselves, by which they are counted.
LISTENER = "tiercel watch"
# PostgreSQL takes a little less than 8000 bytes in a notification.
PATTERN_MAX = 1000
# Names that one report mentions, the largest first.
NAMES_MAX = 200
# Reports come within milliseconds; people wait for the last of them.
_POLL_S = 0.02


class ProcessStats(msgspec.Struct, frozen=True):
    """The figures of one process.

    Args:
        process: What it is: the name of its command and its host.
        pid: Its number on that host.
        reported_at: When it said so.
        caches: Figures of its caches by name.
        names: How many bytes are kept under each name, the largest first, at most ``NAMES_MAX`` of them.
    """

    process: str
    pid: int
    reported_at: datetime
    caches: Mapping[str, CacheStats]
    names: Mapping[str, int]


class _Figures(msgspec.Struct, frozen=True):
    caches: Mapping[str, CacheStats]
    names: Mapping[str, int]


def clear_everywhere(db: Database, pattern: str = "*") -> int:
    """Make every process of the service forget cached values whose names match.

    Args:
        db: The database the processes share.
        pattern: As ``club_*``; at most ``PATTERN_MAX`` characters.

    Returns:
        How many processes were told.

    Raises:
        ValueError: The pattern is too long.
        UnavailableError: The database is not there.
    """
    if len(pattern) > PATTERN_MAX:
        raise ValueError(f"a pattern has at most {PATTERN_MAX} characters")
    with db.connection() as connection:
        connection.execute(QUERIES["notify_channel"], {"channel": CLEAR_CHANNEL, "payload": pattern})
        return _count_listeners(connection)


def collect_stats(db: Database, timeout_s: float = 2.0) -> Sequence[ProcessStats]:
    """Ask every process of the service for the figures of its caches.

    Args:
        db: The database the processes share.
        timeout_s: How long to wait for those that do not answer.

    Raises:
        UnavailableError: The database is not there.
    """
    request = uuid.uuid4()
    with db.connection() as connection:
        expected = _count_listeners(connection)
        connection.execute(QUERIES["notify_channel"], {"channel": REPORT_CHANNEL, "payload": str(request)})
        deadline = time.monotonic() + timeout_s
        while True:
            rows = connection.execute(QUERIES["list_cache_reports"], {"request": request}).fetchall()
            if len(rows) >= expected or time.monotonic() >= deadline:
                break
            time.sleep(_POLL_S)
        connection.execute(QUERIES["delete_cache_reports"], {"request": request})
    return [_process_stats(*row) for row in rows]


def write_report(connection: Connection[Any], request: str, process: str, pid: int, caches: Caches) -> None:
    """Answer a request for figures with those of this process."""
    by_size = sorted(caches.names().items(), key=lambda named: -named[1])[:NAMES_MAX]
    figures = _Figures(caches.stats(), dict(by_size))
    given = {
        "request": uuid.UUID(request),
        "process": process,
        "pid": pid,
        "caches": Jsonb(figures, dumps=msgspec.json.encode),
    }
    connection.execute(QUERIES["insert_cache_report"], given)


def _count_listeners(connection: Connection[Any]) -> int:
    row = connection.execute(QUERIES["count_listeners"], {"listener": LISTENER}).fetchone()
    return int(row[0]) if row else 0


def _process_stats(process: str, pid: int, reported_at: datetime, caches: object) -> ProcessStats:
    figures = msgspec.convert(caches, _Figures)
    return ProcessStats(process, pid, reported_at, figures.caches, figures.names)
