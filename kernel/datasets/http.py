"""The routes of datasets and of indexes: from a request to a cached response, and how a response is built.

A hit reads ``DatasetRoute.get`` -> ``ResponseCache.get`` -> bytes. A miss reads on in ``DatasetRoute._build``: the
application's view of each snapshot (``views``), the derivation, the query, the page, the related items.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

import msgspec

from kernel.contracts import Application, Dataset, Handler, Policy, Route
from kernel.conversion import field_types
from kernel.datasets.accounts import account_of, cached_for
from kernel.datasets.models import SHARED, Outcome, Publication, Snapshot, file_pattern, pattern_fields
from kernel.datasets.query import (
    DatasetQuery,
    PageNumbers,
    include_related,
    paginate,
    parse_as_of,
    query_struct,
    relations_in,
    shown_struct,
)
from kernel.datasets.response_cache import ResponseCache
from kernel.datasets.snapshots import Snapshots
from kernel.datasets.views import View, Views
from kernel.docstrings import describe
from kernel.errors import NotFoundError, UnavailableError
from kernel.http.compression import accepted_coding
from kernel.http.lists import select_items
from kernel.http.pagination import page_link, page_size_of
from kernel.http.request import Request
from kernel.http.response import Listing, PreparedResponse, Single, envelope_meta, listing
from kernel.settings import HttpSettings
from kernel.signatures import accepts_any_keyword, parameter_types
from kernel.tracking import measure

# Prefix and suffix of the name under which a response is cached; the slug of an application comes between them.
CacheName = tuple[str, str]
PathParameters = Mapping[str, Any]
_state_of = attrgetter("account", "version", "sha256", "warning")
_fresh_at = attrgetter("fresh_at")

# --- specifications of routes ---------------------------------------------------------------------------------------


class Derived(msgspec.Struct, frozen=True):
    """Items that a derivation made.

    Args:
        items: In the order in which they are shown.
        meta: Further members of ``meta``.
    """

    items: Sequence[Any]
    meta: Mapping[str, Any] = {}


class Derivation(msgspec.Struct, frozen=True):
    """How a route makes its items from those of one or more datasets.

    Args:
        item: The Struct of the items it makes.
        derive: A pure function that returns ``Derived``. It is called by name, with what the application sees:
            ``items`` of the route's dataset; ``previous``, the items of the version before, if it takes them; and the
            items of each of ``other_datasets`` under its name, with ``_`` for ``-``.
        other_datasets: Further datasets, read as of the same time.
    """

    item: type[msgspec.Struct]
    derive: Callable[..., Derived]
    other_datasets: tuple[Dataset, ...] = ()

    @property
    def other_names(self) -> tuple[str, ...]:
        """The parameters of ``derive`` that take the items of ``other_datasets``, in that order."""
        return tuple(dataset.name.replace("-", "_") for dataset in self.other_datasets)

    def arguments(self) -> frozenset[str]:
        """Return the names of the arguments that ``derive`` is called with.

        Raises:
            TypeError: It cannot be called with them.
        """
        needed = {"items", *self.other_names}
        if len(needed) <= len(self.other_names) or "previous" in needed:
            raise TypeError(f"{self.derive.__qualname__}: two arguments have one name: {', '.join(self.other_names)}")
        taken = parameter_types(self.derive, {*needed, "previous"}).keys()
        if accepts_any_keyword(self.derive):
            return frozenset({*needed, "previous"})
        if missing := sorted(needed - taken):
            raise TypeError(f"{self.derive.__qualname__} does not take {', '.join(map(repr, missing))}")
        return frozenset(taken)


class RouteSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Where a route is served, and to whom.

    Args:
        owner: The plugin that registers it.
        path: Path of the unfiltered view; it contains ``/public/``.
        policy: Who may use the route.
        menu: Label of the route in lists of routes.
        aliases: Further paths.
        cache_name: Prefix and suffix of the names of its cached responses; ``{owner}_data`` and a file name by default.
    """

    owner: str
    path: str
    policy: Policy = "public"
    menu: str | None = None
    aliases: tuple[str, ...] = ()
    cache_name: CacheName | None = None

    def route(
        self,
        handler: Handler,
        *,
        description: str,
        body: Any,
        query: type[msgspec.Struct] | None = None,
        path_types: Mapping[str, Any] | None = None,
    ) -> Route:
        """Return the route, unfiltered and per application.

        Args:
            handler: Of GET.
            description: What it returns.
            body: Type of the body.
            query: The Struct of the query string.
            path_types: Types of the path parameters.
        """
        return Route(
            path=self.path,
            handler=handler,
            policy=self.policy,
            aliases=self.aliases,
            menu=self.menu,
            per_application=True,
            query=query,
            path_types=path_types or {},
            description=description,
            responses={200: body},
        )

    def cached_as(self, file: str, application: Application | None, parameters: PathParameters) -> str:
        """Return the name of a cached response, such as ``club_data_skyflow_hero-metrics.json``.

        Args:
            file: Second part of the name, unless ``cache_name`` is set.
            application: Whose response it is.
            parameters: Values for the fields in braces of the name.
        """
        first, last = self.cache_name or (f"{self.owner}_data", file)
        name = f"{first}_{last}" if application is None else f"{first}_{application.slug}_{last}"
        return name.format_map(parameters) if parameters else name


