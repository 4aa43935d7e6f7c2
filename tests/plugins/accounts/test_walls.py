"""Two walls between accounts: the conditions of every statement, and the policies of the tables. Each holds alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from psycopg import sql

import kernel.datasets.store
import kernel.jobs.store
from kernel import (
    Identity,
)
from kernel.identity import ALL_SCOPES, acting_as
from kernel.testing import Client
from tests.conftest import service_starter
from tests.owned import COLORS, Color
from tests.plugins.accounts.callers import JOBS, NOTES, OWNED, Caller
from tests.plugins.accounts.factories import create_account, create_site
from tests.processes import eventually

SECRET = "nobody-elses-business"
TABLES = (
    "job_run",
    "job_log",
    "job_progress",
    "job_cancellation",
    "dataset_version",
    "dataset_content",
    "dataset_publication",
)
# A comparison of a column with the account of the identity, as all statements have it.
_CONDITION = re.compile(r"(\w+\.)?(account = %\(account\)s|sites <@ %\(sites\)s::integer\[\])")


def without_conditions(queries: Mapping[str, str]) -> dict[str, str]:
    """Return queries that no longer ask for the account."""
    return {name: _CONDITION.sub("true", query) for name, query in queries.items()}


@pytest.fixture(scope="module")
def service(module_database: str) -> Iterator[Client]:
    with service_starter({"url": module_database}) as start:
        client = start(auth="required", plugins=OWNED)
        client.service.shared.datasets.publish({COLORS: [Color("red")]}, source="test")
        yield client


@pytest.fixture(params=["conditions", "policies"])
def client(service: Client, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A service with one of the two walls."""
    if request.param == "policies":
        for module in (kernel.jobs.store, kernel.datasets.store):
            stripped = without_conditions(module.QUERIES)
            assert stripped != module.QUERIES
            monkeypatch.setattr(module, "QUERIES", stripped)
        yield service
        return
    switch_policies(service, "DISABLE")
    yield service
    switch_policies(service, "ENABLE")


def switch_policies(client: Client, state: str) -> None:
    """Switch the policies of all tables on or off."""
    with client.service.db.connection() as connection:
        for table in TABLES:
            statement = sql.SQL("ALTER TABLE tiercel.{} {} ROW LEVEL SECURITY")
            connection.execute(statement.format(sql.Identifier(table), sql.SQL(state)))


def fill(client: Client, **fields: Any) -> tuple[Caller, int]:
    """Make an account with a job that has run, one that waits, and notes; return the id of the job that waits."""
    caller = Caller(client, create_account(client), **fields)
    # Twice, for the derivation that compares versions.
    caller.publish(a=SECRET)
    caller.publish(a=SECRET, b=SECRET)
    with acting_as(identity_of(caller)):
        client.service.shared.jobs.run_inline("owned.who", request_id=SECRET)
        client.service.shared.datasets.refuse("notes", SECRET, source=SECRET)
    return caller, caller.start("owned.publish", texts={"a": SECRET})["id"]


def identity_of(caller: Caller, sites: tuple[int, ...] | None = None) -> Identity:
    """Return an identity of the account of somebody."""
    return Identity(scheme="job", name=SECRET, account=caller.account, scopes=ALL_SCOPES, sites=sites)


def read_everything(caller: Caller, finished: int, waiting: int) -> bytes:
    """Return all that somebody can read: of jobs, two of another account."""
    paths = [
        JOBS,
        f"{JOBS}?state=succeeded",
        f"{JOBS}?search={SECRET}",
        f"{JOBS}catalog/",
        f"{JOBS}{finished}/",
        f"{JOBS}{waiting}/",
        # That of the other one would not end, if it were there.
        f"{JOBS}{finished}/events/",
        NOTES,
        f"{NOTES}a/",
        f"{NOTES}?as_of=1",
        f"{NOTES}?as_of=2100-01-01",
        f"{NOTES}?include=color",
        "/owned/public/changes/",
        "/owned/public/index/",
        "/api/v1/datasets/",
        "/api/v1/datasets/notes/",
        "/api/v1/datasets/notes/versions/",
        "/api/v1/datasets/notes/rejected/",
        "/api/v1/datasets/notes/diff/?from=1&to=2",
        "/api/v1/applications/",
    ]
    answers = [caller.get(path) for path in paths]
    assert max(answer.status for answer in answers) < 500
    # What was searched for is repeated in links.
    return b"\n".join(answer.content.replace(f"search={SECRET}".encode(), b"") for answer in answers)


