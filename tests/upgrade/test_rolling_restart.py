"""The steps of docs/operations/upgrades.md, with the frozen release and this source tree on one database."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from tests.contract.tree import DOCS, ROOT
from tests.processes import TLS, Service, eventually, run_tiercel, serving

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("upgrade")]

EMAIL, PASSWORD = "ann@example.com", "correct horse battery staple"
# Not the script of this source tree; the packages are found by PYTHONPATH.
PROGRAM = (sys.executable, "-c", "from kernel.cli.main import main; main()")
NEXT = "system,accounts,observability,trace,club,skyflow,nexus,tests.upgrade.next_release"
_BLOCK = re.compile(r"^ *```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def event(service: str, number: int) -> dict[str, object]:
    now = datetime.now(UTC).isoformat()
    return {
        "service": service,
        "endpoint": f"/{number}",
        "method": "GET",
        "status_code": 200,
        "latency_ms": 5,
        "time": now,
    }


class Site:
    """What a user does, at a service of one version or another."""

    def __init__(self, service: Service, key: str) -> None:
        self.url = service.url
        self.client = httpx.Client(base_url=service.url, headers={"X-API-Key": key}, verify=TLS, timeout=30)

    def close(self) -> None:
        self.client.close()

    def send(self, name: str, batch: list[dict[str, object]]) -> tuple[int, int]:
        """Send a batch under an idempotency key; return how many were stored, and how many had been before."""
        answer = self.client.post("/api/requests/ingest/", json=batch, headers={"Idempotency-Key": name})
        assert answer.status_code == 200, answer.text
        return answer.json()["inserted"], answer.json()["duplicates"]

    def hits(self, name: str) -> tuple[int, int]:
        """Return how many events of a service the list has, and how many the analytics."""
        listed = self.client.get("/api/requests/", params={"service": name})
        kpis = self.client.get("/api/requests/kpis/", params={"service": name})
        assert (listed.status_code, kpis.status_code) == (200, 200), listed.text + kpis.text
        return listed.json()["count"], kpis.json()["hits"]

    def start_job(self) -> int:
        answer = self.client.post("/api/v1/jobs/", json={"name": "club.refresh"})
        assert answer.status_code in (200, 202), answer.text
        return int(answer.json()["data"]["id"])

    def state_of(self, job: int) -> str:
        return str(self.client.get(f"/api/v1/jobs/{job}/").json()["data"]["state"])

    def sign_in(self) -> dict[str, str]:
        """Sign in; return the header that authenticates from now on."""
        answer = httpx.post(f"{self.url}/api/v1/auth/sign-in/", json={"email": EMAIL, "password": PASSWORD}, verify=TLS)
        assert answer.status_code == 200, answer.text
        return {"Authorization": f"Bearer {answer.json()['data']['access_token']}"}

    def is_signed_in(self, session: dict[str, str]) -> bool:
        return httpx.get(f"{self.url}/api/v1/auth/me/", headers=session, verify=TLS).status_code == 200


def assert_both_work(name: str, first: Site, second: Site) -> None:
    """Do at one of two services, then find at the other what was done, and the other way round."""
    for site, other, service in ((first, second, f"{name}-a"), (second, first, f"{name}-b")):
        batch = [event(service, number) for number in range(3)]
        job = site.start_job()
        session = site.sign_in()
        assert site.send(service, batch) == (3, 0)
        assert other.send(service, batch) == (0, 3), "the other version recognises what was sent"
        assert site.hits(service) == other.hits(service) == (3, 3)
        assert site.is_signed_in(session)
        assert other.is_signed_in(session)
        assert eventually(lambda job=job, other=other: other.state_of(job) == "succeeded", 30)  # type: ignore[misc] # defaults bind now


@contextmanager
def traffic(site: Site) -> Iterator[list[int]]:
    """Send and read without a pause until the block ends; yield the numbers of what was stored."""
    stored: list[int] = []
    stopping = threading.Event()

    def send() -> None:
        while not stopping.wait(0.02):
            number = len(stored)
            assert site.send(f"traffic-{number}", [event("traffic", number)]) == (1, 0)
            stored.append(number)
            assert site.hits("traffic")[0] == len(stored)

    failures: list[BaseException] = []

    def run() -> None:
        try:
            send()
        except BaseException as ex:  # shown by the test, in whose thread it is not
            failures.append(ex)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield stored
    finally:
        stopping.set()
        thread.join()
    assert failures == []


def commands() -> list[list[str]]:
    """Return the arguments of each ``tiercel`` that the page runs, in order."""
    blocks = _BLOCK.findall((DOCS / "operations" / "upgrades.md").read_text())
    lines = [line for block in blocks for line in block.splitlines()]
    return [line.partition("bin/tiercel ")[2].partition(" #")[0].split() for line in lines if "bin/tiercel " in line]


def test_versions_change_under_traffic_and_back(frozen: Path, empty_database: str, tmp_path: Path) -> None:
    common = {"TIERCEL_DATABASE_URL": empty_database, "TIERCEL_AUTH": "required", "TIERCEL_JOBS__PROCESSES": "1"}
    old = {**common, "PYTHONPATH": str(frozen)}
    new = {**common, "PYTHONPATH": str(ROOT), "TIERCEL_PLUGINS": NEXT}
    home, new_home = tmp_path / "old" / ".tiercel", tmp_path / "new" / ".tiercel"
    plan, migrate, check, check_after_roll_back = commands()

    def run(arguments: list[str], version: dict[str, str]) -> str:
        ran = run_tiercel(home, *arguments, command=PROGRAM, **version)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    with ExitStack() as clients, ExitStack() as new_version:

        def visit(service: Service) -> Site:
            return clients.enter_context(closing(Site(service, key)))

        with serving(home, (*PROGRAM, "up"), **old) as service:
            run(["sudo", EMAIL], {**old, "TIERCEL_PASSWORD": PASSWORD})
            key = next(line.strip() for line in service.output.splitlines() if line.startswith("  tk_"))
            first = visit(service)
            session = first.sign_in()
            with traffic(first) as stored:
                assert "next_release/0001_columns would be applied\n  running beside it: version " in run(plan, new)
                before = len(stored)
                assert "next_release/0001_columns applied\n" in run(migrate, new)
                assert eventually(lambda: len(stored) > before + 5), "the earlier version goes on"
                assert "[ok] migrations: " in run(check, new)
                second = visit(new_version.enter_context(serving(new_home, (*PROGRAM, "up"), **new)))
                assert_both_work("beside", first, second)
            assert second.is_signed_in(session)
            assert second.hits("traffic") == (len(stored), len(stored))
        # The roll back: the earlier version starts on what the later one has migrated and written.
        with serving(home, (*PROGRAM, "up"), **old) as service:
            again = visit(service)
            assert again.is_signed_in(session)
            assert_both_work("back", again, second)
            new_version.close()
            assert again.hits("beside-b") == (3, 3)
            assert "[ok] migrations: " in run(check_after_roll_back, old)