def find_owned(datasets: Sequence[Dataset], policy: Policy) -> Dataset | None:
    """Return the first of a route's datasets that each account has for itself; None if all are shared.

    Raises:
        TypeError: There is one, and the route is public, so that nobody knows for which account a request is.
    """
    owned = next((dataset for dataset in datasets if dataset.per_account), None)
    if owned is not None and policy == "public":
        raise TypeError(f"{owned.name} is a dataset of accounts, but the route is public: nobody is authenticated")
    return owned


class ViewSpec(RouteSpec, frozen=True, kw_only=True):
    """What a route shows of a dataset.

    Args:
        dataset: The dataset.
        one: Show one item, not a list.
        derivation: Makes the items that are shown; those of the dataset by default.
    """

    dataset: Dataset
    one: bool = False
    derivation: Derivation | None = None

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """Every dataset that is shown, or that the derivation reads."""
        return (self.dataset, *(() if self.derivation is None else self.derivation.other_datasets))

    @property
    def item(self) -> type[msgspec.Struct]:
        """The Struct of the items that are shown."""
        return self.dataset.item if self.derivation is None else self.derivation.item

    @property
    def path_types(self) -> dict[str, Any]:
        """Types of the path parameters, each of which selects by the field of that name.

        Raises:
            TypeError: Items have no such field.
        """
        types = field_types(self.dataset.item)
        names = pattern_fields(self.path)
        for name in names:
            if name not in types:
                raise TypeError(f"{self.dataset.item.__name__} has no field {name!r}, which the path names")
        return {name: types[name] for name in names}

    @property
    def file(self) -> str:
        """The file of the dataset, after which responses are named. The path selects one if there are several."""
        file = file_pattern(self.dataset)
        return file if set(pattern_fields(file)) <= set(pattern_fields(self.path)) else f"{self.dataset.name}.json"

    def cache_key(self, request: Request, snapshots: Sequence[Snapshot]) -> Hashable:
        """Return everything that a response depends on.

        Args:
            request: Its path names route, application and path parameters.
            snapshots: All that the response is made of.
        """
        env = request.env
        return (
            env.get("SCRIPT_NAME"),
            env["PATH_INFO"],
            # A slash that was encoded separates no segments.
            request.path,
            request.query_string,
            accepted_coding(request),
            *map(_state_of, snapshots),
        )


class IndexSpec(RouteSpec, frozen=True, kw_only=True):
    """An index of datasets.

    Args:
        datasets: Which are listed, in this order.
        file: Name of the file that ``tiercel data export`` writes.
    """

    datasets: Sequence[Dataset]
    file: str


# --- datasets -------------------------------------------------------------------------------------------------------


