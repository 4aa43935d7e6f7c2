"""Pages: rendered from templates that plugins ship, with a strict policy, and for clients that want them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from kernel.contracts import Route
from kernel.http.response import Response, TemplateResponse
from kernel.testing import Client
from tests.kernel.fakes import Boot, CapturedLog

Pages = Callable[..., Client]
# What browsers, and what libraries send by themselves, among others.
PEOPLE = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "text/html",
    "text/html, application/json;q=0.9",
)
PROGRAMS = (
    "*/*",
    "application/json",
    "application/json, text/html",
    "text/html;q=0.8, application/json",
    "text/html;q=0",
    "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2",
    "text/html;;;q=x",
)
STRICT = {
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",
    "connect-src 'self'",
    "font-src 'self'",
    "form-action 'self'",
    "base-uri 'none'",
    "frame-ancestors 'none'",
}
TEMPLATE = b"""{% extends "kernel/base.html" %}
{% block title %}Orders{% endblock %}
{% block content %}<ul>{% for each in orders %}<li>{{ each }}</li>{% endfor %}</ul>{% endblock %}
"""


def show() -> TemplateResponse:
    """Show what could be taken for HTML."""
    return TemplateResponse("shop/orders.html", {"orders": ["<script>alert(1)</script>"]})


def show_one(id: int) -> TemplateResponse:  # noqa: A002 - the name in the path
    """Show one order."""
    return TemplateResponse("shop/orders.html", {"orders": [id]})


def show_created() -> Response[TemplateResponse]:
    """Show a page with a status of its own."""
    return Response(show(), 201, {"Content-Security-Policy": "default-src 'self'"})


def show_either() -> TemplateResponse:
    """Show a page to people and data to programs."""
    return TemplateResponse("shop/orders.html", {"orders": []}, data={"orders": []})


def show_nothing() -> TemplateResponse:
    """Forget a variable."""
    return TemplateResponse("shop/orders.html")


@pytest.fixture
def pages(make_package: Callable[..., str], boot: Boot) -> Pages:
    """Boot a service of one plugin with these routes, and a template."""

    def start(*routes: Route, **values: Any) -> Client:
        hooks = {"register_routes": lambda services: routes}
        return boot(make_package("shop", files={"templates/orders.html": TEMPLATE}, **hooks), **values)

    return start


def get_route(path: str, handler: Callable[..., Any], **given: Any) -> Route:
    return Route(path=path, handler=handler, policy="public", **given)


def test_a_page_is_escaped_and_has_a_strict_policy(pages: Pages) -> None:
    answer = pages(get_route("/orders/", show)).get("/orders/", headers={"X-Request-ID": "my-id"})

    page = answer.content.decode()
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "<li>&lt;script&gt;alert(1)&lt;/script&gt;</li>" in page
    assert "<title>Orders · Tiercel</title>" in page
    assert "my-id" in page
    assert set(answer.headers["content-security-policy"].split("; ")) == STRICT
    assert (answer.headers["x-frame-options"], answer.headers["referrer-policy"]) == ("DENY", "same-origin")
    assert answer.headers["cache-control"] == "no-cache"


def test_a_page_can_have_a_status_and_headers(pages: Pages) -> None:
    answer = pages(get_route("/orders/", show_created)).get("/orders/")

    assert (answer.status, answer.headers["content-security-policy"]) == (201, "default-src 'self'")
    assert b"<ul>" in answer.content


def test_the_menu_has_the_pages_with_a_label(pages: Pages) -> None:
    client = pages(
        get_route("/orders/", show, menu="Orders & more", aliases=("/all-orders/",)),
        get_route("/created/", show_created, menu="Created"),
        get_route("/hidden/", show),
        get_route("/data/", lambda: 1, menu="Data"),
    )

    page = client.get("/orders/").content.decode()

    assert '<a href="/orders/" aria-current="page">Orders &amp; more</a>' in page
    assert '<a href="/created/">Created</a>' in page
    assert "/all-orders/" not in page
    assert "/hidden/" not in page
    assert "/data/" not in page


def test_the_menu_is_grouped_by_plugin_and_knows_what_a_page_belongs_to(pages: Pages) -> None:
    client = pages(
        get_route("/orders/", show, menu="Orders"),
        get_route("/orders/late/", show, menu="Late"),
        get_route("/orders/{id}/", show_one),
        get_route("/orders-of-others/", show),
    )

    pages_below = {path: client.get(path).content.decode() for path in ("/orders/7/", "/orders-of-others/")}

    assert re.findall(r"<summary>([^<]*)</summary>\s*<ul", pages_below["/orders/7/"]) == ["Shop"]
    assert re.findall(r'href="([^"]*)" aria-current="true"', pages_below["/orders/7/"]) == ["/orders/"]
    assert "aria-current" not in pages_below["/orders-of-others/"]


def test_a_long_menu_unfolds_the_pages_of_the_plugin_that_is_shown_though_it_lists_not_the_page(
    make_package: Callable[..., str], boot: Boot
) -> None:
    routes = [get_route(f"/orders/{number}/", show, menu=f"Orders {number}") for number in range(20)]
    shop = make_package("shop", files={"templates/orders.html": TEMPLATE}, register_routes=lambda services: routes)
    bank = make_package(
        "bank",
        files={"templates/orders.html": TEMPLATE},
        register_routes=lambda services: [
            get_route("/accounts/", show, menu="Accounts"),
            get_route("/rates/{id}/", show_one),
        ],
    )
    client = boot(shop, bank)

    def unfolded(path: str) -> list[str]:
        page = client.get(path).content.decode()
        return re.findall(r"<details class=\"group[^\"]*\" open>\s*<summary>([^<]*)<", page)

    assert unfolded("/orders/3/") == ["Shop"]
    assert unfolded("/accounts/") == ["Bank"]
    assert unfolded("/rates/7/") == ["Bank"]
    assert unfolded("/nowhere/") == []


def test_one_path_has_a_page_for_people_and_data_for_programs(pages: Pages) -> None:
    client = pages(get_route("/orders/", show_either), get_route("/api/v1/orders/", show_either))

    answers = {accept: client.get("/orders/", headers={"Accept": accept}) for accept in (*PEOPLE, *PROGRAMS)}
    enveloped = client.get("/api/v1/orders/").json()

    kinds = {accept: answer.headers["content-type"] for accept, answer in answers.items()}
    assert kinds == dict.fromkeys(PEOPLE, "text/html; charset=utf-8") | dict.fromkeys(PROGRAMS, "application/json")
    assert all("Accept" in answer.headers["vary"].split(", ") for answer in answers.values())
    assert answers["*/*"].json() == enveloped["data"] == client.get("/orders/").json() == {"orders": []}


def test_a_page_that_lacks_a_variable_is_an_error_and_not_half_a_page(pages: Pages, captured: CapturedLog) -> None:
    answer = pages(get_route("/orders/", show_nothing)).get("/orders/")

    assert (answer.status, answer.json()["code"]) == (500, "internal")
    (event,) = captured.events("request_failed")
    assert "'orders' is undefined" in str(event["exc_info"])
