"""``tiercel trace check`` says of every field whether an export can fill it; ``tiercel check`` describes the setup."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from kernel.testing import Client
from tests.commands import Ran, RunCommand
from tests.conftest import Serve
from tests.notion import faults
from tests.notion.server import VERSIONS, FakeNotion, Fault
from tests.notion.values import formula
from tests.notion.workspace import Workspace
from tests.plugins.trace.factories import Specifications, export, serve_trace

pytestmark = pytest.mark.slow

Check = Callable[..., Ran]


@pytest.fixture
def check(tiercel: RunCommand, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Run ``tiercel trace check`` with some sources."""

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
    """Return the lines with a problem."""
    return [line for line in ran.output.splitlines() if line.startswith("[PROBLEM]")]


@pytest.mark.parametrize("version", VERSIONS)
def test_valid_sources_are_shown_with_samples_and_nothing_is_stored(
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
    assert "tags Tags relation ok points to 1 pages" in lines
    assert lines[-1] == "all of it fits"
    assert {call.headers["notion-version"] for call in notion.calls} == {version}
    unpublished = serve(plugins=["system", "trace"]).get("/api/v1/datasets/features/versions/").json()["data"]
    assert unpublished["attempts"] == []


def test_every_kind_of_problem_names_its_field(
    check: Check, serve: Serve, notion: FakeNotion, workspace: Workspace, specifications: Specifications
) -> None:
    sources = specifications.sources()
    export(serve_trace(serve, notion, sources))
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
        "Notion shows a relation only if its target is shared as well",
        "[PROBLEM] features: tags: 'Tags' no source: points to tags, which [trace.sources] does not have",
    ]


def test_a_renamed_column_alone_is_not_a_problem(
    check: Check, serve: Serve, notion: FakeNotion, workspace: Workspace, specifications: Specifications
) -> None:
    export(serve_trace(serve, notion, specifications.sources()))
    workspace.rename(specifications.features, "Area", "Part")

    ran = check(specifications.sources())

    assert ran.code == 0
    assert "renamed  is now called 'Part'" in ran.output


def test_a_relation_to_an_unread_data_source_is_a_problem(
    check: Check, workspace: Workspace, specifications: Specifications
) -> None:
    other = workspace.add_data_source("Other tiers", {"Name": "title"})
    sources = specifications.sources()
    sources["tiers"] = {"data_sources": [other.id]}

    assert f"points to data source {specifications.tiers.id}, which trace.sources.tiers" in problems(check(sources))[0]


def test_every_data_source_of_a_database_is_checked(
    check: Check, workspace: Workspace, specifications: Specifications
) -> None:
    more = workspace.add_data_source(
        "More tiers", {"Name": "title", "Rank": "number"}, specifications.tiers.database_id
    )

    ran = check(specifications.sources())

    assert f"tiers: More tiers ({more.id}), rows: 0" in ran.output
    assert problems(ran) == ["[PROBLEM] tiers: level: 'Level' missing: More tiers has 'Name', 'Rank'"]


@pytest.mark.parametrize(("wrong", "status"), [(1, "would be rejected"), (2, "[PROBLEM] tiers: Plans: 2 of")])
def test_rows_that_would_be_rejected_are_counted_and_a_problem_if_all_would_be(
    check: Check, workspace: Workspace, wrong: int, status: str, notion: FakeNotion
) -> None:
    plans = workspace.add_data_source("Plans", {"Name": "title", "Rank": "formula"})
    for number in range(2):
        value = formula("string", "x") if number < wrong else formula("number", 1)
        workspace.add_page(plans, {"Name": f"Plan {number}", "Rank": value})

    ran = check({"tiers": {"data_sources": [plans.id], "fields": {"level": "Rank"}}})

    assert ran.code == wrong - 1
    assert status in ran.output
    assert f"{wrong} of the first 2 rows would be rejected; the first: page " in ran.output
    assert "level: 'Rank': expected a whole number, got 'x'" in ran.output


