"""API keys: what they open, and when they stop."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kernel import InvalidError
from kernel.testing import Client
from tests.plugins.accounts.factories import accounts_of, create_account, create_key, create_site, with_key
from tests.plugins.observability.events import make_event

ROOT = "/api/requests/"


@pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
def test_a_key_opens_what_its_scopes_name(client: Client, header: str) -> None:
    issued = create_key(client, "read")
    value = f"Api-Key {issued.secret}" if header == "Authorization" else issued.secret

    read = client.get(ROOT, headers={header: value})
    written = client.post(ROOT, make_event(), headers={header: value})

    assert (read.status, written.status, written.json()["code"]) == (200, 403, "forbidden")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "malformed"),
        ("tk_aaaaaaaa", "malformed"),
        ("tk_aaaaaaaa_" + "A" * 43, "unknown"),
        ("TK_aaaaaaaa_" + "A" * 43, "malformed"),
    ],
)
def test_a_wrong_key_is_refused_with_the_reason(client: Client, text: str, reason: str) -> None:
    answer = client.get(ROOT, headers={"Authorization": f"Api-Key {text}"})

    assert (answer.status, answer.json()["detail"]) == (401, f"the API key is {reason}")
    assert answer.headers["www-authenticate"].startswith("Api-Key")


def test_a_request_without_credentials_is_told_what_it_may_use(client: Client) -> None:
    answer = client.get(ROOT)

    assert (answer.status, answer.json()["detail"]) == (401, "the request has no credentials")
    assert "Api-Key" in answer.headers["www-authenticate"]


def test_another_secret_with_the_prefix_of_a_key_is_unknown(client: Client) -> None:
    issued = create_key(client, "read")

    answer = client.get(ROOT, headers={"X-API-Key": issued.secret[:12] + "A" * 43})

    assert (answer.status, answer.json()["detail"]) == (401, "the API key is unknown")


def test_a_revoked_key_stops_at_once(client: Client) -> None:
    issued = create_key(client, "read")
    assert client.get(ROOT, headers=with_key(issued)).status == 200

    accounts_of(client).keys.revoke(0, issued.key.id)

    answer = client.get(ROOT, headers=with_key(issued))
    assert (answer.status, answer.json()["detail"]) == (401, "the API key is revoked")


def test_an_expired_key_does_not_work(client: Client) -> None:
    issued = create_key(client, "read", expires_at=datetime.now(UTC) - timedelta(seconds=1))

    assert client.get(ROOT, headers=with_key(issued)).json()["detail"] == "the API key is expired"


def test_a_rotated_key_works_for_the_overlap_only(client: Client) -> None:
    old = create_key(client, "read")
    keys = accounts_of(client).keys
    new = keys.rotate(0, old.key.id, timedelta(hours=1))

    assert [client.get(ROOT, headers=with_key(key)).status for key in (old, new)] == [200, 200]

    other = keys.rotate(0, new.key.id, timedelta(0))
    assert [client.get(ROOT, headers=with_key(key)).status for key in (new, other)] == [401, 200]


def test_an_account_without_a_plan_is_told_so(client: Client) -> None:
    issued = create_key(client, "read", account=create_account(client, plan=None))

    answer = client.get(ROOT, headers=with_key(issued))

    assert (answer.status, answer.json()["code"]) == (402, "plan_inactive")


def test_a_key_of_a_customer_is_never_staff(client: Client) -> None:
    account = create_account(client)
    with pytest.raises(InvalidError, match="wrong"):
        create_key(client, "read", "staff", account=account)
    issued = create_key(client, "read", account=account)
    # Should it become one by other means.
    with client.service.db.connection() as connection:
        connection.execute("UPDATE accounts.api_key SET scopes = '{read,staff}' WHERE id = %s", [issued.key.id])

    assert client.get("/stats/", headers=with_key(issued)).status == 403


def test_only_staff_may_name_another_account(client: Client) -> None:
    account = create_account(client)
    staff, reader = create_key(client, "read", "staff"), create_key(client, "read")

    assert client.get(ROOT, headers=with_key(staff, **{"X-Account": str(account)})).status == 200
    assert client.get(ROOT, headers=with_key(staff, **{"X-Account": "none"})).status == 403
    assert client.get(ROOT, headers=with_key(reader, **{"X-Account": str(account)})).status == 403


def test_a_request_may_name_a_site_of_its_account_only(client: Client) -> None:
    account, other = create_account(client), create_account(client)
    own, foreign = create_site(client, account), create_site(client, other)
    issued = create_key(client, "read", account=account)

    statuses = [client.get(ROOT, headers=with_key(issued, **{"X-Site": str(site)})).status for site in (own, foreign)]

    assert statuses == [200, 403]


def test_the_system_account_needs_no_plan(own_client: Client) -> None:
    with own_client.service.db.connection() as connection:
        connection.execute("DELETE FROM accounts.subscription WHERE account = 0")

    assert own_client.get(ROOT, headers=with_key(create_key(own_client, "read"))).status == 200
