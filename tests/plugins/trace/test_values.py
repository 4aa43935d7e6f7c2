"""Every type of property as plain data, and converted to fields of items."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.values import read_value
from plugins.trace.sync.mapping import as_number, as_text, as_texts
from tests.notion import values
from tests.notion.server import FakeNotion
from tests.notion.workspace import Workspace
from tests.plugins.trace.factories import data_source_reader, read_every_row, unlimited_client

DAY = values.date("2026-09-15")
SPAN = values.date("2026-09-15T09:00:00.000-07:00", "2026-09-18T09:00:00.000-07:00", "America/Los_Angeles")
HIGH = [values.option("High"), values.option("Low")]
TEXT = [*values.rich_text("Uses "), *values.rich_text("x", bold=True), values.page_mention("Vault")]
FILES = [values.external_file("plan", "https://example.com/plan.pdf"), values.hosted_file("a.png")]
PEOPLE = [values.person("Ada"), values.bot("Sync"), values.group("Team"), values.user("unknown")]
UNKNOWN = PEOPLE[-1]["id"]
PERIOD = values.date("2026-09-01T09:00:00.000Z", "2026-10-01T09:00:00.000Z")
PLACE = values.place(52.5, 13.4, "Office", "Main Street 1")
NAMES = [{"type": "title", "title": values.rich_text(name)} for name in ("Open", "Paid")]
LINKS = [{"type": "relation", "relation": [{"id": "page-1"}, {"id": "page-2"}]}, {"type": "relation", "relation": []}]


@pytest.mark.parametrize(
    ("kind", "shape", "value", "texts"),
    [
        ("title", values.rich_text("Sign up"), "Sign up", ["Sign up"]),
        ("title", [], "", []),
        ("rich_text", TEXT, "Uses xVault", ["Uses xVault"]),
        ("rich_text", [values.user_mention("Ada"), values.equation("e=mc^2")], "@Adae=mc^2", ["@Adae=mc^2"]),
        ("number", 2.5, 2.5, ["2.5"]),
        ("number", None, None, []),
        ("select", HIGH[0], "High", ["High"]),
        ("select", None, None, []),
        ("status", HIGH[0], "High", ["High"]),
        ("multi_select", HIGH, ["High", "Low"], ["High", "Low"]),
        ("multi_select", [], [], []),
        ("date", DAY, {"start": "2026-09-15", "end": None, "time_zone": None}, ["2026-09-15"]),
        ("date", SPAN, SPAN, ["2026-09-15T09:00:00.000-07:00/2026-09-18T09:00:00.000-07:00"]),
        ("date", None, None, []),
        ("people", PEOPLE, ["Ada", "Sync", "Team", UNKNOWN], ["Ada", "Sync", "Team", UNKNOWN]),
        ("people", [], [], []),
        (
            "files",
            FILES,
            [{"name": "plan", "url": "https://example.com/plan.pdf"}, {"name": "a.png"}],
            ["https://example.com/plan.pdf", "a.png"],
        ),
        ("checkbox", True, True, ["true"]),
        ("checkbox", False, False, ["false"]),
        ("url", "https://example.com", "https://example.com", ["https://example.com"]),
        ("email", "ada@example.com", "ada@example.com", ["ada@example.com"]),
        ("phone_number", "+49 30 1", "+49 30 1", ["+49 30 1"]),
        ("phone_number", None, None, []),
        ("formula", values.formula("string", "Ready"), "Ready", ["Ready"]),
        ("formula", values.formula("number", 16), 16, ["16"]),
        ("formula", values.formula("boolean", True), True, ["true"]),
        ("formula", values.formula("date", DAY), DAY, ["2026-09-15"]),
        ("formula", values.formula("number", None), None, []),
        ("relation", [{"id": "page-1"}], ["page-1"], ["page-1"]),
        ("rollup", values.rollup("number", 8, "sum"), 8, ["8"]),
        ("rollup", values.rollup("date", DAY, "earliest_date"), DAY, ["2026-09-15"]),
        ("rollup", values.rollup("date", None, "earliest_date"), None, []),
        ("rollup", values.rollup("array", NAMES, "show_original"), ["Open", "Paid"], ["Open", "Paid"]),
        ("rollup", values.rollup("array", LINKS, "show_original"), ["page-1", "page-2"], ["page-1", "page-2"]),
        ("rollup", values.rollup("array", [], "show_original"), [], []),
        ("created_by", values.person("Ada"), "Ada", ["Ada"]),
        ("last_edited_by", values.user("unknown"), UNKNOWN, [UNKNOWN]),
        ("unique_id", {"prefix": "PRE", "number": 12}, {"prefix": "PRE", "number": 12}, ["PRE-12"]),
        ("unique_id", {"prefix": None, "number": 12}, {"prefix": None, "number": 12}, ["12"]),
        ("unique_id", {"prefix": "PRE", "number": None}, None, []),
        ("verification", values.verification("unverified"), None, ["unverified"]),
        (
            "verification",
            values.verification("verified", values.person("Ada"), PERIOD),
            {"state": "verified", "date": PERIOD, "verified_by": "Ada"},
            ["verified"],
        ),
        ("button", {}, None, []),
        ("place", PLACE, {"name": "Office", "address": "Main Street 1", "lat": 52.5, "lon": 13.4}, ["Office"]),
        ("place", values.place(52.5, 13.4), None, ["52.5, 13.4"]),
        ("place", None, None, []),
    ],
)
def test_a_property_becomes_plain_data_and_texts(
    notion: FakeNotion, workspace: Workspace, kind: str, shape: Any, value: Any, texts: list[str]
) -> None:
    name = "Name" if kind == "title" else "Value"
    source = workspace.add_data_source("Rows", {"Name": "title", name: kind})
    page = workspace.add_page(source, {})
    page.values[source.column(name).id] = shape

    with unlimited_client(notion) as client:
        read = read_value(client.retrieve_page(page.id)["properties"][name])

    if value is not None or not texts:
        assert read == value
    assert as_texts(read) == texts


@pytest.mark.parametrize("kind", ["created_time", "last_edited_time"])
def test_times_are_those_of_the_page(notion: FakeNotion, workspace: Workspace, kind: str) -> None:
    source = workspace.add_data_source("Rows", {"Name": "title", "When": kind})
    page = workspace.add_page(source, {})

    with unlimited_client(notion) as client:
        read = read_value(client.retrieve_page(page.id)["properties"]["When"])

    assert read == "2026-11-21T12:00:00.000Z"


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ({"prefix": "PRE", "number": 12}, 12),
        (3.0, 3),
        (2.5, 2.5),
        ("three", "three"),
        (None, None),
    ],
)
def test_a_whole_number_becomes_an_integer(value: Any, number: Any) -> None:
    assert as_number(value) == number
    assert type(as_number(value)) is type(number)


def test_a_place_without_a_name_is_shown_by_its_address() -> None:
    assert as_text({"name": None, "address": "Main Street 1", "lat": 1.0, "lon": 2.0}) == "Main Street 1"


def test_email_addresses_and_urls_of_hosted_files_are_left_out() -> None:
    read = [read_value({"type": "people", "people": PEOPLE}), read_value({"type": "files", "files": FILES})]

    assert "@example.com" not in str(read)
    assert "amazonaws" not in str(read)


@pytest.mark.parametrize(
    ("kind", "shape", "reason"),
    [
        ("telepathy", {}, "property 'Value': properties of type 'telepathy' cannot be read"),
        ("formula", values.formula("unsupported", None), "property 'Value': Notion could not calculate it"),
        ("rollup", values.rollup("unsupported", {}, "median"), "property 'Value': Notion could not calculate it"),
    ],
)
def test_an_unreadable_property_is_refused_by_name_only_if_it_is_mapped(
    notion: FakeNotion, workspace: Workspace, kind: str, shape: Any, reason: str
) -> None:
    # A rollup over a relation that it has.
    source = workspace.add_data_source("Rows", {"Name": "title", "Over": "relation", "Value": kind})
    over = source.column("Over").id.replace("%3A", ":")
    source.column("Value").config = {"relation_property_id": over, "rollup_property_id": "title"}
    page = workspace.add_page(source, {"Name": "Row"})
    page.values[source.column("Value").id] = shape

    with data_source_reader(notion, source, {"value": "Value"}) as reader, pytest.raises(NotionError, match=reason):
        read_every_row(reader)
    with data_source_reader(notion, source, {}) as reader:
        assert len(read_every_row(reader).read) == 1
