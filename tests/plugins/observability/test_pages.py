"""Pages of request logs: they show what the API says, to whom it says it, and survive whatever is in it."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from kernel.testing import Client
from tests.conftest import Serve
from tests.plugins.accounts.factories import create_account, create_key, with_key
from tests.plugins.observability.analytics.factories import container_of, ingest
from tests.plugins.observability.conftest import QUIET
from tests.plugins.observability.engines import one_engine
from tests.plugins.observability.events import make_event

pytestmark = one_engine

HTML = {"Accept": "text/html"}
HOUR = timedelta(hours=1)
NOW = datetime.now(UTC).replace(minute=30, second=0, microsecond=0)
# Markup, a text that turns the direction of writing round, a control character, and no place to break the line.
HOSTILE = "/<script>alert(1)</script>\"'&\u202egnp.exe\x1b[2J" + "x" * 200
WINDOW = f"start={(NOW - 5 * HOUR):%Y-%m-%dT%H:%M}&end={NOW:%Y-%m-%dT%H:%M}"


def timed(hours: float, **fields: Any) -> dict[str, Any]:
    """Make an event some hours ago."""
    return make_event(time=(NOW - hours * HOUR).isoformat(), **fields)


@pytest.fixture(scope="module")
def client(shared: Client) -> Client:
    """A service with events of this and of the period before."""
    ingest(
        shared,
        [timed(hour, latency_ms=100 * hour, endpoint="/orders", user_ref=str(hour)) for hour in (1, 2, 3, 4)]
        + [timed(2, endpoint="/pay", status_code=503, latency_ms=900, trace_id="a trace/1")]
        + [timed(1.5, endpoint=HOSTILE, service="</title>", trace_id="a trace/1", tags={"k": "<b>\u202e"})]
        + [timed(7, endpoint="/orders") for _ in range(3)],
    )
    container_of(shared).rollups.refresh()
    return shared


def page(client: Client, path: str, headers: dict[str, str] | None = None) -> str:
    """Return a page."""
    answer = client.get(path, headers={**HTML, **(headers or {})})
    assert answer.status == 200, answer.content
    assert answer.headers["content-type"].startswith("text/html")
    return answer.content.decode()


def links(text: str, path: str) -> list[str]:
    """Return the links of a page that lead to a path."""
    return [html.unescape(each) for each in re.findall(r'href="([^"]*)"', text) if urlsplit(each).path == path]


def test_the_overview_has_the_figures_of_the_api(client: Client) -> None:
    kpis = client.get(f"/api/requests/kpis/?{WINDOW}&approx=true").json()
    shown = page(client, f"/requests/?{WINDOW}")
    tiles = dict(re.findall(r"<dt><bdi>([^<]*)</bdi></dt><dd><bdi>([^<]*)</bdi></dd>", shown))

    assert kpis["hits"] == 6
    # What is to come of the window does not count.
    assert tiles["Requests per minute"].startswith("0.02")
    assert "<span>6 requests</span>" in shown
    # One of six failed.
    assert '<span class="badge bad">Failing</span>' in shown
    assert tiles["Error rate"] == f"{kpis['error_rate'] * 100:.1f} %"
    assert tiles["Latency p95"] == f"{kpis['p95_latency_ms']:.0f} ms"
    assert re.findall(r'"badge bad">(\d+)<', shown) == ["503"]
    # Twice as many as in the period before.
    assert "+100 %" in shown


def test_charts_show_every_request_and_no_data_where_there_was_none(client: Client) -> None:
    shown = page(client, f"/requests/?{WINDOW}&endpoint=/orders&before=none")
    steps = client.get(f"/api/requests/timeseries/?{WINDOW}&endpoint=/orders&step=5m").json()["steps"]
    requests, _, latency, _ = re.findall(r'<figure class="chart".*?</figure>', shown, re.DOTALL)

    assert requests.count('<rect class="bar-good"') == sum(step["hits"] > 0 for step in steps) == 4
    # Each stands alone: no line leads over the gaps.
    assert latency.count("<circle") == 3 * 4
    assert 'class="line' not in latency
    assert 'role="img"' in latency


def test_the_period_before_is_laid_over_charts_and_can_be_left_out(client: Client) -> None:
    shown = {before: page(client, f"/requests/?{WINDOW}&before={before}") for before in ("period", "week", "none")}

    assert all("<th" in each for each in shown.values())
    assert [f">{name} before</th>" in shown[name] for name in ("period", "week")] == [True, True]
    assert '<td class="number">0.6 /min</td>' in shown["period"]
    assert "tone-before" not in shown["none"]
    assert 'class="change' not in shown["none"]
    assert 'aria-current="true">Week before' in shown["week"]


def test_a_cell_of_the_heat_map_leads_to_its_requests(client: Client) -> None:
    shown = page(client, f"/requests/?{WINDOW}&endpoint=/orders")
    cells = re.findall(r'<a href="([^"]*)" tabindex="-1"><title>[^<]*: (\d+)</title><rect class="heat heat-', shown)

    assert sum(int(count) for _, count in cells) == 4
    for href, count in cells:
        query = urlsplit(html.unescape(href)).query
        assert client.get(f"/api/requests/?{query}").json()["count"] == int(count)
        assert parse_qs(query)["endpoint"] == ["/orders"]


def test_a_latency_asks_for_its_share_and_a_percentile_for_its_line(client: Client) -> None:
    shown = page(client, f"/requests/?{WINDOW}&endpoint=/orders&latency_ms=300&percentile=99.9")
    shares = [parse_qs(urlsplit(each).query) for each in links(shown, "/requests/")]

    assert "75 % took at most 300 ms, 25 % longer" in shown
    assert 'class="level"' in shown
    assert "<dt><bdi>Latency p99.9</bdi></dt><dd><bdi>400 ms</bdi></dd>" in shown
    assert ">p99.9</th>" in shown
    # That share is a percentile, and each row of the heat map has one.
    assert any(each.get("percentile") == ["75"] and "latency_ms" not in each for each in shares)
    assert {"100", "200", "300", "500"} <= {each["latency_ms"][0] for each in shares if "latency_ms" in each}


def test_a_status_narrows_everything(client: Client) -> None:
    shown = page(client, f"/requests/?{WINDOW}&status_class=5xx")
    leads = [parse_qs(urlsplit(each).query) for each in links(shown, "/requests/list/")]

    assert "<span>1 request</span>" in shown
    assert "Newest requests" in shown
    # Read from the events, so latencies are known.
    assert "<dt><bdi>Latency p95</bdi></dt><dd><bdi>900 ms</bdi></dd>" in shown
    assert all(each["status_class"] == ["5xx"] for each in leads if each)
    longer = page(client, f"/requests/?start={NOW - 10 * 24 * HOUR:%Y-%m-%d}&status_class=5xx")
    assert "up to two days" in longer
    assert "<dt><bdi>Latency p95</bdi></dt><dd><bdi>\N{EN DASH}</bdi></dd>" in longer


def test_an_endpoint_has_methods_and_statuses(client: Client) -> None:
    shown = page(client, f"/requests/?{WINDOW}&service=billing&endpoint=/pay")

    assert '<h1 class="endpoint"><bdi>/pay</bdi>' in shown
    assert [f'data-panel="{name}"' in shown for name in ("methods", "statuses", "busiest")] == [True, True, False]
    assert any("status_code=503" in each for each in links(shown, "/requests/"))


def test_only_a_window_that_ends_now_refreshes(client: Client) -> None:
    def intervals(query: str) -> set[str]:
        return set(re.findall(r'data-refresh-s="(\d+)"', page(client, f"/requests/?{query}")))

    assert [intervals(query) for query in ("last=6h", "last=24h", "last=7d")] == [{"30"}, {"60"}, {"300"}]
    assert intervals(WINDOW) == set()


def test_moves_lead_to_neighbouring_windows(client: Client) -> None:
    def spans(query: str) -> dict[str, tuple[datetime, datetime]]:
        found = re.findall(r'<a href="([^"]*)">(Earlier|Later|Zoom out)</a>', page(client, f"/requests/?{query}"))
        asked = {label: parse_qs(urlsplit(html.unescape(href)).query) for href, label in found}
        return {
            label: (datetime.fromisoformat(each["start"][0]), datetime.fromisoformat(each["end"][0]))
            for label, each in asked.items()
        }

    start, end = NOW - 8 * HOUR, NOW - 6 * HOUR
    found = spans(f"start={start:%Y-%m-%dT%H:%M}&end={end:%Y-%m-%dT%H:%M}&service=billing")
    around = found["Zoom out"]

    assert list(found) == ["Earlier", "Later", "Zoom out"]
    assert abs(found["Earlier"][1] - start) < timedelta(seconds=1)
    assert abs(found["Later"][0] - end) < timedelta(seconds=1)
    assert abs((around[1] - around[0]) - 6 * HOUR) < timedelta(seconds=1)
    assert "Later" not in spans("last=24h")


def test_forms_suggest_what_there_is(client: Client) -> None:
    shown = page(client, f"/requests/?{WINDOW}&service=billing")
    lists = dict(re.findall(r'<datalist id="(\w+)">(.*?)</datalist>', shown, re.DOTALL))

    assert '<input id="endpoint" name="endpoint" type="text" value="" list="endpoints">' in shown
    assert '<option value="/pay">' in lists["endpoints"]
    assert '<option value="&lt;/title&gt;">' in lists["services"]


def test_links_keep_filters_and_lead_down(client: Client) -> None:
    shown = page(client, f"/requests/?{WINDOW}&service=billing")
    down = [parse_qs(urlsplit(each).query) for each in links(shown, "/requests/")]
    lists = [each for each in links(shown, "/requests/list/") if "endpoint=%2Fpay" in each]

    assert all(each["service"] == ["billing"] for each in down if each.get("endpoint") == ["/pay"])
    assert {"service": ["billing"], "last": ["7d"]} in down
    found = page(client, lists[0])
    assert "503" in found
    assert "<bdi>/orders" not in found
    assert page(client, links(found, "/requests/traces/a%20trace%2F1/")[0]).count('class="rail"') == 2


def test_a_form_may_be_sent_with_empty_fields(client: Client) -> None:
    shown = page(client, "/requests/list/?service=&endpoint=/pay&status_code=&start=&columns=time&columns=user_ref")

    assert re.findall(r"<th scope=\"col\"[^>]*>(?:<a[^>]*>)?(\w+)", shown) == ["Time", "User"]
    assert shown.count(">Details</a>") == 1


def test_the_list_pages_by_cursor_and_names_the_call(client: Client) -> None:
    first = page(client, "/requests/list/?page_size=5&service=billing&columns=time")
    [following] = [each for each in links(first, "/requests/list/") if "cursor=" in each and "page_size" in each]
    second = page(client, following)

    assert (first.count(">Details</a>"), second.count(">Details</a>")) == (5, 3)
    assert any("cursor=" in each for each in links(second, "/requests/list/"))
    [call] = re.findall(r'<code id="call">curl (.*?)</code>', first)
    called = urlsplit(html.unescape(call).strip("'"))
    assert client.get(f"{called.path}?{called.query}").json()["count"] == 8
    assert [parse_qs(urlsplit(each).query) for each in links(first, "/api/requests/export/")] == [
        {"service": ["billing"], "format": [each]} for each in ("csv", "ndjson", "parquet")
    ]


def test_hostile_texts_are_harmless(client: Client) -> None:
    event = client.get("/api/requests/?service=%3C/title%3E").json()["results"][0]
    for path in (
        f"/requests/?{WINDOW}",
        f"/requests/list/?{WINDOW}",
        "/requests/traces/a%20trace%2F1/",
        f"/requests/events/{event['id']}/",
    ):
        shown = page(client, path)
        assert "&lt;script&gt;alert(1)" in shown
        assert "\\u202egnp.exe\\x1b[2J" in shown
        assert not re.search("<script>|\u202e|\x1b|<b>", shown), path


def test_a_part_that_fails_leaves_the_others(client: Client) -> None:
    shown = page(client, f"/requests/?{WINDOW}&application=nobody")

    assert shown.count('role="alert"') >= 2
    assert "Newest errors" in shown


@pytest.mark.parametrize("query", ["start=2026-02-01&end=2026-01-01", "start=1000-01-01", "last=2h", "nobody=1"])
def test_wrong_parameters_are_named(client: Client, query: str) -> None:
    answer = client.get(f"/requests/?{query}", headers=HTML)

    assert answer.status == 400
    assert f"<code>{query.split('=')[0]}</code>" in answer.content.decode()


def test_the_search_finds_services_endpoints_and_what_has_an_id(client: Client) -> None:
    def find(text: str) -> dict[str, list[str]]:
        groups = client.get(f"/search/?{urlencode({'q': text})}").json()["groups"]
        assert all(group["error"] is None for group in groups), groups
        return {group["name"]: [each["path"] for each in group["results"]] for group in groups}

    event = client.get("/api/requests/?endpoint=/pay").json()["results"][0]

    assert find("bill")["Services"] == ["/requests/?service=billing"]
    assert find("/ORD")["Endpoints"] == ["/requests/?service=billing&endpoint=%2Forders"]
    assert find("a trace/1")["Requests"] == ["/requests/traces/a%20trace%2F1/"]
    assert find(event["id"])["Requests"] == [f"/requests/events/{event['id']}/"]
    assert find("nothing of this name") == find("x\x00y") == {}
    assert "&lt;script&gt;" in page(client, f"/search/?{urlencode({'q': HOSTILE[1:40]})}")


def test_other_accounts_see_nothing_and_how_to_begin(serve: Serve) -> None:
    client = serve(auth="required", **QUIET)
    keys = [create_key(client, "ingest", "read", account=create_account(client)) for _ in range(2)]
    event = timed(1, endpoint="/secret", trace_id="secret")
    sent = client.request("POST", "/api/requests/", json=event, headers=with_key(keys[0]))
    assert sent.status == 201
    paths = ("/requests/", "/requests/list/")

    own = [page(client, path, with_key(keys[0])) for path in paths]
    others = [page(client, path, with_key(keys[1])) for path in paths]

    assert all("/secret" in shown for shown in own)
    assert all("secret" not in shown for shown in others)
    assert "No requests yet" in others[0]
    found = [client.get("/search/?q=secret", headers=with_key(key)).json()["groups"] for key in keys]
    assert [group["name"] for group in found[0]] == ["Endpoints", "Requests"]
    assert found[1] == []
    for path in ("/requests/traces/secret/", f"/requests/events/{sent.json()['id']}/"):
        assert client.get(path, headers={**HTML, **with_key(keys[1])}).status == 404
        assert client.get(path, headers={**HTML, **with_key(keys[0])}).status == 200
    assert client.get("/requests/", headers=HTML).status == 303
