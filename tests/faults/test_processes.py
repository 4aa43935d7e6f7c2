"""Processes of the service that are killed or stopped under load."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.faults.conftest import VARIABLES, stored_batches
from tests.faults.database import locked
from tests.faults.senders import Senders
from tests.processes import Service, eventually, postmaster, serving

pytestmark = pytest.mark.process

SIZE = 2000


def kill_a_worker(service: Service) -> None:
    service.workers()[0].send_signal(signal.SIGKILL)


def assert_complete_or_absent(senders: Senders, home: Path) -> None:
    stored = stored_batches(home)
    assert set(stored.values()) <= {SIZE}
    assert senders.acknowledged <= set(stored) <= senders.tried
    assert senders.unexpected == []


def test_batches_of_killed_workers_are_complete_or_absent(service: Service) -> None:
    senders = Senders(service.port, SIZE, retry=False)
    with senders.running(connections=4):
        for kill in range(6):
            senders.put(range(kill * 8, kill * 8 + 8))
            assert eventually(lambda at=kill * 8 + 3: len(senders.tried) >= at)  # type: ignore[misc]
            kill_a_worker(service)

    assert len(senders.acknowledged) < len(senders.tried) == 48
    assert_complete_or_absent(senders, service.home)
    assert eventually(service.is_ready)


def test_a_batch_whose_worker_is_killed_before_the_commit_is_absent_until_it_is_retried(service: Service) -> None:
    senders = Senders(service.port, SIZE)
    with senders.running(connections=1):
        with locked(service.home):
            senders.put(range(1))
            assert eventually(lambda: bool(senders.tried))
            for worker in service.workers():
                worker.send_signal(signal.SIGKILL)
            assert eventually(lambda: senders.replays > 0)
        assert eventually(lambda: senders.acknowledged == {0}, 30)

    assert stored_batches(service.home) == {0: SIZE}


def test_batches_of_a_killed_master_are_complete_or_absent_at_the_next_start(home: Path) -> None:
    service = Service(home, **VARIABLES)
    service.wait_until_ready()
    workers = service.workers()
    senders = Senders(service.port, SIZE, retry=False)
    with senders.running(connections=4):
        senders.put(range(40))
        assert eventually(lambda: len(senders.acknowledged) >= 8)
        service.process.kill()
        service.process.wait()
        assert eventually(lambda: not any(worker.is_running() for worker in workers))

    with serving(home, **VARIABLES):
        assert_complete_or_absent(senders, home)
    assert postmaster(home) is None


@pytest.mark.parametrize(
    ("number", "keep_alive"),
    [(signal.SIGTERM, True), (signal.SIGTERM, False), (signal.SIGINT, True)],
    ids=["SIGTERM, kept-alive connections", "SIGTERM, a connection a request", "SIGINT, kept-alive connections"],
)
def test_every_request_is_answered_or_refused_when_the_service_stops_under_load(
    home: Path, number: signal.Signals, keep_alive: bool
) -> None:
    service = Service(home, **VARIABLES)
    service.wait_until_ready()
    senders = Senders(service.port, SIZE, retry=False, keep_alive=keep_alive)
    with senders.running(connections=8):
        senders.put(range(400))
        assert eventually(lambda: len(senders.acknowledged) >= 8)
        started = time.monotonic()
        service.process.send_signal(number)
        assert service.process.wait(20) == 0
        took_s = time.monotonic() - started

    assert took_s < 10
    assert senders.dropped == []
    assert len(senders.acknowledged) < 400
    assert senders.unexpected == []
    with serving(home, **VARIABLES):
        assert stored_batches(home) == dict.fromkeys(senders.acknowledged, SIZE)
