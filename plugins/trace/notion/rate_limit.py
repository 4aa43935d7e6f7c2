"""Stay within Notion's rate limit: one request budget for all processes with the same token, kept in the database."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from kernel import Database, Secret, load_queries
from plugins.trace.notion.errors import NotionError

QUERIES = load_queries("plugins.trace")
_WINDOW_S = 60.0
# A shorter sleep is not worth another query.
_SLEEP_MIN_S = 0.001
# A pause holds for all processes and survives restarts, so a wrong Retry-After must not stop them for longer.
PAUSE_MAX_S = 86_400.0


class RateLimiter:
    """Paces requests with bursts, and never lets more than ``per_minute`` through in any minute.

    A generic cell rate algorithm (ITU-T I.371) whose one number, the theoretical arrival time of the next request, is
    a row of ``trace.request_budget``.

    Args:
        db: Holds the row.
        token: Whose budget it is; stored as a digest.
        per_minute: The most requests in any minute. Notion counts by the minute, so a burst has to be saved up for.
        burst: The most requests at once after a rest; capped at half of ``per_minute``.
        sleep: Called with the seconds to wait; may raise to give up.
        wait_max_s: Raise instead of waiting longer.
    """

    def __init__(
        self,
        db: Database,
        token: Secret,
        *,
        per_minute: int,
        burst: int,
        sleep: Callable[[float], None],
        wait_max_s: float,
    ) -> None:
        self._db = db
        self._sleep = sleep
        burst = min(burst, max(1, per_minute // 2))
        interval_s = _WINDOW_S / (per_minute - burst + 1)
        self._wait_max_s = max(wait_max_s, interval_s)
        self._parameters = {
            "name": hashlib.sha256(token.reveal().encode()).digest(),
            "interval_s": interval_s,
            "ahead_s": interval_s * (burst - 1),
        }

    def acquire(self) -> None:
        """Wait until one request may be sent.

        Raises:
            NotionError: Notion asked for a pause of more than ``wait_max_s``.
        """
        self._sleep(0.0)
        while (wait_s := self._try_acquire()) is not None:
            if wait_s > self._wait_max_s:
                raise NotionError("rate_limited", f"rate limited by Notion for another {wait_s:,.0f} s", retry=True)
            self._sleep(max(wait_s, _SLEEP_MIN_S))

    def pause(self, seconds: float) -> None:
        """Pause all requests for some seconds, a day at most, because Notion asked for it."""
        with self._db.connection() as connection:
            connection.execute(QUERIES["pause_requests"], {**self._parameters, "pause_s": min(seconds, PAUSE_MAX_S)})

    def wait_s(self) -> float:
        """Return in how many seconds a request may be sent; 0 or less if one may be sent now."""
        with self._db.connection() as connection:
            row = connection.execute(QUERIES["read_request_wait_s"], self._parameters).fetchone()
        return 0.0 if row is None else float(row[0])

    def _try_acquire(self) -> float | None:
        """Acquire one request from the budget; return None, or the seconds until there is one."""
        with self._db.connection() as connection:
            if connection.execute(QUERIES["acquire_request"], self._parameters).fetchone() is not None:
                return None
        return self.wait_s()
