"""What a report has of the database: sizes, statements, locks, bloat, connections, migrations, jobs and datasets.

Each part is a read-only transaction of a connection of its own, with limits that the server keeps; ``gather`` keeps one
for a server that does not. Statements are shown without values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, LiteralString

import psycopg
from psycopg import Connection, sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import DictRow, dict_row

from kernel.db.queries import load_queries
from kernel.doctor.privacy import scrub, strip_values
from kernel.doctor.report import Part

QUERIES = load_queries(__package__)
# A part waits no longer for what somebody has locked: another part tells who.
_LOCK_TIMEOUT_MS = 1000
_STATEMENT = "statement"
_REASON = "reason"
Connected = Connection[DictRow]


class DatabaseReader:
    """Reads the parts of a report that the database knows.

    Args:
        conninfo: Connection string. For the embedded server, that of its superuser, for whom connections are reserved.
        timeout_s: Of each part.
        dead_after_s: How old the heartbeat of a worker is that is taken for dead.
    """

    def __init__(self, conninfo: str, timeout_s: float, dead_after_s: float) -> None:
        self._conninfo = make_conninfo(
            conninfo, application_name="tiercel doctor", connect_timeout=max(2, round(timeout_s / 2))
        )
        self._timeout_s = timeout_s
        self._dead_after_s = dead_after_s

    def parts(self) -> Sequence[Part]:
        """Return the parts; whether the database answers at all is the first."""
        readers: dict[str, Callable[[Connected], Any]] = {
            "database": _read_server,
            "database_clock": _read_clock,
            "connections": _rows("count_connections"),
            "statements": _rows("list_statements"),
            "slow_statements": _read_slow_statements,
            "waiting_locks": _read_locks,
            "tables": _rows("list_tables"),
            "indexes": _rows("list_indexes"),
            "bloat": _read_bloat,
            "timescaledb": _read_timescaledb,
            "migrations": _rows("list_applied"),
            "jobs": self._read_jobs,
            "datasets": _rows("list_datasets"),
        }
        return [Part(name, partial(self._read, reader), needs_database=True) for name, reader in readers.items()]

    def _read(self, reader: Callable[[Connected], Any]) -> Any:
        with self._connect() as connection:
            return reader(connection)

    @contextmanager
    def _connect(self) -> Iterator[Connected]:
        with psycopg.connect(self._conninfo, row_factory=dict_row, prepare_threshold=None) as connection:
            connection.read_only = True
            limits = {"timeout_ms": str(round(self._timeout_s * 1000)), "lock_timeout_ms": str(_LOCK_TIMEOUT_MS)}
            connection.execute(QUERIES["limit_transaction"], limits)
            yield connection

    def _read_jobs(self, connection: Connected) -> dict[str, Any]:
        return {
            "by_name": _fetch(connection, QUERIES["count_jobs"]),
            "workers": _fetch(connection, QUERIES["list_job_workers"]),
            "running": _fetch(connection, QUERIES["list_running_jobs"], dead_after_s=self._dead_after_s),
            "failed": _fetch(connection, QUERIES["list_failed_jobs"]),
            "schedules": _fetch(connection, QUERIES["list_schedules"]),
        }


def _rows(name: str) -> Callable[[Connected], list[dict[str, Any]]]:
    return lambda connection: _fetch(connection, QUERIES[name])


def _fetch(connection: Connected, query: LiteralString | sql.Composed, **values: Any) -> list[dict[str, Any]]:
    """Return the rows of a query, with what a report does not tell removed from statements and reasons."""
    return [_clean(row) for row in connection.execute(query, values)]


def _clean(row: DictRow) -> dict[str, Any]:
    cleaned = dict(row)
    if (statement := cleaned.get(_STATEMENT)) is not None:
        cleaned[_STATEMENT] = strip_values(statement)
    if (reason := cleaned.get(_REASON)) is not None:
        cleaned[_REASON] = scrub(reason)
    return cleaned


def _read_server(connection: Connected) -> dict[str, Any]:
    return {
        **_fetch(connection, QUERIES["describe_server"])[0],
        "extensions": _fetch(connection, QUERIES["list_extensions"]),
        "settings": _fetch(connection, QUERIES["list_server_settings"]),
    }


def _read_clock(connection: Connected) -> dict[str, Any]:
    """Compare the clocks: the server's lies between two readings of this machine's."""
    before, began = datetime.now(UTC), time.monotonic()
    theirs: datetime = connection.execute(QUERIES["read_clock"]).fetchall()[0]["clock_timestamp"]
    round_trip_ms = (time.monotonic() - began) * 1000
    ahead_ms = (theirs - before).total_seconds() * 1000 - round_trip_ms / 2
    return {"database_ahead_ms": round(ahead_ms, 1), "uncertain_by_ms": round(round_trip_ms / 2, 1)}


def _read_slow_statements(connection: Connected) -> dict[str, Any]:
    schema = connection.execute(QUERIES["find_statement_statistics"]).fetchone()
    if schema is None:
        return {"note": "the extension pg_stat_statements is not in this database; `statements` has what runs now"}
    view = sql.Identifier(schema["nspname"], "pg_stat_statements")
    return {"rows": _fetch(connection, sql.SQL(QUERIES["list_slow_statements"]).format(statistics=view))}


def _read_timescaledb(connection: Connected) -> dict[str, Any]:
    """Read what its own background jobs do, whose failures nobody is told of otherwise."""
    if connection.execute(QUERIES["has_timescaledb"]).fetchone() is None:
        return {"note": "TimescaleDB is not in this database"}
    return {
        "hypertables": _fetch(connection, QUERIES["list_hypertables"]),
        "policies": _fetch(connection, QUERIES["list_policies"]),
        "failures": _fetch(connection, QUERIES["list_policy_failures"]),
    }


def _read_locks(connection: Connected) -> dict[str, Any]:
    waiting = _fetch(connection, QUERIES["list_waiting"])
    pids = sorted({pid for row in waiting for pid in row["blocked_by"]})
    return {"waiting": waiting, "blocking": _fetch(connection, QUERIES["list_blocking"], pids=pids)}


def _read_bloat(connection: Connected) -> dict[str, Any]:
    return {
        "dead_rows": _fetch(connection, QUERIES["list_dead_rows"]),
        "vacuums_running": _fetch(connection, QUERIES["list_vacuums"]),
    }
