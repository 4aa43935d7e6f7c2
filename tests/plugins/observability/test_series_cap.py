"""The number of series of an account is capped; events beyond the cap go to ``__other__`` and lose nothing."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from kernel import Cache, HealthCheck
from kernel.testing import Client
from plugins.observability.series import (
    METHODS_MAX,
    OTHER,
    ResolvedSeries,
    SeriesDictionary,
    SeriesKey,
    SeriesRemovedError,
)
from tests.conftest import Serve
from tests.plugins.observability.accesslogs import combined_line, import_text
from tests.plugins.observability.engines import every_server
from tests.plugins.observability.events import ROOT, create, listed, make_event, post_ingest

pytestmark = [every_server, pytest.mark.slow]

CAP = 3
OF_SERVICES_MAX = 100
OWN_MAX_OF_MANY = 40
KNOWN = [make_event(endpoint=f"/known/{at}") for at in range(CAP)]


@pytest.fixture
def client(serve: Serve) -> Client:
    """A service that may have three series, and has none."""
    # Six writers of one test share a pool: on a busy machine, 5 s may pass until each has a connection.
    return serve(db={"pool_timeout_s": 30}, observability={"series_max": CAP, "log_own_requests": False})


@pytest.fixture
def full(client: Client) -> Client:
    """A service that has its three series."""
    assert post_ingest(client, KNOWN).json()["capped"] == 0
    return client


def series(database: str) -> list[tuple[str, str, str]]:
    """Return the whole dictionary."""
    with psycopg.connect(database) as connection:
        return connection.execute("SELECT service, endpoint, method FROM observability.series").fetchall()


def own_count(database: str) -> int:
    """Count the series that are not of ``__other__``."""
    return sum(endpoint != OTHER for _, endpoint, _ in series(database))


def flood(count: int, **fields: str) -> list[dict[str, Any]]:
    """Make events that differ in one field or several: ``@`` in their values becomes a number."""
    return [make_event(**{name: text.replace("@", str(at)) for name, text in fields.items()}) for at in range(count)]


def test_events_beyond_the_cap_go_to_other_and_preserve_their_path(full: Client) -> None:
    answer = post_ingest(full, flood(5, endpoint="/new/@"))

    events = listed(full, f"endpoint={OTHER}")
    assert (answer.json()["inserted"], answer.json()["capped"]) == (5, 5)
    assert {(event["service"], event["method"]) for event in events} == {("billing", "GET")}
    assert {event["tags"]["path"] for event in events} == {f"/new/{at}" for at in range(5)}
    assert {event["tags"]["env"] for event in events} == {"prod"}


def test_a_batch_that_exceeds_the_cap_fills_it_exactly(client: Client, database: str) -> None:
    answer = post_ingest(client, [*flood(10, endpoint="/new/@"), *flood(10, endpoint="/new/@")])

    assert answer.json()["capped"] == 2 * (10 - CAP)
    assert own_count(database) == CAP


def test_existing_series_are_not_capped(full: Client) -> None:
    post_ingest(full, flood(5, endpoint="/new/@"))

    assert post_ingest(full, KNOWN).json()["capped"] == 0
    assert listed(full, f"endpoint={OTHER}&search=known") == []


def test_events_without_a_latency_need_no_room_beside_those_with_one(full: Client, database: str) -> None:
    post_ingest(full, flood(2, endpoint="/new/@"))

    known = post_ingest(full, [{**event, "latency_ms": None} for event in KNOWN])
    new = post_ingest(full, [make_event(endpoint="/new", latency_ms=None)])

    assert (known.json()["capped"], new.json()["capped"]) == (0, 1)
    assert len(set(series(database))) == CAP + 1


def test_series_with_and_without_a_latency_count_once(client: Client, database: str) -> None:
    events = flood(CAP + 2, endpoint="/new/@")

    answer = post_ingest(client, [event for each in events for event in (each, {**each, "latency_ms": None})])

    assert answer.json()["capped"] == 2 * 2
    assert len({text for text in series(database) if text[1] != OTHER}) == CAP


def test_a_process_that_starts_later_enforces_the_cap(full: Client, serve: Serve) -> None:
    later = serve(observability={"series_max": CAP, "log_own_requests": False})

    assert post_ingest(later, [*KNOWN, make_event(endpoint="/new")]).json()["capped"] == 1


def test_a_lowered_cap_admits_no_new_series_and_keeps_services_apart(full: Client, serve: Serve) -> None:
    lowered = serve(observability={"series_max": 1, "log_own_requests": False})

    assert post_ingest(lowered, [*KNOWN, make_event(endpoint="/new")]).json()["capped"] == 1
    assert [event["service"] for event in listed(lowered, f"endpoint={OTHER}")] == ["billing"]


def test_other_is_kept_apart_by_service_and_method(full: Client) -> None:
    post_ingest(full, [make_event(service="new"), make_event(endpoint="/new", method="POST")])

    found = {(event["service"], event["method"]) for event in listed(full, f"endpoint={OTHER}")}
    assert found == {("new", "GET"), ("billing", "POST")}


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"service": "s@"}, {"service", "path"}),
        ({"method": "M@"}, {"method", "service", "path"}),
        ({"service": "s@", "endpoint": OTHER}, {"service"}),
        ({"service": "s@", "method": "M@", "endpoint": "/@"}, {"service", "path", "method"}),
        ({"service": OTHER, "endpoint": OTHER, "method": "M@"}, {"method"}),
        ({"service": OTHER, "endpoint": "/@"}, {"path"}),
    ],
    ids=lambda value: ",".join(sorted(value)),
)
def test_a_flood_of_names_is_capped(full: Client, database: str, fields: dict[str, str], kept: set[str]) -> None:
    events = flood(OF_SERVICES_MAX * 3, **fields)

    answer = post_ingest(full, events)
    last = full.get(f"{ROOT}?service={OTHER}&endpoint={OTHER}&page_size=1000").json()["results"]

    assert answer.json()["inserted"] == len(events)
    assert own_count(database) == CAP
    assert len(series(database)) <= CAP + OF_SERVICES_MAX + METHODS_MAX + 1
    assert kept <= set().union(*(event["tags"] for event in last))


def test_series_of_endpoint_other_do_not_count_as_own_series(client: Client) -> None:
    post_ingest(client, flood(OF_SERVICES_MAX * 3, service="s@", endpoint=OTHER))

    assert post_ingest(client, KNOWN).json()["capped"] == 0


def test_the_original_texts_can_be_restored_from_the_tags(full: Client) -> None:
    events = flood(OF_SERVICES_MAX * 3, service="s@", endpoint="/@", method="M@")

    post_ingest(full, events)

    found = full.get(f"{ROOT}?endpoint={OTHER}&page_size=1000").json()["results"]
    assert {original(event) for event in found} == {
        (event["service"], event["endpoint"], event["method"]) for event in events
    }


def original(event: dict[str, Any]) -> tuple[str, str, str]:
    tags = event["tags"]
    return (
        tags.get("service", event["service"]),
        tags.get("path", event["endpoint"]),
        tags.get("method", event["method"]),
    )


def resolve(dictionary: SeriesDictionary, keys: Iterable[SeriesKey]) -> ResolvedSeries:
    """Resolve series as a writer does: again, if the dictionary is of another generation than it thought."""
    try:
        return dictionary.resolve(keys)
    except SeriesRemovedError as ex:
        dictionary.forget(ex.generation)
        return dictionary.resolve(keys)


def test_concurrent_processes_enforce_the_cap_exactly(full: Client, database: str) -> None:
    # Each dictionary is one process: it has its own cache, and its own idea of what is full.
    db = full.service.shared.db
    dictionaries = [SeriesDictionary(db, Cache(1000), OWN_MAX_OF_MANY) for _ in range(6)]

    def write(writer: int) -> Iterable[int]:
        for at in range(20):
            keys = [SeriesKey(f"w{writer}", f"/{at}/{part}", "GET") for part in range(3)]
            yield len(resolve(dictionaries[writer], keys).capped)

    with ThreadPoolExecutor(6) as pool:
        capped = sum(pool.map(lambda writer: sum(write(writer)), range(6)))

    assert own_count(database) == OWN_MAX_OF_MANY
    assert capped == 6 * 20 * 3 - (OWN_MAX_OF_MANY - CAP)


def test_known_series_and_a_full_dictionary_do_not_wait_for_the_lock(full: Client, database: str) -> None:
    post_ingest(full, flood(2, endpoint="/new/@"))
    with psycopg.connect(database) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtext('observability.series'), 0)")

        answer = post_ingest(full, [*KNOWN, *flood(5, endpoint="/newer/@")])

    assert (answer.status, answer.json()["capped"]) == (200, 5)


def test_a_single_event_obeys_the_cap(full: Client) -> None:
    event = full.get(create(full, endpoint="/new")).json()

    assert (event["endpoint"], event["tags"]) == (OTHER, {"env": "prod", "path": "/new"})


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_an_edit_obeys_the_cap(full: Client, method: str) -> None:
    url = create(full, endpoint="/known/1")

    answer = full.request(method, url, json=make_event(endpoint="/new"))

    assert (answer.status, answer.json()["endpoint"]) == (200, OTHER)
    assert answer.json()["tags"] == full.get(url).json()["tags"] == {"env": "prod", "path": "/new"}


def test_an_edit_of_another_field_keeps_the_capped_series(full: Client) -> None:
    url = create(full, endpoint="/new")

    answer = full.request("PATCH", url, json={"latency_ms": 7})

    assert (answer.json()["endpoint"], answer.json()["tags"]) == (OTHER, {"env": "prod", "path": "/new"})


def test_a_replay_of_capped_events_stores_nothing_twice(client: Client) -> None:
    events = flood(10, endpoint="/new/@")
    headers = {"Idempotency-Key": "k"}

    answers = [client.post(f"{ROOT}ingest/", events, headers=headers).json() for _ in range(2)]

    assert [(answer["inserted"], answer["duplicates"]) for answer in answers] == [(10, 0), (0, 10)]
    assert [answer["capped"] for answer in answers] == [10 - CAP] * 2


def test_rejected_events_do_not_count_as_capped(full: Client) -> None:
    # Valid JSON, and more digits than the server can hold.
    endless = msgspec.json.encode(make_event(endpoint="/new/1", tags={"a": "@"})).replace(b'"@"', b"1" * 200_000)
    good = msgspec.json.encode(make_event(endpoint="/new/2"))

    answer = full.post(f"{ROOT}ingest/", content=b"[" + endless + b"," + good + b"]").json()

    assert (answer["inserted"], answer["rejected"], answer["capped"]) == (1, 1, 1)


def test_a_stream_counts_capped_events(full: Client) -> None:
    lines = b"\n".join(map(msgspec.json.encode, [*KNOWN, *flood(7, endpoint="/new/@")]))
    headers = {"Content-Type": "application/x-ndjson"}

    answer = full.post(f"{ROOT}ingest/?batch_size=2", content=lines, headers=headers).json()

    assert (answer["inserted"], answer["capped"]) == (10, 7)


def test_the_ledger_counts_capped_events(full: Client) -> None:
    post_ingest(full, flood(7, endpoint="/new/@"))
    create(full, endpoint="/new")

    totals = full.get("/api/v1/ingest/ledger/").json()["data"]["totals"]

    assert (totals["stored"], totals["capped"]) == (CAP + 8, 8)


def test_the_figures_count_capped_events(full: Client) -> None:
    post_ingest(full, flood(7, endpoint="/new/@"))
    create(full, endpoint="/new")

    figures = full.get("/stats/").json()["application"]["figures"]

    assert figures["observability"]["events_capped"] == 8


def test_an_import_obeys_the_cap_and_reports_it(full: Client, tmp_path: Path) -> None:
    log = b"".join(combined_line(request=f"GET /users/{at}/{name} HTTP/1.1") + b"\n" for at, name in enumerate("abc"))

    imported = import_text(full, tmp_path, log, name="billing.log")

    assert (imported.counts, imported.summary["capped"]) == ((3, 0, 0), 3)
    # The path as it was, not its template.
    assert sorted(event["tags"]["path"] for event in listed(full, f"endpoint={OTHER}")) == [
        "/users/0/a",
        "/users/1/b",
        "/users/2/c",
    ]


def test_the_senders_beyond_the_cap_are_named(full: Client) -> None:
    (check,) = [each for _, each in full.service.registry.contributions(HealthCheck) if each.name == "series"]
    assert check.review is not None
    assert check.review() is None

    post_ingest(full, flood(5, endpoint="/new/@"))

    assert str(check.review()).endswith("by who sent most of them:\n  account 0, local: 5")
    assert b'"series"' not in full.get("/readyz?verbose").content


def test_own_requests_obey_the_cap(serve: Serve, database: str) -> None:
    client = serve(observability={"series_max": 1, "log_own_requests": True})
    post_ingest(client, [make_event()])

    client.service.shared.requests.flush()

    assert [event["endpoint"] for event in listed(client, "service=tiercel")][-1:] == [OTHER]
    assert own_count(database) == 1
