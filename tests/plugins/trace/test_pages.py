"""Pages of specifications: they show what the API says, to whom it says it, and survive whatever is in it."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from kernel.testing import Client
from plugins.trace.export_pages import split_pages
from plugins.trace.jobs import REFRESH
from plugins.trace.models import Feature, Gateway, Tag, Tier
from tests.applications import publish
from tests.conftest import Serve
from tests.notion.server import FakeNotion
from tests.plugins.accounts.factories import create_key, with_key
from tests.plugins.trace.factories import (
    PLUGINS,
    Specifications,
    export,
    export_refused,
    serve_trace,
    trace_table,
)

HTML = {"Accept": "text/html"}
# Markup, a text that turns the direction of writing round, a control character, and no place to break the line.
HOSTILE = "<script>alert(1)</script>\"'&\u202egnp.exe\x1b[2J" + "x" * 10_000
FEATURES = (
    Feature(slug="boards", name="Boards", area="flow", status="live", tier="plus", gateways=("web",), tags=("open",)),
    Feature(slug="maps", name="Maps", area="grid", status="beta", tier="pro", gateways=("web", "mail"), tags=("open",)),
    Feature(
        slug="score", name="Score", area="clout", status="live", tier="free", description="One number for a member."
    ),
    Feature(slug="a b/ü", name=HOSTILE, area="flow", description=HOSTILE, properties={"<b>": {"deep": HOSTILE}}),
)
TIERS = (
    Tier(slug="free", name="Free", level=0, features=("clout",)),
    Tier(slug="plus", name="Plus", level=1, features=("clout", "flow"), tags=("open",)),
    Tier(slug="pro", name="Pro", level=2, features=("grid",)),
)


@pytest.fixture(scope="module")
def client(module_serve: Serve) -> Client:
    """A service with three versions of features."""
    served = module_serve(plugins=PLUGINS)
    publish(served, "tags", Tag(slug="open", name="Open", color="#2a6f97"), Tag(slug="unused", name="Unused"))
    publish(served, "gateways", Gateway(slug="web", name="Web client", kind="web"), Gateway(slug="mail", name="Mail"))
    publish(served, "tiers", *TIERS)
    old = Feature(slug="score", name="Score", area="clout", tier="pro", description="One figure for a member.")
    publish(served, "features", old, Feature(slug="gone", name="Gone"))
    publish(served, "features", old, *FEATURES[:2])
    publish(served, "features", *FEATURES)
    return served


def page(client: Client, path: str, headers: dict[str, str] | None = None, status: int = 200) -> str:
    """Return a page."""
    answer = client.get(path, headers={**HTML, **(headers or {})})
    assert answer.status == status, answer.content
    assert answer.headers["content-type"].startswith("text/html")
    return answer.content.decode()


def keys(text: str) -> list[str]:
    """Return the keys of the items in the rows of a table."""
    paths = re.findall(r'<th scope="row"><a href="([^"?]*)', text)
    return [unquote(html.unescape(each).strip("/").rpartition("/")[2]) for each in paths]


def links(text: str) -> set[str]:
    """Return the links of a page."""
    return {html.unescape(each) for each in re.findall(r'href="([^"]*)"', text)}


def words(text: str) -> str:
    """Return the text that a page shows."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


# --- tables and items ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    ["", "search=map", "area=flow&status=live", "tags=open&ordering=-name", "tier=free", "as_of=1", "search=nowhere"],
)
@pytest.mark.parametrize("application", [None, "skyflow"])
def test_a_table_shows_what_the_api_lists(client: Client, query: str, application: str | None) -> None:
    part = "" if application is None else f"{application}/"
    listed = client.get(f"/trace/public/{part}features/?{query}").json()["data"]
    given = "" if application is None else f"&application={application}"

    shown = page(client, f"/trace/features/?{query}{given}")

    assert keys(shown) == [each["slug"] for each in listed]
    assert f"<strong>{len(listed)}</strong>" in shown


