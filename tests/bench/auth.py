"""What authentication, account, plan and throttle cost a route: the same route with and without them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping

import httpx

from tests.bench.figures import Figure, in_turn
from tests.bench.load import wrk
from tests.bench.service import Service, service
from tests.processes import ROOT, TIERCEL

# Pairs of measurements; what a throttle costs is as little as rounds differ by, so there are more of these.
ROUNDS = 9
THROTTLE_ROUNDS = 31
EMAIL, PASSWORD = "bench@example.com", "correct horse battery staple bench"
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
        yield _compare("throttle against none", 0.95, throttled, {}, free, rounds=THROTTLE_ROUNDS, seconds=1)
        key = {"X-API-Key": _create_key(required)}
        yield _compare("key, account, plan and throttle against mode open", 0.85, required, key, free)
        token = {"Authorization": f"Bearer {_sign_in(required)}"}
        yield _compare("access token, account, plan and throttle against mode open", 0.8, required, token, free)


def _compare(
    name: str,
    target: float,
    measured: Service,
    headers: Mapping[str, str],
    baseline: Service,
    *,
    rounds: int = ROUNDS,
    seconds: float = 2,
) -> Figure:
    wrk(measured.port, PATH, seconds=1, headers=headers)
    wrk(baseline.port, PATH, seconds=1)
    ratio, one, other = in_turn(
        lambda: wrk(measured.port, PATH, headers=headers, seconds=seconds),
        lambda: wrk(baseline.port, PATH, seconds=seconds),
        rounds,
    )
    return Figure(name, ratio, target, detail=f"{one:,.0f} requests/s, {other:,.0f} without")


def _create_key(running: Service) -> str:
    return _run(running, "keys", "create", "bench", "--scope", "read")


def _sign_in(running: Service) -> str:
    """Create a user; return an access token, which is good for longer than this takes."""
    _run(running, "create-admin", EMAIL, TIERCEL_PASSWORD=PASSWORD)
    url = f"http://127.0.0.1:{running.port}/api/v1/auth/sign-in/"
    answer = httpx.post(url, json={"email": EMAIL, "password": PASSWORD})
    return str(answer.raise_for_status().json()["data"]["access_token"])


def _run(running: Service, *arguments: str, **variables: str) -> str:
    environment = {**os.environ, "TIERCEL_DATABASE_URL": running.conninfo, "TIERCEL_PLUGINS": PLUGINS, **variables}
    command = [TIERCEL, "accounts", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment).stdout.strip()
