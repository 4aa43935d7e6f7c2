"""Pages of a resource: a list, a form for each row, and its CSV files, all made from its declaration.

What they show and do is what the API's routes of the same resource do, with the same authorization. Whoever may not do
something sees no button for it.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import msgspec
from psycopg import Connection

from kernel.contracts import Method, Policy, Route
from kernel.conversion import base_type, field_types, struct_fields
from kernel.errors import (
    ApiError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    MalformedError,
    TooLargeError,
)
from kernel.http.csv_files import CsvFiles
from kernel.http.forms import (
    Choice,
    Form,
    FormField,
    FormResponse,
    NoFields,
    Submitted,
    UploadedFile,
    label_of,
    label_of_value,
    make_form,
    redirect,
    texts_of,
)
from kernel.http.lists import ListQuery, is_scalar
from kernel.http.notices import Notice
from kernel.http.pages import first_upper, local_link, page_link
from kernel.http.panels import Panel
from kernel.http.request import Request
from kernel.http.resources import Action, Resource, annotate
from kernel.http.response import Response, TemplateResponse
from kernel.identity import Identity

if TYPE_CHECKING:
    from kernel.services import Services

T = TypeVar("T", bound=msgspec.Struct)
# With more rows than this to choose from, a field takes the number of one.
CHOICES_MAX = 200
# Besides the file itself.
_IMPORT_FORM_BYTES = 64 * 1024
# What a person can do something about on the page itself.
_SHOWN_ERRORS = (InvalidError, ConflictError, ForbiddenError)
_IMPORT_ERRORS = (InvalidError, ConflictError, ForbiddenError, MalformedError, TooLargeError)


class Column(NamedTuple):
    """A column of the list.

    Args:
        name: Of the field.
        label: For people.
        sort_link: The list in the order of this column; None if it has none.
        direction: As ``aria-sort``: in which direction it is sorted now; None for not at all.
        is_number: Whether its values are numbers.
    """

    name: str
    label: str
    sort_link: str | None
    direction: Literal["ascending", "descending"] | None
    is_number: bool


class Cell(NamedTuple):
    """A value for people.

    Args:
        kind: How it is shown.
        value: The value: a text, a time, or texts.
        link: Where it leads; None for nowhere.
    """

    kind: Literal["text", "number", "time", "bool", "list", "none"]
    value: Any = None
    link: str | None = None


class ImportForm(msgspec.Struct, frozen=True):
    """A file to import.

    Args:
        file: CSV in UTF-8, with the columns below. All of it is stored, or nothing if a line is wrong.
        dry_run: Check the file, and store nothing.
    """

    file: UploadedFile
    dry_run: bool = False


class SeenQuery(msgspec.Struct, frozen=True):
    """Parameters of the form of a row.

    Args:
        seen: When the row was last changed, as far as the form knows.
    """

    seen: datetime | None = None


class ResourcePages(Generic[T]):
    """The pages of a resource. Return ``routes()`` from ``register_routes``.

    Example::

        ResourcePages(services, tasks, "/planner/tasks/", menu="Tasks", files=task_files).routes()

    Subclass it to say more: which fields somebody may change, or what follows the creation of a row.

    Attributes:
        row_template: The page of a row; one of a plugin extends ``kernel/resource_row.html``.

    Args:
        services: Those of the plugin.
        resource: The resource.
        path: Path of the list; the other pages are below it.
        menu: The name of the rows for people, and the label in the menu.
        one: The name of one row, in lower case; made of the name of the Struct by default.
        files: Its CSV files.
        columns: The fields in the list, in this order; by default all but ``id``, ``updated_at`` and, where there is
            one only, the account. The first leads to the row.
        actions: What there is besides the list and the rows.
        in_menu: Whether the menu has the list for somebody; for all who may open it by default.
    """

    row_template: ClassVar[str] = "kernel/resource_row.html"

    def __init__(
        self,
        services: Services,
        resource: Resource[T],
        path: str,
        *,
        menu: str,
        one: str | None = None,
        files: CsvFiles[T] | None = None,
        columns: Sequence[str] = (),
        actions: Collection[Action] = ("create", "update", "delete"),
        in_menu: Callable[[Identity], bool] | None = None,
    ) -> None:
        self.resource = resource
        self.path = path
        self.menu = menu
        self.one = one or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", resource.item.__name__).lower()
        self._files = files
        self._in_menu = in_menu
        self._given_columns = tuple(columns)
        self._actions: frozenset[Action] = frozenset({"list", "show", *actions})
        self._row_links = services.row_links
        self._row_links[resource.table] = self.link_to
        self._title = first_upper(self.one)
        self.created, self.saved, self.deleted = (
            Notice(f"{self._title} {done}.") for done in ("created", "saved", "deleted")
        )

    # --- what subclasses change ---------------------------------------------------------------------------------------

    def fields(self, identity: Identity) -> Collection[str]:  # noqa: ARG002 - of subclasses
        """Return the fields that somebody may change; all by default."""
        return tuple(field_types(self.resource.body))

    def choices(self, connection: Connection[Any], identity: Identity) -> Mapping[str, Sequence[Choice]]:
        """Return what can be chosen for fields: the rows that they may refer to, where there are not too many."""
        choices: dict[str, Sequence[Choice]] = {}
        for column in self.resource.references:
            found = self.resource.labels(connection, column, identity, limit=CHOICES_MAX + 1)
            if 0 < len(found) <= CHOICES_MAX:
                choices[column] = [Choice(str(number), label) for number, label in found.items()]
        return choices

    def store(self, value: Any, identity: Identity) -> FormResponse:
        """Create a row of what a form has, and return the response to it: by default, its page follows."""
        with self.resource.transaction(identity) as connection:
            row = self.resource.insert(connection, msgspec.structs.asdict(value), identity)
        return redirect(self._link(row), self.created)

    def row_context(self, row: T, identity: Identity) -> Mapping[str, Any]:  # noqa: ARG002 - of subclasses
        """Return further variables for the page of a row."""
        return {}

    def is_deletable(self, row: T) -> bool:  # noqa: ARG002 - of subclasses
        """Tell whether a row can be deleted by those who may delete rows; each can, by default."""
        return True

    def name_of(self, row: T) -> str:
        """Return what a row is called on its page: its first searched field by default."""
        named = (getattr(row, name) for name in ("name", "title", *self.resource.search) if hasattr(row, name))
        return next((str(each) for each in named if each), "") or f"{self._title} {_number(row)}"

    # --- routes -------------------------------------------------------------------------------------------------------

    def routes(self) -> Sequence[Route]:
        """Return the routes."""
        row, new, file = f"{self.path}{{id}}/", f"{self.path}new/", f"{self.path}import/"
        page, body = TemplateResponse, Submitted[self.resource.body]  # type: ignore[name-defined] # known only now
        number, request = {"id": int}, {"request": Request}
        listed = self._route(
            self.path, "GET", self.list, {**request, "query": self.resource.query_type, "return": page}
        )
        found = [
            msgspec.structs.replace(listed, menu=self.menu, in_menu=self._in_menu),
            self._route(row, "GET", self.show, {**number, "return": page}),
        ]
        if "create" in self._actions:
            found.append(self._route(new, "GET", self.new, {"return": page}))
            found.append(self._route(new, "POST", self.create, {"form": body, "return": FormResponse}))
        if "update" in self._actions:
            of_form = {**number, "query": SeenQuery, "form": Submitted[NoFields], "return": FormResponse}
            found.append(self._route(row, "POST", self.update, of_form))
        if "delete" in self._actions:
            of_form = {**number, "form": Submitted[NoFields], "return": FormResponse}
            found.append(self._route(f"{row}delete/", "POST", self.delete, of_form))
        if self._files is not None:
            imported = self._route(file, "POST", self.load, {"form": Submitted[ImportForm], "return": FormResponse})
            max_bytes = self._files.MAX_BYTES + _IMPORT_FORM_BYTES
            found.append(self._route(file, "GET", self.ask_for_file, {"return": page}))
            found.append(msgspec.structs.replace(imported, body_max_bytes=max_bytes))
        return found

    def _route(self, path: str, method: Method, call: Callable[..., Any], types: Mapping[str, Any]) -> Route:
        def handle(**given: Any) -> Any:
            return call(**given)

        handle.__doc__, handle.__qualname__ = call.__doc__, call.__qualname__
        policy: Policy = "read" if method == "GET" else "write"
        return Route(path=path, method=method, policy=policy, handler=annotate(handle, types))

    # --- pages --------------------------------------------------------------------------------------------------------

    def list(self, request: Request, query: ListQuery, identity: Identity) -> TemplateResponse:
        """Show rows, filtered, searched, sorted and paged."""
        self.resource.authorize("list", identity)

        def load() -> Mapping[str, Any]:
            found = self.resource.list(request=request, query=query, identity=identity)
            columns = self._columns(request, query, identity)
            with self.resource.transaction(identity) as connection:
                names = self._names(connection, found.results, identity)
                filters = self._filters(connection, query, identity)
            return {
                "path": self.path,
                "columns": columns,
                "rows": [
                    [
                        # The first leads to the row.
                        cell if number else cell._replace(link=self._link(row))
                        for number, column in enumerate(columns)
                        for cell in (self._cell(row, column.name, names, identity),)
                    ]
                    for row in found.results
                ],
                "count": found.count,
                "filters": filters,
                "chosen": self._chosen(query, names),
                "previous": local_link(found.previous, request),
                "next": local_link(found.next, request),
                "one": self.one,
                "many": self._many,
            }

        is_filtered = bool(set(query.__struct_fields__) & self._given(query) - {"ordering", "page", "page_size"})
        title = f"{self.menu} that match" if is_filtered else f"All {self._many}"
        return TemplateResponse(
            "kernel/resource_list.html",
            {
                "title": self.menu,
                "one": self.one,
                "new_link": f"{self.path}new/" if self.may("create", identity) else None,
                "import_link": f"{self.path}import/" if self._may_import(identity) else None,
                "export_link": None if self._files is None else f"{self.resource.path}export.csv",
            },
            panels={"rows": Panel(load, "kernel/resource_rows.html", title)},
        )

    def show(self, id: int, identity: Identity) -> TemplateResponse:  # noqa: A002 - the name in the path
        """Show a row, with a form for whoever may change it."""
        self.resource.authorize("show", identity)
        with self.resource.transaction(identity) as connection:
            row = self.resource.find(connection, id, identity)
            return self._row_page(connection, row, identity)

    def new(self, identity: Identity) -> TemplateResponse:
        """Show the form for a new row."""
        self.resource.authorize("create", identity)
        with self.resource.transaction(identity) as connection:
            choices = self.choices(connection, identity)
        form = make_form(self.resource.body, choices=choices, documented=self.resource.item)
        return self._new_page(form)

    def create(self, form: Submitted[Any], identity: Identity) -> FormResponse:
        """Create a row."""
        self.resource.authorize("create", identity)
        try:
            return self.store(form.value(), identity)
        except _SHOWN_ERRORS as ex:
            with self.resource.transaction(identity) as connection:
                choices = self.choices(connection, identity)
            shown = form.again(ex, choices=choices, documented=self.resource.item)
            return Response(self._new_page(shown), ex.status)

    def update(self, id: int, query: SeenQuery, form: Submitted[Any], identity: Identity) -> FormResponse:  # noqa: A002 - the name in the path
        """Change what was changed in the form of a row."""
        self.resource.authorize("update", identity)
        asked = form.of(_part_of(self.resource.body, tuple(self.fields(identity))))
        try:
            value = msgspec.structs.asdict(asked.value())
            with self.resource.transaction(identity) as connection:
                row = self.resource.find(connection, id, identity, lock=True)
                changed = {
                    name: value[name]
                    for name in value
                    # A time is entered without its fraction of a second: what is shown as it was is as it was.
                    if tuple(form.values.get(name, ())) != texts_of(getattr(row, name))
                }
                if query.seen is not None and getattr(row, "updated_at", query.seen) != query.seen:
                    raise ConflictError(
                        "Somebody else has changed this meanwhile.",
                        detail="Below is what you entered; save it again to overwrite what is stored.",
                    )
                self.resource.modify(connection, id, changed, identity)
        except _SHOWN_ERRORS as ex:
            with self.resource.transaction(identity) as connection:
                row = self.resource.find(connection, id, identity)
                return Response(self._row_page(connection, row, identity, form=asked, error=ex), ex.status)
        return redirect(f"{self.path}{id}/", self.saved)

    def delete(self, id: int, form: Submitted[NoFields], identity: Identity) -> FormResponse:  # noqa: A002 - the name in the path
        """Delete a row."""
        self.resource.authorize("delete", identity)
        form.value()
        try:
            with self.resource.transaction(identity) as connection:
                self.resource.remove(connection, id, identity)
        except _SHOWN_ERRORS as ex:
            with self.resource.transaction(identity) as connection:
                row = self.resource.find(connection, id, identity)
                return Response(self._row_page(connection, row, identity, error=ex), ex.status)
        return redirect(self.path, self.deleted)

    def ask_for_file(self, identity: Identity) -> TemplateResponse:
        """Show the form for a CSV file."""
        self._ensure_may_import(identity)
        return self._import_page(make_form(ImportForm))

    def load(self, form: Submitted[ImportForm], identity: Identity) -> FormResponse:
        """Import a CSV file: all of it, or nothing if a line is wrong."""
        self._ensure_may_import(identity)
        assert self._files is not None  # noqa: S101 - else there is no such route
        try:
            given = form.value()
            report = self._files.load(given.file.content, identity, dry_run=given.dry_run)
        except _IMPORT_ERRORS as ex:
            return Response(self._import_page(form.again(ex)), ex.status)
        return self._import_page(make_form(ImportForm), report=report, dry_run=given.dry_run)

    # --- who may do what ----------------------------------------------------------------------------------------------

    def may(self, action: Action, identity: Identity) -> bool:
        """Tell whether somebody may do something, and there is a page for it."""
        if action not in self._actions:
            return False
        try:
            if action not in {"list", "show"}:
                identity.ensure_scope("write")
            self.resource.authorize(action, identity)
        except ForbiddenError:
            return False
        return True

    def link_to(self, row_id: int, identity: Identity) -> str | None:
        """Return the path of the page of a row; None if that is not for somebody."""
        return f"{self.path}{row_id}/" if self.may("show", identity) else None

    def _may_import(self, identity: Identity) -> bool:
        return self._files is not None and self.may("create", identity) and self.may("update", identity)

    def _ensure_may_import(self, identity: Identity) -> None:
        self.resource.authorize("create", identity)
        self.resource.authorize("update", identity)

    # --- pieces -------------------------------------------------------------------------------------------------------

    def _new_page(self, form: Form) -> TemplateResponse:
        context = {"title": f"New {self.one}", "many": self.menu, "path": self.path, "form": form}
        return TemplateResponse("kernel/resource_new.html", context)

    def _import_page(self, form: Form, *, report: Any = None, dry_run: bool = False) -> TemplateResponse:
        context = {
            "title": self.menu,
            "many": self._many,
            "path": self.path,
            "form": form,
            "report": report,
            "dry_run": dry_run,
            "template_link": f"{self.resource.path}template.csv",
            "columns": self._explained_columns(),
        }
        return TemplateResponse("kernel/resource_import.html", context)

    def _explained_columns(self) -> Sequence[FormField]:
        return make_form(self.resource.body, documented=self.resource.item).fields

    def _row_page(
        self,
        connection: Connection[Any],
        row: T,
        identity: Identity,
        *,
        form: Submitted[Any] | None = None,
        error: ApiError | None = None,
    ) -> TemplateResponse:
        names = self._names(connection, [row], identity)
        editable = tuple(self.fields(identity)) if self.may("update", identity) else ()
        shown: Form | None = None
        if editable:
            choices, documented = self.choices(connection, identity), self.resource.item
            kind = _part_of(self.resource.body, editable)
            if form is not None:
                shown = form.again(error, choices=choices, documented=documented)
            else:
                values = msgspec.structs.asdict(row)
                shown = make_form(kind, values=values, error=error, choices=choices, documented=documented)
        seen = getattr(row, "updated_at", None)
        may_delete = self.may("delete", identity) and self.is_deletable(row)
        context = {
            "title": self.name_of(row),
            "one": self.one,
            "many": self.menu,
            "path": self.path,
            "row": row,
            "facts": [
                (label_of(name), self._cell(row, name, names, identity))
                for name in field_types(self.resource.item)
                if name not in {*editable, *self._constant(identity)}
            ],
            "form": shown,
            "error": error,
            "save_link": page_link(f"{self.path}{_number(row)}/", None, seen=_exact(seen)),
            "delete_link": f"{self.path}{_number(row)}/delete/" if may_delete else None,
            "keeps_deleted": self.resource.keeps_deleted,
        }
        return TemplateResponse(self.row_template, {**context, **self.row_context(row, identity)})

    @property
    def _many(self) -> str:
        """The name of the rows within a sentence: "plans", but "API keys"."""
        return self.menu if self.menu[1:2].isupper() else self.menu[:1].lower() + self.menu[1:]

    def _link(self, row: T) -> str:
        return f"{self.path}{_number(row)}/"

    def _columns(self, request: Request, query: ListQuery, identity: Identity) -> Sequence[Column]:
        types = field_types(self.resource.item)
        hidden = {"id", "updated_at", *self._constant(identity)}
        now = query.ordering or ",".join(self.resource.ordering)

        def make(name: str) -> Column:
            kind = base_type(types[name])
            direction: Literal["ascending", "descending"] | None = None
            if now.partition(",")[0].removeprefix("-") == name:
                direction = "descending" if now.startswith("-") else "ascending"
            ordering = f"-{name}" if direction == "ascending" else name
            link = page_link(self.path, request, ordering=ordering, page=None) if is_scalar(kind) else None
            is_number = kind in (int, float) and name not in self.resource.references
            return Column(name, label_of(name), link, direction, is_number)

        return [
            make(name) for name in self._given_columns or types if name not in hidden or name in self._given_columns
        ]

    def _constant(self, identity: Identity) -> Collection[str]:
        """Return the fields that are the same in all rows that somebody sees."""
        is_one = self.resource.account_column == "account" and self.resource.account_of(identity) is not None
        return {"account"} if is_one else set()

    def _cell(self, row: T, name: str, names: Mapping[str, Mapping[int, str]], identity: Identity) -> Cell:
        value = getattr(row, name)
        if value is None or value in ((), ""):
            return Cell("none")
        if name in self.resource.references or name == self.resource.account_column != "id":
            reference = self.resource.references.get(name)
            find = None if reference is None else self._row_links.get(reference.table)
            link = None if find is None else find(value, identity)
            return Cell("text", names.get(name, {}).get(value, str(value)), link)
        if isinstance(value, bool):
            return Cell("bool", value)
        if isinstance(value, datetime):
            return Cell("time", value)
        if isinstance(value, int | float):
            return Cell("number", f"{value:,}" if name != "id" else str(value))
        if isinstance(value, list | tuple):
            return Cell("list", [str(each) for each in value])
        if typing.get_origin(base_type(field_types(self.resource.item)[name])) is Literal:
            return Cell("text", label_of_value(str(value)))
        return Cell("text", value.isoformat() if isinstance(value, date) else str(value))

    def _names(
        self, connection: Connection[Any], rows: Sequence[T], identity: Identity
    ) -> Mapping[str, Mapping[int, str]]:
        """Return the names of the rows that rows refer to, by column and number."""
        found: dict[str, Mapping[int, str]] = {}
        for column in self.resource.references:
            numbers = {number for row in rows if (number := getattr(row, column)) is not None}
            if numbers:
                found[column] = self.resource.labels(connection, column, identity, numbers=numbers)
        return found

    def _filters(self, connection: Connection[Any], query: ListQuery, identity: Identity) -> Sequence[FormField]:
        """Return the fields of the form of filters: a text to search for, and what can be chosen."""
        choices = self.choices(connection, identity)
        hidden = {*query.reserved, *self._constant(identity)} - {"search"}
        form = make_form(
            self.resource.query_type, values=msgspec.structs.asdict(query), choices=choices, form_id="filter"
        )
        return [
            field
            for field in form.fields
            if (field.name == "search" and self.resource.search)
            or (field.control == "select" and field.name not in hidden)
        ]

    @staticmethod
    def _given(query: ListQuery) -> set[str]:
        values = msgspec.structs.asdict(query)
        return {name for name, value in values.items() if value not in (msgspec.UNSET, "", None)}

    def _chosen(self, query: ListQuery, names: Mapping[str, Mapping[int, str]]) -> Sequence[tuple[str, str]]:
        """Return the filters that are set, for people."""
        chosen = sorted(self._given(query) - {"ordering", "page", "page_size"})
        pairs = [(name, getattr(query, name)) for name in chosen]
        return [(label_of(name), str(names.get(name, {}).get(value, value))) for name, value in pairs]


def _number(row: msgspec.Struct) -> int:
    number: int = row.id  # type: ignore[attr-defined] # each item of a resource has one
    return number


def _exact(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


@cache
def _part_of(kind: type[msgspec.Struct], names: tuple[str, ...]) -> type[msgspec.Struct]:
    """Return a Struct with some fields of another one."""
    fields = struct_fields(kind)
    if set(names) == set(fields):
        return kind
    kept = [
        (name, field.type) if field.required else (name, field.type, field.default)
        for name, field in fields.items()
        if name in names
    ]
    return msgspec.defstruct(f"{kind.__name__}Part", kept, kw_only=True, frozen=True, module=kind.__module__)
