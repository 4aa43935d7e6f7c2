"""Reads of the fake Notion without a service around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kernel.settings import Secret
from plugins.trace.datasets import FEATURES
from plugins.trace.export.mapping import bind
from plugins.trace.export.rows import DataSourceReader
from plugins.trace.notion.api import NotionApi
from plugins.trace.notion.budget import RequestBudget
from plugins.trace.notion.query import Question
from plugins.trace.notion.schema import read_schema
from plugins.trace.notion.walk import Walk
from plugins.trace.settings import Source, TraceSettings
from tests.notion.calls import Call
from tests.notion.server import FakeNotion
from tests.notion.workspace import DataSource
from tests.plugins.trace.asking import Waits
from tests.plugins.trace.exports import PATIENCE


class Unhurried(RequestBudget):
    """Holds nobody up, and needs no database for it."""

    def __init__(self) -> None:
        pass

    def take(self) -> None:
        """Let a request through."""

    def pause(self, seconds: float) -> None:
        """Let requests through."""


@contextmanager
def asking_freely(notion: FakeNotion, **given: Any) -> Iterator[NotionApi]:
    """Make what asks Notion.

    Args:
        notion: Whom to ask.
        **given: Further settings.
    """
    values = {**PATIENCE, "api_url": notion.url, "token": Secret(notion.token), **given}
    api = NotionApi(TraceSettings(**values), Unhurried(), Waits(), lambda reason: None)
    try:
        yield api
    finally:
        api.close()


def walk_over(notion: FakeNotion, source: DataSource, **asked: Any) -> tuple[Walk, list[str]]:
    """Walk over a data source; return the walk, and the ids of the rows that it gave."""
    with asking_freely(notion) as api:
        schema = read_schema(api.data_source(source.id))
        walk = Walk(api, Question(source.id, ("title",), schema.unique_id, **asked))
        return walk, [row["id"] for row in walk.rows()]


@contextmanager
def reading(notion: FakeNotion, source: DataSource, columns: Mapping[str, str]) -> Iterator[DataSourceReader]:
    """Make what reads a data source as features, with columns as properties of the same names.

    Args:
        notion: Whom to ask.
        source: What to read.
        columns: Names of columns by names of properties.
    """
    with asking_freely(notion) as api:
        schema = read_schema(api.data_source(source.id))
        given = Source(data_sources=(source.id,), properties=dict(columns))
        yield DataSourceReader(api, schema, bind(FEATURES, given, schema, {}, ["features"]), lambda rows: None)


def is_item(call: Call) -> bool:
    """Tell whether one property of one page is asked for."""
    return call.path[0] == "pages" and "properties" in call.path
