"""Pages of a list, by number and by cursor."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from kernel.testing import Client
from tests.conftest import Serve
from tests.plugins.observability.engines import every_engine, every_server, one_engine
from tests.plugins.observability.events import ROOT, make_events, post_ingest

pytestmark = every_engine

COUNT = 7


@pytest.fixture(scope="module", autouse=True)
def stored(shared: Client) -> None:
    post_ingest(shared, make_events(COUNT))


def page(client: Client, query: str) -> dict[str, Any]:
    answer = client.get(f"{ROOT}?{query}")
    assert answer.status == 200, answer.content
    found: dict[str, Any] = answer.json()
    return found


def latencies(found: dict[str, Any]) -> list[int]:
    return [event["latency_ms"] for event in found["results"]]


def follow(client: Client, url: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(url.removeprefix("http://127.0.0.1")).json()
    return found


def test_a_page_has_count_links_and_results(shared: Client) -> None:
    assert set(page(shared, "")) == {"count", "next", "previous", "results"}


def test_numbered_pages_link_to_each_other(shared: Client) -> None:
    first = page(shared, "page_size=3&ordering=time")
    second = follow(shared, first["next"])
    third = follow(shared, second["next"])

    assert [latencies(found) for found in (first, second, third)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert (first["previous"], third["next"]) == (None, None)
    assert follow(shared, third["previous"]) == second
    assert follow(shared, second["previous"])["results"] == first["results"]


def test_links_are_absolute_and_keep_every_parameter(shared: Client) -> None:
    query = "service=billing&time_after=2020-01-01T00:00:00%2B00:00&search=a+b%26&ordering=-time&page_size=2"
    url = page(shared, query.replace("a+b%26", "billing+invoices"))["next"]

    assert url.startswith("http://127.0.0.1/api/requests/?")
    assert parse_qs(urlsplit(url).query) == {
        "service": ["billing"],
        "time_after": ["2020-01-01T00:00:00+00:00"],
        "search": ["billing invoices"],
        "ordering": ["-time"],
        "page_size": ["2"],
        "page": ["2"],
    }


def test_links_keep_the_root_of_the_request(shared: Client) -> None:
    found = shared.get("/api/v1/requests?page_size=1").json()

    assert urlsplit(found["next"]).path == "/api/v1/requests"


@pytest.mark.parametrize("query", ["page=3&page_size=5", "page=2147483647", "service=nobody&page=2"])
def test_a_page_beyond_the_last_is_not_found(shared: Client, query: str) -> None:
    answer = shared.get(f"{ROOT}?{query}")

    assert (answer.status, answer.json()["error"]) == (404, "Invalid page.")


def test_the_first_page_of_an_empty_list_is_empty(shared: Client) -> None:
    assert page(shared, "service=nobody") == {"count": 0, "next": None, "previous": None, "results": []}


def test_the_last_full_page_has_no_next(shared: Client) -> None:
    assert page(shared, f"page_size={COUNT}")["next"] is None


@every_server
def test_page_sizes_come_from_the_settings(serve: Serve) -> None:
    client = serve(http={"page_size": 2, "page_size_max": 3})
    post_ingest(client, make_events(4))

    assert len(page(client, "")["results"]) == 2
    assert len(page(client, "page_size=3")["results"]) == 3
    assert client.get(f"{ROOT}?page_size=4").status == 400


@pytest.mark.parametrize(("query", "count"), [("", COUNT), ("count=exact&latency_min=5", 2), ("count=none", None)])
def test_the_count_can_be_chosen(shared: Client, query: str, count: int | None) -> None:
    assert page(shared, query)["count"] == count


@every_server
def test_an_estimated_count_is_the_planners_and_changes_no_result(serve: Serve, database: str) -> None:
    client = serve()
    post_ingest(client, make_events(500))
    with psycopg.connect(database) as connection:
        connection.execute("ANALYZE observability.event")

    everything, some = (page(client, f"page_size=2&{query}&count=estimated") for query in ("", "latency_min=400"))

    assert 450 <= everything["count"] <= 550
    assert 50 <= some["count"] <= 150
    assert everything["results"] == page(client, "page_size=2")["results"]


@every_server
def test_an_estimate_reads_no_event(serve: Serve, database: str) -> None:
    client = serve()
    post_ingest(client, make_events(500))
    with psycopg.connect(database) as connection:
        connection.execute("ANALYZE observability.event")
        connection.execute("DELETE FROM observability.event")

    assert page(client, "page_size=2&count=estimated")["count"] > 0


@pytest.mark.parametrize("count", ["exact", "estimated", "none"])
def test_the_link_to_the_next_page_does_not_depend_on_the_count(shared: Client, count: str) -> None:
    assert page(shared, f"page_size=6&count={count}")["next"] is not None
    assert page(shared, f"page_size=7&count={count}")["next"] is None


def test_cursors_link_forward_and_back(shared: Client) -> None:
    first = page(shared, "cursor=&page_size=3&ordering=time")
    second = follow(shared, first["next"])
    third = follow(shared, second["next"])
    back = follow(shared, third["previous"])
    home = follow(shared, back["previous"])

    assert [latencies(found) for found in (first, second, third)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [latencies(found) for found in (back, home)] == [[3, 4, 5], [0, 1, 2]]
    assert (first["previous"], third["next"], home["previous"]) == (None, None, None)


@every_server
def test_a_cursor_is_not_shifted_by_new_events(serve: Serve) -> None:
    client = serve()
    post_ingest(client, make_events(4))
    first = page(client, "cursor=&page_size=2")

    post_ingest(client, [{**event, "time": "2026-01-01T00:00:00Z"} for event in make_events(3)])

    assert (latencies(first), latencies(follow(client, first["next"]))) == ([3, 2], [1, 0])


@every_server
def test_a_cursor_stays_valid_after_its_event_is_deleted(serve: Serve) -> None:
    client = serve()
    post_ingest(client, make_events(4))
    first = page(client, "cursor=&page_size=2")

    client.request("DELETE", f"{ROOT}{first['results'][-1]['id']}/")

    assert latencies(follow(client, first["next"])) == [1, 0]


def made_by_hand(ordering: str, values: object) -> str:
    return base64.urlsafe_b64encode(json.dumps([ordering, values, False]).encode()).decode().rstrip("=")


SOME_ID = "019b1cbb-5e00-7ccf-a012-cd546f9c0d88"


@one_engine
@pytest.mark.parametrize(
    ("ordering", "cursor"),
    [
        ("", "%25"),
        ("", "é"),
        ("", "A"),
        ("", made_by_hand("-time", [])),
        ("", made_by_hand("-time", ["2025-01-01T00:00:00Z", 5])),
        ("", made_by_hand("-time", [None, SOME_ID])),
        ("", made_by_hand("time", ["2025-01-01T00:00:00Z", SOME_ID])),
        ("service", made_by_hand("service", ["\x00", "2025-01-01T00:00:00Z", SOME_ID])),
        ("latency_ms", made_by_hand("latency_ms", ["9", "2025-01-01T00:00:00Z", SOME_ID])),
    ],
)
def test_an_invalid_cursor_is_rejected(shared: Client, ordering: str, cursor: str) -> None:
    answer = shared.get(f"{ROOT}?ordering={ordering}&cursor={cursor}")

    assert (answer.status, list(answer.json()["errors"])) == (400, ["cursor"])


@pytest.mark.parametrize(
    ("ordering", "values"),
    [
        ("latency_ms", [2**63 - 1, "2025-01-01T00:00:00Z", SOME_ID]),
        ("latency_ms", [-(2**70), "2025-01-01T00:00:00Z", SOME_ID]),
        ("-time", ["0001-01-01T00:00:00+14:00", SOME_ID]),
        ("-time", ["9999-12-31T23:59:59-14:00", SOME_ID]),
    ],
)
def test_a_cursor_out_of_range_is_no_failure(shared: Client, ordering: str, values: object) -> None:
    answer = shared.get(f"{ROOT}?ordering={ordering}&cursor={made_by_hand(ordering, values)}")

    assert answer.status in (200, 400)