def test_each_wall_holds_alone(client: Client) -> None:
    owner, waiting = fill(client)
    stranger = Caller(client, create_account(client))
    finished = next(job_id for job_id in owner.ids() if job_id != waiting)

    assert owner.get(f"{JOBS}{waiting}/").status == 200
    assert SECRET.encode() in owner.get(NOTES).content
    assert SECRET.encode() not in read_everything(stranger, finished, waiting)
    assert stranger.post(f"{JOBS}{waiting}/cancel/").status == 404
    assert stranger.publish(a="own") == "published"
    assert owner.get(f"{JOBS}{waiting}/").json()["data"]["state"] == "waiting"
    assert owner.texts() == {"a": SECRET, "b": SECRET}
    assert eventually(lambda: stranger.texts() == {"a": "own"})


def test_each_wall_keeps_jobs_of_sites_apart(client: Client) -> None:
    owner, waiting = fill(client)
    at_site = Caller(client, owner.account, site=create_site(client, owner.account))

    assert at_site.ids() == []
    assert at_site.get(f"{JOBS}{waiting}/").status == 404
    assert at_site.post(f"{JOBS}{waiting}/cancel/").status == 404


def test_a_session_of_a_request_sees_and_changes_rows_of_its_account_only(service: Client) -> None:
    owner, waiting = fill(service)
    stranger, _ = fill(service)
    with service.service.db.connection() as connection:
        connection.execute("INSERT INTO tiercel.job_cancellation (job_id) VALUES (%s)", [waiting])
        everything = {table: count(connection, table) for table in TABLES}

    with acting_as(identity_of(stranger)), service.service.db.connection() as connection:
        of_stranger = {table: count(connection, table) for table in TABLES}
        changed = connection.execute("UPDATE tiercel.job_run SET state = 'cancelled' WHERE id = %s", [waiting]).rowcount
        removed = connection.execute("DELETE FROM tiercel.dataset_version WHERE account = %s", [owner.account]).rowcount
    with acting_as(identity_of(stranger, sites=(77,))), service.service.db.connection() as connection:
        assert [count(connection, table) for table in TABLES[:4]] == [0] * 4

    assert (changed, removed, of_stranger["job_cancellation"]) == (0, 0, 0)
    assert all(of_stranger[table] < everything[table] for table in TABLES)
    assert all(of_stranger[table] for table in TABLES if table != "job_cancellation")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO tiercel.job_run (name, state, parameters, lock, account) VALUES ('x', 'waiting', '{}', 'x', 0)",
        "INSERT INTO tiercel.dataset_publication (dataset, at, outcome, source, item_count, rejected_count, rejected)"
        " VALUES ('x', now(), 'refused', 'x', 0, 0, '[]')",
        "INSERT INTO tiercel.dataset_content VALUES ('x', 'x', 1, 1, 0)",
        "UPDATE tiercel.job_run SET account = 0",
    ],
)
def test_a_session_of_a_request_writes_nothing_for_others(service: Client, statement: str) -> None:
    owner, _ = fill(service)

    with (
        acting_as(identity_of(owner)),
        service.service.db.connection() as connection,
        pytest.raises(Exception, match="violates row-level security policy"),
    ):
        connection.execute(statement)


def count(connection: Any, table: str) -> int:
    """Count the rows of a table that a session sees."""
    query = sql.SQL("SELECT count(*) FROM tiercel.{}").format(sql.Identifier(table))
    return int(connection.execute(query).fetchone()[0])
