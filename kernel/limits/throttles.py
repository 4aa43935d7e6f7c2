"""Throttles: how many requests of a kind a caller may send in a window of time.

Every route that is not public has a scope: ``read``, ``write``, ``ingest``, or one that it names, such as ``export``.
In each scope, the requests of a caller are counted in windows that begin when the clock is a multiple of their length.

A storage that all workers share counts them, and a round trip to it for every request would cost more than many
requests do. So a worker takes a **lease** of hits, in one atomic step that adds them to the shared number, and uses
them up in its own memory. What was there before the lease tells how much of it is within the limit, hence:

- The limit is never exceeded, whatever the number of workers and machines, as long as their clocks agree. Around the
  change of a window, clocks that differ by d allow d more of the next one.
- Hits that one worker has leased are lost to the others until the window ends, so that a caller may be refused early. A
  lease is no larger than what this worker has used already in the window, nor than a tenth of what was left of the
  limit: it begins with single hits, doubles while a caller is busy, and shrinks again to single hits at the end.
- A request within a lease needs no round trip: of 1,000 a minute, about 60 do.

A storage that is away limits nobody: requests pass without waiting for it, a thread of the process tries it again every
second, and the health check ``throttle`` tells.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from kernel.db.pool import Database
from kernel.db.queries import load_queries
from kernel.errors import BootError, ThrottledError
from kernel.limits.rates import Rate, RateState, parse_rate
from kernel.logging import Logger
from kernel.settings import DEFAULT_RATES, Settings

if TYPE_CHECKING:
    from limits.storage import Storage

QUERIES = load_queries(__package__)
_LEASE_FRACTION = 10
_LEASE_MAX = 1000
# Callers that are remembered; the hits that a forgotten one has leased are lost.
_WINDOWS_MAX = 20_000
# What is counted is kept a little longer than its window, because clocks differ.
_EXPIRY_GRACE_S = 5
# Counts nothing: whether it can be written is whether hits can.
_PROBE_KEY = "probe"
_PROBE_EXPIRY_S = 60
_UNLIMITED = "requests are not limited"


class _Window:
    """What this process knows of one caller in one window."""

    __slots__ = ("ends_at", "leased", "leasing", "shared", "taken")

    def __init__(self, ends_at: float) -> None:
        self.ends_at = ends_at
        # Held while a lease is taken: others wait for it, so that not each of them has one left over.
        self.leasing = threading.Lock()
        # Hits to use up here; all that this process ever leased; and what all processes leased, as far as is known.
        self.leased = 0
        self.taken = 0
        self.shared = 0

    def use_hit(self) -> bool:
        if self.leased == 0:
            return False
        self.leased -= 1
        return True

    def lease_size(self, limit: int) -> int:
        return max(1, min(self.taken, (limit - self.shared) // _LEASE_FRACTION, _LEASE_MAX))

    def add_lease(self, size: int, shared: int, limit: int) -> None:
        granted = max(0, min(size, limit - (shared - size)))
        self.leased += granted
        self.taken += granted
        self.shared = max(self.shared, min(shared, limit))


class Throttles:
    """The throttles of a process.

    Args:
        settings: Of these, ``throttle`` and ``auth``: in mode ``open`` they are off, unless ``throttle.open`` is set.
        db: Connection pool, for the backend ``database``.
        log: Gets a line when the storage is away, and when it is back.
        clock_s: Seconds since 1970.
    """

    def __init__(self, settings: Settings, db: Database, log: Logger, clock_s: Callable[[], float] = time.time) -> None:
        throttle = settings.throttle
        self._rates: Mapping[str, Rate | None] = {name: parse_rate(text) for name, text in throttle.all_rates.items()}
        self.is_on = settings.auth == "required" or throttle.open
        self._backend = "database" if throttle.backend is None else throttle.backend.reveal()
        self._db = db
        self._log = log
        self._clock_s = clock_s
        self._storage: Storage | None = None
        self._windows: dict[tuple[str, str], _Window] = {}
        self._lock = threading.Lock()
        self._is_away = False
        self._leases = self._refused = self._passed = 0
        # Of requests: allowed and refused, by scope.
        self._outcomes: dict[str, list[int]] = {}

    def open(self) -> None:
        """Open the storage, if throttles are on: before the process serves requests.

        Raises:
            BootError: The storage cannot be used.
        """
        if not self.is_on or self._storage is not None:
            return
        from kernel.limits.storage import make_storage

        self._storage = make_storage(self._backend, self._db)

    def unmatched(self, scopes: Iterable[str]) -> set[str]:
        """Return the scopes that the settings give a rate, but that no route has."""
        return self._rates.keys() - DEFAULT_RATES.keys() - set(scopes)

    def hit(self, scope: str, caller: str, rate_as: str = "") -> RateState | None:
        """Count a request, and return what is left after it; None if it is not limited, or the storage is away.

        Args:
            scope: Scope of its route.
            caller: Who sends it, such as ``key 12``.
            rate_as: The scope whose rate this one has, if it has none.

        Raises:
            ThrottledError: It is beyond the limit.
        """
        rate = self._rates[scope] if scope in self._rates else self._rates.get(rate_as)
        if rate is None:
            return None
        now = self._clock_s()
        with self._lock:
            outcomes = self._outcomes.get(scope) or self._outcomes.setdefault(scope, [0, 0])
            window = self._window(scope, caller, rate, now)
            is_allowed = window.use_hit()
            outcomes[0] += is_allowed
        if not is_allowed and window.shared < rate.limit:
            with window.leasing:
                with self._lock:
                    is_allowed = window.use_hit()
                    outcomes[0] += is_allowed
                    size = 0 if is_allowed or window.shared >= rate.limit else window.lease_size(rate.limit)
                    if size and self._is_away:
                        self._passed += 1
                        return None
                if size:
                    shared = self._add_hits(f"{scope}/{caller}/{window.ends_at:.0f}", rate, size)
                    if shared is None:
                        return None
                    with self._lock:
                        window.add_lease(size, shared, rate.limit)
                        is_allowed = window.use_hit()
                        outcomes[0] += is_allowed
        remaining = max(0, rate.limit - window.shared) + window.leased
        state = RateState(scope, rate, remaining, max(1, math.ceil(window.ends_at - now)))
        if not is_allowed:
            with self._lock:
                self._refused += 1
                outcomes[1] += 1
            raise ThrottledError(scope, retry_after_s=state.reset_s, headers=state.headers())
        return state

    def _window(self, scope: str, caller: str, rate: Rate, now: float) -> _Window:
        windows = self._windows
        window = windows.get((scope, caller))
        if window is None or window.ends_at <= now:
            if len(windows) >= _WINDOWS_MAX:
                self._windows = windows = {key: each for key, each in windows.items() if each.ends_at > now}
                if len(windows) >= _WINDOWS_MAX:
                    windows.clear()
            window = windows[scope, caller] = _Window((now // rate.window_s + 1) * rate.window_s)
        return window

    def _add_hits(self, key: str, rate: Rate, size: int) -> int | None:
        """Take a lease, and return the shared number of hits; None if the storage is away."""
        shared = self._increment(key, rate.window_s + _EXPIRY_GRACE_S, size)
        with self._lock:
            if shared is None:
                self._passed += 1
            else:
                self._leases += 1
        return shared

    def _increment(self, key: str, expiry_s: int, size: int) -> int | None:
        """Add to a number of the storage, and note whether it answers; None if it does not."""
        from limits.errors import StorageError

        if self._storage is None:
            return None
        try:
            shared = self._storage.incr(key, expiry_s, size)
        except StorageError as ex:
            with self._lock:
                is_news, self._is_away = not self._is_away, True
            if is_news:
                self._log.warning("throttle_storage_unavailable", reason=str(ex.__cause__ or ex))
            return None
        with self._lock:
            is_news, self._is_away = self._is_away, False
        if is_news:
            self._log.info("throttle_storage_available")
        return shared

    def try_again(self) -> None:
        """Try a storage that is away. Outside of requests: one that is frozen answers nobody for a second each time."""
        if self._is_away:
            self._increment(_PROBE_KEY, _PROBE_EXPIRY_S, 0)

    def remove_expired(self) -> None:
        """Remove what the database keeps of windows that have ended.

        Raises:
            UnavailableError: The database is unavailable.
        """
        if not self.is_on or self._backend != "database":
            return
        with self._db.connection() as connection:
            connection.execute(QUERIES["remove_expired_hits"])

    def check(self) -> str:
        """Check that the storage answers, as far as requests have found out.

        Raises:
            BootError: It does not.
        """
        if self._is_away:
            raise BootError(f"the storage of throttles is away: {_UNLIMITED}")
        return "on" if self.is_on else "off"

    def probe(self) -> None:
        """Ask the storage whether it answers: for commands, to which no request has told it.

        Raises:
            BootError: It does not.
        """
        if self._storage is not None and not self._storage.check():
            raise BootError(
                f"the storage of throttles, {self._backend.partition('://')[0]}, does not answer: {_UNLIMITED}"
            )

    @property
    def is_away(self) -> bool:
        """Whether the storage is away, as far as requests have found out."""
        return self._is_away

    def outcomes(self) -> dict[str, tuple[int, int]]:
        """Return how many requests were allowed, and how many refused, by scope."""
        with self._lock:
            return {scope: (allowed, refused) for scope, (allowed, refused) in self._outcomes.items()}

    def statistics(self) -> dict[str, int]:
        """Return how many leases were taken, how many requests were refused and passed, and whether any are counted."""
        return {
            "throttle_storage_away": int(self._is_away),
            "throttle_leases": self._leases,
            "throttle_refused": self._refused,
            "throttle_passed_uncounted": self._passed,
        }
