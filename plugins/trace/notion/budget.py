"""One budget of requests for everybody who has the same token: kept in the database."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from kernel import Database, Secret, load_queries
from plugins.trace.notion.errors import NotionError

QUERIES = load_queries(__package__)
_WINDOW_S = 60.0
# Less is not worth a sleep, nor a question to the database.
_WAIT_MIN_S = 0.001
# A pause holds for everybody and outlives a restart: of one that is longer somebody has made a mistake.
PAUSE_MAX_S = 86_400.0


class RequestBudget:
    """Lets requests through at a pace, with bursts; all processes together, and never more than so many in a minute.

    A generic cell rate algorithm (ITU-T I.371) whose one number, when the next request would be due at the even pace,
    is a row of a table.

    Args:
        db: Holds the row.
        token: Whose budget it is; kept as a digest.
        per_minute: How many in any minute. Notion counts by the minute: a burst has to be saved up for.
        burst: How many may come at once after a rest; half of a minute's at most.
        wait: Sleeps; may raise to give up.
        wait_max_s: Whoever would have to wait longer is told so, and does not wait.
    """

    def __init__(
        self,
        db: Database,
        token: Secret,
        *,
        per_minute: int,
        burst: int,
        wait: Callable[[float], None],
        wait_max_s: float,
    ) -> None:
        self._db = db
        self._wait = wait
        burst = min(burst, max(1, per_minute // 2))
        interval_s = _WINDOW_S / (per_minute - burst + 1)
        self._wait_max_s = max(wait_max_s, interval_s)
        self._values = {
            "name": hashlib.sha256(token.reveal().encode()).digest(),
            "interval_s": interval_s,
            "ahead_s": interval_s * (burst - 1),
        }

    def take(self) -> None:
        """Wait for the turn of one request.

        Raises:
            NotionError: Notion asked for a pause that is longer than we wait.
        """
        self._wait(0.0)
        while (wait_s := self._try()) is not None:
            if wait_s > self._wait_max_s:
                raise NotionError("limited", f"Notion wants no requests for another {wait_s:,.0f} s", retry=True)
            self._wait(max(wait_s, _WAIT_MIN_S))

    def pause(self, seconds: float) -> None:
        """Let nobody through for a while, a day at most: Notion asked for it."""
        with self._db.connection() as connection:
            connection.execute(QUERIES["pause"], {**self._values, "pause_s": min(seconds, PAUSE_MAX_S)})

    def _try(self) -> float | None:
        with self._db.connection() as connection:
            if connection.execute(QUERIES["take"], self._values).fetchone() is not None:
                return None
            row = connection.execute(QUERIES["read_wait_s"], self._values).fetchone()
        return 0.0 if row is None else float(row[0])
