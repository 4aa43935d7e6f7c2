"""The reporter delivers what it accepts, once, or counts why not; it delays nobody."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from kernel.testing import Client
from tests.contract.tree import ROOT
from tests.contrib.client.conftest import FAST, MakeReporter, stored
from tests.contrib.client.front import Answer, Front, Received
from tests.processes import GUNICORN, eventually, free_port
from tiercel_client import Accepted, Reporter, Settings

LONG_S = 3600.0
AWAY = Answer(503)


def report(reporter: Reporter, number: int, **given: Any) -> Accepted:
    """Report a request that is known by its number."""
    values = {"endpoint": "/orders/{id}", "method": "GET", "status_code": 200, "latency_ms": 1.4, **given}
    return reporter.report(trace_id=str(number), **values)


def numbers(events: list[dict[str, Any]]) -> list[int]:
    """Return the numbers of events."""
    return sorted(int(event["trace_id"]) for event in events)


def wait_for(reporter: Reporter, sent: int) -> None:
    """Wait until the service has answered for so many events."""
    assert eventually(lambda: reporter.counters().sent >= sent)


# --- batches --------------------------------------------------------------------------------------------------------


def test_batches_end_by_number_bytes_and_time(front: Front, store: Client, reporter: MakeReporter) -> None:
    sent = reporter(batch_max_events=400, flush_interval_s=1.0)
    for number in range(900):
        assert report(sent, number) is Accepted.MEMORY
    wait_for(sent, 900)
    small = reporter(batch_max_bytes=4096, event_max_bytes=1024, flush_interval_s=LONG_S, service="small")
    for number in range(30):
        report(small, number)
    assert small.flush()

    sizes = [len(received.events) for received in front.received]
    assert sizes[:2] == [400, 400]
    assert sum(sizes[: sizes.index(100) + 1]) == 900
    assert all(len(received.content) <= 4096 for received in front.received[3:])
    assert len({received.key for received in front.received}) == len(front.received) > 4
    assert front.received[0].headers["Content-Encoding"] == "gzip"
    assert front.received[0].headers["Authorization"] == "Api-Key tk_test"
    assert front.connections == 2
    assert numbers(stored(store, sent.settings.service)) == list(range(900))


def test_what_is_stored_is_what_was_reported(store: Client, reporter: MakeReporter) -> None:
    sent = reporter()
    report(sent, 1, method="brew", latency_ms=None, time=1_700_000_000.25, user_ref=17, tags={"rows": [1, None, "ß"]})
    report(sent, 2, tags={"bad": {1, 2}}, endpoint="/" + "x" * 300)
    report(sent, 3, tags={"long": "x" * 40_000}, user_ref="a\0b")
    assert report(sent, 4, latency_ms=float("nan")) is Accepted.NO
    assert sent.flush()

    first, second, third = sorted(stored(store, sent.settings.service), key=lambda event: event["trace_id"])
    assert first["time"] == "2023-11-14T22:13:20.250000Z"
    assert (first["method"], first["latency_ms"], first["user_ref"]) == ("_OTHER", None, "17")
    assert first["tags"] == {"rows": [1, None, "ß"]}
    assert (second["tags"], len(second["endpoint"])) == ({}, 255)
    assert (third["tags"], third["user_ref"]) == ({}, "ab")
    assert sent.counters().untagged == 2
    assert sent.counters().dropped == Counter(invalid=1)


# --- failures -------------------------------------------------------------------------------------------------------


def test_a_batch_is_sent_again_as_it_was_until_it_is_answered(
    front: Front, store: Client, reporter: MakeReporter
) -> None:
    front.answers.extend([Answer(503), Answer(0), Answer(0, is_passed_on=True), Answer(502, is_passed_on=True)])
    sent = reporter()
    for number in range(3):
        report(sent, number)
    wait_for(sent, 3)

    assert len({received.key for received in front.received}) == 1
    assert len({received.content for received in front.received}) == 1
    assert numbers(stored(store, sent.settings.service)) == [0, 1, 2]
    counters = sent.counters()
    assert (counters.accepted, counters.sent, counters.stored, counters.duplicate) == (3, 3, 0, 3)
    assert counters.failures["503"] == 1


@pytest.mark.parametrize("header", ["1", "date"])
def test_retry_after_is_kept(front: Front, reporter: MakeReporter, header: str) -> None:
    # A date has whole seconds, and this one is at least one away.
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2))
    front.answers.append(Answer(429, {"Retry-After": date if header == "date" else header}))
    sent = reporter()
    started = time.monotonic()
    report(sent, 1)
    assert not sent.flush(0.5)
    wait_for(sent, 1)

    assert time.monotonic() - started >= 1
    assert len(front.received) == 2


def test_pauses_grow(front: Front, reporter: MakeReporter) -> None:
    front.always = AWAY
    sent = reporter(backoff_min_s=0.02, backoff_max_s=LONG_S)
    report(sent, 1)
    time.sleep(1.0)

    # At least 0.01, 0.02, 0.04 ... seconds.
    assert 2 <= len(front.received) <= 8


@pytest.mark.parametrize("answer", [Answer(401), Answer(403), Answer(404), Answer(302), Answer(200, content=b"<html>")])
def test_what_repeating_does_not_change_pauses_the_delivery(
    front: Front, store: Client, reporter: MakeReporter, capfd: pytest.CaptureFixture[str], answer: Answer
) -> None:
    front.always = answer
    sent = reporter(halt_s=0.2)
    report(sent, 1)
    assert eventually(lambda: len(front.received) >= 3)
    front.always = None
    wait_for(sent, 1)

    assert numbers(stored(store, sent.settings.service)) == [1]
    warnings = capfd.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert "tk_test" not in warnings[0]


def test_items_that_a_batch_is_refused_for_are_dropped_alone(
    front: Front, store: Client, reporter: MakeReporter
) -> None:
    def judge(received: Received) -> Answer | None:
        if any(event["endpoint"] == "/poison" for event in received.events):
            return Answer(422, content=b'{"code": "unreadable"}')
        return None

    front.judge = judge
    sent = reporter(flush_interval_s=LONG_S)
    for number in range(40):
        report(sent, number, endpoint="/poison" if number in (7, 30) else "/fine")
    assert sent.flush()

    assert numbers(stored(store, sent.settings.service)) == [number for number in range(40) if number not in (7, 30)]
    assert sent.counters().dropped == Counter({"422 unreadable": 2})
    assert sent.counters().sent == 38


def test_a_batch_that_is_too_large_is_sent_in_parts(front: Front, store: Client, reporter: MakeReporter) -> None:
    front.judge = lambda received: Answer(413) if len(received.events) > 12 else None
    sent = reporter(flush_interval_s=LONG_S)
    for number in range(40):
        report(sent, number)
    assert sent.flush()

    assert numbers(stored(store, sent.settings.service)) == list(range(40))
    assert sent.counters().dropped == Counter()


def test_what_refuses_everything_costs_a_limited_number_of_requests(front: Front, reporter: MakeReporter) -> None:
    front.always = Answer(400, content=b'{"code": "malformed"}')
    sent = reporter(flush_interval_s=LONG_S)
    for number in range(500):
        report(sent, number)
    assert sent.flush()

    assert len(front.received) < 100
    assert sent.counters().dropped == Counter({"400 malformed": 500})


def test_items_that_the_service_rejects_are_counted_by_reason(store: Client, reporter: MakeReporter) -> None:
    sent = reporter(flush_interval_s=LONG_S)
    for number in range(150):
        report(sent, number, status_code=200 if number == 1 else 999)
    assert sent.flush()

    counters = sent.counters()
    assert (counters.stored, counters.sent, counters.dropped) == (1, 150, Counter())
    # The service lists 100 errors at most.
    reason = "status_code: status_code must be a valid HTTP status (100..599)."
    assert counters.rejected == Counter({reason: 100, "other": 49})


# --- memory ---------------------------------------------------------------------------------------------------------


def test_memory_is_bounded_and_a_service_that_hangs_delays_nobody(
    front: Front, store: Client, reporter: MakeReporter
) -> None:
    may_answer = threading.Event()

    def judge(received: Received) -> Answer | None:
        may_answer.wait(10)
        return None

    front.judge = judge
    sent = reporter(queue_max_events=100, batch_max_events=10)
    small = reporter(queue_max_bytes=1000, service="small")
    started = time.perf_counter()
    accepted = [report(sent, number) for number in range(1000)]
    kept = [report(small, number) for number in range(100)]
    took_s = time.perf_counter() - started
    may_answer.set()
    wait_for(sent, 100)

    # The service takes ten seconds, if it is let.
    assert took_s < 5
    assert accepted == [Accepted.MEMORY] * 100 + [Accepted.NO] * 900
    assert sent.counters().dropped == Counter(queue_full=900)
    assert 2 <= kept.count(Accepted.MEMORY) <= 6
    assert numbers(stored(store, sent.settings.service)) == list(range(100))


def test_threads_that_report_through_failures_lose_and_double_nothing(
    front: Front, store: Client, reporter: MakeReporter
) -> None:
    generator = random.Random(7)
    lost = [Answer(0), Answer(0, is_passed_on=True), Answer(503), Answer(500, is_passed_on=True), None, None]
    front.judge = lambda received: generator.choice(lost)
    sent = reporter(batch_max_events=50)

    def run(first: int) -> None:
        for number in range(first, first + 100):
            assert report(sent, number)

    threads = [threading.Thread(target=run, args=(first,)) for first in range(0, 800, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for(sent, 800)

    assert numbers(stored(store, sent.settings.service)) == list(range(800))
    counters = sent.counters()
    assert counters.accepted == counters.sent == counters.stored + counters.duplicate == 800


# --- the end, and forks ---------------------------------------------------------------------------------------------


def test_the_end_sends_what_is_left_and_counts_what_it_cannot(
    front: Front, store: Client, reporter: MakeReporter, capfd: pytest.CaptureFixture[str]
) -> None:
    sent = reporter(flush_interval_s=LONG_S)
    report(sent, 1)
    assert sent.close()
    assert report(sent, 2) is Accepted.NO
    front.answers.extend([AWAY, Answer(503, {"Retry-After": "0"})])
    patient = reporter(flush_interval_s=LONG_S, service="patient")
    report(patient, 4)
    assert patient.close(10)
    front.always = AWAY
    left = reporter(flush_interval_s=LONG_S, service="left")
    report(left, 3)
    assert not left.close(0.2)

    assert numbers(stored(store, sent.settings.service)) == [1]
    assert sent.counters().dropped == Counter(closed=1)
    assert numbers(stored(store, "patient")) == [4]
    assert left.counters().dropped == Counter(exit=1)
    assert "1 events were not sent" in capfd.readouterr().err


APP = """
import os
from tiercel_client import Tiercel

