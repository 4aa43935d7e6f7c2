"""The example of a plugin with a table: what the base of such plugins does for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from kernel import (
    Identity,
)
from kernel.identity import acting_as
from kernel.testing import Client
from tests.conftest import service_starter
from tests.plugins.accounts.factories import create_account, create_key, create_site, with_key
from tests.plugins.accounts.members import member
from tests.plugins.accounts.test_resources import API, data_of

TASKS = f"{API}/planner/tasks/"


@pytest.fixture(scope="module")
def client(module_database: str) -> Iterator[Client]:
    """A service with the example."""
    with service_starter({"url": module_database}) as start:
        yield start(plugins=["system", "accounts", "contrib.planner"], auth="required")


def create_task(client: Client, headers: dict[str, str], **fields: Any) -> dict[str, Any]:
    """Create a task."""
    task: dict[str, Any] = data_of(client.post(TASKS, {"title": "Plan", **fields}, headers=headers), 201)
    return task


def test_a_task_gets_the_account_and_the_site_of_who_makes_it(client: Client) -> None:
    account = create_account(client)
    site, other = create_site(client, account), create_site(client, account)
    key = with_key(create_key(client, "read", "write", account=account, site=site))
    everywhere = with_key(create_key(client, "read", "write", account=account))

    task = create_task(client, key, starts_on="2026-01-01", ends_on="2026-01-31")
    elsewhere = create_task(client, everywhere, site=other)
    named = create_task(client, everywhere | {"X-Site": str(other)})

    assert (task["account"], task["site"], task["ends_on"]) == (account, site, "2026-01-31")
    assert (elsewhere["site"], named["site"]) == (other, other)
    assert list(client.post(TASKS, {"title": "Plan"}, headers=everywhere).json()["errors"]) == ["site"]
    for headers, seen in ((key, [task]), (everywhere, [task, elsewhere, named])):
        assert data_of(client.get(f"{TASKS}?ordering=id", headers=headers))["results"] == seen
    assert client.request("DELETE", f"{TASKS}{elsewhere['id']}/", headers=key).status == 404


def test_a_task_that_mixes_accounts_sites_or_sectors_is_refused(client: Client) -> None:
    account, stranger = create_account(client), create_account(client)
    site, other, foreign = create_site(client, account), create_site(client, account), create_site(client, stranger)
    owner, they = member(client, account, "owner"), member(client, stranger, "owner")
    sectors = {
        of: data_of(client.post(f"{API}/sectors/", {"site": of, "slug": "a", "name": "A"}, headers=who), 201)["id"]
        for of, who in ((site, owner), (other, owner), (foreign, they))
    }
    task = create_task(client, owner, site=site, sector=sectors[site])
    mixed = (
        ({"site": foreign}, "site", f"There is no site {foreign}."),
        ({"site": site, "sector": sectors[other]}, "sector", f"{sectors[other]} belongs to another site."),
        ({"site": site, "sector": sectors[foreign]}, "sector", f"There is no sector {sectors[foreign]}."),
    )

    for fields, field, message in mixed:
        for method, path in (("POST", TASKS), ("PUT", f"{TASKS}{task['id']}/")):
            answer = client.request(method, path, json={"title": "Mixed", **fields}, headers=owner)
            assert (answer.status, answer.json()["errors"]) == (400, {field: [message]})
    # A task that moves leaves its sector behind.
    moved = client.request("PATCH", f"{TASKS}{task['id']}/", json={"site": other}, headers=owner)
    assert list(moved.json()["errors"]) == ["sector"]
    both = {"site": other, "sector": sectors[other]}
    assert client.request("PATCH", f"{TASKS}{task['id']}/", json=both, headers=owner).status == 200
    deleted = create_site(client, account)
    assert client.request("DELETE", f"{API}/sites/{deleted}/", headers=owner).status == 204
    assert client.post(TASKS, {"title": "Late", "site": deleted}, headers=owner).status == 400


def test_values_that_contradict_each_other_are_refused(client: Client) -> None:
    account = create_account(client)
    owner = member(client, account, "owner")
    task = create_task(client, owner, site=create_site(client, account), starts_on="2026-02-01")

    answer = client.request("PATCH", f"{TASKS}{task['id']}/", json={"ends_on": "2026-01-01"}, headers=owner)

    assert (answer.status, list(answer.json()["errors"])) == (400, ["ends_on"])


def test_the_database_itself_keeps_accounts_and_sites_apart(client: Client) -> None:
    account, stranger = create_account(client), create_account(client)
    site, other, foreign = create_site(client, account), create_site(client, account), create_site(client, stranger)
    for who, where in ((account, site), (account, other), (stranger, foreign)):
        create_task(client, member(client, who, "owner"), site=where)
    identity = Identity(scheme="job", name="test", account=account, scopes=frozenset(), sites=(site,))

    with acting_as(identity), client.service.db.connection() as connection:
        seen = connection.execute("SELECT DISTINCT account, site FROM planner.task").fetchall()
        changed = connection.execute("UPDATE planner.task SET title = 'Ours'").rowcount
        for values in ((stranger, foreign), (account, other)):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
                connection.execute("INSERT INTO planner.task (account, site, title) VALUES (%s, %s, 'Mixed')", values)

    assert (seen, changed) == ([(account, site)], 1)


def test_a_deleted_task_is_kept_and_purged_with_those_of_the_accounts(client: Client) -> None:
    account = create_account(client)
    owner = member(client, account, "owner")
    task = create_task(client, owner, site=create_site(client, account))
    path = f"{TASKS}{task['id']}/"
    assert client.request("DELETE", path, headers=owner).status == 204
    assert client.get(path, headers=owner).status == 404
    with client.service.db.connection() as connection:
        aged = connection.execute(
            "UPDATE planner.task SET deleted_at = deleted_at - interval '31 days' WHERE id = %s", [task["id"]]
        )
        assert aged.rowcount == 1

    done = client.service.shared.jobs.run_inline("accounts.purge", {})

    assert isinstance(done.result, dict)
    assert done.result["removed"]["planner.task"] == 1


def test_tasks_have_csv_files(client: Client) -> None:
    account = create_account(client)
    owner = member(client, account, "owner")
    create_site(client, account)
    (site,) = data_of(client.get(f"{API}/sites/", headers=owner))["results"]
    file = f"title,site,ends_on,is_done\nWrite,{site['slug']},2026-03-01,yes\n".encode()

    report = client.post(f"{TASKS}import/", content=file, headers=owner | {"Content-Type": "text/csv"})
    exported = client.get(f"{TASKS}export.csv", headers=owner)

    assert data_of(report)["created"] == 1
    assert exported.content.decode().splitlines()[1] == f"{site['slug']},,Write,,2026-03-01,true"
