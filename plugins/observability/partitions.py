"""Native partitions by time, made when the first event of a day arrives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from datetime import date, timedelta
from typing import TypeVar

import psycopg

from kernel import Database
from plugins.observability.ids import EPOCH
from plugins.observability.queries import QUERIES

DAY_US = 86_400_000_000
T = TypeVar("T")


class Partitions:
    """Knows which days have a partition, and makes those that have none.

    Args:
        db: On TimescaleDB there is nothing to make: a hypertable does it itself.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._known: set[int] = set()
        self._lock = threading.Lock()

    def make_room(self, days: Collection[int], write: Callable[[], T]) -> T:
        """Make the partitions that some days need, and write into them.

        Args:
            days: Numbers of days since 1970, UTC.
            write: A whole transaction. It comes twice if somebody dropped a partition that this process remembers.

        Raises:
            UnavailableError: The database cannot be asked.
        """
        self._ensure(days)
        try:
            return write()
        except psycopg.errors.CheckViolation:
            with self._lock:
                self._known = set()
            self._ensure(days)
            return write()

    def _ensure(self, days: Collection[int]) -> None:
        missing = set(days) - self._known
        if not missing:
            return
        if not self._db.engine.has_hypertables:
            dates: list[date] = [(EPOCH + timedelta(days=day)).date() for day in sorted(missing)]
            with self._db.connection() as connection:
                connection.execute(QUERIES["ensure_partitions"], {"days": dates})
        with self._lock:
            self._known = self._known | missing
