"""``tiercel trace check`` says of every field whether an export would get it, and ``tiercel check`` what is set up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from kernel.testing import Client
from tests.commands import Ran, RunCommand
from tests.conftest import Serve
from tests.notion import faults
from tests.notion.calls import Fault
from tests.notion.server import VERSIONS, FakeNotion
from tests.notion.values import formula
from tests.notion.workspace import Workspace
from tests.plugins.trace.exports import Specifications, refresh, serve_trace

Check = Callable[..., Ran]


@pytest.fixture
def check(tiercel: RunCommand, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Check these sources."""

    def run(sources: dict[str, Any], *words: str) -> Ran:
        monkeypatch.setenv("TIERCEL_TRACE__SOURCES", msgspec.json.encode(sources).decode())
        return tiercel("trace", "check", *words)

    return run


def states(ran: Ran, source: str) -> dict[str, str]:
    """Return the state of each field of the one data source of a source."""
    (found,) = [each for each in ran.json()["sources"] if each["source"] == source]
    (only,) = found["data_sources"]
    return {each["field"]: each["state"] for each in only["fields"]}


def problems(ran: Ran) -> list[str]:
    """Return what it calls a problem."""
    return [line for line in ran.output.splitlines() if line.startswith("[PROBLEM]")]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_fits_is_shown_with_values_and_stores_nothing(
    check: Check,
    serve: Serve,
    notion: FakeNotion,
    specifications: Specifications,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
) -> None:
    monkeypatch.setenv("TIERCEL_TRACE__API_VERSION", version)

    ran = check(specifications.sources())

    assert ran.code == 0, ran.output
    lines = [" ".join(line.split()) for line in ran.output.splitlines()]
    assert f"{notion.url}, version {version}: the token is accepted" in lines
    assert f"features: Features ({specifications.features.id}), rows: 3" in lines
    assert any(line.startswith("name Name title ok such as 'Feature ") for line in lines)
    assert any(line.startswith("slug Name title ok such as 'feature-") for line in lines)
    assert "area Area select ok such as 'flow'" in lines
    assert "tags Tags relation ok leads to 1 pages" in lines
    assert lines[-1] == "all of it fits"
    assert {call.headers["notion-version"] for call in notion.calls} == {version}
    unpublished = serve(plugins=["system", "trace"]).get("/api/v1/datasets/features/versions/").json()["data"]
    assert unpublished["attempts"] == []


def test_every_kind_of_trouble_is_told_by_its_field(
    check: Check, serve: Serve, notion: FakeNotion, workspace: Workspace, specifications: Specifications
) -> None:
    sources = specifications.sources()
    refresh(serve_trace(serve, notion, sources))
    workspace.rename(specifications.features, "Area", "Part")
    workspace.change_type(specifications.features, "Status", "checkbox")
    workspace.remove_column(specifications.features, "Gateways")
    del sources["tags"]

    ran = check(sources, "--json")

    assert ran.code == 1
    assert states(ran, "features") == {
        "name": "ok",
        "slug": "ok",
        "area": "renamed",
        "status": "wrong type",
        "tier": "ok",
        "gateways": "missing",
        "tags": "no source",
    }
    assert problems(check(sources)) == [
        "[PROBLEM] features: status: 'Status' wrong type: is a checkbox, expected created_time, date, email, formula, "
        "last_edited_time, number, phone_number, rich_text, rollup, select, status, title, unique_id, url",
        "[PROBLEM] features: gateways: 'Gateways' missing: Features has 'Name', 'Part', 'Status', 'Tags', 'Tier'; "
        "a relation shows only if what it leads to is shared as well",
        "[PROBLEM] features: tags: 'Tags' no source: leads to tags, which [trace.sources] does not have",
    ]


def test_a_renamed_column_alone_is_no_problem(
    check: Check, serve: Serve, notion: FakeNotion, workspace: Workspace, specifications: Specifications
) -> None:
    refresh(serve_trace(serve, notion, specifications.sources()))
    workspace.rename(specifications.features, "Area", "Part")

    ran = check(specifications.sources())

    assert ran.code == 0
    assert "renamed  is called 'Part' now" in ran.output


