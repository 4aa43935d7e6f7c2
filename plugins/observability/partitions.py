"""Native partitions of the table of events, created when the first event of a day arrives.

What happens to an event whose day has no partition: writers call ``Partitions.ensure`` first, which creates it
(``observability.ensure_partitions`` in migration 0001 decides how much time it covers). If the partition was dropped
since this process saw it, the write fails with ``MissingPartitionError``; the writer calls ``forget`` and tries
again. A hypertable creates its chunks itself, but those of long ago are made first, with more time in each
(``observability.ensure_days`` in migration 0018).
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from datetime import timedelta

import psycopg

from kernel import Database
from plugins.observability.event_ids import EPOCH
from plugins.observability.queries import QUERIES
from plugins.observability.timescale import is_hypertable

DAY_US = 86_400_000_000
# At a time, for which locks should suffice.
PARALLEL_QUESTIONS = 4
# Of what is there once: the tables above partitions or chunks, the views, the dictionary of series, and their indexes.
OTHER_LOCKS = 60
# "no partition of relation found for row" is reported as a check violation.
MissingPartitionError = psycopg.errors.CheckViolation


class Partitions:
    """Creates missing partitions, and remembers which days have one.

    Args:
        db: The database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._known: frozenset[int] = frozenset()
        self._lock = threading.Lock()

    def ensure(self, days: Collection[int]) -> None:
        """Create the partitions that some days need and that do not exist yet.

        Args:
            days: Days since 1970, UTC.

        Raises:
            UnavailableError: The database cannot be reached.
        """
        missing = set(days) - self._known
        if not missing:
            return
        dates = [(EPOCH + timedelta(days=day)).date() for day in sorted(missing)]
        with self._db.connection() as connection:
            connection.execute(QUERIES["ensure_partitions"], {"days": dates})
        with self._lock:
            self._known |= missing

    def describe_locks(self, questions: int = PARALLEL_QUESTIONS) -> str | None:
        """Return what is wrong if the server's locks are too few for questions about all time, or None.

        Args:
            questions: How many are asked at the same time.
        """
        partitions, locks = self.measure_locks()
        with self._db.connection() as connection:
            ((locks_max,),) = connection.execute(QUERIES["locks_max"])
        if questions * locks <= locks_max:
            return None
        return (
            f"{partitions:,} partitions or chunks: {questions} questions without a time need {questions * locks:,}"
            f" locks, and the server has {locks_max:,}; raise max_locks_per_transaction"
        )

    def measure_locks(self) -> tuple[int, int]:
        """Return how many partitions or chunks there are, and how many locks a question takes at most."""
        with self._db.connection() as connection:
            query = "measure_chunk_locks" if is_hypertable(connection) else "measure_partition_locks"
            ((partitions, locks),) = connection.execute(QUERIES[query])
        return partitions, locks + OTHER_LOCKS

    def forget(self) -> None:
        """Forget which days have a partition, after one that this process knew was dropped."""
        with self._lock:
            self._known = frozenset()
