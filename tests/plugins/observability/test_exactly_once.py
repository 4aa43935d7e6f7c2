"""A batch that is sent again, whole or in part, is stored once."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.testing import Client, Result
from plugins.observability.event_ids import derive_suffix, make_event_id
from tests.conftest import Serve
from tests.plugins.observability.engines import every_engine, every_server
from tests.plugins.observability.events import (
    ROOT,
    UNSTORABLE_TAGS,
    create,
    listed,
    make_event,
    make_events,
    stored_count,
)

pytestmark = [every_engine, pytest.mark.slow]

KEY = {"Idempotency-Key": "batch-1"}


def send(client: Client, events: list[dict[str, Any]], key: str | None = "batch-1", query: str = "") -> dict[str, Any]:
    """Send a batch with a key; return the counts."""
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = client.post(f"{ROOT}ingest/{query}", events, headers=headers)
    assert answer.status == 200, answer.content
    body: dict[str, Any] = answer.json()
    return {name: body[name] for name in ("inserted", "duplicates", "rejected")}


def counts(inserted: int, duplicates: int = 0, rejected: int = 0) -> dict[str, int]:
    return {"inserted": inserted, "duplicates": duplicates, "rejected": rejected}


def test_a_whole_batch_sent_again_is_stored_once(serve: Serve) -> None:
    client = serve()
    events = make_events(5)

    assert send(client, events) == counts(5)
    assert send(client, events) == counts(0, duplicates=5)
    assert stored_count(client) == 5


def test_any_part_in_any_order_finds_the_stored_events(serve: Serve) -> None:
    client = serve()
    events = make_events(10)
    send(client, events[:7])
    shuffled = random.Random(1).sample(events, 10)

    assert send(client, shuffled) == counts(3, duplicates=7)
    assert send(client, events[8:]) == counts(0, duplicates=2)
    assert stored_count(client) == 10


def test_equal_events_of_one_batch_are_distinct(serve: Serve) -> None:
    client = serve()
    events = [make_event()] * 3

    assert send(client, events) == counts(3)
    assert send(client, events) == counts(0, duplicates=3)
    assert send(client, [make_event()] * 4) == counts(1, duplicates=3)


def test_under_another_key_the_same_events_are_distinct(serve: Serve) -> None:
    client = serve()

    assert send(client, make_events(2), "one") == counts(2)
    assert send(client, make_events(2), "two") == counts(2)
    assert send(client, make_events(2), None) == counts(2)


def test_a_key_may_be_quoted(serve: Serve) -> None:
    client = serve()
    send(client, make_events(2), "one")

    assert send(client, make_events(2), '"one"') == counts(0, duplicates=2)


def test_an_event_id_counts_across_batches_and_without_a_key(serve: Serve) -> None:
    client = serve()
    named = [make_event(event_id="a"), make_event(event_id="b")]

    assert send(client, named, None) == counts(2)
    assert send(client, [*named, make_event(event_id="c"), make_event()], None) == counts(2, duplicates=2)
    assert send(client, named, "some key") == counts(0, duplicates=2)


def test_an_event_id_twice_in_one_batch_is_stored_once(serve: Serve) -> None:
    client = serve()

    assert send(client, [make_event(event_id=" a "), make_event(event_id="a")], None) == counts(1, duplicates=1)


def test_bad_items_are_rejected_each_time(serve: Serve) -> None:
    client = serve()
    events = [*make_events(2), make_event(status_code=999)]

    assert send(client, events) == counts(2, rejected=1)
    assert send(client, events) == counts(0, duplicates=2, rejected=1)


def test_a_replay_does_not_undo_an_edit(serve: Serve) -> None:
    client = serve()
    send(client, make_events(2))
    moved, changed = listed(client)
    client.request("PATCH", f"{ROOT}{moved['id']}/", json={"time": "2024-01-01T00:00:00Z"})
    client.request("PATCH", f"{ROOT}{changed['id']}/", json={"service": "other"})

    assert send(client, make_events(2)) == counts(0, duplicates=2)
    assert {event["time"][:4] for event in listed(client)} == {"2024", "2025"}


def test_a_replay_may_have_another_batch_size(serve: Serve) -> None:
    client = serve()

    assert send(client, make_events(10), query="?batch_size=3") == counts(10)
    assert send(client, make_events(12), query="?batch_size=4") == counts(2, duplicates=10)


def test_a_strict_replay_is_accepted(serve: Serve) -> None:
    client = serve()
    send(client, make_events(2), query="?strict=true")

    assert send(client, make_events(2), query="?strict=true") == counts(0, duplicates=2)


def test_unstorable_tags_do_not_break_a_replay(serve: Serve) -> None:
    client = serve()
    bad = UNSTORABLE_TAGS.encode()
    body = (
        b"["
        + b",".join(
            [
                *(client_event(number) for number in range(3)),
                client_event(9).replace(b'{"env":"prod"}', bad),
            ]
        )
        + b"]"
    )

    first = client.post(f"{ROOT}ingest/", content=body, headers=KEY).json()
    again = client.post(f"{ROOT}ingest/", content=body, headers=KEY).json()

    assert (first["inserted"], first["duplicates"], first["rejected"]) == (3, 0, 1)
    assert (again["inserted"], again["duplicates"], again["rejected"]) == (0, 3, 1)


def client_event(number: int) -> bytes:
    """Encode an event without blanks."""
    return msgspec.json.encode(make_event(latency_ms=number))


def test_concurrent_replays_store_each_event_once(serve: Serve) -> None:
    client = serve()
    events = make_events(200)
    halves = [events, events[:100], events[100:], events[::-1]] * 3

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda part: send(client, part), halves))

    assert sum(answer["inserted"] for answer in answers) == 200
    assert all(sum(answer.values()) == len(part) for answer, part in zip(answers, halves, strict=True))
    assert stored_count(client) == 200


@pytest.mark.slow
@every_server
@given(data=st.data())
def test_whatever_is_replayed_each_event_is_stored_once(shared: Client, data: st.DataObject) -> None:
    key = f"property-{uuid4()}"
    events = [make_event(latency_ms=number, service=key[:100]) for number in range(12)]
    parts = data.draw(st.lists(st.lists(st.sampled_from(events), unique_by=lambda event: event["latency_ms"])))

    for part in parts:
        assert sum(send(shared, part, key).values()) == len(part)

    stored = sorted(event["latency_ms"] for event in listed(shared, f"service={key[:100]}"))
    assert stored == sorted({event["latency_ms"] for part in parts for event in part})


def test_a_single_event_posted_again_is_returned(serve: Serve) -> None:
    client = serve()

    def post(**fields: Any) -> Result:
        return client.post(ROOT, make_event(**fields), headers=KEY)

    first, again, other = post(), post(), post(latency_ms=7)

    assert [answer.status for answer in (first, again, other)] == [201, 200, 201]
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]


def test_a_moved_event_posted_again_is_returned_at_its_new_time(serve: Serve) -> None:
    client = serve()
    url = create(client, event_id="mine")
    client.request("PATCH", url, json={"time": "2024-01-01T00:00:00Z"})

    again = client.post(ROOT, make_event(event_id="mine"))

    assert (again.status, again.json()["time"]) == (200, "2024-01-01T00:00:00Z")
    assert stored_count(client) == 1


def test_an_event_id_in_an_edit_is_ignored(serve: Serve) -> None:
    client = serve()
    url = create(client)

    assert client.request("PATCH", url, json={"event_id": "new"}).status == 200
    assert client.request("PUT", url, json=make_event(event_id="new")).status == 200


def test_events_without_keys_get_distinct_ids(serve: Serve, database: str) -> None:
    client = serve()

    send(client, [make_event()] * 50, None)

    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(DISTINCT id) FROM observability.event").fetchone() == (50,)


@every_server
def test_an_event_id_is_one_of_its_service(serve: Serve) -> None:
    client = serve()
    events = [make_event(event_id="42", service=service) for service in ("shop", "billing")]

    assert send(client, events, None) == counts(2)
    assert send(client, events, None) == counts(0, duplicates=2)
    assert client.post(ROOT, events[1]).status == 200


@every_server
def test_events_stored_before_an_event_id_was_one_of_its_service_are_found_again(serve: Serve) -> None:
    client = serve()
    with client.service.shared.db.connection() as connection:
        connection.execute("UPDATE observability.event_id_services SET from_time = '2025-12-14 12:00Z'")
    times = ("2025-12-14T11:59:59.999Z", "2025-12-14T12:00:00Z")
    before, later = (UUID(client.post(ROOT, make_event(event_id="42", time=time)).json()["id"]) for time in times)

    time_ms = before.int >> 80
    assert before == make_event_id(time_ms, derive_suffix(b"event_id", b"0", b"42"))
    assert later == make_event_id(time_ms + 1, derive_suffix(b"event_id", b"0", b"billing", b"42"))