def test_a_relation_that_leads_past_its_source_is_told(
    check: Check, workspace: Workspace, specifications: Specifications
) -> None:
    other = workspace.add_data_source("Other tiers", {"Name": "title"})
    sources = specifications.sources()
    sources["tiers"] = {"data_sources": [other.id]}

    assert f"leads to data source {specifications.tiers.id}, which trace.sources.tiers" in problems(check(sources))[0]


def test_each_data_source_of_a_database_is_looked_at(
    check: Check, workspace: Workspace, specifications: Specifications
) -> None:
    more = workspace.add_data_source(
        "More tiers", {"Name": "title", "Rank": "number"}, specifications.tiers.database_id
    )

    ran = check(specifications.sources())

    assert f"tiers: More tiers ({more.id}), rows: 0" in ran.output
    assert problems(ran) == ["[PROBLEM] tiers: level: 'Level' missing: More tiers has 'Name', 'Rank'"]


@pytest.mark.parametrize(("wrong", "status"), [(1, "would be kept aside"), (2, "[PROBLEM] tiers: Plans: 2 of")])
def test_rows_that_do_not_fit_are_counted_and_a_problem_if_none_does(
    check: Check, workspace: Workspace, wrong: int, status: str, notion: FakeNotion
) -> None:
    plans = workspace.add_data_source("Plans", {"Name": "title", "Rank": "formula"})
    for number in range(2):
        value = formula("string", "x") if number < wrong else formula("number", 1)
        workspace.add_page(plans, {"Name": f"Plan {number}", "Rank": value})

    ran = check({"tiers": {"data_sources": [plans.id], "fields": {"level": "Rank"}}})

    assert ran.code == wrong - 1
    assert status in ran.output
    assert f"{wrong} of the first 2 rows would be kept aside; the first: page " in ran.output
    assert "level: 'Rank': expected a whole number, got 'x'" in ran.output


def test_properties_are_shown_and_long_values_cut(check: Check, workspace: Workspace, notion: FakeNotion) -> None:
    table = workspace.add_data_source("Things", {"Name": "title", "Notes": "rich_text", "Empty": "rich_text"})
    for _ in range(101):
        workspace.add_page(table, {"Name": "Row", "Notes": "x" * 200})

    ran = check({"tags": {"data_sources": [table.id], "properties": {"notes": "Notes", "empty": "Empty"}}})

    assert f"such as '{'x' * 59}…'" in ran.output
    assert "empty in all of the first rows" in ran.output
    assert f"tags: Things ({table.id}), the first 100 rows" in ran.output


# --- access ----------------------------------------------------------------------------------------------------------


def test_what_is_not_shared_is_told_with_what_to_do_and_the_rest_is_looked_at(
    check: Check, workspace: Workspace, specifications: Specifications
) -> None:
    unknown = workspace.make_id()
    sources = specifications.sources()
    sources["tags"] |= {"databases": [unknown]}

    ran = check(sources)

    assert ran.code == 1
    (problem,) = problems(ran)
    assert problem.startswith(f"[PROBLEM] tags: database {unknown}: answered 404 object_not_found")
    assert problem.endswith("in Notion, open it, and under ••• and Connections add yours")
    assert "features: Features" in ran.output


