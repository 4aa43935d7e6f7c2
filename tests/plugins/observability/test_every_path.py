"""An event is read alike on every way into the table, and a time alike in queries too."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import hypothesis
import pytest
from hypothesis import strategies as st

from kernel.testing import Client
from tests.plugins.observability.accesslogs import run_import
from tests.plugins.observability.engines import TestedEngine, every_engine
from tests.plugins.observability.events import ROOT, create, make_event, post_bytes, raw_event, unique_service

pytestmark = [every_engine, pytest.mark.slow]

REFUSED = "refused"
LEDGER = "/api/v1/ingest/ledger/"
NDJSON = {"Content-Type": "application/x-ndjson"}
# An item that no decoder takes makes the service decode its batch item by item.
JUNK = b'"no event"'


def post_alone(client: Client, event: bytes) -> None:
    client.post(ROOT, content=event)


def post_list(client: Client, event: bytes) -> None:
    post_bytes(client, b"[" + event + b"]")


def post_wrapped(client: Client, event: bytes) -> None:
    post_bytes(client, b'{"events": [' + event + b"]}")


def post_list_item_by_item(client: Client, event: bytes) -> None:
    post_bytes(client, b"[" + event + b"," + JUNK + b"]")


def post_number_as_text(client: Client, event: bytes) -> None:
    post_bytes(client, b"[" + event.replace(b'"status_code":200', b'"status_code":"200"') + b"]")


def post_lines(client: Client, event: bytes) -> None:
    client.post(f"{ROOT}ingest/", content=event, headers=NDJSON)


def post_lines_line_by_line(client: Client, event: bytes) -> None:
    client.post(f"{ROOT}ingest/", content=event + b"\n" + JUNK, headers=NDJSON)


def import_line(client: Client, event: bytes) -> None:
    run_import(client, "--format", "json", "-", stdin=event)


def patch(client: Client, event: bytes) -> None:
    edit(client, "PATCH", event)


def put(client: Client, event: bytes) -> None:
    edit(client, "PUT", event)


def edit(client: Client, method: str, event: bytes) -> None:
    url = create(client, service=unique_service())
    if client.request(method, url, content=event).status != 200:
        client.request("DELETE", url)


WAYS: list[Callable[[Client, bytes], None]] = [
    post_alone,
    post_list,
    post_wrapped,
    post_list_item_by_item,
    post_number_as_text,
    post_lines,
    post_lines_line_by_line,
    import_line,
    patch,
    put,
]


def read_back(client: Client, way: Callable[[Client, bytes], None], field: str, text: str) -> Any:
    """Send an event with a field given as JSON text; return what is stored in the field."""
    service = unique_service()
    way(client, raw_event(**{field: text, "service": json.dumps(service)}))
    answer = client.get(f"{ROOT}?service={service}")
    events = json.loads(answer.content, parse_float=Decimal)["results"]
    return events[0][field] if events else REFUSED


digits = st.text("0123456789", max_size=9) | st.sampled_from(["9999999", "999999", "9999995", "0000005", "4999999"])
dates = st.sampled_from(
    ["2025-11-16", "1970-01-01", "1969-12-31", "2024-02-29", "20251116", "2025-W46-7", "2025-02-30"]
)
separators = st.sampled_from(["T", "t", " ", "_", "  "])
clocks = st.sampled_from(["23:59:59", "00:00:00", "23:59", "23", "24:00:00", "23:59:60", "235959", "12:00:"])
fractions = st.just("") | st.builds("{}{}".format, st.sampled_from([".", ","]), digits)
offsets = st.sampled_from(
    ["", "Z", "z", "+00:00", "-00:00", "+01:00", "-23:59", "+0530", "+02", " 02:00", "+24:00", "+1"]
)
time_texts = dates | st.builds("{}{}{}{}{}".format, dates, separators, clocks, fractions, offsets)
escaped = time_texts.map(lambda text: "".join(f"\\u{ord(each):04x}" for each in text)).map('"{}"'.format)
numbers = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-"]),
    st.integers(0, 10**25).map(str) | st.just("0"),
    st.just("") | st.text("0123456789", min_size=1, max_size=30).map(".{}".format),
    st.just("") | st.builds("{}{}".format, st.sampled_from(["e", "E+", "e-"]), st.integers(0, 420)),
)
values = st.one_of(
    st.tuples(st.just("time"), time_texts.map(json.dumps) | escaped | st.integers(0, 2**41).map(str)),
    st.tuples(st.just("latency_ms"), numbers | numbers.map(json.dumps) | st.sampled_from(["NaN", '"inf"'])),
    st.tuples(st.just("status_code"), numbers | st.integers(90, 610).map("{}.0".format)),
    st.tuples(st.just("method"), st.text("gGeEtT_ äß", max_size=6).map(json.dumps)),
    st.tuples(st.just("tags"), st.builds('{{"a": "1e999", "b": [{}, {}]}}'.format, numbers, numbers)),
    st.tuples(st.just("tags"), st.builds('{{"a\\\\u0000": {}, "b": -0.0{}1}}'.format, numbers, st.just("0" * 350))),
)


def test_a_value_is_stored_or_refused_alike_on_every_way(engine: TestedEngine, shared: Client) -> None:
    @hypothesis.settings(max_examples=engine.examples(60))
    @hypothesis.example(("time", '"2025-11-16T23:59:59.9999999Z"'))
    @hypothesis.example(("time", '"1969-12-31T23:59:59.9999999Z"'))
    @hypothesis.example(("time", '"2025-11-16T23:59:59\\u002e9999999Z"'))
    @hypothesis.example(("time", '"2025-11-16t23:59:59.25z"'))
    @hypothesis.example(("tags", '{"a": 1.00000000000000000000000000000000000001, "b": "\\\\u0000"}'))
    @hypothesis.example(("tags", '{"a": 1e131071}'))
    @hypothesis.example(("tags", '{"a": 0e-16383}'))
    @hypothesis.given(values)
    def check(value: tuple[str, str]) -> None:
        stored = {way.__name__: read_back(shared, way, *value) for way in WAYS}

        assert len({repr(each) for each in stored.values()}) == 1, stored
        totals = shared.get(f"{LEDGER}?start=2000-01-01").json()["data"]["totals"]
        assert totals["received"] == totals["stored"] + totals["duplicate"] + totals["rejected"]

    check()


def test_a_time_means_the_same_in_an_event_and_in_a_query(engine: TestedEngine, shared: Client) -> None:
    @hypothesis.settings(max_examples=engine.examples(40))
    @hypothesis.example("2025-11-16T23:59:59.9999999Z")
    @hypothesis.given(time_texts)
    def check(text: str) -> None:
        service = unique_service()
        stored = post_bytes(shared, b"[" + raw_event(time=json.dumps(text), service=json.dumps(service)) + b"]").json()
        for bounds in ("time_after={0}&time_before={0}", "start={0}&end={0}"):
            answer = shared.get(f"{ROOT}?service={service}&{bounds.format(quote(text))}")
            if stored["inserted"]:
                assert (answer.status, answer.json()["count"]) == (200, 1)
            elif answer.status != 200:
                assert stored["errors"][0]["errors"].keys() == {"time"}
            else:  # readable, and out of the range of events
                assert "wrong format" not in stored["errors"][0]["errors"]["time"][0]

    check()


def test_one_event_id_is_one_event_however_its_values_are_written(shared: Client) -> None:
    service = unique_service()
    event = make_event(service=service, time="2025-11-16T23:59:59.9999999Z", event_id=service, latency_ms=12.5)
    sent = [event, {**event, "status_code": "200"}, {**event, "latency_ms": "12.5"}, {**event, "method": "get"}]

    answers = [post_bytes(shared, json.dumps([each]).encode()).json() for each in sent]

    assert [(each["inserted"], each["duplicates"]) for each in answers] == [(1, 0), (0, 1), (0, 1), (0, 1)]
    (stored,) = shared.get(f"{ROOT}?service={service}").json()["results"]
    assert (stored["time"], stored["latency_ms"]) == ("2025-11-16T23:59:59.999999Z", 13)
