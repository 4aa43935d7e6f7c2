"""The live tail: every request that arrives is sent once, or said to be left out."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from urllib.parse import quote

import falcon.testing
import httpx
import msgspec
import psycopg
import pytest

from kernel.testing import Client
from plugins.observability import live
from plugins.observability.access import SYSTEM, Access
from plugins.observability.live import ArrivalReader, Cursor, LeftOut, LiveQuery
from plugins.observability.models import SelectionQuery
from tests.conftest import Serve
from tests.plugins.accounts.factories import accounts_of, create_account, create_key, with_key
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.conftest import QUIET
from tests.plugins.observability.engines import every_engine, one_engine
from tests.plugins.observability.events import ROOT, UNSTORABLE_TAGS, create, make_event, post_bytes, raw_event
from tests.processes import TLS, Service, serving

LIVE = "/api/requests/live/"
ALL = LiveQuery()


class Event(msgspec.Struct, frozen=True):
    """One event as it arrived."""

    id: str | None
    kind: str
    data: Any


def now(**fields: Any) -> dict[str, Any]:
    """Make an event of this moment."""
    return make_event(**{"time": datetime.now(UTC).isoformat(), **fields})


def parse(lines: Iterator[str]) -> Iterator[Event]:
    """Parse server-sent events."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        elif "event" in fields:
            yield Event(fields.get("id"), fields["event"], json.loads(fields["data"]))
            fields = {}
        else:
            fields = {}


def arrivals_of(client: Client) -> ArrivalReader:
    """Return what finds arrivals."""
    container = container_of(client)
    return ArrivalReader(container.db, container.store)


def found(
    reader: ArrivalReader, cursor: Cursor, query: SelectionQuery = ALL, access: Access = SYSTEM
) -> tuple[list[str], Cursor]:
    """Return the endpoints of what arrived since a cursor, and where to go on."""
    arrived = reader.since(cursor, query, access)
    assert list(arrived.left_out) == []
    return [event.endpoint for event in reader.events(arrived.keys, access)], arrived.cursor


@contextmanager
def tailing(client: Client, query: str = "", headers: dict[str, str] | None = None) -> Iterator[Iterator[Event]]:
    """Read a stream of a service in this process; the first event is the position."""
    environ = falcon.testing.create_environ(path=LIVE, query_string=query, headers=headers or {}, host="127.0.0.1")
    started: list[Any] = []
    parts = client.service(environ, lambda *given: started.extend(given[:2]))
    assert started[0].startswith("200"), (started, b"".join(parts))

    def lines() -> Iterator[str]:
        for part in parts:
            yield from part.decode().split("\n")[:-1]

    with closing(cast("Generator[bytes, None, None]", parts)):
        events = parse(lines())
        assert next(events).kind == "position"
        yield events


# --- what arrived -----------------------------------------------------------------------------------------------------


@every_engine
def test_what_is_stored_arrives_once_whatever_its_time(client: Client) -> None:
    reader = arrivals_of(client)
    create(client, endpoint="/before")
    start = reader.now()
    create(client, endpoint="/now", time=datetime.now(UTC).isoformat())
    client.post(f"{ROOT}ingest/", [make_event(endpoint=f"/{day}", time=f"2024-05-0{day}T00:00:00Z") for day in (1, 2)])

    endpoints, after = found(reader, Cursor.parse(start.text))

    assert endpoints == ["/1", "/2", "/now"]
    assert found(reader, after)[0] == []
    assert found(reader, start)[0] == endpoints


@one_engine
def test_what_is_committed_late_arrives_late(client: Client, database: str) -> None:
    reader = arrivals_of(client)
    late = json.dumps(make_event(endpoint="/late", event_id="late"))
    store = container_of(client).ingest.ingest_event
    with psycopg.connect(database) as blocking:
        # What is ingested waits for this, in the middle of its transaction.
        blocking.execute("LOCK TABLE observability.ingest_ledger IN SHARE MODE")
        create_late = threading.Thread(target=store, args=(late.encode(), "key"))
        create_late.start()
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        deadline = time.monotonic() + 10
        while blocking.execute(waiting).fetchone() != (1,) and time.monotonic() < deadline:
            time.sleep(0.02)
        before = reader.now()
        assert found(reader, before)[0] == []
    create_late.join()
    create(client, endpoint="/early")

    assert sorted(found(reader, before)[0]) == ["/early", "/late"]


