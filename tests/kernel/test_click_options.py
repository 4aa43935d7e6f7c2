"""Options of a command from the fields of a Struct."""

from __future__ import annotations

from typing import Annotated, Literal

import click
import msgspec
import pytest
from click.testing import CliRunner

from kernel.cli.click_options import struct_options
from kernel.errors import InvalidError


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """What all ask.

    Args:
        start: From when on; told
            in two lines.
    """

    start: str | None = None


class Query(Base, frozen=True, kw_only=True):
    """What one asks.

    Args:
        limit: ``Rows`` at most.
        sort_by: What comes first.
    """

    limit: Annotated[int, msgspec.Meta(ge=1)] = 20
    sort_by: Literal["hits", "name"] = "hits"
    percentiles: tuple[float, ...] = ()
    exact: bool = False


@click.command()
@click.option("--json", "as_json", is_flag=True)
@struct_options(Query)
def ask(query: Query, as_json: bool) -> None:
    """Ask something."""
    click.echo(msgspec.json.encode([query, as_json]))


def run(*arguments: str) -> tuple[Query, bool]:
    ran = CliRunner().invoke(ask, arguments, catch_exceptions=False, standalone_mode=False)
    return msgspec.json.decode(ran.stdout, type=tuple[Query, bool])


def test_without_options_every_field_has_its_default() -> None:
    assert run() == (Query(), False)


def test_every_field_is_an_option_besides_those_of_the_command() -> None:
    given = run("--start", "now", "--limit", "3", "--sort-by", "name", "--percentiles", "50, 99.9", "--exact", "--json")

    assert given == (Query(start="now", limit=3, sort_by="name", percentiles=(50, 99.9), exact=True), True)


def test_every_wrong_option_is_named_with_what_is_allowed() -> None:
    with pytest.raises(InvalidError) as caught:
        run("--limit", "0", "--sort-by", "size", "--start", "now")

    assert caught.value.errors == {
        "limit": ["Expected int >= 1, got '0'."],
        "sort_by": ["Expected hits or name, got 'size'."],
    }


def test_help_texts_are_those_of_the_docstrings() -> None:
    text = " ".join(CliRunner().invoke(ask, ["--help"]).output.split())

    assert "Ask something." in text
    assert "--start TEXT From when on; told in two lines." in text
    assert "--limit TEXT Rows at most. [default: 20]" in text
    assert "--sort-by [hits|name] What comes first. [default: hits]" in text
