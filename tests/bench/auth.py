"""What authentication, account, plan and throttle cost a route: the same route with and without them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping

from tests.bench.figures import Figure, in_turn
from tests.bench.load import wrk
from tests.bench.service import Service, service
from tests.processes import ROOT, TIERCEL

ROUNDS = 9
SMALL_PLUGIN = "tests.bench.small"
PATH = "/small"
PLUGINS = f"system,accounts,observability,{SMALL_PLUGIN}"
# Nothing is refused, and leases are as large as they are for a busy client.
RATES = json.dumps({"read": "1000000000/minute"})


def figures(full: bool) -> Iterator[Figure]:
    """Measure a route that returns a small dict."""
    common = {"TIERCEL_PLUGINS": PLUGINS, "TIERCEL_THROTTLE__RATES": RATES}
    with (
        service(**common) as free,
        service(**common, TIERCEL_THROTTLE__OPEN="true") as throttled,
        service(**common, TIERCEL_AUTH="required") as required,
    ):
        yield _compare("throttle against none", 0.95, throttled, {}, free)
        key = {"X-API-Key": _create_key(required)}
        yield _compare("key, account, plan and throttle against mode open", 0.85, required, key, free)


def _compare(name: str, target: float, measured: Service, headers: Mapping[str, str], baseline: Service) -> Figure:
    wrk(measured.port, PATH, seconds=1, headers=headers)
    wrk(baseline.port, PATH, seconds=1)
    ratio, one, other = in_turn(
        lambda: wrk(measured.port, PATH, headers=headers, seconds=2),
        lambda: wrk(baseline.port, PATH, seconds=2),
        ROUNDS,
    )
    return Figure(name, ratio, target, detail=f"{one:,.0f} requests/s, {other:,.0f} without")


def _create_key(running: Service) -> str:
    environment = {**os.environ, "TIERCEL_DATABASE_URL": running.conninfo, "TIERCEL_PLUGINS": PLUGINS}
    command = [TIERCEL, "accounts", "keys", "create", "bench", "--scope", "read"]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment).stdout.strip()
