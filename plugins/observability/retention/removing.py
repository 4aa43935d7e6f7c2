"""Remove what is older than it is kept: first out of sight, in one moment, then off the disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import TypeVar

import psycopg
from psycopg import sql

from kernel import ConflictError, Database, UnavailableError
from plugins.observability.retention.limits import FOREVER, Limits
from plugins.observability.retention.planning import Going, make_plan
from plugins.observability.retention.sweeping import QUERIES, TIMEOUT_S, OnStep, Removed, Sweep, aggregates_of, one
from plugins.observability.rollups.plan import DAY, Level, floor
from plugins.observability.rollups.refresh import Rollups, has_aggregates
from plugins.observability.rollups.touched import Connected

# Whoever removes events stops everybody else for a moment: no longer than this, and then again later.
_LOCK_TIMEOUT_MS = 300
_LOCK_TRIES = 20
_LOCK_WAIT_MAX_S = 10.0
# Each takes some locks of the server's table of locks.
_PARTITIONS_AT_ONCE = 50
# Everybody waits while these are looked at again.
_SERIES_AT_ONCE = 500
T = TypeVar("T")


class _TouchedError(Exception):
    """Events that are to go were written after their rollups were computed."""


class Retention:
    """Applies the limits.

    Args:
        db: The database.
        rollups: Computed before events go.
        limits: How long what is kept.
        ledger_days: After so many days the ledger is summed up by minute; 0 never.
        now: The clock.
    """

    def __init__(
        self, db: Database, rollups: Rollups, limits: Limits, ledger_days: int, now: Callable[[], datetime]
    ) -> None:
        self._db = db
        self._rollups = rollups
        self._limits = limits
        self._ledger_days = ledger_days
        self._now = now

    def plan(self) -> list[Going]:
        """Return what ``apply`` would remove."""
        return make_plan(self._db, self._limits, self._now())

    def apply(self, on_step: OnStep = lambda _step: None) -> Removed:
        """Remove what is due. Whatever this leaves undone when it dies, the next one does.

        Args:
            on_step: Told what comes next; may raise to stop.

        Raises:
            ConflictError: Rollups are being refreshed, and that does not end.
            UnavailableError: The database is away, or too busy to let anything go.
        """
        removed = Removed()
        cutoffs = self._limits.cutoffs(self._now())
        if "raw" in cutoffs:
            self._remove_events(cutoffs["raw"], removed, on_step)
        coarser: dict[Level, datetime] = {level: cutoff for level, cutoff in cutoffs.items() if level != "raw"}
        if coarser:
            on_step("rollups")
            self._patiently(lambda: self._advance_rollups(coarser, removed))
        removed.kept_from = self.kept_from()
        sweep = Sweep(self._db, removed, on_step)
        sweep.events()
        sweep.rollups()
        on_step("series")
        self._remove_series(removed)
        if self._ledger_days != FOREVER:
            sweep.ledger(floor(self._now(), DAY) - self._ledger_days * DAY)
        return removed

    def kept_from(self) -> dict[str, datetime]:
        """Return from when on each level has everything, where something was removed."""
        with self._db.connection() as connection:
            rows = connection.execute(QUERIES["list_levels"]).fetchall()
        return {level: since for level, since in rows if since is not None}

    def _remove_events(self, cutoff: datetime, removed: Removed, on_step: OnStep) -> None:
        since: datetime | None = None
        while since is None or since < cutoff:
            on_step("refresh")
            self._patiently(
                lambda: self._rollups.refresh(end=cutoff, progress=lambda _done, _total: on_step("refresh"))
            )
            on_step("events")
            with suppress(_TouchedError):
                since = self._patiently(lambda: self._drop_events(cutoff, removed))

    def _drop_events(self, cutoff: datetime, removed: Removed) -> datetime:
        """Drop some partitions, or chunks, at the moment from which on no answer is made of them; return up to when."""
        has_chunks = self._db.engine.has_hypertables
        with self._db.transaction(TIMEOUT_S) as connection:
            hold_everybody(connection)
            partitions: list[tuple[str, datetime]] = []
            if not has_chunks:
                given = {"before": cutoff, "limit": _PARTITIONS_AT_ONCE}
                partitions = [(row[0], row[1]) for row in connection.execute(QUERIES["list_partitions"], given)]
            since = cutoff if len(partitions) < _PARTITIONS_AT_ONCE else partitions[-1][1]
            if one(connection, "any_touched", before=since):
                raise _TouchedError
            connection.execute(QUERIES["advance_level"], {"level": "raw", "from_time": since})
            for name, _ in partitions:
                connection.execute(sql.SQL(QUERIES["drop_partition"]).format(name=sql.Identifier(name)))
                connection.execute(QUERIES["forget_partition"], {"name": name})
            dropped = len(partitions)
            if has_chunks:
                dropped = one(connection, "drop_chunks", table="observability.event", before=cutoff)
        removed.partitions += dropped
        return since

    def _advance_rollups(self, cutoffs: Mapping[Level, datetime], removed: Removed) -> None:
        dropped = 0
        with self._db.transaction(TIMEOUT_S) as connection:
            if has_aggregates(connection):
                hold_everybody(connection)
            for level, cutoff in cutoffs.items():
                connection.execute(QUERIES["advance_level"], {"level": level, "from_time": cutoff})
                for table in aggregates_of(connection, level):
                    dropped += one(connection, "drop_chunks", table=f"observability.{table}", before=cutoff)
        removed.partitions += dropped

    def _remove_series(self, removed: Removed) -> None:
        """Remove series that neither events nor rollups are of, also because of edits and deletes."""
        with self._db.transaction(TIMEOUT_S) as connection:
            unused = [number for (number,) in connection.execute(QUERIES["list_unused_series"])]
        for start in range(0, len(unused), _SERIES_AT_ONCE):
            batch = unused[start : start + _SERIES_AT_ONCE]
            removed.series += self._patiently(partial(self._delete_series, batch))

    def _delete_series(self, numbers: list[int]) -> int:
        with self._db.transaction(TIMEOUT_S) as connection:
            hold_everybody(connection)
            return int(one(connection, "delete_unused_series", ids=numbers))

    def _patiently(self, step: Callable[[], T]) -> T:
        """Take a step as often as others are in its way, within reason."""
        for number in range(_LOCK_TRIES):
            try:
                return step()
            except (ConflictError, UnavailableError) as ex:
                is_busy = isinstance(ex, ConflictError) or isinstance(ex.__cause__, psycopg.errors.LockNotAvailable)
                if not is_busy or number == _LOCK_TRIES - 1:
                    raise
                time.sleep(min(_LOCK_WAIT_MAX_S, 0.1 * 2**number))
        raise AssertionError


def hold_everybody(connection: Connected) -> None:
    """Wait until nobody refreshes, writes events or looks at one moment, and keep it so until the transaction ends.

    Raises:
        ConflictError: Somebody is refreshing.
        psycopg.errors.LockNotAvailable: Others did not end in time.
    """
    row = connection.execute(QUERIES["lock_rollups"]).fetchone()
    if row is None or not row[0]:
        raise ConflictError("Somebody else is refreshing the rollups.")
    connection.execute(QUERIES["limit_waiting"], {"timeout_ms": str(_LOCK_TIMEOUT_MS)})
    connection.execute(QUERIES["lock_events"])
