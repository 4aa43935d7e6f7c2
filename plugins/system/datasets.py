"""``/api/v1/datasets/``: the datasets with their versions, differences and rejected items; rollback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from kernel import Request, Services, route
from kernel.datasets import DatasetSummary, Difference, Publication, Version, parse_as_of, summarize_dataset
from kernel.http import Example, ListQuery, Page, list_page

LIMIT_MAX = 100


class DatasetsQuery(ListQuery, frozen=True):
    """Parameters of the list.

    Args:
        search: Datasets with this text in any of their text fields, ignoring case.
        ordering: Fields separated by commas; a leading ``-`` sorts descending. In configured order by default.
        page: Number of a page, from 1.
        page_size: Datasets per page; ``http.page_size`` by default.
        name: Only the dataset of this name.
        version: Only datasets with this current version.
    """

    name: str | msgspec.UnsetType = msgspec.UNSET
    version: int | msgspec.UnsetType = msgspec.UNSET


class HistoryQuery(msgspec.Struct, frozen=True):
    """Parameters of ``versions/``.

    Args:
        limit: Maximum number of versions, and of attempts.
    """

    limit: Annotated[int, msgspec.Meta(ge=1, le=LIMIT_MAX)] = LIMIT_MAX


class DiffQuery(msgspec.Struct, frozen=True, rename={"earlier": "from", "later": "to"}):
    """Parameters of ``diff/``.

    Args:
        earlier: A version or a time; the version before ``to`` by default.
        later: A version or a time; the current version by default.
        application: Slug of the application whose filters are applied to both.
    """

    earlier: str = ""
    later: str = ""
    application: str = ""


class RollbackBody(msgspec.Struct, frozen=True):
    """Body of ``rollback/``.

    Args:
        version: The version whose content is published again.
    """

    version: Annotated[int, msgspec.Meta(ge=1)]


class History(msgspec.Struct, frozen=True):
    """The history of a dataset, newest first.

    Args:
        versions: The stored versions.
        attempts: All attempts to publish, also those that changed nothing or were refused.
    """

    versions: Sequence[Version]
    attempts: Sequence[Publication]


class DatasetRoutes:
    """The handlers of ``/api/v1/datasets/``.

    Args:
        services: Datasets, applications, page sizes.
    """

    def __init__(self, services: Services) -> None:
        self._datasets = services.datasets
        self._applications = services.applications
        self._http = services.kernel_settings.http

    @route("/api/v1/datasets/", policy="read", menu="datasets")
    def list(self, request: Request, query: DatasetsQuery) -> Page[DatasetSummary]:
        """List every dataset with its current version, of datasets of accounts that of the account."""
        found = [summarize_dataset(self._datasets, name) for name in self._datasets.all]
        return list_page(request, found, query, DatasetSummary, self._http)

    @route("/api/v1/datasets/{name}/", policy="read")
    def show(self, name: str) -> DatasetSummary:
        """Return a dataset with its current version."""
        return summarize_dataset(self._datasets, name)

    @route("/api/v1/datasets/{name}/versions/", policy="read")
    def versions(self, name: str, query: HistoryQuery) -> History:
        """Return the versions of a dataset, and the attempts to publish it."""
        versions = self._datasets.versions(name, query.limit)
        return History(versions, self._datasets.publications(name, query.limit))

    @route(
        "/api/v1/datasets/{name}/diff/",
        policy="read",
        examples=(Example(summary="Between two versions", query={"from": "1", "to": "1"}),),
    )
    def diff(self, name: str, query: DiffQuery) -> Difference:
        """Compare two versions of a dataset, as an application sees them."""
        application = self._applications.find(query.application) if query.application else None
        later = parse_as_of(query.later, "to") if query.later else None
        if query.earlier:
            earlier = parse_as_of(query.earlier, "from")
        else:
            earlier = self._datasets.snapshot(name, later).version - 1
        return self._datasets.compare(name, earlier, later, application)

    @route("/api/v1/datasets/{name}/rejected/", policy="read")
    def rejected(self, name: str) -> Any:
        """Return the items that the last successful publication rejected, each with the reason."""
        return self._datasets.rejected(name)

    @route("/api/v1/datasets/{name}/rollback/", method="POST", policy="staff")
    def rollback(self, request: Request, name: str, body: RollbackBody) -> Publication:
        """Publish the content of an older version again, as a new version."""
        source = f"rollback over REST, request {request.request_id}"
        return self._datasets.roll_back(name, body.version, source=source)