def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [str(os.getpid()).encode()[-2:]]

app = Tiercel(app, flush_interval_s=3600)
# In the master, before it forks.
app.reporter.report(endpoint="/import", method="GET", status_code=200, latency_ms=1)
"""


@pytest.mark.process
def test_workers_of_gunicorn_with_preload_report_their_own_requests(
    front: Front, store: Client, tmp_path: Path
) -> None:
    (tmp_path / "preloaded.py").write_text(APP)
    port = free_port()
    environ = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{ROOT / 'contrib' / 'client'}",
        "TIERCEL_CLIENT_URL": front.url,
        "TIERCEL_CLIENT_KEY": "tk_test",
        "TIERCEL_CLIENT_SERVICE": "preloaded",
    }
    command = [GUNICORN, "preloaded:app", "--preload", "-w", "2", "-b", f"127.0.0.1:{port}", "--log-level", "error"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environ)
    try:
        transport = httpx.HTTPTransport(retries=20)
        with httpx.Client(transport=transport, headers={"Connection": "close"}) as client:
            assert eventually(lambda: client.get(f"http://127.0.0.1:{port}/wait").status_code == 200)
            for number in range(20):
                assert client.get(f"http://127.0.0.1:{port}/orders/{number}").status_code == 200
    finally:
        process.terminate()
        process.wait(20)

    events = stored(store, "preloaded")
    assert Counter(event["endpoint"] for event in events) == {"/import": 1, "/wait": 1, "/orders/{id}": 20}


FORK = """
import os, signal, time
from tiercel_client import Accepted, Reporter

