"""The dictionary of series: ids for (service, endpoint, method) of an owner, cached, at most so many an account.

Events with a latency and events without one are series apart, so that rollups know of which of their hits they have a
latency (``migrations/0006_absent_latency.sql``). To everybody else, and to the limits below, both are one series.

An account has at most ``series_max`` series of its own. Events of further ones are capped: they go to the first of
these that has room, and the texts that differ are preserved in their tags:

- ``__other__`` of the same service and method: a tenth of ``series_max``, at least 100;
- ``__other__`` of service ``__other__`` and the same method: 50;
- ``__other__`` in all three, which always has room.

The limits hold exactly, however many processes write: series are counted and inserted under a lock of the account.
Nobody takes it for series that exist, nor once a process has seen that a level is full.

Retention removes series that nothing refers to. An id is never reused, and each removal begins a new generation of the
dictionary. A write under the ids of an earlier generation is rolled back with ``SeriesRemovedError``; the writer calls
``SeriesDictionary.forget``, resolves its series again and repeats the write.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from psycopg import Connection

from kernel import Cache, Database, UnavailableError
from kernel.identity import acting_as
from plugins.observability.access import SYSTEM, Owner
from plugins.observability.models import ENDPOINT_MAX, INT32_MAX
from plugins.observability.path_templates import Templates
from plugins.observability.queries import QUERIES

OTHER = "__other__"
METHODS_MAX = 50
_LAST_KIND = 2
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class SeriesKey(NamedTuple):
    """What identifies a series of an owner.

    Args:
        timed: Whether its events have a latency.
    """

    service: str
    endpoint: str
    method: str
    timed: bool = True

    @property
    def texts(self) -> tuple[str, str, str]:
        """Service, endpoint and method."""
        return self[:3]

    @property
    def twin(self) -> SeriesKey:
        """The series of the other events of these texts: those without a latency, or those with one."""
        return self._replace(timed=not self.timed)


class SeriesRemovedError(UnavailableError):
    """Series were removed after their ids were looked up.

    Args:
        generation: The current generation of the dictionary.
    """

    def __init__(self, generation: int) -> None:
        super().__init__("series are being removed", retry_after_s=2)
        self.generation = generation


def ensure_generation(row: Sequence[object] | None, generation: int) -> None:
    """Check what a write returned: the current generation of the dictionary, in the second column.

    Raises:
        SeriesRemovedError: The ids of the series are of another generation.
    """
    if row is None or not isinstance(row[1], int):
        raise LookupError("no generation")
    if row[1] != generation:
        raise SeriesRemovedError(row[1])


class ResolvedSeries(msgspec.Struct, frozen=True):
    """The series that the events of some keys go to.

    Args:
        generation: The generation of the dictionary in which the ids are valid.
        ids: Id of the series, by the key that was asked for.
        substitutes: The series that events go to in place of that of their own key, by key.
        capped: The keys for which there was no room.
    """

    generation: int
    ids: Mapping[SeriesKey, int]
    substitutes: Mapping[SeriesKey, SeriesKey]
    capped: frozenset[SeriesKey]

    def preserve_original(self, key: SeriesKey, tags: bytes) -> bytes:
        """Return the tags of an event of a key, with the texts in which its series differs from the key."""
        series = self.substitutes.get(key)
        if series is None:
            return tags
        names = zip(("service", "path", "method"), key.texts, series.texts, strict=True)
        return preserve_original(tags, {name: text for name, text, substitute in names if text != substitute})


def preserve_original(tags: bytes, originals: Mapping[str, str]) -> bytes:
    """Add texts to tags without changing the members that the sender put there.

    Args:
        tags: A JSON object. Its members are not decoded, so that numbers of any size stay as they were sent.
        originals: Texts by name. To a name that is taken ``_`` is added, unless that member already holds the text, or
            the longer one that was cut to fit an endpoint.
    """
    try:
        members = _MEMBERS.decode(tags)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return tags  # half a surrogate pair in a name: the server will reject the event for it
    for original, text in originals.items():
        name = original
        while name in members and not _holds(members[name], text):
            name += "_"
        if name not in members:
            members[name] = msgspec.Raw(msgspec.json.encode(text))
    return msgspec.json.encode(members)


def _holds(member: msgspec.Raw, text: str) -> bool:
    try:
        held = msgspec.json.decode(member, type=str)
    except msgspec.DecodeError:
        return False
    return text in (held, held[:ENDPOINT_MAX].strip())


class SeriesDictionary:
    """Ids of series.

    Args:
        db: The database.
        cache: Ids that were looked up before.
        series_max: How many series an account may have, those of ``__other__`` apart.
    """

    def __init__(self, db: Database, cache: Cache[tuple[Owner, SeriesKey], int], series_max: int) -> None:
        self._db = db
        self._cache = cache
        self._max_by_level = (series_max, max(100, series_max // 10), METHODS_MAX, INT32_MAX)
        # Cache, generation and the full levels, as pairs of account and level, belong together. A level that is full
        # stays full for its generation.
        self._full: frozenset[tuple[int, int]] = frozenset()
        self._generation = -1
        self._lock = threading.Lock()

    def resolve(
        self, keys: Iterable[SeriesKey], templates: Templates | None = None, owner: Owner = SYSTEM.owner
    ) -> ResolvedSeries:
        """Look up series, and insert those that are new and have room.

        Args:
            keys: Stripped of blanks.
            templates: Applied to the endpoints.
            owner: Whose series.

        Raises:
            SeriesRemovedError: Series were removed: ``forget`` and resolve again.
            UnavailableError: The database cannot be reached.
        """
        asked = set(keys)
        generation = self._generation
        templated = _apply_templates(asked, templates) if templates is not None else {}
        wanted = {templated.get(key, key) for key in asked} if templated else asked
        ids, stand_ins = self._find_or_insert(wanted, generation, owner)
        if not templated and not stand_ins:
            return ResolvedSeries(generation, ids, {}, frozenset())
        targets = {key: templated.get(key, key) for key in asked}
        capped = frozenset(key for key in asked if targets[key] in stand_ins)
        targets = {key: stand_ins.get(series, series) for key, series in targets.items()}
        return ResolvedSeries(
            generation,
            {key: ids[series] for key, series in targets.items()},
            {key: series for key, series in targets.items() if series != key},
            capped,
        )

    def forget(self, generation: int) -> None:
        """Forget the ids of earlier generations.

        Args:
            generation: The current one, from ``SeriesRemovedError``.
        """
        with self._lock:
            # In this order: an id of the old generation must not be taken for one of the new.
            self._cache.clear()
            self._full = frozenset()
            self._generation = generation

    def _find_or_insert(
        self, wanted: set[SeriesKey], generation: int, owner: Owner
    ) -> tuple[dict[SeriesKey, int], dict[SeriesKey, SeriesKey]]:
        """Return ids by series, and what stands in for the series that have none, level by level."""
        cached = self._cache.get_many([(owner, key) for key in wanted])
        ids = {key: number for (_, key), number in cached.items()}
        missing: Collection[SeriesKey] = wanted - ids.keys()
        stand_ins: dict[SeriesKey, SeriesKey] = {}
        for level in range(len(self._max_by_level)):
            if not missing:
                break
            candidates = {key: _stand_in(key, level) for key in missing}
            # A key that names "__other__" itself waits for the level that counts it.
            counted = {series for series in candidates.values() if _kind(series) == min(level, _LAST_KIND)}
            found = self._find_or_insert_level(counted, level, generation, owner) if counted else {}
            ids |= found
            stand_ins |= {key: series for key, series in candidates.items() if series in found and series != key}
            missing = [key for key in missing if candidates[key] not in found]
        return ids, stand_ins

    def _find_or_insert_level(
        self, keys: set[SeriesKey], level: int, generation: int, owner: Owner
    ) -> dict[SeriesKey, int]:
        with self._db.connection() as connection:
            ids = _find(connection, keys, generation, owner)
        missing = keys - ids.keys()
        if (owner.account, level) in self._full:
            missing = {key for key in missing if key.twin in ids}
        if missing:
            ids |= self._insert(missing, level, generation, owner)
        self._remember(ids, generation, owner)
        return ids

    def _insert(self, missing: set[SeriesKey], level: int, generation: int, owner: Owner) -> dict[SeriesKey, int]:
        """Insert as many series as there is room for on a level; return the ids of those that exist now."""
        limits = {"kind": min(level, _LAST_KIND), "items_max": self._max_by_level[level], "other": OTHER}
        # As the service: who is limited to a site does not see what else the account has, which counts.
        with acting_as(None), self._db.transaction() as connection:
            connection.execute(QUERIES["lock_series"], {"account": owner.account})
            connection.execute(QUERIES["insert_series"], {**_columns(missing, owner), **limits})
            ids = _find(connection, missing, generation, owner)
        if missing - ids.keys():
            with self._lock:
                if generation == self._generation:
                    self._full |= {(owner.account, level)}
        return ids

    def _remember(self, ids: Mapping[SeriesKey, int], generation: int, owner: Owner) -> None:
        with self._lock:
            if generation == self._generation:
                for series, series_id in ids.items():
                    self._cache.set((owner, series), series_id)


def _columns(keys: Iterable[SeriesKey], owner: Owner) -> dict[str, Any]:
    services, endpoints, methods, timed = map(list, zip(*keys, strict=True))
    texts = {"services": services, "endpoints": endpoints, "methods": methods, "timed": timed}
    return {"account": owner.account, "site": owner.site, **texts}


def _find(
    connection: Connection[tuple[Any, ...]], keys: Iterable[SeriesKey], generation: int, owner: Owner
) -> dict[SeriesKey, int]:
    """Return the ids of the series that exist, and of their twins."""
    rows = connection.execute(QUERIES["find_series"], _columns(keys, owner)).fetchall()
    if rows[0][0] != generation:
        raise SeriesRemovedError(rows[0][0])
    return {SeriesKey(*columns): series_id for _, series_id, *columns in rows if series_id is not None}


def _apply_templates(keys: Iterable[SeriesKey], templates: Templates) -> dict[SeriesKey, SeriesKey]:
    """Return the series of the keys whose endpoint a template changes."""
    changed: dict[SeriesKey, SeriesKey] = {}
    for key in keys:
        template = templates.apply(key.endpoint)
        if template != key.endpoint:
            # The name of a segment may be longer than the segment.
            changed[key] = key._replace(endpoint=template[:ENDPOINT_MAX].strip())
    return changed


def _kind(series: SeriesKey) -> int:
    """Return which of the limits counts a series; ``insert_series`` counts the same way."""
    return int(series.endpoint == OTHER) + int(series.endpoint == series.service == OTHER)


def _stand_in(key: SeriesKey, level: int) -> SeriesKey:
    """Return the series that a key goes to on a level, from the key itself to ``__other__`` in all three."""
    return (
        key,
        key._replace(endpoint=OTHER),
        key._replace(service=OTHER, endpoint=OTHER),
        key._replace(service=OTHER, endpoint=OTHER, method=OTHER),
    )[level]