@one_engine
def test_filters_are_those_of_the_list(client: Client) -> None:
    reader = arrivals_of(client)
    start = reader.now()
    for number in range(6):
        fields = {"service": ("a", "b")[number % 2], "status_code": (200, 500)[number % 3 == 0]}
        create(client, time=datetime.now(UTC).isoformat(), endpoint=f"/{number}", **fields)

    assert found(reader, start, LiveQuery(service="A"))[0] == ["/0", "/2", "/4"]
    assert found(reader, start, LiveQuery(status_code__in=(500,)))[0] == ["/0", "/3"]
    assert found(reader, start, LiveQuery(search="/4"))[0] == ["/4"]
    assert found(reader, start, LiveQuery(service="none"))[0] == []


@one_engine
def test_of_too_many_an_even_share_is_sent_and_the_rest_counted(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "EVENTS_PER_S_MAX", 100)
    reader = arrivals_of(client)
    start = reader.now()
    base = datetime.now(UTC)
    events = [now(time=(base + timedelta(milliseconds=number)).isoformat()) for number in range(1000)]
    assert client.post(f"{ROOT}ingest/", events).status == 200

    arrived = reader.since(start, ALL, SYSTEM)

    assert 100 <= len(arrived.keys) < 500
    assert list(arrived.left_out) == [LeftOut(1000 - len(arrived.keys), "rate")]
    offsets = [(at - base) / timedelta(milliseconds=1) for _, at in arrived.keys]
    gaps = {round(later - earlier) for earlier, later in itertools.pairwise(offsets)}
    assert max(gaps) - min(gaps) <= 1


