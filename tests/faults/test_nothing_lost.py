"""Senders that follow ``Retry-After`` and retry with the same ``Idempotency-Key`` lose and duplicate nothing."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import VARIABLES
from tests.faults.database import connect, end_server, end_sessions, frozen, locked, no_connections_left, read_only
from tests.faults.senders import Senders, make_batch
from tests.processes import Service, eventually, serving

pytestmark = pytest.mark.process

SEED = 20_261_121
FAULTS = 30
BATCHES = 200
SIZE = 1000
CONNECTIONS = 4
# Of the whole run, on two cores under load.
LIMIT_S = 120.0
Fault = Callable[[Service, Senders], None]


def lasting(fault: Callable[[Path], AbstractContextManager[None]]) -> Fault:
    """Make a fault that lasts for a second."""

    def inject(service: Service, _senders: Senders) -> None:
        with fault(service.home):
            time.sleep(1)

    return inject


def kill_worker(service: Service, _senders: Senders) -> None:
    random.choice(service.workers()).send_signal(signal.SIGKILL)


def end(how: signal.Signals, service: Service, _senders: Senders) -> None:
    end_server(service.home, how)


def end_every_session(service: Service, _senders: Senders) -> None:
    with connect(service.home) as connection:
        end_sessions(connection)


def cut_connections(_service: Service, senders: Senders) -> None:
    senders.cuts.release(CONNECTIONS)


KINDS: dict[str, Fault] = {
    "a worker is killed": kill_worker,
    "the database is killed": partial(end, signal.SIGKILL),
    "the database stops at once": partial(end, signal.SIGQUIT),
    "the database stops in order": partial(end, signal.SIGINT),
    "the database freezes": lasting(frozen),
    "every session ends": end_every_session,
    "the database is read-only": lasting(read_only),
    "the table is locked": lasting(locked),
    "no connection is left": lasting(no_connections_left),
    "clients hang up before the answer": cut_connections,
}


def wait_for_traffic(senders: Senders) -> None:
    """Wait for another acknowledgement, so that every fault happens during traffic."""
    before = len(senders.acknowledged)
    assert eventually(lambda: len(senders.acknowledged) > before, 30)


def stored(home: Path) -> Iterator[tuple[Any, ...]]:
    """Read the id and the content of every stored event."""
    with connect(home) as connection:
        yield from connection.execute(
            b"SELECT trace_id, time, service, endpoint, method, status_code, latency_ms"
            b" FROM observability.event JOIN observability.series ON series.id = event.series"
        )


def sent() -> Iterator[tuple[Any, ...]]:
    """Return the same of every event that was sent."""
    names = ("service", "endpoint", "method", "status_code", "latency_ms")
    for number in range(BATCHES):
        for event in make_batch(number, SIZE):
            yield (event["trace_id"], datetime.fromisoformat(event["time"]), *(event[name] for name in names))


def test_senders_that_retry_store_exactly_what_they_sent(home: Path) -> None:
    generator = random.Random(SEED)
    # Every kind equally often, in random order.
    faults = generator.sample(list(KINDS) * (FAULTS // len(KINDS)), FAULTS)
    batches_per_fault = BATCHES // FAULTS
    started = time.monotonic()
    with serving(home, **{**VARIABLES, "TIERCEL_DB__STATEMENT_TIMEOUT_S": "5"}) as service:
        senders = Senders(service.port, SIZE)
        with senders.running(CONNECTIONS):
            for at, name in enumerate(faults):
                senders.put(range(at * batches_per_fault, (at + 1) * batches_per_fault))
                wait_for_traffic(senders)
                KINDS[name](service, senders)
            senders.put(range(FAULTS * batches_per_fault, BATCHES))
            assert eventually(lambda: len(senders.acknowledged) == BATCHES, LIMIT_S)
        took_s = time.monotonic() - started
        assert eventually(service.is_ready)
        found = sorted(stored(home))

    assert senders.unexpected == []
    assert found == sorted(sent())
    assert senders.replays > FAULTS
    assert took_s < LIMIT_S
