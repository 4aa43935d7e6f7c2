"""Health checks and their timeouts, and the probe endpoints that report them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kernel.contracts import HealthCheck
from kernel.errors import UnavailableError
from kernel.testing import Client
from tests.conftest import Serve
from tests.kernel.fakes import Boot, MakePlugin, raise_oops

BootWithChecks = Callable[..., Client]
WITHOUT_DATABASE = "exclude=database,startup,writes,notifications,jobs,datasets"


@pytest.fixture
def boot_with_checks(boot: Boot, make_plugin: MakePlugin) -> BootWithChecks:
    """Boot a service with checks: ``boot_with_checks(HealthCheck(...))``."""

    def start(*checks: HealthCheck, **values: Any) -> Client:
        return boot(make_plugin("alpha", register_health_checks=lambda services: checks), **values)

    return start


@pytest.fixture
def hang() -> Iterator[Callable[[], None]]:
    """A probe that hangs until the test is over."""
    over = threading.Event()
    yield lambda: (over.wait(30), None)[1]
    over.set()


def readyz(client: Client, query: str = "verbose") -> tuple[int, Any]:
    """Return status and body of ``/readyz``, without the checks that need a database."""
    answer = client.get(f"/readyz?{query}&{WITHOUT_DATABASE}")
    return answer.status, answer.json()


def check_named(report: Any, name: str) -> Any:
    """Return the result of one check from a report."""
    return next(check for check in report["checks"] if check["name"] == name)


def raise_detailed() -> None:
    """Fail with a detail, as the database does."""
    raise UnavailableError("the disk is full")


def raise_silently() -> None:
    """Fail without a message."""
    raise KeyError


@pytest.mark.parametrize(
    ("probe", "critical", "status", "state", "detail"),
    [
        (lambda: None, True, 200, "ok", None),
        (lambda: "half full", True, 200, "ok", "half full"),
        (raise_oops, True, 503, "failed", "oops"),
        (raise_oops, False, 200, "degraded", "oops"),
        (raise_detailed, True, 503, "failed", "the disk is full"),
        (raise_silently, True, 503, "failed", "KeyError"),
    ],
)
def test_a_check_reports_status_and_detail(
    probe: Callable[[], str | None],
    critical: bool,
    status: int,
    state: str,
    detail: str | None,
    boot_with_checks: BootWithChecks,
) -> None:
    code, report = readyz(boot_with_checks(HealthCheck(name="disk", probe=probe, critical=critical)))

    assert (code, report["status"]) == (status, state)
    assert (check_named(report, "disk")["status"], check_named(report, "disk")["detail"]) == (state, detail)


def test_a_check_that_hangs_fails_at_its_timeout(boot_with_checks: BootWithChecks, hang: Callable[[], None]) -> None:
    client = boot_with_checks(
        HealthCheck(name="moon", probe=hang, timeout_s=0.2), HealthCheck(name="disk", probe=lambda: None)
    )
    started = time.monotonic()

    status, report = readyz(client)

    assert time.monotonic() - started < 2
    assert status == 503
    assert check_named(report, "moon")["detail"] == "no answer within 0.2 s"
    assert check_named(report, "disk")["status"] == "ok"


def test_a_hanging_check_takes_one_thread_however_many_requests_come(
    boot_with_checks: BootWithChecks, hang: Callable[[], None]
) -> None:
    client = boot_with_checks(HealthCheck(name="moon", probe=hang, timeout_s=0.1))

    reports = [readyz(client)[1] for _ in range(20)]

    assert {check_named(report, "moon")["status"] for report in reports} == {"failed"}
    assert [thread.name for thread in threading.enumerate()].count("health-moon") == 1


def test_a_check_without_a_timeout_has_the_configured_one(
    boot_with_checks: BootWithChecks, hang: Callable[[], None]
) -> None:
    client = boot_with_checks(HealthCheck(name="moon", probe=hang), health={"timeout_s": 0.1})

    assert check_named(readyz(client)[1], "moon")["detail"] == "no answer within 0.1 s"


def test_a_check_that_hung_can_recover(boot_with_checks: BootWithChecks) -> None:
    release = threading.Event()
    client = boot_with_checks(HealthCheck(name="moon", probe=lambda: str(release.wait(30)), timeout_s=0.1))
    assert readyz(client)[0] == 503
    release.set()

    deadline = time.monotonic() + 5
    while readyz(client)[0] != 200:
        assert time.monotonic() < deadline


def test_checks_run_in_parallel(boot_with_checks: BootWithChecks) -> None:
    together = threading.Barrier(2, timeout=5)
    checks = [HealthCheck(name=name, probe=lambda: str(together.wait())[:0]) for name in ("one", "two")]

    assert readyz(boot_with_checks(*checks))[0] == 200


@pytest.mark.parametrize(
    ("query", "shown"), [("verbose", True), ("verbose=1", True), ("verbose=0", False), ("", False)]
)
def test_checks_that_are_ok_are_listed_with_verbose_only(
    query: str, shown: bool, boot_with_checks: BootWithChecks
) -> None:
    _, report = readyz(boot_with_checks(HealthCheck(name="disk", probe=lambda: None)), query)

    assert ("disk" in [check["name"] for check in report.get("checks", ())]) is shown


def test_checks_that_are_not_ok_are_always_listed(boot_with_checks: BootWithChecks) -> None:
    _, report = readyz(boot_with_checks(HealthCheck(name="disk", probe=raise_oops)), "")

    assert [check["name"] for check in report["checks"]] == ["disk"]


def test_an_excluded_check_does_not_run(boot_with_checks: BootWithChecks) -> None:
    ran: list[bool] = []
    client = boot_with_checks(HealthCheck(name="disk", probe=lambda: ran.append(True)))

    answer = client.get("/readyz?verbose&exclude=database&exclude=startup,disk")

    assert (answer.status, answer.json()["excluded"], ran) == (200, ["database", "startup", "disk"], [])


def test_an_unknown_name_in_exclude_is_reported(boot_with_checks: BootWithChecks) -> None:
    _, report = readyz(boot_with_checks(), "exclude=dsik")

    assert report["unknown"] == ["dsik"]


def test_livez_runs_no_check(boot_with_checks: BootWithChecks) -> None:
    ran: list[bool] = []

    answer = boot_with_checks(HealthCheck(name="disk", probe=lambda: ran.append(True))).get("/livez?verbose")

    assert (answer.status, answer.json(), ran) == (200, {"status": "ok"}, [])


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/startupz", "/livez/"])
def test_probes_are_never_cached(path: str, boot_with_checks: BootWithChecks) -> None:
    assert boot_with_checks(health={"timeout_s": 0.1}).get(path).headers["cache-control"] == "no-store"


def test_startupz_fails_until_the_service_started(boot_with_checks: BootWithChecks) -> None:
    answer = boot_with_checks().get("/startupz")

    assert answer.status == 503
    assert answer.json()["checks"][0]["detail"] == "the service is still starting"


def test_a_started_service_is_healthy(serve: Serve) -> None:
    client = serve()

    for path in ("/startupz", "/readyz", "/livez"):
        # No worker runs in this test.
        assert client.get(f"{path}?exclude=jobs").json()["status"] == "ok"
    assert check_named(client.get("/readyz?verbose").json(), "database")["detail"].startswith("postgresql ")


def test_a_service_without_its_database_is_alive_but_not_ready(boot_with_checks: BootWithChecks) -> None:
    client = boot_with_checks(health={"timeout_s": 0.5})

    report = client.get("/readyz").json()

    assert client.get("/readyz").status == 503
    assert check_named(report, "database")["status"] == "failed"
    assert client.get("/livez").status == 200
