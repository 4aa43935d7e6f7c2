"""Where hits are counted: the storages of the library ``limits``, and one in PostgreSQL, which it does not have.

Import this module only where throttles are on: the library takes a quarter of a second to import.
"""

from __future__ import annotations

import psycopg
from limits.errors import ConfigurationError
from limits.storage import MemoryStorage, Storage, storage_from_string

from kernel.db.pool import Database
from kernel.db.queries import load_queries
from kernel.errors import BootError, UnavailableError

QUERIES = load_queries(__package__)
_REDIS_TIMEOUT_S = 1.0
# A frozen database keeps a request no longer than this, and the time in which it should have given up.
_POSTGRES_TIMEOUT_S = 1.0


class PostgresStorage(Storage):
    """Counts in a table that all workers and machines share; adding hits is one statement.

    Args:
        db: Connection pool.
    """

    STORAGE_SCHEME = None

    def __init__(self, db: Database) -> None:
        super().__init__(wrap_exceptions=True)
        self._db = db

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """What its methods raise as ``limits.errors.StorageError``."""
        return (UnavailableError, psycopg.Error)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add hits, and return how many there are now.

        Args:
            key: What is counted.
            expiry: Seconds after which a new key begins again at 0.
            amount: Hits.
        """
        with self._db.connection(timeout_s=_POSTGRES_TIMEOUT_S) as connection:
            row = connection.execute(QUERIES["add_hits"], {"key": key, "hits": amount, "expiry_s": expiry}).fetchone()
        return 0 if row is None else int(row[0])

    def get(self, key: str) -> int:
        """Return how many hits there are."""
        found = self._find(key)
        return 0 if found is None else int(found[0])

    def get_expiry(self, key: str) -> float:
        """Return when a key begins again at 0, in seconds since 1970; 0 if there is none."""
        found = self._find(key)
        return 0.0 if found is None else float(found[1])

    def _find(self, key: str) -> tuple[int, float] | None:
        with self._db.connection() as connection:
            row = connection.execute(QUERIES["find_hits"], {"key": key}).fetchone()
        return None if row is None else (row[0], row[1])

    def check(self) -> bool:
        """Tell whether the database answers."""
        try:
            self._db.ping()
        except UnavailableError:
            return False
        return True

    def reset(self) -> int:
        """Forget all hits, and return of how many keys."""
        with self._db.connection() as connection:
            return connection.execute(QUERIES["clear_all_hits"]).rowcount

    def clear(self, key: str) -> None:
        """Forget the hits of a key."""
        with self._db.connection() as connection:
            connection.execute(QUERIES["clear_hits"], {"key": key})


def make_storage(backend: str, db: Database) -> Storage:
    """Return the storage of a setting: ``database``, ``memory``, or the URL of a server of Redis or Valkey.

    Raises:
        BootError: The URL is wrong, or its client is not installed.
    """
    if backend == "database":
        return PostgresStorage(db)
    if backend == "memory":
        return MemoryStorage()
    options = {"socket_timeout": _REDIS_TIMEOUT_S, "socket_connect_timeout": _REDIS_TIMEOUT_S}
    try:
        storage = storage_from_string(backend, wrap_exceptions=True, **options)
    except (ConfigurationError, ValueError) as ex:
        kind = "valkey" if backend.startswith("valkey") else "redis"
        # Without the URL, which may have a password.
        raise BootError(f"throttle.backend: {kind} cannot be used; is tiercel[{kind}] installed?") from ex
    if not isinstance(storage, Storage):
        raise BootError("throttle.backend: it cannot be used from threads")
    return storage
