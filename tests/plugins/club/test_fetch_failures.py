"""Whatever an API does wrong is a failure of its source, with a reason for people."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from plugins.club.fetching.outcome import SourceProgress
from tests.plugins.club import fake_api
from tests.plugins.club.fake_api import Behaviour, FakeApi, failing, fixed, metric
from tests.plugins.club.fetches import failed, fetched, keys, members, source
from tests.processes import free_port

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
GOOD = fixed([metric("m")])


def raw(content: bytes, **headers: str) -> Behaviour:
    """Answer these bytes."""
    return lambda call: call.send(content, headers=headers)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is no JSON"),
        (b"<html></html>", "is no JSON"),
        (b'[{"metric": "m"', "is no JSON"),
        (b'["\xff"]', "is no JSON"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_json_is_said_to_be_none(api: FakeApi, content: bytes, reason: str) -> None:
    api.routes["/metrics"] = raw(content)

    failure = failed(source(api))

    assert (failure.kind, reason in failure.reason) == ("malformed", True)
    assert len(api.seen) == 1


@pytest.mark.parametrize(
    ("document", "items", "reason"),
    [
        ({"data": {}}, "data.members", "expected a list at 'data.members', found nothing"),
        ({"data": {}}, "data", "expected a list at 'data', found dict"),
        ({"error": "busy"}, "", "expected a list at the top of the document, found dict"),
    ],
)
def test_a_list_that_is_not_there_is_named_by_its_path(api: FakeApi, document: Any, items: str, reason: str) -> None:
    api.routes["/metrics"] = fixed(document)

    failure = failed(source(api, items=items))

    assert (failure.kind, failure.reason) == ("content", reason)


def test_a_next_page_that_is_no_url_is_a_failure(api: FakeApi) -> None:
    api.routes["/members"] = fixed({"items": [], "next": 2})

    failure = failed(members(api, items="items", next="next"))

    assert (failure.kind, "found int" in failure.reason) == ("content", True)


@pytest.mark.parametrize("status", [201, 204, 304, 400, 401, 403, 404, 501])
def test_a_status_that_will_not_change_is_not_asked_for_again(api: FakeApi, status: int) -> None:
    api.routes["/metrics"] = lambda call: call.head(status, {"Content-Length": "0"})

    failure = failed(source(api, url=f"{api.url}/metrics?key=secret"))

    assert failure.kind == "status"
    assert failure.reason.startswith(f"{api.url}/metrics answered {status} ")
    assert len(api.seen) == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_status_that_may_pass_is_asked_for_again(api: FakeApi, status: int) -> None:
    api.routes["/metrics"] = failing(2, status, GOOD)

    assert keys(fetched(source(api))) == ["m"]
    assert len(api.seen) == 3


def test_a_storm_that_does_not_end_is_a_failure(api: FakeApi) -> None:
    api.routes["/metrics"] = failing(99, 500, GOOD)
    steps: list[SourceProgress] = []

    failure = failed(source(api), on_progress=steps.append)

    assert failure.reason == f"{api.url}/metrics answered 500 Internal Server Error; tried 3 times"
    assert [step.state for step in steps] == ["fetching", "retrying", "retrying", "failed"]
    assert len(api.seen) == 3


@pytest.mark.parametrize("behaviour", [fake_api.cut, fake_api.cut_gzip])
def test_a_connection_that_breaks_is_tried_again(api: FakeApi, behaviour: Behaviour) -> None:
    api.routes["/metrics"] = lambda call: (behaviour if call.number == 1 else GOOD)(call)
    assert keys(fetched(source(api))) == ["m"]

    api.routes["/always"] = behaviour
    assert failed(source(api, "/always")).kind == "cut"


def test_a_host_that_is_not_there_is_a_failure_after_some_tries(api: FakeApi) -> None:
    steps: list[SourceProgress] = []

    failure = failed(source(api, url=f"http://127.0.0.1:{free_port()}/"), on_progress=steps.append)

    assert (failure.kind, "cannot connect to 127.0.0.1" in failure.reason) == ("unreachable", True)
    assert [step.state for step in steps].count("retrying") == 2


def test_a_name_that_nobody_has_is_a_failure() -> None:
    with fake_api.running_api() as api:
        failure = failed(source(api, url="http://nobody.invalid/"), {"retries": 0})

    assert failure.kind == "unreachable"


def test_an_encoding_that_was_not_asked_for_is_a_failure(api: FakeApi) -> None:
    api.routes["/metrics"] = lambda call: call.send(b"x", headers={"Content-Encoding": "br"})

    failure = failed(source(api))

    assert (failure.kind, failure.reason) == ("content", "the answer is encoded as 'br', which was not asked for")


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"[]", mtime=0) + b"rubbish"])
def test_gzip_that_is_none_is_a_failure(api: FakeApi, content: bytes) -> None:
    api.routes["/metrics"] = lambda call: call.gzip(content)

    assert failed(source(api)).kind == "malformed"


def test_a_server_says_when_to_come_back(api: FakeApi) -> None:
    api.routes["/metrics"] = failing(1, 429, GOOD, Retry_After="1")

    assert fetched(source(api)).ms >= 1000


def test_a_server_may_name_the_date(api: FakeApi) -> None:
    at = format_datetime(NOW + timedelta(seconds=1), usegmt=True)
    api.routes["/metrics"] = failing(1, 503, GOOD, Retry_After=at)

    assert fetched(source(api), now=lambda: NOW).ms >= 1000


def test_nobody_waits_longer_than_there_is_time(api: FakeApi) -> None:
    api.routes["/metrics"] = failing(1, 429, GOOD, Retry_After="30")

    failure = failed(source(api))

    assert failure.reason.endswith("429 Too Many Requests; no time left to try again in 30 s")
    assert failure.ms < 10_000
