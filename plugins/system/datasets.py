"""``/api/v1/datasets/``: what serves, what served, what differs, what was kept aside; and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from kernel import Envelope, Request, Route, Services, envelope
from kernel.datasets import DatasetSummary, Difference, Publication, Version, parse_as_of, summarize_dataset

LIMIT_MAX = 100


class HistoryQuery(msgspec.Struct, frozen=True):
    """Parameters of ``versions/``.

    Args:
        limit: How many versions, and how many attempts.
    """

    limit: Annotated[int, msgspec.Meta(ge=1, le=LIMIT_MAX)] = LIMIT_MAX


class DiffQuery(msgspec.Struct, frozen=True, rename={"earlier": "from", "later": "to"}):
    """Parameters of ``diff/``.

    Args:
        earlier: A version or a time; by default the version before ``to``.
        later: Another; what serves at the moment by default.
        application: A slug, whose filters are applied to both.
    """

    earlier: str = ""
    later: str = ""
    application: str = ""


class Rollback(msgspec.Struct, frozen=True):
    """Body of ``rollback/``.

    Args:
        version: Whose content is to serve again.
    """

    version: Annotated[int, msgspec.Meta(ge=1)]


class History(msgspec.Struct, frozen=True):
    """The past of a dataset, newest first.

    Args:
        versions: Those that are kept.
        attempts: To publish; those that changed nothing or were refused as well.
    """

    versions: Sequence[Version]
    attempts: Sequence[Publication]


class DatasetRoutes:
    """Handlers of ``/api/v1/datasets/``.

    Args:
        services: Has the datasets.
    """

    def __init__(self, services: Services) -> None:
        self._datasets = services.datasets
        self._applications = services.applications

    def list(self, request: Request) -> Envelope[Sequence[DatasetSummary]]:
        """List every dataset with what serves."""
        return envelope(request, [summarize_dataset(self._datasets, name) for name in self._datasets.all])

    def show(self, request: Request, name: str) -> Envelope[DatasetSummary]:
        """Return one dataset."""
        return envelope(request, summarize_dataset(self._datasets, name))

    def versions(self, request: Request, name: str, query: HistoryQuery) -> Envelope[History]:
        """Return versions and attempts."""
        versions = self._datasets.versions(name, query.limit)
        return envelope(request, History(versions, self._datasets.publications(name, query.limit)))

    def diff(self, request: Request, name: str, query: DiffQuery) -> Envelope[Difference]:
        """Say what differs between two versions, as an application sees them."""
        application = self._applications.find(query.application) if query.application else None
        later = parse_as_of(query.later, "to") if query.later else None
        if query.earlier:
            earlier = parse_as_of(query.earlier, "from")
        else:
            earlier = self._datasets.read(name, None, later).snapshot.version - 1
        return envelope(request, self._datasets.compare(name, earlier, later, application))

    def rejected(self, request: Request, name: str) -> Envelope[Any]:
        """Return items that the last good publication kept aside, each with its reason."""
        return envelope(request, self._datasets.rejected(name))

    def rollback(self, request: Request, name: str, body: Rollback) -> Envelope[Publication]:
        """Publish the content of an older version again, as a new one."""
        source = f"rollback over REST, request {request.request_id}"
        return envelope(request, self._datasets.roll_back(name, body.version, source=source))

    def routes(self) -> Sequence[Route]:
        """Return the routes."""
        base = "/api/v1/datasets/"
        one = f"{base}{{name}}/"
        return [
            Route(path=base, handler=self.list, policy="read", menu="datasets"),
            Route(path=one, handler=self.show, policy="read"),
            Route(path=f"{one}versions/", handler=self.versions, policy="read"),
            Route(path=f"{one}diff/", handler=self.diff, policy="read"),
            Route(path=f"{one}rejected/", handler=self.rejected, policy="read"),
            Route(method="POST", path=f"{one}rollback/", handler=self.rollback, policy="staff"),
        ]
