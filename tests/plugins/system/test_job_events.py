"""Events of a job over a real socket, as a browser would get them."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.outage import outage
from tests.processes import TLS, Service, eventually, serving
from tests.workers import running_worker, sample_environment

JOBS = "/api/v1/jobs/"
PLACES = 2
# Well below the graceful timeout: streams end when they are told, not when their time is up.
STOP_WITHIN_S = 5

pytestmark = pytest.mark.process


class Event(msgspec.Struct, frozen=True):
    """One event as it arrived."""

    id: str
    kind: str
    data: Any


class Events:
    """Reads a stream of events; what was read stays read."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.iter_lines()

    def __iter__(self) -> Iterator[Event]:
        fields: dict[str, str] = {}
        for line in self._lines:
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
                continue
            if "event" in fields:
                yield Event(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}

    def until(self, wanted: Callable[[Event], bool]) -> list[Event]:
        """Read up to an event that must come."""
        read: list[Event] = []
        for event in self:
            read.append(event)
            if wanted(event):
                return read
        raise AssertionError(f"the stream ended after {read}")


@pytest.fixture(scope="module")
def service(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One process with four threads and a worker, shared by all tests of this file."""
    home = tmp_path_factory.mktemp("events") / ".tiercel"
    own = {"TIERCEL_THREADS": str(2 * PLACES), "TIERCEL_DB__POOL_TIMEOUT_S": "0.5"}
    environment = {**sample_environment(module_database), **own}
    with running_worker(home, module_database), serving(home, **environment) as started:
        yield started


@contextmanager
def following(service: Service, job_id: int, last: str = "") -> Iterator[Events]:
    """Follow a job for as long as the block lasts."""
    # The streams of the test before hold their places until the service notices that their clients have gone.
    assert eventually(lambda: has_place(service, job_id))
    headers = {"Last-Event-ID": last} if last else {}
    with httpx.stream("GET", events_of(service, job_id), headers=headers, timeout=20, verify=TLS) as response:
        yield Events(response)


def events_of(service: Service, job_id: int) -> str:
    """Return where a job can be followed."""
    return f"{service.url}{JOBS}{job_id}/events/"


def has_place(service: Service, job_id: int) -> bool:
    """Tell whether there is a place for one more stream."""
    return httpx.head(events_of(service, job_id), timeout=20).status_code != 503


def start(service: Service, name: str, **parameters: Any) -> int:
    """Start a job; return its id."""
    answer = service.post(JOBS, {"name": name, "parameters": parameters})
    assert answer.status_code == 202, answer.text
    return int(answer.json()["data"]["id"])


@pytest.fixture
def running_job(service: Service, tmp_path: Path) -> Iterator[int]:
    """A job that waits at the first of two gates, which are files in ``tmp_path``; it is over after the test."""
    job_id = start(service, "sample.walk", folder=str(tmp_path))
    yield job_id
    service.post(f"{JOBS}{job_id}/cancel/", None)
    # The only worker is free for the next test.
    assert eventually(lambda: service.get(f"{JOBS}{job_id}/").json()["data"]["finished_at"] is not None)


def open_gates(folder: Path) -> None:
    """Let the job go to its end."""
    for gate in ("1", "2"):
        (folder / gate).touch()


def is_progress(done: float) -> Callable[[Event], bool]:
    """Tell whether an event says that so much is done."""
    return lambda event: event.kind == "progress" and event.data["done"] == done


def is_end(event: Event) -> bool:
    """Tell whether an event is the last one."""
    return event.kind == "state" and event.data["finished_at"] is not None


def test_state_log_and_progress_are_streamed_while_the_job_runs(
    service: Service, running_job: int, tmp_path: Path
) -> None:
    with following(service, running_job) as events:
        assert events.response.headers["Content-Type"] == "text/event-stream"
        before = events.until(is_progress(1))
        (tmp_path / "1").touch()
        between = events.until(is_progress(2))
        (tmp_path / "2").touch()
        after = list(events)

    assert before[-1].data == {"done": 1.0, "total": 2.0, "message": "gate 1"}
    assert [event.data["state"] for event in before if event.kind == "state"][-1] == "running"
    logged = [event.data["fields"] for event in before + between if event.kind == "log"]
    assert logged == [{"gate": 1}, {"gate": 2}]
    assert [(event.kind, event.data["state"], event.data["result"]) for event in after] == [
        ("state", "succeeded", "through")
    ]


def test_a_client_that_reconnects_gets_the_events_it_missed(service: Service, running_job: int, tmp_path: Path) -> None:
    with following(service, running_job) as events:
        last = events.until(is_progress(1))[-1].id
    open_gates(tmp_path)

    with following(service, running_job, last) as events:
        read = list(events)

    assert [event.data["fields"] for event in read if event.kind == "log"] == [{"gate": 2}]
    assert is_end(read[-1])


def test_a_client_that_received_the_end_is_told_to_stop_reconnecting(service: Service) -> None:
    job_id = start(service, "sample.add", numbers=[1], label="seen")
    with following(service, job_id) as events:
        last = list(events)[-1].id

    with following(service, job_id, last) as events:
        assert events.response.status_code == 204


def test_the_stream_of_a_failed_job_ends_with_its_error(service: Service) -> None:
    job_id = start(service, "sample.fail")

    with following(service, job_id) as events:
        read = list(events)

    assert [event.data["level"] for event in read if event.kind == "log"] == ["warning", "error"]
    assert (read[-1].data["state"], read[-1].data["error"]) == ("failed", "ValueError: nothing works")


def test_streams_beyond_half_of_the_threads_are_refused(service: Service, running_job: int) -> None:
    with ExitStack() as stack:
        for _ in range(PLACES):
            stack.enter_context(following(service, running_job)).until(is_progress(1))
        refused = service.get(f"{JOBS}{running_job}/events/")
        others = [service.get("/livez").status_code for _ in range(5)]

    assert (refused.status_code, int(refused.headers["Retry-After"]) > 0) == (503, True)
    assert others == [200] * 5
    # Both clients have gone.
    assert eventually(lambda: has_place(service, running_job))


def test_a_stream_survives_an_outage_of_the_database(
    service: Service, module_database: str, running_job: int, tmp_path: Path
) -> None:
    with following(service, running_job) as events:
        events.until(is_progress(1))
        with outage(module_database):
            assert eventually(lambda: service.get(f"{JOBS}{running_job}/").status_code == 503)
            open_gates(tmp_path)

        assert is_end(list(events)[-1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_streams_do_not_delay_a_shutdown(module_database: str, tmp_path: Path, number: signal.Signals) -> None:
    environment = sample_environment(module_database)
    with serving(tmp_path / ".tiercel", **environment) as service, ExitStack() as stack:
        job_id = start(service, "sample.walk", folder=str(tmp_path))
        streams = [stack.enter_context(following(service, job_id)) for _ in range(PLACES)]
        for events in streams:
            events.until(lambda event: event.kind == "state")
        started = time.monotonic()
        service.process.send_signal(number)

        assert service.process.wait(10) == 0

        assert time.monotonic() - started < STOP_WITHIN_S
        assert not any(is_end(event) for events in streams for event in events)
        assert "Traceback" not in service.errors
    open_gates(tmp_path)


def test_head_occupies_no_stream(service: Service) -> None:
    job_id = start(service, "sample.add", numbers=[], label="head")

    answers = {httpx.head(f"{service.url}{JOBS}{job_id}/events/").status_code for _ in range(PLACES + 1)}

    assert answers == {200}


@pytest.mark.parametrize("last", ["abc", "-1", "99999999999999999999"])
def test_an_invalid_last_event_id_is_refused(service: Service, last: str) -> None:
    job_id = start(service, "sample.add", numbers=[], label=last)

    with following(service, job_id, last) as events:
        assert events.response.status_code == 400
