"""Events of Notion schedule a refresh; requests without its signature do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kernel.testing import Client
from plugins.trace.jobs import REFRESH
from plugins.trace.store import VERIFICATION_TOKENS_MAX
from plugins.trace.webhook import BODY_BYTES_MAX
from tests.commands import make_runner
from tests.conftest import Serve
from tests.notion.server import FakeNotion
from tests.notion.webhooks import PATH, TOKEN, make_event, send, signature
from tests.plugins.trace.factories import PLUGINS, Specifications, export, keys_of, serve_trace

pytestmark = pytest.mark.slow

ServeWebhook = Callable[..., Client]


@pytest.fixture
def serve_webhook(serve: Serve, notion: FakeNotion, specifications: Specifications) -> ServeWebhook:
    """Start a service that accepts events."""

    def start(**more: Any) -> Client:
        given = {"webhook_token": TOKEN, "webhook_wait_s": 30.0, **more}
        return serve_trace(serve, notion, specifications.sources(), **given)

    return start


def waiting_jobs(client: Client) -> list[int]:
    return [job.id for job in client.service.shared.jobs.list(name=REFRESH, state="waiting")]


def row_event(specifications: Specifications, kind: str = "page.properties_updated") -> dict[str, Any]:
    """Return an event of a row of the features."""
    source = specifications.features
    page_id = next(iter(source.pages))
    return make_event(kind, page_id, parent={"id": source.database_id, "type": "database", "data_source_id": source.id})


def test_many_events_schedule_one_delayed_refresh(serve_webhook: ServeWebhook, specifications: Specifications) -> None:
    client = serve_webhook()

    answers = [send(client, row_event(specifications)) for _ in range(3)]

    assert [(each.status, each.json()["data"]) for each in answers] == [(200, {"outcome": "refresh"})] * 3
    [job_id] = waiting_jobs(client)
    job = client.service.shared.jobs.get(job_id)
    assert (job.due_at - job.created_at).total_seconds() == 30
    assert job.parameters == {"full": False}


def test_an_event_during_a_refresh_schedules_another_one(
    serve_webhook: ServeWebhook, specifications: Specifications, notion: FakeNotion
) -> None:
    client = serve_webhook()
    notion.faults.append(lambda call: send_once())
    sent: list[int] = []

    def send_once() -> None:
        if not sent:
            sent.append(send(client, row_event(specifications)).status)

    export(client)

    assert sent == [200]
    assert len(waiting_jobs(client)) == 1


def test_repeated_and_late_events_are_harmless(serve_webhook: ServeWebhook, specifications: Specifications) -> None:
    client = serve_webhook()
    event = row_event(specifications) | {"timestamp": "2020-01-01T00:00:00.000Z", "attempt_number": 8}

    assert [send(client, event).status for _ in range(2)] == [200, 200]
    assert len(waiting_jobs(client)) == 1


def test_no_refresh_is_added_while_a_full_one_is_waiting(
    serve_webhook: ServeWebhook, specifications: Specifications
) -> None:
    client = serve_webhook()
    client.service.shared.jobs.start(REFRESH, {"full": True}, delay_s=60)

    assert send(client, row_event(specifications)).status == 200
    assert len(waiting_jobs(client)) == 1


def events_of_sources(specifications: Specifications) -> list[dict[str, Any]]:
    table = specifications.features
    database = {"id": table.database_id, "type": "database"}
    return [
        *(row_event(specifications, f"page.{each}") for each in ("created", "content_updated", "deleted", "undeleted")),
        make_event("data_source.schema_updated", table.id, parent=database),
        make_event("data_source.content_updated", table.id, parent=database),
        make_event("database.schema_updated", table.database_id, parent={"id": "space", "type": "space"}),
        make_event("database.moved", table.database_id.replace("-", "").upper()),
        # Its parent is unknown.
        make_event("page.deleted", "11111111-1111-4111-8111-111111111111"),
        {"type": "page.created", "entity": None, "data": 7},
    ]


def other_events(specifications: Specifications) -> list[dict[str, Any]]:
    elsewhere = {"id": "11111111-1111-4111-8111-111111111111", "type": "page"}
    return [
        make_event("page.content_updated", "22222222-2222-4222-8222-222222222222", parent=elsewhere),
        make_event("page.created", "22222222-2222-4222-8222-222222222222", parent=elsewhere | {"type": "database"}),
        make_event("comment.created", next(iter(specifications.features.pages))),
        make_event("page.invented_later", next(iter(specifications.features.pages))),
        {"type": 7},
        {},
    ]


@pytest.mark.parametrize(("make", "outcome"), [(events_of_sources, "refresh"), (other_events, "ignored")])
def test_only_events_that_may_concern_the_sources_schedule_a_refresh(
    serve_webhook: ServeWebhook,
    specifications: Specifications,
    make: Callable[[Specifications], list[dict[str, Any]]],
    outcome: str,
) -> None:
    client = serve_webhook()

    outcomes = {each.get("type"): send(client, each).json()["data"]["outcome"] for each in make(specifications)}

    assert set(outcomes.values()) == {outcome}, outcomes
    assert len(waiting_jobs(client)) == (outcome == "refresh")


def test_a_row_moved_away_is_missing_in_the_next_refresh(
    serve_webhook: ServeWebhook, specifications: Specifications
) -> None:
    client = serve_webhook()
    export(client)
    page = next(iter(specifications.features.pages.values()))
    elsewhere = specifications.workspace.add_data_source("Elsewhere", {"Name": "title"})
    specifications.workspace.wait(hours=1)
    specifications.workspace.move(page, elsewhere)

    send(client, make_event("page.moved", page.id, parent={"id": elsewhere.database_id, "type": "database"}))

    assert export(client).sources[0].missing == 1
    assert keys_of(client, "features") == ["feature-1", "feature-2"]
    # It is looked up only once.
    assert export(client).sources[0].missing == 0


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
def test_a_request_without_a_valid_signature_is_refused(serve_webhook: ServeWebhook, headers: dict[str, str]) -> None:
    client = serve_webhook()

    answer = client.post(PATH, content=BODY, headers=headers)

    assert (answer.status, answer.json()["code"]) == (401, "unauthorized")
    assert waiting_jobs(client) == []
    assert TOKEN not in answer.content.decode()


def test_bodies_that_are_too_large_or_not_json_are_refused(serve_webhook: ServeWebhook) -> None:
    client = serve_webhook()
    bodies = [b" " * (BODY_BYTES_MAX + 1), b"{"]

    answers = [client.post(PATH, content=each, headers={"X-Notion-Signature": signature(each)}) for each in bodies]

    assert [each.status for each in answers] == [413, 400]


def test_without_a_token_there_is_no_webhook(serve_webhook: ServeWebhook, specifications: Specifications) -> None:
    client = serve_webhook(webhook_token=None)

    assert send(client, row_event(specifications)).status == 404
    assert waiting_jobs(client) == []


def test_the_verification_token_is_shown_by_the_command_alone(
    serve_webhook: ServeWebhook,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    client = serve_webhook(webhook_token=None)

    answer = client.post(PATH, {"verification_token": TOKEN})

    assert (answer.status, answer.json()["data"]) == (200, {"outcome": "kept"})
    assert TOKEN not in "".join(capsys.readouterr())
    run = make_runner(database, tmp_path, monkeypatch, capsys)
    monkeypatch.setenv("TIERCEL_PLUGINS", ",".join(PLUGINS))
    assert run("trace", "webhook").output.split()[-1] == TOKEN
    assert [each["token"] for each in run("trace", "webhook", "--json").json()] == [TOKEN]
    # It is deleted once a token is configured.
    assert TOKEN not in run("trace", "webhook", NOTION_WEBHOOK_TOKEN=TOKEN).output
    monkeypatch.delenv("NOTION_WEBHOOK_TOKEN")
    assert run("trace", "webhook").output == ""


def test_a_configured_token_is_not_replaced(serve_webhook: ServeWebhook, specifications: Specifications) -> None:
    client = serve_webhook()

    assert client.post(PATH, {"verification_token": "secret_of_somebody_else"}).status == 401
    assert send(client, row_event(specifications)).status == 200


@pytest.mark.parametrize("token", ["short", "x" * 201, "secret with spaces in it", 7, None])
def test_an_invalid_verification_token_is_not_stored(serve_webhook: ServeWebhook, token: object) -> None:
    assert serve_webhook(webhook_token=None).post(PATH, {"verification_token": token}).status == 404


def test_only_the_latest_verification_tokens_are_stored(
    serve_webhook: ServeWebhook,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    client = serve_webhook(webhook_token=None)

    for number in range(VERIFICATION_TOKENS_MAX + 3):
        client.post(PATH, {"verification_token": f"secret_of_whoever_{number}"})

    run = make_runner(database, tmp_path, monkeypatch, capsys)
    monkeypatch.setenv("TIERCEL_PLUGINS", ",".join(PLUGINS))
    kept = [each["token"] for each in run("trace", "webhook", "--json").json()]
    assert kept == [f"secret_of_whoever_{number}" for number in range(VERIFICATION_TOKENS_MAX + 2, 2, -1)]
