"""The caches of every process of a service: clear them everywhere, and collect their figures."""

from __future__ import annotations

import os
import socket
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from psycopg import Connection
from psycopg.types.json import Jsonb

from kernel.cache import Caches, CacheStats
from kernel.db.pool import QUERIES, Database
from kernel.errors import BootError
from kernel.notifications import NotificationListener, notify

# Name of the listeners that subscribe to the channels below, by which the processes are counted.
LISTENER = "tiercel listener"
# PostgreSQL takes a little less than 8000 bytes in a notification.
PATTERN_MAX = 1000
# Names of cached values in one report, the largest first.
NAMES_MAX = 200

_CLEAR_CHANNEL = "tiercel_cache"
_REPORT_CHANNEL = "tiercel_cache_report"
# Reports come within milliseconds.
_POLL_S = 0.02


class ProcessStats(msgspec.Struct, frozen=True):
    """The figures of one process.

    Args:
        process: The name of its command and its host.
        pid: Its number on that host.
        reported_at: When it sent them.
        caches: Figures of its caches by name.
        names: Bytes that are cached under each name, the largest first, at most ``NAMES_MAX`` of them.
    """

    process: str
    pid: int
    reported_at: datetime
    caches: Mapping[str, CacheStats]
    names: Mapping[str, int]


class _Figures(msgspec.Struct, frozen=True):
    caches: Mapping[str, CacheStats]
    names: Mapping[str, int]


def clear_everywhere(db: Database, *patterns: str) -> int:
    """Clear cached values whose names match one of some patterns, in every process of the service.

    Args:
        db: The database that the processes share.
        patterns: Names, or patterns such as ``club_*``; each has at most ``PATTERN_MAX`` characters.

    Returns:
        How many processes were notified.

    Raises:
        ValueError: A pattern is too long; none is cleared.
        UnavailableError: The database is not available.
        BootError: The processes hear no notifications.
    """
    _ensure_heard(db)
    if any(len(pattern) > PATTERN_MAX for pattern in patterns):
        raise ValueError(f"a pattern has at most {PATTERN_MAX} characters")
    with db.transaction() as connection:
        for pattern in patterns:
            notify(connection, _CLEAR_CHANNEL, pattern)
        return _count_listeners(connection)


def collect_stats(db: Database, timeout_s: float = 2.0) -> Sequence[ProcessStats]:
    """Collect the figures of the caches of every process of the service.

    Args:
        db: The database that the processes share.
        timeout_s: How long to wait for processes that do not answer.

    Raises:
        UnavailableError: The database is not available.
        BootError: The processes hear no notifications.
    """
    _ensure_heard(db)
    request = uuid.uuid4()
    with db.connection() as connection:
        expected = _count_listeners(connection)
        notify(connection, _REPORT_CHANNEL, str(request))
        deadline = time.monotonic() + timeout_s
        while True:
            rows = connection.execute(QUERIES["list_cache_reports"], {"request": request}).fetchall()
            if len(rows) >= expected or time.monotonic() >= deadline:
                break
            time.sleep(_POLL_S)
        connection.execute(QUERIES["delete_cache_reports"], {"request": request})
    return [_process_stats(*row) for row in rows]


def subscribe(listener: NotificationListener, db: Database, caches: Caches) -> None:
    """Make this process do what ``clear_everywhere`` and ``collect_stats`` of any process ask for.

    Args:
        listener: Named ``LISTENER``.
        db: Where reports are stored.
        caches: Of this process.
    """

    def clear(patterns: Sequence[str]) -> None:
        for pattern in patterns:
            caches.clear(pattern)

    def report(requests: Sequence[str]) -> None:
        with db.connection() as connection:
            for request in requests:
                _insert_report(connection, uuid.UUID(request), caches)

    listener.subscribe(_CLEAR_CHANNEL, clear)
    listener.subscribe(_REPORT_CHANNEL, report)


def _ensure_heard(db: Database) -> None:
    if not db.is_direct():
        raise BootError("processes behind a pooler hear no notifications: set db.direct_url, or restart them")


def _insert_report(connection: Connection[Any], request: uuid.UUID, caches: Caches) -> None:
    by_size = sorted(caches.names().items(), key=lambda named: -named[1])[:NAMES_MAX]
    figures = _Figures(caches.stats(), dict(by_size))
    given = {
        "request": request,
        "process": f"{' '.join([Path(sys.argv[0]).name, *sys.argv[1:2]])}@{socket.gethostname()}",
        "pid": os.getpid(),
        "caches": Jsonb(figures, dumps=msgspec.json.encode),
    }
    connection.execute(QUERIES["insert_cache_report"], given)


def _count_listeners(connection: Connection[Any]) -> int:
    row = connection.execute(QUERIES["count_listeners"], {"listener": LISTENER}).fetchone()
    return int(row[0]) if row else 0


def _process_stats(process: str, pid: int, reported_at: datetime, caches: object) -> ProcessStats:
    figures = msgspec.convert(caches, _Figures)
    return ProcessStats(process, pid, reported_at, figures.caches, figures.names)
