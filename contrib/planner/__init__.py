"""An example of a plugin with a table of its own: tasks of sites, under ``/api/v1/planner/tasks/``."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from typing import Annotated, ClassVar

import msgspec

from kernel import InvalidError, Route, Services, hookimpl
from kernel.http import CsvFiles, Edit, Reference, Resource, ResourcePages

Title = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Number = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class NewTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task as clients set it; fields as of ``Task``."""

    site: Number | None = None
    sector: Number | None = None
    title: Title
    starts_on: date | None = None
    ends_on: date | None = None
    is_done: bool = False


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A task.

    Args:
        id: Its number.
        account: Number of the account.
        site: Number of the site.
        sector: Number of the sector; None for all of the site.
        title: What is to be done.
        starts_on: When to begin.
        ends_on: When it should be done.
        is_done: Whether it is done.
        created_at: When it was created.
        updated_at: When it was last changed.
    """

    id: int
    account: int
    site: int
    sector: int | None
    title: Title
    starts_on: date | None
    ends_on: date | None
    is_done: bool
    created_at: datetime
    updated_at: datetime


class Tasks(Resource[Task]):
    """``/api/v1/planner/tasks/``."""

    path = "/api/v1/planner/tasks/"
    table = "planner.task"
    item = Task
    body = NewTask
    search = ("title",)
    ordering = ("ends_on",)
    references: ClassVar = {
        "site": Reference("accounts.site", slug="slug", label="name"),
        "sector": Reference("accounts.sector", shares=("account", "site"), label="name"),
    }

    def clean(self, edit: Edit[Task]) -> dict[str, object]:
        """Refuse a task that ends before it starts."""
        starts_on, ends_on = edit.values["starts_on"], edit.values["ends_on"]
        if starts_on is not None and ends_on is not None and ends_on < starts_on:
            raise InvalidError(errors={"ends_on": ["It must not be before starts_on."]})
        return edit.values


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    """Return the routes of tasks, of their CSV files, and of their pages."""
    tasks = Tasks(services)
    files = CsvFiles(tasks, key=("site", "title"))
    pages = ResourcePages(services, tasks, "/planner/tasks/", menu="Tasks", files=files)
    return [*tasks.routes(), *files.routes(), *pages.routes()]
