"""Background threads: stopped with an event, woken on request, started again."""

from __future__ import annotations

import threading

from kernel.threads import BackgroundThread


def test_on_stop_wakes_a_thread_that_waits_for_something_else() -> None:
    wake = threading.Event()
    thread = BackgroundThread("waits", lambda stopping: _wait(wake), wake.set)
    thread.start()

    assert thread.is_alive
    assert thread.stop(10)
    assert not thread.is_alive


def test_stop_tells_whether_the_thread_has_ended() -> None:
    release = threading.Event()
    thread = BackgroundThread("busy", lambda stopping: _wait(release))
    thread.start()

    assert not thread.stop(0)
    release.set()
    assert thread.stop(10)


def test_a_thread_that_was_stopped_can_be_started_again() -> None:
    runs: list[bool] = []

    def run(stopping: threading.Event) -> None:
        runs.append(stopping.wait(60))

    thread = BackgroundThread("twice", run)
    for _ in range(2):
        thread.start()
        assert thread.stop(10)

    assert runs == [True, True]


def test_a_thread_that_was_never_started_can_be_stopped() -> None:
    assert BackgroundThread("never", lambda stopping: None).stop()


def _wait(event: threading.Event) -> None:
    event.wait(60)
