"""The pages of versions: which there are and who published them, any two of them side by side, and rolling back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec

from kernel.contracts import Application, Route
from kernel.datasets.diff import Difference
from kernel.datasets.models import Publication, Version
from kernel.datasets.presentation import DatasetPage, FieldDifference, Link, Presentation, diff_field
from kernel.datasets.query import parse_as_of
from kernel.errors import NotFoundError, UnavailableError
from kernel.http.forms import FormResponse, Submitted, redirect
from kernel.http.notices import Notice
from kernel.http.pages import page_link
from kernel.http.pagination import count_pages, page_not_found
from kernel.http.panels import Panel
from kernel.http.request import Request
from kernel.http.response import TemplateResponse
from kernel.identity import Identity

if TYPE_CHECKING:
    from kernel.services import Services

FindApplication = Callable[[str | None, Identity], Application | None]
Kind = Literal["changed", "added", "removed"]
_KINDS: tuple[Kind, ...] = ("changed", "added", "removed")
ROLLED_BACK = Notice("Rolled back: the content of the older version is published again, as a new version.")
SAME = Notice("Nothing was published: the current version has that content already.")
_ATTEMPTS_MAX = 100
# Versions are compared with the one before as long as all that is read for it is small.
_COMPARED_MAX_BYTES = 8 * 1024 * 1024
_ENTRIES_PER_PAGE = 50


class VersionsQuery(msgspec.Struct, frozen=True):
    """Parameters of the list of versions.

    Args:
        dataset: Whose versions; by default those of the first.
        application: Slug of the application as which versions are compared.
    """

    dataset: str | None = None
    application: str | None = None


class CompareQuery(VersionsQuery, frozen=True, rename={"earlier": "from", "later": "to"}):
    """Parameters of a comparison.

    Args:
        earlier: A version or a time; the version before ``to`` by default.
        later: A version or a time; the current version by default.
        kind: Only items that were changed, added or removed.
        page: Number of a page, from 1.
    """

    earlier: str = ""
    later: str = ""
    kind: Kind | None = None
    page: Annotated[int, msgspec.Meta(ge=1)] = 1


class RollbackForm(msgspec.Struct, frozen=True):
    """The form that rolls a dataset back.

    Args:
        dataset: Which.
        version: The version whose content is published again.
    """

    dataset: str
    version: Annotated[int, msgspec.Meta(ge=1)]


class VersionRow(NamedTuple):
    """A version in the list.

    Args:
        version: The version.
        is_current: Whether it is served.
        publication: How it was published, if that is still known.
        job: The job that published it.
        counts: How many items were added, removed and changed since the version before; None if that is not known.
        compare: Link to that comparison; None for the oldest.
        table: Link to its items.
        roll_back: Link to what rolling back to it would change; None if the reader may not, or for the current one.
    """

    version: Version
    is_current: bool
    publication: Publication | None
    job: Link | None
    counts: tuple[int, int, int] | None
    compare: str | None
    table: str
    roll_back: str | None


class AttemptRow(NamedTuple):
    """One attempt to publish, or several with the same outcome.

    Args:
        latest: The latest of them.
        since: When the earliest of them was.
        times: How many.
        job: The job of the latest.
    """

    latest: Publication
    since: datetime
    times: int
    job: Link | None


class Entry(NamedTuple):
    """An item that differs between two versions.

    Args:
        kind: What became of it.
        item: The item.
        fields: What changed.
    """

    kind: Kind
    item: Link
    fields: Sequence[FieldDifference] = ()


class VersionPages:
    """The handlers of ``versions/`` and ``versions/compare/``.

    Args:
        services: Of the plugin.
        presentation: How its datasets are shown.
        find_application: Returns the application that a request may read.
        job_page: Path of the page of a job, with ``{id}``; None if there is none.
    """

    def __init__(
        self,
        services: Services,
        presentation: Presentation,
        find_application: FindApplication,
        job_page: str | None,
    ) -> None:
        self._datasets = services.datasets
        self._presentation = presentation
        self._find_application = find_application
        self._job_page = job_page
        self._path = f"{presentation.path}versions/"

    def routes(self, menu: str | None) -> Sequence[Route]:
        """Return the routes.

        Args:
            menu: Label of the list in the menu.
        """
        return (
            Route(path=self._path, handler=self.list, policy="read", menu=menu),
            Route(path=self._path, handler=self.roll_back, method="POST", policy="staff"),
            Route(path=f"{self._path}compare/", handler=self.compare, policy="read"),
        )

    def list_link(self, name: str, application: Application | None) -> str:
        """Return the link to the versions of a dataset."""
        return page_link(self._path, dataset=name, application=application and application.slug)

    def compare_link(
        self, name: str, earlier: int | None, later: int | None, application: Application | None, **parameters: Any
    ) -> str:
        """Return the link to a comparison of two versions."""
        chosen: dict[str, Any] = {"dataset": name, "from": earlier, "to": later, **parameters}
        return page_link(f"{self._path}compare/", None, **chosen, application=application and application.slug)

    # --- versions ---------------------------------------------------------------------------------------------------

    def list(self, query: VersionsQuery, identity: Identity) -> TemplateResponse:
        """Show the versions of a dataset, and the attempts to publish it."""
        # Attempts tell about items that no application need see.
        identity.ensure_application(None)
        application = self._find_application(query.application, identity)
        page = self._find_page(query.dataset)
        name = page.dataset.name
        panels = {
            "versions": Panel(
                lambda: self._versions(page, application, identity), "kernel/datasets/versions_panel.html", "Versions"
            ),
            "attempts": Panel(lambda: self._attempts(name, identity), "kernel/datasets/attempts.html", "Attempts"),
        }
        context = {
            "tabs": [(each.title, self.list_link(other, application), other == name) for other, each in self._tabs()],
            "title": page.title,
            "application": application,
            "compare": self.compare_link(name, None, None, application),
        }
        return TemplateResponse("kernel/datasets/versions.html", context, panels=panels)

    def _versions(self, page: DatasetPage, application: Application | None, identity: Identity) -> Mapping[str, Any]:
        name = page.dataset.name
        versions = self._datasets.versions(name)
        published = {
            each.version: each for each in reversed(self._datasets.publications(name)) if each.outcome == "published"
        }
        counts = dict(self._count_changes(name, versions, application))
        rows = [
            VersionRow(
                version=each,
                is_current=number == 0,
                publication=published.get(each.version),
                job=self._job(published.get(each.version), identity),
                counts=counts.get(each.version),
                compare=(
                    self.compare_link(name, versions[number + 1].version, each.version, application)
                    if number + 1 < len(versions)
                    else None
                ),
                table=self._presentation.table_link(name, application, as_of=each.version if number else None),
                roll_back=(
                    f"{self.compare_link(name, each.version, versions[0].version, None)}#difference"
                    if number and identity.is_staff
                    else None
                ),
            )
            for number, each in enumerate(versions)
        ]
        return {
            "rows": rows,
            "dataset": name,
            "application": application,
            "action": f"{self._path}compare/",
            "may_roll_back": identity.is_staff,
        }

    def _count_changes(
        self, name: str, versions: Sequence[Version], application: Application | None
    ) -> Iterator[tuple[int, tuple[int, int, int]]]:
        read_bytes = sum(each.size_bytes for each in versions[:1])
        for later, earlier in pairwise(versions):
            read_bytes += earlier.size_bytes
            if read_bytes > _COMPARED_MAX_BYTES:
                return
            try:
                found = self._datasets.compare(name, earlier.version, later.version, application)
            except (UnavailableError, NotFoundError):
                # It has a form that items no longer have, or was removed meanwhile.
                return
            yield later.version, (len(found.added), len(found.removed), len(found.changed))

    def _attempts(self, name: str, identity: Identity) -> Mapping[str, Any]:
        rows: list[AttemptRow] = []
        for each in self._datasets.publications(name, _ATTEMPTS_MAX):
            last = rows[-1] if rows else None
            # What runs every few minutes mostly finds nothing new.
            if last is not None and each.outcome != "published" and _is_alike(last.latest, each):
                rows[-1] = last._replace(since=each.at, times=last.times + 1)
            else:
                rows.append(AttemptRow(each, each.at, 1, self._job(each, identity)))
        return {"rows": rows}

    def _job(self, publication: Publication | None, identity: Identity) -> Link | None:
        if publication is None or publication.job_id is None:
            return None
        # Whoever is not staff sees no jobs of the service itself.
        has_page = self._job_page is not None and identity.is_staff
        href = self._job_page.format(id=publication.job_id) if has_page and self._job_page else None
        return Link(f"#{publication.job_id}", href)

    def roll_back(self, request: Request, form: Submitted[RollbackForm]) -> FormResponse:
        """Publish the content of an older version again, as a new version.

        Raises:
            NotFoundError: There is no such dataset or version.
        """
        given = form.value()
        name = self._find_page(given.dataset).dataset.name
        source = f"rollback on a page, request {request.request_id}"
        published = self._datasets.roll_back(name, given.version, source=source)
        return redirect(self.list_link(name, None), ROLLED_BACK if published.outcome == "published" else SAME)

    # --- comparison -------------------------------------------------------------------------------------------------

    def compare(self, request: Request, query: CompareQuery, identity: Identity) -> TemplateResponse:
        """Show two versions of a dataset side by side: items that were added, removed and changed, field by field."""
        application = self._find_application(query.application, identity)
        page = self._find_page(query.dataset)
        name = page.dataset.name
        later = parse_as_of(query.later, "to") if query.later else None
        if query.earlier:
            earlier = parse_as_of(query.earlier, "from")
        else:
            earlier = max(1, self._datasets.snapshot(name, later).version - 1)
        panels = {
            "difference": Panel(
                lambda: self._difference(page, earlier, later, query, request, application, identity),
                "kernel/datasets/difference.html",
                "What changed",
            )
        }
        context = {
            "title": page.title,
            "dataset": name,
            "tabs": [
                (each.title, self.compare_link(other, None, None, application), other == name)
                for other, each in self._tabs()
            ],
            "query": query,
            "application": application,
            "versions": self.list_link(name, application),
            "action": f"{self._path}compare/",
        }
        return TemplateResponse("kernel/datasets/compare.html", context, panels=panels)

    def _difference(
        self,
        page: DatasetPage,
        earlier: int | datetime,
        later: int | datetime | None,
        query: CompareQuery,
        request: Request,
        application: Application | None,
        identity: Identity,
    ) -> Mapping[str, Any]:
        name = page.dataset.name
        found = self._datasets.compare(name, earlier, later, application)
        versions = [self._datasets.snapshot(name, each) for each in (found.from_version, found.to_version)]
        chosen = _KINDS if query.kind is None else (query.kind,)
        # Only those of the page are compared field by field.
        raw = [(kind, each) for kind in chosen for each in getattr(found, kind)]
        pages = count_pages(len(raw), _ENTRIES_PER_PAGE)
        if query.page > pages:
            raise page_not_found(query.page, pages)
        shown = raw[(query.page - 1) * _ENTRIES_PER_PAGE : query.page * _ENTRIES_PER_PAGE]
        names = {
            getattr(item, page.dataset.key): page.name_of(item)
            for item in self._datasets.read(name, application, found.to_version).items
        }
        entries = [self._entry(page, kind, each, found, names, application) for kind, each in shown]
        counts = [(kind, len(getattr(found, kind))) for kind in _KINDS]

        def of(number: int) -> str:
            return page_link(request.url_path, request, page=number if number > 1 else None)

        is_current = found.to_version == self._datasets.snapshot(name).version
        return {
            # What an application sees is not all that a rollback changes.
            "may_roll_back": identity.is_staff
            and application is None
            and is_current
            and found.from_version < found.to_version,
            "action": self._path,
            "dataset": name,
            "found": found,
            "earlier": versions[0],
            "later": versions[1],
            "kinds": [
                (kind, count, page_link(request.url_path, request, kind=kind, page=None)) for kind, count in counts
            ],
            "all": page_link(request.url_path, request, kind=None, page=None),
            "kind": query.kind,
            "entries": entries,
            "count": sum(count for _, count in counts),
            "previous": of(query.page - 1) if query.page > 1 else None,
            "next": of(query.page + 1) if query.page < pages else None,
        }

    def _entry(
        self,
        page: DatasetPage,
        kind: Kind,
        each: Any,
        found: Difference,
        names: Mapping[Any, str],
        application: Application | None,
    ) -> Entry:
        name = page.dataset.name
        if kind == "changed":
            text = names.get(each.key, str(each.key))
            link = self._presentation.link_as(text, name, each.key, application, as_of=found.to_version)
            fields = [diff_field(page.label(field), value.before, value.after) for field, value in each.fields.items()]
            return Entry(kind, link, fields)
        as_of = found.to_version if kind == "added" else found.from_version
        return Entry(kind, self._presentation.link(page, each, application, as_of=as_of))

    # --- both -------------------------------------------------------------------------------------------------------

    def _tabs(self) -> Sequence[tuple[str, DatasetPage]]:
        return tuple(self._presentation.pages.items())

    def _find_page(self, name: str | None) -> DatasetPage:
        pages = self._presentation.pages
        if name is None and pages:
            return next(iter(pages.values()))
        if name is None or name not in pages:
            what = "There are no datasets." if name is None else f"Unknown dataset: {name:.80}"
            raise NotFoundError(what, detail=f"datasets: {', '.join(pages) or 'none'}")
        return pages[name]


def _is_alike(one: Publication, other: Publication) -> bool:
    return (one.outcome, one.reason, one.source) == (other.outcome, other.reason, other.source)
