"""The threads of a gunicorn worker: a request that waits for its client does not occupy one of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_Task = tuple[Future[Any], Callable[[], Any]]


class PoolLoad(NamedTuple):
    """How busy the threads are.

    Args:
        active: Tasks that run.
        waiting: Tasks that wait for a thread, or for their turn.
        active_max: The most tasks that run at the same time.
    """

    active: int
    waiting: int
    active_max: int


class RequestThreadPool(Executor):
    """Runs at most ``active_max`` tasks at a time, not counting those that wait for a client.

    A task that is about to wait for its client says so with ``waiting()``: another task runs meanwhile, in a further
    thread if none is idle. Threads that wait cost little memory and no time, so that slow clients delay nobody.

    Args:
        active_max: Tasks that run at the same time.
        threads_max: Threads, including those that wait for clients.
    """

    def __init__(self, active_max: int, threads_max: int) -> None:
        self._active_max = active_max
        self._threads_max = max(active_max, threads_max)
        self._lock = threading.Lock()
        self._has_task = threading.Condition(self._lock)
        self._has_room = threading.Condition(self._lock)
        self._tasks: deque[_Task] = deque()
        self._threads = 0
        self._idle = 0
        self._active = 0
        # Tasks whose client is ready again, and which wait for their turn.
        self._resuming = 0
        self._stopped = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call; it runs when fewer than ``active_max`` others do.

        Raises:
            RuntimeError: The pool is shut down.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._stopped:
                raise RuntimeError("the thread pool is shut down")
            self._tasks.append((future, lambda: fn(*args, **kwargs)))
            self._start_next()
        return future

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let another task run while the block waits for a client. Leaving the block waits for a turn."""
        with self._lock:
            self._active -= 1
            self._start_next()
        try:
            yield
        finally:
            with self._lock:
                self._resuming += 1
                while self._active >= self._active_max:
                    self._has_room.wait()
                self._resuming -= 1
                self._active += 1
                self._start_next()

    def load(self) -> PoolLoad:
        """Return how many tasks run, wait for a thread, and may run."""
        with self._lock:
            return PoolLoad(self._active, len(self._tasks) + self._resuming, self._active_max)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002, ARG002 - as in Executor
        """Let idle threads end, and others after the queued tasks. Does not wait for them: they are daemons."""
        with self._lock:
            self._stopped = True
            if cancel_futures:
                for future, _ in self._tasks:
                    future.cancel()
                self._tasks.clear()
            self._idle = 0
            self._has_task.notify_all()

    def _start_next(self) -> None:
        """Wake or start a thread for the next task if it may run. The lock is held."""
        if self._resuming:
            self._has_room.notify()
        elif self._tasks and self._active < self._active_max:
            if self._idle:
                self._idle -= 1
                self._has_task.notify()
            elif self._threads < self._threads_max:
                self._threads += 1
                threading.Thread(target=self._run, name="tiercel-request", daemon=True).start()

    def _run(self) -> None:
        while (task := self._next_task()) is not None:
            future, call = task
            try:
                if future.set_running_or_notify_cancel():
                    try:
                        result = call()
                    except BaseException as ex:
                        future.set_exception(ex)
                    else:
                        future.set_result(result)
            finally:
                # Kept until the next task, they would keep the request alive with everything that it refers to.
                del task, future, call
                with self._lock:
                    self._active -= 1
                    if self._resuming:
                        self._has_room.notify()

    def _next_task(self) -> _Task | None:
        """Wait for a task that may run; None if this thread is not needed any more."""
        with self._lock:
            while not self._tasks or self._active >= self._active_max or self._resuming:
                # Threads that were started in place of waiting ones end when those are back.
                if (self._stopped and not self._tasks) or self._idle >= self._active_max:
                    self._threads -= 1
                    return None
                # Whoever wakes this thread counts it as not idle any more.
                self._idle += 1
                self._has_task.wait()
            self._active += 1
            return self._tasks.popleft()
