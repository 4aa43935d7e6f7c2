"""Which addresses are requested, and with which headers and secrets."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest

from plugins.club.fetch.allowed_hosts import ensure_same_host
from plugins.club.fetch.results import FetchError, SourceProgress
from tests.plugins.club.fakes import Exchange, FakeApi, fixed, metric, redirect
from tests.plugins.club.fetching import failed, fetch, fetched, keys, members, source

GOOD = fixed([metric("m")])
TOKEN = "Bearer s3cr3t-t0k3n"
WITH_TOKEN: dict[str, Any] = {"headers": {"Authorization": "env:CLUB_TOKEN"}}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_on_the_same_host_is_followed(api: FakeApi, status: int) -> None:
    api.routes |= {"/metrics": redirect("/moved?x=1", status), "/moved": GOOD}

    outcome = fetched(source(api, **WITH_TOKEN), environ={"CLUB_TOKEN": TOKEN})

    assert keys(outcome) == ["m"]
    assert [request.headers.get("authorization") for request in api.received] == [TOKEN, TOKEN]


@pytest.mark.parametrize(("redirects", "good"), [(5, True), (6, False)])
def test_at_most_five_redirects_are_followed(api: FakeApi, redirects: int, good: bool) -> None:
    api.routes |= {f"/{number}": redirect(f"/{number - 1}") for number in range(1, redirects + 1)}
    api.routes["/0"] = GOOD

    if good:
        assert keys(fetched(source(api, f"/{redirects}"))) == ["m"]
    else:
        assert failed(source(api, f"/{redirects}")).reason == "more than 5 redirects"


def test_a_redirect_to_another_host_is_refused_without_a_request(api: FakeApi, other_api: FakeApi) -> None:
    elsewhere = other_api.url.replace("127.0.0.1", "localhost")
    api.routes["/metrics"] = redirect(f"{elsewhere}/metrics?key=secret")

    failure = failed(source(api))

    assert failure.kind == "redirect"
    assert failure.reason == f"a redirect to {elsewhere}/metrics is refused: it is on another host than 127.0.0.1"
    assert other_api.received == []
    assert len(api.received) == 1


def test_a_redirect_to_another_port_is_refused(api: FakeApi, other_api: FakeApi) -> None:
    api.routes["/metrics"] = redirect(f"{other_api.url}/metrics")

    assert "is on another port" in failed(source(api)).reason
    assert other_api.received == []


@pytest.mark.parametrize("location", ["file:///etc/passwd", "http://[x", "//xn--/", ""])
def test_a_redirect_without_a_valid_location_is_a_failure(api: FakeApi, location: str) -> None:
    api.routes["/metrics"] = redirect(location) if location else lambda exchange: exchange.send(b"", 302)

    assert failed(source(api)).kind == "redirect"
    assert len(api.received) == 1


def test_a_next_page_on_another_host_is_refused_without_a_request(api: FakeApi, other_api: FakeApi) -> None:
    api.routes["/members"] = fixed({"items": [], "next": f"{other_api.url}/members"})

    failure = failed(members(api, items="items", next="next"))

    assert (failure.kind, "the next page" in failure.reason) == ("redirect", True)
    assert other_api.received == []


@pytest.mark.parametrize(
    ("current", "target"),
    [
        ("https://a.example/x", "https://a.example/y?z"),
        ("https://a.example/", "https://A.EXAMPLE:443/"),
        ("http://a.example/", "https://a.example/"),
    ],
)
def test_the_same_host_and_the_upgrade_to_https_are_allowed(current: str, target: str) -> None:
    ensure_same_host(httpx.URL(current), httpx.URL(target), "the next page")


@pytest.mark.parametrize(
    ("current", "target", "problem"),
    [
        ("https://a.example/", "http://a.example/", "downgrades from https to http"),
        ("http://a.example:8080/", "https://a.example/", "is on another port than 8080"),
        ("http://a.example/", "https://a.example:8443/", "is on another port than 80"),
        ("https://a.example/", "https://b.a.example/", "is on another host than a.example"),
        ("https://a.example/", "https://a.example.b.example/", "is on another host than a.example"),
        ("https://a.example/", "https://u:p@a.example/", "contains a user or password"),
        ("https://a.example/", "ftp://a.example/", "is neither http nor https"),
    ],
)
def test_other_hosts_ports_and_schemes_are_refused(current: str, target: str, problem: str) -> None:
    with pytest.raises(FetchError) as refused:
        ensure_same_host(httpx.URL(current), httpx.URL(target), "the next page")

    assert refused.value.kind == "redirect"
    assert refused.value.reason.endswith(f" is refused: it {problem}")
    assert "u:p" not in refused.value.reason


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_proxy_variables_of_the_environment_are_ignored(
    api: FakeApi, other_api: FakeApi, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, other_api.url)
    monkeypatch.setenv(variable.lower(), other_api.url)
    api.routes["/metrics"] = GOOD

    assert keys(fetched(source(api))) == ["m"]
    assert other_api.received == []


def test_cookies_are_not_sent_back(api: FakeApi) -> None:
    def behave(exchange: Exchange) -> None:
        exchange.json([], headers={"Set-Cookie": "session=1; Path=/"})

    api.routes |= {"/first": redirect("/metrics"), "/metrics": behave}

    fetch({"a": source(api, "/first"), "b": source(api)}, {"per_host": 1})

    assert [request.headers.get("cookie") for request in api.received] == [None, None, None]


def test_headers_are_sent_as_configured(api: FakeApi) -> None:
    api.routes["/metrics"] = GOOD

    fetched(source(api, headers={"Accept": "text/json", "X-Club": "env:CLUB"}), environ={"CLUB": "flow"})

    sent = api.received[0].headers
    assert (sent["accept"], sent["x-club"], sent["user-agent"]) == ("text/json", "flow", "tiercel")


@pytest.mark.parametrize("environ", [{}, {"CLUB_TOKEN": ""}])
def test_a_missing_environment_variable_is_a_failure_that_names_it(api: FakeApi, environ: dict[str, str]) -> None:
    failure = failed(source(api, **WITH_TOKEN), environ=environ)

    assert (failure.kind, failure.reason) == ("configuration", "the environment variable CLUB_TOKEN is not set")
    assert api.received == []


def test_environment_variables_of_the_process_are_the_default(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUB_TOKEN", TOKEN)
    api.routes["/metrics"] = GOOD

    fetched(source(api, **WITH_TOKEN), environ=None)

    assert api.received[0].headers["authorization"] == TOKEN


@pytest.mark.parametrize("value", ["s3cr3t\nX: y", "s3cr3t\x00", "s3cr3t-ä", " s3cr3t"])
def test_an_invalid_header_value_is_not_repeated_in_the_failure(api: FakeApi, value: str) -> None:
    failure = failed(source(api, **WITH_TOKEN), environ={"CLUB_TOKEN": value})

    assert failure.reason == "the environment variable CLUB_TOKEN contains characters that are not allowed in a header"


def test_secrets_are_neither_reported_nor_logged(api: FakeApi, caplog: pytest.LogCaptureFixture) -> None:
    api.routes |= {"/good": GOOD, "/elsewhere": redirect("https://elsewhere.example/")}
    steps: list[SourceProgress] = []
    paths = ("/good", "/bad", "/elsewhere")
    sources = {path: source(api, f"{path}?key=s3cr3t-k3y", **WITH_TOKEN) for path in paths}

    with caplog.at_level(logging.DEBUG):
        outcomes = fetch(sources, environ={"CLUB_TOKEN": TOKEN}, on_progress=steps.append)

    assert {request.headers["authorization"] for request in api.received} == {TOKEN}
    assert "s3cr3t" not in f"{outcomes} {steps} {caplog.text}"