def test_properties_are_shown_and_long_values_shortened(check: Check, workspace: Workspace, notion: FakeNotion) -> None:
    table = workspace.add_data_source("Things", {"Name": "title", "Notes": "rich_text", "Empty": "rich_text"})
    for _ in range(101):
        workspace.add_page(table, {"Name": "Row", "Notes": "x" * 200})

    ran = check({"tags": {"data_sources": [table.id], "properties": {"notes": "Notes", "empty": "Empty"}}})

    assert f"such as '{'x' * 59}…'" in ran.output
    assert "empty in all of the first rows" in ran.output
    assert f"tags: Things ({table.id}), the first 100 rows" in ran.output


# --- access ----------------------------------------------------------------------------------------------------------


def test_a_database_that_is_not_shared_is_explained_and_the_others_are_checked(
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


def test_an_id_under_the_wrong_key_is_reported_with_the_right_key(check: Check, specifications: Specifications) -> None:
    table = specifications.tags

    swapped = check({"tags": {"data_sources": [table.database_id], "databases": [table.id]}})

    assert [each.rpartition("; ")[2] for each in problems(swapped)] == [
        "the id belongs under data_sources",
        "the id belongs under databases",
    ]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (faults.error_response(401, "unauthorized", "API token is invalid."), "NOTION_TOKEN is wrong, or was revoked"),
        (faults.error_response(403, "restricted_resource", "No."), "the connection lacks a capability"),
        (faults.disconnected, "the connection failed"),
        (faults.proxy_response(400), "answered 400, with a body that is not Notion's"),
    ],
)
def test_if_notion_cannot_be_asked_the_reason_is_printed(
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


def test_retries_are_reported_on_standard_error(
    check: Check, notion: FakeNotion, specifications: Specifications
) -> None:
    notion.faults.append(faults.once(faults.error_response(500, "internal_server_error")))

    ran = check(specifications.sources())

    assert (ran.code, "trying again: " in ran.errors) == (0, True)


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"NOTION_TOKEN": ""}, "NOTION_TOKEN is not set"),
        ({"TIERCEL_TRACE__SOURCES": "{}"}, "no sources are configured"),
        ({"NOTION_TOKEN": "two words"}, "NOTION_TOKEN is not a token"),
    ],
)
def test_without_a_token_or_sources_the_check_fails_with_the_reason(
    tiercel: RunCommand, variables: dict[str, str], reason: str
) -> None:
    ran = tiercel("trace", "check", "--json", **variables)

    assert ran.code == 1
    assert (ran.json()["ok"], reason in ran.json()["problem"]) == (False, True)


def test_a_missing_capability_to_read_content_is_reported(
    check: Check, notion: FakeNotion, specifications: Specifications
) -> None:
    def strip(answer: dict[str, Any]) -> None:
        if answer["object"] == "list":
            answer["results"] = [{"object": "page", "id": each["id"]} for each in answer["results"]]

    notion.faults.append(faults.altered(strip))

    ran = check({"tags": specifications.sources()["tags"]})

    assert problems(ran) == [
        "[PROBLEM] tags: Tags: rows have no properties: the connection lacks the capability to read content"
    ]


# --- tiercel check ---------------------------------------------------------------------------------------------------


@pytest.fixture
def migrated(serve: Serve) -> Client:
    """A service that ran on the test's database: ``tiercel check`` expects a migrated one."""
    return serve(plugins=["system", "trace"])


def test_tiercel_check_describes_the_setup_without_requests_to_notion(
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


def test_tiercel_check_says_that_no_token_is_set(tiercel: RunCommand, migrated: Client) -> None:
    ran = tiercel("check", NOTION_TOKEN="")

    assert "[ok] trace: NOTION_TOKEN is not set: imported data are served" in ran.output


def test_tiercel_check_warns_about_a_token_in_the_configuration_file(
    tiercel: RunCommand, migrated: Client, tmp_path: Any, notion: FakeNotion
) -> None:
    (tmp_path / "vault.toml").write_text(f'[trace]\ntoken = "{notion.token}"')

    ran = tiercel("--config", "vault.toml", "check", NOTION_TOKEN="")

    assert ran.code == 0, ran.output
    assert "[warning] secrets: trace.token in vault.toml: keep secrets in the environment or in .env" in ran.output
    assert notion.token not in ran.output