class DatasetRoute:
    """Serves one view of a dataset.

    Args:
        spec: What to show.
        snapshots: The snapshots of this process.
        views: The views of this process.
        responses: The cached responses of this route.
        settings: Page sizes.

    Raises:
        TypeError: The path names a field that items do not have, the derivation takes other arguments, or the route is
            public and shows a dataset of accounts.
    """

    def __init__(
        self, spec: ViewSpec, snapshots: Snapshots, views: Views, responses: ResponseCache, settings: HttpSettings
    ) -> None:
        self._spec = spec
        self._name = spec.dataset.name
        self._owned = find_owned(spec.datasets, spec.policy)
        self._snapshots = snapshots
        self._views = views
        self._responses = responses
        self._settings = settings
        self._path_types = spec.path_types
        self._relations = relations_in(spec.dataset, spec.item)
        self._others: tuple[str, ...] = ()
        self._takes_previous = False
        if spec.derivation is not None:
            self._others = tuple(each.name for each in spec.derivation.other_datasets)
            self._takes_previous = "previous" in spec.derivation.arguments()
        if self._takes_previous:
            snapshots.hold_previous(self._name)

    def route(self) -> Route:
        """Return the route."""
        spec = self._spec
        item: Any = shown_struct(spec.item, tuple(self._relations))
        body: Any = Single[item] if spec.one else Listing[item]
        what = spec.dataset.name.replace("-", " ")
        action = f"Show one of {what}" if spec.one else f"List {what}"
        return spec.route(
            self.get,
            description=f"{action}, as an application sees them.\n\n{describe(item.__doc__)}",
            body=body,
            query=query_struct(spec.item, tuple(self._relations)),
            path_types=self._path_types,
        )

    def get(
        self, request: Request, application: Application | None, query: DatasetQuery, **path_parameters: Any
    ) -> PreparedResponse:
        """Respond to a request.

        Raises:
            NotFoundError: There is no such item, page or version.
            UnavailableError: Nothing was published yet, or a filter of the application fails.
        """
        account = SHARED if self._owned is None else account_of(self._owned)
        if query.include or query.as_of or self._others:
            snapshots = self._read_snapshots(query, account)
        else:
            snapshots = (self._snapshots.current(self._name, account),)
        key = self._spec.cache_key(request, snapshots)
        cached = self._responses.get(key)
        if cached is None:
            with measure("view"):
                body = self._build(snapshots, request, application, query, path_parameters)
            name = cached_for(self._spec.cached_as(self._spec.file, application, path_parameters), account)
            cached = self._responses.add(key, name, request, body, version=snapshots[0].version)
        # As old as its oldest part.
        return self._responses.respond(request, cached, min(map(_fresh_at, snapshots)))

    def _read_snapshots(self, query: DatasetQuery, account: int) -> Sequence[Snapshot]:
        """Return the snapshots of the dataset itself, of those the derivation reads, and of those to include from."""
        names = (self._name, *self._others, *(self._relations[field] for field in query.include))
        return self._snapshots.at_same_time(names, parse_as_of(query.as_of) if query.as_of else None, account)

    def _build(
        self,
        snapshots: Sequence[Snapshot],
        request: Request,
        application: Application | None,
        query: DatasetQuery,
        path_parameters: PathParameters,
    ) -> Listing[Any] | Single[Any]:
        """Build the body of a response."""
        spec = self._spec
        view = self._views.view(spec.dataset, snapshots[0], application)
        others = [self._views.view(self._snapshots.dataset(each.dataset), each, application) for each in snapshots[1:]]
        derived = self._derive(view, others[: len(self._others)], application, path_parameters)
        items = select_items(derived.items, query, spec.item)
        if spec.one and not items:
            raise self._not_found(path_parameters)
        meta = {**envelope_meta(request, application, len(items)), **derived.meta}
        if warning := _warning(snapshots):
            meta["warning"] = warning
        if query.explain:
            meta["explain"] = view.hidden
        if spec.one:
            page_size_of(query.page_size, self._settings.page_size, self._settings.page_size_max)
            items = items[:1]
        else:
            items, page = paginate(items, query, self._settings.page_size, self._settings.page_size_max)
            if page is not None:
                meta |= msgspec.structs.asdict(page) | _page_links(request, page)
        if query.include:
            related = dict(zip(query.include, others[len(self._others) :], strict=True))
            items, meta["include"] = include_related(items, related, explain=query.explain)
        return Single(items[0], meta) if spec.one else Listing(items, meta)

    def _derive(
        self, view: View, others: Sequence[View], application: Application | None, path_parameters: PathParameters
    ) -> Derived:
        items = _matching(view.items, path_parameters)
        if path_parameters and not items:
            raise self._not_found(path_parameters)
        derivation = self._spec.derivation
        if derivation is None:
            return Derived(items)
        arguments = {name: other.items for name, other in zip(derivation.other_names, others, strict=True)}
        if self._takes_previous:
            previous = self._snapshots.previous(view.snapshot)
            arguments["previous"] = ()
            if previous is not None:
                seen = self._views.view(self._spec.dataset, previous, application)
                arguments["previous"] = _matching(seen.items, path_parameters)
        return derivation.derive(items=items, **arguments)

    def _not_found(self, path_parameters: PathParameters) -> NotFoundError:
        named = ", ".join(f"{name} {value!r:.80}" for name, value in path_parameters.items())
        return NotFoundError(f"{self._name} has no {named or 'such item'}.")


def _matching(items: Sequence[Any], path_parameters: PathParameters) -> Sequence[Any]:
    for name, value in path_parameters.items():
        items = [item for item in items if getattr(item, name) == value]
    return items


def _warning(snapshots: Sequence[Snapshot]) -> str:
    first, *others = snapshots
    # Two fields may hold keys of one dataset: its warning is given once.
    named = {each.dataset: f"{each.dataset}: {each.warning}" for each in others if each.warning}
    return "; ".join([*([first.warning] if first.warning else ()), *named.values()])


def _page_links(request: Request, page: PageNumbers) -> dict[str, str | None]:
    def link(number: int) -> str:
        return page_link(request, absolute=False, page=str(number))

    return {
        "next": link(page.page + 1) if page.page < page.pages else None,
        "previous": link(page.page - 1) if page.page > 1 else None,
    }


