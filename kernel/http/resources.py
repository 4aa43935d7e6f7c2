"""Resources: a table of a plugin, served under its own routes, in which each account sees its own rows.

A plugin declares the table, the Struct of a row and that of a body; a ``Resource`` serves lists, single rows and
changes of them. Rows belong to accounts, and to sites and sectors of these if they have such columns: requests see
those of their identity only, new rows get its account and site, and a row that would mix two of them is refused.

What is written here in ``WHERE`` clauses is the first of two walls. The second is in the database: the migration that
creates the table calls ``tiercel.scope_by_account`` (``kernel/migrations/0006_account_scope.sql``).
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, TypeVar

import msgspec
import psycopg
from psycopg import Connection, sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from kernel.audit import compare
from kernel.contracts import Example, Method, Policy, Route
from kernel.conversion import REQUIRED, base_type, field_types, split_list
from kernel.db.queries import load_queries
from kernel.errors import ConflictError, FieldErrors, InvalidError, NoAccountError, NotFoundError
from kernel.http.lists import ListQuery, is_scalar, ordering_schema
from kernel.http.pagination import Page, numbered_page, page_not_found, page_size_of
from kernel.http.request import Request
from kernel.http.response import Response
from kernel.identity import SYSTEM_ACCOUNT, Identity, acting_as

if TYPE_CHECKING:
    from kernel.services import Services

T = TypeVar("T", bound=msgspec.Struct)
Action = Literal["list", "show", "create", "replace", "update", "delete"]
Values = dict[str, Any]
# Conditions with their parameters, all of which must hold.
Conditions = list[tuple[sql.Composable, Values]]
QUERIES = load_queries(__package__)
_READING: frozenset[str] = frozenset({"list", "show"})
# Columns that the service itself fills in: no body may have them.
_OWN_COLUMNS = frozenset({"id", "created_at", "updated_at", "deleted_at"})
TAKEN = "This value is taken already."


class Edit(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A change of one row that is about to be made.

    Args:
        connection: In the transaction of the change.
        values: What the row is going to have, by column.
        current: The row as it is; None for a new one.
        identity: Who changes it; None for the service itself.
    """

    connection: Connection[Any]
    values: Values
    current: T | None
    identity: Identity | None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A change of one row.

    Args:
        action: What was done.
        table: Schema and name of the table.
        id: Number of the row.
        account: The account that the row belongs to; None if it belongs to none.
        identity: Who changed it; None for the service itself.
        before: The row as it was; None for a new one.
        after: The row as it is now; None for a deleted one.
    """

    action: Literal["create", "update", "delete"]
    table: str
    id: int
    account: int | None
    identity: Identity | None
    before: msgspec.Struct | None
    after: msgspec.Struct | None


class Reference(msgspec.Struct, frozen=True):
    """A column with the number of a row in another table, which must belong to the same account, site and sector.

    Args:
        table: Schema and name of the other table.
        shares: Columns in which both rows must be equal: ``("account", "site")`` for a sector.
        keeps_deleted: Whether the other table has ``deleted_at``; a deleted row is refused.
        slug: A column of the other table by which files name its rows; None if they give numbers.
        label: A column of the other table by which pages name its rows; ``slug`` by default.
    """

    table: str
    shares: tuple[str, ...] = ("account",)
    keeps_deleted: bool = True
    slug: str | None = None
    label: str | None = None


class Resource(Generic[T]):
    """A table, and its routes. Subclass it, and return ``Subclass(...).routes()`` from ``register_routes``.

    Example::

        class Tasks(Resource[Task]):
            path = "/api/v1/planner/tasks/"
            table = "planner.task"
            item = Task
            body = NewTask
            search = ("title",)
            references = {"site": Reference("accounts.site")}

    Attributes:
        path: Path of the list; those of rows are below it.
        table: Schema and name of the table. Its primary key is ``id``.
        item: Struct of a row as it is shown; its fields are columns. ``created_at``, ``updated_at``, ``account`` and
            ``site`` mean what they say. Their types bound what clients may send, as far as ``body`` has them.
        body: Struct of the fields that clients set, which are fields of ``item`` as well. Others are refused by name.
        search: The columns that ``?search=`` looks at.
        ordering: The order of the list; a leading ``-`` sorts descending. ``id`` decides ties.
        references: The columns that refer to other tables.
        account_column: The column with the account; None if the rows belong to none.
        site_column: The column with the site. ``site`` by default, if the items have it.
        keeps_deleted: Whether the table has ``deleted_at``: what is deleted is hidden then, and purged later.
        example: A body, for the OpenAPI document; tests and ``tiercel smoke`` create such a row, and delete it.

    Args:
        services: Those of the plugin.
    """

    path: ClassVar[str]
    table: ClassVar[str]
    item: type[T]
    body: ClassVar[type[msgspec.Struct]]
    search: ClassVar[tuple[str, ...]] = ()
    ordering: ClassVar[tuple[str, ...]] = ()
    references: ClassVar[Mapping[str, Reference]] = {}
    account_column: ClassVar[str | None] = "account"
    site_column: ClassVar[str | None] = "site"
    keeps_deleted: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, services: Services) -> None:
        self._db = services.db
        self._audit = services.audit
        self._settings = services.kernel_settings.http
        self._columns = tuple(field_types(self.item))
        self._fields = tuple(field_types(self.body))
        self._sortable = {name for name, kind in field_types(self.item).items() if is_scalar(base_type(kind))}
        # A table of sites has the site as its ``id``, which nobody chooses.
        is_given = self.site_column in self._columns and self.site_column != "id"
        self._site = self.site_column if is_given else None
        self._may_lack_site = type(None) in typing.get_args(field_types(self.item).get(str(self._site)))
        wrong = (set(self._fields) - set(self._columns)) | (set(self._fields) & _OWN_COLUMNS)
        if wrong:
            raise TypeError(f"{self.body.__name__} has {', '.join(sorted(wrong))}: not a column that clients may set")
        named = {*self.search, *self.references, *(name.removeprefix("-") for name in self.ordering)}
        if unknown := sorted(named - set(self._columns)):
            raise TypeError(
                f"{type(self).__name__} names {', '.join(unknown)}, which {self.item.__name__} does not have"
            )
        if self.account_column is not None and self.account_column not in self._columns:
            raise TypeError(
                f"{self.item.__name__} has no {self.account_column}: account_column is None without accounts"
            )

    # --- what subclasses change ---------------------------------------------------------------------------------------

    def authorize(self, action: Action, identity: Identity) -> None:
        """Ensure that somebody may do something; by default, whoever has the scope ``read`` or ``write``.

        Raises:
            ForbiddenError: They may not.
        """

    def account_of(self, identity: Identity) -> int | None:
        """Return the account whose rows an identity sees; None for those of all accounts.

        Raises:
            NoAccountError: It has none.
        """
        if identity.account is None:
            raise NoAccountError(detail=f"{identity.name} belongs to no account")
        return identity.account

    def clean(self, edit: Edit[T]) -> Values:
        """Check and complete what is going to be stored, and return it.

        Raises:
            InvalidError: A field is wrong.
        """
        return edit.values

    def before_delete(self, edit: Edit[T]) -> None:
        """Ensure that a row may be deleted; the edit has no values.

        Raises:
            ApiError: It may not.
        """

    def on_change(self, connection: Connection[Any], change: Change) -> None:
        """Do what belongs to a change, in its transaction; such as to ``notify`` other processes."""

    # --- routes -------------------------------------------------------------------------------------------------------

    def routes(self, *actions: Action) -> Sequence[Route]:
        """Return the routes of the table.

        Args:
            actions: ``list``, ``show``, ``create``, ``replace`` (PUT), ``update`` (PATCH), ``delete``; all by default.
        """
        number = f"{self.path}{{id}}/"
        complete = _body_type(self.body, self.item, partial=False)
        row: Any = self.item
        page, created, none = Page[row], Response[row], Response[None]
        query = self.query_type
        partial = _body_type(self.body, self.item, partial=True)
        made: dict[Action, tuple[str, Method, Callable[..., Any], dict[str, Any]]] = {
            "list": (self.path, "GET", self.list, {"request": Request, "query": query, "return": page}),
            "show": (number, "GET", self.show, {"id": int, "return": row}),
            "create": (self.path, "POST", self.create, {"body": complete, "request": Request, "return": created}),
            "replace": (number, "PUT", self.replace, {"id": int, "body": complete, "return": row}),
            "update": (number, "PATCH", self.update, {"id": int, "body": partial, "return": row}),
            "delete": (number, "DELETE", self.delete, {"id": int, "return": none}),
        }
        return [self._route(action, *made[action]) for action in made if not actions or action in actions]

    @cached_property
    def query_type(self) -> type[ListQuery]:
        """The query of the list: each field with a scalar type selects by equality."""
        return _query_type(self.item, self._sortable, can_search=bool(self.search))

    def _route(
        self, action: Action, path: str, method: Method, call: Callable[..., Any], types: dict[str, Any]
    ) -> Route:
        policy: Policy = "read" if action in _READING else "write"

        def handle(identity: Identity, **given: Any) -> Any:
            self.authorize(action, identity)
            return call(identity=identity, **given)

        handle.__doc__, handle.__qualname__ = call.__doc__, f"{type(self).__qualname__}.{action}"
        return Route(
            path=path,
            method=method,
            policy=policy,
            handler=annotate(handle, types),
            description=_name_rows(call.__doc__ or "", self.path, self.item),
            responses={201: self.item} if action == "create" else {},
            examples=(Example(body=self.example),) if self.example and "body" in types else (),
        )

    def list(self, request: Request, query: ListQuery, identity: Identity) -> Page[T]:
        """List rows, filtered by equality of their fields."""
        parts = self._visible(identity)
        for name in set(query.__struct_fields__) - query.reserved:
            if (wanted := getattr(query, name)) is not msgspec.UNSET:
                parts.append(_equals(name, wanted))
        if query.search and not self.search:
            raise InvalidError(errors={"search": ["There is nothing to search; filter by fields instead."]})
        if query.search:
            found = [sql.SQL(QUERIES["match_text"]).format(column=sql.Identifier(name)) for name in self.search]
            parts.append((sql.SQL("({})").format(sql.SQL(" OR ").join(found)), {"search": query.search}))
        order = self._order(query.ordering)
        page = query.page or 1
        size = page_size_of(query.page_size, self._settings.page_size, self._settings.page_size_max)
        offset = (page - 1) * size
        with self.transaction(identity) as connection:
            count = self._execute(connection, "count_rows", parts).fetchone()[0]
            if page > 1 and offset >= count:
                raise page_not_found(page, None)
            limits = {"limit": size, "offset": offset}
            results = self._execute(connection, "select_page", parts, limits, order=order).fetchall()
        return numbered_page(request, results, page=page, page_size=size, count=count, has_next=offset + size < count)

    def show(self, id: int, identity: Identity) -> T:  # noqa: A002 - the name in the path
        """Return one row."""
        with self.transaction(identity) as connection:
            return self.find(connection, id, identity)

    def create(self, body: msgspec.Struct, request: Request, identity: Identity) -> Response[T]:
        """Create a row."""
        with self.transaction(identity) as connection:
            row = self.insert(connection, msgspec.structs.asdict(body), identity)
        return Response(row, 201, {"Location": f"{request.url_path.rstrip('/')}/{row.id}/"})  # type: ignore[attr-defined] # each has one

    def replace(self, id: int, body: msgspec.Struct, identity: Identity) -> T:  # noqa: A002 - the name in the path
        """Replace all fields of a row that clients set; those that are left out get their defaults."""
        return self.change(id, msgspec.structs.asdict(body), identity)

    def update(self, id: int, body: msgspec.Struct, identity: Identity) -> T:  # noqa: A002 - the name in the path
        """Change the fields of a row that are given."""
        given = msgspec.structs.asdict(body)
        return self.change(id, {name: value for name, value in given.items() if value is not msgspec.UNSET}, identity)

    def delete(self, id: int, identity: Identity) -> Response[None]:  # noqa: A002 - the name in the path
        """Delete a row."""
        with self.transaction(identity) as connection:
            self.remove(connection, id, identity)
        return Response(None, 204)

    # --- statements, also for commands and routes of the plugin's own -------------------------------------------------

    @contextmanager
    def transaction(self, identity: Identity | None) -> Iterator[Connection[Any]]:
        """Begin a transaction in which an identity sees its rows; errors of the database become those of a request.

        Raises:
            InvalidError: A value does not fit its column.
            ConflictError: A value is taken already, or other rows refer to the one that is deleted.
        """
        sees_all = identity is None or self.account_of(identity) is None
        try:
            with acting_as(None if sees_all else identity), self._db.transaction() as connection:
                yield connection
        except psycopg.Error as ex:
            with self._db.connection() as connection:
                raise self._translate(ex, connection) from ex

    @contextmanager
    def savepoint(self, connection: Connection[Any]) -> Iterator[None]:
        """Begin a part of a transaction that is undone if it fails; errors as of ``transaction``."""
        try:
            with connection.transaction():
                yield
        except psycopg.Error as ex:
            raise self._translate(ex, connection) from ex

    def find(
        self,
        connection: Connection[Any],
        row_id: int,
        identity: Identity | None,
        *,
        lock: bool = False,
    ) -> T:
        """Return a row that an identity sees; with ``lock``, nobody else changes it until the end of the transaction.

        Raises:
            NotFoundError: There is none, or it is another account's.
        """
        parts = [*self._visible(identity), _equals("id", row_id)]
        row: T | None = self._execute(connection, "lock_rows" if lock else "select_rows", parts).fetchone()
        if row is None:
            raise NotFoundError(detail=f"there is no {self.table.rpartition('.')[2]} {row_id}")
        return row

    def select(self, connection: Connection[Any], identity: Identity | None, *, ordering: str = "") -> Sequence[T]:
        """Return all rows that an identity sees.

        Args:
            connection: From ``transaction``.
            identity: Who asks; None for the service itself.
            ordering: As ``?ordering=`` takes it.
        """
        limits = {"limit": None, "offset": 0}
        found = self._execute(
            connection, "select_page", self._visible(identity), limits, order=self._order(ordering)
        ).fetchall()
        return typing.cast("Sequence[T]", found)

    def attach(self, values: Values, identity: Identity | None) -> Values:
        """Return the values of a new row with the account and the site of an identity.

        Raises:
            InvalidError: It has no site and needs one, or has one that the identity does not see.
        """
        values = dict(values)
        if identity is None:
            return values
        account = self.account_of(identity)
        if self.account_column not in (None, "id") and values.get(self.account_column) is None and account is not None:
            values[self.account_column] = account
        if self._site is not None and values.get(self._site) is None:
            if identity.sites is not None and len(identity.sites) == 1:
                values[self._site] = identity.sites[0]
            elif identity.sites is not None or not self._may_lack_site:
                raise InvalidError(errors={self._site: [f"{REQUIRED} The header X-Site names one as well."]})
        self._ensure_own(values, identity)
        return values

    def insert(self, connection: Connection[Any], values: Values, identity: Identity | None) -> T:
        """Insert a row.

        Args:
            connection: From ``transaction``.
            values: Values by column; account and site are those of the identity if they are missing.
            identity: Who does it; None for the service itself.

        Raises:
            InvalidError: A field is wrong, or mixes accounts, sites or sectors.
        """
        attached = self.attach(values, identity)
        values = self.clean(Edit(connection=connection, values=attached, current=None, identity=identity))
        self._ensure_references(connection, values, self.references)
        statement = sql.SQL(QUERIES["insert_row"]).format(
            table=self._table,
            names=_listed(values),
            values=sql.SQL(", ").join(map(sql.Placeholder, values)),
            columns=_listed(self._columns),
        )
        with connection.cursor(row_factory=class_row(self.item)) as cursor:
            row = cursor.execute(statement, _adapt(values)).fetchone()
        assert row is not None  # noqa: S101 - an INSERT returns its row
        self._record(connection, "create", identity, None, row)
        return row

    def numbers(self, connection: Connection[Any], reference: Reference, identity: Identity) -> Mapping[str, int]:
        """Return the numbers of the rows that an identity may refer to, by their slugs.

        Args:
            connection: From ``transaction``.
            reference: One with a slug.
            identity: Who refers to them.
        """
        parts = [sql.SQL("deleted_at IS NULL" if reference.keeps_deleted else "true")]
        if "account" in reference.shares:
            parts.append(sql.SQL("account = %(account)s"))
        statement = sql.SQL(QUERIES["select_rows"]).format(
            table=sql.Identifier(*reference.table.split(".")),
            columns=_listed([str(reference.slug), "id"]),
            condition=sql.SQL(" AND ").join(parts),
        )
        return dict(connection.execute(statement, {"account": self.account_of(identity)}).fetchall())

    def labels(
        self,
        connection: Connection[Any],
        column: str,
        identity: Identity,
        *,
        numbers: Collection[int] | None = None,
        limit: int | None = None,
    ) -> Mapping[int, str]:
        """Return the names of rows that a column refers to, in their order; empty if the reference has no label.

        Args:
            connection: From ``transaction``.
            column: One of ``references``.
            identity: Who looks at them.
            numbers: The rows, also if they are deleted; None for all that an identity may refer to.
            limit: How many at most.
        """
        reference = self.references[column]
        label = reference.label or reference.slug
        if label is None:
            return {}
        account = self.account_of(identity)
        parts: list[str] = []
        if numbers is not None:
            parts.append("id = ANY (%(numbers)s)")
        elif reference.keeps_deleted:
            parts.append("deleted_at IS NULL")
        if "account" in reference.shares and account is not None:
            parts.append("account = %(account)s")
        if identity.sites is not None and (column == self._site or "site" in reference.shares):
            parts.append("id = ANY (%(sites)s)" if column == self._site else "site = ANY (%(sites)s)")
        statement = sql.SQL(QUERIES["select_labels"]).format(
            table=sql.Identifier(*reference.table.split(".")),
            label=sql.Identifier(label),
            condition=sql.SQL(" AND ").join([sql.SQL(part) for part in parts]) if parts else sql.SQL("true"),
        )
        values = {
            "account": account,
            "sites": list(identity.sites or ()),
            "numbers": list(numbers or ()),
            "limit": limit,
        }
        return dict(connection.execute(statement, values).fetchall())

    def change(self, row_id: int, values: Values, identity: Identity) -> T:
        """Change a row in a transaction of its own; arguments and errors as of ``modify``."""
        with self.transaction(identity) as connection:
            return self.modify(connection, row_id, values, identity)

    def modify(
        self,
        connection: Connection[Any],
        row_id: int,
        values: Values,
        identity: Identity | None,
    ) -> T:
        """Change a row.

        Args:
            connection: From ``transaction``.
            row_id: Its number.
            values: New values by column.
            identity: Who does it; None for the service itself.

        Raises:
            NotFoundError: There is no such row.
            InvalidError: A field is wrong, or mixes accounts, sites or sectors.
        """
        current = self.find(connection, row_id, identity, lock=True)
        before = msgspec.structs.asdict(current)
        if self._site is not None and values.get(self._site) is None and not self._may_lack_site:
            # Left out of a complete body: the row stays in its site.
            values = {name: value for name, value in values.items() if name != self._site}
        self._ensure_own(values, identity)
        merged = {**before, **values}
        after = self.clean(Edit(connection=connection, values=merged, current=current, identity=identity))
        changed = {name: value for name, value in after.items() if _plain(value) != _plain(before.get(name))}
        if not changed:
            return current
        # A row that moves to another site takes along what belongs to the one it was in.
        checked = {
            name: reference
            for name, reference in self.references.items()
            if name in changed or not changed.keys().isdisjoint(reference.shares)
        }
        self._ensure_references(connection, after, checked)
        parts = [*self._visible(identity), _equals("id", row_id)]
        assigned = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(f"new_{name}")) for name in changed]
        if "updated_at" in self._columns:
            assigned.append(sql.SQL("{} = now()").format(sql.Identifier("updated_at")))
        new = {f"new_{name}": value for name, value in _adapt(changed).items()}
        row: T = self._execute(connection, "update_rows", parts, new, changes=sql.SQL(", ").join(assigned)).fetchone()
        self._record(connection, "update", identity, current, row)
        return row

    def remove(self, connection: Connection[Any], row_id: int, identity: Identity | None) -> None:
        """Delete a row: hide it until it is purged, if the table keeps deleted rows.

        Raises:
            NotFoundError: There is no such row.
        """
        current = self.find(connection, row_id, identity, lock=True)
        self.before_delete(Edit(connection=connection, values={}, current=current, identity=identity))
        parts = [*self._visible(identity), _equals("id", row_id)]
        if self.keeps_deleted:
            self._execute(connection, "update_rows", parts, changes=sql.SQL("deleted_at = now()"))
        else:
            self._execute(connection, "delete_rows", parts)
        self._record(connection, "delete", identity, current, None)

    # --- pieces -------------------------------------------------------------------------------------------------------

    def _record(
        self,
        connection: Connection[Any],
        action: Literal["create", "update", "delete"],
        identity: Identity | None,
        before: T | None,
        after: T | None,
    ) -> None:
        """Do what belongs to every change of every resource, in its transaction. All of them pass here."""
        row: Any = after if before is None else before
        account = getattr(row, self.account_column) if self.account_column is not None else None
        change = Change(
            action=action,
            table=self.table,
            id=row.id,
            account=account,
            identity=identity,
            before=before,
            after=after,
        )
        self.on_change(connection, change)
        kind = self.table.rpartition(".")[2]
        self._audit.record(
            connection,
            action=f"{kind}.{action}",
            target=(kind, row.id),
            changes=compare(before, after),
            account=SYSTEM_ACCOUNT if account is None else account,
            identity=identity,
        )

    @property
    def _table(self) -> sql.Identifier:
        return sql.Identifier(*self.table.split("."))

    def _visible(self, identity: Identity | None) -> Conditions:
        """Return the conditions for rows that an identity sees, with their parameters."""
        parts: Conditions = []
        if self.keeps_deleted:
            parts.append((sql.SQL("deleted_at IS NULL"), {}))
        if identity is None:
            return parts
        account = self.account_of(identity)
        if self.account_column is not None and account is not None:
            name = sql.Identifier(self.account_column)
            parts.append((sql.SQL("{} = %(own_account)s").format(name), {"own_account": account}))
        if self.site_column in self._columns and identity.sites is not None:
            name = sql.Identifier(str(self.site_column))
            parts.append((sql.SQL("{} = ANY (%(own_sites)s)").format(name), {"own_sites": list(identity.sites)}))
        return parts

    def _execute(
        self,
        connection: Connection[Any],
        name: str,
        parts: Conditions,
        values: Mapping[str, Any] | None = None,
        **composed: sql.Composable,
    ) -> Any:
        condition = sql.SQL(" AND ").join([part for part, _ in parts]) if parts else sql.SQL("true")
        statement = sql.SQL(QUERIES[name]).format(
            table=self._table, condition=condition, columns=_listed(self._columns), **composed
        )
        parameters = {key: value for _, named in parts for key, value in named.items()} | dict(values or {})
        if name in {"count_rows", "delete_rows"}:
            return connection.execute(statement, parameters)
        return connection.cursor(row_factory=class_row(self.item)).execute(statement, parameters)

    def _order(self, text: str) -> sql.Composable:
        fields = split_list(text) or list(self.ordering)
        for field in fields:
            if field.removeprefix("-") not in self._sortable:
                names = ", ".join(sorted(self._sortable))
                raise InvalidError(
                    errors={"ordering": [f"Expected {names}, each with or without '-', got {field!r:.80}."]}
                )
        keys = [sql.Identifier(field.removeprefix("-")) for field in fields]
        forms = [sql.SQL("{} DESC NULLS LAST" if field.startswith("-") else "{} NULLS LAST") for field in fields]
        ordered = [form.format(key) for form, key in zip(forms, keys, strict=True)]
        return sql.SQL(", ").join([*ordered, sql.SQL("id")])

    def _ensure_own(self, values: Values, identity: Identity | None) -> None:
        """Ensure that a row is not put into an account or a site that an identity does not see."""
        if identity is None:
            return
        account = self.account_of(identity)
        for name, seen in (
            (self.account_column, None if account is None else (account,)),
            (self._site, identity.sites),
        ):
            if name is not None and seen is not None and values.get(name) not in (None, *seen):
                raise _no_such(name, values[name])
        if self._site is not None and identity.sites is not None and self._site in values and not values[self._site]:
            raise InvalidError(errors={self._site: [REQUIRED]})

    def _ensure_references(
        self, connection: Connection[Any], values: Values, references: Mapping[str, Reference]
    ) -> None:
        """Ensure that rows which a row refers to exist, and belong to the same account, site and sector.

        Raises:
            InvalidError: They do not; names the fields.
        """
        errors: dict[str, Sequence[str]] = {}
        for name, reference in references.items():
            if values.get(name) is None:
                continue
            condition = sql.SQL("id = %(id)s AND deleted_at IS NULL" if reference.keeps_deleted else "id = %(id)s")
            statement = sql.SQL(QUERIES["hold_rows"]).format(
                table=sql.Identifier(*reference.table.split(".")),
                columns=_listed(reference.shares or ("id",)),
                condition=condition,
            )
            found = connection.execute(statement, {"id": values[name]}).fetchone()
            differing = [
                column
                for column, value in zip(reference.shares, found or (), strict=False)
                if value != values.get(column)
            ]
            if found is None or "account" in differing:
                # What belongs to another account is like what does not exist.
                errors |= _no_such(name, values[name]).errors or {}
            elif differing:
                errors[name] = [f"{values[name]} belongs to another {differing[0]}."]
        if errors:
            raise InvalidError(f"Some fields are wrong: {', '.join(sorted(errors))}.", errors=errors)

    def _translate(self, error: psycopg.Error, connection: Connection[Any]) -> Exception:
        """Return the error of a request for one of the database that a client causes; else the error as it is."""
        if isinstance(error, psycopg.errors.UniqueViolation):
            return self._taken(error, connection)
        if isinstance(error, psycopg.errors.ForeignKeyViolation):
            return ConflictError("Other rows refer to this one, or it refers to one that is not there.")
        if isinstance(error, psycopg.errors.CheckViolation):
            return InvalidError(detail=f"{error.diag.constraint_name} of {self.table} does not allow this")
        if isinstance(error, psycopg.errors.NotNullViolation):
            return InvalidError(errors={error.diag.column_name or "non_field_errors": [REQUIRED]})
        if isinstance(error, psycopg.DataError):
            return InvalidError("A value does not fit its field.", detail=error.diag.message_primary or str(error))
        return error

    def _taken(self, error: psycopg.Error, connection: Connection[Any]) -> ConflictError:
        index = f"{error.diag.schema_name}.{error.diag.constraint_name}"
        rows = connection.execute(QUERIES["index_columns"], {"index": index}).fetchall()
        scope = {self.account_column, self.site_column, "id"} if len(rows) > 1 else set()
        errors: FieldErrors = {name: [TAKEN] for (name,) in rows if name not in scope}
        return ConflictError("Another one has this already.", errors=errors or None)


def _name_rows(text: str, path: str, item: type[msgspec.Struct]) -> str:
    """Return a description of an action with the names of rows: the list ends in that of many, ``item`` is one."""
    many = path.rstrip("/").rpartition("/")[2].replace("-", " ")
    one = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", item.__name__).lower()
    article = "an" if one[0] in "aeiou" and not one.startswith("us") else "a"
    named = text.replace("a row", f"{article} {one}").replace("one row", f"one {one}")
    return re.sub(r"\brows\b", many, named)


def annotate(handler: Callable[..., Any], types: Mapping[str, Any]) -> Callable[..., Any]:
    """Return a handler whose signature names parameters with types: what the kernel decodes for it."""
    named: Any = handler
    named.__annotations__ = {**types, "identity": Identity}
    names = [name for name in named.__annotations__ if name != "return"]
    named.__signature__ = Signature([Parameter(name, Parameter.KEYWORD_ONLY) for name in names])
    return handler


def _body_type(kind: type[msgspec.Struct], item: type[msgspec.Struct], *, partial: bool) -> Any:
    """Return a body's Struct that refuses unknown fields, documented as those of the items.

    Args:
        kind: The Struct of a complete body.
        item: The Struct of the items.
        partial: Whether all fields may be left out.
    """
    options: dict[str, Any] = {
        "frozen": True,
        "kw_only": True,
        "forbid_unknown_fields": True,
        "module": kind.__module__,
    }
    options["namespace"] = {"__doc__": item.__doc__}
    if not partial:
        return msgspec.defstruct(kind.__name__, [], bases=(kind,), **options)
    fields = [
        (name, typing.Union[annotation, msgspec.UnsetType], msgspec.UNSET)  # noqa: UP007 - the type is only known here
        for name, annotation in field_types(kind).items()
    ]
    return msgspec.defstruct(f"{kind.__name__}Changes", fields, **options)


def _query_type(item: type[msgspec.Struct], sortable: Collection[str], *, can_search: bool) -> type[ListQuery]:
    """Return the query of a list: each field of the items with a scalar type selects by equality.

    Args:
        item: The Struct of the items.
        sortable: Fields that ``ordering`` may name.
        can_search: Whether there is something to search.
    """
    searched = {} if can_search else {"maxLength": 0, "description": "Nothing can be searched here."}
    fields: list[Any] = [
        ("ordering", Annotated[str, msgspec.Meta(extra_json_schema=ordering_schema(sortable))], ""),
        ("search", Annotated[str, msgspec.Meta(max_length=300, extra_json_schema=searched)], ""),
    ]
    fields += [
        (name, typing.Union[base_type(annotation), msgspec.UnsetType], msgspec.UNSET)  # noqa: UP007 - the type is only known here
        for name, annotation in field_types(item).items()
        if is_scalar(base_type(annotation)) and name not in ListQuery.reserved
    ]
    documented = {"__doc__": item.__doc__}
    made: Any = msgspec.defstruct(
        f"{item.__name__}Query", fields, bases=(ListQuery,), namespace=documented, frozen=True
    )
    return typing.cast("type[ListQuery]", made)


def _equals(name: str, value: object) -> tuple[sql.Composable, Values]:
    # Prefixed, so that no column is taken for another parameter.
    return sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(f"is_{name}")), {f"is_{name}": value}


def _listed(names: typing.Iterable[str]) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _adapt(values: Mapping[str, Any]) -> Values:
    """Return values as psycopg takes them: a tuple is an array, a mapping or Struct is jsonb."""
    return {
        name: Jsonb(msgspec.to_builtins(value)) if isinstance(value, dict | msgspec.Struct) else _plain(value)
        for name, value in values.items()
    }


def _no_such(name: str, value: object) -> InvalidError:
    return InvalidError(f"Some fields are wrong: {name}.", errors={name: [f"There is no {name} {value!r:.80}."]})
