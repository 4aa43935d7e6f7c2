"""Fetching sources concurrently, page by page, with conditional requests."""

from __future__ import annotations

import gzip
import json
import threading
from typing import Any

import msgspec
import pytest

from plugins.club.fetch.results import Fetched, SourceFailure, SourceProgress, Unchanged, Validators
from plugins.club.models import HeroMetric
from plugins.club.settings import Source
from tests.plugins.club.fakes import Exchange, FakeApi, fixed, hanging, member, metric, paged, versioned
from tests.plugins.club.fetching import failed, fetch, fetch_one, fetched, keys, members, source

PAGES = [[member("a"), member("b")], [member("c")], [member("d")]]
PAGED: dict[str, Any] = {"items": "data.members", "next": "links.next"}


def validators_of(wanted: Source) -> Validators:
    """Fetch for the first time."""
    validators = fetched(wanted).validators
    assert validators is not None
    return validators


def test_items_are_mapped(api: FakeApi) -> None:
    api.routes["/metrics"] = fixed({"data": [{"slug": "joined", "n": 7}]})

    outcome = fetched(source(api, items="data", mapping={"metric": "slug", "value": "n"}))

    assert [(item.key, item.name) for item in outcome.items] == [("joined", "joined")]
    assert (outcome.pages, outcome.bytes) == (1, len(json.dumps({"data": [{"slug": "joined", "n": 7}]})))


def test_invalid_items_are_rejected_with_index_and_reason(api: FakeApi) -> None:
    pages = [[member("a"), member("b", "many")], [member("a", 5), member("c")]]
    api.routes["/members"] = paged("/members", pages)

    outcome = fetched(members(api, **PAGED))

    assert keys(outcome) == ["flow/a", "flow/c"]
    assert [(bad.index, bad.reason) for bad in outcome.rejected] == [
        (1, "count: Expected int, got str"),
        (2, "duplicate of 'flow/a'"),
    ]
    assert outcome.rejected[0].raw == member("b", "many")


def test_an_empty_list_is_fetched(api: FakeApi) -> None:
    api.routes["/metrics"] = fixed([])

    assert fetched(source(api)).items == ()


def test_a_byte_order_mark_before_a_page_is_skipped(api: FakeApi) -> None:
    packed = gzip.compress(json.dumps([metric("m")]).encode("utf-8-sig"))
    api.routes["/metrics"] = lambda exchange: exchange.gzip(packed)

    assert keys(fetched(source(api))) == ["m"]


@pytest.mark.parametrize("pieces", [1, 2])
def test_gzip_may_have_several_members(api: FakeApi, pieces: int) -> None:
    content = json.dumps([metric("m")]).encode()
    cut = len(content) // pieces
    packed = gzip.compress(content[:cut]) + (gzip.compress(content[cut:]) if pieces > 1 else b"")
    api.routes["/metrics"] = lambda exchange: exchange.gzip(packed)

    outcome = fetched(source(api))

    assert (keys(outcome), outcome.bytes) == (["m"], len(content))


def test_sources_are_fetched_at_the_same_time(api: FakeApi, other_api: FakeApi) -> None:
    together = threading.Barrier(4)

    def meet(exchange: Exchange) -> None:
        together.wait(10)
        exchange.json([metric("m")])

    for place in (api, other_api):
        place.routes |= {"/a": meet, "/b": meet}

    # Each answers only when all four are there; two of them may be with one host. The hosts are told apart by name.
    by_name = other_api.url.replace("127.0.0.1", "localhost")
    sources = {f"{path} {url}": source(api, url=url + path) for url in (api.url, by_name) for path in ("/a", "/b")}

    assert [type(outcome) for outcome in fetch(sources).values()] == [Fetched] * 4


def test_a_failing_source_neither_loses_nor_delays_the_others(api: FakeApi, other_api: FakeApi) -> None:
    api.routes["/metrics"] = fixed([metric("m")])
    other_api.routes["/metrics"] = hanging
    steps: list[SourceProgress] = []

    outcomes = fetch(
        {"bad": source(other_api), "good": source(api), "gone": source(api, "/gone")},
        {"timeout_s": 1.0, "retries": 0},
        on_progress=steps.append,
    )

    assert {name: type(outcome) for name, outcome in outcomes.items()} == {
        "bad": SourceFailure,
        "good": Fetched,
        "gone": SourceFailure,
    }
    assert [step.source for step in steps if step.state in {"fetched", "failed"}][-1] == "bad"


