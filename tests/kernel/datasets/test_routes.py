"""What a dataset's route answers: questions, versions, headers."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel.contracts import Dataset
from kernel.datasets.http import Derivation, Derived
from kernel.testing import Client
from tests.kernel.datasets.conftest import PATH, TIERS, DatasetClient, MakeClient, TestClock, Tier

APP = "/trace/public/skyflow/tiers/"


@pytest.fixture
def five_tiers(client: DatasetClient) -> DatasetClient:
    """The client with five tiers."""
    client.publish(
        Tier("free", 1, "Free", ("Small", "new")),
        Tier("team", 2, "Team"),
        Tier("firm", 3, "Firm", ("large",)),
        Tier("club", 4, "Club", ("large", "new")),
        Tier("none"),
    )
    return client


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
def test_a_question_is_answered_or_refused(query: str, expected: list[str] | None, five_tiers: DatasetClient) -> None:
    answer = five_tiers.get(f"{PATH}?{query}")

    if expected is None:
        assert answer.status == (404 if query == "page=4&page_size=2" else 400)
    else:
        assert [item["slug"] for item in answer.json()["data"]] == expected


def test_an_unknown_parameter_is_named(five_tiers: DatasetClient) -> None:
    assert list(five_tiers.get(f"{PATH}?colour=red").json()["errors"]) == ["colour"]


def test_a_page_links_to_its_neighbours(five_tiers: DatasetClient) -> None:
    meta = five_tiers.get(f"{PATH}?page=2&page_size=2&search=m").json()["meta"]

    assert (meta["page"], meta["pages"], meta["total_items"], meta["next"]) == (2, 2, 3, None)
    assert [item["slug"] for item in five_tiers.data(meta["previous"])] == ["free", "team"]


def test_meta_says_whose_view_it_is(five_tiers: DatasetClient) -> None:
    metas = [five_tiers.get(path).json()["meta"] for path in (PATH, APP)]

    assert metas == [
        {"application": "default", "endpoint": PATH, "total_items": 5},
        {"application": "skyflow", "endpoint": APP, "total_items": 3},
    ]


def test_explain_names_what_each_filter_hid(five_tiers: DatasetClient) -> None:
    explained = five_tiers.get(f"{APP}?explain=1").json()["meta"]["explain"]

    assert explained == [{"filter": "tier", "hidden": 2, "keys": ["firm", "club"]}]


@pytest.mark.parametrize(("path", "status"), [(f"{PATH}club/", 200), (f"{APP}club/", 404), (f"{PATH}zero/", 404)])
def test_one_item_is_found_where_the_application_sees_it(path: str, status: int, five_tiers: DatasetClient) -> None:
    assert five_tiers.get(path).status == status


def test_an_unknown_application_is_told_the_known_ones(five_tiers: DatasetClient) -> None:
    answer = five_tiers.get("/trace/public/zzz/tiers/")

    assert (answer.status, answer.json()["available_apps"]) == (404, ["skyflow"])
    assert answer.json()["error"].startswith("Unknown application")


# --- versions -------------------------------------------------------------------------------------------------------


@pytest.fixture
def versions(make_client: MakeClient) -> DatasetClient:
    """A client with three versions, a day apart; the third is of today."""
    clock = TestClock()
    client = make_client({"skyflow": {"tier": lambda items: items[:1]}}, clock=clock)
    for days, slug in ((-2, "a"), (-1, "b"), (0, "c")):
        clock.ahead = timedelta(days=days)
        client.publish(Tier("0", days), Tier(slug))
    return client


def test_a_day_is_meant_to_its_end(versions: DatasetClient) -> None:
    yesterday = datetime.now(UTC).date() - timedelta(days=1)

    assert versions.get(f"{PATH}?as_of={yesterday}").headers["x-data-version"] == "2"


@pytest.mark.parametrize(("hours_ago", "version"), [(25, "1"), (23, "2"), (-1, "3")])
def test_an_older_version_is_read_by_time(hours_ago: int, version: str, versions: DatasetClient) -> None:
    moment = datetime.now(UTC) - timedelta(hours=hours_ago)

    assert versions.get(f"{PATH}?as_of={moment:%Y-%m-%dT%H:%M:%SZ}").headers["x-data-version"] == version


@pytest.mark.parametrize("version", ["1", "3"])
def test_an_older_version_is_read_by_its_number(version: str, versions: DatasetClient) -> None:
    assert versions.get(f"{PATH}?as_of={version}").headers["x-data-version"] == version


@pytest.mark.parametrize("as_of", ["0", "4", "2020-01-01"])
def test_before_the_first_version_and_after_the_last_there_is_nothing(as_of: str, versions: DatasetClient) -> None:
    assert versions.get(f"{PATH}?as_of={as_of}").status == 404


def test_versions_are_compared_after_the_filters(versions: DatasetClient) -> None:
    application = versions.service.shared.applications.find("skyflow")

    everything = versions.datasets.compare("tiers", 1, 2)
    filtered = versions.datasets.compare("tiers", 1, 2, application)

    assert [item.slug for item in everything.added] == ["b"]
    assert [item.slug for item in everything.removed] == ["a"]
    assert (filtered.added, filtered.removed, filtered.unchanged) == ([], [], 0)
    assert [(change.key, change.fields["level"].after) for change in filtered.changed] == [("0", -1)]


def test_what_is_derived_sees_the_version_before(make_client: MakeClient) -> None:
    derivation = Derivation(Sum, sum_levels)
    client = make_client(
        routes=lambda services: [services.dataset_route("/trace/public/sum/", TIERS, derivation=derivation)]
    )
    for level in (2, 5):
        client.publish(Tier("a", level))

    answers = [client.get(f"/trace/public/sum/{query}").json() for query in ("", "?as_of=1")]

    assert [answer["data"] for answer in answers] == [[{"total": 5, "before": 2}], [{"total": 2, "before": 0}]]
    assert answers[0]["meta"]["ranked"] is True


# --- headers --------------------------------------------------------------------------------------------------------


def large(client: DatasetClient, *levels: int) -> None:
    """Publish tiers whose answers are worth compressing."""
    client.publish(*(Tier(f"tier-{number:03}", level, "x" * 50) for number, level in enumerate(levels)))


def test_an_etag_stays_where_an_export_changes_nothing_for_an_application(client: DatasetClient) -> None:
    large(client, 1, 2, 5)
    before = [client.get(path).headers["etag"] for path in (PATH, APP)]
    large(client, 1, 2, 6)
    after = [client.get(path).headers["etag"] for path in (PATH, APP)]

    assert after[0] != before[0]
    assert after[1] == before[1]


@pytest.mark.parametrize("path", [PATH, APP])
@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
def test_a_client_that_has_it_gets_304(path: str, form: str, five_tiers: DatasetClient) -> None:
    etag = five_tiers.get(path).headers["etag"]

    answer = five_tiers.get(path, if_none_match=form.format(etag))

    assert (answer.status, answer.content, answer.headers["etag"]) == (304, b"", etag)


def test_the_date_alone_makes_no_304(five_tiers: DatasetClient) -> None:
    assert five_tiers.get(PATH, if_modified_since="Fri, 01 Jan 2100 00:00:00 GMT").status == 200


def test_another_etag_gets_everything(five_tiers: DatasetClient) -> None:
    assert five_tiers.get(PATH, if_none_match='"other"').status == 200


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
    assert {answer.headers["vary"] for answer in answers.values()} == {"Accept-Encoding"}


def test_a_client_that_takes_no_plain_body_gets_a_small_one_coded(five_tiers: DatasetClient) -> None:
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


def test_the_age_counts_from_the_last_export_that_found_the_data_to_be_so(make_client: MakeClient) -> None:
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
def test_only_what_everybody_may_have_is_for_shared_caches(policy: Any, whose: str, make_client: MakeClient) -> None:
    client = make_client(routes=lambda services: [services.dataset_route(PATH, TIERS, policy=policy)])
    client.publish(Tier("a"))

    assert client.get(PATH).headers["cache-control"] == f"{whose}, max-age=300, stale-if-error=86400"


def test_an_item_that_gained_a_field_reads_old_versions(client: DatasetClient, serve: Any, make_plugin: Any) -> None:
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


# --- any items, any question ----------------------------------------------------------------------------------------

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
    """Answer a question as select_in_plain_python as Python can."""
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


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=st.lists(TIER, max_size=12), least=st.integers(-2, 4), query=QUERY)
def test_any_question_is_answered_as_plain_python_would(
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
