"""Items in the place of their keys: ``include``."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.kernel.datasets.conftest import DatasetClient, MakeTagged, TestClock
from tests.kernel.datasets.tagged import (
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


def test_items_come_in_the_place_of_keys_in_their_order(tagged: DatasetClient) -> None:
    assert [item["tags"] for item in tagged.data(f"{PATH}?include=tags")] == [[B, A], [B], []]


def test_one_item_comes_in_the_place_of_one_key_or_null(tagged: DatasetClient) -> None:
    items = tagged.data(f"{PATH}?include=main_tag,old_tag")

    assert [(item["mainTag"], item["oldTag"]) for item in items] == [(B, None), (None, A), (None, None)]


def test_what_is_not_included_stays_as_it_is(tagged: DatasetClient) -> None:
    plain, included = (tagged.data(f"{PATH}{query}") for query in ("", "?include=tags"))

    assert [{**item, "tags": ()} for item in plain] == [{**item, "tags": ()} for item in included]
    assert plain[0]["tags"] == ["b", "a", "gone"]


def test_what_is_left_out_is_counted_once_a_key(tagged: DatasetClient) -> None:
    everybody, application = (meta(tagged, f"{path}?include=tags,main_tag,old_tag")["include"] for path in (PATH, APP))

    assert everybody == {
        "tags": {"items": 2, "missing": 1, "hidden": 0},
        "main_tag": {"items": 1, "missing": 1, "hidden": 0},
        "old_tag": {"items": 1, "missing": 1, "hidden": 0},
    }
    assert application["tags"] == {"items": 1, "missing": 1, "hidden": 1}


def test_explain_names_what_is_left_out(tagged: DatasetClient) -> None:
    explained = meta(tagged, f"{APP}?include=tags&explain=1")

    assert explained["include"]["tags"] == {
        "items": 1,
        "missing": 1,
        "hidden": 1,
        "missing_keys": ["gone"],
        "hidden_keys": ["b"],
    }
    assert explained["explain"] == []


def test_an_application_gets_no_item_that_it_does_not_see(tagged: DatasetClient) -> None:
    assert [(item["tags"], item["mainTag"]) for item in tagged.data(f"{APP}?include=tags,main_tag")] == [
        ([A], None),
        ([], None),
        ([], None),
    ]


def test_one_item_of_a_path_is_completed_as_well(tagged: DatasetClient) -> None:
    answer = tagged.get(f"{PATH}x/?include=tags").json()

    assert (answer["data"]["tags"], answer["meta"]["include"]["tags"]["items"]) == ([B, A], 2)


def test_only_the_page_is_completed_and_counted(tagged: DatasetClient) -> None:
    answer = tagged.get(f"{PATH}?include=tags&page_size=1&page=2").json()

    assert [item["tags"] for item in answer["data"]] == [[B]]
    assert answer["meta"]["include"] == {"tags": {"items": 1, "missing": 0, "hidden": 0}}
    assert tagged.data(answer["meta"]["previous"])[0]["tags"] == [B, A]


def test_a_dataset_may_be_related_to_itself(tagged: DatasetClient) -> None:
    tagged.publish(Tag("a", "A"), Tag("b", "B", "a"), dataset=TAGS)

    assert [tag["parent"] for tag in tagged.data("/test/public/tags/?include=parent")] == [None, A]


@pytest.mark.parametrize(
    ("path", "choice"),
    [
        (f"{PATH}?include=tags,colour", "main_tag or old_tag or tags"),
        (f"{PATH}x/?include=level", "main_tag or old_tag or tags"),
        ("/test/public/short/?include=tags", "main_tag"),
    ],
)
def test_what_cannot_be_included_is_told_what_can(path: str, choice: str, tagged: DatasetClient) -> None:
    answer = tagged.get(path)

    assert answer.status == 400
    assert f"list of {choice} at [" in answer.json()["errors"]["include"][0]


def test_a_derived_item_offers_the_relations_it_still_has(tagged: DatasetClient) -> None:
    items = tagged.data("/test/public/short/?include=main_tag")

    assert [(item["main_tag"], item["tags"]) for item in items] == [(B, 3), (None, 1), (None, 0)]


def test_without_relations_there_is_no_such_parameter(client: DatasetClient) -> None:
    client.publish({"slug": "a"})

    assert "Unknown parameter" in client.get("/trace/public/tiers/?include=tags").json()["errors"]["include"][0]


# --- what an answer depends on --------------------------------------------------------------------------------------


def test_an_answer_changes_with_what_is_included(tagged: DatasetClient) -> None:
    path = f"{PATH}?include=tags"
    before = tagged.get(path)
    tagged.publish(Tag("a", "A"), Tag("b", "New"), dataset=TAGS)
    after = tagged.get(path, if_none_match=before.headers["etag"])

    assert (after.status, after.json()["data"][1]["tags"][0]["name"]) == (200, "New")
    assert after.headers["x-data-version"] == before.headers["x-data-version"] == "1"


def test_an_answer_without_it_does_not(tagged: DatasetClient) -> None:
    before = tagged.get(PATH)
    tagged.publish(Tag("c"), dataset=TAGS)

    assert tagged.get(PATH, if_none_match=before.headers["etag"]).status == 304


def test_an_answer_stays_where_an_application_sees_no_change(tagged: DatasetClient) -> None:
    before = tagged.get(f"{APP}?include=tags")
    tagged.publish(Tag("a", "A"), Tag("b", "New"), dataset=TAGS)

    assert tagged.get(f"{APP}?include=tags", if_none_match=before.headers["etag"]).status == 304


@pytest.mark.parametrize("path", [f"{PATH}?include=tags", "/test/public/with-tags/"])
def test_an_answer_is_as_old_as_its_oldest_part(path: str, make_tagged: MakeTagged) -> None:
    clock = TestClock()
    tagged = make_tagged(clock=clock)
    tagged.publish(Tag("a"), dataset=TAGS)
    clock.ahead = timedelta(hours=1)
    tagged.publish(Thing("x"), dataset=THINGS)

    answer, plain = tagged.get(path), tagged.get(PATH)

    assert int(plain.headers["x-data-age"]) < 60 <= 3600 <= int(answer.headers["x-data-age"])


@pytest.mark.parametrize("path", [f"{PATH}?include=tags", "/test/public/with-tags/"])
def test_an_answer_was_modified_when_its_newest_part_was(path: str, make_tagged: MakeTagged) -> None:
    clock = TestClock()
    tagged = make_tagged(clock=clock)
    tagged.publish(Tag("a"), dataset=TAGS)
    for dataset, item in ((THINGS, Thing("x")), (TAGS, Tag("b"))):
        clock.ahead += timedelta(hours=1)
        tagged.publish(item, dataset=dataset)

        whole, newest = (tagged.get(each).headers["last-modified"] for each in (path, f"/test/public/{dataset.name}/"))

        assert whole == newest


def test_a_warning_says_which_dataset_it_is_about(tagged: DatasetClient) -> None:
    for name, reason in (("things", "too few"), ("tags", "cut short")):
        tagged.wait(tagged.datasets.refuse(name, reason, source="test"))

    assert meta(tagged, f"{PATH}?include=tags,main_tag")["warning"] == "too few; tags: cut short"


@pytest.mark.parametrize("path", [f"{PATH}?include=tags", "/test/public/with-tags/"])
def test_without_the_other_dataset_there_is_no_answer_that_looks_whole(path: str, make_tagged: MakeTagged) -> None:
    tagged = make_tagged()
    tagged.publish(Thing("x", tags=("a",)), dataset=THINGS)

    answer = tagged.get(path)

    assert (answer.status, answer.json()["detail"]) == (503, "the dataset 'tags' has not been published yet")
    assert "retry-after" in answer.headers
    assert tagged.get(PATH).status == 200


@pytest.mark.parametrize("path", ["things/?include=tags", "with-tags/"])
def test_a_filter_that_fails_on_the_other_dataset_costs_its_application_that_answer(
    path: str, make_tagged: MakeTagged
) -> None:
    tagged = make_tagged({"tags": lambda items: [tag for tag in items if tag.colour]})
    tagged.publish(Tag("a"), dataset=TAGS)
    tagged.publish(Thing("x"), dataset=THINGS)

    assert [tagged.get(f"/test/public/{whose}{path}").status for whose in ("", "skyflow/")] == [200, 503]
    assert tagged.get(APP).status == 200
