"""What is in a workspace of Notion: databases, their data sources, columns and pages."""

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
        """Return it as a schema has it."""
        return {"id": self.id, "name": self.name, "description": None, "type": self.type, self.type: self.config}


class Page(msgspec.Struct, eq=False):
    """A row; values by the id of their column, as Notion has them under the name of the type.

    A wiki has data sources among its rows.
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
    """A workspace whose clock stands still until it is told otherwise.

    Args:
        now: What its clock says.
    """

    def __init__(self, now: datetime | None = None) -> None:
        self.now = now or datetime(2026, 11, 21, 12, tzinfo=UTC)
        self.data_sources: dict[str, DataSource] = {}
        self.databases: dict[str, list[str]] = {}
        # The same in every run of a test: rows come in the order of their ids.
        self._random = random.Random(0)
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
        database_id = database_id or self.make_id()
        made: list[Column] = []
        for name, given in columns.items():
            kind, config = given if isinstance(given, tuple) else (given, {})
            # Ids are encoded for URLs, as Notion does it.
            id_ = "title" if kind == "title" else quote(f"{self.make_id()[:4]}:", safe="")
            made.append(Column(id_, name, kind, config))
        source = DataSource(self.make_id(), database_id, title, made, {})
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
        """Put a row into the trash."""
        page.in_trash = True
        page.last_edited_time = self.now.replace(second=0, microsecond=0)
        self.changes += 1

    def archive(self, page: Page) -> None:
        """Put a row away, but not into the trash."""
        page.is_archived = True
        self.changes += 1

    def restore(self, page: Page) -> None:
        """Take a row out of the trash."""
        page.in_trash = False
        page.last_edited_time = self.now.replace(second=0, microsecond=0)
        self.changes += 1

    def remove(self, page: Page) -> None:
        """Delete a row for good, or take it away from the connection: no trace is left."""
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
        """Give a column another type; it keeps its id, and its values are gone."""
        column = source.column(name)
        column.type, column.config = kind, {}
        for page in source.pages.values():
            page.values.pop(column.id, None)
        self.changes += 1

    def rename(self, source: DataSource, name: str, new: str) -> None:
        """Rename a column; its id stays."""
        source.column(name).name = new
        self.changes += 1

    def wait(self, **units: float) -> None:
        """Let time pass."""
        self.now += timedelta(**units)

    def make_id(self) -> str:
        """Return an id that nothing has yet."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def find(self, page_id: str) -> Page | None:
        """Return a page."""
        pages = (source.pages.get(page_id) for source in self.data_sources.values())
        return next((page for page in pages if page is not None), None)

    def _set(self, source: DataSource, page: Page, values: Mapping[str, Value]) -> None:
        for name, value in values.items():
            column = source.column(name)
            page.values[column.id] = _MAKE.get(column.type, lambda given: given)(value)
        self.changes += 1


# What may be given plainly.
_MAKE: Mapping[str, Callable[[Any], Any]] = {
    "title": lambda given: rich_text(given) if isinstance(given, str) else given,
    "rich_text": lambda given: rich_text(given) if isinstance(given, str) else given,
    "select": lambda given: option(given) if isinstance(given, str) else given,
    "status": lambda given: option(given) if isinstance(given, str) else given,
    "multi_select": lambda given: [option(each) if isinstance(each, str) else each for each in given],
    "relation": lambda given: [{"id": each.id if isinstance(each, Page) else each} for each in given],
}


def shown_time(moment: datetime) -> str:
    """Return a time as Notion writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")