def test_an_id_in_the_wrong_place_is_told_with_the_right_one(check: Check, specifications: Specifications) -> None:
    table = specifications.tags

    swapped = check({"tags": {"data_sources": [table.database_id], "databases": [table.id]}})

    assert [each.rpartition("; ")[2] for each in problems(swapped)] == [
        "the id belongs under data_sources",
        "the id belongs under databases",
    ]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (faults.failing(401, "unauthorized", "API token is invalid."), "NOTION_TOKEN is wrong, or was revoked"),
        (faults.failing(403, "restricted_resource", "No."), "the connection lacks a capability"),
        (faults.dropped, "the connection failed"),
        (faults.foreign(400), "answered 400, and not in Notion's words"),
    ],
)
def test_where_nothing_can_be_asked_it_says_why(
    check: Check,
    notion: FakeNotion,
    specifications: Specifications,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    reason: str,
) -> None:
    monkeypatch.setenv("TIERCEL_TRACE__RETRIES", "0")
    notion.faults.append(fault)

    ran = check(specifications.sources())

    assert ran.code == 1
    assert reason in ran.output
    assert notion.token not in ran.output + ran.errors
    assert len(notion.calls) == 1


def test_it_tries_again_and_says_so(check: Check, notion: FakeNotion, specifications: Specifications) -> None:
    notion.faults.append(faults.once(faults.failing(500, "internal_server_error")))

    ran = check(specifications.sources())

    assert (ran.code, "trying again: " in ran.errors) == (0, True)


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"NOTION_TOKEN": ""}, "NOTION_TOKEN is not set"),
        ({"TIERCEL_TRACE__SOURCES": "{}"}, "no sources are configured"),
        ({"NOTION_TOKEN": "two words"}, "NOTION_TOKEN is no token"),
    ],
)
def test_without_a_token_or_sources_there_is_nothing_to_check(
    tiercel: RunCommand, variables: dict[str, str], reason: str
) -> None:
    ran = tiercel("trace", "check", "--json", **variables)

    assert ran.code == 1
    assert (ran.json()["ok"], reason in ran.json()["problem"]) == (False, True)


def test_a_connection_that_may_not_read_content_is_told(
    check: Check, notion: FakeNotion, specifications: Specifications
) -> None:
    def strip(answer: dict[str, Any]) -> None:
        if answer["object"] == "list":
            answer["results"] = [{"object": "page", "id": each["id"]} for each in answer["results"]]

    notion.faults.append(faults.altered(strip))

    ran = check({"tags": specifications.sources()["tags"]})

    assert problems(ran) == ["[PROBLEM] tags: Tags: rows come empty: the connection may not read content"]


# --- tiercel check ---------------------------------------------------------------------------------------------------


@pytest.fixture
def migrated(serve: Serve) -> Client:
    """The test's database, as a service has left it."""
    return serve(plugins=["system", "trace"])


def test_check_of_the_service_says_what_is_set_up_and_asks_nobody(
    tiercel: RunCommand, migrated: Client, notion: FakeNotion
) -> None:
    ran = tiercel("check", NOTION_WEBHOOK_TOKEN="secret_0123456789")

    assert ran.code == 0, ran.output
    reads = f"reads tags, tiers, gateways, features from {notion.url}, version 2026-03-11"
    assert f"[ok] trace: {reads}: changes every 15m, and on webhooks, every row 0 3 * * *" in ran.output
    rows = [line.split() for line in ran.output.splitlines()]
    assert ["trace.token", "***", "environment", "NOTION_TOKEN"] in rows
    assert ["trace.webhook_token", "***", "environment", "NOTION_WEBHOOK_TOKEN"] in rows
    assert notion.token not in ran.output
    assert notion.calls == []


def test_check_of_the_service_says_that_nothing_is_set_up(tiercel: RunCommand, migrated: Client) -> None:
    ran = tiercel("check", NOTION_TOKEN="")

    assert "[ok] trace: NOTION_TOKEN is not set: what was imported is served" in ran.output


def test_check_of_the_service_warns_of_a_token_in_the_file(
    tiercel: RunCommand, migrated: Client, tmp_path: Any, notion: FakeNotion
) -> None:
    (tmp_path / "vault.toml").write_text(f'[trace]\ntoken = "{notion.token}"')

    ran = tiercel("--config", "vault.toml", "check", NOTION_TOKEN="")

    assert ran.code == 0, ran.output
    assert "[warning] secrets: trace.token in vault.toml: keep secrets in the environment or in .env" in ran.output
    assert notion.token not in ran.output
