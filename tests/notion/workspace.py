"""The contents of a fake workspace: databases, data sources, columns and pages."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import msgspec

from tests.notion.values import option, rich_text

Value = Any


class Column(msgspec.Struct):
    """A property of a data source."""

    id: str
    name: str
    type: str
    config: dict[str, Any] = {}

    def shown(self) -> dict[str, Any]:
        """Return it as in the schema of a data source."""
        return {"id": self.id, "name": self.name, "description": None, "type": self.type, self.type: self.config}


class Page(msgspec.Struct, eq=False):
    """A row. Values are by id of their column, in the form in which Notion has them under the name of the type.

    The object of a wiki's row may be a data source.
    """

    id: str
    data_source_id: str
    created_time: datetime
    last_edited_time: datetime
    values: dict[str, Value]
    in_trash: bool = False
    is_archived: bool = False
    object: str = "page"


class DataSource(msgspec.Struct, eq=False):
    """A table of a database."""

    id: str
    database_id: str
    title: str
    columns: list[Column]
    pages: dict[str, Page] = {}
    numbered: int = 0

    def column(self, name: str) -> Column:
        """Return a column by its name."""
        return next(each for each in self.columns if each.name == name)


class Workspace:
    """A workspace with a clock that moves only by ``wait``.

    Args:
        now: The time of the clock.
    """

    def __init__(self, now: datetime | None = None) -> None:
        self.now = now or datetime(2026, 11, 21, 12, tzinfo=UTC)
        self.data_sources: dict[str, DataSource] = {}
        self.databases: dict[str, list[str]] = {}
        # Deterministic ids: rows are ordered by them.
        self._random = random.Random(0)
        # Grows with every change: invalidates what was derived from the pages.
        self.changes = 0

    def add_data_source(
        self, title: str, columns: Mapping[str, str | tuple[str, dict[str, Any]]], database_id: str | None = None
    ) -> DataSource:
        """Add a data source, to a new database unless one is given.

        Args:
            title: For people.
            columns: Types by name, with the configuration where there is one.
            database_id: Of the database.
        """
        database_id = database_id or self.make_id()
        made: list[Column] = []
        for name, given in columns.items():
            kind, config = given if isinstance(given, tuple) else (given, {})
            # Ids are percent-encoded, as Notion's are.
            id_ = "title" if kind == "title" else quote(f"{self.make_id()[:4]}:", safe="")
            made.append(Column(id_, name, kind, config))
        source = DataSource(self.make_id(), database_id, title, made, {})
        self.data_sources[source.id] = source
        self.databases.setdefault(database_id, []).append(source.id)
        return source

    def add_page(self, source: DataSource, values: Mapping[str, Value], created: datetime | None = None) -> Page:
        """Add a row.

        Args:
            source: The data source.
            values: By name of the column. Plain texts, names and ids of pages are converted to Notion's form.
            created: Now by default. Rounded down to the minute, as Notion does.
        """
        moment = (created or self.now).replace(second=0, microsecond=0)
        page = Page(self.make_id(), source.id, moment, moment, {})
        source.pages[page.id] = page
        for column in source.columns:
            if column.type == "unique_id":
                source.numbered += 1
                page.values[column.id] = {"prefix": column.config.get("prefix"), "number": source.numbered}
        self._set(source, page, values)
        return page

    def add_child(self, source: DataSource) -> Page:
        """Add a data source among the rows of a wiki."""
        child = self.add_page(source, {})
        child.object = "data_source"
        return child

    def edit(self, page: Page, values: Mapping[str, Value]) -> None:
        """Change values of a row."""
        self._set(self.data_sources[page.data_source_id], page, values)
        page.last_edited_time = self.now.replace(second=0, microsecond=0)

    def trash(self, page: Page) -> None:
        """Move a row to the trash."""
        page.in_trash = True
        page.last_edited_time = self.now.replace(second=0, microsecond=0)
        self.changes += 1

    def archive(self, page: Page) -> None:
        """Archive a row without moving it to the trash."""
        page.is_archived = True
        self.changes += 1

    def restore(self, page: Page) -> None:
        """Restore a row from the trash."""
        page.in_trash = False
        page.last_edited_time = self.now.replace(second=0, microsecond=0)
        self.changes += 1

    def remove(self, page: Page) -> None:
        """Delete a row permanently, or end the connection's access to it: it leaves no trace."""
        del self.data_sources[page.data_source_id].pages[page.id]
        self.changes += 1

    def move(self, page: Page, target: DataSource) -> None:
        """Move a row to another data source; columns of the same name and type keep their values."""
        source = self.data_sources[page.data_source_id]
        there = {(column.name, column.type): column.id for column in target.columns}
        values = {(column.name, column.type): page.values.get(column.id) for column in source.columns}
        page.values = {there[each]: value for each, value in values.items() if each in there and value is not None}
        del source.pages[page.id]
        page.data_source_id = target.id
        target.pages[page.id] = page
        page.last_edited_time = self.now.replace(second=0, microsecond=0)
        self.changes += 1

    def remove_data_source(self, source: DataSource) -> None:
        """Delete a data source with its rows."""
        del self.data_sources[source.id]
        self.databases[source.database_id].remove(source.id)
        self.changes += 1

    def remove_column(self, source: DataSource, name: str) -> None:
        """Delete a column."""
        source.columns.remove(source.column(name))
        self.changes += 1

    def change_type(self, source: DataSource, name: str, kind: str) -> None:
        """Change the type of a column; it keeps its id and loses its values."""
        column = source.column(name)
        column.type, column.config = kind, {}
        for page in source.pages.values():
            page.values.pop(column.id, None)
        self.changes += 1

    def rename(self, source: DataSource, name: str, new: str) -> None:
        """Rename a column; it keeps its id."""
        source.column(name).name = new
        self.changes += 1

    def wait(self, **units: float) -> None:
        """Let time pass."""
        self.now += timedelta(**units)

    def make_id(self) -> str:
        """Return a new id."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def find(self, page_id: str) -> Page | None:
        """Return a page."""
        pages = (source.pages.get(page_id) for source in self.data_sources.values())
        return next((page for page in pages if page is not None), None)

    def _set(self, source: DataSource, page: Page, values: Mapping[str, Value]) -> None:
        for name, value in values.items():
            column = source.column(name)
            page.values[column.id] = _CONVERTERS.get(column.type, lambda given: given)(value)
        self.changes += 1


# Conversions of plain values to Notion's form.
_CONVERTERS: Mapping[str, Callable[[Any], Any]] = {
    "title": lambda given: rich_text(given) if isinstance(given, str) else given,
    "rich_text": lambda given: rich_text(given) if isinstance(given, str) else given,
    "select": lambda given: option(given) if isinstance(given, str) else given,
    "status": lambda given: option(given) if isinstance(given, str) else given,
    "multi_select": lambda given: [option(each) if isinstance(each, str) else each for each in given],
    "relation": lambda given: [{"id": each.id if isinstance(each, Page) else each} for each in given],
}


def shown_time(moment: datetime) -> str:
    """Return a time in Notion's format."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")
