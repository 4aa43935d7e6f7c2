"""Probes answer in time, whatever the checks do."""

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

Watch = Callable[..., Client]
WITHOUT_DATABASE = "exclude=database,startup,writes,jobs,datasets"


@pytest.fixture
def watch(boot: Boot, make_plugin: MakePlugin) -> Watch:
    """Boot a service with checks: ``watch(HealthCheck(...))``."""

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
    """Ask for readiness without the database; return status and report."""
    answer = client.get(f"/readyz?{query}&{WITHOUT_DATABASE}")
    return answer.status, answer.json()


def check_named(report: Any, name: str) -> Any:
    """Return one check of a report."""
    return next(check for check in report["checks"] if check["name"] == name)


def raise_detailed() -> None:
    """Fail as the database fails."""
    raise UnavailableError("the moon is away")


def raise_silently() -> None:
    """Fail without a word."""
    raise KeyError


@pytest.mark.parametrize(
    ("probe", "critical", "status", "state", "detail"),
    [
        (lambda: None, True, 200, "ok", None),
        (lambda: "half full", True, 200, "ok", "half full"),
        (raise_oops, True, 503, "failed", "oops"),
        (raise_oops, False, 200, "degraded", "oops"),
        (raise_detailed, True, 503, "failed", "the moon is away"),
        (raise_silently, True, 503, "failed", "KeyError"),
    ],
)
def test_a_check_says_how_it_went(
    probe: Callable[[], str | None], critical: bool, status: int, state: str, detail: str | None, watch: Watch
) -> None:
    code, report = readyz(watch(HealthCheck(name="disk", probe=probe, critical=critical)))

    assert (code, report["status"]) == (status, state)
    assert (check_named(report, "disk")["status"], check_named(report, "disk")["detail"]) == (state, detail)


def test_a_check_that_hangs_is_a_failure_with_its_name_within_its_time_limit(
    watch: Watch, hang: Callable[[], None]
) -> None:
    client = watch(HealthCheck(name="moon", probe=hang, timeout_s=0.2), HealthCheck(name="disk", probe=lambda: None))
    started = time.monotonic()

    status, report = readyz(client)

    assert time.monotonic() - started < 2
    assert status == 503
    assert check_named(report, "moon")["detail"] == "no answer within 0.2 s"
    assert check_named(report, "disk")["status"] == "ok"


def test_many_who_ask_for_a_hanging_check_make_one_thread(watch: Watch, hang: Callable[[], None]) -> None:
    client = watch(HealthCheck(name="moon", probe=hang, timeout_s=0.1))

    reports = [readyz(client)[1] for _ in range(20)]

    assert {check_named(report, "moon")["status"] for report in reports} == {"failed"}
    assert [thread.name for thread in threading.enumerate()].count("health-moon") == 1


def test_a_check_without_a_time_limit_has_the_configured_one(watch: Watch, hang: Callable[[], None]) -> None:
    client = watch(HealthCheck(name="moon", probe=hang), health={"timeout_s": 0.1})

    assert check_named(readyz(client)[1], "moon")["detail"] == "no answer within 0.1 s"


def test_a_check_that_hung_once_can_be_well_again(watch: Watch) -> None:
    release = threading.Event()
    client = watch(HealthCheck(name="moon", probe=lambda: str(release.wait(30)), timeout_s=0.1))
    assert readyz(client)[0] == 503
    release.set()

    deadline = time.monotonic() + 5
    while readyz(client)[0] != 200:
        assert time.monotonic() < deadline


def test_checks_run_side_by_side(watch: Watch) -> None:
    together = threading.Barrier(2, timeout=5)
    checks = [HealthCheck(name=name, probe=lambda: str(together.wait())[:0]) for name in ("one", "two")]

    assert readyz(watch(*checks))[0] == 200


@pytest.mark.parametrize(
    ("query", "shown"), [("verbose", True), ("verbose=1", True), ("verbose=0", False), ("", False)]
)
def test_checks_that_are_well_show_when_asked_for(query: str, shown: bool, watch: Watch) -> None:
    _, report = readyz(watch(HealthCheck(name="disk", probe=lambda: None)), query)

    assert ("disk" in [check["name"] for check in report.get("checks", ())]) is shown


def test_checks_that_are_not_well_show_anyway(watch: Watch) -> None:
    _, report = readyz(watch(HealthCheck(name="disk", probe=raise_oops)), "")

    assert [check["name"] for check in report["checks"]] == ["disk"]


def test_an_excluded_check_does_not_run(watch: Watch) -> None:
    ran: list[bool] = []
    client = watch(HealthCheck(name="disk", probe=lambda: ran.append(True)))

    answer = client.get("/readyz?verbose&exclude=database&exclude=startup,disk")

    assert (answer.status, answer.json()["excluded"], ran) == (200, ["database", "startup", "disk"], [])


def test_an_unknown_name_to_exclude_is_named(watch: Watch) -> None:
    _, report = readyz(watch(), "exclude=dsik")

    assert report["unknown"] == ["dsik"]


def test_livez_runs_no_check(watch: Watch) -> None:
    ran: list[bool] = []

    answer = watch(HealthCheck(name="disk", probe=lambda: ran.append(True))).get("/livez?verbose")

    assert (answer.status, answer.json(), ran) == (200, {"status": "ok"}, [])


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/startupz", "/livez/"])
def test_probes_are_never_kept_by_a_cache(path: str, watch: Watch) -> None:
    assert watch(health={"timeout_s": 0.1}).get(path).headers["cache-control"] == "no-store"


def test_startupz_fails_until_the_service_started(watch: Watch) -> None:
    answer = watch().get("/startupz")

    assert answer.status == 503
    assert answer.json()["checks"][0]["detail"] == "the service is still starting"


def test_a_started_service_is_well(serve: Serve) -> None:
    client = serve()

    for path in ("/startupz", "/readyz", "/livez"):
        # No worker runs beside a service in a test.
        assert client.get(f"{path}?exclude=jobs").json()["status"] == "ok"
    assert check_named(client.get("/readyz?verbose").json(), "database")["detail"].startswith("postgresql ")


def test_a_service_whose_database_is_away_is_not_ready_but_alive(watch: Watch) -> None:
    client = watch(health={"timeout_s": 0.5})

    report = client.get("/readyz").json()

    assert client.get("/readyz").status == 503
    assert check_named(report, "database")["status"] == "failed"
    assert client.get("/livez").status == 200
