"""The dictionary of series: texts to numbers, remembered in each process, and no more of them than an account may have.

An account has at most ``own_max`` series that are its senders' own. An event of a further one goes to the first of
these that has room, and keeps in its tags what that does not tell:

- ``__other__`` of the same service and method: a tenth of ``own_max``, at least 100;
- ``__other__`` of service ``__other__`` and the same method: 50;
- ``__other__`` in all three, which always fits.

The limits hold exactly, however many processes write: whoever makes series of an account counts them under a lock.
Nobody takes it for series that exist, nor once a process has seen that there is no room.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import msgspec
from psycopg import Connection

from kernel import Cache, Database
from plugins.observability.model import ENDPOINT_MAX, INT32_MAX
from plugins.observability.originals import keep
from plugins.observability.queries import QUERIES
from plugins.observability.templates import Templates

SeriesKey = tuple[str, str, str]
LOCAL_ACCOUNT = 0
OTHER = "__other__"
METHODS_MAX = 50
_LAST_KIND = 2


class Numbered(msgspec.Struct, frozen=True):
    """Numbers of series, and which of them stand in for others.

    Args:
        numbers: By the key that was asked for.
        changed: The series an event of a key goes to, where that is another one.
        capped: The keys for which there was no room.
    """

    numbers: dict[SeriesKey, int]
    changed: dict[SeriesKey, SeriesKey]
    capped: frozenset[SeriesKey]

    def tags(self, key: SeriesKey, tags: bytes) -> bytes:
        """Return the tags of an event of a key: JSON, with what its series does not tell."""
        series = self.changed.get(key)
        if series is None:
            return tags
        before = dict(zip(("service", "path", "method"), key, strict=True))
        after = dict(zip(before, series, strict=True))
        return keep(tags, {name: text for name, text in before.items() if after[name] != text})


class SeriesDictionary:
    """Numbers of series by (service, endpoint, method). A series is never removed, so a number stays true.

    Args:
        db: Where the dictionary stands.
        cache: Remembers what was looked up.
        own_max: How many series an account may have, those of ``__other__`` apart.
    """

    def __init__(self, db: Database, cache: Cache[SeriesKey, int], own_max: int) -> None:
        self._db = db
        self._cache = cache
        self._levels_max = (own_max, max(100, own_max // 10), METHODS_MAX, INT32_MAX)
        # Pairs of account and level. Series are never removed, so what is full stays full.
        self._full: frozenset[tuple[int, int]] = frozenset()

    def number(
        self, keys: Iterable[SeriesKey], templates: Templates | None = None, account: int = LOCAL_ACCOUNT
    ) -> Numbered:
        """Return the number of each series, making those that are new and have room.

        Args:
            keys: Blanks cut.
            templates: Applied to the endpoints.
            account: Whose series.

        Raises:
            UnavailableError: The database cannot be asked.
        """
        asked = set(keys)
        changed = _templated(asked, templates) if templates is not None else {}
        numbers, stand_ins = self._number({changed.get(key, key) for key in asked} if changed else asked, account)
        if not changed and not stand_ins:
            return Numbered(numbers, {}, frozenset())
        final = {key: changed.get(key, key) for key in asked}
        capped = frozenset(key for key in asked if final[key] in stand_ins)
        final = {key: stand_ins.get(series, series) for key, series in final.items()}
        return Numbered(
            {key: numbers[series] for key, series in final.items()},
            {key: series for key, series in final.items() if series != key},
            capped,
        )

    def _number(
        self, keys: Iterable[SeriesKey], account: int
    ) -> tuple[dict[SeriesKey, int], dict[SeriesKey, SeriesKey]]:
        """Return numbers by series, and the series that stand in for those that have none."""
        asked = set(keys)
        numbers = self._cache.get_many(asked)
        missing: Collection[SeriesKey] = asked - numbers.keys()
        stand_ins: dict[SeriesKey, SeriesKey] = {}
        for level in range(len(self._levels_max)):
            if not missing:
                break
            places = {key: _stand_in(key, level) for key in missing}
            # Who sends "__other__" as an endpoint waits for the level that counts it.
            ready = {series for series in places.values() if _kind(series) == min(level, _LAST_KIND)}
            found = self._find_or_make(ready, level, account) if ready else {}
            for series, number in found.items():
                self._cache.set(series, number)
            numbers |= found
            stand_ins |= {key: series for key, series in places.items() if series in found and series != key}
            missing = [key for key in missing if places[key] not in found]
        return numbers, stand_ins

    def _find_or_make(self, keys: set[SeriesKey], level: int, account: int) -> dict[SeriesKey, int]:
        with self._db.connection() as connection:
            found = _find(connection, keys, account)
        missing = keys - found.keys()
        if not missing or (account, level) in self._full:
            return found
        limits = {"kind": min(level, _LAST_KIND), "items_max": self._levels_max[level], "other": OTHER}
        with self._db.transaction() as connection:
            connection.execute(QUERIES["lock_series"], {"account": account})
            connection.execute(QUERIES["insert_series"], {**_columns(missing, account), **limits})
            found |= _find(connection, missing, account)
        if len(found) < len(keys):
            self._full |= {(account, level)}
        return found


def _columns(keys: Iterable[SeriesKey], account: int) -> dict[str, Any]:
    services, endpoints, methods = zip(*keys, strict=True)
    return {"account": account, "services": list(services), "endpoints": list(endpoints), "methods": list(methods)}


def _find(connection: Connection[tuple[Any, ...]], keys: Iterable[SeriesKey], account: int) -> dict[SeriesKey, int]:
    rows = connection.execute(QUERIES["find_series"], _columns(keys, account))
    return {(service, endpoint, method): number for number, service, endpoint, method in rows}


def _templated(keys: Iterable[SeriesKey], templates: Templates) -> dict[SeriesKey, SeriesKey]:
    changed: dict[SeriesKey, SeriesKey] = {}
    for service, endpoint, method in keys:
        template = templates.apply(endpoint)
        if template != endpoint:
            # Names may be longer than what they stand for.
            changed[service, endpoint, method] = (service, template[:ENDPOINT_MAX].strip(), method)
    return changed


def _kind(series: SeriesKey) -> int:
    """Return which of the limits counts a series; ``insert_series`` counts the same way."""
    service, endpoint, _ = series
    return int(endpoint == OTHER) + int(endpoint == service == OTHER)


def _stand_in(key: SeriesKey, level: int) -> SeriesKey:
    service, _, method = key
    return (key, (service, OTHER, method), (OTHER, OTHER, method), (OTHER, OTHER, OTHER))[level]
