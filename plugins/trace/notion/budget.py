"""One budget of requests for everybody who has the same token: kept in the database, first come, first served."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from kernel import Database, Secret, load_queries

QUERIES = load_queries(__package__)


class RequestBudget:
    """Lets requests through at a rate, with bursts; all processes together.

    A generic cell rate algorithm (ITU-T I.371) whose one number, when the next request would be due at the even pace,
    is a row of a table.

    Args:
        db: Holds the row.
        token: Whose budget it is; kept as a digest.
        per_minute: The rate.
        burst: How many may come at once after a rest.
        wait: Sleeps; may raise to give up.
    """

    def __init__(
        self, db: Database, token: Secret, *, per_minute: int, burst: int, wait: Callable[[float], None]
    ) -> None:
        self._db = db
        self._wait = wait
        interval_s = 60.0 / per_minute
        self._values = {
            "name": hashlib.sha256(token.reveal().encode()).digest(),
            "interval_s": interval_s,
            "ahead_s": interval_s * (burst - 1),
        }

    def take(self) -> None:
        """Wait for the turn of one request."""
        with self._db.transaction() as connection:
            row = connection.execute(QUERIES["take"], self._values).fetchone()
        if row is not None and row[0] > 0:
            self._wait(row[0])

    def pause(self, seconds: float) -> None:
        """Let nobody through for a while: Notion asked for it."""
        with self._db.transaction() as connection:
            connection.execute(QUERIES["pause"], {**self._values, "pause_s": seconds})
