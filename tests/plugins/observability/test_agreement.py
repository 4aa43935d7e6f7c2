"""The fast path and the slow path of ingest accept and reject the same events, and read the same values from them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from kernel.testing import Client
from plugins.observability.event_ids import unix_us
from plugins.observability.ingest.decode import decode_batch, decode_fields
from plugins.observability.ingest.normalize import normalize
from plugins.observability.ingest.validate import validate_event
from tests.plugins.observability.engines import TestedEngine, every_engine
from tests.plugins.observability.events import ROOT, make_event, post_bytes
from tests.plugins.observability.strategies import NOW, any_events, any_items, good_events

pytestmark = every_engine


def fast_path(content: bytes) -> dict[str, Any] | None:
    decoded = decode_batch(b"[" + content + b"]", 1, NOW)
    batch, invalid = normalize(decoded.indexes, decoded.events, NOW)
    assert len(batch.events) + len(decoded.errors) + len(invalid) == 1
    assert all(error.errors for error in [*decoded.errors, *invalid])
    if not batch.events:
        return None
    (event,) = batch.events
    return as_dict(event, batch.series_keys[0].texts, batch.times_us[0], bytes(event.tags))


def slow_path(content: bytes) -> dict[str, Any] | None:
    event, messages = validate_event(decode_fields(content), NOW)
    assert (event is None) == bool(messages)
    if event is None:
        return None
    return as_dict(event, (event.service, event.endpoint, event.method), unix_us(event.time), bytes(event.tags))


def as_dict(event: Any, key: tuple[str, str, str], time_us: int, tags: bytes) -> dict[str, Any]:
    return {
        "key": key,
        "time_us": time_us,
        "numbers": (event.status_code, event.latency_ms),
        "references": (event.trace_id, event.user_ref),
        "tags": json.loads(tags, parse_int=float),
    }


@pytest.mark.slow
@hypothesis.settings(max_examples=500)
@hypothesis.given(item=any_items)
def test_both_paths_accept_and_reject_the_same_items(item: Any) -> None:
    content = json.dumps(item).encode()

    assert fast_path(content) == slow_path(content)


@pytest.mark.slow
@hypothesis.settings(max_examples=300)
@hypothesis.given(event=any_events, field=st.sampled_from(sorted(make_event())), junk=st.binary(max_size=6))
def test_both_paths_accept_and_reject_the_same_bytes(event: dict[str, Any], field: str, junk: bytes) -> None:
    quoted = junk.replace(b"\\", b"").replace(b'"', b"")
    quoted = bytes(byte for byte in quoted if byte >= 0x20)
    text = json.dumps(event, ensure_ascii=False).encode("utf-8", "surrogatepass")
    content = text[:-1] + b',"' + field.encode() + b'":"' + quoted + b'"}'

    assert fast_path(content) == slow_path(content)


def test_every_item_is_either_stored_as_it_was_sent_or_rejected(engine: TestedEngine, shared: Client) -> None:
    @hypothesis.settings(max_examples=engine.examples(40))
    @hypothesis.given(items=st.lists(any_items | good_events, max_size=12))
    def check(items: list[Any]) -> None:
        content = json.dumps(items).encode()
        before = ids(shared)

        answer = post_bytes(shared, content, "?max_errors=100")

        assert answer.status == 200
        result = answer.json()
        rejected = [error["index"] for error in result["errors"]]
        assert (result["rejected"], result["inserted"]) == (len(rejected), len(items) - len(rejected))
        sent = [slow_path(json.dumps(item).encode()) for index, item in enumerate(items) if index not in rejected]
        found = [read_back(shared, event_id) for event_id in ids(shared) - before]
        assert all(event in found for event in sent)
        assert len(found) == len(sent)

    check()


def test_no_body_breaks_the_service(engine: TestedEngine, shared: Client) -> None:
    @hypothesis.settings(max_examples=engine.examples(40))
    @hypothesis.given(
        body=st.one_of(any_items, st.fixed_dictionaries({"events": any_items})).map(json.dumps) | st.text()
    )
    def check(body: str) -> None:
        content = body.encode("utf-8", "surrogatepass")

        answers = [
            post_bytes(shared, content),
            post_bytes(shared, content, "?strict=1"),
            shared.post(ROOT, content=content),
        ]

        assert all(answer.status in (200, 201, 400) for answer in answers)

    check()


def ids(client: Client) -> set[str]:
    """Return the ids of all events, page by page."""
    found: set[str] = set()
    url = f"{ROOT}?page_size=1000&cursor="
    while url:
        page = json.loads(client.get(url.removeprefix("http://127.0.0.1")).content)
        found |= {event["id"] for event in page["results"]}
        url = page["next"]
    return found


def read_back(client: Client, event_id: str) -> dict[str, Any]:
    # The server writes 1e16 as 10000000000000000: the same number, but not to Python.
    event = json.loads(client.get(f"{ROOT}{event_id}/").content, parse_int=float)
    return {
        "key": (event["service"], event["endpoint"], event["method"]),
        "time_us": unix_us(datetime.fromisoformat(event["time"])),
        "numbers": (event["status_code"], event["latency_ms"]),
        "references": (event["trace_id"], event["user_ref"]),
        "tags": event["tags"],
    }
