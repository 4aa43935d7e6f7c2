"""Notion tells of changes: one refresh follows, and nobody else can start one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kernel.testing import Client
from plugins.trace.export.refresh import REFRESH
from plugins.trace.webhooks.offers import KEPT_MAX
from plugins.trace.webhooks.routes import BODY_BYTES_MAX
from tests.commands import make_runner
from tests.conftest import Serve
from tests.notion.server import FakeNotion
from tests.notion.webhooks import PATH, TOKEN, make_event, send, signature
from tests.plugins.trace.exports import PLUGINS, Specifications, keys_of, refresh, serve_trace

Hooked = Callable[..., Client]


@pytest.fixture
def hooked(serve: Serve, notion: FakeNotion, specifications: Specifications) -> Hooked:
    """Start a service that takes events."""

    def start(**more: Any) -> Client:
        given = {"webhook_token": TOKEN, "webhook_wait_s": 30.0, **more}
        return serve_trace(serve, notion, specifications.sources(), **given)

    return start


def waiting(client: Client) -> list[int]:
    return [job.id for job in client.service.shared.jobs.list(name=REFRESH, state="waiting")]


def row_event(specifications: Specifications, kind: str = "page.properties_updated") -> dict[str, Any]:
    """Return an event of a row of the features."""
    source = specifications.features
    page_id = next(iter(source.pages))
    return make_event(kind, page_id, parent={"id": source.database_id, "type": "database", "data_source_id": source.id})


def test_many_events_make_one_refresh_a_while_after_the_first(hooked: Hooked, specifications: Specifications) -> None:
    client = hooked()

    answers = [send(client, row_event(specifications)) for _ in range(3)]

    assert [(each.status, each.json()["data"]) for each in answers] == [(200, {"outcome": "refresh"})] * 3
    [job_id] = waiting(client)
    job = client.service.shared.jobs.get(job_id)
    assert (job.due_at - job.created_at).total_seconds() == 30
    assert job.parameters == {"full": False}


def test_an_event_while_a_refresh_runs_makes_one_more_afterwards(
    hooked: Hooked, specifications: Specifications, notion: FakeNotion
) -> None:
    client = hooked()
    notion.faults.append(lambda call: send_once())
    sent: list[int] = []

    def send_once() -> None:
        if not sent:
            sent.append(send(client, row_event(specifications)).status)

    refresh(client)

    assert sent == [200]
    assert len(waiting(client)) == 1


def test_an_event_that_comes_twice_or_late_does_no_harm(hooked: Hooked, specifications: Specifications) -> None:
    client = hooked()
    event = row_event(specifications) | {"timestamp": "2020-01-01T00:00:00.000Z", "attempt_number": 8}

    assert [send(client, event).status for _ in range(2)] == [200, 200]
    assert len(waiting(client)) == 1


def test_a_refresh_of_everything_that_waits_is_enough(hooked: Hooked, specifications: Specifications) -> None:
    client = hooked()
    client.service.shared.jobs.start(REFRESH, {"full": True}, delay_s=60)

    assert send(client, row_event(specifications)).status == 200
    assert len(waiting(client)) == 1


def ours(specifications: Specifications) -> list[dict[str, Any]]:
    table = specifications.features
    database = {"id": table.database_id, "type": "database"}
    return [
        *(row_event(specifications, f"page.{each}") for each in ("created", "content_updated", "deleted", "undeleted")),
        make_event("data_source.schema_updated", table.id, parent=database),
        make_event("data_source.content_updated", table.id, parent=database),
        make_event("database.schema_updated", table.database_id, parent={"id": "space", "type": "space"}),
        make_event("database.moved", table.database_id.replace("-", "").upper()),
        # Nobody knows where it is.
        make_event("page.deleted", "11111111-1111-4111-8111-111111111111"),
        {"type": "page.created", "entity": None, "data": 7},
    ]


def of_others(specifications: Specifications) -> list[dict[str, Any]]:
    elsewhere = {"id": "11111111-1111-4111-8111-111111111111", "type": "page"}
    return [
        make_event("page.content_updated", "22222222-2222-4222-8222-222222222222", parent=elsewhere),
        make_event("page.created", "22222222-2222-4222-8222-222222222222", parent=elsewhere | {"type": "database"}),
        make_event("comment.created", next(iter(specifications.features.pages))),
        make_event("page.invented_later", next(iter(specifications.features.pages))),
        {"type": 7},
        {},
    ]


@pytest.mark.parametrize(("make", "outcome"), [(ours, "refresh"), (of_others, "ignored")])
def test_events_count_where_they_may_concern_rows_of_ours(
    hooked: Hooked,
    specifications: Specifications,
    make: Callable[[Specifications], list[dict[str, Any]]],
    outcome: str,
) -> None:
    client = hooked()

    outcomes = {each.get("type"): send(client, each).json()["data"]["outcome"] for each in make(specifications)}

    assert set(outcomes.values()) == {outcome}, outcomes
    assert len(waiting(client)) == (outcome == "refresh")


def test_a_row_that_was_moved_away_is_missed_by_the_next_refresh(
    hooked: Hooked, specifications: Specifications
) -> None:
    client = hooked()
    refresh(client)
    page = next(iter(specifications.features.pages.values()))
    elsewhere = specifications.workspace.add_data_source("Elsewhere", {"Name": "title"})
    specifications.workspace.wait(hours=1)
    specifications.workspace.move(page, elsewhere)

    send(client, make_event("page.moved", page.id, parent={"id": elsewhere.database_id, "type": "database"}))

    assert refresh(client).sources[0].missing == 1
    assert keys_of(client, "features") == ["feature-1", "feature-2"]
    # It is looked at once.
    assert refresh(client).sources[0].missing == 0


BODY = json.dumps(make_event("page.created", "x")).encode()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Notion-Signature": signature(BODY, "another token")},
        {"X-Notion-Signature": signature(BODY + b" ")},
        {"X-Notion-Signature": signature(BODY).removeprefix("sha256=")},
        {"X-Notion-Signature": "sha256=\xe4"},
        {"X-Notion-Signature": ""},
    ],
)
def test_what_is_not_signed_with_the_token_is_refused(hooked: Hooked, headers: dict[str, str]) -> None:
    client = hooked()

    answer = client.post(PATH, content=BODY, headers=headers)

    assert (answer.status, answer.json()["code"]) == (401, "unauthorized")
    assert waiting(client) == []
    assert TOKEN not in answer.content.decode()


def test_a_body_that_is_too_large_is_refused_and_one_that_is_no_json_as_well(hooked: Hooked) -> None:
    client = hooked()
    bodies = [b" " * (BODY_BYTES_MAX + 1), b"{"]

    answers = [client.post(PATH, content=each, headers={"X-Notion-Signature": signature(each)}) for each in bodies]

    assert [each.status for each in answers] == [413, 400]


def test_without_a_token_there_is_no_webhook(hooked: Hooked, specifications: Specifications) -> None:
    client = hooked(webhook_token=None)

    assert send(client, row_event(specifications)).status == 404
    assert waiting(client) == []


def test_the_token_of_a_new_webhook_is_shown_by_the_command_alone(
    hooked: Hooked,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    client = hooked(webhook_token=None)

    answer = client.post(PATH, {"verification_token": TOKEN})

    assert (answer.status, answer.json()["data"]) == (200, {"outcome": "kept"})
    assert TOKEN not in "".join(capsys.readouterr())
    run = make_runner(database, tmp_path, monkeypatch, capsys)
    monkeypatch.setenv("TIERCEL_PLUGINS", ",".join(PLUGINS))
    assert run("trace", "webhook").output.split()[-1] == TOKEN
    assert [each["token"] for each in run("trace", "webhook", "--json").json()] == [TOKEN]
    # Once it is configured, it is nobody's business any more.
    assert TOKEN not in run("trace", "webhook", NOTION_WEBHOOK_TOKEN=TOKEN).output
    monkeypatch.delenv("NOTION_WEBHOOK_TOKEN")
    assert run("trace", "webhook").output == ""


def test_a_token_that_is_configured_is_not_replaced(hooked: Hooked, specifications: Specifications) -> None:
    client = hooked()

    assert client.post(PATH, {"verification_token": "secret_of_somebody_else"}).status == 401
    assert send(client, row_event(specifications)).status == 200


@pytest.mark.parametrize("token", ["short", "x" * 201, "secret with spaces in it", 7, None])
def test_what_is_no_token_is_not_kept(hooked: Hooked, token: object) -> None:
    assert hooked(webhook_token=None).post(PATH, {"verification_token": token}).status == 404


def test_only_the_latest_tokens_are_kept(
    hooked: Hooked, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = hooked(webhook_token=None)

    for number in range(KEPT_MAX + 3):
        client.post(PATH, {"verification_token": f"secret_of_whoever_{number}"})

    run = make_runner(database, tmp_path, monkeypatch, capsys)
    monkeypatch.setenv("TIERCEL_PLUGINS", ",".join(PLUGINS))
    kept = [each["token"] for each in run("trace", "webhook", "--json").json()]
    assert kept == [f"secret_of_whoever_{number}" for number in range(KEPT_MAX + 2, 2, -1)]
