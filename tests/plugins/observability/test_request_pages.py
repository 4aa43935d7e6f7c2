"""The pages of single requests and traces, the list, the live tail, and the ingest ledger."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from kernel.testing import Client
from plugins.observability.models import Event
from plugins.observability.waterfall import make_waterfall
from tests.conftest import Serve
from tests.plugins.accounts.factories import create_account, create_key, with_key
from tests.plugins.observability.analytics.factories import container_of, ingest
from tests.plugins.observability.conftest import QUIET
from tests.plugins.observability.engines import one_engine
from tests.plugins.observability.events import make_event
from tests.plugins.observability.test_pages import HOSTILE, links, page

pytestmark = one_engine

NOW = datetime.now(UTC).replace(microsecond=0)
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HTML = {"Accept": "text/html"}
LIST = "/requests/list/"


def at(ms: float, **fields: Any) -> dict[str, Any]:
    """Make an event some ms after an hour ago."""
    return make_event(time=(NOW - timedelta(hours=1) + timedelta(milliseconds=ms)).isoformat(), **fields)


@pytest.fixture(scope="module")
def client(shared: Client) -> Client:
    """A service with a trace of callers, failures, hostile texts, and something that was refused."""
    spans = [("a", None, 0, 480), ("b", "a", 20, 200), ("c", "b", 40, 120), ("d", "a", 260, 190)]
    ingest(
        shared,
        [
            at(
                start,
                service=f"service-{name}",
                endpoint=f"/{name}",
                latency_ms=length,
                status_code=503 if name == "c" else 200,
                trace_id=TRACE,
                user_ref="ada",
                tags={"span_id": name, **({} if parent is None else {"parent_span_id": parent})},
            )
            for name, parent, start, length in spans
        ]
        + [at(600 + number, endpoint="/many", service="many", trace_id=None, user_ref=None) for number in range(8)]
        + [at(700, endpoint=HOSTILE, service="</title>", tags={"a": {"b": [{"c": "<b>\u202e" + "x" * 400}]}, "n": 1})],
    )
    refused = shared.post("/api/requests/ingest/", [at(0, status_code=9000), at(0, method="<script>" * 9), at(0)])
    assert refused.json()["rejected"] == 2
    container_of(shared).rollups.refresh()
    return shared


def columns(text: str) -> list[str]:
    """Return the heads of the table of a list."""
    found = re.findall(r"<th scope=\"col\"[^>]*>(.*?)</th>", text)
    return [re.sub(r"<[^>]*>|[▲▼]", "", each).strip() for each in found][:-1]


# --- the list ---------------------------------------------------------------------------------------------------------


def test_filters_are_chips_that_can_be_removed_one_by_one(client: Client) -> None:
    shown = page(client, f"{LIST}?service=many&latency_min=5&columns=time,endpoint&cursor=")
    chips = re.search(r'<ul class="chips".*?</ul>', shown, re.DOTALL)
    assert chips is not None
    left = [parse_qs(urlsplit(each).query) for each in links(chips[0], LIST)]

    assert left == [
        {"latency_min": ["5"], "columns": ["time,endpoint"]},
        {"service": ["many"], "columns": ["time,endpoint"]},
        {"columns": ["time,endpoint"]},
    ]


def test_heads_sort_and_values_filter_and_both_keep_the_rest(client: Client) -> None:
    shown = page(client, f"{LIST}?user_ref=ada&ordering=-latency_ms")
    heads = re.findall(r"<th[^>]*aria-sort=\"(\w+)\"><a href=\"([^\"]*)\"", shown)
    [(direction, href)] = heads
    turned = page(client, html.unescape(href))
    latencies = [int(each) for each in re.findall(r">(\d+) ms</a>", turned)]

    assert direction == "descending"
    assert latencies == [120, 190, 200, 480]
    values = [parse_qs(urlsplit(each).query) for each in links(shown, LIST)]
    expected = {"user_ref": ["ada"], "ordering": ["-latency_ms"]}
    assert {**expected, "status_code": ["503"]} in values
    assert {**expected, "endpoint": ["/c"]} in values


def test_columns_have_names_and_stay_on_the_next_page(client: Client) -> None:
    shown = page(client, f"{LIST}?service=many&page_size=3&columns=latency_ms&columns=tags&columns=user_ref")
    [following] = [each for each in links(shown, LIST) if "cursor=" in each and "page_size=3" in each]
    second = page(client, following)

    assert columns(shown) == columns(second) == ["Latency", "Tags", "User"]
    assert second.count('<td class="number">') == 3


def test_what_is_exported_is_what_is_seen(client: Client) -> None:
    shown = page(client, f"{LIST}?user_ref=ada&ordering=latency_ms&columns=time")
    [export] = [each for each in links(shown, "/api/requests/export/") if "csv" in each]

    rows = csv.DictReader(io.StringIO(client.get(export).content.decode("utf-8-sig")))
    assert [row["endpoint"] for row in rows if row["endpoint"]] == ["/c", "/d", "/b", "/a"]


def test_the_histogram_counts_what_is_listed(client: Client) -> None:
    everything = page(client, LIST)
    failed = page(client, f"{LIST}?status_code=503")
    searched = page(client, f"{LIST}?search=many")

    assert "14 requests, 1 failed" in everything
    assert "1 request, 1 failed" in failed
    assert "Not counted over time" in searched
    bars = [each for each in links(everything, LIST) if "start=" in each]
    assert sum(page(client, each).count(">Details</a>") for each in bars) == 14


def test_the_count_is_exact_where_everything_is_shown(client: Client) -> None:
    assert "8 requests<" in page(client, f"{LIST}?service=many")
    assert "requests, estimated" in page(client, f"{LIST}?service=many&page_size=2")
    assert ">8 requests<" in page(client, f"{LIST}?service=many&page_size=2&count=exact")
    assert "No request matches these filters." in page(client, f"{LIST}?service=none")


def test_inputs_suggest_what_there_is(client: Client) -> None:
    shown = page(client, f"{LIST}?service=many")

    suggested = {
        name: re.findall(r'value="([^"]*)"', found)
        for name, found in re.findall(r'<datalist id="(\w+)">(.*?)</datalist>', shown, re.DOTALL)
    }
    assert "many" in suggested["services"]
    assert suggested["endpoints"] == ["/many"]
    assert 'list="endpoints"' in shown


@pytest.mark.parametrize("path", [LIST, "/requests/live/"])
@pytest.mark.parametrize("query", ["status_code=x", "nobody=1", "search=%00", "status_code=99999"])
def test_wrong_parameters_are_named(client: Client, path: str, query: str) -> None:
    assert client.get(f"{path}?{query}", headers=HTML).status == 400


def test_a_call_needs_a_key_where_the_service_does(serve: Serve, client: Client) -> None:
    required = serve(auth="required", **QUIET)
    key = create_key(required, "read", account=create_account(required))

    assert "Api-Key YOUR_KEY" in html.unescape(page(required, LIST, with_key(key)))
    assert "YOUR_KEY" not in page(client, LIST)
    for path in ("/requests/live/", "/requests/ingest/"):
        assert required.get(path, headers=HTML).status in (302, 303, 401)


# --- one request, and one trace ---------------------------------------------------------------------------------------


def test_tags_are_paths_and_values(client: Client) -> None:
    event = client.get("/api/requests/?search=alert").json()["results"][0]
    shown = page(client, f"/requests/events/{event['id']}/")

    assert "<bdi>a.b[0].c</bdi>" in shown
    assert "&lt;b&gt;\\u202exxx" in shown
    assert not re.search("<script>|\u202e|<b>", shown)
    raw = re.search(r"<pre class=\"call\"><code>(\{.*?\})</code>", shown, re.DOTALL)
    assert raw is not None
    assert json.loads(html.unescape(raw[1]))["id"] == event["id"]


def test_a_request_leads_to_those_around_it(client: Client) -> None:
    event = client.get("/api/requests/?endpoint=/c").json()["results"][0]
    shown = page(client, f"/requests/events/{event['id']}/")
    near = {
        parse_qs(urlsplit(each).query).get("ordering", [""])[0]: each for each in links(shown, LIST) if "ada" in each
    }

    assert "/d<" in page(client, near["time"])
    assert "/b<" in page(client, near[""])


def test_callers_come_before_what_they_call(client: Client) -> None:
    shown = page(client, f"/requests/traces/{TRACE}/")
    rows = re.findall(r'<td class="endpoint depth-(\d)">.*?<bdi>(/\w)</bdi>.*?</td>', shown)
    selfs = re.findall(r'<td class="number muted">([^<]*)</td>', shown)

    assert rows == [("0", "/a"), ("1", "/b"), ("2", "/c"), ("1", "/d")]
    assert selfs == ["90 ms", "80 ms", "", ""]
    assert shown.count('<tr class="bad">') == 1
    [zoom] = {each for each in links(shown, f"/requests/traces/{TRACE}/") if "from_ms=40" in each}
    zoomed = page(client, zoom)
    assert "/d<" not in zoomed
    assert "Show the whole trace" in zoomed


def test_a_long_trace_is_shown_in_pages(client: Client) -> None:
    ingest(client, [at(number, trace_id="long", service=f"s{number % 9}", endpoint="/x") for number in range(1200)])
    first = page(client, "/requests/traces/long/")
    last = page(client, "/requests/traces/long/?page=3")

    assert (first.count('class="rail"'), last.count('class="rail"')) == (500, 200)
    assert "Page 1 of 3" in first
    assert re.search(r'rel="next" href="[^"]*page=2"', first)


def test_a_trace_that_is_not_there_says_how_to_search(client: Client) -> None:
    for name in ("missing%2Ftrace", "%3Cscript%3E", "x" * 300):
        answer = client.get(f"/requests/traces/{name}/", headers=HTML)
        assert answer.status == 404
        assert b'action="/requests/list/"' in answer.content
        assert b"<script>" not in answer.content


def test_ids_in_a_circle_end() -> None:
    def make(number: int, span: str, parent: str) -> Event:
        fields = make_event(tags={"span_id": span, "parent_span_id": parent}) | {"id": f"0{number}"}
        fields |= {"time": NOW + timedelta(seconds=number), "tags": json.dumps(fields["tags"]).encode()}
        return Event(**{name: fields[name] for name in Event.__struct_fields__})

    circle = [make(0, "a", "c"), make(1, "b", "a"), make(2, "c", "b"), make(3, "d", "d")]

    assert sorted(bar.event.id for bar in make_waterfall(circle).bars) == ["00", "01", "02", "03"]


# --- the live tail and the ledger -------------------------------------------------------------------------------------


def test_the_tail_shows_the_newest_without_a_script(client: Client) -> None:
    shown = page(client, "/requests/live/?service=many")

    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in shown
    assert shown.count("<tr data-id=") == 8
    assert 'data-stream="/api/requests/live/?service=many"' in shown
    assert "curl -N " in html.unescape(shown)
    assert not re.search("<script>|\u202e|<b>", page(client, "/requests/live/"))


def test_the_ledger_says_what_was_refused_and_why(client: Client) -> None:
    shown = page(client, "/requests/ingest/?last=1h")
    tiles = dict(re.findall(r"<dt><bdi>([^<]*)</bdi></dt><dd><bdi>([^<]*)</bdi></dd>", shown))
    totals = client.get("/api/v1/ingest/ledger/").json()["data"]["totals"]

    assert tiles["Rejected"] == str(totals["rejected"]) == "2"
    assert int(tiles["Stored"].replace(",", "").replace("k", "")) >= 1
    assert "status_code: " in shown
    assert "<script>" not in shown.replace("</script>", "")
    refused = client.get("/api/v1/ingest/ledger/?refused=true").json()["data"]
    assert sum(each["rejected"] for each in refused["minutes"]) == 2
    assert refused["totals"] == totals
    assert "Nothing was refused" in page(client, "/requests/ingest/?key=nobody")
    assert client.get("/requests/ingest/?start=1990-01-01", headers=HTML).status == 400


def test_the_ledger_of_others_is_empty(serve: Serve) -> None:
    client = serve(auth="required", **QUIET)
    keys = [create_key(client, "ingest", "read", account=create_account(client)) for _ in range(2)]
    client.request("POST", "/api/requests/ingest/", json=[{"time": "never"}], headers=with_key(keys[0]))

    mine, others = (page(client, "/requests/ingest/", with_key(key)) for key in keys)

    assert "This field is required" in mine
    assert "Nothing was refused" in others
    assert "Nothing was sent" in others
