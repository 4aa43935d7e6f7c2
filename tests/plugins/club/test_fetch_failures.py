"""Every failure of an API becomes a failure of its source, with a reason."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from plugins.club.fetch.results import SourceProgress
from tests.plugins.club import fakes
from tests.plugins.club.fakes import Behaviour, FakeApi, failing, fixed, metric
from tests.plugins.club.fetching import failed, fetched, keys, members, source
from tests.processes import free_port

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
GOOD = fixed([metric("m")])


def raw(content: bytes, **headers: str) -> Behaviour:
    """Answer these bytes."""
    return lambda exchange: exchange.send(content, headers=headers)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not valid JSON"),
        (b"<html></html>", "is not valid JSON"),
        (b'[{"metric": "m"', "is not valid JSON"),
        (b'["\xff"]', "is not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_body_that_is_not_json_is_a_failure(api: FakeApi, content: bytes, reason: str) -> None:
    api.routes["/metrics"] = raw(content)

    failure = failed(source(api))

    assert (failure.kind, reason in failure.reason) == ("malformed", True)
    assert len(api.received) == 1


@pytest.mark.parametrize(
    ("document", "items", "reason"),
    [
        ({"data": {}}, "data.members", "expected a list at 'data.members', found nothing"),
        ({"data": {}}, "data", "expected a list at 'data', found dict"),
        ({"error": "busy"}, "", "expected a list at the top level of the document, found dict"),
    ],
)
def test_a_missing_list_of_items_is_a_failure_that_names_its_path(
    api: FakeApi, document: Any, items: str, reason: str
) -> None:
    api.routes["/metrics"] = fixed(document)

    failure = failed(source(api, items=items))

    assert (failure.kind, failure.reason) == ("content", reason)


def test_a_next_page_that_is_not_a_url_is_a_failure(api: FakeApi) -> None:
    api.routes["/members"] = fixed({"items": [], "next": 2})

    failure = failed(members(api, items="items", next="next"))

    assert (failure.kind, "found int" in failure.reason) == ("content", True)


@pytest.mark.parametrize("status", [201, 204, 304, 400, 401, 403, 404, 501])
def test_a_permanent_error_status_is_not_retried(api: FakeApi, status: int) -> None:
    api.routes["/metrics"] = lambda exchange: exchange.head(status, {"Content-Length": "0"})

    failure = failed(source(api, url=f"{api.url}/metrics?key=secret"))

    assert failure.kind == "status"
    assert failure.reason.startswith(f"{api.url}/metrics answered {status} ")
    assert len(api.received) == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_temporary_error_status_is_retried(api: FakeApi, status: int) -> None:
    api.routes["/metrics"] = failing(2, status, GOOD)

    assert keys(fetched(source(api))) == ["m"]
    assert len(api.received) == 3


def test_repeated_errors_are_a_failure_after_all_retries(api: FakeApi) -> None:
    api.routes["/metrics"] = failing(99, 500, GOOD)
    steps: list[SourceProgress] = []

    failure = failed(source(api), on_progress=steps.append)

    assert failure.reason == f"{api.url}/metrics answered 500 Internal Server Error; tried 3 times"
    assert [step.state for step in steps] == ["fetching", "retrying", "retrying", "failed"]
    assert len(api.received) == 3


@pytest.mark.parametrize("behaviour", [fakes.cut, fakes.cut_gzip])
def test_a_lost_connection_is_retried(api: FakeApi, behaviour: Behaviour) -> None:
    api.routes["/metrics"] = lambda exchange: (behaviour if exchange.number == 1 else GOOD)(exchange)
    assert keys(fetched(source(api))) == ["m"]

    api.routes["/always"] = behaviour
    assert failed(source(api, "/always")).kind == "cut"


def test_an_unreachable_host_is_a_failure_after_all_retries(api: FakeApi) -> None:
    steps: list[SourceProgress] = []

    failure = failed(source(api, url=f"http://127.0.0.1:{free_port()}/"), on_progress=steps.append)

    assert (failure.kind, "cannot connect to 127.0.0.1" in failure.reason) == ("unreachable", True)
    assert [step.state for step in steps].count("retrying") == 2


def test_an_unresolvable_host_name_is_a_failure() -> None:
    with fakes.running_api() as api:
        failure = failed(source(api, url="http://nobody.invalid/"), {"retries": 0})

    assert failure.kind == "unreachable"


def test_a_content_encoding_that_was_not_requested_is_a_failure(api: FakeApi) -> None:
    api.routes["/metrics"] = lambda exchange: exchange.send(b"x", headers={"Content-Encoding": "br"})

    failure = failed(source(api))

    assert (failure.kind, failure.reason) == ("content", "the response is encoded as 'br', which was not requested")


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"[]", mtime=0) + b"rubbish"])
def test_invalid_gzip_is_a_failure(api: FakeApi, content: bytes) -> None:
    api.routes["/metrics"] = lambda exchange: exchange.gzip(content)

    assert failed(source(api)).kind == "malformed"


def test_retry_after_in_seconds_is_respected(api: FakeApi) -> None:
    api.routes["/metrics"] = failing(1, 429, GOOD, Retry_After="1")

    assert fetched(source(api)).ms >= 1000


def test_retry_after_as_a_date_is_respected(api: FakeApi) -> None:
    at = format_datetime(NOW + timedelta(seconds=1), usegmt=True)
    api.routes["/metrics"] = failing(1, 503, GOOD, Retry_After=at)

    assert fetched(source(api), now=lambda: NOW).ms >= 1000


def test_a_retry_beyond_the_time_budget_is_a_failure_at_once(api: FakeApi) -> None:
    api.routes["/metrics"] = failing(1, 429, GOOD, Retry_After="30")

    failure = failed(source(api))

    assert failure.reason.endswith("429 Too Many Requests; no time left to retry in 30 s")
    assert failure.ms < 10_000
