"""What a check finds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from plugins.trace.export.mapping import Trouble

State = Literal["ok"] | Trouble
# The column is found all the same, by its id.
_WELL = frozenset({"ok", "renamed"})


class FieldCheck(msgspec.Struct, frozen=True):
    """A field, and the column that it is to come from.

    Args:
        field: Of the item.
        column: As configured, or the title where nothing is.
        type: Of the column; None if there is none.
        state: What is with it.
        detail: What is there instead, or a value of the first rows.
    """

    field: str
    column: str
    type: str | None
    state: State
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether an export would get it."""
        return self.state in _WELL


class DataSourceCheck(msgspec.Struct, frozen=True):
    """A data source.

    Args:
        id: Which.
        title: As people see it.
        rows: On its first page.
        has_more: Whether there are further pages.
        fields: Each field, in the order of the configuration.
        notes: What is not wrong, but should be known.
        problems: What is wrong with it besides.
    """

    id: str
    title: str
    rows: int = 0
    has_more: bool = False
    fields: tuple[FieldCheck, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class SourceCheck(msgspec.Struct, frozen=True):
    """A source of the configuration.

    Args:
        source: The dataset that it makes.
        data_sources: What was found.
        problems: What was not.
    """

    source: str
    data_sources: tuple[DataSourceCheck, ...] = ()
    problems: tuple[str, ...] = ()


class Check(msgspec.Struct, frozen=True):
    """All of it.

    Args:
        ok: Whether an export can be made.
        api_url: Whom was asked.
        api_version: How.
        problem: Why nothing could be asked.
        sources: What was found of each.
    """

    ok: bool
    api_url: str
    api_version: str
    problem: str | None = None
    sources: tuple[SourceCheck, ...] = ()


def list_problems(source: SourceCheck) -> Iterator[str]:
    """Say what is wrong with a source."""
    yield from (f"{source.source}: {each}" for each in source.problems)
    for found in source.data_sources:
        yield from (f"{source.source}: {found.title or found.id}: {each}" for each in found.problems)
        for field in found.fields:
            if not field.ok:
                yield f"{source.source}: {field.field}: {field.column!r} {field.state}: {field.detail}"
