"""Items in the place of their keys: ``include``."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.kernel.datasets.conftest import OpenLab, Shop, TestClock
from tests.kernel.datasets.lab import (
    APP,
    PATH,
    TAGS,
    THINGS,
    A,
    B,
    Tag,
    Thing,
    meta,
)

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