def test_links_sort_filter_and_turn_pages(client: Client) -> None:
    first = page(client, "/trace/features/?area=flow&page_size=1&search=")

    assert "/trace/features/?area=flow&page_size=1&page=2" in links(first)
    assert "/trace/features/?area=flow&page_size=1&ordering=name" in links(first)
    assert '<option value="flow" selected>flow (2)</option>' in first
    assert '<option value="web">Web client (2)</option>' in first
    assert len(keys(page(client, "/trace/features/?area=flow&page_size=1&page=2"))) == 1
    descending = page(client, "/trace/features/?ordering=name")
    assert 'aria-sort="ascending"' in descending
    assert "/trace/features/?ordering=-name" in links(descending)


def test_items_lead_to_what_they_refer_to_and_back(client: Client) -> None:
    feature = page(client, "/trace/features/maps/")
    tag = page(client, "/trace/tags/open/")
    tags = page(client, "/trace/tags/")

    assert {"/trace/tiers/pro/", "/trace/gateways/web/", "/trace/tags/open/"} <= links(feature)
    assert ">Web client<" in feature
    assert {"/trace/features/maps/", "/trace/features/boards/", "/trace/tiers/plus/"} <= links(tag)
    assert {"/trace/features/?tags=open", "/trace/tiers/?tags=open"} <= links(tags)
    assert 'fill="#2a6f97"' in tags


def test_an_item_has_its_history(client: Client) -> None:
    shown = page(client, "/trace/features/score/")

    assert "<del><bdi>figure</bdi></del><ins><bdi>number</bdi></ins>" in shown
    assert "/trace/versions/compare/?dataset=features&from=2&to=3" in links(shown)
    assert "Version 1" in words(shown)
    old = page(client, "/trace/features/score/?as_of=1")
    assert "One figure for a member." in old
    assert "/trace/features/score/" in links(old)
    assert "added" in words(page(client, "/trace/features/maps/"))


def test_items_are_found_by_name_from_every_page(client: Client) -> None:
    assert "/trace/features/boards/" in links(page(client, "/search/?q=board"))
    assert "/trace/gateways/web/" in links(page(client, "/search/?q=WEB%20client"))


def test_hostile_texts_are_harmless(client: Client) -> None:
    for path in (
        "/trace/features/",
        "/trace/features/a%20b%2F%C3%BC/",
        "/trace/versions/compare/?from=1&to=3",
        "/trace/matrix/",
        "/trace/hidden/?application=nexus",
        "/search/?q=alert(1)",
    ):
        shown = page(client, path)
        assert "&lt;script&gt;alert(1)" in shown
        assert "\\u202egnp.exe\\x1b[2J" in shown
        assert not re.search("<script>|\u202e|\x1b|<b>", shown), path
    assert len(page(client, "/trace/features/")) < 50_000


def test_what_fails_leaves_the_rest_of_the_page(client: Client) -> None:
    shown = page(client, "/trace/features/?as_of=99")

    assert "features has no version 99" in shown
    assert 'role="search"' in shown
    assert page(client, "/trace/features/nowhere/", status=404)
    assert page(client, "/trace/versions/?dataset=nothing", status=404)
    assert page(client, "/trace/features/?application=nobody", status=404)


# --- versions --------------------------------------------------------------------------------------------------------


def test_versions_say_what_they_changed(client: Client) -> None:
    shown = page(client, "/trace/versions/?dataset=features")
    assert re.search(r'data-label="Size">[\d.]+ (B|KiB)<', shown)
    rows = re.findall(r"<tr>\s*<td class=\"pick\".*?</tr>", shown, re.DOTALL)

    assert ["current" in each for each in rows] == [True, False, False]
    assert "+1 added ~1 changed" in words(rows[0])
    assert "+2 added \N{MINUS SIGN}1 removed" in words(rows[1])
    assert "/trace/versions/compare/?dataset=features&from=2&to=3" in links(rows[0])


