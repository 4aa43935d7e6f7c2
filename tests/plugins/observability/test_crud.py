"""One request log: create, read, change, delete."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from kernel.testing import Client
from tests.plugins.observability.engines import every_engine, one_engine
from tests.plugins.observability.events import (
    ROOT,
    create,
    id_time_ms,
    listed,
    make_event,
    post_ingest,
    stored_count,
    unix_ms,
)

pytestmark = every_engine

NOBODY = "019b1cbb-5e00-7ccf-a012-cd546f9c0d88"


def test_a_posted_event_is_read_back(shared: Client) -> None:
    created = shared.post(ROOT, make_event(tags={"env": "prod"}))

    assert created.status == 201
    assert shared.get(f"{ROOT}{created.json()['id']}/").json() == created.json()
    assert created.json()["tags"] == {"env": "prod"}


def test_a_response_has_exactly_the_documented_fields(shared: Client) -> None:
    created = shared.post(ROOT, make_event()).json()

    assert {**created, "id": ...} == {**make_event(), "id": ...}


def test_location_is_the_url_of_the_created_event(shared: Client) -> None:
    created = shared.post(ROOT, make_event())

    assert shared.get(created.headers["location"]).json() == created.json()


@pytest.mark.parametrize("root", ["/api/requests", "/api/v1/requests"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_both_roots_work_with_and_without_a_slash(shared: Client, root: str, slash: str) -> None:
    created = shared.post(root + slash, make_event())
    one = f"{root}/{created.json()['id']}{slash}"

    assert created.status == 201
    assert shared.get(one).status == 200
    assert shared.get(root + slash).status == 200
    assert shared.request("PUT", one, json=make_event()).status == 200
    assert shared.request("PATCH", one, json={}).status == 200
    assert shared.request("DELETE", one).status == 204
    assert shared.post(f"{root}/ingest{slash}", []).status == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "event_id",
    [
        pytest.param(NOBODY, id="unknown"),
        pytest.param(str(uuid4()), id="not version 7"),
        pytest.param("ffffffff-ffff-7fff-bfff-ffffffffffff", id="beyond the year 9999"),
        pytest.param("17", id="no uuid"),
        pytest.param("%00", id="null character"),
        pytest.param("%ff", id="not UTF-8"),
    ],
)
def test_an_unknown_id_is_not_found(shared: Client, method: str, event_id: str) -> None:
    body = None if method in ("GET", "DELETE") else make_event()

    answer = shared.request(method, f"{ROOT}{event_id}/", json=body)

    assert answer.status == 404
    assert answer.json()["code"] == "not_found"


def test_an_id_is_a_uuid_7_of_the_time_of_the_event(shared: Client) -> None:
    time = "2019-03-04T05:06:07.891+00:00"

    created = shared.post(ROOT, make_event(time=time)).json()

    assert UUID(created["id"]).version == 7
    assert id_time_ms(created["id"]) == unix_ms(time)


def test_a_deleted_event_is_not_found(shared: Client) -> None:
    url = create(shared)

    deleted = shared.request("DELETE", url)

    assert (deleted.status, deleted.content) == (204, b"")
    assert [shared.get(url).status, shared.request("DELETE", url).status] == [404, 404]


def test_delete_removes_no_other_event(shared: Client) -> None:
    first, second = create(shared), create(shared)

    shared.request("DELETE", first)

    assert shared.get(second).status == 200


def test_put_resets_omitted_fields_to_their_defaults(shared: Client) -> None:
    url = create(shared)

    shared.request("PUT", url, json=make_event(trace_id=..., user_ref=..., tags=..., latency_ms=7))

    now = shared.get(url).json()
    assert (now["trace_id"], now["user_ref"], now["tags"], now["latency_ms"]) == (None, None, {}, 7)


@one_engine
def test_put_requires_every_required_field(shared: Client) -> None:
    url = create(shared)
    before = shared.get(url).json()

    answer = shared.request("PUT", url, json={"latency_ms": 1})

    assert answer.status == 400
    assert set(answer.json()["errors"]) == {"time", "service", "endpoint", "method", "status_code"}
    assert shared.get(url).json() == before


@one_engine
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_every_wrong_field_is_named(shared: Client, method: str) -> None:
    url = ROOT if method == "POST" else create(shared)
    wrong = {"time": "yesterday", "service": "", "status_code": 99, "latency_ms": -1, "tags": [], "trace_id": "x" * 129}

    answer = shared.request(method, url, json=make_event(**wrong))

    assert answer.status == 400
    assert set(answer.json()["errors"]) == set(wrong)


@one_engine
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "malformed"), (b"{", "malformed"), (b"[]", "invalid"), (b"null", "invalid"), (b'"x"', "invalid")],
)
def test_a_body_that_is_no_object_is_rejected(shared: Client, method: str, content: bytes, code: str) -> None:
    url = ROOT if method == "POST" else create(shared)

    answer = shared.request(method, url, content=content)

    assert (answer.status, answer.json()["code"]) == (400, code)


@one_engine
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_only_json_is_accepted(shared: Client, method: str, media_type: str) -> None:
    url = ROOT if method == "POST" else create(shared)

    answer = shared.request(method, url, json=make_event(), headers={"Content-Type": media_type})

    assert answer.status == 415


def test_unknown_fields_are_ignored(shared: Client) -> None:
    created = shared.post(ROOT, make_event(id=NOBODY, colour="red"))

    assert created.status == 201
    assert created.json()["id"] != NOBODY
    assert "colour" not in created.json()


@pytest.mark.parametrize("tags", [{}, {"a": {"b": [1, None, "ü\U0001f600"]}}, {"big": 2**70, "small": 0.1}, {"": ""}])
def test_tags_come_back_equal(shared: Client, tags: dict[str, Any]) -> None:
    url = create(shared, tags=tags)

    assert shared.get(url).json()["tags"] == tags


def test_one_event_and_a_batch_store_the_same(shared: Client) -> None:
    service = "same-either-way"
    create(shared, service=service)
    post_ingest(shared, [make_event(service=service)])

    first, second = listed(shared, f"service={service}")

    assert {**first, "id": ...} == {**second, "id": ...}


def test_a_rejected_event_is_not_stored(shared: Client) -> None:
    before = stored_count(shared)

    shared.post(ROOT, make_event(status_code=600))

    assert stored_count(shared) == before
