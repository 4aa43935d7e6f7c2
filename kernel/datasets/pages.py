"""Pages of datasets for people: tables, single items, versions and what changed, and what an application does not see.

A plugin says how its datasets are shown, and gets all of these pages::

    products = DatasetPage(dataset=PRODUCTS, title="Products", columns=("name", "price"), filters=("kind",))
    return DatasetPages(services, "/shop/", [products]).routes()

They show what the routes of datasets return, and take the same parameters: as an application sees it, as of a version.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import quote

import msgspec

from kernel.contracts import Application, Handler, Route
from kernel.conversion import base_type, field_types
from kernel.datasets.presentation import (
    AnyPresentation,
    DatasetPage,
    FieldDifference,
    Link,
    Presentation,
    diff_fields,
)
from kernel.datasets.query import DatasetQuery, parse_as_of, query_struct
from kernel.datasets.version_pages import VersionPages
from kernel.datasets.views import View
from kernel.errors import NotFoundError, UnavailableError
from kernel.http.lists import is_scalar, select_items
from kernel.http.pages import page_link
from kernel.http.pagination import count_pages, page_not_found, page_size_of
from kernel.http.panels import Panel
from kernel.http.request import Request
from kernel.http.response import TemplateResponse
from kernel.http.search import Search, SearchResult
from kernel.identity import Identity

if TYPE_CHECKING:
    from kernel.services import Services

# With more values, a filter is a text and no choice.
_CHOICES_MAX = 100
_REFERENCES_MAX = 50
# How far back the history of an item is read.
_HISTORY_VERSIONS = 50
_HISTORY_MAX_BYTES = 16 * 1024 * 1024
_PAGE_SIZE = 50
# Of an item that is found.
_TITLE_MAX = 120
_APPLICATION = "application"
# What is neither a filter nor a search.
_NO_FILTERS = frozenset({"page", "page_size", "ordering", _APPLICATION, "as_of"})


class ViewQuery(msgspec.Struct, frozen=True):
    """Parameters of pages of an application's view.

    Args:
        application: Slug of the application whose view is shown; by default the view without filters.
    """

    application: str | None = None


class ItemQuery(ViewQuery, frozen=True):
    """Parameters of the page of an item.

    Args:
        as_of: A version, or a time; a date alone is the end of that day, UTC.
    """

    as_of: str = ""


class Filter(NamedTuple):
    """A filter in the form of a table.

    Args:
        field: Its parameter.
        label: For people.
        value: What is chosen; empty for all.
        choices: Value, name and number of items; None if there are too many to choose from.
    """

    field: str
    label: str
    value: str
    choices: Sequence[tuple[str, str, int]] | None


class Heading(NamedTuple):
    """The heading of a column.

    Args:
        label: For people.
        href: Sorts by it; None if it cannot be sorted.
        direction: The current one, as of ``aria-sort``.
        is_number: Whether it has numbers.
    """

    label: str
    href: str | None
    direction: str
    is_number: bool


class Change(NamedTuple):
    """What a version did to an item.

    Args:
        version: Its number.
        published_at: When.
        kind: ``added``, ``removed``, ``changed``, or ``first`` for the oldest version that is known.
        fields: What changed.
        href: Compares that version with the one before; None for the oldest.
    """

    version: int
    published_at: Any
    kind: str
    fields: Sequence[FieldDifference]
    href: str | None


class HiddenItems(NamedTuple):
    """What one filter hides.

    Args:
        filter: Its key.
        hidden: How many items.
        items: The first of them.
    """

    filter: str
    hidden: int
    items: Sequence[Link]


class DatasetPages:
    """The pages of a plugin's datasets: below its path, one for each dataset and item, ``versions/`` and ``hidden/``.

    Args:
        services: Of the plugin.
        path: Begins and ends with ``/``.
        pages: How each dataset is shown. None shows versions of all datasets of the service, and what applications do
            not see of them; links lead to the pages that their plugins have.
        setup: Says what to do while nothing was published.
        job_page: Path of the page of a job, with ``{id}``.
        status_page: Path of a page that says how fresh the data are.
    """

    def __init__(
        self,
        services: Services,
        path: str,
        pages: Sequence[DatasetPage] | None,
        *,
        setup: Callable[[], str] | None = None,
        job_page: str | None = None,
        status_page: str | None = None,
    ) -> None:
        self._datasets = services.datasets
        self._applications = services.applications
        self._http = services.kernel_settings.http
        self._setup = setup
        self._status_page = status_page
        if pages is None:
            self.presentation: Presentation = AnyPresentation(path, services.datasets)
        else:
            self.presentation = Presentation(path, pages)
            services.datasets.presentations.update(dict.fromkeys(self.presentation.pages, self.presentation))
        self._own = tuple(pages or ())
        self._versions = VersionPages(services, self.presentation, self.application, job_page)

    def routes(self) -> list[Route]:
        """Return the routes of all pages."""
        routes: list[Route] = []
        for page in self._own:
            dataset, path = page.dataset, f"{self.presentation.path}{page.dataset.name}/"
            table = Route(
                path=path,
                handler=_handler(self.table, page),
                policy="read",
                menu=page.title if page.in_menu else None,
                query=_table_query(page),
                description=f"Show {page.title.lower()} in a table.",
            )
            item = Route(
                path=f"{path}{{{dataset.key}}}/",
                handler=_item_handler(self.item, page),
                policy="read",
                path_types={dataset.key: field_types(dataset.item)[dataset.key]},
                description=f"Show one of {page.title.lower()}, and its history.",
            )
            routes += (table, item)
        hidden = Route(
            path=f"{self.presentation.path}hidden/",
            handler=self.hidden,
            policy="read",
            description="Show which items an application does not see, and which of its filters hide them.",
        )
        return [*routes, *self._versions.routes("Versions" if self._own else None), hidden]

    def searches(self) -> list[Search]:
        """Return searches that find items by their names and keys, for ``register_searches``."""
        return [Search(name=page.title, find=partial(self._search, page)) for page in self._own]

    def _search(self, page: DatasetPage, text: str, identity: Identity, limit: int) -> Sequence[SearchResult]:
        wanted = text.casefold()
        # Whoever is limited to applications finds what these see.
        views = (None,) if identity.applications is None else self._applications.readable
        found: dict[Any, tuple[bool, str, SearchResult]] = {}
        for application in views:
            view = self.find_view(page.dataset.name, application)
            for item in () if view is None else view.items:
                key, name = getattr(item, page.dataset.key), page.name_of(item)
                if key not in found and (wanted in name.casefold() or wanted in str(key).casefold()):
                    link = self.presentation.item_link(page.dataset.name, key, application)
                    result = SearchResult(name[:_TITLE_MAX], link, str(key)[:_TITLE_MAX])
                    found[key] = (not name.casefold().startswith(wanted), name, result)
        return [result for _, _, result in sorted(found.values(), key=itemgetter(0, 1))[:limit]]

    def application(self, slug: str | None, identity: Identity) -> Application | None:
        """Return the application whose view is asked for; None for the view without filters.

        Raises:
            NotFoundError: There is none of that slug.
            ForbiddenError: The identity may not read that view.
        """
        identity.ensure_application(slug)
        return None if slug is None else self._applications.find(slug)

    # --- tables -----------------------------------------------------------------------------------------------------

    def table(self, page: DatasetPage, request: Request, query: DatasetQuery, identity: Identity) -> TemplateResponse:
        """Show the items of a dataset in a table."""
        application = self.application(getattr(query, _APPLICATION), identity)
        related = self._related(page, application)
        sent = _sent(query)
        chosen = {name: value for name, value in sent.items() if name not in _NO_FILTERS}
        context = {
            "page": page,
            "query": query,
            "application": application,
            "filters": self._filters(page, query, application, related),
            "chosen": chosen,
            "kept": {name: sent[name] for name in ("ordering", "page_size", _APPLICATION, "as_of") if name in sent},
            "table": self.presentation.table_link(page.dataset.name, application),
            "versions": self._versions.list_link(page.dataset.name, application),
            "hidden": f"{self.presentation.path}hidden/",
            "api": None if page.api is None else _api_link(page.api, application, sent),
        }
        panels = {
            "items": Panel(
                lambda: self._items(page, request, query, application, related),
                "kernel/datasets/items.html",
                f"Matching {page.title.lower()}" if chosen else f"All {page.title.lower()}",
            )
        }
        return TemplateResponse("kernel/datasets/table.html", context, panels=panels)

    def _items(
        self,
        page: DatasetPage,
        request: Request,
        query: DatasetQuery,
        application: Application | None,
        related: Mapping[str, Mapping[Any, Any]],
    ) -> Mapping[str, Any]:
        view = self.find_view(page.dataset.name, application, query.as_of)
        if view is None:
            return {"view": None, "setup": self._setup() if self._setup is not None else ""}
        selected = select_items(view.items, query, page.dataset.item)
        size = page_size_of(query.page_size, _PAGE_SIZE, self._http.page_size_max)
        number, pages = query.page or 1, count_pages(len(selected), size)
        if number > pages:
            raise page_not_found(number, pages)
        referrers = self._count_referrers(page, application)
        return {
            "view": view,
            "current": None if not query.as_of else self._datasets.snapshot(page.dataset.name).version,
            "hidden": len(view.snapshot.items) - len(view.items),
            "why": self.hidden_link(application, page.dataset.name),
            "status": self._status_page,
            "application": application,
            "selected": len(selected),
            "number": number,
            "pages": pages,
            "previous": _page_of(request, number - 1) if number > 1 else None,
            "next": _page_of(request, number + 1) if number < pages else None,
            "headings": [
                *_headings(page, request, query),
                *(Heading(each, None, "", is_number=True) for each in referrers),
            ],
            "rows": [
                self._row(page, item, related, referrers, application)
                for item in selected[(number - 1) * size : number * size]
            ],
            "title": page.title,
        }

    def _row(
        self,
        page: DatasetPage,
        item: Any,
        related: Mapping[str, Mapping[Any, Any]],
        referrers: Mapping[str, tuple[str, str, Counter[Any]]],
        application: Application | None,
    ) -> Mapping[str, Any]:
        key = getattr(item, page.dataset.key)
        counts = [
            (label, count, self.presentation.table_link(name, application, **{field: key}) if count else None)
            for label, (name, field, counter) in referrers.items()
            for count in (counter[key],)
        ]
        cells = [self.presentation.cell(page, field, item, related, application) for field in page.columns[1:]]
        first = self.presentation.cell(page, page.columns[0], item, related, application)
        href = self.presentation.item_link(page.dataset.name, key, application)
        text = first.content if isinstance(first.content, str) else str(key)
        return {"first": Link(text, href), "cells": cells, "counts": counts}

    def _filters(
        self,
        page: DatasetPage,
        query: DatasetQuery,
        application: Application | None,
        related: Mapping[str, Mapping[Any, Any]],
    ) -> Sequence[Filter]:
        items: Sequence[Any] = ()
        # The panel of the items says what is wrong.
        with suppress(UnavailableError, NotFoundError):
            items = self._read(page.dataset.name, application, query.as_of).items
        return [_filter(page, field, query, items, self._names(page, field, related)) for field in page.filters]

    def _names(
        self, page: DatasetPage, field: str, related: Mapping[str, Mapping[Any, Any]]
    ) -> Callable[[object], str]:
        target = page.dataset.relations.get(field, "")
        other, items = self.presentation.pages.get(target), related.get(target, {})
        if other is None:
            return str
        return lambda key: other.name_of(items[key]) if key in items else str(key)

    # --- items ------------------------------------------------------------------------------------------------------

    def item(self, page: DatasetPage, query: ItemQuery, identity: Identity, **path_parameters: Any) -> TemplateResponse:
        """Show an item, what refers to it, and what became of it over time.

        Raises:
            NotFoundError: There is none of this key, or the application does not see it.
            UnavailableError: Nothing was published yet.
        """
        application = self.application(query.application, identity)
        [key] = path_parameters.values()
        view = self._read(page.dataset.name, application, query.as_of)
        item = _find(view, key)
        if item is None:
            raise _not_found(page, view, key, application)
        related = self._related(page, application)
        fields = [each for each in field_types(page.dataset.item) if getattr(item, each) is not msgspec.UNSET]
        name = page.dataset.name
        panels = {
            f"{other.dataset.name}-{field}": Panel(
                partial(self._references, other, field, key, application),
                "kernel/datasets/references.html",
                other.title if field in (name, name.removesuffix("s")) else f"{other.title} by {other.label(field)}",
            )
            for other, field in self.presentation.referrers(name)
        }
        panels["history"] = Panel(
            lambda: {"changes": list(self._history(page, key, application)), "versions": _HISTORY_VERSIONS},
            "kernel/datasets/history.html",
            "History",
        )
        cells = [self.presentation.cell(page, each, item, related, application, is_whole=True) for each in fields]
        context = {
            "page": page,
            "name": page.name_of(item),
            "key": key,
            "application": application,
            "cells": [each for each in cells if each.kind != "none"],
            "empty": [each.label for each in cells if each.kind == "none"],
            "version": view.snapshot.version,
            "published_at": view.snapshot.published_at,
            "current": self.presentation.item_link(name, key, application) if query.as_of else None,
            "table": self.presentation.table_link(name, application),
            "panel_names": list(panels),
            "api": None if page.api is None else _item_api_link(page.api, key, application, query.as_of),
        }
        return TemplateResponse("kernel/datasets/item.html", context, panels=panels)

    def _references(
        self, other: DatasetPage, field: str, key: object, application: Application | None
    ) -> Mapping[str, Any]:
        view = self._read(other.dataset.name, application)
        found = [item for item in view.items if key in _keys_in(item, field)]
        return {
            "items": [self.presentation.link(other, item, application) for item in found[:_REFERENCES_MAX]],
            "count": len(found),
            "everything": self.presentation.table_link(other.dataset.name, application, **{field: key}),
            "title": other.title,
        }

    def _history(self, page: DatasetPage, key: object, application: Application | None) -> Iterator[Change]:
        """Yield what versions did to an item, latest first, as far back as is read."""
        name = page.dataset.name
        later, later_version = None, None
        found = self._datasets.read_back(name, application, versions=_HISTORY_VERSIONS, max_bytes=_HISTORY_MAX_BYTES)
        for version, view in found:
            item = _find(view, key)
            if later_version is not None and item != later:
                kind = "added" if item is None else "removed" if later is None else "changed"
                fields = diff_fields(page, item, later) if kind == "changed" else ()
                href = self._versions.compare_link(name, version.version, later_version.version, application)
                yield Change(later_version.version, later_version.published_at, kind, fields, href)
            later, later_version = item, version
        if later is not None and later_version is not None:
            yield Change(later_version.version, later_version.published_at, "first", (), None)

    # --- what an application does not see ---------------------------------------------------------------------------

    def hidden(self, query: ViewQuery, identity: Identity) -> TemplateResponse:
        """Show which items an application does not see, and which of its filters hide them."""
        application = None
        if query.application is not None:
            application = self.application(query.application, identity)
        panels: dict[str, Panel] = {}
        if application is not None:
            panels = {
                page.dataset.name: Panel(
                    partial(self._explain, page, application, identity), "kernel/datasets/explained.html", page.title
                )
                for page in self.presentation.pages.values()
            }
        else:
            panels = {"applications": Panel(self._counts, "kernel/datasets/applications.html", "Applications")}
        context = {
            "application": application,
            "panel_names": list(panels),
            "action": f"{self.presentation.path}hidden/",
        }
        return TemplateResponse("kernel/datasets/hidden.html", context, panels=panels)

    def _counts(self) -> Mapping[str, Any]:
        """Return how much each application sees."""
        pages = self.presentation.pages.values()
        rows = [
            (Link(each.name, self.hidden_link(each)), [self._count(page, each) for page in pages])
            for each in self._applications.readable
        ]
        return {"rows": rows, "titles": [page.title for page in pages]}

    def _count(self, page: DatasetPage, application: Application) -> str:
        try:
            view = self._datasets.read(page.dataset.name, application)
        except UnavailableError:
            return "unknown"
        return f"{len(view.items):,} of {len(view.snapshot.items):,}"

    def _explain(self, page: DatasetPage, application: Application, identity: Identity) -> Mapping[str, Any]:
        view = self._datasets.read(page.dataset.name, application)
        # Whoever is limited to applications learns the keys, as from the API, and nothing else.
        everything: Mapping[Any, Any] = _by_key(view.snapshot.items, page) if identity.applications is None else {}
        hidden = [
            HiddenItems(
                each.filter,
                each.hidden,
                [
                    self.presentation.link(page, everything[key]) if key in everything else Link(str(key))
                    for key in each.keys
                ],
            )
            for each in view.hidden
        ]
        return {
            "title": page.title,
            "seen": len(view.items),
            "count": len(view.snapshot.items),
            "filters": hidden,
            "broken": list(islice(self._broken(page, view, application), _REFERENCES_MAX)),
            "table": self.presentation.table_link(page.dataset.name, application),
        }

    def _broken(
        self, page: DatasetPage, view: View, application: Application
    ) -> Iterator[tuple[Link, Sequence[tuple[str, Sequence[str]]]]]:
        """Yield the items that an application sees and that refer to some that it does not see, by field."""
        related = self._related(page, application)
        for item in view.items:
            gone = [
                (page.label(field), keys)
                for field, target in page.dataset.relations.items()
                if target in related and (keys := [key for key in _keys_in(item, field) if key not in related[target]])
            ]
            if gone:
                yield self.presentation.link(page, item, application), gone

    # --- reading ----------------------------------------------------------------------------------------------------

    def _read(self, name: str, application: Application | None, as_of: str = "") -> View:
        return self._datasets.read(name, application, parse_as_of(as_of) if as_of else None)

    def find_view(self, name: str, application: Application | None, as_of: str = "") -> View | None:
        """Return what an application sees of a dataset; None if nothing was ever published.

        Args:
            name: Of the dataset.
            application: Whose filters are applied.
            as_of: A version or a time; the current version by default.
        """
        try:
            view = self._read(name, application, as_of)
        except UnavailableError:
            if self._datasets.versions(name, 1):
                raise
            return None
        return view if view.snapshot.version else None

    def _related(self, page: DatasetPage, application: Application | None) -> Mapping[str, Mapping[Any, Any]]:
        """Return the items that a dataset may refer to, by dataset and key, as far as they can be read."""
        found: dict[str, Mapping[Any, Any]] = {}
        for name in {*page.dataset.relations.values()}:
            other = self.presentation.pages.get(name)
            if other is not None:
                with suppress(UnavailableError):
                    found[name] = _by_key(self._datasets.read(name, application).items, other)
        return found

    def _count_referrers(
        self, page: DatasetPage, application: Application | None
    ) -> Mapping[str, tuple[str, str, Counter[Any]]]:
        """Return, by the heading of a column, which dataset refers to the items by which field, and how often."""
        found: dict[str, tuple[str, str, Counter[Any]]] = {}
        for other, field in self.presentation.referrers(page.dataset.name):
            with suppress(UnavailableError):
                items = self._read(other.dataset.name, application).items
                counter = Counter(key for item in items for key in _keys_in(item, field))
                found[other.title if other.title not in found else f"{other.title}: {other.label(field)}"] = (
                    other.dataset.name,
                    field,
                    counter,
                )
        return found

    def hidden_link(self, application: Application | None, name: str = "") -> str | None:
        """Return the link to what an application does not see, of one dataset or of all; None for no application."""
        if application is None:
            return None
        link = page_link(f"{self.presentation.path}hidden/", application=application.slug)
        return f"{link}#{name}" if name else link


def _handler(method: Callable[..., TemplateResponse], page: DatasetPage) -> Handler:
    def show(request: Request, query: DatasetQuery, identity: Identity) -> TemplateResponse:
        return method(page, request, query, identity)

    return show


def _item_handler(method: Callable[..., TemplateResponse], page: DatasetPage) -> Handler:
    def show(query: ItemQuery, identity: Identity, **path_parameters: Any) -> TemplateResponse:
        return method(page, query, identity, **path_parameters)

    return show


def _table_query(page: DatasetPage) -> type[DatasetQuery]:
    """Return the Struct of the parameters of a table: those of the API, and the application."""
    base = query_struct(page.dataset.item)
    fields: list[tuple[str, Any, Any]] = [(_APPLICATION, str | None, None)]
    namespace = {"reserved": base.reserved | {_APPLICATION}, "__doc__": ViewQuery.__doc__}
    made: Any = msgspec.defstruct(
        f"{base.__name__[:-5]}TableQuery", fields, bases=(base,), namespace=namespace, frozen=True
    )
    return cast("type[DatasetQuery]", made)


def _sent(query: DatasetQuery) -> dict[str, Any]:
    """Return the parameters that are not the default."""
    return {
        field.name: value
        for field in msgspec.structs.fields(query)
        if (value := getattr(query, field.name)) != field.default and value is not msgspec.UNSET
    }


def _filter(
    page: DatasetPage, field: str, query: DatasetQuery, items: Sequence[Any], name_of: Callable[[object], str]
) -> Filter:
    wanted = getattr(query, field)
    value = "" if wanted is msgspec.UNSET else _as_parameter(wanted)
    counter: Counter[str] = Counter()
    names: dict[str, str] = {}
    for item in items:
        for each in _keys_in(item, field):
            text = _as_parameter(each)
            counter[text] += 1
            if text not in names:
                names[text] = name_of(each)
                if len(names) > _CHOICES_MAX:
                    return Filter(field, page.label(field), value, None)
    if value and value not in names:
        names[value] = value
    choices = [(each, names[each], counter[each]) for each in sorted(names, key=lambda each: names[each].casefold())]
    return Filter(field, page.label(field), value, choices)


def _as_parameter(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _headings(page: DatasetPage, request: Request, query: DatasetQuery) -> Iterator[Heading]:
    types = field_types(page.dataset.item)
    for field in page.columns:
        kind = base_type(types[field])
        direction = {field: "ascending", f"-{field}": "descending"}.get(query.ordering, "")
        ordering = f"-{field}" if direction == "ascending" else field
        href = page_link(request.url_path, request, ordering=ordering, page=None) if is_scalar(kind) else None
        yield Heading(page.label(field), href, direction, kind in (int, float))


def _page_of(request: Request, number: int) -> str:
    return page_link(request.url_path, request, page=number if number > 1 else None)


def _api_path(path: str, application: Application | None) -> str:
    return path if application is None else path.replace("/public/", f"/public/{application.slug}/", 1)


def _api_link(path: str, application: Application | None, sent: Mapping[str, Any]) -> str:
    parameters = {name: _as_parameter(value) for name, value in sent.items() if name != _APPLICATION}
    return page_link(_api_path(path, application), None, **parameters)


def _item_api_link(path: str, key: object, application: Application | None, as_of: str) -> str:
    return page_link(f"{_api_path(path, application)}{quote(str(key), safe='')}/", as_of=as_of or None)


def _find(view: View, key: object) -> Any:
    return next((item for item in view.items if getattr(item, view.dataset.key) == key), None)


def _by_key(items: Iterable[Any], page: DatasetPage) -> Mapping[Any, Any]:
    return {getattr(item, page.dataset.key): item for item in items}


def _keys_in(item: Any, field: str) -> Sequence[Any]:
    """Return the keys, or other values, that a field holds."""
    value = getattr(item, field)
    if isinstance(value, list | tuple | set | frozenset):
        return tuple(value)
    return () if value in (None, "") or value is msgspec.UNSET else (value,)


def _not_found(page: DatasetPage, view: View, key: object, application: Application | None) -> NotFoundError:
    name = page.dataset.name
    if application is None or all(getattr(item, page.dataset.key) != key for item in view.snapshot.items):
        return NotFoundError(f"{name} has no {page.dataset.key} {key!r:.80}.")
    by = next((each.filter for each in view.hidden if key in each.keys), None)
    why = f"its filter {by!r} hides it" if by is not None else "one of its filters hides it"
    return NotFoundError(f"{application.name} does not see this item: {why}.")
