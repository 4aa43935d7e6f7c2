"""Pages of community figures: they show what the API says, to whom it says it; sources are fetched by a button."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import pytest

from kernel.testing import Client
from plugins.club.jobs import JOB
from plugins.club.models import HeroMetric, MostPresent
from tests.applications import publish
from tests.conftest import Serve
from tests.plugins.accounts.factories import create_key, with_key
from tests.plugins.club.factories import PLUGINS, refresh, serve_club, table
from tests.plugins.club.fakes import FakeApi, fixed, member, metric, missing
from tests.plugins.club.fetching import members, source
from tests.plugins.trace.test_pages import HOSTILE, HTML, links, page, words

FORM = {**HTML, "Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}


def presence(feature: str, name: str, count: int) -> MostPresent:
    """Make a member."""
    return MostPresent(id=f"{feature}/{name}", feature=feature, member=name, name=name.capitalize(), count=count)


@pytest.fixture(scope="module")
def client(module_serve: Serve) -> Client:
    """A service with two versions of both datasets, which no test changes."""
    served = module_serve(plugins=PLUGINS)
    publish(served, "hero-metrics", HeroMetric(metric="a", name="Active", value=200, unit="members"))
    publish(
        served,
        "hero-metrics",
        HeroMetric(metric="a", name="Active", value=250, unit="members"),
        HeroMetric(metric="h", name=HOSTILE[:200], value=-0.5, unit="<b>"),
    )
    publish(served, "most-present", presence("flow", "ada", 9), presence("flow", "bo", 5), presence("grid", "cy", 20))
    publish(
        served,
        "most-present",
        presence("flow", "ada", 10),
        presence("flow", "bo", 30),
        presence("flow", "di", 1),
        presence("grid", "cy", 20),
        presence("grid <b>ü", "x", 1),
    )
    return served


def rows(shown: str) -> list[str]:
    """Return the texts of the rows of the first table."""
    return [words(row) for row in re.findall(r"<tr>(.*?)</tr>", shown.partition("<tbody>")[2], re.DOTALL)]


def test_key_figures_have_their_change_and_course(client: Client) -> None:
    shown = page(client, "/club/")

    assert "Active 250 members ▲ 50 (25.0 %) compared with version 1" in words(shown)
    assert re.search(r'aria-label="2 values since [^"]*, from 200 to 250"><path d="M0.0 24.0L120.0 0.0"', shown)
    assert "/club/hero-metrics/a/" in links(shown)
    assert "&lt;script&gt;alert(1)" in shown
    assert "\\u202egnp.exe" in shown
    assert not re.search("<script>|\u202e|\x1b|<b>", shown)


def test_features_and_members_are_ranked_as_by_the_api(client: Client) -> None:
    shown = page(client, "/club/")
    features = client.get("/club/public/features/").json()["data"]
    members_of_flow = client.get("/club/public/features/flow/").json()["data"]
    flow = page(client, "/club/features/flow/")

    by_total = sorted(features, key=lambda each: -each["total"])
    found = rows(shown)
    assert [each["feature"] for each in by_total][:2] == ["flow", "grid"]
    assert found[0] == "1 ▲ up by 1 flow 41 ▲ up by 27 3 +1 joined \N{MINUS SIGN}0 left Bo 30"
    assert found[1] == "2 ▼ down by 1 grid 20 = unchanged 1 +0 joined \N{MINUS SIGN}0 left Cy 20"
    assert found[2].startswith("3 new grid <b>ü 1 new")
    assert [row.split()[0] for row in rows(flow)] == [str(each["rank"]) for each in members_of_flow]
    assert rows(flow) == ["1 ▲ up by 1 Bo 30 ▲ up by 25", "2 ▼ down by 1 Ada 10 ▲ up by 1", "3 new Di 1 \N{EN DASH}"]
    assert "/club/most-present/flow%2Fbo/" in links(flow)
    odd = f"/club/features/{quote('grid <b>ü')}/"
    assert odd in links(shown)
    assert "grid &lt;b&gt;ü" in page(client, odd)
    assert page(client, "/club/features/nowhere/", status=404)


def test_an_application_sees_its_own(client: Client) -> None:
    shown = page(client, "/club/?application=skyflow")

    assert [row.split()[3] for row in rows(shown)] == ["flow"]
    assert "Skyflow does not see 2 of 5" in words(shown)
    assert {"/club/hidden/?application=skyflow#most-present", "/club/public/skyflow/features/"} <= links(shown)
    assert "/club/features/flow/?application=skyflow" in links(shown)
    assert page(client, "/club/features/grid/?application=skyflow", status=404)
    assert page(client, "/club/?application=nobody", status=404)


def test_items_and_versions_have_the_pages_of_all_datasets(client: Client) -> None:
    assert "/club/versions/compare/?dataset=hero-metrics&from=1&to=2" in links(page(client, "/club/versions/"))
    assert "Times present" in page(client, "/club/most-present/?feature=flow")
    assert "/club/hero-metrics/a/" in links(page(client, "/search/?q=activ"))


def test_pages_without_data_say_what_to_do(serve: Serve) -> None:
    client = serve(plugins=PLUGINS)

    assert words(page(client, "/club/")).count("No sources are configured") == 2
    sources = words(page(client, "/club/sources/"))
    assert "[club.sources]" in sources
    assert "Fetch all now" not in sources


def test_a_panel_that_fails_leaves_the_other(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plugins.club.pages.rank_metrics", lambda items, previous: 1 / 0)

    shown = page(client, "/club/")

    assert 'role="alert"' in shown
    assert rows(shown)[0].startswith("1 ▲ up by 1 flow")


# --- sources ---------------------------------------------------------------------------------------------------------


def test_sources_say_how_fresh_they_are_and_why_not(serve: Serve, api: FakeApi) -> None:
    api.routes |= {"/metrics": fixed([metric("joined", 7), metric("bad", "x")]), "/members": fixed([member("ada")])}
    client = serve_club(serve, {"heroes": source(api), "flow": members(api)})
    assert "never" in words(page(client, "/club/sources/"))
    refresh(client)
    fresh = page(client, "/club/sources/")
    api.routes["/members"] = missing
    refresh(client)
    failing = page(client, "/club/sources/")

    assert "The last fetch of every source succeeded" in fresh
    assert rows(fresh)[0].startswith(f"heroes hero-metrics from {api.host} ok 1 1 rejected")
    assert "every 15m" in fresh
    assert "1 source needs attention" in failing
    assert "failing serves old data 1" in rows(failing)[1]
    assert "answered 404 Not Found" in rows(failing)[1]
    assert "Retry flow" in rows(failing)[1]


def test_staff_fetch_one_source_or_all(serve: Serve, api: FakeApi) -> None:
    configured = {"heroes": source(api), "others": source(api, "/others")}
    client = serve(plugins=["accounts", *PLUGINS], auth="required", club=table(configured))
    staff, reader, writer = (
        with_key(create_key(client, *scopes))
        for scopes in (("staff", "read", "write"), ("staff", "read"), ("read", "write"))
    )

    def send(key: dict[str, str], content: bytes, **more: str) -> Any:
        return client.request("POST", "/club/sources/", content=content, headers={**FORM, **key, **more})

    assert client.get("/club/sources/", headers={**HTML, **writer}).status == 403
    assert send(writer, b"sources=heroes").status == 403
    assert send(reader, b"sources=heroes").status == 403
    assert "Fetch all now" not in page(client, "/club/sources/", reader)
    assert send(staff, b"sources=heroes", **{"Sec-Fetch-Site": "cross-site"}).status == 403
    assert send(staff, b"sources=nobody").status == 404
    answer = send(staff, b"sources=heroes")
    assert (answer.status, answer.headers["location"]) == (303, "/club/sources/")
    [run] = client.service.shared.jobs.list(name=JOB)
    assert run.parameters == {"sources": ["heroes"]}
    followed = page(client, "/club/sources/", staff)
    assert f'data-job="{run.id}" data-events="/api/v1/jobs/{run.id}/events/"' in followed
    # All cannot wait beside it.
    conflict = send(staff, b"")
    assert conflict.status == 409
    assert 'role="alert"' in conflict.content.decode()


def test_a_key_of_one_application_sees_no_other(serve: Serve) -> None:
    client = serve(plugins=["accounts", *PLUGINS], auth="required")
    publish(client, "most-present", presence("flow", "ada", 9), presence("grid", "cy", 20))
    key = with_key(create_key(client, "read", applications=("skyflow",)))

    assert [row.split()[1] for row in rows(page(client, "/club/?application=skyflow", key))] == ["flow"]
    for path in ("", "?application=nexus", "features/flow/", "versions/", "sources/", "hidden/?application=nexus"):
        assert client.get(f"/club/{path}", headers={**HTML, **key}).status == 403, path
    assert client.get("/club/").status == 401
