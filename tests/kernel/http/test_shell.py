"""The shell of pages: a menu for whoever asks, the way to sign in, the switch of applications, and the search."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from kernel.contracts import Application, Route
from kernel.errors import ForbiddenError, UnavailableError
from kernel.http.auth import SignInPages
from kernel.http.pages import is_own_path
from kernel.http.request import Request
from kernel.http.response import TemplateResponse
from kernel.http.search import RESULTS_MAX, Search, SearchResult
from kernel.identity import Identity
from kernel.services import Services
from kernel.testing import Client, Result
from tests.kernel.fakes import Boot, CapturedLog, KeyAuthenticator, make_identity

HTML = {"Accept": "text/html"}
PAGE = b"""{% extends "kernel/base.html" %}{% block content %}content{% endblock %}"""
PAGES = SignInPages(sign_in="/in/", sign_out="/out/", account="/me/", switch="/switch/")
HOSTILE = "<script>alert(1)</script>\u202egnp.exe"
IDENTITIES = {
    "reader": make_identity("read", own_account=0),
    "staff": make_identity("read", "write", "staff", own_account=0, scheme="session", short_name=HOSTILE),
    "limited": make_identity("read", own_account=0, applications=frozenset({"acme"})),
    "unpaid": make_identity("read", own_account=0, has_active_plan=False),
}
FOUND = [SearchResult(f"{HOSTILE} {number}", f"/orders/{number}/", "an order") for number in range(RESULTS_MAX + 5)]


class View(msgspec.Struct, frozen=True):
    """Parameters of a page with a view for each application."""

    application: str | None = None
    colour: str | None = None
    page: int = 1


def show() -> TemplateResponse:
    """Show a page."""
    return TemplateResponse("shop/page.html")


def show_view(query: View) -> TemplateResponse:
    """Show a page with a view for each application."""
    return TemplateResponse("shop/page.html")


def refuse() -> TemplateResponse:
    """Refuse whoever asks."""
    raise ForbiddenError(detail="not for you")


class Selecting(KeyAuthenticator):
    """An authenticator that lets staff act for account 5 alone, as a cookie or a header says."""

    def select(self, request: Request, identity: Identity) -> Identity:
        if request.get_header("X-Account") != "5" and "tiercel_account=5" not in request.env.get("HTTP_COOKIE", ""):
            raise ForbiddenError(detail="there is no such account")
        return msgspec.structs.replace(identity, account=5, account_name="ACME <5>")


def find_nothing(*_: object) -> Sequence[SearchResult]:
    return []


def find_slowly(*_: object) -> Sequence[SearchResult]:
    raise UnavailableError("the orders are away")


def find_wrongly(*_: object) -> Sequence[SearchResult]:
    raise RuntimeError("a secret of the inside")


@pytest.fixture
def client(make_package: Callable[..., str], boot: Boot) -> Client:
    routes = [
        Route(path="/shop/", handler=show, policy="public", menu="Shop front"),
        Route(path="/me/", handler=show, policy="authenticated", menu="Me"),
        Route(path="/orders/", handler=show_view, policy="read", menu="Orders"),
        Route(path="/admin/", handler=show, policy="staff", menu="Administration"),
        Route(path="/refused/", handler=refuse, policy="read"),
    ]

    def register_routes(services: Services) -> Sequence[Route]:
        services.authenticate_with(Selecting(IDENTITIES), PAGES)
        return routes

    searches = [
        Search(name="Orders", find=lambda text, _identity, _limit: FOUND if text == "order" else []),
        Search(name="Of staff", find=lambda *_: FOUND[:1], policy="staff"),
        Search(name="Away", find=find_slowly, policy="staff"),
        Search(name="Broken", find=find_wrongly, policy="staff"),
        Search(name="Empty", find=find_nothing),
    ]
    applications = [Application(slug="acme", name="ACME"), Application(slug="other", name="Other")]
    package = make_package(
        "shop",
        files={"templates/page.html": PAGE},
        register_routes=register_routes,
        register_searches=lambda services: searches,
        register_applications=lambda services: applications,
    )
    return boot(package, auth="required")


def get(client: Client, path: str, key: str | None = None, **more: str) -> Result:
    return client.get(path, headers={**HTML, **more, **({} if key is None else {"X-Key": key})})


def page(client: Client, path: str, key: str | None = None, **more: str) -> str:
    answer = get(client, path, key, **more)
    assert answer.status == 200, answer.content
    return answer.content.decode()


def menu(text: str) -> list[str]:
    """Return the paths in the menu of a page."""
    return re.findall(r'<li><a href="([^"]*)"', text[text.index("<nav") : text.index("</nav>")])


@pytest.mark.parametrize(
    ("key", "paths"),
    [
        (None, ["/shop/"]),
        ("unknown", ["/shop/"]),
        ("unpaid", ["/shop/", "/me/"]),
        ("reader", ["/shop/", "/me/", "/orders/"]),
        ("staff", ["/shop/", "/me/", "/orders/", "/admin/"]),
    ],
)
def test_the_menu_has_what_the_requester_may_open(key: str | None, paths: list[str], client: Client) -> None:
    # Of a public page, and of the page of an error.
    assert menu(page(client, "/shop/", key)) == paths
    assert menu(get(client, "/nowhere/", key).content.decode()) == paths
    for path in paths:
        assert get(client, path, key).status == 200


def test_a_public_page_says_who_has_signed_in_and_is_not_for_shared_caches(client: Client) -> None:
    own, strange = get(client, "/shop/", "staff"), get(client, "/shop/")

    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202egnp.exe" in own.content.decode()
    assert 'action="/out/"' in own.content.decode()
    assert "no-store" in own.headers["cache-control"]
    assert 'href="/in/?next=%2Fshop%2F"' in strange.content.decode()
    assert strange.headers["cache-control"] == "no-cache"


def test_a_person_is_sent_to_sign_in_and_a_program_is_told(client: Client) -> None:
    person = get(client, "/orders/?colour=red%26blue")

    assert (person.status, person.headers["location"]) == (303, "/in/?next=%2Forders%2F%3Fcolour%3Dred%2526blue")
    assert "www-authenticate" not in person.headers
    assert "no-store" in person.headers["cache-control"]
    program = client.get("/orders/")
    assert (program.status, program.json()["code"], program.headers["www-authenticate"]) == (
        401,
        "unauthorized",
        "X-Key",
    )
    assert get(client, "/orders/", "unknown").status == 303
    # A part of a page, and what is sent, would be lost.
    assert get(client, "/orders/", **{"X-Panel": "orders"}).status == 401
    assert client.post("/orders/", headers=HTML).status == 405


def test_a_refusal_says_who_is_signed_in_and_offers_to_be_another(client: Client) -> None:
    refused = get(client, "/refused/", "staff")

    assert refused.status == 403
    text = refused.content.decode()
    assert "You are signed in as" in text
    assert 'href="/in/?next=%2Frefused%2F">Sign in as somebody else<' in text
    assert "not for you" in text


def test_whoever_acts_for_an_account_sees_it_and_the_way_back(client: Client) -> None:
    # Of a public page: what belongs to the account is shown only if that can be recorded.
    acting = page(client, "/shop/", "staff", Cookie="tiercel_account=5")
    assert get(client, "/orders/", "staff", Cookie="tiercel_account=5").status == 503
    refused = get(client, "/orders/", "staff", Cookie="tiercel_account=6")

    form = acting[acting.index('<form class="acting"') : acting.index("</form>", acting.index('class="acting"'))]
    assert "ACME &lt;5&gt;" in form
    assert 'action="/switch/"' in form
    assert 'value="/shop/"' in form
    # Who may not act for it any more can leave it.
    assert refused.status == 403
    assert 'action="/switch/"' in refused.content.decode()
    assert 'class="acting"' not in page(client, "/orders/", "staff")
    # A program says with each request for whom it acts.
    assert 'class="acting"' not in page(client, "/me/", "reader", Cookie="tiercel_account=6")


def test_the_switch_of_applications_keeps_what_the_page_shows(client: Client) -> None:
    shown = page(client, "/orders/?colour=red&application=acme&page=3", "staff")

    switch = shown[shown.index('<details class="switch">') :]
    links = {name: html.unescape(href) for href, name in re.findall(r'<li><a href="([^"]*)"[^>]*>([^<]*)<', switch)}
    assert links == {
        "All data": "/orders/?colour=red",
        "ACME": "/orders/?colour=red&application=acme",
        "Other": "/orders/?colour=red&application=other",
    }
    assert "Application: <strong>ACME</strong>" in switch
    assert "/orders/?application=acme" in menu(shown)
    assert '<details class="switch">' not in page(client, "/shop/", "staff")


def test_the_switch_has_the_applications_that_the_requester_may_read(client: Client) -> None:
    shown = page(client, "/orders/?application=other", "limited")

    switch = shown[shown.index('<details class="switch">') :]
    assert re.findall(r'<li><a href="[^"]*"[^>]*>([^<]*)<', switch) == ["ACME"]
    assert menu(shown)[-1] == "/orders/"


def search(client: Client, text: str, key: str) -> dict[str, Any]:
    answer = client.get(f"/search/?q={text}", headers={"X-Key": key})
    assert answer.status == 200, answer.content
    return {each["name"]: each for each in answer.json()["groups"]}


def test_the_search_finds_pages_applications_and_what_plugins_know(client: Client) -> None:
    assert [each["path"] for each in search(client, "sh", "reader")["Pages"]["results"]] == [
        "/shop/",
        "/me/",
        "/orders/",
    ]
    assert search(client, "acme", "reader")["Applications"]["results"] == [
        {"title": "ACME", "path": "/orders/?application=acme", "detail": "Orders"}
    ]
    assert "Applications" not in search(client, "other", "limited")
    assert [each["path"] for each in search(client, "order", "reader")["Orders"]["results"]] == [
        f"/orders/{number}/" for number in range(RESULTS_MAX)
    ]
    assert search(client, "admin", "reader") == {}
    assert search(client, "", "staff") == {}
    assert client.get("/search/?q=order").status == 401


def test_a_search_that_fails_leaves_the_others_and_nobody_uses_those_of_others(
    client: Client, captured: CapturedLog
) -> None:
    found = search(client, "order", "staff")
    shown = page(client, "/search/?q=order", "staff")

    assert list(found) == ["Pages", "Orders", "Of staff", "Away", "Broken"]
    assert found["Away"]["error"] == "The service cannot answer at the moment. Try again."
    assert "secret" not in shown
    assert "a secret of the inside" in str(captured.events("search_failed")[1]["exc_info"])
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202egnp.exe 3" in shown
    assert 'value="order"' in shown
    assert set(search(client, "order", "unpaid")) == set()


@pytest.mark.parametrize(
    ("path", "is_own"),
    [
        ("/", True),
        ("/requests/?last=7d&q=%2F", True),
        ("", False),
        ("requests/", False),
        ("//evil.example/", False),
        ("/\\evil.example/", False),
        ("/\t/evil.example/", False),
        ("/\n/evil.example/", False),
        ("https://evil.example/", False),
        ("javascript:alert(1)", False),
    ],
)
def test_only_paths_of_the_service_are_own(path: str, is_own: bool) -> None:
    assert is_own_path(path) is is_own
