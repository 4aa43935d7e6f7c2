"""Batches of request logs: shapes, parameters, limits, and invalid items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from kernel.testing import Client
from tests.conftest import Serve
from tests.plugins.observability.engines import every_engine, every_server, one_engine
from tests.plugins.observability.events import (
    ROOT,
    UNSTORABLE_TAGS,
    listed,
    make_event,
    make_events,
    post_bytes,
    post_ingest,
    raw_event,
    stored_count,
    unique_service,
)
from tests.processes import TLS, serving

pytestmark = every_engine

BAD_STATUS = "status_code must be a valid HTTP status (100..599)."
BAD = make_event(status_code=99)
URL = "/api/requests/ingest/"
# Each has a different fault. "malformed" is not among them, because then the ends of the items are unknown.
BAD_ITEMS = {
    "wrong value": raw_event(status_code="99"),
    "missing field": b"{}",
    "no object": b"17",
    "null": b"null",
    "blank text": raw_event(service='" "'),
    "old time": raw_event(time='"1969-01-01"'),
    "tags no object": raw_event(tags="[]"),
    "null character": raw_event(tags='{"a": "\\u0000"}'),
    "half a surrogate pair": raw_event(tags='{"a": "\\udc00"}'),
    "half a surrogate pair as a name": raw_event(**{"time": '"x"', "\\ud800": "1"}),
    "no UTF-8": raw_event().replace(b"prod", b"\xc3\x28"),
    "a number too large to read": raw_event(latency_ms="1e999"),
    "a number too large for a double": raw_event(tags='{"a": 1e400}'),
    "a number too long to store": raw_event(tags=UNSTORABLE_TAGS),
    "nesting too deep to read": raw_event(tags='{"a": ' + "[" * 10_000 + "]" * 10_000 + "}"),
    "nothing but brackets": b"[" * 100_000 + b"]" * 100_000,
}


@every_server
@pytest.mark.parametrize("wrap", [lambda events: events, lambda events: {"events": events}], ids=["list", "object"])
def test_both_forms_store_every_event(serve: Serve, wrap: Any) -> None:
    client = serve()

    answer = post_ingest(client, wrap(make_events(3)))

    assert answer.status == 200
    assert answer.json() == {"inserted": 3, "duplicates": 0, "rejected": 0, "errors": [], "capped": 0}
    assert [event["latency_ms"] for event in listed(client)] == [2, 1, 0]


@every_server
def test_a_thousand_events_go_in_one_request(serve: Serve) -> None:
    client = serve()

    answer = post_ingest(client, make_events(1000))

    assert answer.json()["inserted"] == 1000
    assert stored_count(client) == 1000


@pytest.mark.parametrize("payload", [[], {"events": []}, {"events": [], "source": "x"}])
def test_an_empty_batch_is_no_error(shared: Client, payload: object) -> None:
    answer = post_ingest(shared, payload)

    assert answer.json() == {"inserted": 0, "duplicates": 0, "rejected": 0, "errors": [], "capped": 0}


@one_engine
@pytest.mark.parametrize(
    "content",
    [b"{}", b'{"events": null}', b'{"events": {}}', b'{"event": []}', b"5", b'"[]"', b"null", b'{"events":"\\ud800"}'],
)
def test_a_body_of_another_shape_is_rejected(shared: Client, content: bytes) -> None:
    answer = post_bytes(shared, content)

    assert answer.status == 400
    assert answer.json()["errors"] == {"non_field_errors": ['Expected a list of events or {"events": [...]}.']}


@one_engine
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" ",
        b"[",
        b"[" * 100_000,
        b'{"events": ' + b"[" * 100_000,
        b"[" + raw_event(),
        b"[" + raw_event() + b",]",
        b"[" + raw_event() + b",,]",
        b"[" + raw_event() + b"] x",
        b"[" + raw_event(service='"\\ud800"') + b"] x",
        b"[" + raw_event(service='"\\ud800"') + b"}",
        b"[" + raw_event(service='"\\ud800"')[:-9] + b"]",
        b'{"events": [' + raw_event(service='"\\ud800"') + b'], "more"}',
        b"[" + raw_event() + b" " + raw_event(service='"\\ud800"') + b"]",
        b"\xef\xbb\xbf\xef\xbb\xbf[]",
        "[]".encode("utf-16"),
        b"\xff\xff",
    ],
    ids=lambda content: repr(content[-24:]),
)
def test_malformed_json_stores_nothing(shared: Client, content: bytes) -> None:
    before = stored_count(shared)

    answer = post_bytes(shared, content)

    assert (answer.status, answer.json()["code"]) == (400, "malformed")
    assert stored_count(shared) == before


@pytest.mark.parametrize("wrapped", [False, True], ids=["list", "object"])
@pytest.mark.parametrize("bad", BAD_ITEMS.values(), ids=BAD_ITEMS)
def test_an_invalid_item_does_not_affect_the_others(shared: Client, bad: bytes, wrapped: bool) -> None:
    service = unique_service()
    valid = [raw_event(service=f'"{service}"', latency_ms=number) for number in ("1", "2")]
    content = b"[" + b",".join([valid[0], bad, valid[1]]) + b"]"

    answer = post_bytes(shared, b'{"events":' + content + b"}" if wrapped else content)

    assert (answer.status, answer.json()["inserted"], answer.json()["rejected"]) == (200, 2, 1)
    assert [error["index"] for error in answer.json()["errors"]] == [1]
    assert sorted(event["latency_ms"] for event in listed(shared, f"service={service}")) == [1, 2]


@one_engine
@pytest.mark.parametrize("bad", BAD_ITEMS.values(), ids=BAD_ITEMS)
def test_strict_stores_nothing_if_one_item_is_bad(shared: Client, bad: bytes) -> None:
    before = stored_count(shared)

    answer = post_bytes(shared, b"[" + raw_event() + b"," + bad + b"]", "?strict=true")

    assert answer.status == 400
    assert (answer.json()["inserted"], answer.json()["rejected"]) == (0, 2)
    assert [error["index"] for error in answer.json()["errors"]] == [1]
    assert stored_count(shared) == before


@one_engine
def test_strict_lists_errors_as_an_accepted_batch_does(shared: Client) -> None:
    items = [make_event(), BAD, make_event(method="", status_code=600)]
    accepted = post_ingest(shared, items, "?max_errors=1").json()
    every = post_ingest(shared, items).json()

    refused = post_ingest(shared, items, "?strict=true")
    limited = post_ingest(shared, items, "?strict=true&max_errors=1")

    assert refused.json()["errors"] == every["errors"]
    assert limited.json()["errors"] == accepted["errors"]
    assert list(refused.json())[:5] == ["success", "error", "detail", "code", "errors"]
    assert (refused.json()["code"], refused.json()["request_id"]) == ("invalid", refused.headers["x-request-id"])


def test_a_byte_order_mark_is_skipped(shared: Client) -> None:
    mark = "\ufeff".encode()
    one = shared.request("POST", "/api/requests/", content=mark + raw_event())
    path = f"/api/requests/{one.json()['id']}/"

    assert one.status == 201
    assert post_bytes(shared, mark + b"[" + raw_event() + b"]").json()["inserted"] == 1
    assert shared.request("PUT", path, content=mark + raw_event()).status == 200
    assert shared.request("PATCH", path, content=mark + b'{"latency_ms": 7}').json()["latency_ms"] == 7


def test_strict_stores_a_good_batch(shared: Client) -> None:
    assert post_ingest(shared, make_events(2), "?strict=true").json()["inserted"] == 2


def test_errors_come_with_index_and_message(shared: Client) -> None:
    answer = post_ingest(shared, [BAD, make_event(), make_event(status_code=600, method="")])

    assert answer.json() == {
        "inserted": 1,
        "duplicates": 0,
        "rejected": 2,
        "errors": [
            {"index": 0, "errors": {"status_code": [BAD_STATUS]}},
            {"index": 2, "errors": {"method": ["This field may not be blank."], "status_code": [BAD_STATUS]}},
        ],
        "capped": 0,
    }


def test_methods_are_upper_case_and_unknown_ones_are_kept_and_counted(shared: Client) -> None:
    client = shared
    names = ("get", "GET", "propfind", "NOPE", "nope", "_OTHER")
    events = [make_event(service="methods", method=name) for name in names]
    lines = b"\n".join(json.dumps(event).encode() for event in [*events, make_event(method="NOPE", status_code=1)])
    before = count_unknown_methods(client)

    answers = [
        post_ingest(client, events).json(),
        client.post(f"{ROOT}ingest/", content=lines, headers={"Content-Type": "application/x-ndjson"}).json(),
    ]

    assert [(answer["inserted"], answer["rejected"]) for answer in answers] == [(6, 0), (6, 1)]
    assert [answer["unknown_methods"] for answer in answers] == [2, 2]
    found = {event["method"] for event in listed(client, "service=methods")}
    assert sorted(found) == ["GET", "NOPE", "PROPFIND", "_OTHER"]
    assert [len(listed(client, f"service=methods&method={name}")) for name in ("get", "GET", "Nope")] == [4, 4, 4]
    assert count_unknown_methods(client) - before == 4


def count_unknown_methods(client: Client) -> int:
    figures = client.get("/stats/").json()["application"]["figures"]["observability"]
    unknown: int = figures["events_unknown_method"]
    return unknown


def test_errors_of_all_stages_are_listed_in_order(shared: Client) -> None:
    bad = [raw_event(tags=UNSTORABLE_TAGS), raw_event(service='" "'), raw_event(status_code="1"), raw_event(tags="1")]

    answer = post_bytes(shared, b"[" + b",".join(bad) + b"]")

    assert [error["index"] for error in answer.json()["errors"]] == [0, 1, 2, 3]


@one_engine
@pytest.mark.parametrize(("query", "listed_errors"), [("?max_errors=2", 2), ("?max_errors=0", 0), ("", 3)])
def test_max_errors_limits_the_errors_listed_not_the_count(shared: Client, query: str, listed_errors: int) -> None:
    answer = post_ingest(shared, [BAD, BAD, BAD], query).json()

    assert (answer["rejected"], len(answer["errors"])) == (3, listed_errors)


@pytest.mark.parametrize("bad", [{}, {"status_code": 1}], ids=["good", "taken apart"])
@pytest.mark.parametrize(("query", "status"), [("?max_events=3", 200), ("?max_events=2", 413)])
def test_max_events_rejects_the_whole_request(shared: Client, bad: dict[str, Any], query: str, status: int) -> None:
    before = stored_count(shared)

    answer = post_ingest(shared, [*make_events(2), make_event(**bad)], query)

    assert answer.status == status
    if status == 413:
        assert stored_count(shared) == before


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_any_batch_size_stores_every_event(shared: Client, batch_size: int) -> None:
    before = stored_count(shared)

    post_ingest(shared, make_events(5), f"?batch_size={batch_size}")

    assert stored_count(shared) - before == 5


@every_server
def test_an_unstorable_item_does_not_affect_other_chunks(serve: Serve) -> None:
    client = serve()
    items = [raw_event(latency_ms=str(number)) for number in range(9)]
    items[4] = raw_event(tags=UNSTORABLE_TAGS)

    answer = post_bytes(client, b"[" + b",".join(items) + b"]", "?batch_size=2")

    assert (answer.json()["inserted"], answer.json()["errors"][0]["index"]) == (8, 4)
    assert sorted(event["latency_ms"] for event in listed(client)) == [0, 1, 2, 3, 5, 6, 7, 8]


@every_server
def test_a_parameter_may_only_lower_its_setting(serve: Serve) -> None:
    names = ("batch_size", "max_events", "max_errors")
    client = serve(observability={f"ingest_{name}": 10 for name in names})

    for name in names:
        answers = [post_ingest(client, [], f"?{name}={value}") for value in (10, 11)]

        assert [answer.status for answer in answers] == [200, 400]
        assert set(answers[1].json()["errors"]) == {name}


@one_engine
@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("?stict=true", {"stict"}),
        ("?strict=maybe&batch_size=0&max_events=x&max_errors=-1", {"strict", "batch_size", "max_events", "max_errors"}),
        ("?strict=1&strict=0", {"strict"}),
    ],
)
def test_wrong_parameters_are_all_named_and_nothing_is_stored(shared: Client, query: str, names: set[str]) -> None:
    before = stored_count(shared)

    answer = post_ingest(shared, make_events(1), query)

    assert (answer.status, set(answer.json()["errors"])) == (400, names)
    assert stored_count(shared) == before


@one_engine
@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/vnd.events+json", 200),
        ("application/json; charset=latin-1", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
    ],
)
def test_only_json_is_accepted(shared: Client, media_type: str, status: int) -> None:
    answer = shared.request("POST", URL, content=b"[]", headers={"Content-Type": media_type})

    assert answer.status == status


@every_server
def test_a_body_over_the_limit_is_rejected(serve: Serve) -> None:
    client = serve(http={"max_body_bytes": 2048})
    fits = json.dumps(make_events(2)).encode()

    answers = [post_bytes(client, content.ljust(size)) for content, size in ((fits, 2048), (fits, 2049))]

    assert [answer.status for answer in answers] == [200, 413]
    assert stored_count(client) == 2


@every_server
@pytest.mark.process
def test_a_chunked_body_over_the_limit_is_rejected(database: str, tmp_path: Path) -> None:
    variables = {"TIERCEL_DATABASE_URL": database, "TIERCEL_HTTP__MAX_BODY_BYTES": "2048"}
    fits = json.dumps(make_events(2)).encode()

    def post(size: int) -> httpx.Response:
        content = fits.ljust(size)
        chunks = (content[at : at + 500] for at in range(0, size, 500))
        return httpx.post(service.url + URL, content=chunks, headers={"Content-Type": "application/json"}, verify=TLS)

    with serving(tmp_path / "home", **variables) as service:
        assert post(2048).json()["inserted"] == 2
        assert post(2049).status_code == 413
