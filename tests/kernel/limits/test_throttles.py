"""Throttles: what is counted for whom, where, and what responses say of it."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from falcon.testing import simulate_request

from kernel.contracts import Route
from kernel.errors import BootError, NotFoundError, ThrottledError
from kernel.http import network_of
from kernel.http.routing import validate_route
from kernel.limits.rates import Rate
from kernel.limits.throttles import Throttles
from kernel.services import Services
from kernel.testing import Client, make_configuration
from tests.conftest import Serve
from tests.kernel.fakes import Boot, CapturedLog, KeyAuthenticator, MakePlugin, make_identity
from tests.outage import outage
from tests.processes import eventually, free_port

IDENTITIES = {
    "one": make_identity("read", "ingest", key=1, user=7),
    "two": make_identity("read", key=2),
    "ann": make_identity("read", user=7),
    "all": make_identity("read"),
}


class Clock:
    """Seconds since 1970, in the middle of a minute."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_030.0

    def __call__(self) -> float:
        return self.now_s


def fail(**_given: Any) -> None:
    """Find nothing."""
    raise NotFoundError


ROUTES = (
    Route(path="/read/", handler=lambda: "read", policy="read"),
    Route(path="/missing/", handler=fail, policy="read"),
    Route(path="/send/", handler=lambda: "sent", policy="ingest", method="POST"),
    Route(path="/own/", handler=lambda: "own", policy="read", throttle="own"),
    Route(path="/enter/", handler=lambda: "entered", policy="public", throttle="auth"),
    Route(path="/free/", handler=lambda: "free", policy="public"),
)


@pytest.fixture
def start(boot: Boot, make_plugin: MakePlugin) -> Callable[..., Client]:
    """Start a service with some rates: ``start(read="3/day")``."""

    def start(**rates: str) -> Client:
        def register_routes(services: Services) -> tuple[Route, ...]:
            services.authenticate_with(KeyAuthenticator(IDENTITIES))
            return ROUTES

        plugin = make_plugin("alpha", register_routes=register_routes)
        client = boot(plugin, auth="required", throttle={"backend": "memory", "rates": rates})
        client.service.shared.throttles.open()
        return client

    return start


def statuses(client: Client, path: str, count: int, key: str = "one", **more: Any) -> list[int]:
    return [client.request(path=path, headers={"X-Key": key}, **{"method": "GET", **more}).status for _ in range(count)]


def test_answers_tell_what_is_left(start: Callable[..., Client]) -> None:
    client = start(read="2/day")

    first = client.get("/read/", headers={"X-Key": "one"})
    error = client.get("/missing/", headers={"X-Key": "one"})
    refused = client.get("/read/", headers={"X-Key": "one"})

    assert [each.status for each in (first, error, refused)] == [200, 404, 429]
    for left, answer in ((1, first), (0, error), (0, refused)):
        reset_s = int(answer.headers["x-ratelimit-reset"])
        assert 0 < reset_s <= 86_400
        assert answer.headers["ratelimit-policy"] == '"read";q=2;w=86400'
        assert answer.headers["ratelimit"] == f'"read";r={left};t={reset_s}'
        assert answer.headers["x-ratelimit-limit"] == "2"
        assert answer.headers["x-ratelimit-remaining"] == str(left)
    assert "retry-after" not in first.headers
    assert refused.headers["retry-after"] == refused.headers["x-ratelimit-reset"]
    assert refused.json()["code"] == "throttled"


def test_scopes_and_callers_are_counted_by_themselves(start: Callable[..., Client]) -> None:
    client = start(read="1/day", own="2/day", auth="1/day")

    assert statuses(client, "/read/", 2) == [200, 429]
    assert statuses(client, "/read/", 2, "two") == [200, 429]
    assert statuses(client, "/read/", 2, "ann") == [200, 429]
    assert statuses(client, "/read/", 2, "all") == [200, 429]
    assert statuses(client, "/own/", 3) == [200, 200, 429]
    assert statuses(client, "/send/", 1, method="POST") == [200]
    # Nobody is authenticated: by address.
    assert statuses(client, "/enter/", 2) == [200, 429]
    assert "ratelimit" not in client.get("/free/").headers


