"""What is in a workspace of Notion: databases, their data sources, columns and pages."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

Value = Any


class Column(msgspec.Struct):
    """A property of a data source."""

    id: str
    name: str
    type: str
    config: dict[str, Any] = {}

    def shown(self) -> dict[str, Any]:
        """Return it as a schema has it."""
        return {"id": self.id, "name": self.name, "description": None, "type": self.type, self.type: self.config}


class Page(msgspec.Struct, eq=False):
    """A row; values by the id of their column, as Notion has them under the name of the type."""

    id: str
    data_source_id: str
    created_time: datetime
    last_edited_time: datetime
    values: dict[str, Value]
    in_trash: bool = False


class DataSource(msgspec.Struct, eq=False):
    """A table of a database."""

    id: str
    database_id: str
    title: str
    columns: list[Column]
    pages: dict[str, Page] = {}

    def column(self, name: str) -> Column:
        """Return a column by its name."""
        return next(each for each in self.columns if each.name == name)


class Workspace:
    """A workspace whose clock stands still until it is told otherwise.

    Args:
        now: What its clock says.
    """

    def __init__(self, now: datetime | None = None) -> None:
        self.now = now or datetime(2026, 11, 21, 12, tzinfo=UTC)
        self.data_sources: dict[str, DataSource] = {}
        self.databases: dict[str, list[str]] = {}
        # Grows with every change: whoever keeps something made of the pages sees that it is old.
        self.changes = 0

    def add_data_source(
        self, title: str, columns: Mapping[str, str | tuple[str, dict[str, Any]]], database_id: str | None = None
    ) -> DataSource:
        """Add a data source, to a new database unless one is given.

        Args:
            title: Of it.
            columns: Types by name, with the configuration where there is one.
            database_id: Where it belongs.
        """
        database_id = database_id or str(uuid.uuid4())
        made: list[Column] = []
        for name, given in columns.items():
            kind, config = given if isinstance(given, tuple) else (given, {})
            made.append(Column("title" if kind == "title" else uuid.uuid4().hex[:4], name, kind, config))
        source = DataSource(str(uuid.uuid4()), database_id, title, made, {})
        self.data_sources[source.id] = source
        self.databases.setdefault(database_id, []).append(source.id)
        return source

    def add_page(self, source: DataSource, values: Mapping[str, Value], created: datetime | None = None) -> Page:
        """Add a row.

        Args:
            source: Where.
            values: By the name of the column; texts, names and ids of pages may be given plainly.
            created: When it was made; now by default. Rounded to the minute, as Notion does.
        """
        moment = (created or self.now).replace(second=0, microsecond=0)
        page = Page(str(uuid.uuid4()), source.id, moment, moment, {})
        source.pages[page.id] = page
        self._set(source, page, values)
        return page

    def edit(self, page: Page, values: Mapping[str, Value]) -> None:
        """Change values of a row."""
        self._set(self.data_sources[page.data_source_id], page, values)
        page.last_edited_time = self.now.replace(second=0, microsecond=0)

    def trash(self, page: Page) -> None:
        """Put a row into the trash."""
        page.in_trash = True
        page.last_edited_time = self.now.replace(second=0, microsecond=0)
        self.changes += 1

    def rename(self, source: DataSource, name: str, new: str) -> None:
        """Rename a column; its id stays."""
        source.column(name).name = new
        self.changes += 1

    def wait(self, **units: float) -> None:
        """Let time pass."""
        self.now += timedelta(**units)

    def find(self, page_id: str) -> Page | None:
        """Return a page."""
        pages = (source.pages.get(page_id) for source in self.data_sources.values())
        return next((page for page in pages if page is not None), None)

    def _set(self, source: DataSource, page: Page, values: Mapping[str, Value]) -> None:
        for name, value in values.items():
            column = source.column(name)
            page.values[column.id] = _MAKE.get(column.type, lambda given: given)(value)
        self.changes += 1


def rich_text(text: str) -> list[dict[str, Any]]:
    """Return a text as Notion has it."""
    plain = {"bold": False, "italic": False, "strikethrough": False, "underline": False, "code": False}
    part = {"type": "text", "text": {"content": text, "link": None}, "annotations": {**plain, "color": "default"}}
    return [{**part, "plain_text": text, "href": None}] if text else []


def option(name: str | None) -> dict[str, Any] | None:
    """Return an option of a select."""
    return None if name is None else {"id": uuid.uuid5(uuid.NAMESPACE_OID, name).hex[:4], "name": name, "color": "blue"}


# What may be given plainly.
_MAKE: Mapping[str, Callable[[Any], Any]] = {
    "title": lambda given: rich_text(given) if isinstance(given, str) else given,
    "rich_text": lambda given: rich_text(given) if isinstance(given, str) else given,
    "select": lambda given: option(given) if isinstance(given, str) else given,
    "status": lambda given: option(given) if isinstance(given, str) else given,
    "multi_select": lambda given: [option(each) if isinstance(each, str) else each for each in given],
    "relation": lambda given: [{"id": each.id if isinstance(each, Page) else each} for each in given],
}
EMPTY: Mapping[str, Any] = {
    **dict.fromkeys(("title", "rich_text", "multi_select", "relation", "people", "files"), ()),
    "checkbox": False,
}