reporter = Reporter(spool_dir=os.environ["SPOOL"], spool_write="event", flush_interval_s=3600)

def report(number):
    # All at one time: nothing but their ids tells them apart.
    kept = reporter.report(endpoint="/", method="GET", status_code=200, latency_ms=1, time=1.7e9, trace_id=str(number))
    assert kept is Accepted.SPOOL

parent = os.getpid()
report(0)
if os.fork():
    report(1)
    os.kill(parent, signal.SIGKILL)
while os.getppid() == parent:
    time.sleep(0.01)
report(2)
"""


@pytest.mark.process
def test_a_forked_process_sends_what_its_killed_parent_has_left(front: Front, store: Client, tmp_path: Path) -> None:
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "contrib" / "client"),
        "SPOOL": str(tmp_path / "spool"),
        "TIERCEL_CLIENT_URL": front.url,
        "TIERCEL_CLIENT_SERVICE": "forked",
    }

    # Until both have closed their standard output.
    ran = subprocess.run([sys.executable, "-c", FORK], env=environ, capture_output=True, timeout=30, check=False)

    assert (ran.returncode, ran.stderr) == (-signal.SIGKILL, b"")
    assert numbers(stored(store, "forked")) == [0, 1, 2]
    assert list((tmp_path / "spool").rglob("*.ndjson")) == []


# --- settings -------------------------------------------------------------------------------------------------------


def test_settings_come_from_arguments_then_from_variables() -> None:
    variables = {
        "TIERCEL_CLIENT_URL": "https://logs.example/base/",
        "TIERCEL_CLIENT_KEY": "tk_secret",
        "TIERCEL_CLIENT_SERVICE": "shop",
        "TIERCEL_CLIENT_BATCH_MAX_EVENTS": "7",
        "TIERCEL_CLIENT_FLUSH_INTERVAL_S": "0.5",
        "TIERCEL_CLIENT_SPOOL_FSYNC": "true",
    }

    settings = Settings.read(variables, service="store", site=None)

    assert (settings.service, settings.batch_max_events, settings.flush_interval_s) == ("store", 7, 0.5)
    assert settings.spool_fsync is True
    assert "tk_secret" not in repr(settings)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"TIERCEL_CLIENT_URL": "logs.example"}, "url"),
        ({"TIERCEL_CLIENT_URL": "https://user:pw@logs.example"}, "url"),
        ({"TIERCEL_CLIENT_SERVICE": " "}, "service"),
        ({"TIERCEL_CLIENT_KEY": "tk_\n_"}, "key"),
        ({"TIERCEL_CLIENT_TIMEOUT_S": "0"}, "timeout_s"),
        ({"TIERCEL_CLIENT_TIMEOUT_S": "soon"}, "TIERCEL_CLIENT_TIMEOUT_S"),
        ({"TIERCEL_CLIENT_SPOOL_FSYNC": "perhaps"}, "TIERCEL_CLIENT_SPOOL_FSYNC"),
        ({"TIERCEL_CLIENT_SPOOL_WRITE": "never"}, "spool_write"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named(given: dict[str, str], name: str) -> None:
    variables = {"TIERCEL_CLIENT_URL": "https://logs.example", "TIERCEL_CLIENT_SERVICE": "shop", **given}

    with pytest.raises(ValueError, match=f"^{name}: "):
        Settings.read(variables)


def test_without_a_url_nothing_is_reported(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("TIERCEL_CLIENT_URL", raising=False)

    assert report(Reporter(service="shop", **FAST), 1) is Accepted.NO

    assert "TIERCEL_CLIENT_URL" in capfd.readouterr().err
    assert report(Reporter("", service="shop"), 1) is Accepted.NO
    assert capfd.readouterr().err == ""