def test_a_scope_of_a_plugin_has_the_rate_of_the_policy(start: Callable[..., Client]) -> None:
    answer = start(read="7/day").get("/own/", headers={"X-Key": "one"})

    assert answer.headers["ratelimit-policy"] == '"own";q=7;w=86400'


def test_a_scope_may_be_unlimited(start: Callable[..., Client]) -> None:
    assert "ratelimit" not in start(read="unlimited").get("/read/", headers={"X-Key": "one"}).headers


def test_mode_open_has_none_unless_it_is_told_to(boot: Boot, make_plugin: MakePlugin) -> None:
    plugin = make_plugin("alpha", register_routes=lambda services: ROUTES)
    throttle = {"backend": "memory", "rates": {"read": "1/day"}}
    free, limited = boot(plugin, throttle=throttle), boot(plugin, throttle={**throttle, "open": True})
    limited.service.shared.throttles.open()

    assert [free.get("/read/").status for _ in range(2)] == [200, 200]
    assert [limited.get("/read/").status for _ in range(2)] == [200, 429]


def test_a_rate_for_a_scope_that_no_route_has_is_logged(start: Callable[..., Client]) -> None:
    assert start(exprt="1/day", own="1/day").service.shared.throttles.unmatched({"own"}) == {"exprt"}


def test_a_wrong_name_of_a_scope_is_refused() -> None:
    with pytest.raises(ValueError, match="throttle 'Own'"):
        validate_route(Route(path="/x/", handler=lambda: None, policy="read", throttle="Own"))


def test_a_client_that_is_not_installed_stops_the_start(captured: CapturedLog, serve: Serve) -> None:
    settings = make_configuration(auth="required", throttle={"backend": "redis://x:not-a-port/0"}).settings

    with pytest.raises(BootError, match="redis cannot be used") as caught:
        Throttles(settings, serve().service.db, captured.log).open()

    assert "not-a-port" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.1", "203.0.113.1"),
        ("::ffff:203.0.113.1", "203.0.113.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:ffff:ffff:ffff", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unknown", ""),
    ],
)
def test_a_network_of_one_subscriber_counts_as_one_address(address: str, network: str) -> None:
    assert network_of(address) == network


def test_addresses_of_one_network_are_counted_together(start: Callable[..., Client]) -> None:
    client = start(auth="2/day")

    def enter(address: str) -> int:
        answer = simulate_request(client.service.wsgi_app, "GET", "/enter/", remote_addr=address)
        return int(answer.status_code)

    assert [enter(f"2001:db8::{number}") for number in range(1, 4)] == [200, 200, 429]
    assert enter("2001:db8:0:1::1") == 200
    assert [enter(address) for address in ("203.0.113.1", "::ffff:203.0.113.1", "203.0.113.1")] == [200, 200, 429]
    # The clients of a Unix socket have no address.
    assert [enter("") for _ in range(3)] == [200, 200, 429]


# --- in the database --------------------------------------------------------------------------------------------------


@pytest.fixture
def client(serve: Serve) -> Client:
    """A service in mode ``required``."""
    return serve(auth="required")


def workers(client: Client, count: int, clock: Clock, captured: CapturedLog, rate: str) -> list[Throttles]:
    """Make the throttles of several processes that share a database."""
    settings = make_configuration(auth="required", throttle={"rates": {"read": rate}}).settings
    made = [Throttles(settings, client.service.db, captured.log, clock) for _ in range(count)]
    for each in made:
        each.open()
    return made


def admitted(throttles: Throttles, count: int) -> int:
    passed = 0
    for _ in range(count):
        try:
            assert throttles.hit("read", "key 1") is not None
        except ThrottledError:
            continue
        passed += 1
    return passed


def is_back(throttles: Throttles) -> bool:
    throttles.try_again()
    return not throttles.statistics()["throttle_storage_away"]


def test_workers_together_never_exceed_a_limit(client: Client, captured: CapturedLog) -> None:
    clock = Clock()
    made = workers(client, 4, clock, captured, "1000/minute")

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: admitted(made[number % 4], 250), range(8)))

    # All of them are busy, so that next to nothing of what they have leased is left over.
    assert 950 <= sum(found) <= 1000
    leases = sum(each.statistics()["throttle_leases"] for each in made)
    assert leases < 400


