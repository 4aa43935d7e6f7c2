"""A process is killed between a change and its entry: both are there, or neither."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.faults.database import connect
from tests.processes import TLS, Service, copy_home, eventually, run_tiercel, serving

pytestmark = pytest.mark.process

VARIABLES = {"TIERCEL_PLUGINS": "accounts,tests.kernel.audit.crashing", "TIERCEL_REQUIRED": ""}


@pytest.fixture(scope="module")
def service(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = copy_home(initialised, tmp_path_factory.mktemp("crashes"))
    with serving(home, **VARIABLES) as running:
        with connect(home) as connection:
            connection.execute("CREATE TABLE public.thing (at text)")
            connection.execute("GRANT ALL ON public.thing TO PUBLIC")
        yield running


def count(service: Service, at: str) -> tuple[int, int]:
    """Return how many changes and how many entries there are of requests that were killed at a place."""
    with connect(service.home) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM public.thing WHERE at = %(at)s),"
            " (SELECT count(*) FROM tiercel.audit_entry WHERE changes::text LIKE %(query)s)",
            {"at": at, "query": f"%{at.replace(' ', '+')}%"},
        ).fetchone()
    assert row is not None
    return row


def send(service: Service, at: str) -> int | None:
    """Send the request; None if the connection breaks."""
    try:
        return httpx.post(f"{service.url}/crash/", params={"at": at}, verify=TLS).status_code
    except httpx.TransportError:
        return None


@pytest.mark.parametrize(
    ("at", "status", "changes_and_entries"),
    [
        ("nowhere", 200, (1, 1)),
        ("before the commit", None, (0, 0)),
        ("after the commit", None, (1, 1)),
        # What is changed outside of transactions has no entry then; the documentation says so.
        ("after autocommit", None, (1, 0)),
    ],
)
def test_a_killed_process_leaves_change_and_entry_or_neither(
    service: Service, at: str, status: int | None, changes_and_entries: tuple[int, int]
) -> None:
    assert eventually(service.is_ready)

    assert send(service, at) == status

    assert count(service, at) == changes_and_entries
    ran = run_tiercel(service.home, "accounts", "audit", "verify", **VARIABLES)
    assert ran.returncode == 0, ran.stderr


def test_the_entry_of_a_real_request_has_address_and_id(service: Service) -> None:
    assert eventually(service.is_ready)
    answer = httpx.post(
        f"{service.url}/crash/", params={"at": "nowhere"}, headers={"X-Request-ID": "of-the-client"}, verify=TLS
    )
    assert answer.status_code == 200

    with connect(service.home) as connection:
        found = connection.execute(
            "SELECT client, actor_scheme, action FROM tiercel.audit_entry WHERE request_id = 'of-the-client'"
        ).fetchall()

    assert found == [("127.0.0.1", "open", "POST /crash")]
