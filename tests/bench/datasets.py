"""A dataset's route against a bare route of Falcon with the same bytes; and a large snapshot in many applications."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import psutil

from kernel.testing import make_configuration, running
from tests.bench.figures import Figure, in_turn
from tests.bench.load import wrk
from tests.bench.service import WORKERS, Service, bare, service
from tests.bench.shop import ITEMS, make_items
from tests.processes import eventually

ROUNDS = 7
PLUGIN = "tests.bench.shop"
PATH = "/shop/public/app-0/items/"
ITEMS_SERVED = 1_000
MANY_APPLICATIONS = 1_000
LARGE_ITEMS = 100_000
LARGE_APPLICATIONS = 50


def figures(full: bool) -> Iterator[Figure]:
    """Measure requests with one application and with many, then a large snapshot."""
    for applications in (1, MANY_APPLICATIONS):
        yield from _requests(applications)
    yield from _large()


def _requests(applications: int) -> Iterator[Figure]:
    with_applications = f"with {applications} application{'s' if applications > 1 else ''}"
    with _shop(applications) as served, tempfile.TemporaryDirectory(prefix="tiercel-bench-") as folder:
        publish(served, ITEMS_SERVED)
        answer = wait_for(served, 1)
        content = Path(folder) / "content"
        content.write_bytes(answer.content)
        with bare("tests.bench.bare_bytes:app", BENCH_CONTENT=str(content)) as port:
            for name, target, headers in (
                (f"route over {ITEMS_SERVED} items, {with_applications}, against bare Falcon", 0.8, {}),
                (f"its 304, {with_applications}, against bare Falcon", 0.9, {"If-None-Match": answer.headers["etag"]}),
            ):
                wrk(served.port, PATH, seconds=1, headers=headers)
                wrk(port, "/bytes", seconds=1)
                ratio, ours, plain = in_turn(
                    partial(wrk, served.port, PATH, headers=headers),
                    partial(wrk, port, "/bytes"),
                    ROUNDS,
                )
                yield Figure(name, ratio, target, detail=f"{ours:,.0f} requests/s, {plain:,.0f} bare")


def _large() -> Iterator[Figure]:
    with _shop(LARGE_APPLICATIONS, workers=1) as served:
        worker = served.workers[0]
        before_mb = _rss_mb(worker)
        published_s = publish(served, LARGE_ITEMS)
        started = time.monotonic()
        for number in range(LARGE_APPLICATIONS):
            wait_for(served, 1, f"/shop/public/app-{number}/items/?page_size=1", 60)
        visible_s = time.monotonic() - started
        rss_mb = _rss_mb(worker)
    what = f"{LARGE_ITEMS:,} items"
    yield Figure(f"{what} published", published_s, 10, "at most", "s")
    detail = f"the process grows from {before_mb:.0f} to {rss_mb:.0f} MiB"
    yield Figure(f"{what} seen in {LARGE_APPLICATIONS} applications", visible_s, 10, "at most", "s", detail)


@contextmanager
def _shop(applications: int, workers: int = WORKERS) -> Iterator[Service]:
    given = {"TIERCEL_WORKERS": str(workers), "BENCH_APPLICATIONS": str(applications)}
    with service(TIERCEL_PLUGINS=f"system,{PLUGIN}", **given) as served:
        yield served


def publish(served: Service, count: int) -> float:
    """Publish items in another process than the service's; return the seconds that it took."""
    items = make_items(count)
    configuration = make_configuration(db={"url": served.conninfo}, plugins=["system", PLUGIN])
    with running(configuration) as client:
        started = time.monotonic()
        client.service.shared.datasets.publish({ITEMS: items}, source="bench")
        return time.monotonic() - started


def wait_for(served: Service, version: int, path: str = PATH, timeout_s: float = 15) -> httpx.Response:
    """Wait until a route shows a version; return its answer."""
    url = f"http://127.0.0.1:{served.port}{path}"

    def is_there() -> bool:
        answer = httpx.get(url, timeout=60, headers={"Accept-Encoding": "identity"})
        return str(answer.headers.get("x-data-version")) == str(version)

    if not eventually(is_there, timeout_s):
        raise RuntimeError(f"{path} does not show version {version}")
    return httpx.get(url, timeout=60, headers={"Accept-Encoding": "identity"})


def _rss_mb(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / (1 << 20)
