"""The route of a dataset: each question is answered once, encoded, and served from memory until the data change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import msgspec

from kernel.applications import slug_of
from kernel.contracts import Application
from kernel.datasets.answers import Answer, Answers, Stamp, wanted_coding
from kernel.datasets.model import Snapshot
from kernel.datasets.selection import BaseQuery, paged, read_as_of, select
from kernel.datasets.shapes import Derived, Shape, cache_name
from kernel.datasets.snapshots import Snapshots
from kernel.datasets.views import View, Views
from kernel.errors import NotFoundError
from kernel.http.request import Request
from kernel.http.responses import Prepared
from kernel.settings import Settings

Segments = Mapping[str, Any]


class DatasetEndpoint:
    """Answers requests for one shape of a dataset.

    Args:
        shape: What to show.
        snapshots: Has the data.
        views: Has the applications' views of them.
        answers: Keeps encoded answers.
        settings: Page sizes.
    """

    def __init__(self, shape: Shape, snapshots: Snapshots, views: Views, answers: Answers, settings: Settings) -> None:
        self._shape = shape
        self._name = shape.dataset.name
        self._snapshots = snapshots
        self._views = views
        self._answers = answers
        self._http = settings.http
        if shape.derivation is not None:
            snapshots.keep_before(self._name)

    def answer(
        self, request: Request, application: Application | None, query: BaseQuery, segments: Segments
    ) -> Prepared:
        """Answer a request.

        Raises:
            NotFoundError: No such item, page or version.
            UnavailableError: Nothing was published yet, or a filter of the application fails.
        """
        if query.as_of:
            snapshot = self._snapshots.as_of(self._name, read_as_of(query.as_of))
        else:
            snapshot = self._snapshots.current(self._name)
        env = request.env
        key = (
            self,
            # Names application and segments, too.
            env.get("SCRIPT_NAME"),
            env["PATH_INFO"],
            request.query_string,
            wanted_coding(request),
            snapshot.version,
            snapshot.sha256,
            snapshot.warning,
        )
        answer = self._answers.find(key)
        if answer is None:
            answer = self._make(key, request, snapshot, application, query, segments)
        return self._answers.send(request, answer, snapshot.confirmed_at or snapshot.published_at)

    def _make(
        self,
        key: tuple[Any, ...],
        request: Request,
        snapshot: Snapshot,
        application: Application | None,
        query: BaseQuery,
        segments: Segments,
    ) -> Answer:
        view = self._views.view(self._shape.dataset, snapshot, application)
        derived = self._derived(view, application, segments)
        items = select(derived.items, query, self._shape.item)
        meta: dict[str, Any] = {
            "application": slug_of(application),
            "endpoint": request.path_as_sent,
            "total_items": len(items),
            **derived.meta,
        }
        if snapshot.warning is not None:
            meta["warning"] = snapshot.warning
        if query.explain:
            meta["explain"] = view.hidden
        data = self._one(items, segments) if self._shape.one else self._page(items, meta, request, query)
        name = cache_name(self._shape.name, application, segments)
        stamp = Stamp(snapshot.version, snapshot.published_at)
        return self._answers.make(key, name, request, stamp, {"data": data, "meta": meta})

    def _one(self, items: Sequence[Any], segments: Segments) -> Any:
        if not items:
            raise self._nothing_at(segments)
        return items[0]

    def _page(self, items: Sequence[Any], meta: dict[str, Any], request: Request, query: BaseQuery) -> Sequence[Any]:
        shown, place = paged(items, query, self._http.page_size, self._http.page_size_max)
        if place is not None:
            meta |= msgspec.structs.asdict(place)
            meta["next"] = _link(request, place.page + 1) if place.page < place.pages else None
            meta["previous"] = _link(request, place.page - 1) if place.page > 1 else None
        return shown

    def _derived(self, view: View, application: Application | None, segments: Segments) -> Derived:
        items = _at(view.items, segments)
        if segments and not items:
            raise self._nothing_at(segments)
        if self._shape.derivation is None:
            return Derived(items)
        before = self._snapshots.before(view.snapshot)
        earlier: Sequence[Any] = ()
        if before is not None:
            earlier = _at(self._views.view(self._shape.dataset, before, application).items, segments)
        return self._shape.derivation.derive(items, earlier)

    def _nothing_at(self, segments: Segments) -> NotFoundError:
        named = ", ".join(f"{name} {value!r:.80}" for name, value in segments.items())
        return NotFoundError(f"{self._name} has no {named or 'such item'}.")


def _at(items: Sequence[Any], segments: Segments) -> Sequence[Any]:
    for name, value in segments.items():
        items = [item for item in items if getattr(item, name) == value]
    return items


def _link(request: Request, page: int) -> str:
    pairs = [(name, value) for name, value in parse_qsl(request.query_string, keep_blank_values=True) if name != "page"]
    return f"{quote(request.path_as_sent)}?{urlencode([*pairs, ('page', str(page))])}"
