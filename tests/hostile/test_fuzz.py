"""Thousands of requests made at random: none fails the service, takes long, or leaves it worse than before.

``TIERCEL_TEST_FUZZ_REQUESTS`` sets how many, ``TIERCEL_TEST_FUZZ_SEED`` which; ``make soak`` sends 100,000.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import VARIABLES
from tests.hostile.fuzz import Fuzzer, known_routes
from tests.hostile.test_slow_clients import make_event
from tests.processes import ROOT, Service, copy_home, run_tiercel, serving

pytestmark = [pytest.mark.process, pytest.mark.slow]

REQUESTS = int(os.environ.get("TIERCEL_TEST_FUZZ_REQUESTS", "5000"))
SEED = int(os.environ.get("TIERCEL_TEST_FUZZ_SEED", "20261128"))
CONNECTIONS = 6
# Hardly any request takes a tenth of a second by itself; machines that run tests are busy.
TIME_LIMIT_S = 3.0
WORKER_MAX_BYTES = 1024**3


@pytest.fixture(scope="module")
def service(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    own = {"TIERCEL_DB__STATEMENT_TIMEOUT_S": "20", "TIERCEL_DB__POOL_TIMEOUT_S": "5"}
    with serving(copy_home(initialised, tmp_path_factory.mktemp("fuzz")), **{**VARIABLES, **own}) as started:
        imported = run_tiercel(started.home, "data", "import", str(ROOT / "contrib/demo"))
        assert imported.returncode == 0, imported.stderr
        yield started


def test_no_request_fails_the_service(service: Service) -> None:
    events = [make_event(service="shop") for _ in range(100)]
    assert service.post("/api/requests/ingest/", events).json()["inserted"] == 100
    workers = {worker.pid for worker in service.workers()}

    outcome = Fuzzer(known_routes(), service.port, SEED, TIME_LIMIT_S).run(REQUESTS, CONNECTIONS)

    print(
        f"seed {SEED}: {dict(sorted(outcome.statuses.items()))}, slowest {outcome.slowest_s:.1f} s: {outcome.slowest}"
    )
    print(f"503: {dict(outcome.unavailable)}")
    assert not outcome.findings, "\n\n".join(map(str, outcome.findings[:10]))
    # It is of no use if nothing gets through.
    assert outcome.statuses[200] > REQUESTS / 10
    assert outcome.statuses[503] < REQUESTS / 50
    assert "Traceback" not in service.errors
    assert {worker.pid for worker in service.workers()} == workers
    assert max(worker.memory_info().rss for worker in service.workers()) < WORKER_MAX_BYTES
    assert service.get("/readyz").status_code == 200
    # A random removal may have matched everything.
    assert service.post("/api/requests/ingest/", events).json()["inserted"] == 100
    assert service.get("/api/requests/?page_size=500", 30).json()["results"]
    assert service.get("/api/requests/export/", 60).text.rpartition("\n#")[2]
