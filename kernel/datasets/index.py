"""The route of an index: what an application sees of some datasets, how old it is, and how that came about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from kernel.applications import slug_of
from kernel.contracts import Application, Dataset
from kernel.datasets.answers import Answers, Stamp
from kernel.datasets.files import file_pattern
from kernel.datasets.model import Outcome, Publication, Snapshot
from kernel.datasets.shapes import CacheName, cache_name
from kernel.datasets.snapshots import Snapshots
from kernel.datasets.views import Views
from kernel.errors import UnavailableError
from kernel.http.compression import accepted_coding
from kernel.http.request import Request
from kernel.http.response import PreparedResponse


class IndexAttempt(msgspec.Struct, frozen=True):
    """One attempt to publish a dataset.

    Args:
        at: When.
        outcome: ``published``, ``unchanged`` or ``refused``.
        version: The one that served after it.
        reason: Why it was refused.
    """

    at: datetime
    outcome: Outcome
    version: int | None
    reason: str | None


class IndexEntry(msgspec.Struct, frozen=True):
    """What an application sees of one dataset.

    Args:
        dataset: Its name.
        file: The name of its file; a field in braces makes one for each of its values.
        version: The one that serves; None before the first.
        items: How many the application sees; None where it sees nothing because of ``warning``.
        published_at: When that version began to serve.
        confirmed_at: When an export last found this to be so.
        warning: Why the last attempt to publish was refused, or the application's filter fails.
        history: The newest attempts, newest first.
    """

    dataset: str
    file: str
    version: int | None
    items: int | None
    published_at: datetime | None
    confirmed_at: datetime | None
    warning: str | None
    history: Sequence[IndexAttempt]


class _Part(msgspec.Struct, frozen=True):
    """What is known of one dataset before any filter."""

    dataset: Dataset
    snapshot: Snapshot | None
    warning: str | None
    history: Sequence[Publication]


class Index:
    """Lists datasets as an application sees them, from memory.

    Args:
        datasets: Which ones.
        snapshots: Has the data.
        views: Has the applications' views of them.
    """

    def __init__(self, datasets: Sequence[Dataset], snapshots: Snapshots, views: Views) -> None:
        self._datasets = datasets
        self._snapshots = snapshots
        self._views = views

    def entries(self, application: Application | None = None) -> list[IndexEntry]:
        """Return an entry for each dataset.

        Raises:
            UnavailableError: The datasets have not been read yet.
        """
        return [self.entry(part, application) for part in self.parts()]

    def parts(self) -> list[_Part]:
        """Return what the entries are made of.

        Raises:
            UnavailableError: The datasets have not been read yet.
        """
        return [self._part(dataset) for dataset in self._datasets]

    def entry(self, part: _Part, application: Application | None) -> IndexEntry:
        """Return what an application sees of a part."""
        snapshot, items, warning = part.snapshot, None, part.warning
        if snapshot is not None:
            try:
                items = len(self._views.view(part.dataset, snapshot, application).items)
            except UnavailableError as ex:
                warning = ex.detail
        return IndexEntry(
            dataset=part.dataset.name,
            file=file_pattern(part.dataset),
            version=None if snapshot is None else snapshot.version,
            items=items,
            published_at=None if snapshot is None else snapshot.published_at,
            confirmed_at=None if snapshot is None else snapshot.confirmed_at,
            warning=warning,
            history=[IndexAttempt(each.at, each.outcome, each.version, each.reason) for each in part.history],
        )

    def _part(self, dataset: Dataset) -> _Part:
        history = self._snapshots.history(dataset.name)
        try:
            snapshot = self._snapshots.current(dataset.name)
        except UnavailableError as ex:
            return _Part(dataset, None, ex.detail, history)
        return _Part(dataset, snapshot, snapshot.warning, history)


class IndexEndpoint:
    """Answers requests for an index.

    Args:
        index: Makes the entries.
        answers: Keeps encoded answers.
        name: Under which they are kept.
        now: Tells the time, which is the age of an index of which nothing was published.
    """

    def __init__(self, index: Index, answers: Answers, name: CacheName, now: Callable[[], datetime]) -> None:
        self._index = index
        self._answers = answers
        self._name = name
        self._now = now

    def answer(self, request: Request, application: Application | None) -> PreparedResponse:
        """Answer a request.

        Raises:
            UnavailableError: The datasets have not been read yet.
        """
        parts = self._index.parts()
        env = request.env
        state = tuple((part.snapshot and part.snapshot.sha256, part.warning, _last_id(part)) for part in parts)
        key = (self, env.get("SCRIPT_NAME"), env["PATH_INFO"], accepted_coding(request), state)
        answer = self._answers.find(key)
        if answer is None:
            entries = [self._index.entry(part, application) for part in parts]
            meta = {
                "application": slug_of(application),
                "endpoint": request.path_as_sent,
                "total_items": len(entries),
            }
            changed_at = max((part.history[0].at for part in parts if part.history), default=self._now())
            body = {"data": entries, "meta": meta}
            answer = self._answers.make(
                key, cache_name(self._name, application, {}), request, Stamp(None, changed_at), body
            )
        # As old as its oldest part.
        confirmed = [part.snapshot.confirmed_at for part in parts if part.snapshot is not None]
        return self._answers.send(request, answer, min(filter(None, confirmed), default=self._now()))


def _last_id(part: _Part) -> int:
    return part.history[0].id if part.history else 0


def typed_handler(endpoint: IndexEndpoint) -> Any:
    """Return the function that the kernel mounts."""

    def handler(request: Request, application: Application | None) -> PreparedResponse:
        return endpoint.answer(request, application)

    handler.__annotations__ = {"request": Request, "application": Application | None, "return": PreparedResponse}
    return handler
