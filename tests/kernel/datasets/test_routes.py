"""Routes of datasets and of indexes: queries, versions, headers."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel.contracts import Dataset, Route
from kernel.datasets.http import Derivation, Derived
from kernel.services import Services
from kernel.testing import Client
from tests.kernel.datasets.conftest import MEMBERS, PATH, TIERS, DatasetClient, MakeClient, TestClock, Tier
from tests.kernel.fakes import Boot, MakePlugin

APP = "/trace/public/skyflow/tiers/"


class Sum(msgspec.Struct, frozen=True):
    total: int
    before: int


def sum_levels(items: Sequence[Any], previous: Sequence[Any]) -> Derived:
    """Sum the levels of two versions."""
    return Derived([Sum(sum(item.level for item in items), sum(item.level for item in previous))], {"ranked": True})


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["free", "team", "firm", "club", "none"]),
        ("search=fI", ["firm"]),
        ("search=SMALL", ["free"]),
        ("level=3", ["firm"]),
        ("tags=large", ["firm", "club"]),
        ("tags=large&search=club", ["club"]),
        ("level=null", None),
        ("ordering=-level", ["club", "firm", "team", "free", "none"]),
        ("ordering=name", ["none", "club", "firm", "free", "team"]),
        ("page=2&page_size=2", ["firm", "club"]),
        ("page=4&page_size=2", None),
        ("page_size=1001", None),
        ("ordering=colour", None),
        ("colour=red", None),
        ("as_of=yesterday", None),
    ],
)
def test_a_query_selects_items_or_is_rejected(
    query: str, expected: list[str] | None, five_tiers: DatasetClient
) -> None:
    answer = five_tiers.get(f"{PATH}?{query}")

    if expected is None:
        assert answer.status == (404 if query == "page=4&page_size=2" else 400)
    else:
        assert [item["slug"] for item in answer.json()["data"]] == expected


def test_an_unknown_parameter_is_named_in_the_error(five_tiers: DatasetClient) -> None:
    assert list(five_tiers.get(f"{PATH}?colour=red").json()["errors"]) == ["colour"]


def test_a_page_links_to_the_next_and_previous_page(five_tiers: DatasetClient) -> None:
    meta = five_tiers.get(f"{PATH}?page=2&page_size=2&search=m").json()["meta"]

    assert (meta["page"], meta["pages"], meta["total_items"], meta["next"]) == (2, 2, 3, None)
    assert [item["slug"] for item in five_tiers.data(meta["previous"])] == ["free", "team"]


def test_meta_names_the_application(five_tiers: DatasetClient) -> None:
    metas = [five_tiers.get(path).json()["meta"] for path in (PATH, APP)]

    assert metas == [
        {"application": "default", "endpoint": PATH, "total_items": 5},
        {"application": "skyflow", "endpoint": APP, "total_items": 3},
    ]


def test_explain_names_what_each_filter_hid(five_tiers: DatasetClient) -> None:
    explained = five_tiers.get(f"{APP}?explain=1").json()["meta"]["explain"]

    assert explained == [{"filter": "tier", "hidden": 2, "keys": ["firm", "club"]}]


@pytest.mark.parametrize(("path", "status"), [(f"{PATH}club/", 200), (f"{APP}club/", 404), (f"{PATH}zero/", 404)])
def test_a_route_of_one_item_is_a_404_for_hidden_items(path: str, status: int, five_tiers: DatasetClient) -> None:
    assert five_tiers.get(path).status == status


def test_an_unknown_application_is_a_404_that_lists_the_known_ones(five_tiers: DatasetClient) -> None:
    answer = five_tiers.get("/trace/public/zzz/tiers/")

    assert (answer.status, answer.json()["available_apps"]) == (404, ["skyflow"])
    assert answer.json()["error"].startswith("Unknown application")


# --- versions -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def versions(make_shared_client: MakeClient) -> DatasetClient:
    """A client of a service with three versions, a day apart; the third is of today. For reading only."""
    clock = TestClock()
    client = make_shared_client({"skyflow": {"tier": lambda items: items[:1]}}, clock=clock)
    for days, slug in ((-2, "a"), (-1, "b"), (0, "c")):
        clock.ahead = timedelta(days=days)
        client.publish(Tier("0", days), Tier(slug))
    return client


def test_as_of_a_date_is_the_end_of_that_day(versions: DatasetClient) -> None:
    yesterday = datetime.now(UTC).date() - timedelta(days=1)

    assert versions.get(f"{PATH}?as_of={yesterday}").headers["x-data-version"] == "2"


@pytest.mark.parametrize(("hours_ago", "version"), [(25, "1"), (23, "2"), (-1, "3")])
def test_as_of_a_time_reads_the_version_current_then(hours_ago: int, version: str, versions: DatasetClient) -> None:
    moment = datetime.now(UTC) - timedelta(hours=hours_ago)

    assert versions.get(f"{PATH}?as_of={moment:%Y-%m-%dT%H:%M:%SZ}").headers["x-data-version"] == version


@pytest.mark.parametrize("version", ["1", "3"])
def test_as_of_a_version_reads_that_version(version: str, versions: DatasetClient) -> None:
    assert versions.get(f"{PATH}?as_of={version}").headers["x-data-version"] == version


@pytest.mark.parametrize("as_of", ["0", "4", "2020-01-01"])
def test_as_of_without_a_version_is_a_404(as_of: str, versions: DatasetClient) -> None:
    assert versions.get(f"{PATH}?as_of={as_of}").status == 404


def test_versions_are_compared_as_the_application_sees_them(versions: DatasetClient) -> None:
    application = versions.service.shared.applications.find("skyflow")

    everything = versions.datasets.compare("tiers", 1, 2)
    filtered = versions.datasets.compare("tiers", 1, 2, application)

    assert [item.slug for item in everything.added] == ["b"]
    assert [item.slug for item in everything.removed] == ["a"]
    assert (filtered.added, filtered.removed, filtered.unchanged) == ([], [], 0)
    assert [(change.key, change.fields["level"].after) for change in filtered.changed] == [("0", -1)]


def test_a_derivation_gets_the_items_of_the_previous_version(make_client: MakeClient) -> None:
    derivation = Derivation(Sum, sum_levels)
    client = make_client(
        routes=lambda services: [services.dataset_route("/trace/public/sum/", TIERS, derivation=derivation)]
    )
    for level in (2, 5):
        client.publish(Tier("a", level))

    answers = [client.get(f"/trace/public/sum/{query}").json() for query in ("", "?as_of=1")]

    assert [answer["data"] for answer in answers] == [[{"total": 5, "before": 2}], [{"total": 2, "before": 0}]]
    assert answers[0]["meta"]["ranked"] is True


def takes_items_only(items: Sequence[Any]) -> Derived:
    """Take only the required arguments of a derivation."""
    return Derived(items)


def takes_others(items: Sequence[Any], club_members: Sequence[Any], **more: Any) -> Derived:
    """Take another dataset by its name, and whatever else there is."""
    return Derived(items, {"members": len(club_members), "more": sorted(more)})


CLUB_MEMBERS = Dataset(name="club-members", item=Tier, key="slug")


def test_a_derivation_takes_its_arguments_by_name() -> None:
    every = {"items", "previous", "club_members"}

    assert Derivation(Sum, sum_levels).arguments() == {"items", "previous"}
    assert Derivation(Tier, takes_items_only).arguments() == {"items"}
    assert Derivation(Tier, takes_others, (CLUB_MEMBERS,)).arguments() == every


def test_a_previous_version_is_held_only_where_a_derivation_takes_it(make_client: MakeClient) -> None:
    with_previous, without = Derivation(Sum, sum_levels), Derivation(Tier, takes_items_only)
    client = make_client(
        routes=lambda services: [
            services.dataset_route("/trace/public/sum/", TIERS, derivation=with_previous),
            services.dataset_route("/trace/public/same/", MEMBERS, derivation=without),
        ]
    )

    assert client.datasets._snapshots._with_previous == {"tiers"}


@pytest.mark.parametrize(
    ("derivation", "reason"),
    [
        (Derivation(Sum, lambda tiers: Derived(tiers)), "takes 'tiers'; it can be given items, previous"),
        (Derivation(Sum, lambda previous: Derived(previous)), "does not take 'items'"),
        (Derivation(Tier, takes_items_only, (CLUB_MEMBERS,)), "takes_items_only does not take 'club_members'"),
        (
            Derivation(Tier, takes_items_only, (Dataset(name="previous", item=Tier, key="slug"),)),
            "takes_items_only: two arguments have one name: previous",
        ),
    ],
)
def test_a_derivation_that_cannot_be_called_by_name_quarantines_its_plugin(
    derivation: Derivation, reason: str, boot: Boot, make_plugin: MakePlugin
) -> None:
    plugin = make_plugin(
        "lab",
        register_datasets=lambda services: [TIERS, CLUB_MEMBERS],
        register_routes=lambda services: [services.dataset_route(PATH, TIERS, derivation=derivation)],
    )

    client: Client = boot(plugin)

    assert reason in str(client.service.registry.statuses["lab"].reason)


# --- headers --------------------------------------------------------------------------------------------------------


def large(client: DatasetClient, *levels: int) -> None:
    """Publish tiers whose answers are worth compressing."""
    client.publish(*(Tier(f"tier-{number:03}", level, "x" * 50) for number, level in enumerate(levels)))


def test_an_etag_does_not_change_with_hidden_items(client: DatasetClient) -> None:
    large(client, 1, 2, 5)
    before = [client.get(path).headers["etag"] for path in (PATH, APP)]
    large(client, 1, 2, 6)
    after = [client.get(path).headers["etag"] for path in (PATH, APP)]

    assert after[0] != before[0]
    assert after[1] == before[1]


@pytest.mark.parametrize("path", [PATH, APP])
@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
def test_if_none_match_with_the_etag_is_a_304(path: str, form: str, five_tiers: DatasetClient) -> None:
    etag = five_tiers.get(path).headers["etag"]

    answer = five_tiers.get(path, if_none_match=form.format(etag))

    assert (answer.status, answer.content, answer.headers["etag"]) == (304, b"", etag)


@pytest.mark.parametrize("path", [PATH, APP])
def test_if_match_with_another_etag_is_a_412(path: str, five_tiers: DatasetClient) -> None:
    etag = five_tiers.get(path).headers["etag"]

    statuses = [
        five_tiers.get(path, if_match=each).status for each in ('"other"', f"W/{etag}", f'"other", {etag}', "*")
    ]
    refused = five_tiers.get(path, if_match='"other"')

    assert statuses == [412, 412, 200, 200]
    assert (refused.json()["code"], refused.headers["etag"]) == ("precondition_failed", etag)
    assert five_tiers.get(path, if_match='"other"', if_none_match=etag).status == 412, "If-Match is evaluated first"
    assert five_tiers.get(path, if_match=etag, if_none_match=etag).status == 304


def test_dates_are_no_conditions_because_none_is_sent(five_tiers: DatasetClient) -> None:
    answer = five_tiers.get(PATH, if_modified_since="Fri, 01 Jan 2100 00:00:00 GMT")
    other = five_tiers.get(PATH, if_unmodified_since="Fri, 01 Jan 2010 00:00:00 GMT")

    assert "last-modified" not in answer.headers
    assert (answer.status, other.status) == (200, 200)


def test_if_none_match_with_another_etag_is_a_200(five_tiers: DatasetClient) -> None:
    assert five_tiers.get(PATH, if_none_match='"other"').status == 200


def test_a_cached_response_is_sent_to_each_origin_as_its_own(five_tiers: DatasetClient) -> None:
    etag = five_tiers.get(PATH).headers["etag"]
    origins = ["http://localhost:3000", "https://evil.example", "http://localhost:5173", None]

    for origin in origins:
        given = {} if origin is None else {"Origin": origin}
        cached, unmodified = five_tiers.get(PATH, **given), five_tiers.get(PATH, **given, If_None_Match=etag)
        assert (cached.status, unmodified.status) == (200, 304)
        for answer in (cached, unmodified):
            expected = origin if origin in (origins[0], origins[2]) else None
            assert answer.headers.get("access-control-allow-origin") == expected
            assert answer.headers["vary"] == "Accept-Encoding, Origin"
            assert answer.headers["cache-control"].startswith("public, max-age=")
            assert (answer.headers["etag"], answer.headers["x-content-type-options"]) == (etag, "nosniff")


def test_a_tracked_response_says_what_was_made_and_no_cache_keeps_it(five_tiers: DatasetClient) -> None:
    asked = {"X_Debug_Resource_Tracking": "true"}
    made, cached = (five_tiers.get(f"{APP}?search=m", **asked) for _ in range(2))

    phases = [
        {each.partition(";")[0] for each in answer.headers["server-timing"].split(", ")} for answer in (made, cached)
    ]
    assert phases[0] >= {"admission", "view", "encoding", "total"}
    assert phases[1] == {"admission", "total"}
    assert {answer.headers["cache-control"] for answer in (made, cached)} == {"no-store"}
    assert five_tiers.get(f"{APP}?search=m").headers["cache-control"].startswith("public, max-age=")


def test_each_coding_has_an_etag_of_its_own(client: DatasetClient) -> None:
    large(client, *range(100))
    answers = {coding: client.get(PATH, accept_encoding=coding) for coding in ("identity", "gzip", "zstd")}

    decoded = {
        answers["identity"].content,
        zlib.decompress(answers["gzip"].content, 16 + zlib.MAX_WBITS),
        zstd.decompress(answers["zstd"].content),
    }

    assert len(decoded) == 1
    assert len({answer.headers["etag"] for answer in answers.values()}) == 3
    assert not any(answer.headers["etag"].startswith("W/") for answer in answers.values())
    assert [answer.headers.get("content-encoding") for answer in answers.values()] == [None, "gzip", "zstd"]
    assert {answer.headers["vary"] for answer in answers.values()} == {"Accept-Encoding, Origin"}


def test_a_client_that_excludes_identity_gets_a_small_body_compressed(five_tiers: DatasetClient) -> None:
    answer = five_tiers.get(f"{PATH}free/", accept_encoding="gzip, identity;q=0")

    assert answer.headers["content-encoding"] == "gzip"
    assert not answer.headers["etag"].startswith("W/")


def test_head_has_the_headers_of_get(five_tiers: DatasetClient) -> None:
    got = five_tiers.get(PATH)
    head = five_tiers.request("HEAD", PATH)
    own = {"x-request-id", "traceparent", "x-data-age"}

    assert head.content == b""
    assert {name: text for name, text in head.headers.items() if name not in own} == {
        name: text for name, text in got.headers.items() if name not in own
    }


def test_the_age_counts_from_the_last_export_that_confirmed_the_data(make_client: MakeClient) -> None:
    clock = TestClock()
    client = make_client(clock=clock)
    client.publish(Tier("a"))
    clock.ahead = timedelta(days=2, minutes=1)
    old = int(client.get(PATH).headers["x-data-age"])
    client.publish(Tier("a"))
    clock.ahead += timedelta(seconds=30)
    fresh = int(client.get(PATH).headers["x-data-age"])

    assert 2 * 86400 + 60 <= old < 2 * 86400 + 90
    assert 30 <= fresh < 60


@pytest.mark.parametrize(("policy", "whose"), [("public", "public"), ("read", "private")])
def test_only_public_routes_may_be_kept_by_shared_caches(policy: Any, whose: str, make_client: MakeClient) -> None:
    client = make_client(routes=lambda services: [services.dataset_route(PATH, TIERS, policy=policy)])
    client.publish(Tier("a"))

    assert client.get(PATH).headers["cache-control"] == f"{whose}, max-age=300, stale-if-error=86400"


def test_old_versions_are_read_after_a_field_was_added(client: DatasetClient, serve: Any, make_plugin: Any) -> None:
    client.publish({"slug": "a"})
    wider = msgspec.defstruct(
        "Wider", [("slug", str), ("level", int | None, None), ("colour", str, "red")], frozen=True
    )
    dataset = Dataset(name="tiers", item=wider, key="slug")
    plugin = make_plugin(
        "wide",
        register_datasets=lambda services: [dataset],
        register_routes=lambda services: [services.dataset_route(PATH, dataset)],
    )
    newer: Client = serve(plugins=["system", plugin])

    assert newer.get(PATH).json()["data"] == [{"slug": "a", "level": None, "colour": "red"}]


# --- indexes -------------------------------------------------------------------------------------------------------


def test_the_index_lists_what_an_application_sees(make_client: MakeClient) -> None:
    client = make_client({"skyflow": {"tier": lambda items: items[:1]}})
    client.publish(Tier("a"), Tier("b"))
    client.wait(client.datasets.refuse("tiers", "short", source="test"))

    tiers, members = client.data("/trace/public/skyflow/index/")

    assert (tiers["dataset"], tiers["file"], tiers["version"], tiers["items"]) == ("tiers", "tiers.json", 1, 1)
    assert tiers["warning"] == "short"
    assert [each["outcome"] for each in tiers["history"]] == ["refused", "published"]
    assert (members["version"], members["items"], members["history"]) == (None, None, [])


def test_the_index_has_an_etag_that_changes_with_each_attempt(client: DatasetClient) -> None:
    path = "/trace/public/index/"
    client.publish(Tier("a"))
    etag = client.get(path).headers["etag"]
    assert client.get(path, if_none_match=etag).status == 304

    client.publish(Tier("a"))

    assert client.get(path, if_none_match=etag).status == 200


def test_an_index_is_listed_under_its_file(client: DatasetClient) -> None:
    client.publish(Tier("a"))
    entries = client.datasets.indexes["test_index.json"]

    assert [(each.dataset, each.items) for each in entries(None)] == [("tiers", 1), ("members", None)]


# --- any items, any query ----------------------------------------------------------------------------------------

SLUGS = st.sampled_from([f"s{number}" for number in range(8)])
LEVELS = st.one_of(st.none(), st.integers(-2, 4))
TIER = st.builds(Tier, SLUGS, LEVELS, st.sampled_from(["", "Alpha", "beta"]), st.tuples(st.sampled_from(["x", "Y"])))
QUERY = st.fixed_dictionaries(
    {},
    optional={
        "level": st.integers(-2, 4),
        "tags": st.sampled_from(["x", "Y"]),
        "search": st.sampled_from(["a", "BETA", "y", "s1"]),
        "ordering": st.sampled_from(["slug", "-slug", "-name,slug"]),
        "page_size": st.integers(1, 3),
    },
)


def select_in_plain_python(items: list[Tier], least: int, query: dict[str, Any]) -> list[str]:
    """The oracle: select in plain Python what a query should."""
    unique = {item.slug: item for item in reversed(items)}.values()
    found = sorted(unique, key=lambda item: (item.level is None, item.level or 0, item.slug))
    found = [item for item in found if (item.level or 0) >= least]
    if "level" in query:
        found = [item for item in found if item.level == query["level"]]
    if "tags" in query:
        found = [item for item in found if query["tags"] in item.tags]
    if "search" in query:
        text = query["search"].lower()
        found = [item for item in found if any(text in each.lower() for each in (item.slug, item.name, *item.tags))]
    if "ordering" in query:
        found.sort(key=lambda item: item.slug, reverse=query["ordering"] == "-slug")
        if query["ordering"].startswith("-name"):
            found.sort(key=lambda item: item.name, reverse=True)
    return [item.slug for item in found][: query.get("page_size")]


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=st.lists(TIER, max_size=12), least=st.integers(-2, 4), query=QUERY)
def test_any_query_selects_what_plain_python_selects(
    items: list[Tier], least: int, query: dict[str, Any], any_client: tuple[DatasetClient, list[int]]
) -> None:
    client, leasts = any_client
    leasts[:] = [least]
    client.service.shared.cache.clear()
    client.publish(*items)
    text = "&".join(f"{name}={value}" for name, value in query.items())

    assert client.slugs(f"{APP}?{text}") == select_in_plain_python(items, least, query)


@pytest.fixture
def any_client(make_client: MakeClient) -> tuple[DatasetClient, list[int]]:
    """A client whose application sees tiers from a level on; and that level."""
    leasts = [0]
    return make_client({"skyflow": {"tier": lambda items: [i for i in items if (i.level or 0) >= leasts[0]]}}), leasts


# Every key of one and of two of these characters, which mean something in URLs, to routers, or to filters.
AWKWARD = ["/", ".", "%", "?", "#", "\\", " ", "+", "&", ";", "~", "\x00", "\n", "a", "A", "ß", "\u0301", "🙂"]
KEYS = ["".join(key) for length in (1, 2) for key in itertools.product(AWKWARD, repeat=length)]
KEYS += ["/a/", "//a//b//", "a/../b", "%2F", "%2f/", "%252F", "a%", "null", "true", "1,2", "skyflow", "x" * 2000]


def test_every_item_of_a_list_can_be_fetched_by_the_key_that_it_shows(client: DatasetClient) -> None:
    unreachable = {"": "empty", ".": "part of a URL", "..": "part of a URL", "y" * 2001: "2,001 bytes in a URL"}
    unreachable |= {key: "empty" for key in KEYS if key.isspace()}
    client.publish(*(Tier(key, 1) for key in [*KEYS, *unreachable]))

    listed = client.slugs()

    assert sorted(listed) == sorted(set(KEYS) - unreachable.keys())
    rejected = {each["item"]["slug"]: each["reason"] for each in client.datasets.rejected("tiers")}
    assert all(unreachable[key] in rejected[key] for key in unreachable), rejected
    for key in listed:
        segment = quote(key, safe="")
        assert client.data(f"{PATH}{segment}")["slug"] == client.data(f"{APP}{segment}/")["slug"] == key, segment
        assert client.slugs(f"{PATH}?{urlencode({'slug': key})}") == [key], segment


def test_an_encoded_slash_is_no_other_path(client: DatasetClient) -> None:
    client.publish(Tier("a/b"))

    assert client.data(f"{PATH}a%2fb/")["slug"] == "a/b"
    assert client.get(f"{PATH}a%2Fb/").json()["meta"]["endpoint"] == f"{PATH}a/b/"
    for path in (f"{PATH}a/b/", "/trace/public%2Ftiers/", "/trace%2Fpublic/tiers/"):
        assert client.get(path).status == 404


def test_links_to_pages_keep_encoded_slashes(make_client: MakeClient) -> None:
    def routes(services: Services) -> list[Route]:
        return [services.dataset_route(f"{PATH}of/{{name}}/", TIERS)]

    client = make_client(routes=routes)
    client.publish(Tier("one", 1, "a/b"), Tier("two", 2, "a/b"))

    first = client.get(f"{PATH}of/a%2Fb/?page_size=1").json()
    second = client.get(first["meta"]["next"]).json()

    assert [each["data"][0]["slug"] for each in (first, second)] == ["one", "two"]