def test_two_versions_are_compared_field_by_field(client: Client) -> None:
    found = client.get("/api/v1/datasets/features/diff/?from=1&to=3").json()["data"]
    shown = page(client, "/trace/versions/compare/?from=1&to=3")
    text = words(shown)

    counts = [len(found[kind]) for kind in ("changed", "added", "removed")]
    assert f"Changed {counts[0]} Added {counts[1]} Removed {counts[2]}" in text
    assert "Tier pro free" in text
    assert "/trace/features/gone/?as_of=1" in links(shown)
    only = page(client, "/trace/versions/compare/?from=1&to=3&kind=removed")
    assert "/trace/features/score/?as_of=3" not in links(only)
    # As an application sees it: neither of the two had what it does not see.
    assert "Maps" not in page(client, "/trace/versions/compare/?from=1&to=3&application=skyflow")


# --- applications ----------------------------------------------------------------------------------------------------


def test_what_an_application_does_not_see_is_explained(client: Client) -> None:
    table = page(client, "/trace/features/?application=nexus")
    explained = page(client, "/trace/hidden/?application=nexus")
    missing = page(client, "/trace/features/score/?application=nexus", status=404)

    assert keys(table) == ["boards", "maps"]
    assert "/trace/hidden/?application=nexus#features" in links(table)
    assert "Nexus does not see 2 of 4" in words(table)
    assert "It sees 2 of 4. Filter features hides 2" in words(explained)
    assert "/trace/features/score/" in links(explained)
    # What it sees may refer to what it does not see.
    assert "Boards Tier: plus" not in words(explained)
    assert "Maps Tier: pro ; Gateways: web , mail" in words(explained)
    assert "Nexus does not see this item" in missing
    assert "&#39;features&#39; hides it" in missing
    assert "2 of 4" in words(page(client, "/trace/hidden/"))


def test_a_key_of_one_application_sees_no_other(serve: Serve) -> None:
    client = serve(plugins=["accounts", *PLUGINS], auth="required")
    publish(client, "features", *FEATURES[:3])
    key = with_key(create_key(client, "read", applications=("skyflow",)))

    assert keys(page(client, "/trace/features/?application=skyflow", key)) == ["score", "boards"]
    for path in ("features/", "features/boards/", "matrix/", "versions/compare/", "hidden/"):
        joined = f"/trace/{path}?application=nexus"
        assert client.get(joined, headers={**HTML, **key}).status == 403, joined
    for path in (
        "features/",
        "features/boards/",
        "matrix/",
        "versions/",
        "versions/compare/",
        "freshness/",
        "certificate/",
    ):
        assert client.get(f"/trace/{path}", headers={**HTML, **key}).status == 403, path
    # It learns the keys of what it does not see, as from the API, and nothing else.
    explained = page(client, "/trace/hidden/?application=skyflow", key)
    assert ">maps<" in explained
    assert "Maps" not in explained
    found = links(page(client, "/search/?q=a", key))
    assert "/trace/features/boards/?application=skyflow" in found
    assert not any("maps" in each for each in found)
    assert client.get("/trace/features/").status == 401


# --- the matrix ------------------------------------------------------------------------------------------------------


def cells(shown: str) -> dict[str, list[str]]:
    """Return the cells of the matrix by the name of the feature."""
    rows = re.findall(r'<tr><th scope="row"><a [^>]*><bdi>([^<]*).*?</th>(.*?)</tr>', shown)
    return {name: re.findall(r'<td class="(\w+)"', rest) for name, rest in rows}


def test_the_matrix_is_that_of_the_api(client: Client) -> None:
    for slug, query in (("", ""), ("nexus/", "&application=nexus")):
        rows = client.get(f"/trace/public/{slug}matrix/").json()["data"]
        shown = cells(page(client, f"/trace/matrix/?search={query}"))
        by_state = {True: "in", False: "out", None: "unknown"}
        for row in rows:
            if row["slug"] in ("maps", "boards", "score"):
                assert shown[row["name"]] == [by_state[each] for each in row["tiers"].values()]


def test_the_matrix_says_what_an_application_does_not_see(client: Client) -> None:
    shown = words(page(client, "/trace/matrix/?application=nexus"))

    assert "Nexus does not see 2 of 4 features, 2 of 3 tiers, 2 of 2 gateways" in shown


