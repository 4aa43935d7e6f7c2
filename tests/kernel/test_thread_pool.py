"""The threads of a gunicorn worker: tasks that wait for their clients do not count."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from kernel.server.thread_pool import RequestThreadPool

ACTIVE_MAX = 2
TIMEOUT_S = 10


@pytest.fixture
def pool() -> Iterator[RequestThreadPool]:
    """A pool of two turns."""
    with RequestThreadPool(ACTIVE_MAX, 100) as started:
        yield started


def test_results_and_exceptions_come_through_futures(pool: RequestThreadPool) -> None:
    def fail() -> None:
        raise ValueError("told")

    assert pool.submit(divmod, 7, 2).result(TIMEOUT_S) == (3, 1)
    with pytest.raises(ValueError, match="told"):
        pool.submit(fail).result(TIMEOUT_S)
    assert pool.submit(lambda: 1).result(TIMEOUT_S) == 1


def test_no_more_tasks_run_at_a_time_than_there_are_turns(pool: RequestThreadPool) -> None:
    running, peak, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal running, peak
        for _ in range(3):
            with lock:
                running += 1
                peak = max(peak, running)
            time.sleep(0.001)
            with lock:
                running -= 1
            with pool.waiting():
                time.sleep(0.001)

    for task in [pool.submit(work) for _ in range(50)]:
        task.result(TIMEOUT_S)

    assert peak == ACTIVE_MAX


def test_a_task_that_waits_leaves_its_turn_to_another(pool: RequestThreadPool) -> None:
    client = threading.Event()

    def wait() -> bool:
        with pool.waiting():
            return client.wait(TIMEOUT_S)

    waiting = [pool.submit(wait) for _ in range(20)]

    assert pool.submit(lambda: "served").result(TIMEOUT_S) == "served"
    assert not any(task.done() for task in waiting)
    client.set()
    assert all(task.result(TIMEOUT_S) for task in waiting)


def test_tasks_whose_clients_are_ready_come_before_new_ones(pool: RequestThreadPool) -> None:
    client, busy, order = threading.Event(), threading.Event(), []

    def wait() -> None:
        with pool.waiting():
            client.wait(TIMEOUT_S)
        order.append("resumed")

    resumed = pool.submit(wait)
    occupying = [pool.submit(busy.wait, TIMEOUT_S) for _ in range(ACTIVE_MAX)]
    new = pool.submit(order.append, "new")
    client.set()
    time.sleep(0.1)
    busy.set()

    tasks: list[Future[Any]] = [resumed, new, *occupying]
    for task in tasks:
        task.result(TIMEOUT_S)
    assert order == ["resumed", "new"]


def count_threads() -> int:
    """Return how many threads serve requests, in this process: other threads come and go."""
    return sum(thread.name == "tiercel-request" for thread in threading.enumerate())


def test_threads_that_stood_in_for_waiting_ones_end(pool: RequestThreadPool) -> None:
    client = threading.Event()

    def wait() -> None:
        with pool.waiting():
            client.wait(TIMEOUT_S)

    before = count_threads()
    tasks = [pool.submit(wait) for _ in range(30)]
    deadline = time.monotonic() + TIMEOUT_S
    while count_threads() < before + 30:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    client.set()
    for task in tasks:
        task.result(TIMEOUT_S)

    while count_threads() > before + ACTIVE_MAX:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_many_short_tasks_that_wait_all_end(pool: RequestThreadPool) -> None:
    def work() -> None:
        for _ in range(5):
            with pool.waiting():
                pass

    for task in [pool.submit(work) for _ in range(2000)]:
        task.result(TIMEOUT_S)


def test_a_pool_that_is_shut_down_runs_what_is_queued_and_takes_nothing_new() -> None:
    pool = RequestThreadPool(1, 1)
    gate = threading.Event()
    tasks = [pool.submit(gate.wait, TIMEOUT_S), pool.submit(lambda: True)]
    pool.shutdown(wait=False)
    gate.set()

    assert all(task.result(TIMEOUT_S) for task in tasks)
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(print)