@one_engine
def test_what_cannot_be_looked_at_is_counted(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = arrivals_of(client)
    start = reader.now()
    # The database refuses one of them, and the other is stored in a savepoint.
    post_bytes(client, b"[" + raw_event() + b"," + raw_event(tags=UNSTORABLE_TAGS) + b"]")
    assert list(reader.since(start, ALL, SYSTEM).left_out) == [LeftOut(1, "volume")]

    monkeypatch.setattr(live, "_SCAN_MAX", 10)
    client.post(f"{ROOT}ingest/", [now() for _ in range(50)])
    arrived = reader.since(start, ALL, SYSTEM)
    assert len(arrived.keys) + sum(each.count or 0 for each in arrived.left_out) == 51
    # How much others store is not for those who see some services only.
    limited = reader.since(start, ALL, Access(services=frozenset({"none"})))
    assert (list(limited.keys), list(limited.left_out)) == ([], [LeftOut(None, "volume")])

    monkeypatch.setattr(live, "_BATCHES_MAX", 1)
    assert list(reader.since(start, ALL, SYSTEM).left_out) == [LeftOut(None, "volume")]


@one_engine
def test_a_client_that_was_away_for_too_long_is_told(client: Client) -> None:
    reader = arrivals_of(client)
    for cursor in (
        reader.now()._replace(time_s=time.time() - live.RESUME_MAX_S - 5),
        reader.now()._replace(next_xid=2**62),
    ):
        create(client, endpoint="/missed")
        arrived = reader.since(cursor, ALL, SYSTEM)
        assert (list(arrived.keys), list(arrived.left_out)) == ([], [LeftOut(None, "gap")])
        assert found(reader, arrived.cursor)[0] == []


@one_engine
def test_entries_that_are_summed_up_do_not_arrive_again(client: Client) -> None:
    reader = arrivals_of(client)
    start = reader.now()
    create(client)
    with container_of(client).db.connection() as connection:
        connection.execute("UPDATE observability.ingest_ledger SET at = at - interval '30 days'")
    container_of(client).retention.apply()

    assert reader.since(start, ALL, SYSTEM).left_out == ()
    assert found(reader, start)[0] == []


@one_engine
def test_entries_of_another_server_that_a_dump_was_made_of_do_not_arrive(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = arrivals_of(client)
    create(client)
    with container_of(client).db.connection() as connection:
        connection.execute("UPDATE observability.ingest_ledger SET xid = '1000000000000'")
    start = reader.now()
    create(client, endpoint="/new")

    # Its events are not found by their transaction, and those of a large batch would be counted again and again.
    monkeypatch.setattr(live, "_BATCHES_MAX", 1)
    assert found(reader, start)[0] == ["/new"]


# --- who sees what, and for how long ----------------------------------------------------------------------------------


@one_engine
def test_a_key_sees_its_account_its_site_and_its_services(serve: Serve) -> None:
    client = serve(auth="required", **QUIET)
    mine, other = create_account(client), create_account(client)
    sender = create_key(client, "ingest", account=mine)
    keys = {
        "all": create_key(client, "read", account=mine),
        "one service": create_key(client, "read", account=mine, services=("web",)),
        "another account": create_key(client, "read", account=other),
    }
    start = arrivals_of(client).now().text
    for service in ("web", "api"):
        sent = client.request("POST", ROOT, json=now(service=service), headers=with_key(sender))
        assert sent.status == 201
    client.request("POST", ROOT, json=now(service="web"), headers=with_key(create_key(client, "ingest", account=other)))

    seen = {}
    for name, key in keys.items():
        with tailing(client, f"after={start}", with_key(key)) as events:
            read = []
            for event in events:
                if event.kind == "position":
                    break
                read.append(event.data["service"])
        seen[name] = read

    assert seen == {"all": ["web", "api"], "one service": ["web"], "another account": ["web"]}
    assert client.get(LIVE).status == 401
    assert client.get(LIVE, headers=with_key(sender)).status == 403


@one_engine
def test_a_stream_ends_when_its_key_is_revoked(serve: Serve) -> None:
    client = serve(auth="required", **QUIET)
    account = create_account(client)
    key = create_key(client, "read", account=account)
    with tailing(client, headers=with_key(key)) as events:
        accounts_of(client).keys.revoke(account, key.key.id)
        revoked_s = time.monotonic()
        sent = client.request("POST", ROOT, json=now(), headers=with_key(create_key(client, "ingest", account=account)))
        assert sent.status == 201

        assert all(time.monotonic() - revoked_s < 5 for _ in events)
        assert time.monotonic() - revoked_s < 5

    assert client.get(LIVE, headers=with_key(key)).status == 401


@one_engine
def test_one_account_does_not_hold_every_stream(serve: Serve) -> None:
    client = serve(auth="required", server={"threads": 8}, **QUIET)
    first, second = (with_key(create_key(client, "read", account=create_account(client))) for _ in range(2))
    with tailing(client, headers=first), tailing(client, headers=first):
        refused = client.get(LIVE, headers=first)
        # Streams of both kinds are counted together.
        with tailing(client, headers=second), tailing(client, headers=second):
            full = client.get(LIVE, headers=second)

    assert (refused.status, full.status) == (429, 503)
    assert all(int(each.headers["retry-after"]) > 0 for each in (refused, full))
    with tailing(client, headers=first):
        pass


@one_engine
@pytest.mark.parametrize(
    "query", ["after=abc", f"after=1.5_{2**63}_", "after=1.5_1_1,", "status_code=x", "nobody=1", "page=2", "search=%00"]
)
def test_wrong_parameters_are_refused(shared: Client, query: str) -> None:
    assert shared.get(f"{LIVE}?{query}").status == 400


# --- over sockets, from several processes -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two processes that serve and store."""
    environment = {
        "TIERCEL_DATABASE_URL": module_database,
        "TIERCEL_WORKERS": "2",
        "TIERCEL_OBSERVABILITY__LOG_OWN_REQUESTS": "false",
        "TIERCEL_LOG__REQUESTS": "false",
    }
    with serving(tmp_path_factory.mktemp("live") / ".tiercel", **environment) as started:
        yield started


@contextmanager
def following(service: Service, query: str = "", last: str | None = None) -> Iterator[Iterator[Event]]:
    """Read a stream over a socket."""
    headers = {} if last is None else {"Last-Event-ID": last}
    with httpx.stream("GET", f"{service.url}{LIVE}?{query}", headers=headers, timeout=20, verify=TLS) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["Content-Type"] == "text/event-stream"
        yield parse(response.iter_lines())


class Sender(threading.Thread):
    """Sends batches until it is stopped."""

    def __init__(self, service: Service, name: str, batch: int, batches: int) -> None:
        super().__init__()
        self._service, self._sender, self._batch, self._batches = service, name, batch, batches

    def run(self) -> None:
        with httpx.Client(verify=TLS, timeout=30) as client:
            for number in range(self._batches):
                events = [
                    now(service=self._sender, endpoint=f"/{number}/{at}", trace_id=None, user_ref=None)
                    for at in range(self._batch)
                ]
                answer = client.post(f"{self._service.url}{ROOT}ingest/", json=events)
                assert answer.status_code == 200, answer.text


def read_until(events: Iterator[Event], enough: Callable[[list[Event]], bool]) -> list[Event]:
    """Read events until there are enough of them."""
    read: list[Event] = []
    for event in events:
        read.append(event)
        if event.kind == "position" and enough(read):
            return read
    raise AssertionError(f"the stream ended after {len(read)} events")


def shown_of(read: list[Event]) -> list[str]:
    """Return the ids of the requests among events."""
    return [event.data["id"] for event in read if event.kind == "request"]


def left_out_of(read: list[Event]) -> int:
    """Return how many requests are said to be left out."""
    return sum(event.data["count"] for event in read if event.kind == "left-out")


@one_engine
@pytest.mark.process
def test_under_load_every_request_is_sent_or_counted(service: Service) -> None:
    senders = [Sender(service, "load", 500, 12) for _ in range(2)]
    total = sum(500 * 12 for _ in senders)
    with following(service, "service=load") as events:
        assert next(events).kind == "position"
        for sender in senders:
            sender.start()
        read = read_until(events, lambda read: len(shown_of(read)) + left_out_of(read) >= total)
    for sender in senders:
        sender.join()

    ids = shown_of(read)
    assert len(ids) == len(set(ids))
    assert len(ids) + left_out_of(read) == total
    assert {event.data["reason"] for event in read if event.kind == "left-out"} <= {"rate"}


@one_engine
@pytest.mark.process
def test_a_pause_leaves_no_gap(service: Service) -> None:
    # Slow enough that none is left out.
    sender = Sender(service, "pause", 10, 25)
    with following(service, "service=pause") as events:
        next(events)
        sender.start()
        first = read_until(events, lambda read: len(shown_of(read)) >= 30)
    last = [event.id for event in first if event.id is not None][-1]
    sender.join()

    with following(service, f"service=pause&after={quote(last)}") as events:
        second = read_until(events, lambda read: len(shown_of(read)) > 249 - len(shown_of(first)))

    ids = shown_of(first) + shown_of(second)
    assert len(ids) == len(set(ids)) == 250
    assert left_out_of(first + second) == 0


@one_engine
@pytest.mark.process
def test_a_client_that_does_not_read_costs_no_memory_and_gets_the_rest(service: Service) -> None:
    with following(service, "service=slow") as events:
        next(events)
        sizes = [sum(each.memory_info().rss for each in service.workers())]
        sender = Sender(service, "slow", 1000, 10)
        sender.start()
        sender.join()
        time.sleep(1)
        sizes.append(sum(each.memory_info().rss for each in service.workers()))
        read = read_until(events, lambda read: len(shown_of(read)) + left_out_of(read) >= 10_000)

    assert len(shown_of(read)) + left_out_of(read) == 10_000
    assert sizes[1] - sizes[0] < 50 * 1024 * 1024
