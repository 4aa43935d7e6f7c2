"""``tiercel jobs``."""

from __future__ import annotations

import os
import re
import subprocess
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import msgspec
import psycopg
import pytest

from tests.commands import RunCommand, make_runner
from tests.processes import TIERCEL, Service, eventually, make_environment
from tests.workers import SAMPLE, running_worker, sample_environment

ADD = ("start", "sample.add", "-p", "numbers=1,2")


@pytest.fixture
def tiercel(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunCommand:
    """Run commands on the test's database, without a worker."""
    return _runner(database, tmp_path, monkeypatch, capsys)


@pytest.fixture
def worked(
    worker: Service,
    module_database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> RunCommand:
    """Run commands on a database with a worker."""
    assert worker.process.poll() is None
    return _runner(module_database, tmp_path, monkeypatch, capsys)


@pytest.fixture(scope="module")
def worker(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A worker for all tests of this file that need one."""
    with running_worker(tmp_path_factory.mktemp("worker") / ".tiercel", module_database) as started:
        yield started


def _runner(
    database: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunCommand:
    run = make_runner(database, folder, monkeypatch, capsys)
    monkeypatch.setenv("TIERCEL_PLUGINS", f"system,{SAMPLE}")
    monkeypatch.setenv("TIERCEL_LOG__LEVEL", "error")
    return lambda *arguments, **variables: run("jobs", *arguments, **variables)


@pytest.mark.process
def test_start_and_wait_exits_0_with_the_result_of_a_job_that_succeeded(worked: RunCommand) -> None:
    ran = worked(*ADD, "-p", "scale=0.5", "-p", "label=3", "--wait", "--json")

    assert (ran.code, ran.errors) == (0, "")
    found = ran.json()
    assert (found["state"], found["result"]) == ("succeeded", 1.5)
    assert found["parameters"] == {"numbers": [1, 2], "scale": 0.5, "label": "3"}


@pytest.mark.process
def test_start_and_wait_exits_1_with_the_error_of_a_job_that_failed(worked: RunCommand) -> None:
    ran = worked("start", "sample.fail", "--wait")

    assert ran.code == 1
    assert "state: failed\n" in ran.output
    assert "error: ValueError: nothing works\n" in ran.output


@pytest.mark.process
def test_a_worker_says_what_it_serves(worker: Service) -> None:
    (line,) = (each for each in worker.errors.splitlines() if "worker_started" in each)

    assert {"processes=1", "jobs=3", "schedules=1", f"version={version('tiercel')}"} <= set(line.split())
    assert re.search(r"database='postgresql [0-9.]+, \w+'", line)


@pytest.mark.process
def test_log_follows_a_job_to_its_end(worked: RunCommand, module_database: str, tmp_path: Path) -> None:
    job_id = str(worked("start", "sample.walk", "-p", f"folder={tmp_path}", "--json").json()["id"])
    environment = make_environment(tmp_path / ".tiercel", **sample_environment(module_database))
    command = [TIERCEL, "jobs", "log", job_id, "--follow", "--json"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE) as following:
        assert following.stdout is not None
        first = following.stdout.readline()
        (tmp_path / "1").touch()
        second = following.stdout.readline()
        assert following.poll() is None
        (tmp_path / "2").touch()
        assert following.stdout.read() == b""

    assert following.returncode == 0
    assert [msgspec.json.decode(line)["fields"] for line in (first, second)] == [{"gate": 1}, {"gate": 2}]


@pytest.mark.process
def test_cancel_asks_a_running_job_to_stop(worked: RunCommand, tmp_path: Path) -> None:
    job_id = str(worked("start", "sample.walk", "-p", f"folder={tmp_path}", "--json").json()["id"])
    assert eventually(lambda: worked("show", job_id, "--json").json()["state"] == "running")

    ran = worked("cancel", job_id)

    assert (ran.code, ran.output) == (0, f"{job_id}: asked to stop.\n")
    assert eventually(lambda: worked("show", job_id, "--json").json()["state"] == "cancelled")


@pytest.mark.process
def test_waiting_shows_progress_on_a_terminal(worker: Service, module_database: str, tmp_path: Path) -> None:
    assert worker.process.poll() is None
    terminal, end = os.openpty()
    with _waiting(module_database, tmp_path, end, "sample.walk", "-p", f"folder={tmp_path}") as waiting:
        os.close(end)
        seen = b""
        for gate in ("1", "2"):
            while f"gate {gate}".encode() not in seen:
                seen += os.read(terminal, 4096)
            (tmp_path / gate).touch()
        assert waiting.wait(20) == 0
    os.close(terminal)

    assert b"1/2" in seen
    assert b"2/2" in seen


@pytest.mark.process
def test_waiting_says_when_there_is_no_worker(tiercel: RunCommand, database: str, tmp_path: Path) -> None:
    with _waiting(database, tmp_path, subprocess.PIPE, *ADD[1:]) as waiting:
        assert waiting.stderr is not None
        told = waiting.stderr.readline().decode()
        (record,) = tiercel("list", "--json").json()
        tiercel("cancel", str(record["id"]))
        assert waiting.wait(20) == 1

    assert told == "tiercel: jobs wait, but no worker runs; start one: tiercel worker\n"


@contextmanager
def _waiting(database: str, folder: Path, errors: int, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = make_environment(folder / ".tiercel", **sample_environment(database), TERM="xterm")
    command = [TIERCEL, "jobs", "start", "--wait", *arguments]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=errors) as started:
        try:
            yield started
        finally:
            started.kill()


def test_start_queues_a_job_and_says_what_is_known_of_it(tiercel: RunCommand) -> None:
    ran = tiercel(*ADD)

    assert ran.code == 0
    assert ran.output.startswith("id: ")
    assert 'state: waiting\nparameters: {"label":"","scale":1.0,"numbers":[1,2]}\n' in ran.output


def test_a_job_that_waits_already_is_not_started_twice(tiercel: RunCommand) -> None:
    first = tiercel(*ADD, "--json").json()

    again = tiercel(*ADD, "--json")

    assert (again.code, again.json()["id"]) == (0, first["id"])
    assert again.errors == f"It waits already, as {first['id']}.\n"


@pytest.mark.parametrize(
    ("given", "parameters"),
    [
        (("numbers=",), {"numbers": []}),
        (("numbers=3",), {"numbers": [3]}),
        (("numbers=[1, 2]",), {"numbers": [1, 2]}),
        (("numbers=1", "label=1"), {"numbers": [1], "label": "1"}),
        (("numbers=1", "label=a=b"), {"numbers": [1], "label": "a=b"}),
        (("numbers=1", "label=true"), {"numbers": [1], "label": "true"}),
    ],
)
def test_parameters_become_what_the_job_takes(
    tiercel: RunCommand, given: tuple[str, ...], parameters: dict[str, object]
) -> None:
    pairs = [word for pair in given for word in ("-p", pair)]

    ran = tiercel("start", "sample.add", *pairs, "--json")

    assert ran.json()["parameters"] == {"scale": 1.0, "label": "", **parameters}


def test_every_wrong_parameter_is_named_with_its_reason(tiercel: RunCommand) -> None:
    ran = tiercel("start", "sample.add", "-p", "numbers=one", "-p", "scale=big", "-p", "colour=red")

    assert ran.code == 1
    assert sorted(line.split(": ")[1] for line in ran.errors.splitlines()) == ["colour", "numbers", "scale"]
    assert "tiercel: colour: Unknown field." in ran.errors.splitlines()


def test_a_parameter_without_a_value_is_wrong_usage(tiercel: RunCommand) -> None:
    ran = tiercel("start", "sample.add", "-p", "numbers")

    assert (ran.code, "KEY=VALUE" in ran.errors) == (2, True)


def test_an_unknown_job_names_the_known_ones(tiercel: RunCommand) -> None:
    ran = tiercel("start", "sample.nothing")

    assert (ran.code, ran.errors) == (
        1,
        "tiercel: Unknown job 'sample.nothing'. there are: sample.add, sample.fail, sample.walk\n",
    )


def test_cancel_ends_a_waiting_job(tiercel: RunCommand) -> None:
    job_id = tiercel(*ADD, "--json").json()["id"]

    ran, again = tiercel("cancel", str(job_id)), tiercel("cancel", str(job_id))

    assert (ran.code, ran.output) == (0, f"{job_id}: cancelled.\n")
    assert (again.code, "cannot be cancelled: it was cancelled before." in again.errors) == (1, True)


def test_list_shows_jobs_newest_first(tiercel: RunCommand) -> None:
    made = [tiercel(*ADD, "-p", f"label={label}", "--json").json()["id"] for label in "ab"]
    tiercel("cancel", str(made[0]))

    assert [each["id"] for each in tiercel("list", "--json").json()] == made[::-1]
    assert [each["id"] for each in tiercel("list", "--limit", "1", "--json").json()] == made[1:]
    assert [each["id"] for each in tiercel("list", "--state", "cancelled", "--json").json()] == made[:1]
    assert tiercel("list", "--name", "sample.fail", "--json").json() == []
    none = tiercel("list", "--name", "sample.fail")
    assert (none.output, none.errors) == ("", "There are no jobs to list.\n")
    titles, first, _ = tiercel("list").output.splitlines()
    assert titles.split() == ["id", "job", "state", "progress", "started", "took", "error"]
    assert first.split()[:3] == [str(made[1]), "sample.add", "waiting"]


def test_a_list_of_large_jobs_holds_few_of_them_in_memory(tiercel: RunCommand, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO tiercel.job_run (name, state, parameters, lock, result, error, finished_at)"
            " SELECT 'large', 'failed', '{}', 'x', to_jsonb(repeat('r', 1000000)), repeat('word ', 500), now()"
            " FROM generate_series(1, 40)"
        )
    tracemalloc.start()
    table = tiercel("list", "--limit", "10000").output.splitlines()
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(table) == 1 + 40
    assert table[1].endswith(" word ...")
    assert peak_bytes < 40_000_000 / 2
    assert len(tiercel("list", "--limit", "7", "--json").json()) == 7


def test_list_leaves_out_successes_of_schedules_unless_asked(tiercel: RunCommand, database: str) -> None:
    scheduled, own = (tiercel("start", "sample.add", "-p", f"numbers={n}", "-p", f"label={n}", "--json") for n in "12")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE tiercel.job_run SET state = 'succeeded', finished_at = now()")
        connection.execute("UPDATE tiercel.job_run SET is_scheduled = true WHERE id = %s", [scheduled.json()["id"]])
    both, ours = [own.json()["id"], scheduled.json()["id"]], [own.json()["id"]]

    assert [each["id"] for each in tiercel("list", "--json").json()] == ours
    for asked in (("--all",), ("--name", "sample.add"), ("--state", "succeeded")):
        assert [each["id"] for each in tiercel("list", *asked, "--json").json()] == both
    assert tiercel("list").errors.endswith("--all lists them.\n")
    assert tiercel("list", "--all").errors == ""


@pytest.mark.process
def test_log_shows_the_state_then_the_error_before_its_traceback(worked: RunCommand, module_database: str) -> None:
    failed = str(worked("start", "sample.fail", "--wait", "--json").json()["id"])
    shown = worked("log", failed).output.splitlines()
    with psycopg.connect(module_database, autocommit=True) as connection:
        again = "state = 'waiting', due_at = now() + interval '1 hour', finished_at = NULL"
        connection.execute(f"UPDATE tiercel.job_run SET {again} WHERE id = %s".encode(), [failed])
    waiting = worked("log", failed).output.splitlines()
    worked("cancel", failed)

    state, _, line, error, traceback, *frames = shown
    assert state == "sample.fail: failed, attempt 1 of 1: ValueError: nothing works"
    assert line.endswith("error    job_failed")
    assert (error, traceback) == ("    ValueError: nothing works", "    Traceback (most recent call last):")
    assert 'raise ValueError("nothing works")' in frames[-1] or "^^^" in frames[-1]
    prefix, _, rest = waiting[0].partition(" in ")
    assert prefix == "sample.fail: waiting, attempt 1 of 1 ended, the next"
    assert 3500 < int(rest.partition(" s: ")[0]) <= 3600
    assert rest.endswith(" s: ValueError: nothing works")


def test_schedules_lists_jobs_with_the_schedule_in_force(tiercel: RunCommand) -> None:
    given = {"TIERCEL_JOBS__SCHEDULES": '{"sample.add": "off", "sample.fail": "every 15m"}'}

    found = {each["name"]: each for each in tiercel("schedules", "--json", **given).json()}
    lines = {line.split()[0]: line for line in tiercel("schedules").output.splitlines()}

    assert {name: each["schedule"] for name, each in found.items()} == {
        "sample.add": None,
        "sample.fail": "every 15m",
        "sample.walk": None,
    }
    assert found["sample.fail"]["next_due"] is not None
    assert "on demand" in lines["sample.walk"]
    assert lines["sample.fail"].endswith("never")


@pytest.mark.parametrize("command", ["show", "cancel", "log"])
def test_a_job_that_is_not_there_exits_1_with_one_line(tiercel: RunCommand, command: str) -> None:
    ran = tiercel(command, "99")

    assert (ran.code, ran.errors) == (1, "tiercel: Not found. there is no job 99\n")
