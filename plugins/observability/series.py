"""The dictionary of series: texts to numbers, remembered in each process, and no more of them than an account may have.

An account has at most ``own_max`` series that are its senders' own. An event of a further one goes to the first of
these that has room, and keeps in its tags what that does not tell:

- ``__other__`` of the same service and method: a tenth of ``own_max``, at least 100;
- ``__other__`` of service ``__other__`` and the same method: 50;
- ``__other__`` in all three, which always fits.

The limits hold exactly, however many processes write: whoever makes series of an account counts them under a lock.
Nobody takes it for series that exist, nor once a process has seen that there is no room.

Retention removes series that nothing uses any more. No number is given twice, and each removal begins a new generation:
a process forgets what it remembers of another, and a write under numbers of another is rolled back and done again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from psycopg import Connection

from kernel import Cache, Database, UnavailableError
from plugins.observability.model import ENDPOINT_MAX, INT32_MAX
from plugins.observability.originals import keep
from plugins.observability.queries import QUERIES
from plugins.observability.templates import Templates

SeriesKey = tuple[str, str, str]
LOCAL_ACCOUNT = 0
OTHER = "__other__"
METHODS_MAX = 50
_LAST_KIND = 2
# A removal takes turns with writes: to be overtaken twice in a row is rare.
_TRIES = 10
T = TypeVar("T")


class SeriesRemovedError(UnavailableError):
    """Series were removed since numbers were looked up: these may be among them.

    Args:
        generation: Which it is now.
    """

    def __init__(self, generation: int) -> None:
        super().__init__("series are being removed", retry_after_s=2)
        self.generation = generation


def refuse_removed(row: Sequence[object] | None, generation: int) -> None:
    """Look at what a write returned: the generation, after another value.

    Raises:
        SeriesRemovedError: It is not the one that the numbers of series are of.
    """
    if row is None or not isinstance(row[1], int):
        raise LookupError("no generation")
    if row[1] != generation:
        raise SeriesRemovedError(row[1])


class Numbered(msgspec.Struct, frozen=True):
    """Numbers of series, and which of them stand in for others.

    Args:
        generation: At which they are true.
        numbers: By the key that was asked for.
        changed: The series an event of a key goes to, where that is another one.
        capped: The keys for which there was no room.
    """

    generation: int
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
    """Numbers of series by (service, endpoint, method).

    Args:
        db: Where the dictionary stands.
        cache: Remembers what was looked up.
        own_max: How many series an account may have, those of ``__other__`` apart.
    """

    def __init__(self, db: Database, cache: Cache[SeriesKey, int], own_max: int) -> None:
        self._db = db
        self._cache = cache
        self._levels_max = (own_max, max(100, own_max // 10), METHODS_MAX, INT32_MAX)
        # All of one generation. Pairs of account and level: what is full stays full in it.
        self._full: frozenset[tuple[int, int]] = frozenset()
        self._generation = -1
        self._lock = threading.Lock()

    def write(
        self,
        keys: Iterable[SeriesKey],
        write: Callable[[Numbered], T],
        templates: Templates | None = None,
        account: int = LOCAL_ACCOUNT,
    ) -> T:
        """Number series, making those that are new and have room, and write under these numbers.

        Args:
            keys: Blanks cut.
            write: A whole transaction, which raises ``SeriesRemovedError`` at another generation. Then it comes again.
            templates: Applied to the endpoints.
            account: Whose series.

        Raises:
            UnavailableError: The database cannot be asked, or series are being removed faster than this can write.
        """
        asked = set(keys)
        for attempt in range(_TRIES):
            try:
                return write(self._number_asked(asked, templates, account))
            except SeriesRemovedError as ex:
                self._forget(ex.generation)
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError

    def _forget(self, generation: int) -> None:
        with self._lock:
            # In this order: nobody may take what is remembered for something of the new generation.
            self._cache.clear()
            self._full = frozenset()
            self._generation = generation

    def _number_asked(self, asked: set[SeriesKey], templates: Templates | None, account: int) -> Numbered:
        generation = self._generation
        changed = _templated(asked, templates) if templates is not None else {}
        wanted = {changed.get(key, key) for key in asked} if changed else asked
        numbers, stand_ins = self._number(wanted, generation, account)
        if not changed and not stand_ins:
            return Numbered(generation, numbers, {}, frozenset())
        final = {key: changed.get(key, key) for key in asked}
        capped = frozenset(key for key in asked if final[key] in stand_ins)
        final = {key: stand_ins.get(series, series) for key, series in final.items()}
        return Numbered(
            generation,
            {key: numbers[series] for key, series in final.items()},
            {key: series for key, series in final.items() if series != key},
            capped,
        )

    def _number(
        self, asked: set[SeriesKey], generation: int, account: int
    ) -> tuple[dict[SeriesKey, int], dict[SeriesKey, SeriesKey]]:
        """Return numbers by series, and the series that stand in for those that have none."""
        numbers = self._cache.get_many(asked)
        missing: Collection[SeriesKey] = asked - numbers.keys()
        stand_ins: dict[SeriesKey, SeriesKey] = {}
        for level in range(len(self._levels_max)):
            if not missing:
                break
            places = {key: _stand_in(key, level) for key in missing}
            # Who sends "__other__" as an endpoint waits for the level that counts it.
            ready = {series for series in places.values() if _kind(series) == min(level, _LAST_KIND)}
            found = self._find_or_make(ready, level, generation, account) if ready else {}
            numbers |= found
            stand_ins |= {key: series for key, series in places.items() if series in found and series != key}
            missing = [key for key in missing if places[key] not in found]
        return numbers, stand_ins

    def _find_or_make(self, keys: set[SeriesKey], level: int, generation: int, account: int) -> dict[SeriesKey, int]:
        with self._db.connection() as connection:
            found = _find(connection, keys, generation, account)
        missing = keys - found.keys()
        if missing and (account, level) not in self._full:
            found |= self._make(missing, level, generation, account)
        self._remember(found, generation)
        return found

    def _make(self, missing: set[SeriesKey], level: int, generation: int, account: int) -> dict[SeriesKey, int]:
        limits = {"kind": min(level, _LAST_KIND), "items_max": self._levels_max[level], "other": OTHER}
        with self._db.transaction() as connection:
            connection.execute(QUERIES["lock_series"], {"account": account})
            connection.execute(QUERIES["insert_series"], {**_columns(missing, account), **limits})
            made = _find(connection, missing, generation, account)
        if len(made) < len(missing):
            with self._lock:
                if generation == self._generation:
                    self._full |= {(account, level)}
        return made

    def _remember(self, found: dict[SeriesKey, int], generation: int) -> None:
        with self._lock:
            if generation == self._generation:
                for series, number in found.items():
                    self._cache.set(series, number)


def _columns(keys: Iterable[SeriesKey], account: int) -> dict[str, Any]:
    services, endpoints, methods = zip(*keys, strict=True)
    return {"account": account, "services": list(services), "endpoints": list(endpoints), "methods": list(methods)}


def _find(
    connection: Connection[tuple[Any, ...]], keys: Iterable[SeriesKey], generation: int, account: int
) -> dict[SeriesKey, int]:
    rows = connection.execute(QUERIES["find_series"], _columns(keys, account)).fetchall()
    if rows[0][0] != generation:
        raise SeriesRemovedError(rows[0][0])
    return {(service, endpoint, method): number for _, number, service, endpoint, method in rows if number is not None}


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
