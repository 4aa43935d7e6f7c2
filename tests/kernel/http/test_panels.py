"""Panels: one that fails leaves the page and the others standing, and each can be had alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from kernel.contracts import Route
from kernel.errors import UnavailableError
from kernel.http.panels import Panel
from kernel.http.response import TemplateResponse
from kernel.testing import Client
from tests.kernel.fakes import Boot, CapturedLog

PAGE = b"""{% extends "kernel/base.html" %}
{% block content %}{{ panel("good") }}{{ panel("away") }}{{ panel("broken") }}{{ panel("none") }}{% endblock %}
"""
LIST = b"""{% from "kernel/components.html" import empty %}
{% for each in items %}<b>{{ each }}</b>{% else %}{{ empty("No <items> yet") }}{% endfor %}
"""
TITLE = "Orders & more"


def load_good() -> Mapping[str, Any]:
    return {"items": ["<script>alert(1)</script>"]}


def load_away() -> Mapping[str, Any]:
    raise UnavailableError(detail="the <database> is away")


def load_broken() -> Mapping[str, Any]:
    raise RuntimeError("a secret of the inside")


def load_slowly() -> Mapping[str, Any]:
    time.sleep(1.1)
    return load_good()


def make_handler(load: Callable[[], Mapping[str, Any]]) -> Callable[[], TemplateResponse]:
    def show() -> TemplateResponse:
        """Show four panels, the first of which loads what is given."""
        loads = {"good": load, "away": load_away, "broken": load_broken, "none": lambda: {"items": []}}
        panels = {name: Panel(each, "shop/list.html", TITLE, refresh_s=30) for name, each in loads.items()}
        return TemplateResponse("shop/page.html", panels=panels)

    return show


@pytest.fixture
def client(make_package: Callable[..., str], boot: Boot) -> Client:
    routes = [
        Route(path="/panels/", handler=make_handler(load_good), policy="public"),
        Route(path="/slow/", handler=make_handler(load_slowly), policy="public"),
    ]
    files = {"templates/page.html": PAGE, "templates/list.html": LIST}
    package = make_package("shop", files=files, register_routes=lambda services: routes)
    return boot(package, http={"request_timeout_s": 1})


def sections(page: str) -> dict[str, str]:
    """Return the HTML of panels by name."""
    parts = page.split("</section>")[:-1]
    return {part.split('data-panel="')[1].split('"')[0]: part[part.index("<section") :] for part in parts}


def test_a_panel_that_fails_leaves_the_others_standing(client: Client, captured: CapturedLog) -> None:
    answer = client.get("/panels/", headers={"X-Request-ID": "my-id"})

    found = sections(answer.content.decode())
    assert (answer.status, list(found)) == (200, ["good", "away", "broken", "none"])
    assert "X-Panel" in answer.headers["vary"].split(", ")
    assert "<b>&lt;script&gt;alert(1)&lt;/script&gt;</b>" in found["good"]
    assert "Orders &amp; more" in found["good"]
    assert 'data-refresh-s="30"' in found["good"]
    assert "the &lt;database&gt; is away" in found["away"]
    assert "No &lt;items&gt; yet" in found["none"]
    for name in ("away", "broken"):
        assert "my-id" in found[name]
        assert '<a class="button quiet" href="" data-panel-retry>' in found[name]
    assert "secret" not in answer.content.decode()
    away, broken = captured.events("panel_failed")
    assert (away["panel"], away["code"], broken["panel"]) == ("away", "unavailable", "broken")
    assert "a secret of the inside" in str(broken["exc_info"])


def test_a_panel_can_be_had_alone(client: Client) -> None:
    alone = client.get("/panels/", headers={"X-Panel": "good"})
    unknown = client.get("/panels/", headers={"X-Panel": "other"})

    assert list(sections(alone.content.decode())) == ["good"]
    assert "<html" not in alone.content.decode()
    assert "X-Panel" in alone.headers["vary"].split(", ")
    assert (unknown.status, unknown.json()["code"]) == (404, "not_found")


def test_panels_share_the_deadline_of_the_request(client: Client) -> None:
    answer = client.get("/slow/")

    found = sections(answer.content.decode())
    assert answer.status == 200
    assert "<b>" in found["good"]
    assert all("took longer than 1 s" in found[name] for name in ("away", "broken", "none"))


def test_what_is_slow_is_left_to_a_script_that_runs(client: Client) -> None:
    plain = client.get("/slow/")
    scripted = client.get("/slow/", headers={"Cookie": "scripts=on"})

    found = sections(scripted.content.decode())
    assert "<b>" in found["good"]
    assert all("data-deferred" in found[name] and "Loading" in found[name] for name in ("away", "broken", "none"))
    # Should scripts be off by now, the next request gets everything.
    assert scripted.headers["set-cookie"].startswith("scripts=;")
    assert "data-deferred" not in plain.content.decode()
    assert "set-cookie" not in plain.headers
    alone = client.get("/panels/", headers={"X-Panel": "none", "Cookie": "scripts=on"})
    assert "No &lt;items&gt; yet" in alone.content.decode()
