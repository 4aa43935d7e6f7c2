"""Short jobs through two workers, and claims from a long queue."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from kernel.app import Tiercel
from kernel.embedded.server import EmbeddedServer
from kernel.jobs.owner import Owner
from kernel.jobs.store import JobStore
from kernel.testing import make_configuration
from tests.bench.figures import Figure
from tests.processes import TIERCEL, eventually, make_environment

_JOBS = 1000
_WAITING = 1500
_CLAIMING = 4
_PLUGIN = "tests.kernel.jobs.sample"


def figures(full: bool) -> Iterator[Figure]:
    """Measure how fast workers drain a queue, and how much a long queue slows a claim down."""
    with tempfile.TemporaryDirectory(prefix="tiercel-bench-") as folder, EmbeddedServer(Path(folder)) as server:
        with _started(server) as service:
            yield _short_jobs(service, server, Path(folder))
        with _started(server) as service:
            yield _long_queue(service.shared.jobs.store)
            yield _held_lock(service.shared.jobs.store)
        with _started(server) as service:
            yield from _long_lists(service, server.conninfo, 1_000_000 if full else 100_000)


@contextmanager
def _started(server: EmbeddedServer) -> Iterator[Tiercel]:
    database = {"url": server.conninfo}
    service = Tiercel(make_configuration(plugins=[_PLUGIN], required=[], db=database, log={"level": "error"}))
    service.prepare()
    service.start()
    try:
        yield service
    finally:
        service.stop()
        service.close()


# --- short jobs -------------------------------------------------------------------------------------------------------


def _short_jobs(service: Tiercel, server: EmbeddedServer, home: Path) -> Figure:
    """Each job inserts a row exactly once."""
    with psycopg.connect(server.conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE sample_row (number integer NOT NULL)")
    started = time.monotonic()
    for number in range(_JOBS):
        service.shared.jobs.start("sample.insert", {"number": number})
    queued_s = time.monotonic() - started
    drained_s = _drain(service, server.conninfo, home)
    detail = f"{_JOBS} jobs, 2 workers; queued at {_JOBS / queued_s:.0f}/s"
    return Figure("short jobs", _JOBS / drained_s, 100, "at least", "jobs/s", detail)


def _drain(service: Tiercel, conninfo: str, home: Path) -> float:
    environment = make_environment(
        home,
        TIERCEL_PLUGINS=_PLUGIN,
        TIERCEL_REQUIRED="",
        TIERCEL_DATABASE_URL=conninfo,
        TIERCEL_JOB_PROCESSES="2",
        TIERCEL_LOG__LEVEL="error",
    )
    worker = subprocess.Popen([TIERCEL, "worker"], cwd=home, env=environment)
    try:
        if not eventually(lambda: _left(service) < _JOBS, 30):
            raise RuntimeError("no worker began")
        started, before = time.monotonic(), _left(service)
        if not eventually(lambda: _left(service) == 0, 120):
            raise RuntimeError(f"{_left(service)} jobs were not done")
        return (time.monotonic() - started) * _JOBS / before
    finally:
        worker.terminate()
        worker.wait(30)


def _left(service: Tiercel) -> int:
    jobs = service.shared.jobs
    return len(jobs.list(state="waiting", limit=_JOBS)) + len(jobs.list(state="running", limit=_JOBS))


# --- claims -----------------------------------------------------------------------------------------------------------


def _long_queue(store: JobStore) -> Figure:
    """The first half of a queue is claimed as fast as the second."""
    for number in range(_WAITING):
        _insert(store, f"lock {number}", number)
    first_s, second_s = (_claim_all(store, _WAITING // 2) for _ in range(2))
    detail = f"{_WAITING} waiting, {_CLAIMING} claim and finish: {_WAITING / (first_s + second_s):.0f} jobs/s"
    return Figure("claims from a long queue", second_s / first_s, 0.5, "at least", "ratio", detail)


def _claim_all(store: JobStore, count: int) -> float:
    """Claim and finish so many jobs in several threads; return the seconds it took."""
    shares = [count // _CLAIMING + (number < count % _CLAIMING) for number in range(_CLAIMING)]

    def claim(worker: int, share: int) -> None:
        done = 0
        while done < share:
            found = store.claim(worker)
            if found is not None:
                store.finish(found, "succeeded")
                done += 1

    threads = [threading.Thread(target=claim, args=(number + 1, share)) for number, share in enumerate(shares)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - started


def _held_lock(store: JobStore) -> Figure:
    """A claim that passes over many jobs whose lock is held, to find the one behind them."""
    usual_ms = _claim_ms(store)
    _insert(store, "held", 0)
    store.claim(1)
    for number in range(_WAITING):
        _insert(store, "held", number)
    held_ms = _claim_ms(store)
    detail = f"{held_ms:.2f} ms behind {_WAITING} jobs of a held lock, {usual_ms:.2f} ms alone"
    return Figure("a claim behind a held lock", held_ms, 20, "at most", "ms", detail)


def _claim_ms(store: JobStore) -> float:
    times: list[float] = []
    for number in range(50):
        _insert(store, f"free {number}", number)
        started = time.perf_counter()
        found = store.claim(2)
        times.append((time.perf_counter() - started) * 1000)
        if found is None:
            raise RuntimeError("a job whose lock is free was not claimed")
        store.finish(found, "succeeded")
    return statistics.median(times)


# --- lists ------------------------------------------------------------------------------------------------------------


def _long_lists(service: Tiercel, conninfo: str, runs: int) -> Iterator[Figure]:
    """Pages of many runs of many accounts: newest first, in an order without an index, and a search in vain."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO tiercel.job_run (name, state, parameters, lock, finished_at, account)"
            " SELECT 'sample.' || number %% 20, 'succeeded', jsonb_build_object('text', repeat(md5(number::text), 8)),"
            " number, now(), number %% 1000 FROM generate_series(1, %s) AS number",
            [runs],
        )
        connection.execute("ANALYZE tiercel.job_run")
    jobs = service.shared.jobs
    asked: dict[str, Callable[[], object]] = {
        "newest first": lambda: jobs.page(100),
        "by another field": lambda: jobs.page(100, ordering="-finished_at"),
        "a search in vain": lambda: jobs.page(100, search="nowhere"),
    }
    for name, ask in asked.items():
        times_ms = []
        for _ in range(5):
            started = time.perf_counter()
            ask()
            times_ms.append((time.perf_counter() - started) * 1000)
        yield Figure(f"a page of {runs:,} jobs, {name}", statistics.median(times_ms), 250, "at most", "ms")


def _insert(store: JobStore, lock: str, number: int) -> None:
    with store.db.transaction() as connection:
        store.insert_waiting(connection, "sample.insert", lock, {"number": number}, None, Owner())
