"""Plans: what an account may use a day, and what it has used."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from kernel.testing import Client
from tests.plugins.accounts.factories import create_account, create_key, with_key
from tests.plugins.observability.events import make_event

USAGE = "/api/v1/usage/"


def create_plan(client: Client, slug: str, **limits: int) -> None:
    """Create a plan."""
    names = "".join(f", {unit}_per_day" for unit in limits)
    values = "".join(f", {number}" for number in limits.values())
    with client.service.db.connection() as connection:
        connection.execute(f"INSERT INTO accounts.plan (slug, name{names}) VALUES ('{slug}', '{slug}'{values})")


def used(client: Client, headers: dict[str, str]) -> dict[str, int]:
    """Return what an account has used, by unit."""
    units = client.get(USAGE, headers=headers).json()["data"]["units"]
    return {unit: each["used"] for unit, each in units.items()}


def test_an_account_sees_what_it_uses_of_its_plan(client: Client) -> None:
    create_plan(client, "shown", requests=100)
    account, other = create_account(client, plan="shown"), create_account(client)
    key = with_key(create_key(client, "read", "ingest", account=account))
    content = json.dumps([make_event(), make_event()]).encode()
    client.request(
        "POST", "/api/requests/ingest/", content=content, headers={**key, "Content-Type": "application/json"}
    )
    client.get("/api/requests/export/", headers=key)

    assert used(client, key) == {"requests": 3, "events": 2, "bytes": len(content), "exports": 1}
    assert client.get(USAGE, headers=key).json()["data"]["units"]["requests"] == {"used": 4, "limit": 100}
    assert used(client, with_key(create_key(client, "read", account=other)))["requests"] == 1
    assert client.get(f"{USAGE}?day=2020-02-29", headers=key).json()["data"]["resets_at"] == "2020-03-01T00:00:00Z"
    assert client.get(f"{USAGE}?day=9999-12-31", headers=key).status == 400


@pytest.mark.parametrize("unit", ["requests", "events", "bytes", "exports"])
def test_what_the_plan_does_not_allow_is_refused(client: Client, unit: str) -> None:
    create_plan(client, f"no-{unit}", **{unit: 0})
    key = with_key(create_key(client, "read", "ingest", account=create_account(client, plan=f"no-{unit}")))
    if unit == "exports":
        answer = client.get("/api/requests/export/", headers=key)
    else:
        answer = client.post("/api/requests/", make_event(), headers=key)

    assert (answer.status, answer.json()["code"]) == (429, "quota_exceeded"), answer.content
    assert {name: answer.json()[name] for name in ("unit", "limit", "used")} == {"unit": unit, "limit": 0, "used": 0}
    reset_s = answer.json()["reset_s"]
    assert answer.headers["retry-after"] == answer.headers["x-ratelimit-reset"] == str(reset_s)
    assert answer.headers["ratelimit-policy"] == f'"{unit}";q=0;w=86400'


def test_a_stream_counts_what_it_sends(client: Client) -> None:
    create_plan(client, "streams", events=3)
    key = with_key(create_key(client, "read", "ingest", account=create_account(client, plan="streams")))
    lines = b"\n".join(json.dumps(make_event()).encode() for _ in range(4))
    headers = {**key, "Content-Type": "application/x-ndjson"}

    answer = client.request("POST", "/api/requests/ingest/?batch_size=2", content=lines, headers=headers)

    assert (answer.status, answer.json()["code"], answer.json()["inserted"]) == (429, "quota_exceeded", 2)
    assert used(client, key)["events"] == 2


def test_events_that_are_stored_already_or_refused_use_nothing(client: Client) -> None:
    create_plan(client, "retries", events=5)
    key = with_key(create_key(client, "read", "ingest", account=create_account(client, plan="retries")))
    batch = [make_event(), make_event(status_code=9999), make_event()]

    for _ in range(4):
        answer = client.post("/api/requests/ingest/", batch, headers={**key, "Idempotency-Key": "again"})
        assert answer.status == 200, answer.content
    assert client.post("/api/requests/", {}, headers=key).status == 400

    assert used(client, key)["events"] == 2


def test_staff_that_acts_for_an_account_uses_nothing_of_its_plan(client: Client) -> None:
    create_plan(client, "used-up", requests=0)
    account = create_account(client, plan="used-up")
    staff = with_key(create_key(client, "read", "staff"), **{"X-Account": str(account)})

    assert client.get("/api/requests/", headers=staff).status == 200
    assert used(client, staff)["requests"] == 0


def test_the_command_shows_the_same(client: Client) -> None:
    create_plan(client, "listed", bytes=5)
    account = create_account(client, plan="listed")

    shown = json.loads(
        CliRunner().invoke(client.command("accounts", "usage"), ["--account", str(account), "--json"]).stdout
    )

    assert shown["units"]["bytes"] == {"used": 0, "limit": 5}