# --- indexes --------------------------------------------------------------------------------------------------------


class IndexAttempt(msgspec.Struct, frozen=True):
    """One attempt to publish a dataset.

    Args:
        at: When.
        outcome: ``published``, ``unchanged`` or ``refused``.
        version: The current version after it.
        reason: Why it was refused.
    """

    at: datetime
    outcome: Outcome
    version: int | None
    reason: str | None


class IndexEntry(msgspec.Struct, frozen=True):
    """What an application sees of one dataset.

    Args:
        dataset: Name of the dataset.
        file: Name of its file; with a field in braces there is one for each value of that field.
        version: The current version; None before the first.
        items: Number of items that the application sees; None where it sees nothing because of ``warning``.
        published_at: When that version was published.
        confirmed_at: When an export last found it unchanged.
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


class _Indexed(msgspec.Struct, frozen=True):
    """What is known of one dataset before any filter."""

    dataset: Dataset
    account: int
    snapshot: Snapshot | None
    warning: str | None
    history: Sequence[Publication]


class IndexRoute:
    """Serves an index of datasets, as an application sees them.

    Args:
        spec: Which datasets.
        snapshots: The snapshots of this process.
        views: The views of this process.
        responses: The cached responses of this route.
        now: Returns the time, which is the age of an index of datasets that were never published.

    Raises:
        TypeError: The route is public, and shows a dataset of accounts.
    """

    def __init__(
        self,
        spec: IndexSpec,
        snapshots: Snapshots,
        views: Views,
        responses: ResponseCache,
        now: Callable[[], datetime],
    ) -> None:
        self._spec = spec
        self._owned = find_owned(spec.datasets, spec.policy)
        self._snapshots = snapshots
        self._views = views
        self._responses = responses
        self._now = now

    @property
    def is_owned(self) -> bool:
        """Whether it differs from account to account."""
        return self._owned is not None

    def route(self) -> Route:
        """Return the route."""
        names = ", ".join(dataset.name for dataset in self._spec.datasets)
        description = f"List the datasets {names}: their versions, and the latest attempts to publish them."
        return self._spec.route(self.get, description=description, body=Listing[IndexEntry])

    def get(self, request: Request, application: Application | None) -> PreparedResponse:
        """Respond to a request.

        Raises:
            UnavailableError: The datasets have not been read yet.
        """
        indexed = [self._read(dataset) for dataset in self._spec.datasets]
        env = request.env
        key: Hashable = (
            env.get("SCRIPT_NAME"),
            env["PATH_INFO"],
            accepted_coding(request),
            *[
                (
                    each.account,
                    each.snapshot and each.snapshot.sha256,
                    each.warning,
                    each.history[0].id if each.history else 0,
                )
                for each in indexed
            ],
        )
        cached = self._responses.get(key)
        if cached is None:
            entries = [self._entry(each, application) for each in indexed]
            account = SHARED if self._owned is None else account_of(self._owned)
            cached = self._responses.add(
                key,
                cached_for(self._spec.cached_as(self._spec.file, application, {}), account),
                request,
                listing(request, application, entries),
            )
        # As old as its oldest part.
        fresh = [each.snapshot.confirmed_at for each in indexed if each.snapshot is not None]
        return self._responses.respond(request, cached, min(filter(None, fresh), default=self._now()))

    def entries(self, application: Application | None = None) -> list[IndexEntry]:
        """Return an entry for each dataset, as an application sees it.

        Raises:
            UnavailableError: The datasets have not been read yet.
        """
        return [self._entry(self._read(dataset), application) for dataset in self._spec.datasets]

    def _read(self, dataset: Dataset) -> _Indexed:
        account = account_of(dataset)
        history = self._snapshots.history(dataset.name, account)
        try:
            snapshot = self._snapshots.current(dataset.name, account)
        except UnavailableError as ex:
            return _Indexed(dataset, account, None, ex.detail, history)
        return _Indexed(dataset, account, snapshot, snapshot.warning, history)

    def _entry(self, indexed: _Indexed, application: Application | None) -> IndexEntry:
        snapshot, items, warning = indexed.snapshot, None, indexed.warning
        if snapshot is not None:
            try:
                items = len(self._views.view(indexed.dataset, snapshot, application).items)
            except UnavailableError as ex:
                warning = ex.detail
        return IndexEntry(
            dataset=indexed.dataset.name,
            file=file_pattern(indexed.dataset),
            version=snapshot.version or None if snapshot is not None else None,
            items=items,
            published_at=snapshot.published_at if snapshot is not None and snapshot.version else None,
            confirmed_at=None if snapshot is None else snapshot.confirmed_at,
            warning=warning,
            history=[IndexAttempt(each.at, each.outcome, each.version, each.reason) for each in indexed.history],
        )