def test_a_bug_fails_only_the_source_it_affects(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    api.routes |= {"/metrics": fixed([metric("m")]), "/members": fixed([member("a")])}
    monkeypatch.setattr("plugins.club.mapping.ITEM_TYPES", {"hero-metrics": HeroMetric})

    outcomes = fetch({"broken": members(api), "good": source(api)})

    assert isinstance(outcomes["good"], Fetched)
    assert isinstance(outcomes["broken"], SourceFailure)
    assert (outcomes["broken"].kind, "KeyError in mapping.py" in outcomes["broken"].reason) == ("internal", True)


def test_every_page_is_fetched(api: FakeApi) -> None:
    api.routes["/members"] = paged("/members", PAGES)

    outcome = fetched(members(api, **PAGED))

    assert (keys(outcome), outcome.pages) == (["flow/a", "flow/b", "flow/c", "flow/d"], 3)
    assert api.paths() == ["/members", "/members?page=2", "/members?page=3"]


@pytest.mark.parametrize("end", [{}, {"next": None}, {"next": ""}])
def test_the_last_page_has_no_next_page(api: FakeApi, end: dict[str, Any]) -> None:
    api.routes["/members"] = fixed({"items": [member("a")], **end})

    assert fetched(members(api, items="items", next="next")).pages == 1


def test_the_url_of_the_next_page_may_be_relative(api: FakeApi) -> None:
    api.routes |= {
        "/v1/members": fixed({"items": [member("a")], "next": "more?x=1"}),
        "/v1/more": fixed({"items": [member("b")]}),
    }

    assert keys(fetched(members(api, "/v1/members", items="items", next="next"))) == ["flow/a", "flow/b"]


def test_too_many_pages_are_a_failure_without_partial_items(api: FakeApi) -> None:
    api.routes["/members"] = paged("/members", PAGES)

    assert fetched(members(api, **PAGED), {"max_pages": 3}).pages == 3
    failure = failed(members(api, **PAGED), {"max_pages": 2})

    assert (failure.kind, failure.reason) == ("too-large", "there are more than 2 pages")


def test_pages_that_form_a_loop_are_a_failure(api: FakeApi) -> None:
    api.routes["/members"] = fixed({"items": [], "next": "/members"})

    assert "loop" in failed(members(api, items="items", next="next")).reason


@pytest.mark.parametrize("version", [{"etag": '"v1"'}, {"last_modified": "Sat, 21 Nov 2026 05:00:00 GMT"}])
def test_an_unchanged_page_is_not_sent_again(api: FakeApi, version: dict[str, str]) -> None:
    api.routes["/metrics"] = versioned([metric("m")], **version)
    validators = validators_of(source(api))

    outcome = fetch_one(source(api), validators={"one": validators})

    assert isinstance(outcome, Unchanged)
    assert outcome.validators == validators


def test_a_changed_page_has_new_validators(api: FakeApi) -> None:
    api.routes["/metrics"] = versioned([metric("m")], '"v1"')
    validators = validators_of(source(api))
    api.routes["/metrics"] = versioned([metric("n")], '"v2"')

    outcome = fetched(source(api), validators={"one": validators})

    assert keys(outcome) == ["n"]
    assert outcome.validators is not None
    assert outcome.validators.pages[0].etag == '"v2"'
    assert len(api.received) == 2


def test_a_source_is_unchanged_only_if_all_pages_are(api: FakeApi) -> None:
    api.routes["/members"] = paged("/members", PAGES, validators=True)
    validators = validators_of(members(api, **PAGED))
    assert isinstance(fetch_one(members(api, **PAGED), validators={"one": validators}), Unchanged)

    api.routes["/members"] = paged("/members", [*PAGES[:2], [member("e")]], validators=True)
    outcome = fetched(members(api, **PAGED), validators={"one": validators})

    assert keys(outcome) == ["flow/a", "flow/b", "flow/c", "flow/e"]


def test_a_source_with_a_page_without_validator_has_none(api: FakeApi) -> None:
    api.routes |= {
        "/members": versioned({"items": [], "next": "/more"}, '"v1"'),
        "/more": fixed({"items": []}),
    }

    assert fetched(members(api, items="items", next="next")).validators is None


def test_a_validator_that_cannot_be_sent_back_is_ignored(api: FakeApi) -> None:
    api.routes["/metrics"] = fixed([metric("m")], ETag='"é"')

    assert fetched(source(api)).validators is None


@pytest.mark.parametrize("change", [{"mapping": {"name": "nick"}}, {"feature": "clout"}, {"items": "x"}])
def test_validators_of_another_configuration_are_not_used(api: FakeApi, change: dict[str, Any]) -> None:
    api.routes["/metrics"] = versioned([metric("m")], '"v1"')
    validators = validators_of(source(api))

    fetch_one(source(api, **change), validators={"one": validators})

    assert "if-none-match" not in api.received[-1].headers


def test_validators_survive_encoding_as_json(api: FakeApi) -> None:
    api.routes["/metrics"] = versioned([metric("m")], '"v1"')
    validators = validators_of(source(api))

    stored = msgspec.json.decode(msgspec.json.encode(validators), type=Validators)

    assert stored == validators


def test_every_step_is_reported_as_progress(api: FakeApi) -> None:
    api.routes["/members"] = paged("/members", PAGES[:2])
    steps: list[SourceProgress] = []

    outcome = fetched(members(api, **PAGED), on_progress=steps.append)

    assert [(step.state, step.items) for step in steps] == [
        ("fetching", 0),
        ("fetching", 2),
        ("fetching", 3),
        ("fetched", 3),
    ]
    assert steps[-1].bytes == outcome.bytes
    assert steps[-1].ms >= steps[0].ms
    assert {step.source for step in steps} == {"one"}
