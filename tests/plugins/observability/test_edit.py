"""Edits of a request log: of any field, of the time that decides where it is stored, and concurrent ones."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from kernel.testing import Client, Result
from tests.conftest import Serve
from tests.locks import waits_for_lock
from tests.plugins.observability.engines import every_engine, partitioned_server
from tests.plugins.observability.events import UNSTORABLE_TAGS, create, listed
from tests.processes import eventually

pytestmark = every_engine

Edit = Callable[[], Result]


def patch(client: Client, url: str, **changes: Any) -> Result:
    return client.request("PATCH", url, json=changes)


def at_once(*edits: Edit) -> list[Result]:
    """Call all edits at the same moment, each in a thread."""
    barrier = threading.Barrier(len(edits))

    def call(edit: Edit) -> Result:
        barrier.wait()
        return edit()

    with ThreadPoolExecutor(len(edits)) as pool:
        return list(pool.map(call, edits))


@pytest.mark.parametrize(
    "changes",
    [
        {"service": "payments"},
        {"endpoint": "/new", "method": "POST"},
        {"status_code": 503, "latency_ms": 9},
        {"latency_ms": None},
        {"latency_ms": None, "time": "2025-12-16T00:00:00Z"},
        {"trace_id": None, "user_ref": "somebody"},
        {"tags": {"env": "test", "n": [1, 2]}},
        {"time": "2025-12-14T12:00:00.001000Z"},
        {"time": "2025-12-14T12:00:00.000001Z"},
        {"time": "2025-12-15T00:00:00Z"},
        {"time": "2003-02-28T23:59:59.999999Z", "service": "old"},
        {},
    ],
    ids=str,
)
def test_a_patch_changes_only_the_given_fields(shared: Client, changes: dict[str, Any]) -> None:
    url = create(shared)
    before = shared.get(url).json()

    answer = patch(shared, url, **changes)

    assert (answer.status, answer.json()) == (200, {**before, **changes})
    assert shared.get(url).json() == answer.json()


def test_a_moved_event_is_listed_once_and_at_its_new_time(shared: Client) -> None:
    url = create(shared, service="mover", time="2025-05-01T00:00:00Z")

    patch(shared, url, time="2001-05-01T00:00:00Z")

    assert [event["time"] for event in listed(shared, "service=mover")] == ["2001-05-01T00:00:00Z"]
    assert listed(shared, "service=mover&time_after=2025-01-01") == []


@pytest.mark.parametrize("times", [["2001-01-01T00:00:00Z"], ["2025-12-14T12:00:00.002000Z", "2024-02-29T00:00:00Z"]])
def test_an_event_can_be_moved_and_moved_back(shared: Client, times: list[str]) -> None:
    url = create(shared)
    before = shared.get(url).json()

    answers = [patch(shared, url, time=time) for time in [*times, before["time"]]]

    assert [answer.status for answer in answers] == [200] * len(answers)
    assert shared.get(url).json() == before


def test_a_put_can_move_an_event(shared: Client) -> None:
    url = create(shared)
    moved = {**shared.get(url).json(), "time": "2012-12-12T12:12:12Z"}

    shared.request("PUT", url, json=moved)

    assert shared.get(url).json() == moved


def test_an_event_that_was_read_can_be_put_back(shared: Client) -> None:
    url = create(shared, latency_ms=None)
    stored = shared.get(url).json()

    answer = shared.request("PUT", url, json=stored)

    assert (answer.status, answer.json()) == (200, stored)
    assert stored["latency_ms"] is None


@pytest.mark.parametrize("time", ["2001-01-01T00:00:00Z", "2025-12-14T12:00:00.001Z"])
def test_a_moved_event_can_be_deleted(shared: Client, time: str) -> None:
    url = create(shared, service="doomed")
    patch(shared, url, time=time)

    assert shared.request("DELETE", url).status == 204
    assert shared.get(url).status == 404
    assert listed(shared, "service=doomed") == []


def test_a_wrong_patch_changes_nothing(shared: Client) -> None:
    url = create(shared)
    before = shared.get(url).json()

    answer = patch(shared, url, status_code=700, latency_ms=1)

    assert (answer.status, set(answer.json()["errors"])) == (400, {"status_code"})
    assert shared.get(url).json() == before


def test_tags_that_the_server_cannot_store_leave_the_event_as_it_was(shared: Client) -> None:
    url = create(shared)
    before = shared.get(url).json()

    content = f'{{"tags": {UNSTORABLE_TAGS}, "time": "2001-01-01T00:00:00Z"}}'.encode()
    answer = shared.request("PATCH", url, content=content)

    assert (answer.status, set(answer.json()["errors"])) == (400, {"tags"})
    assert shared.get(url).json() == before


def test_concurrent_patches_of_different_fields_are_all_applied(shared: Client) -> None:
    url = create(shared)
    changes: dict[str, Any] = {
        "service": "s2",
        "latency_ms": 777,
        "user_ref": "u2",
        "time": "2011-01-01T00:00:00Z",
    }

    answers = at_once(*(lambda n=name, v=value: patch(shared, url, **{n: v}) for name, value in changes.items()))

    assert [answer.status for answer in answers] == [200] * len(changes)
    now = shared.get(url).json()
    assert {name: now[name] for name in changes} == changes


def test_concurrent_patches_of_one_field_leave_one_event_with_one_of_the_values(shared: Client) -> None:
    url = create(shared, service="contested")
    times = [f"20{year}-06-01T00:00:00Z" for year in (10, 11, 12, 13)]

    at_once(*(lambda t=time: patch(shared, url, time=t) for time in times))

    (event,) = listed(shared, "service=contested")
    assert event["time"] in times
    assert shared.get(url).json() == event


@partitioned_server
def test_an_event_that_is_moved_during_the_lookup_is_found(serve: Serve, database: str) -> None:
    client = serve()
    create(client, time="2016-02-03T00:00:00Z")
    url = create(client, service="mover")
    patch(client, url, time="2015-02-03T00:00:00Z")

    with ThreadPoolExecutor(1) as pool, psycopg.connect(database) as mover:
        mover.execute("LOCK TABLE observability.event_2015")
        looking = pool.submit(client.get, url)
        assert eventually(lambda: waits_for_lock(database))
        mover.execute("UPDATE observability.event SET time = '2016-02-03' WHERE time = '2015-02-03'")
        mover.execute("UPDATE observability.event_moved SET time = '2016-02-03'")
        mover.commit()

    assert (looking.result().status, looking.result().json()["time"]) == (200, "2016-02-03T00:00:00Z")


def test_an_event_that_is_moved_back_and_forth_is_always_found(shared: Client) -> None:
    url = create(shared)
    done = threading.Event()

    def move() -> set[int]:
        try:
            return {
                patch(shared, url, time=time).status for time in ("2001-01-01T00:00:00Z", "2025-12-14T12:00:00Z") * 15
            }
        finally:
            done.set()

    def look() -> set[int]:
        found = set()
        while not done.is_set():
            found.add(shared.get(url).status)
        return found

    with ThreadPoolExecutor(2) as pool:
        moving, looking = pool.submit(move), pool.submit(look)

    assert (moving.result(), looking.result()) == ({200}, {200})


def test_exactly_one_of_several_concurrent_deletes_succeeds(shared: Client) -> None:
    url = create(shared)

    answers = at_once(*[lambda: shared.request("DELETE", url)] * 4)

    assert sorted(answer.status for answer in answers) == [204, 404, 404, 404]
