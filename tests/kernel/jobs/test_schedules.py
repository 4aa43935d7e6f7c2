"""Schedules: when they are due, and that each due time starts one job. Validation of registered jobs."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from kernel.app import Tiercel
from kernel.contracts import Job
from kernel.errors import ConfigError
from kernel.jobs.registry import parse_schedule
from kernel.jobs.runner import Run
from kernel.jobs.worker import Scheduler
from kernel.testing import Client
from tests.kernel.fakes import Boot, MakePlugin
from tests.kernel.jobs.conftest import RunWorker, ServeJobs
from tests.processes import eventually

NOON = datetime(2026, 11, 20, 12, 0, 30, tzinfo=UTC)


class SetClock:
    """A fake clock that returns a fixed time until it is set."""

    def __init__(self) -> None:
        self.time = NOON

    def now(self) -> datetime:
        return self.time


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


def scheduled(text: str = "every 15m") -> Job:
    return Job(name="alpha.job", run=lambda run: None, schedule=text)


def takes_a_dict(parameters: dict) -> None:  # type: ignore[type-arg]
    """Not a job: its parameters are no Struct."""


def takes_anything(run: Run, parameters) -> None:  # type: ignore[no-untyped-def]
    """Not a job: nothing says what its parameters are."""


def takes_more(run: Run, speed: int) -> None:
    """Not a valid job: no argument has the name ``speed``."""


def scheduler(service: Tiercel) -> Scheduler:
    shared = service.shared
    return Scheduler(shared.jobs.store, shared.jobs.registry, shared.clock.now, service.log)


def count(service: Tiercel) -> int:
    return len(service.shared.jobs.list())


def finish_waiting(service: Tiercel) -> None:
    """End the jobs that wait, so that the next is not found waiting already."""
    for record in service.shared.jobs.list(state="waiting"):
        service.shared.jobs.cancel(record.id)


@pytest.mark.parametrize(
    ("text", "latest", "following"),
    [
        ("every 15m", "12:00:00", "12:15:00"),
        ("every 10s", "12:00:30", "12:00:40"),
        ("every 2h", "12:00:00", "14:00:00"),
        ("0 * * * *", "12:00:00", "13:00:00"),
        ("*/5 12 * * *", "12:00:00", "12:05:00"),
    ],
)
def test_due_times(text: str, latest: str, following: str) -> None:
    schedule = parse_schedule(text)

    assert schedule.latest(NOON).isoformat() == f"2026-11-20T{latest}+00:00"
    assert schedule.following(NOON).isoformat() == f"2026-11-20T{following}+00:00"


@pytest.mark.parametrize(
    "text", ["", "every", "every 0m", "every 5 weeks", "* * * *", "* * * * * *", "61 * * * *", "0 0 31 2 *"]
)
def test_an_invalid_schedule_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"cron|never due"):
        parse_schedule(text)


def test_a_new_schedule_begins_with_its_next_due_time(serve_jobs: ServeJobs, clock: SetClock) -> None:
    service = serve_jobs(scheduled(), clock=clock)
    one = scheduler(service)

    one.tick()
    before = count(service)
    clock.time += timedelta(minutes=15)
    one.tick()

    assert (before, count(service)) == (0, 1)


def test_a_due_time_starts_one_job_however_many_workers_look(serve_jobs: ServeJobs, clock: SetClock) -> None:
    service = serve_jobs(scheduled(), clock=clock)
    many = [scheduler(service) for _ in range(6)]
    for one in many:
        one.tick()
    for _ in range(3):
        clock.time += timedelta(minutes=15)
        threads = [threading.Thread(target=one.tick) for one in many]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        finish_waiting(service)

    assert count(service) == 3


def test_missed_due_times_start_one_job(serve_jobs: ServeJobs, clock: SetClock) -> None:
    service = serve_jobs(scheduled(), clock=clock)
    scheduler(service).tick()

    clock.time += timedelta(days=2)
    later = scheduler(service)
    later.tick()
    finish_waiting(service)
    later.tick()
    scheduler(service).tick()

    assert count(service) == 1


def test_a_schedule_does_not_queue_a_job_that_waits_already(serve_jobs: ServeJobs, clock: SetClock) -> None:
    service = serve_jobs(scheduled(), clock=clock)
    one = scheduler(service)
    for _ in range(4):
        one.tick()
        clock.time += timedelta(minutes=15)

    assert count(service) == 1


@pytest.mark.parametrize(("override", "expected"), [("off", 0), ("every 5m", 1)])
def test_the_configuration_overrides_a_schedule(
    serve_jobs: ServeJobs, clock: SetClock, override: str, expected: int
) -> None:
    service = serve_jobs(scheduled("every 2h"), clock=clock, jobs={"schedules": {"alpha.job": override}})
    one = scheduler(service)
    one.tick()
    clock.time += timedelta(minutes=6)
    one.tick()

    assert count(service) == expected


@pytest.mark.parametrize(
    ("schedules", "problem"),
    [
        ({"alpha.jib": "every 5m"}, "there is no job 'alpha.jib'; there are: alpha.job"),
        ({"alpha.job": "often"}, "'often' is neither"),
    ],
)
def test_an_invalid_override_is_an_error_of_the_configuration(
    boot: Boot, make_plugin: MakePlugin, schedules: dict[str, str], problem: str
) -> None:
    plugin = make_plugin("alpha", register_jobs=lambda services: [scheduled()])

    with pytest.raises(ConfigError, match=r"jobs\.schedules") as caught:
        boot(plugin, jobs={"schedules": schedules})

    assert problem in str(caught.value)


def test_an_override_for_a_disabled_plugin_is_ignored(boot: Boot, make_plugin: MakePlugin) -> None:
    plugin = make_plugin("alpha", register_jobs=lambda services: [scheduled()])

    boot(plugin, disabled=["alpha"], jobs={"schedules": {"alpha.job": "every 5m"}})


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"schedule": "often"}, "often"),
        (
            {"run": takes_a_dict},
            "`parameters` of its function must be annotated with a Struct, not with <class 'dict'>",
        ),
        ({"run": takes_anything}, "`parameters` of its function must be annotated with a Struct, not with nothing"),
        ({"run": takes_more}, "takes_more takes 'speed'; it can be given parameters, run"),
        ({"lock": "a-{b}"}, "b"),
        ({"soft_timeout_s": 7200.0}, "soft_timeout_s"),
    ],
)
def test_a_plugin_with_an_invalid_job_is_quarantined(
    boot: Boot, make_plugin: MakePlugin, wrong: dict[str, Any], reason: str
) -> None:
    job = Job(**{"name": "alpha.job", "run": print, **wrong})
    plugin = make_plugin("alpha", register_jobs=lambda services: [job])

    status = boot(plugin).service.registry.statuses["alpha"]

    assert status.state == "quarantined"
    assert reason in str(status.reason)
    assert "alpha.job" in str(status.reason)


def test_old_jobs_are_removed_with_their_log_and_progress(serve_jobs: ServeJobs, database: str) -> None:
    jobs = serve_jobs(Job(name="alpha.job", run=lambda run: run.log.info("line") or run.progress(1))).shared.jobs
    old, new = jobs.run_inline("alpha.job"), jobs.run_inline("alpha.job")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "UPDATE tiercel.job_run SET finished_at = finished_at - interval '31 days' WHERE id = %s", [old.id]
        )
        deleted = jobs.store.delete_old(30)
        left = [
            [row[0] for row in connection.execute(query)]
            for query in (
                "SELECT id FROM tiercel.job_run",
                "SELECT DISTINCT job_id FROM tiercel.job_log",
                "SELECT job_id FROM tiercel.job_progress",
            )
        ]

    assert deleted == 1
    assert left == [[new.id]] * 3


def test_health_is_degraded_while_jobs_wait_and_no_worker_runs(serve_jobs: ServeJobs) -> None:
    service = serve_jobs(Job(name="alpha.job", run=print))

    def health() -> str:
        return service.shared.health.run(only=["jobs"])[0].status

    idle = health()
    service.shared.jobs.start("alpha.job")
    waiting = health()
    service.shared.jobs.store.heartbeat(1)

    assert (idle, waiting, health()) == ("ok", "degraded", "ok")


def test_health_waits_for_a_worker_that_is_about_to_start(serve_jobs: ServeJobs) -> None:
    service = serve_jobs(Job(name="alpha.job", run=print), jobs={"dead_after_s": 1.0})
    service.shared.jobs.start("alpha.job")

    def health() -> tuple[str, str | None]:
        (check,) = service.shared.health.run(only=["jobs"])
        return check.status, check.detail

    service.shared.jobs.expect_worker()

    assert health() == ("ok", "a worker starts")
    assert eventually(lambda: health() == ("degraded", "jobs wait, but no worker runs; start one: tiercel worker"))


def test_a_job_whose_last_run_failed_degrades_readiness_until_it_succeeds(
    serve_jobs: ServeJobs, run_worker: RunWorker
) -> None:
    broken = threading.Event()

    def run() -> None:
        if broken.is_set():
            raise ValueError("a secret")

    service = serve_jobs(Job(name="alpha.job", run=run, retries=1, retry_wait_s=3600), Job(name="alpha.other", run=run))
    client, jobs = Client(service), service.shared.jobs

    def readiness() -> tuple[int, str, Any]:
        answer = client.get("/readyz")
        details = {each["name"]: each["detail"] for each in answer.json().get("checks", ())}
        return answer.status, answer.json()["status"], details.get("jobs")

    with run_worker(service):
        assert readiness() == (200, "ok", None)
        jobs.run_inline("alpha.job")
        broken.set()
        retried = jobs.start("alpha.job").id
        assert eventually(lambda: jobs.get(retried).attempt == 1 and jobs.get(retried).state == "waiting")
        assert readiness() == (200, "ok", None)
        jobs.start("alpha.job")
        assert eventually(lambda: jobs.get(retried).state == "failed")
        other = jobs.run_inline("alpha.other").id
        jobs.cancel(jobs.start("alpha.job", delay_s=3600).id)

        assert readiness() == (
            200,
            "degraded",
            f"the last run of alpha.job failed: tiercel jobs log {retried}; "
            f"the last run of alpha.other failed: tiercel jobs log {other}",
        )
        assert jobs.figures().failing == ("alpha.job", "alpha.other")

        broken.clear()
        jobs.run_inline("alpha.job")
        jobs.run_inline("alpha.other")
        assert readiness() == (200, "ok", None)