def test_the_matrix_is_filtered_and_grouped(client: Client) -> None:
    shown = page(client, "/trace/matrix/?columns=gateways&group=gateway&status=beta")

    # In the group of each of its gateways.
    assert re.findall(r"<summary><h3><bdi>([^<]*)", shown) == ["Mail", "Web client"]
    assert cells(shown) == {"Maps": ["in", "in"]}
    assert cells(page(client, "/trace/matrix/?search=nowhere")) == {}


# --- exports ---------------------------------------------------------------------------------------------------------


def test_pages_without_data_say_what_to_do(serve: Serve) -> None:
    client = serve(plugins=PLUGINS)

    for path in ("features/", "tags/", "matrix/", "certificate/"):
        assert "No sources are configured" in page(client, f"/trace/{path}"), path
    shown = page(client, "/trace/freshness/")
    assert "NOTION_TOKEN" in shown
    assert "Export now" not in shown
    assert "Nothing was published yet" in page(client, "/trace/versions/")


def test_freshness_and_certificate_of_an_export(
    serve: Serve, notion: FakeNotion, specifications: Specifications
) -> None:
    workspace = specifications.workspace
    workspace.now = datetime.now(UTC) - timedelta(minutes=5)
    workspace.add_page(specifications.features, {"Name": "Feature 0"})
    client = serve_trace(serve, notion, specifications.sources())
    assert "not exported yet" in page(client, "/trace/freshness/").lower()
    report = export(client)

    fresh = page(client, "/trace/freshness/")
    certificate = page(client, "/trace/certificate/")

    assert "up to date" in fresh
    assert "every 15m" in fresh
    assert "/trace/certificate/?job=1" in links(fresh)
    rows = sum(each.rows for each in report.sources)
    assert f"All rows were read {rows} rows" in words(certificate)
    assert "4 rows counted, 4 read" in words(certificate)
    assert f"https://www.notion.so/{specifications.features.id.replace('-', '')}" in links(certificate)
    for each in client.service.shared.datasets.versions("features"):
        assert each.sha256 in certificate
    # The row whose slug was taken, and whose it is.
    assert re.search(r"page </bdi><a [^>]*>[0-9a-f-]{36}</a><bdi> &#39;Feature 0&#39;", certificate)
    assert "no certificate of job 99" in page(client, "/trace/certificate/?job=99")

    workspace.remove_column(specifications.features, "Area")
    reason = export_refused(client, "features")

    assert reason in words(page(client, "/trace/freshness/"))
    assert f"A later export was refused: {reason}" in words(page(client, "/trace/certificate/"))


def test_staff_may_start_an_export(serve: Serve, notion: FakeNotion, specifications: Specifications) -> None:
    client = serve(plugins=["accounts", *PLUGINS], auth="required", trace=trace_table(notion, specifications.sources()))
    staff, writer = (
        with_key(create_key(client, *scopes)) for scopes in (("staff", "read", "write"), ("read", "write"))
    )

    def send(key: dict[str, str], content: bytes) -> Any:
        form = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
        return client.request("POST", "/trace/freshness/", content=content, headers={**HTML, **form, **key})

    assert send(writer, b"full=true").status == 403
    assert "Export now" not in page(client, "/trace/freshness/", writer)
    assert "Export now" in page(client, "/trace/freshness/", staff)
    answer = send(staff, b"full=true")
    assert (answer.status, urlsplit(answer.headers["location"]).path) == (303, "/trace/freshness/")
    [run] = client.service.shared.jobs.list(name=REFRESH)
    assert run.parameters == {"full": True}
    assert f'data-job="{run.id}"' in page(client, "/trace/freshness/", staff)
    # One that reads changes only cannot wait beside it.
    assert send(staff, b"").status == 409
    assert send(staff, b"nobody=1").status == 400


def test_pages_of_notion_are_found_in_reasons() -> None:
    id_ = "0f5b1c2d-3e3c-4f0a-92b7-de4d1f9a0e6f"

    assert split_pages(f"page {id_}: wrong") == [
        ("page ", None),
        (id_, "https://www.notion.so/0f5b1c2d3e3c4f0a92b7de4d1f9a0e6f"),
        (": wrong", None),
    ]
