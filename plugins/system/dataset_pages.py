"""Pages of all datasets, over plugins, and of applications: what each of them sees. Versions are the kernel's pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from kernel import Application, Identity, Route, Services, collect_routes, route
from kernel.datasets import (
    ApplicationSummary,
    DatasetPages,
    DatasetSummary,
    FilterSummary,
    summarize_application,
    summarize_dataset,
)
from kernel.http import Panel, TemplateResponse, page_link
from plugins.system.job_pages import JOBS

DATASETS = "/system/datasets/"
APPLICATIONS = "/system/applications/"


class DatasetRow(NamedTuple):
    """A dataset in the list.

    Args:
        title: For people.
        summary: Its current version.
        table: Link to its items, or to its versions if its plugin has no pages for it.
        versions: Link to its versions.
        compare: Link to what the current version changed; None for the first.
    """

    title: str
    summary: DatasetSummary
    table: str
    versions: str
    compare: str | None


class SeenRow(NamedTuple):
    """How much an application sees of a dataset.

    Args:
        title: Of the dataset, for people.
        filters: Keys of the filters that work on it.
        items: How many it sees; None if that is unknown.
        total: How many there are.
        reason: Why it is unknown.
        table: Link to what it sees.
        explain: Link to what it does not see, and why.
    """

    title: str
    filters: Sequence[str]
    items: int | None
    total: int | None
    reason: str | None
    table: str
    explain: str


class ApplicationRow(NamedTuple):
    """An application, and what it sees.

    Args:
        summary: The application.
        unmatched: Its filters that fit no dataset, and so hide nothing.
        datasets: Each dataset.
        explain: Link to all that it does not see.
    """

    summary: ApplicationSummary
    unmatched: Sequence[FilterSummary]
    datasets: Sequence[SeenRow]
    explain: str


class DatasetListPages:
    """The handlers of ``/system/datasets/`` and ``/system/applications/``.

    Args:
        services: Datasets, applications and the clock.
    """

    def __init__(self, services: Services) -> None:
        self._datasets = services.datasets
        self._applications = services.applications
        self._clock = services.clock
        self._pages = DatasetPages(services, DATASETS, None, job_page=f"{JOBS}{{id}}/")

    def routes(self) -> list[Route]:
        """Return the routes of all pages."""
        return [*collect_routes(self.list, self.applications), *self._pages.routes()]

    @route(DATASETS, policy="read", menu="Datasets")
    def list(self, identity: Identity) -> TemplateResponse:
        """Show every dataset with its current version, of datasets of accounts that of the account."""
        panels = {"datasets": Panel(lambda: self._list(identity), "system/datasets_panel.html", "All datasets")}
        return TemplateResponse("system/datasets.html", {"applications": APPLICATIONS}, panels=panels)

    @route(APPLICATIONS, policy="read", menu="Applications")
    def applications(self) -> TemplateResponse:
        """Show the applications that the reader may see: features, filters, and how much each sees."""
        found = self._applications.readable
        names = {f"application-{each.slug}": each for each in found}
        panels = {
            name: Panel(partial(self._application, each), "system/application.html", each.name)
            for name, each in names.items()
        }
        return TemplateResponse("system/applications.html", {"names": list(panels)}, panels=panels)

    def _list(self, identity: Identity) -> Mapping[str, Any]:
        rows = [
            self._row(summarize_dataset(self._datasets, name), page.title)
            for name, page in self._pages.presentation.pages.items()
        ]
        return {
            "rows": rows,
            # Versions tell of what a reader who is limited to applications need not see.
            "may_see_versions": identity.applications is None,
            "unpublished": sum(row.summary.version is None for row in rows),
            "now": self._clock.now(),
        }

    def _row(self, summary: DatasetSummary, title: str) -> DatasetRow:
        version, path = summary.version, f"{DATASETS}versions/"
        return DatasetRow(
            title=title,
            summary=summary,
            table=self._pages.presentation.table_link(summary.name),
            versions=page_link(path, dataset=summary.name),
            compare=page_link(f"{path}compare/", dataset=summary.name) if version is not None and version > 1 else None,
        )

    def _application(self, application: Application) -> Mapping[str, Any]:
        summary = summarize_application(self._datasets, application)
        pages = self._pages.presentation
        explain = self._pages.hidden_link(application) or ""
        rows = [
            SeenRow(
                title=pages.pages[each.dataset].title,
                filters=[found.key for found in summary.filters if each.dataset in found.datasets],
                items=each.items,
                total=summarize_dataset(self._datasets, each.dataset).items,
                reason=each.reason,
                table=pages.table_link(each.dataset, application),
                explain=f"{explain}#{each.dataset}",
            )
            for each in summary.datasets
        ]
        unmatched = [each for each in summary.filters if not each.datasets]
        return {"row": ApplicationRow(summary, unmatched, rows, explain)}
