"""Items in the place of their keys: ``include``; and datasets beside each other in one answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from kernel.contracts import Dataset, Filter, Route
from kernel.datasets.shapes import Derivation, Derived
from kernel.services import Services
from kernel.testing import Client
from tests.kernel.datasets.conftest import MEMBERS, OpenShop, Shop, TestClock
from tests.kernel.fakes import Boot, MakePlugin

PUBLICATIONS = 30
PATH, APP = "/lab/public/things/", "/lab/public/skyflow/things/"


class Tag(msgspec.Struct, frozen=True):
    slug: str
    name: str = ""
    parent: str | None = None


class Thing(msgspec.Struct, frozen=True, rename="camel"):
    slug: str
    main_tag: str | None = None
    old_tag: str = ""
    tags: tuple[str, ...] = ()
    level: int = 0


class Short(msgspec.Struct, frozen=True):
    """What a derivation leaves of a thing: one relation, and one field of another type."""

    slug: str
    main_tag: str | None
    tags: int


TAGS = Dataset(name="tags", item=Tag, key="slug", relations={"parent": "tags"})
RELATIONS = {"main_tag": "tags", "old_tag": "tags", "tags": "tags"}
THINGS = Dataset(name="things", item=Thing, key="slug", relations=RELATIONS)
A, B = {"slug": "a", "name": "A", "parent": None}, {"slug": "b", "name": "B", "parent": None}


def shorten(things: Sequence[Thing], _before: Sequence[Thing]) -> Derived:
    """Count tags."""
    return Derived([Short(thing.slug, thing.main_tag, len(thing.tags)) for thing in things])


def count(things: Sequence[Thing], before: Sequence[Thing], tags: Sequence[Tag]) -> Derived:
    """Name every tag beside every thing."""
    return Derived(things, {"tags": [tag.slug for tag in tags], "before": len(before)})


def lab_routes(services: Services) -> Iterable[Route]:
    """Return things, one thing, tags, and things derived."""
    beside = Derivation(item=Thing, derive=count, beside=(TAGS,))
    return [
        services.dataset_route(PATH, THINGS),
        services.dataset_route(f"{PATH}{{slug}}/", THINGS, one=True),
        services.dataset_route("/lab/public/tags/", TAGS),
        services.dataset_route("/lab/public/short/", THINGS, derivation=Derivation(item=Short, derive=shorten)),
        services.dataset_route("/lab/public/beside/", THINGS, derivation=beside),
    ]


OpenLab = Callable[..., Shop]


@pytest.fixture
def open_lab(open_shop: OpenShop) -> OpenLab:
    """Open a lab, where an application sees some tags."""

    def start(filters: Mapping[str, Filter] | None = None, **values: Any) -> Shop:
        return open_shop({"skyflow": filters or {}}, datasets=(THINGS, TAGS), routes=lab_routes, **values)

    return start


@pytest.fixture
def lab(open_lab: OpenLab) -> Shop:
    """A lab with three things and two tags, of which the application sees one."""
    lab = open_lab({"tags": lambda tags: [tag for tag in tags if tag.slug == "a"]})
    lab.publish(Tag("a", "A"), Tag("b", "B"), dataset=TAGS)
    lab.publish(
        Thing("x", "b", "", ("b", "a", "gone")),
        Thing("y", None, "a", ("b",)),
        Thing("z", "lost", "lost"),
        dataset=THINGS,
    )
    return lab


def meta(lab: Shop, path: str) -> Any:
    """Return what an answer says of itself."""
    return lab.get(path).json()["meta"]


# --- what comes in the place of a key -------------------------------------------------------------------------------


def test_items_come_in_the_place_of_keys_in_their_order(lab: Shop) -> None:
    assert [item["tags"] for item in lab.data(f"{PATH}?include=tags")] == [[B, A], [B], []]


def test_one_item_comes_in_the_place_of_one_key_or_null(lab: Shop) -> None:
    items = lab.data(f"{PATH}?include=main_tag,old_tag")

    assert [(item["mainTag"], item["oldTag"]) for item in items] == [(B, None), (None, A), (None, None)]


def test_what_is_not_included_stays_as_it_is(lab: Shop) -> None:
    plain, included = (lab.data(f"{PATH}{query}") for query in ("", "?include=tags"))

    assert [{**item, "tags": ()} for item in plain] == [{**item, "tags": ()} for item in included]
    assert plain[0]["tags"] == ["b", "a", "gone"]


def test_what_is_left_out_is_counted_once_a_key(lab: Shop) -> None:
    everybody, application = (meta(lab, f"{path}?include=tags,main_tag,old_tag")["include"] for path in (PATH, APP))

    assert everybody == {
        "tags": {"items": 2, "missing": 1, "hidden": 0},
        "main_tag": {"items": 1, "missing": 1, "hidden": 0},
        "old_tag": {"items": 1, "missing": 1, "hidden": 0},
    }
    assert application["tags"] == {"items": 1, "missing": 1, "hidden": 1}


def test_explain_names_what_is_left_out(lab: Shop) -> None:
    explained = meta(lab, f"{APP}?include=tags&explain=1")

    assert explained["include"]["tags"] == {
        "items": 1,
        "missing": 1,
        "hidden": 1,
        "missing_keys": ["gone"],
        "hidden_keys": ["b"],
    }
    assert explained["explain"] == []


def test_an_application_gets_no_item_that_it_does_not_see(lab: Shop) -> None:
    assert [(item["tags"], item["mainTag"]) for item in lab.data(f"{APP}?include=tags,main_tag")] == [
        ([A], None),
        ([], None),
        ([], None),
    ]


def test_one_item_of_a_path_is_completed_as_well(lab: Shop) -> None:
    answer = lab.get(f"{PATH}x/?include=tags").json()

    assert (answer["data"]["tags"], answer["meta"]["include"]["tags"]["items"]) == ([B, A], 2)


def test_only_the_page_is_completed_and_counted(lab: Shop) -> None:
    answer = lab.get(f"{PATH}?include=tags&page_size=1&page=2").json()

    assert [item["tags"] for item in answer["data"]] == [[B]]
    assert answer["meta"]["include"] == {"tags": {"items": 1, "missing": 0, "hidden": 0}}
    assert lab.data(answer["meta"]["previous"])[0]["tags"] == [B, A]


def test_a_dataset_may_be_related_to_itself(lab: Shop) -> None:
    lab.publish(Tag("a", "A"), Tag("b", "B", "a"), dataset=TAGS)

    assert [tag["parent"] for tag in lab.data("/lab/public/tags/?include=parent")] == [None, A]


@pytest.mark.parametrize(
    ("path", "choice"),
    [
        (f"{PATH}?include=tags,colour", "main_tag or old_tag or tags"),
        (f"{PATH}x/?include=level", "main_tag or old_tag or tags"),
        ("/lab/public/short/?include=tags", "main_tag"),
    ],
)
def test_what_cannot_be_included_is_told_what_can(path: str, choice: str, lab: Shop) -> None:
    answer = lab.get(path)

    assert answer.status == 400
    assert f"list of {choice} at [" in answer.json()["errors"]["include"][0]


def test_a_derived_item_offers_the_relations_it_still_has(lab: Shop) -> None:
    items = lab.data("/lab/public/short/?include=main_tag")

    assert [(item["main_tag"], item["tags"]) for item in items] == [(B, 3), (None, 1), (None, 0)]


def test_without_relations_there_is_no_such_parameter(shop: Shop) -> None:
    shop.publish({"slug": "a"})

    assert "Unknown parameter" in shop.get("/trace/public/tiers/?include=tags").json()["errors"]["include"][0]


# --- what an answer depends on --------------------------------------------------------------------------------------


def test_an_answer_changes_with_what_is_included(lab: Shop) -> None:
    path = f"{PATH}?include=tags"
    before = lab.get(path)
    lab.publish(Tag("a", "A"), Tag("b", "New"), dataset=TAGS)
    after = lab.get(path, if_none_match=before.headers["etag"])

    assert (after.status, after.json()["data"][1]["tags"][0]["name"]) == (200, "New")
    assert after.headers["x-data-version"] == before.headers["x-data-version"] == "1"


def test_an_answer_without_it_does_not(lab: Shop) -> None:
    before = lab.get(PATH)
    lab.publish(Tag("c"), dataset=TAGS)

    assert lab.get(PATH, if_none_match=before.headers["etag"]).status == 304


def test_an_answer_stays_where_an_application_sees_no_change(lab: Shop) -> None:
    before = lab.get(f"{APP}?include=tags")
    lab.publish(Tag("a", "A"), Tag("b", "New"), dataset=TAGS)

    assert lab.get(f"{APP}?include=tags", if_none_match=before.headers["etag"]).status == 304


@pytest.mark.parametrize("path", [f"{PATH}?include=tags", "/lab/public/beside/"])
def test_an_answer_is_as_old_as_its_oldest_part(path: str, open_lab: OpenLab) -> None:
    clock = TestClock()
    lab = open_lab(clock=clock)
    lab.publish(Tag("a"), dataset=TAGS)
    clock.ahead = timedelta(hours=1)
    lab.publish(Thing("x"), dataset=THINGS)

    answer, plain = lab.get(path), lab.get(PATH)

    assert int(plain.headers["x-data-age"]) < 60 <= 3600 <= int(answer.headers["x-data-age"])


@pytest.mark.parametrize("path", [f"{PATH}?include=tags", "/lab/public/beside/"])
def test_an_answer_was_modified_when_its_newest_part_was(path: str, open_lab: OpenLab) -> None:
    clock = TestClock()
    lab = open_lab(clock=clock)
    lab.publish(Tag("a"), dataset=TAGS)
    for dataset, item in ((THINGS, Thing("x")), (TAGS, Tag("b"))):
        clock.ahead += timedelta(hours=1)
        lab.publish(item, dataset=dataset)

        whole, newest = (lab.get(each).headers["last-modified"] for each in (path, f"/lab/public/{dataset.name}/"))

        assert whole == newest


def test_a_warning_says_which_dataset_it_is_about(lab: Shop) -> None:
    for name, reason in (("things", "too few"), ("tags", "cut short")):
        lab.wait(lab.datasets.refuse(name, reason, source="test"))

    assert meta(lab, f"{PATH}?include=tags,main_tag")["warning"] == "too few; tags: cut short"


@pytest.mark.parametrize("path", [f"{PATH}?include=tags", "/lab/public/beside/"])
def test_without_the_other_dataset_there_is_no_answer_that_looks_whole(path: str, open_lab: OpenLab) -> None:
    lab = open_lab()
    lab.publish(Thing("x", tags=("a",)), dataset=THINGS)

    answer = lab.get(path)

    assert (answer.status, answer.json()["detail"]) == (503, "the dataset 'tags' has not been published yet")
    assert "retry-after" in answer.headers
    assert lab.get(PATH).status == 200


@pytest.mark.parametrize("path", ["things/?include=tags", "beside/"])
def test_a_filter_that_fails_on_the_other_dataset_costs_its_application_that_answer(
    path: str, open_lab: OpenLab
) -> None:
    lab = open_lab({"tags": lambda tags: [tag for tag in tags if tag.colour]})
    lab.publish(Tag("a"), dataset=TAGS)
    lab.publish(Thing("x"), dataset=THINGS)

    assert [lab.get(f"/lab/public/{whose}{path}").status for whose in ("", "skyflow/")] == [200, 503]
    assert lab.get(APP).status == 200


# --- older versions -------------------------------------------------------------------------------------------------


@pytest.fixture
def history(open_lab: OpenLab) -> tuple[Shop, dict[str, str]]:
    """A lab whose tags changed beside each version of its things, and after it; and the times of all that."""
    clock = TestClock()
    lab = open_lab(clock=clock)
    moments: dict[str, str] = {}

    def wait(name: str) -> None:
        clock.ahead += timedelta(hours=1)
        moments[name] = f"{datetime.now(UTC) + clock.ahead:%Y-%m-%dT%H:%M:%SZ}"
        clock.ahead += timedelta(hours=1)

    def publish(level: int, name: str) -> None:
        published = lab.datasets.publish(
            {THINGS: [Thing("x", tags=("a",), level=level)], TAGS: [Tag("a", name)]}, source="test"
        )
        for each in published.values():
            lab.wait(each)
        wait(name)

    lab.publish(Thing("x", tags=("a",)), dataset=THINGS)
    wait("nothing")
    publish(1, "first")
    lab.publish(Tag("a", "corrected"), dataset=TAGS)
    wait("corrected")
    publish(2, "second")
    lab.publish(Tag("a", "newest"), dataset=TAGS)
    wait("newest")
    return lab, moments


@pytest.mark.parametrize(("moment", "level"), [("first", 1), ("corrected", 1), ("second", 2), ("newest", 2)])
def test_as_of_a_time_reads_what_was_included_then(
    moment: str, level: int, history: tuple[Shop, dict[str, str]]
) -> None:
    lab, moments = history

    (item,) = lab.data(f"{PATH}?include=tags&as_of={moments[moment]}")

    assert (item["level"], item["tags"][0]["name"]) == (level, moment)


@pytest.mark.parametrize(("version", "name"), [(2, "corrected"), (3, "newest")])
def test_as_of_a_version_reads_what_was_included_when_it_last_served(
    version: int, name: str, history: tuple[Shop, dict[str, str]]
) -> None:
    (item,) = history[0].data(f"{PATH}?include=tags&as_of={version}")

    assert item["tags"][0]["name"] == name


def test_before_its_first_version_nothing_can_be_included(history: tuple[Shop, dict[str, str]]) -> None:
    lab, moments = history

    answers = [lab.get(f"{PATH}?include=tags&as_of={as_of}") for as_of in ("1", moments["nothing"])]

    assert [answer.status for answer in answers] == [404, 404]
    assert answers[0].json()["error"].startswith("tags has no version at ")


def test_a_derivation_reads_the_datasets_beside_it_as_of_the_same_time(history: tuple[Shop, dict[str, str]]) -> None:
    lab, moments = history
    lab.publish(Tag("a"), Tag("b"), dataset=TAGS)

    metas = [meta(lab, f"/lab/public/beside/{query}") for query in ("", f"?as_of={moments['second']}", "?as_of=2")]

    assert [each["tags"] for each in metas] == [["a", "b"], ["a"], ["a"]]
    assert metas[0]["before"] == 1


def test_a_derivation_gets_what_the_application_sees_beside_it(lab: Shop) -> None:
    assert [meta(lab, f"/lab/public/{whose}beside/")["tags"] for whose in ("", "skyflow/")] == [["a", "b"], ["a"]]


def test_what_was_published_at_once_is_read_at_once(lab: Shop) -> None:
    published = lab.datasets.publish({THINGS: [Thing("q")], TAGS: [Tag("q")]}, source="test")

    assert published["things"].at == published["tags"].at


def test_no_part_of_a_publication_is_seen_without_the_rest(lab: Shop) -> None:
    def publish() -> None:
        for level in range(PUBLICATIONS):
            lab.datasets.publish({THINGS: [Thing("x", "a", level=level)], TAGS: [Tag("a", str(level))]}, source="test")

    lab.wait(lab.datasets.publish({THINGS: [Thing("x", "a")], TAGS: [Tag("a", "0")]}, source="test")["tags"])
    seen: list[tuple[str, str]] = []
    publisher = threading.Thread(target=publish)
    publisher.start()
    while publisher.is_alive():
        (item,) = lab.data(f"{PATH}?include=main_tag")
        seen.append((str(item["level"]), item["mainTag"]["name"]))
    publisher.join()

    assert len(set(seen)) > 1
    assert [pair for pair in seen if pair[0] != pair[1]] == []


# --- what is refused at boot ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("relations", "reason"),
    [
        ({"colour": "tags"}, "Thing has no field colour"),
        ({"tags": "tag"}, "relation 'tags': there is no dataset 'tag'"),
        ({"level": "tags"}, "relation 'level': expected str, str | None or tuple of str, not int"),
        ({"tags": "members"}, "relation 'tags': keys of 'members' are no texts"),
    ],
)
def test_a_wrong_relation_quarantines_its_plugin(
    relations: Mapping[str, str], reason: str, boot: Boot, make_plugin: MakePlugin
) -> None:
    wrong = Dataset(name="things", item=Thing, key="slug", relations=relations)
    client: Client = boot(
        make_plugin("lab", register_datasets=lambda services: [wrong]),
        make_plugin("other", register_datasets=lambda services: [TAGS, MEMBERS]),
    )

    states = {name: status.state for name, status in client.service.registry.statuses.items()}
    assert states == {"lab": "quarantined", "other": "loaded"}
    assert reason in str(client.service.registry.statuses["lab"].reason)


def test_who_is_left_out_takes_along_whom_they_are_related_to(boot: Boot, make_plugin: MakePlugin) -> None:
    client: Client = boot(
        make_plugin("lab", register_datasets=lambda services: [THINGS]),
        make_plugin("other", register_datasets=lambda services: [TAGS, Dataset(name="x", item=Tag, key="id")]),
    )

    assert "there is no dataset 'tags'" in str(client.service.registry.statuses["lab"].reason)


def test_a_relation_to_a_dataset_of_another_plugin_is_included(open_shop: OpenShop, make_plugin: MakePlugin) -> None:
    other = make_plugin("other", register_datasets=lambda services: [TAGS])
    lab = open_shop(datasets=(THINGS,), routes=lambda services: [services.dataset_route(PATH, THINGS)], others=[other])
    lab.publish(Tag("a", "A"), dataset=TAGS)
    lab.publish(Thing("x", tags=("a",)), dataset=THINGS)

    assert lab.data(f"{PATH}?include=tags")[0]["tags"] == [A]
