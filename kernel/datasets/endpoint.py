"""The route of a dataset: each question is answered once, encoded, and served from memory until the data change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kernel.applications import slug_of
from kernel.contracts import Application
from kernel.datasets.answers import Answer, Answers, Stamp
from kernel.datasets.model import Snapshot
from kernel.datasets.relations import Related, include
from kernel.datasets.selection import BaseQuery, paged, read_as_of, select
from kernel.datasets.shapes import Derived, Shape, cache_name
from kernel.datasets.snapshots import Snapshots
from kernel.datasets.views import View, Views
from kernel.errors import NotFoundError
from kernel.http.compression import accepted_coding
from kernel.http.pagination import page_link
from kernel.http.request import Request
from kernel.http.response import PreparedResponse
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
        self._relations = shape.relations
        self._beside = tuple(each.name for each in shape.beside)
        self._http = settings.http
        if shape.derivation is not None:
            snapshots.keep_before(self._name)

    def answer(
        self, request: Request, application: Application | None, query: BaseQuery, segments: Segments
    ) -> PreparedResponse:
        """Answer a request.

        Raises:
            NotFoundError: No such item, page or version.
            UnavailableError: Nothing was published yet, or a filter of the application fails.
        """
        others: Sequence[Snapshot] = ()
        if query.include or self._beside:
            snapshot, *others = self._together(query)
        elif query.as_of:
            snapshot = self._snapshots.as_of(self._name, read_as_of(query.as_of))
        else:
            snapshot = self._snapshots.current(self._name)
        env = request.env
        key: tuple[Any, ...] = (
            self,
            # Names application and segments, too.
            env.get("SCRIPT_NAME"),
            env["PATH_INFO"],
            request.query_string,
            accepted_coding(request),
            snapshot.version,
            snapshot.sha256,
            snapshot.warning,
        )
        confirmed_at = snapshot.confirmed_at or snapshot.published_at
        if others:
            key += tuple((each.version, each.sha256, each.warning) for each in others)
            # As old as its oldest part.
            confirmed_at = min(confirmed_at, *(each.confirmed_at or each.published_at for each in others))
        answer = self._answers.find(key)
        if answer is None:
            answer = self._make(key, request, (snapshot, *others), application, query, segments)
        return self._answers.send(request, answer, confirmed_at)

    def _together(self, query: BaseQuery) -> list[Snapshot]:
        names = (self._name, *self._beside, *(self._relations[field] for field in query.include))
        return self._snapshots.together(names, read_as_of(query.as_of) if query.as_of else None)

    def _make(
        self,
        key: tuple[Any, ...],
        request: Request,
        snapshots: Sequence[Snapshot],
        application: Application | None,
        query: BaseQuery,
        segments: Segments,
    ) -> Answer:
        snapshot = snapshots[0]
        view = self._views.view(self._shape.dataset, snapshot, application)
        others = [self._other(each, application) for each in snapshots[1:]]
        beside, related = others[: len(self._beside)], others[len(self._beside) :]
        derived = self._derived(view, application, segments, beside)
        items = select(derived.items, query, self._shape.item)
        meta: dict[str, Any] = {
            "application": slug_of(application),
            "endpoint": request.path_as_sent,
            "total_items": len(items),
            **derived.meta,
        }
        if warning := _warning(snapshots):
            meta["warning"] = warning
        if query.explain:
            meta["explain"] = view.hidden
        shown = self._one(items, segments) if self._shape.one else self._page(items, meta, request, query)
        if related:
            found = dict(zip(query.include, related, strict=True))
            shown, meta["include"] = include(shown, found, explain=query.explain)
        body = {"data": shown[0] if self._shape.one else shown, "meta": meta}
        name = cache_name(self._shape.name, application, segments)
        stamp = Stamp(snapshot.version, max(each.published_at for each in snapshots))
        return self._answers.make(key, name, request, stamp, body)

    def _other(self, snapshot: Snapshot, application: Application | None) -> Related:
        dataset = self._snapshots.dataset(snapshot.dataset)
        return Related(dataset, self._views.view(dataset, snapshot, application))

    def _one(self, items: Sequence[Any], segments: Segments) -> Sequence[Any]:
        if not items:
            raise self._nothing_at(segments)
        return items[:1]

    def _page(self, items: Sequence[Any], meta: dict[str, Any], request: Request, query: BaseQuery) -> Sequence[Any]:
        shown, place = paged(items, query, self._http.page_size, self._http.page_size_max)
        if place is not None:
            meta |= msgspec.structs.asdict(place)
            page = place.page
            meta["next"] = page_link(request, absolute=False, page=str(page + 1)) if page < place.pages else None
            meta["previous"] = page_link(request, absolute=False, page=str(page - 1)) if page > 1 else None
        return shown

    def _derived(
        self, view: View, application: Application | None, segments: Segments, beside: Sequence[Related]
    ) -> Derived:
        items = _at(view.items, segments)
        if segments and not items:
            raise self._nothing_at(segments)
        if self._shape.derivation is None:
            return Derived(items)
        before = self._snapshots.before(view.snapshot)
        earlier: Sequence[Any] = ()
        if before is not None:
            earlier = _at(self._views.view(self._shape.dataset, before, application).items, segments)
        return self._shape.derivation.derive(items, earlier, *(each.view.items for each in beside))

    def _nothing_at(self, segments: Segments) -> NotFoundError:
        named = ", ".join(f"{name} {value!r:.80}" for name, value in segments.items())
        return NotFoundError(f"{self._name} has no {named or 'such item'}.")


def _at(items: Sequence[Any], segments: Segments) -> Sequence[Any]:
    for name, value in segments.items():
        items = [item for item in items if getattr(item, name) == value]
    return items


def _warning(snapshots: Sequence[Snapshot]) -> str:
    first, *others = snapshots
    named = {each.dataset: f"{each.dataset}: {each.warning}" for each in others if each.warning}
    return "; ".join([*([first.warning] if first.warning else ()), *named.values()])
