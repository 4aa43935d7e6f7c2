"""What metrics cost: requests to a service that measures, against the same with metrics off.

What is added to a request is measured in this process, where both take turns every few requests: it is less than what a
busy machine adds to either of two servers. It is compared with what a whole request costs a worker.
"""

from __future__ import annotations

import gc
import io
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from kernel.app import Tiercel
from kernel.testing import make_configuration, running
from tests.bench.datasets import PATH, publish, wait_for
from tests.bench.figures import Figure
from tests.bench.load import INGEST, bodies, wrk
from tests.bench.service import Service, service
from tests.bench.shop import ITEMS, make_items

PLUGINS = ("system", "observability", "tests.bench.small", "tests.bench.shop")
ITEMS_SERVED = 1_000
BATCH = 1_000
TURNS = 100
REQUESTS = 100
BATCHES = 5
SECONDS = 4
# Beyond that, measuring costs more than it tells.
TARGET = 1.03


def figures(full: bool) -> Iterator[Figure]:
    """Measure a typed route, a dataset's route, and ingest."""
    with running(_configuration(on=True)) as on, running(_configuration(on=False)) as off:
        for client in (on, off):
            client.service.shared.datasets.publish({ITEMS: make_items(ITEMS_SERVED)}, source="bench")
        in_turn = partial(_in_turn, on.service, off.service)
        added_s = {path: in_turn(_environ("GET", path, b""), b"", REQUESTS) for path in ("/small-logged", PATH)}
        body = bodies(1, BATCH)[0]
        with_s, without_s = in_turn(_environ("POST", INGEST, body), body, BATCHES)
    whole_s = _of_workers()
    for name, path in (("typed route", "/small-logged"), ("dataset route", PATH)):
        added = added_s[path][0] - added_s[path][1]
        detail = f"{added * 1e6:,.1f} µs of CPU added to {whole_s[path] * 1e6:,.0f}"
        yield Figure(
            f"{name}, CPU with metrics against without", 1 + added / whole_s[path], TARGET, "at most", detail=detail
        )
    detail = f"{with_s * 1e3:,.2f} ms of CPU for {BATCH:,} events, {without_s * 1e3:,.2f} without"
    yield Figure("ingest, CPU with metrics against without", with_s / without_s, TARGET, "at most", detail=detail)


def _of_workers() -> dict[str, float]:
    """Return the processor time that a request takes in a real server without metrics, by path."""
    settings = {"TIERCEL_METRICS__ENABLED": "false", "TIERCEL_OBSERVABILITY__LOG_OWN_REQUESTS": "false"}
    with service(TIERCEL_PLUGINS=",".join(PLUGINS), **settings) as running_service:
        publish(running_service, ITEMS_SERVED)
        wait_for(running_service, 1)
        return {path: _request_s(running_service, path) for path in ("/small-logged", PATH)}


def _request_s(running_service: Service, path: str) -> float:
    wrk(running_service.port, path, seconds=1)
    before_s = sum(sum(worker.cpu_times()[:2]) for worker in running_service.workers)
    rate = wrk(running_service.port, path, seconds=SECONDS)
    after_s = sum(sum(worker.cpu_times()[:2]) for worker in running_service.workers)
    return float(after_s - before_s) / (rate * SECONDS)


def _configuration(*, on: bool) -> Any:
    return make_configuration(
        plugins=list(PLUGINS),
        log={"level": "error", "requests": False},
        metrics={"enabled": on},
        observability={"log_own_requests": False},
    )


def _in_turn(on: Tiercel, off: Tiercel, environ: dict[str, Any], body: bytes, requests: int) -> tuple[float, float]:
    """Return seconds for one request of each; the lower quartile, since what others do on the machine only adds."""
    found: dict[bool, list[float]] = {True: [], False: []}
    gc.disable()
    for turn in range(TURNS):
        for is_on in (True, False) if turn % 2 else (False, True):
            found[is_on].append(_send(on if is_on else off, environ, body, requests) / requests)
        gc.collect(0)
    gc.enable()
    with_s, without_s = (statistics.quantiles(found[is_on])[0] for is_on in (True, False))
    return with_s, without_s


def _send(service: Tiercel, environ: dict[str, Any], body: bytes, requests: int) -> float:
    """Return the processor time of some requests, with the counting that follows once a second."""
    started = time.thread_time()
    for _ in range(requests):
        given = {**environ, "wsgi.input": io.BytesIO(body)}
        for _chunk in service(given, _start):
            pass
    service.shared.requests.flush()
    return time.thread_time() - started


def _start(status: str, headers: list[tuple[str, str]], *exc_info: object) -> Callable[[bytes], object]:
    if not status.startswith("200"):
        raise RuntimeError(status)
    return lambda _: None


def _environ(method: str, path: str, body: bytes) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SCRIPT_NAME": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "127.0.0.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.url_scheme": "http",
        "wsgi.errors": io.StringIO(),
    }
