"""A whole service of several processes behind PgBouncer: accounts share sessions of the server, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from kernel import ConflictError
from kernel.embedded.server import EmbeddedServer
from kernel.testing import Client, make_configuration, running
from tests.pgbouncer import NOTHING, SESSIONS, left_in_sessions, pgbouncer
from tests.plugins.accounts.factories import TestUser, create_account, create_key, create_user, with_key
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.events import make_event
from tests.processes import TIERCEL, Service, eventually, serving

pytestmark = pytest.mark.process

PLUGINS = ["system", "accounts", "observability", "tests.owned"]
ROUNDS = 12
EVENTS = 20


@pytest.fixture
def pooled(server: EmbeddedServer, database: str) -> Iterator[str]:
    """The connection string of the test's database through PgBouncer."""
    with pgbouncer(server.conninfo) as url:
        parts = conninfo_to_dict(url)
        yield make_conninfo(database, host=parts["host"], port=parts["port"])


@pytest.fixture
def admin(pooled: str) -> Iterator[Client]:
    """A service in this process, to make accounts with."""
    configuration = make_configuration(
        db={"url": pooled}, auth="required", plugins=PLUGINS, log={"level": "error", "requests": False}
    )
    with running(configuration) as client:
        yield client


@pytest.fixture
def service(pooled: str, tmp_path: Path) -> Iterator[Service]:
    """Two processes that serve, and one that runs jobs."""
    variables = {
        "TIERCEL_DATABASE_URL": pooled,
        "TIERCEL_PLUGINS": ",".join(PLUGINS),
        "TIERCEL_AUTH": "required",
        "TIERCEL_WORKERS": "2",
        "TIERCEL_JOB_PROCESSES": "1",
    }
    with serving(tmp_path / "home", (TIERCEL, "up"), **variables) as started:
        yield started


def send_and_read(service: Service, account: int, headers: dict[str, str]) -> None:
    """Send events of an account, start its job, and read both back; nobody else's may be there."""
    own = f"service-{account}"
    with httpx.Client(base_url=service.url, headers=headers, timeout=60) as client:
        for _ in range(ROUNDS):
            events = [make_event(service=own) for _ in range(EVENTS)]
            assert client.post("/api/requests/ingest/", json=events).status_code == 200
            listed = client.get("/api/requests/?page_size=5").json()["results"]
            assert {each["service"] for each in listed} == {own}
            job = {"name": "owned.publish", "parameters": {"texts": {"owner": str(account)}}}
            assert client.post("/api/v1/jobs/", json=job).status_code in {200, 202}
            assert texts(client) in ([], [str(account)])


def texts(client: httpx.Client) -> list[Any]:
    answer = client.get("/owned/public/notes/")
    return [each["text"] for each in answer.json()["data"]] if answer.status_code == 200 else []


def assert_sign_out_is_found_out(service: Service, user: TestUser) -> None:
    credentials = {"email": user.email, "password": user.password}
    tokens = httpx.post(f"{service.url}/api/v1/auth/sign-in/", json=credentials, timeout=60).json()["data"]
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    me = f"{service.url}/api/v1/auth/me/"
    assert [httpx.get(me, headers=headers).status_code for _ in range(8)] == [200] * 8
    assert httpx.post(f"{service.url}/api/v1/auth/sign-out/", headers=headers).status_code in {200, 204}
    assert eventually(lambda: [httpx.get(me, headers=headers).status_code for _ in range(8)] == [401] * 8)


def refresh(admin: Client) -> bool:
    """Refresh rollups; return False while the scheduled job does."""
    try:
        container_of(admin).rollups.refresh()
    except ConflictError:
        return False
    return True


def test_accounts_share_sessions_of_the_server_and_nothing_else(service: Service, admin: Client, pooled: str) -> None:
    accounts = [create_account(admin) for _ in range(2)]
    headers = {each: with_key(create_key(admin, "ingest", "read", "write", account=each)) for each in accounts}
    senders = [account for account in accounts for _ in range(2)]
    with ThreadPoolExecutor(len(senders)) as executor:
        list(executor.map(lambda account: send_and_read(service, account, headers[account]), senders))

    for account in accounts:
        with httpx.Client(base_url=service.url, headers=headers[account], timeout=60) as client:
            assert eventually(lambda client=client, account=account: texts(client) == [str(account)])  # type: ignore[misc] # defaults bind
            assert all(eventually(lambda: refresh(admin)) for _ in range(SESSIONS))
            assert (
                client.get("/api/requests/kpis/?start=2025-12-14&end=2025-12-14").json()["hits"] == 2 * ROUNDS * EVENTS
            )
    assert_sign_out_is_found_out(service, create_user(admin, "owner", account=accounts[0]))

    checks = httpx.get(f"{service.url}/readyz?verbose=true", headers=headers[accounts[0]]).json()["checks"]
    assert [each["detail"][:7] for each in checks if each["name"] == "notifications"] == ["polling"]

    service.stop()
    assert left_in_sessions(pooled) == [NOTHING] * SESSIONS
