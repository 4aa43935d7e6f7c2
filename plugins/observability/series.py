"""The dictionary of series: texts to numbers, remembered in each process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kernel import Cache, Database
from plugins.observability.queries import QUERIES

SeriesKey = tuple[str, str, str]
LOCAL_ACCOUNT = 0


class SeriesDictionary:
    """Numbers of series by (service, endpoint, method). A series is never removed, so a number stays true.

    Args:
        db: Where the dictionary stands.
        cache: Remembers what was looked up.
    """

    def __init__(self, db: Database, cache: Cache[SeriesKey, int]) -> None:
        self._db = db
        self._cache = cache

    def number(self, keys: Iterable[SeriesKey], account: int = LOCAL_ACCOUNT) -> dict[SeriesKey, int]:
        """Return the number of each series, making those that are new.

        Raises:
            UnavailableError: The database cannot be asked.
        """
        known: dict[SeriesKey, int] = {}
        missing: list[SeriesKey] = []
        for key in keys:
            number = self._cache.get(key)
            if number is None:
                missing.append(key)
            else:
                known[key] = number
        if missing:
            found = self._look_up(missing, account)
            for key, number in found.items():
                self._cache.set(key, number)
            known |= found
        return known

    def _look_up(self, keys: list[SeriesKey], account: int) -> dict[SeriesKey, int]:
        found: dict[SeriesKey, int] = {}
        with self._db.connection() as connection:
            for query in (None, "insert_series"):
                missing = [key for key in keys if key not in found]
                if not missing:
                    break
                services, endpoints, methods = zip(*missing, strict=True)
                given: dict[str, Any] = {
                    "account": account,
                    "services": list(services),
                    "endpoints": list(endpoints),
                    "methods": list(methods),
                }
                if query is not None:
                    connection.execute(QUERIES[query], given)
                rows = connection.execute(QUERIES["find_series"], given)
                found |= {(service, endpoint, method): number for number, service, endpoint, method in rows}
        return found
