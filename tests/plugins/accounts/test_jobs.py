"""Jobs of accounts: who sees them, as whom they run, and what they may do."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from kernel import (
    Identity,
)
from kernel.identity import ALL_SCOPES, SYSTEM_ACCOUNT, acting_as, current_identity
from kernel.jobs import JobFollower
from kernel.testing import Client
from tests.conftest import service_starter
from tests.kernel.jobs.conftest import make_worker
from tests.plugins.accounts.callers import JOBS, OWNED, Caller
from tests.plugins.accounts.factories import create_account, create_site
from tests.processes import eventually


@pytest.fixture(scope="module")
def client(module_database: str) -> Iterator[Client]:
    """A service in mode ``required``, whose plugin has jobs of accounts."""
    with service_starter({"url": module_database}) as start:
        yield start(auth="required", plugins=OWNED)


@pytest.fixture
def one(client: Client) -> Caller:
    return Caller(client, create_account(client))


@pytest.fixture
def other(client: Client) -> Caller:
    return Caller(client, create_account(client))


def run_all(client: Client) -> None:
    """Run every job that waits."""
    worker = make_worker(client.service)
    worker.start()
    try:
        assert eventually(lambda: _count_unfinished(client) == 0)
    finally:
        worker.stop()
        assert worker.join(10)


def _count_unfinished(client: Client) -> int:
    figures = client.service.shared.jobs.figures()
    return figures.waiting_count + figures.running_count


def test_a_job_runs_as_the_identity_that_started_it(client: Client, one: Caller) -> None:
    job_id = one.start("owned.who")["id"]

    run_all(client)

    found = one.get(f"{JOBS}{job_id}/").json()["data"]
    assert (found["state"], found["account"]) == ("succeeded", one.account)
    ran_as = found["result"]
    assert (ran_as["scheme"], ran_as["account"], sorted(ran_as["scopes"])) == ("job", one.account, ["read", "write"])
    assert found["started_by"] == ran_as["name"]
    assert found["started_by"].startswith("key tk_")
    assert found["log"][0]["fields"] == {"identity": ran_as["name"]}


def test_what_a_key_is_limited_to_limits_its_jobs(client: Client) -> None:
    account = create_account(client)
    site = create_site(client, account)
    caller = Caller(client, account, site=site, services=("shop",), applications=("skyflow",))
    job_id = caller.start("owned.who")["id"]

    run_all(client)

    ran_as = caller.get(f"{JOBS}{job_id}/").json()["data"]["result"]
    assert (ran_as["sites"], ran_as["services"], ran_as["applications"]) == ([site], ["shop"], ["skyflow"])


def test_jobs_of_others_do_not_exist(client: Client, one: Caller, other: Caller) -> None:
    job_id = one.start("owned.who")["id"]
    unknown = other.get(f"{JOBS}{job_id + 1000}/").json()

    answers = [
        other.get(f"{JOBS}{job_id}/"),
        other.get(f"{JOBS}{job_id}/events/"),
        other.post(f"{JOBS}{job_id}/cancel/"),
    ]

    assert [(answer.status, answer.json()["code"]) for answer in answers] == [(404, "not_found")] * 3
    assert answers[0].json()["error"] == unknown["error"]
    assert answers[0].json()["detail"] == f"there is no job {job_id}"
    assert (other.ids(), one.ids()) == ([], [job_id])
    assert one.get(f"{JOBS}{job_id}/").json()["data"]["state"] == "waiting"


@pytest.mark.parametrize("query", ["?state=waiting", "?search=owned", "?name=owned.who", "?ordering=-created_at"])
def test_no_filter_finds_jobs_of_others(one: Caller, other: Caller, query: str) -> None:
    mine, theirs = one.start("owned.who")["id"], other.start("owned.who")["id"]

    assert (one.ids(query), other.ids(query)) == ([mine], [theirs])


def test_staff_see_their_own_and_those_of_the_account_they_name(client: Client, one: Caller) -> None:
    staff = Caller(client, SYSTEM_ACCOUNT, "read", "write", "staff")
    job_id = one.start("owned.who")["id"]

    assert staff.get(f"{JOBS}{job_id}/").status == 404
    named = staff.get(f"{JOBS}{job_id}/", **{"X-Account": str(one.account)})
    started = staff.post(JOBS, {"name": "owned.publish"}, **{"X-Account": str(one.account)}).json()["data"]

    assert (named.status, started["account"]) == (200, one.account)
    assert one.ids() == [started["id"], job_id]
    assert one.get(JOBS, **{"X-Account": "0"}).status == 403


def test_a_site_sees_its_jobs_and_the_account_sees_all(client: Client) -> None:
    account = create_account(client)
    whole = Caller(client, account)
    sites = [Caller(client, account, site=create_site(client, account)) for _ in range(2)]

    made = [each.start("owned.who")["id"] for each in (*sites, whole)]

    assert [each.ids() for each in sites] == [[made[0]], [made[1]]]
    assert whole.ids() == made[::-1]
    assert [sites[0].get(f"{JOBS}{each}/").status for each in made] == [200, 404, 404]


def test_a_job_that_waits_is_shared_by_those_of_one_account_that_may_see_the_same(client: Client, one: Caller) -> None:
    job_id = one.start("owned.who")["id"]

    same = Caller(client, one.account).post(JOBS, {"name": "owned.who"})
    less = Caller(client, one.account, services=("shop",)).post(JOBS, {"name": "owned.who"})

    assert (same.status, same.json()["data"]["id"]) == (200, job_id)
    assert less.status == 202


def is_running(caller: Caller, path: str) -> bool:
    """Tell whether a job runs."""
    return bool(caller.get(path).json()["data"]["state"] == "running")


def test_each_account_has_a_lock_of_its_own(client: Client, one: Caller, other: Caller, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    started = [each.start("owned.wait", path=str(gate)) for each in (one, other)]
    workers = [make_worker(client.service) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        for caller, job in zip((one, other), started, strict=True):
            path = f"{JOBS}{job['id']}/"
            assert eventually(partial(is_running, caller, path))
    finally:
        gate.touch()
        for worker in workers:
            worker.stop()
            assert worker.join(10)

    assert [job["lock"] for job in started] == [f"account-{each.account}:owned.wait" for each in (one, other)]


def test_jobs_of_the_service_are_for_staff(client: Client, one: Caller) -> None:
    staff = Caller(client, SYSTEM_ACCOUNT, "read", "write", "staff")
    not_staff = Caller(client, SYSTEM_ACCOUNT)

    refused = [each.post(JOBS, {"name": "owned.service"}) for each in (one, not_staff)]
    job = staff.start("owned.service")

    assert [(answer.status, answer.json()["code"]) for answer in refused] == [(403, "forbidden")] * 2
    assert (job["account"], not_staff.post(f"{JOBS}{job['id']}/cancel/").status) == (SYSTEM_ACCOUNT, 403)
    assert one.get(f"{JOBS}{job['id']}/").status == 404
    assert one.post(JOBS, {"name": "owned.nothing"}).status == 404
    assert staff.post(f"{JOBS}{job['id']}/cancel/").status == 200


def test_a_plugin_may_start_a_job_of_the_service_for_anybody(client: Client, one: Caller) -> None:
    job_id = one.post("/owned/poke/").json()

    run_all(client)

    record = client.service.shared.jobs.get(job_id)
    # It runs as nobody, and sees everything.
    assert (record.state, record.account, record.result) == ("succeeded", SYSTEM_ACCOUNT, None)
    assert record.started_by is not None
    assert one.get(f"{JOBS}{job_id}/").status == 404


def test_the_catalog_has_what_one_may_start(client: Client, one: Caller, other: Caller) -> None:
    staff = Caller(client, SYSTEM_ACCOUNT, "read", "staff")
    other.start("owned.who")

    mine = one.get(f"{JOBS}catalog/").json()["data"]["results"]
    all_names = [each["name"] for each in staff.get(f"{JOBS}catalog/").json()["data"]["results"]]

    assert {"owned.service", "owned.who"} < set(all_names)
    assert [each["name"] for each in mine] == ["owned.publish", "owned.publish_shared", "owned.wait", "owned.who"]
    assert all(each["per_account"] and each["last_run"] is None for each in mine)


def test_what_nobody_started_is_of_the_system_account(client: Client) -> None:
    record = client.service.shared.jobs.run_inline("owned.who")

    assert (record.account, record.started_by, record.result["account"]) == (SYSTEM_ACCOUNT, None, SYSTEM_ACCOUNT)


def test_a_job_that_starts_others_starts_them_for_its_account(client: Client, one: Caller) -> None:
    identity = Identity(scheme="job", name="a job", account=one.account, scopes=ALL_SCOPES)
    with acting_as(identity):
        record = client.service.shared.jobs.start("owned.publish")
        assert current_identity() is identity

    assert (record.account, one.ids()) == (one.account, [record.id])


def test_a_follower_keeps_to_the_identity_that_made_it(client: Client, one: Caller, other: Caller) -> None:
    job_id = one.start("owned.who")["id"]
    jobs = client.service.shared.jobs
    with acting_as(Identity(scheme="job", name="one", account=one.account, scopes=ALL_SCOPES)):
        follower = JobFollower(jobs, job_id)

    with acting_as(Identity(scheme="job", name="other", account=other.account, scopes=ALL_SCOPES)):
        assert [event.kind for event in follower.poll()] == ["state"]


def test_failures_of_accounts_are_no_matter_of_the_health_of_the_service(client: Client, one: Caller) -> None:
    one.start("owned.publish_shared")
    run_all(client)
    (failed,) = one.get(f"{JOBS}?state=failed").json()["data"]["results"]

    staff = Caller(client, SYSTEM_ACCOUNT, "staff")
    figures = staff.get("/stats/").json()["jobs"]

    assert "cannot publish what all accounts share" in failed["error"]
    assert "failed" not in client.get("/health/").json()["jobs"]
    assert (figures["failing"], figures["failed_last_day_count"]) == ([], 1)
    assert one.get("/stats/").status == 403
