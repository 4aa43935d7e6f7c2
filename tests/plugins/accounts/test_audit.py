"""The audit log as the managers of an account and the operator see it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kernel.testing import Client
from tests.contract.tree import DOCS
from tests.kernel.audit.factories import record
from tests.plugins.accounts.factories import (
    accounts_of,
    bearer,
    create_account,
    create_key,
    create_user,
    tokens_of,
    with_key,
)
from tests.plugins.observability.events import make_event

ROOT = "/api/v1/audit/"


@pytest.fixture
def account(client: Client) -> int:
    """An account of its own for each test."""
    return create_account(client)


@pytest.fixture
def headers(client: Client, account: int) -> dict[str, str]:
    """Those of staff that looks into the account. The first of its requests is the first entry after the test's."""
    return with_key(create_key(client, "read", "staff"), **{"X-Account": str(account)})


def run(client: Client, *arguments: object) -> Result:
    """Run ``tiercel accounts audit``."""
    return CliRunner().invoke(client.command("accounts", "audit"), list(map(str, arguments)))


def entries(client: Client, account: int) -> list[dict[str, Any]]:
    """Return the entries of an account as the command lists them, the latest first."""
    found: list[dict[str, Any]] = json.loads(run(client, "list", "--account", account, "--json").output)
    return found


def numbers(answer: Any) -> list[int]:
    """Return the numbers of the entries of a page."""
    assert answer.status == 200, answer.content
    return [entry["number"] for entry in answer.json()["data"]["results"]]


def run_documented_program(export: bytes) -> str:
    """Verify an export with the program that the documentation shows; return what it prints."""
    page = (DOCS / "operations" / "audit.md").read_text()
    (program,) = (each for each in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S) if "hashlib" in each)
    ran = subprocess.run([sys.executable, "-c", program], input=export, capture_output=True, check=False)
    return (ran.stdout + ran.stderr).decode().strip()


def test_what_is_done_with_keys_is_recorded_without_them(client: Client, account: int) -> None:
    keys = accounts_of(client).keys
    issued = create_key(client, "read", account=account)
    rotated = keys.rotate(account, issued.key.id, timedelta(hours=1))
    keys.revoke(account, rotated.key.id)
    keys.revoke(account, rotated.key.id)

    found = entries(client, account)[::-1]

    old, new = str(issued.key.id), str(rotated.key.id)
    assert [(each["action"], each["target"]["id"]) for each in found] == [
        ("api_key.create", old),
        ("api_key.create", new),
        ("api_key.update", old),
        ("api_key.update", new),
    ]
    assert found[0]["changes"]["scopes"] == [None, ["read"]]
    assert found[2]["changes"]["rotated_to"] == [None, rotated.key.id]
    assert sorted(found[3]["changes"]) == ["revoked_at"]
    for secret in (issued.secret, rotated.secret):
        assert secret[12:] not in str(found)
        assert hashlib.sha256(secret.encode()).hexdigest() not in str(found)


def test_the_entry_of_a_request_is_in_the_transaction_of_its_change(client: Client, account: int) -> None:
    headers = with_key(create_key(client, "ingest", "read", "write", account=account))
    event = client.post("/api/requests/", make_event(service=f"of-{account}"), headers=headers).json()["id"]

    changed = client.request("PATCH", f"/api/requests/{event}/", json={"status_code": 404}, headers=headers)

    assert changed.status == 200
    with client.service.db.connection() as connection:
        rows = connection.execute(
            "SELECT action, xmin IN (SELECT xmin FROM observability.event) FROM tiercel.audit_entry"
            " WHERE account = %s AND action LIKE %s",
            [account, "P% /api/%"],
        ).fetchall()
    assert rows == [("PATCH /api/requests/{id}", True)]


def test_who_starts_a_job_of_the_service_is_recorded(client: Client) -> None:
    staff = create_key(client, "write", "staff")

    started = client.post("/api/v1/jobs/", {"name": "observability.retention"}, headers=with_key(staff))

    assert started.status == 202
    entry = entries(client, 0)[0]
    assert (entry["action"], entry["actor"]["key"]) == ("POST /api/v1/jobs", staff.key.id)


def test_a_page_is_in_order_and_links_to_the_others(client: Client, account: int, headers: dict[str, str]) -> None:
    record(client, 4, account=account)

    first = client.get(f"{ROOT}?page_size=2", headers=headers)
    assert numbers(first) == [5, 4]  # 5 is this request
    link = first.json()["data"]["next"].partition(ROOT)[2]
    second = client.get(ROOT + link, headers=headers)
    assert numbers(second) == [3, 2]
    link = second.json()["data"]["previous"].partition(ROOT)[2]
    assert numbers(client.get(ROOT + link, headers=headers)) == [5, 4]
    assert numbers(client.get(f"{ROOT}?ordering=time&page_size=3", headers=headers)) == [1, 2, 3]
    assert client.get(f"{ROOT}?ordering=action", headers=headers).status == 400
    assert client.get(f"{ROOT}?ordering=time&{link.partition('?')[2]}", headers=headers).status == 400


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("action=thing.paint", [2]),
        ("target_kind=thing&target_id=7", [2]),
        # The request itself, whose query string has the text, is 3.
        ("search=RED", [3, 2]),
        ("scheme=api_key&action=account.access", [3]),
        ("request_id=nowhere", []),
        ("end=2001-01-01", []),
        ("start=2001-01-01&action=thing.update", [1]),
        ("user=5", []),
    ],
)
def test_a_list_is_filtered(
    client: Client, account: int, headers: dict[str, str], query: str, found: list[int]
) -> None:
    record(client, account=account)
    record(client, account=account, action="thing.paint", target=("thing", 7), changes={"colour": (None, "red")})

    assert numbers(client.get(f"{ROOT}?{query}", headers=headers)) == found


