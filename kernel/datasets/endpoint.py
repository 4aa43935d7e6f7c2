"""The route of a dataset: each question is answered once, encoded, and served from memory until the data change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec

from kernel.applications import slug_of
from kernel.cache import SizedCache
from kernel.contracts import Application, Dataset
from kernel.datasets.model import Snapshot
from kernel.datasets.selection import BaseQuery, paged, read_as_of, select
from kernel.datasets.snapshots import Snapshots
from kernel.datasets.views import View, Views
from kernel.errors import NotFoundError
from kernel.http.compression import MIN_BYTES, preference
from kernel.http.encodings import encode
from kernel.http.request import Request
from kernel.http.responses import Encoded, Reply
from kernel.settings import Settings

_ENCODER = msgspec.json.Encoder(enc_hook=str)
_NO_SEGMENTS: Mapping[str, Any] = {}


class Derived(msgspec.Struct, frozen=True):
    """Items made from others, with what is to be said about all of them.

    Args:
        items: In the order in which they are shown.
        meta: Further members of ``meta``.
    """

    items: Sequence[Any]
    meta: Mapping[str, Any] = {}


# From what an application sees of a snapshot, and of the one before, to what it is shown. Must be pure.
Derive = Callable[[Sequence[Any], Sequence[Any]], Derived]


class Derivation(msgspec.Struct, frozen=True):
    """How a route makes its items from those of a dataset.

    Args:
        item: The Struct it makes.
        derive: From (items, items of the version before) to ``Derived``.
    """

    item: type[msgspec.Struct]
    derive: Derive


class Shape(msgspec.Struct, frozen=True):
    """What a route shows of a dataset.

    Args:
        dataset: Which one.
        name: Under which its answers are kept, in two parts: the slug of an application goes between them.
        segments: Segments of its path; each is a field that items must have as the path says.
        one: Whether the answer is one item, not a list.
        derivation: Makes the items that are shown.
    """

    dataset: Dataset
    name: tuple[str, str]
    segments: tuple[str, ...] = ()
    one: bool = False
    derivation: Derivation | None = None

    @property
    def item(self) -> type[msgspec.Struct]:
        """The Struct that is shown."""
        return self.dataset.item if self.derivation is None else self.derivation.item

    def cache_name(self, application: Application | None, segments: Mapping[str, Any]) -> str:
        """Return the name under which an answer is kept: ``club_data_skyflow_hero-metrics.json``."""
        first, last = self.name
        parts = (first, last) if application is None else (first, application.slug, last)
        name = "_".join(parts)
        return name.format_map(segments) if segments else name


class _AnswerKey(msgspec.Struct, frozen=True):
    """Finds an encoded answer again: all that it depends on."""

    name: str
    sha256: str
    version: int
    warning: str | None
    endpoint: str
    query: str
    coding: str | None


class _Answer(msgspec.Struct, frozen=True):
    body: Encoded
    etag: str
    coding: str | None


class DatasetEndpoint:
    """Answers requests for one shape of a dataset.

    Args:
        shape: What to show.
        snapshots: Has the data.
        views: Has the applications' views of them.
        cache: Keeps encoded answers.
        settings: Page sizes, and for how long clients may keep an answer.
        now: Tells the time.
    """

    def __init__(
        self,
        shape: Shape,
        snapshots: Snapshots,
        views: Views,
        cache: SizedCache,
        settings: Settings,
        now: Callable[[], datetime],
    ) -> None:
        self._shape = shape
        self._snapshots = snapshots
        self._views = views
        self._cache = cache
        self._settings = settings
        self._now = now
        self._cache_control = f"public, max-age={settings.datasets.max_age_s}, stale-if-error=86400"

    def answer(
        self,
        request: Request,
        application: Application | None,
        query: BaseQuery,
        segments: Mapping[str, Any] = _NO_SEGMENTS,
    ) -> Reply[Any]:
        """Answer a request.

        Raises:
            NotFoundError: No such item, page or version.
            UnavailableError: Nothing was published yet, or a filter of the application fails.
        """
        name = self._shape.dataset.name
        if query.as_of:
            snapshot = self._snapshots.as_of(name, read_as_of(query.as_of))
        else:
            snapshot = self._snapshots.current(name)
        accept: str = request.env.get("HTTP_ACCEPT_ENCODING", "")
        key = _AnswerKey(
            name=self._shape.cache_name(application, segments),
            sha256=snapshot.sha256,
            # What is derived looks at the version before, too.
            version=0 if self._shape.derivation is None else snapshot.version,
            warning=snapshot.warning,
            endpoint=request.path_as_sent,
            query=request.query_string,
            coding=preference(accept).coding if accept else None,
        )
        answer = self._cache.get(key)
        if answer is None:
            answer = self._make(key, snapshot, application, query, segments)
        return self._reply(request, snapshot, answer)

    def _make(
        self,
        key: _AnswerKey,
        snapshot: Snapshot,
        application: Application | None,
        query: BaseQuery,
        segments: Mapping[str, Any],
    ) -> _Answer:
        view = self._views.view(self._shape.dataset, snapshot, application)
        content = _ENCODER.encode(self._body(key, view, application, query, segments))
        # The coding belongs to the validator: other bytes, another strong ETag (RFC 9110, 8.8.3.3).
        coding = key.coding if len(content) > MIN_BYTES else None
        digest = hashlib.sha256(content).hexdigest()[:32]
        body = Encoded(content if coding is None else encode(content, coding))
        answer = _Answer(body, f'"{digest}"' if coding is None else f'"{digest}-{coding}"', coding)
        self._cache.set(key, answer, len(body.content) + len(key.query) + 1000)
        return answer

    def _body(
        self,
        key: _AnswerKey,
        view: View,
        application: Application | None,
        query: BaseQuery,
        segments: Mapping[str, Any],
    ) -> dict[str, Any]:
        derived = self._derived(view, application, segments)
        items = select(derived.items, query, self._shape.item)
        meta: dict[str, Any] = {
            "application": slug_of(application),
            "endpoint": key.endpoint,
            "total_items": len(items),
            **derived.meta,
        }
        if view.snapshot.warning is not None:
            meta["warning"] = view.snapshot.warning
        if query.explain:
            meta["explain"] = view.hidden
        if self._shape.one:
            return {"data": items[0], "meta": meta}
        http = self._settings.http
        shown, place = paged(items, query, http.page_size, http.page_size_max)
        if place is not None:
            meta |= msgspec.structs.asdict(place)
            meta["next"] = _link(key, place.page + 1) if place.page < place.pages else None
            meta["previous"] = _link(key, place.page - 1) if place.page > 1 else None
        return {"data": shown, "meta": meta}

    def _derived(self, view: View, application: Application | None, segments: Mapping[str, Any]) -> Derived:
        items = _at(view.items, segments)
        if segments and not items:
            named = ", ".join(f"{name} {value!r:.80}" for name, value in segments.items())
            raise NotFoundError(f"{self._shape.dataset.name} has no {named}.")
        if self._shape.derivation is None:
            return Derived(items)
        before = self._snapshots.before(view.snapshot)
        earlier: Sequence[Any] = ()
        if before is not None:
            earlier = _at(self._views.view(self._shape.dataset, before, application).items, segments)
        return self._shape.derivation.derive(items, earlier)

    def _reply(self, request: Request, snapshot: Snapshot, answer: _Answer) -> Reply[Any]:
        confirmed_at = snapshot.confirmed_at or snapshot.published_at
        headers = {
            "ETag": answer.etag,
            "Last-Modified": format_datetime(snapshot.published_at.astimezone(UTC), usegmt=True),
            "Cache-Control": self._cache_control,
            "Vary": "Accept-Encoding",
            "X-Data-Age": str(max(0, int((self._now() - confirmed_at).total_seconds()))),
            "X-Data-Version": str(snapshot.version),
        }
        if _is_known(request, answer.etag):
            return Reply(None, 304, headers)
        if answer.coding is not None:
            headers["Content-Encoding"] = answer.coding
        return Reply(answer.body, 200, headers)


def _at(items: Sequence[Any], segments: Mapping[str, Any]) -> Sequence[Any]:
    for name, value in segments.items():
        items = [item for item in items if getattr(item, name) == value]
    return items


def _link(key: _AnswerKey, page: int) -> str:
    pairs = [(name, value) for name, value in parse_qsl(key.query, keep_blank_values=True) if name != "page"]
    return f"{key.endpoint}?{urlencode([*pairs, ('page', str(page))])}"


def _is_known(request: Request, etag: str) -> bool:
    # Tags alone (RFC 9110, 13.1.2): other filters change an answer whose data are as old as ever.
    tags: str = request.env.get("HTTP_IF_NONE_MATCH", "")
    if not tags:
        return False
    return tags.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in tags.split(","))