def test_one_busy_worker_gets_all_of_it_with_few_round_trips(client: Client, captured: CapturedLog) -> None:
    (throttles,) = workers(client, 1, Clock(), captured, "1000/minute")

    assert admitted(throttles, 1100) == 1000
    assert throttles.statistics()["throttle_leases"] <= 75
    assert throttles.statistics()["throttle_refused"] == 100


def test_the_next_window_begins_anew(client: Client, captured: CapturedLog) -> None:
    clock = Clock()
    one, other = workers(client, 2, clock, captured, "3/minute")
    assert (admitted(one, 2), admitted(other, 2)) == (2, 1)
    clock.now_s += 29
    assert admitted(one, 1) == 0

    clock.now_s += 1

    state = other.hit("read", "key 1")
    assert state is not None
    assert (state.rate, state.remaining, state.reset_s) == (Rate(3, 60), 2, 60)


def test_what_has_ended_is_removed(client: Client, captured: CapturedLog, database: str) -> None:
    (throttles,) = workers(client, 1, Clock(), captured, "3/minute")
    admitted(throttles, 1)
    with psycopg.connect(database, autocommit=True) as connection:
        count = "SELECT count(*) FROM tiercel.throttle"
        throttles.remove_expired()
        assert connection.execute(count).fetchone() == (1,)
        connection.execute("UPDATE tiercel.throttle SET expires_at = now() - interval '1 second'")

        throttles.remove_expired()

        assert connection.execute(count).fetchone() == (0,)


def test_a_storage_that_is_away_limits_nobody(client: Client, captured: CapturedLog, database: str) -> None:
    (throttles,) = workers(client, 1, Clock(), captured, "1/minute")
    with outage(database):
        assert [throttles.hit("read", "key 1") for _ in range(20)] == [None] * 20
        with pytest.raises(BootError, match="away"):
            throttles.check()
        assert throttles.statistics()["throttle_storage_away"] == 1
        throttles.try_again()
    assert throttles.statistics()["throttle_passed_uncounted"] == 20
    # One line for all of it.
    assert len(captured.events("throttle_storage_unavailable")) == 1
    assert eventually(lambda: is_back(throttles))
    assert admitted(throttles, 3) == 1
    assert throttles.check() == "on"


# --- in Redis and Valkey ----------------------------------------------------------------------------------------------


class RedisServer(NamedTuple):
    """A server of Redis, whose protocol is Valkey's."""

    port: int
    process: subprocess.Popen[bytes]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        assert eventually(lambda: _accepts(port))
        yield RedisServer(port, process)
    finally:
        process.kill()
        process.wait()


def _accepts(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def connect(client: Client, captured: CapturedLog, url: str) -> Throttles:
    settings = make_configuration(auth="required", throttle={"backend": url, "rates": {"read": "100/minute"}}).settings
    throttles = Throttles(settings, client.service.db, captured.log, Clock())
    throttles.open()
    return throttles


@pytest.mark.process
def test_processes_share_a_limit_in_redis(client: Client, captured: CapturedLog, redis: RedisServer) -> None:
    url = f"redis://127.0.0.1:{redis.port}/0"
    one, other = connect(client, captured, url), connect(client, captured, url)
    valkey = connect(client, captured, url.replace("redis", "valkey"))

    assert admitted(one, 60) == 60
    # But for what the first one has leased and not used.
    assert 35 <= admitted(other, 60) <= 40
    # The keys of both clients are the same.
    assert admitted(valkey, 10) == 0


@pytest.mark.process
@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_a_frozen_server_holds_one_request(
    client: Client, captured: CapturedLog, redis: RedisServer, scheme: str
) -> None:
    throttles = connect(client, captured, f"{scheme}://127.0.0.1:{redis.port}/0")
    assert throttles.hit("read", "key 1") is not None

    redis.process.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    assert [throttles.hit("read", f"key {number}") for number in range(2, 1000)] == [None] * 998
    held_s = time.monotonic() - started
    throttles.try_again()
    with pytest.raises(BootError, match="away"):
        throttles.check()
    assert throttles.statistics()["throttle_storage_away"] == 1

    redis.process.send_signal(signal.SIGCONT)
    throttles.try_again()
    assert throttles.hit("read", "key 1") is not None
    # The timeout, once.
    assert 0.9 < held_s < 1.9
