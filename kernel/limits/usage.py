"""What accounts use of their plans, by UTC day: ``requests``, ``events``, ``bytes``, ``exports``.

Each process counts in memory, and adds what it has counted to the database once a second, which tells it what all
processes have counted. So an account may exceed a limit by what the other processes let pass within about a second, and
never by anything that this process has counted itself. A process that is killed loses what it has counted since; one
that stops in order loses nothing. Without the database, counting goes on in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import msgspec
import psycopg

from kernel.db.pool import Database
from kernel.db.queries import load_queries
from kernel.errors import QuotaExceededError, UnavailableError
from kernel.identity import Identity, acting_as, current_identity
from kernel.limits.rates import Rate, RateState
from kernel.logging import Logger

QUERIES = load_queries(__package__)
UNITS = ("requests", "events", "bytes", "exports")
FLUSH_S = 1.0
_DAY_S = 86_400
_EPOCH = date(1970, 1, 1)
_KEPT_DAYS = 400
# A frozen database keeps a request no longer than this, and the time in which it should have given up.
_TIMEOUT_S = 1.0
# Account, days since 1970, unit.
_Key = tuple[int, int, str]


class UnitUsage(msgspec.Struct, frozen=True):
    """What an account uses of one unit.

    Args:
        used: On that day so far.
        limit: What its plan allows a day; None for no limit.
    """

    used: int
    limit: int | None


class DayUsage(msgspec.Struct, frozen=True):
    """What an account uses on one day.

    Args:
        day: UTC.
        resets_at: When the day ends, and all limits begin anew.
        units: By unit: ``requests``, ``events``, ``bytes``, ``exports``.
    """

    day: date
    resets_at: datetime
    units: Mapping[str, UnitUsage]


class Reservation(msgspec.Struct):
    """How much of what was reserved is used."""

    used: int = 0


class _Count:
    """A number of one account, day and unit."""

    __slots__ = ("pending", "sending", "shared")

    def __init__(self, shared: int) -> None:
        # What the database had when it was last asked, what is on its way there, and what was counted since.
        self.shared = shared
        self.sending = 0
        self.pending = 0

    @property
    def unwritten(self) -> int:
        return self.sending + self.pending


class Usage:
    """Counts what accounts use, and refuses what their plans do not allow. In mode ``open``, nothing is counted.

    Args:
        db: Connection pool.
        log: Gets a line when counts cannot be stored, and when they can again.
        now: The clock.
    """

    def __init__(self, db: Database, log: Logger, now: Callable[[], datetime]) -> None:
        self._db = db
        self._log = log
        self._now = now
        self._counts: dict[_Key, _Count] = {}
        self._lock = threading.Lock()
        self._flush_lock = threading.Lock()
        self._is_away = False
        self._refused = 0

    # --- counting ---------------------------------------------------------------------------------------------------

    def add(self, unit: str, number: int) -> None:
        """Count something for the account of the current request or job. Outside of these, do nothing.

        Call it before the work: what is refused is not counted.

        Args:
            unit: ``requests``, ``events``, ``bytes`` or ``exports``.
            number: How much.

        Raises:
            QuotaExceededError: With it, the account would use more than its plan allows today.
        """
        identity = current_identity()
        if identity is not None:
            self.add_for(identity, unit, number)

    @contextmanager
    def reserve(self, unit: str, number: int) -> Iterator[Reservation]:
        """Count something before work that may use less of it; what the block does not say is used is given back.

        Example::

            with services.usage.reserve("events", len(batch)) as events:
                events.used = store(batch)

        Raises:
            QuotaExceededError: As of ``add``.
        """
        self.add(unit, number)
        reservation = Reservation()
        try:
            yield reservation
        finally:
            if reservation.used < number:
                self.add(unit, reservation.used - number)

    def add_for(self, identity: Identity, unit: str, number: int) -> None:
        """Count something for an account; as ``add``. Staff that acts for an account uses nothing of its plan."""
        account = identity.account
        is_another = identity.own_account is not None and identity.own_account != account
        if account is None or is_another or identity.scheme == "open":
            return
        now_s = self._now().timestamp()
        day = int(now_s // _DAY_S)
        limit = identity.limits.get(unit)
        key = (account, day, unit)
        count = self._counts.get(key) or self._begin(key, is_limited=limit is not None)
        with self._lock:
            used = count.shared + count.sending + count.pending
            if limit is None or number < 0 or used + number <= limit:
                count.pending += number
                return
            self._refused += 1
        reset_s = max(1, int((day + 1) * _DAY_S - now_s))
        state = RateState(unit, Rate(limit, _DAY_S), max(0, limit - used), reset_s)
        raise QuotaExceededError(unit, limit=limit, used=used, reset_s=reset_s, headers=state.headers())

    def _begin(self, key: _Key, *, is_limited: bool) -> _Count:
        """Return the count of something that this process counts for the first time on a day."""
        account, day, unit = key
        shared = 0
        if is_limited and not self._is_away:
            try:
                shared = self._read(account, _date(day)).get(unit, 0)
            except (UnavailableError, psycopg.Error) as ex:
                self._note_away(ex)
        with self._lock:
            return self._counts.setdefault(key, _Count(shared))

    def _read(self, account: int, day: date) -> dict[str, int]:
        with self._db.connection(timeout_s=_TIMEOUT_S) as connection:
            return dict(connection.execute(QUERIES["find_usage"], {"account": account, "day": day}).fetchall())

    # --- reading ----------------------------------------------------------------------------------------------------

    def show(self, account: int, limits: Mapping[str, int], day: date | None = None) -> DayUsage:
        """Return what an account uses on a day: what is stored, and what this process has counted since.

        Args:
            account: Its number.
            limits: What its plan allows a day, by unit.
            day: UTC; today by default.

        Raises:
            UnavailableError: The database is unavailable.
        """
        day = day or self._now().astimezone(UTC).date()
        number = (day - _EPOCH).days
        with acting_as(None):
            stored = self._read(account, day)
        with self._lock:
            unwritten = {
                unit: self._counts[account, number, unit].unwritten
                for unit in UNITS
                if (account, number, unit) in self._counts
            }
        units = {unit: UnitUsage(stored.get(unit, 0) + unwritten.get(unit, 0), limits.get(unit)) for unit in UNITS}
        return DayUsage(day, datetime.combine(day + timedelta(days=1), time(), UTC), units)

    def days(self, account: int, first: date, last: date) -> Mapping[date, Mapping[str, int]]:
        """Return what an account has used on each day from the first to the last, as far as it is stored, by unit.

        Raises:
            UnavailableError: The database is unavailable.
        """
        values = {"account": account, "first": first, "last": last}
        return self._read_by_unit("list_usage", values)

    def heaviest(self, day: date, unit: str, limit: int) -> Mapping[int, Mapping[str, int]]:
        """Return what those accounts use on a day that use most of a unit, most first: stored numbers, by unit.

        Raises:
            UnavailableError: The database is unavailable.
        """
        values = {"day": day, "unit": unit, "limit": limit}
        found = self._read_by_unit("list_heaviest", values)
        return dict(sorted(found.items(), key=lambda each: -each[1].get(unit, 0)))

    def _read_by_unit(self, query: str, values: Mapping[str, Any]) -> dict[Any, dict[str, int]]:
        """Return what a query finds of all accounts: what is used by unit, by its first column."""
        found: dict[Any, dict[str, int]] = {}
        with acting_as(None), self._db.connection() as connection:
            for key, unit, used in connection.execute(QUERIES[query], values):
                found.setdefault(key, {})[unit] = used
        return found

    def statistics(self) -> dict[str, int]:
        """Return how many requests were refused."""
        return {"quota_refused": self._refused}

    # --- storing ----------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Add what was counted to what is stored.

        Raises:
            UnavailableError: The database is unavailable. What was counted is kept for the next time.
        """
        today = int(self._now().timestamp() // _DAY_S)
        with self._flush_lock:
            with self._lock:
                for key in [key for key, count in self._counts.items() if key[1] < today and not count.unwritten]:
                    del self._counts[key]
                taken = {key: count for key, count in self._counts.items() if count.pending}
                for count in taken.values():
                    count.sending, count.pending = count.pending, 0
            if not taken:
                return
            stored: dict[_Key, int] = {}
            try:
                stored = self._store({key: count.sending for key, count in taken.items()})
            finally:
                with self._lock:
                    for key, count in taken.items():
                        if key in stored:
                            count.shared = stored[key]
                        else:
                            count.pending += count.sending
                        count.sending = 0

    def _store(self, numbers: Mapping[_Key, int]) -> dict[_Key, int]:
        values = {
            "accounts": [account for account, _, _ in numbers],
            "days": [_date(day) for _, day, _ in numbers],
            "units": [unit for _, _, unit in numbers],
            "used": list(numbers.values()),
        }
        with acting_as(None), self._db.connection() as connection:
            rows = connection.execute(QUERIES["add_usage"], values).fetchall()
        return {(account, (day - _EPOCH).days, unit): used for account, day, unit, used in rows}

    def remove_old(self) -> None:
        """Remove what was used more than 400 days ago.

        Raises:
            UnavailableError: The database is unavailable.
        """
        with acting_as(None), self._db.connection() as connection:
            connection.execute(
                QUERIES["remove_old_usage"], {"before": self._now().astimezone(UTC).date() - timedelta(days=_KEPT_DAYS)}
            )

    def _note_away(self, error: Exception) -> None:
        if not self._is_away:
            self._is_away = True
            self._log.warning("usage_not_stored", reason=str(getattr(error, "detail", None) or error))

    def try_flush(self) -> None:
        """Flush; log what fails."""
        try:
            self.flush()
        except (UnavailableError, psycopg.Error) as ex:
            self._note_away(ex)
        else:
            if self._is_away:
                self._is_away = False
                self._log.info("usage_stored")


def _date(day: int) -> date:
    return _EPOCH + timedelta(days=day)
