"""Clients that send batches, and retry each until it is acknowledged, as the documentation recommends."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPException
from typing import Any

PATH = "/api/requests/ingest/"
RETRY_S = 0.2
TIMEOUT_S = 15.0
START = datetime(2026, 1, 5, tzinfo=UTC)


def make_batch(number: int, size: int) -> list[dict[str, Any]]:
    """Make a batch of events whose ``trace_id`` is the number of the batch and the position in it."""
    start = START + timedelta(seconds=number)
    return [
        {
            "time": (start + timedelta(milliseconds=at % 1000)).isoformat(),
            "service": f"service-{at % 7}",
            "endpoint": "/api/v1/orders",
            "method": "POST",
            "status_code": 200,
            "latency_ms": at,
            "trace_id": f"{number}-{at}",
        }
        for at in range(size)
    ]


class Senders:
    """Connections that send batches from a queue.

    Args:
        port: Of the service.
        size: Events per batch.
        retry: Whether to send a batch again, with its ``Idempotency-Key``, until it is acknowledged.
        keep_alive: Whether to reuse connections.
    """

    def __init__(self, port: int, size: int, *, retry: bool = True, keep_alive: bool = True) -> None:
        self._port = port
        self._size = size
        self._retry = retry
        self._keep_alive = keep_alive
        self._work: queue.Queue[int | None] = queue.Queue()
        self.cuts = threading.Semaphore(0)
        self.acknowledged: set[int] = set()
        self.tried: set[int] = set()
        self.unexpected: list[str] = []
        self.dropped: list[str] = []
        self.replays = 0
        self.slowest_s = 0.0

    def put(self, numbers: range) -> None:
        """Queue batches by their numbers."""
        for number in numbers:
            self._work.put(number)

    @contextmanager
    def running(self, connections: int) -> Iterator[None]:
        """Send until the block ends, and then what is left in the queue."""
        threads = [threading.Thread(target=self._run, daemon=True) for _ in range(connections)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for _ in threads:
                self._work.put(None)
            for thread in threads:
                thread.join(60)

    def _run(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        while (number := self._work.get()) is not None:
            body = json.dumps(make_batch(number, self._size)).encode()
            self.tried.add(number)
            while not self._send(connection, number, body) and self._retry:
                self.replays += 1
        connection.close()

    def _send(self, connection: HTTPConnection, number: int, body: bytes) -> bool:
        headers = {"Content-Type": "application/json"}
        if self._retry:
            headers["Idempotency-Key"] = f"batch-{number}"
        started = time.monotonic()
        try:
            connection.request("POST", PATH, body, headers)
            if self.cuts.acquire(blocking=False):
                raise ConnectionAbortedError("cut before the answer was read")
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, HTTPException) as ex:
            connection.close()
            if not isinstance(ex, ConnectionRefusedError):
                self.dropped.append(f"{number}: {ex!r}")
            time.sleep(RETRY_S if self._retry else 0)
            return False
        finally:
            self.slowest_s = max(self.slowest_s, time.monotonic() - started)
            if not self._keep_alive:
                connection.close()
        if answer.status == 200:
            self._check(json.loads(text))
            self.acknowledged.add(number)
            return True
        retry_after = answer.headers["Retry-After"]
        if answer.status != 503 or retry_after is None:
            self.unexpected.append(f"{answer.status} {text[:300].decode(errors='replace')}")
        time.sleep(float(retry_after or RETRY_S))
        return False

    def _check(self, result: dict[str, Any]) -> None:
        if result["inserted"] + result.get("duplicates", 0) != self._size or result["rejected"]:
            self.unexpected.append(str(result))
