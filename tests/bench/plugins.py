"""A hundred plugins, against one: what each request and the boot pay for them."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

from tests.bench.figures import Figure, in_turn
from tests.bench.load import wrk
from tests.bench.routes import SMALL_PLUGIN
from tests.bench.service import service
from tests.processes import ROOT

PLUGINS = 100
ROUNDS = 7
BOOTS = 3
DOCUMENTS = 50
DOCUMENT_LIMIT_MS = 5.0
_SOURCE = '''"""One of many plugins."""

from kernel import HealthCheck, Route, hookimpl


def show() -> dict[str, object]:
    """Answer."""
    return {{"number": {number}}}


@hookimpl
def register_routes(services):
    return [Route(path="/many/{number}/", handler=show, policy="read")]


@hookimpl
def register_health_checks(services):
    return [HealthCheck(name="many-{number}", probe=lambda: "well", critical=False)]


@hookimpl
def startup(services):
    pass
'''


def figures(full: bool) -> Iterator[Figure]:
    """Measure a route with a hundred other plugins and with none, and both boots."""
    with tempfile.TemporaryDirectory(prefix="tiercel-bench-plugins-") as folder:
        one = {"TIERCEL_PLUGINS": f"system,{SMALL_PLUGIN}"}
        many = {
            "TIERCEL_PLUGINS": ",".join(["system", SMALL_PLUGIN, *_write(Path(folder))]),
            "PYTHONPATH": os.pathsep.join([str(ROOT), folder]),
        }
        with service(**many) as crowded, service(**one) as alone:
            for running in (crowded, alone):
                wrk(running.port, "/small", seconds=1)
            ratio, hundred, single = in_turn(
                lambda: wrk(crowded.port, "/small"), lambda: wrk(alone.port, "/small"), ROUNDS
            )
            detail = f"{hundred:,.0f} requests/s with {PLUGINS}, {single:,.0f} with one"
            yield Figure(f"route with {PLUGINS} plugins, against one", ratio, 0.97, detail=detail)
            yield _document(crowded.port)
        boots = [(_boot_s(many), _boot_s(one)) for _ in range(BOOTS)]
        hundred, single = (statistics.median(times) for times in zip(*boots, strict=True))
        detail = f"{hundred:.2f} s with {PLUGINS}, {single:.2f} s with one"
        yield Figure(f"boot with {PLUGINS} plugins, beyond one", hundred - single, 2.0, "at most", "s", detail)


def _document(port: int) -> Figure:
    """Measure how long the OpenAPI document takes once a process has made it."""
    client = HTTPConnection("127.0.0.1", port)
    times_ms: list[float] = []
    size = paths = 0
    for _ in range(DOCUMENTS):
        started = time.perf_counter()
        client.request("GET", "/api/schema/")
        content = client.getresponse().read()
        times_ms.append((time.perf_counter() - started) * 1000)
        size, paths = len(content), content.count(b'"/many/')
    client.close()
    if paths != PLUGINS - 1:
        raise RuntimeError(f"{paths} of {PLUGINS - 1} plugins are in the document")
    detail = f"{size:,} bytes; {max(times_ms):.0f} ms the first time"
    name = f"OpenAPI document of {PLUGINS} plugins, median"
    return Figure(name, statistics.median(times_ms), DOCUMENT_LIMIT_MS, "at most", "ms", detail)


def _write(folder: Path) -> list[str]:
    package = folder / "many"
    package.mkdir()
    (package / "__init__.py").touch()
    # The small plugin is the first.
    names = [f"number_{number}" for number in range(1, PLUGINS)]
    for number, name in enumerate(names):
        (package / f"{name}.py").write_text(_SOURCE.format(number=number), encoding="utf-8")
    return [f"many.{name}" for name in names]


def _boot_s(environment: dict[str, str]) -> float:
    with service(**environment) as running:
        return running.ready_s