@pytest.mark.parametrize("query", ["user=-1", "key=99999999999", "start=noon", "search=%00", "nothing=1", "cursor=x"])
def test_a_wrong_parameter_is_named(client: Client, headers: dict[str, str], query: str) -> None:
    answer = client.get(f"{ROOT}?{query}", headers=headers)

    assert (answer.status, list(answer.json()["errors"])) == (400, [query.partition("=")[0]])


@pytest.mark.parametrize("path", [ROOT, f"{ROOT}export/"])
def test_only_managers_see_the_log_and_only_that_of_their_account(client: Client, account: int, path: str) -> None:
    record(client, account=account, action="thing.hidden")
    reader = create_key(client, "read", account=account)
    staff = create_key(client, "read", "staff")

    assert client.get(path, headers=with_key(reader)).status == 403
    own = client.get(path, headers=with_key(staff))
    assert own.status == 200
    assert b"thing.hidden" not in own.content
    assert b"thing.hidden" in client.get(path, headers=with_key(staff, **{"X-Account": str(account)})).content


def test_an_export_can_be_verified_by_others(client: Client, account: int, headers: dict[str, str]) -> None:
    record(client, 3, account=account, changes={"name": ("Zoë", "\u2028\x07 \U0001f600"), "size": (0.5, 1e300)})

    answer = client.get(f"{ROOT}export/", headers=headers)

    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = answer.content.splitlines(keepends=True)
    assert len(lines) == 4
    last = json.loads(lines[-1])["hash"]
    assert run_documented_program(answer.content) == f"the last hash is {last}"
    assert run_documented_program(lines[0] + lines[2]) == "entry 3 does not follow the one before"
    assert run_documented_program(answer.content.replace(b"0.5", b"0.6")) == "entry 1 was changed"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "'x", "\uff1dx"])
def test_no_text_of_a_csv_file_is_a_formula(client: Client, account: int, headers: dict[str, str], text: str) -> None:
    record(client, account=account, target=("thing", text))

    answer = client.get(f"{ROOT}export/?format=csv&target_kind=thing", headers=headers)

    header, row = csv.reader(io.StringIO(answer.content.decode()))
    assert dict(zip(header, row, strict=True))["target_id"] == f"'{text}"


def test_verify_names_what_was_changed_and_exits_with_1(own_client: Client) -> None:
    record(own_client, 3)
    with own_client.service.db.connection() as connection:
        connection.execute("ALTER TABLE tiercel.audit_entry DISABLE TRIGGER USER")
    intact = run(own_client, "verify")
    head = intact.output.split()[8]
    assert (intact.exit_code, run(own_client, "verify", "--head", head).exit_code) == (0, 0)
    assert "no entry has the hash 00ff" in run(own_client, "verify", "--head", "00ff").output

    with own_client.service.db.connection() as connection:
        connection.execute("UPDATE tiercel.audit_entry SET client = '10.0.0.1' WHERE number = 2")
        connection.execute("DELETE FROM tiercel.audit_entry WHERE number = 3")

    ran = run(own_client, "verify")
    assert ran.exit_code == 1
    assert "account 0: entry 2 was changed" in ran.output
    assert "account 0: entry 3 is missing at the end" in ran.output
    report = json.loads(run(own_client, "verify", "--json", "--account", 0).stdout)
    assert [each["number"] for each in report["chains"][0]["findings"]] == [2, None]
    assert report["missing"] == []


def test_what_is_cut_off_is_in_a_file_that_only_its_owner_reads(client: Client, account: int, tmp_path: Path) -> None:
    record(client, 3, account=account)
    file = tmp_path / "old.ndjson"

    ran = run(client, "cut", "--account", account, "--before", "2100-01-01", "--export", file)

    assert ran.exit_code == 0, ran.output
    assert file.stat().st_mode & 0o777 == 0o600
    lines = list(map(json.loads, file.read_text().splitlines()))
    assert [line["number"] for line in lines] == [1, 2, 3]
    assert [each["action"] for each in entries(client, account)] == ["audit_chain.cut"]
    assert run(client, "verify", "--account", account, "--head", lines[-1]["hash"]).exit_code == 0
    again = run(client, "cut", "--account", account, "--before", "2100-01-01", "--export", file)
    assert (again.exit_code, "File exists" in again.output) == (1, True)
    assert run(client, "cut", "--account", account, "--before", "soon", "--export", tmp_path / "x").exit_code == 2


def test_entries_are_exported_to_a_new_file(client: Client, account: int, tmp_path: Path) -> None:
    record(client, 3, account=account)
    file = tmp_path / "audit.csv"

    ran = run(client, "export", "--account", account, "--format", "csv", "--output", file, "--target-id", "1")

    assert (ran.exit_code, len(file.read_text().splitlines())) == (0, 2)
    assert run(client, "export", "--account", account, "--target-id", "1").stdout.count("\n") == 1


def test_who_signs_in_and_whose_password_changes_is_recorded(client: Client) -> None:
    account = create_account(client)
    user = create_user(client, "viewer", account=account)
    headers = bearer(tokens_of(client, user)["access_token"])
    body = {"password": user.password, "new_password": "another horse, another staple"}
    changed = client.post("/api/v1/auth/change/", body, headers=headers)

    assert changed.status == 204
    found = [each for each in entries(client, account) if each["target"] == {"kind": "user", "id": str(user.id)}]
    assert [each["action"] for each in found] == ["user.set_password", "user.sign_in", "user.set_password"]
    assert [each["actor"]["user"] for each in found[:2]] == [user.id, user.id]
    assert user.password not in str(found)
    assert "another horse" not in str(found)
