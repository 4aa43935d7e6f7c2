"""Requests go where the configuration says, with its secrets, and nowhere else."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest

from plugins.club.fetching.hosts import refusal
from plugins.club.fetching.outcome import SourceProgress
from tests.plugins.club.fake_api import Call, FakeApi, fixed, metric, redirect
from tests.plugins.club.fetches import failed, fetch, fetched, keys, members, source

GOOD = fixed([metric("m")])
TOKEN = "Bearer s3cr3t-t0k3n"
WITH_TOKEN: dict[str, Any] = {"headers": {"Authorization": "env:CLUB_TOKEN"}}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_on_the_same_host_is_followed(api: FakeApi, status: int) -> None:
    api.routes |= {"/metrics": redirect("/moved?x=1", status), "/moved": GOOD}

    outcome = fetched(source(api, **WITH_TOKEN), environ={"CLUB_TOKEN": TOKEN})

    assert keys(outcome) == ["m"]
    assert [seen.headers.get("authorization") for seen in api.seen] == [TOKEN, TOKEN]


@pytest.mark.parametrize(("redirects", "good"), [(5, True), (6, False)])
def test_five_redirects_are_followed_and_no_more(api: FakeApi, redirects: int, good: bool) -> None:
    api.routes |= {f"/{number}": redirect(f"/{number - 1}") for number in range(1, redirects + 1)}
    api.routes["/0"] = GOOD

    if good:
        assert keys(fetched(source(api, f"/{redirects}"))) == ["m"]
    else:
        assert failed(source(api, f"/{redirects}")).reason == "more than 5 redirects"


def test_a_redirect_to_another_host_is_refused_and_not_asked(api: FakeApi, other_api: FakeApi) -> None:
    elsewhere = other_api.url.replace("127.0.0.1", "localhost")
    api.routes["/metrics"] = redirect(f"{elsewhere}/metrics?key=secret")

    failure = failed(source(api))

    assert failure.kind == "redirect"
    assert failure.reason == f"a redirect to {elsewhere}/metrics is refused: it is on another host than 127.0.0.1"
    assert other_api.seen == []
    assert len(api.seen) == 1


def test_another_port_is_another_address(api: FakeApi, other_api: FakeApi) -> None:
    api.routes["/metrics"] = redirect(f"{other_api.url}/metrics")

    assert "is on another port" in failed(source(api)).reason
    assert other_api.seen == []


@pytest.mark.parametrize("location", ["file:///etc/passwd", "http://[x", "//xn--/", ""])
def test_a_redirect_to_no_address_is_a_failure(api: FakeApi, location: str) -> None:
    api.routes["/metrics"] = redirect(location) if location else lambda call: call.send(b"", 302)

    assert failed(source(api)).kind == "redirect"
    assert len(api.seen) == 1


def test_a_next_page_on_another_host_is_refused_and_not_asked(api: FakeApi, other_api: FakeApi) -> None:
    api.routes["/members"] = fixed({"items": [], "next": f"{other_api.url}/members"})

    failure = failed(members(api, items="items", next="next"))

    assert (failure.kind, "the next page" in failure.reason) == ("redirect", True)
    assert other_api.seen == []


@pytest.mark.parametrize(
    ("current", "target", "reason"),
    [
        ("https://a.example/x", "https://a.example/y?z", None),
        ("https://a.example/", "https://A.EXAMPLE:443/", None),
        ("http://a.example/", "https://a.example/", None),
        ("https://a.example/", "http://a.example/", "leaves https"),
        ("http://a.example:8080/", "https://a.example/", "is on another port than 8080"),
        ("http://a.example/", "https://a.example:8443/", "is on another port than 80"),
        ("https://a.example/", "https://b.a.example/", "is on another host than a.example"),
        ("https://a.example/", "https://a.example.b.example/", "is on another host than a.example"),
        ("https://a.example/", "https://u:p@a.example/", "holds a user or password"),
        ("https://a.example/", "ftp://a.example/", "is no http or https"),
    ],
)
def test_an_answer_may_lead_to_the_same_host_only(current: str, target: str, reason: str | None) -> None:
    assert refusal(httpx.URL(current), httpx.URL(target)) == reason


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_proxies_of_the_environment_are_not_used(
    api: FakeApi, other_api: FakeApi, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, other_api.url)
    monkeypatch.setenv(variable.lower(), other_api.url)
    api.routes["/metrics"] = GOOD

    assert keys(fetched(source(api))) == ["m"]
    assert other_api.seen == []


def test_cookies_are_not_kept(api: FakeApi) -> None:
    def behave(call: Call) -> None:
        call.json([], headers={"Set-Cookie": "session=1; Path=/"})

    api.routes |= {"/first": redirect("/metrics"), "/metrics": behave}

    fetch({"a": source(api, "/first"), "b": source(api)}, {"per_host": 1})

    assert [seen.headers.get("cookie") for seen in api.seen] == [None, None, None]


def test_headers_are_sent_as_configured(api: FakeApi) -> None:
    api.routes["/metrics"] = GOOD

    fetched(source(api, headers={"Accept": "text/json", "X-Club": "env:CLUB"}), environ={"CLUB": "flow"})

    sent = api.seen[0].headers
    assert (sent["accept"], sent["x-club"], sent["user-agent"]) == ("text/json", "flow", "tiercel")


@pytest.mark.parametrize("environ", [{}, {"CLUB_TOKEN": ""}])
def test_a_missing_variable_is_a_failure_with_its_name(api: FakeApi, environ: dict[str, str]) -> None:
    failure = failed(source(api, **WITH_TOKEN), environ=environ)

    assert (failure.kind, failure.reason) == ("configuration", "the environment variable CLUB_TOKEN is not set")
    assert api.seen == []


def test_the_variables_are_those_of_the_process(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUB_TOKEN", TOKEN)
    api.routes["/metrics"] = GOOD

    fetched(source(api, **WITH_TOKEN), environ=None)

    assert api.seen[0].headers["authorization"] == TOKEN


@pytest.mark.parametrize("value", ["s3cr3t\nX: y", "s3cr3t\x00", "s3cr3t-ä", " s3cr3t"])
def test_a_value_that_cannot_be_sent_is_not_repeated(api: FakeApi, value: str) -> None:
    failure = failed(source(api, **WITH_TOKEN), environ={"CLUB_TOKEN": value})

    assert failure.reason == "the environment variable CLUB_TOKEN holds characters that no header may"


def test_secrets_are_neither_told_nor_logged(api: FakeApi, caplog: pytest.LogCaptureFixture) -> None:
    api.routes |= {"/good": GOOD, "/elsewhere": redirect("https://elsewhere.example/")}
    steps: list[SourceProgress] = []
    paths = ("/good", "/bad", "/elsewhere")
    sources = {path: source(api, f"{path}?key=s3cr3t-k3y", **WITH_TOKEN) for path in paths}

    with caplog.at_level(logging.DEBUG):
        outcomes = fetch(sources, environ={"CLUB_TOKEN": TOKEN}, on_progress=steps.append)

    assert {seen.headers["authorization"] for seen in api.seen} == {TOKEN}
    assert "s3cr3t" not in f"{outcomes} {steps} {caplog.text}"
