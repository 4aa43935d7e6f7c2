"""``include``: related items in the place of their keys."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.kernel.datasets.conftest import DatasetClient, MakeClient, TestClock
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

# --- which items are included -----------------------------------------------------------------------------------------


def test_include_replaces_a_list_of_keys_by_items_in_its_order(shared_tagged: DatasetClient) -> None:
    assert [item["tags"] for item in shared_tagged.data(f"{PATH}?include=tags")] == [[B, A], [B], []]


def test_include_replaces_a_single_key_by_an_item_or_null(shared_tagged: DatasetClient) -> None:
    items = shared_tagged.data(f"{PATH}?include=main_tag,old_tag")

    assert [(item["mainTag"], item["oldTag"]) for item in items] == [(B, None), (None, A), (None, None)]


def test_fields_that_are_not_included_are_unchanged(shared_tagged: DatasetClient) -> None:
    plain, included = (shared_tagged.data(f"{PATH}{query}") for query in ("", "?include=tags"))

    assert [{**item, "tags": ()} for item in plain] == [{**item, "tags": ()} for item in included]
    assert plain[0]["tags"] == ["b", "a", "gone"]


def test_missing_and_hidden_keys_are_counted_once_each(shared_tagged: DatasetClient) -> None:
    everybody, application = (
        meta(shared_tagged, f"{path}?include=tags,main_tag,old_tag")["include"] for path in (PATH, APP)
    )

    assert everybody == {
        "tags": {"items": 2, "missing": 1, "hidden": 0},
        "main_tag": {"items": 1, "missing": 1, "hidden": 0},
        "old_tag": {"items": 1, "missing": 1, "hidden": 0},
    }
    assert application["tags"] == {"items": 1, "missing": 1, "hidden": 1}


def test_explain_names_missing_and_hidden_keys(shared_tagged: DatasetClient) -> None:
    explained = meta(shared_tagged, f"{APP}?include=tags&explain=1")

    assert explained["include"]["tags"] == {
        "items": 1,
        "missing": 1,
        "hidden": 1,
        "missing_keys": ["gone"],
        "hidden_keys": ["b"],
    }
    assert explained["explain"] == []


def test_hidden_items_are_not_included(shared_tagged: DatasetClient) -> None:
    assert [(item["tags"], item["mainTag"]) for item in shared_tagged.data(f"{APP}?include=tags,main_tag")] == [
        ([A], None),
        ([], None),
        ([], None),
    ]


def test_include_works_on_a_route_of_one_item(shared_tagged: DatasetClient) -> None:
    answer = shared_tagged.get(f"{PATH}x/?include=tags").json()

    assert (answer["data"]["tags"], answer["meta"]["include"]["tags"]["items"]) == ([B, A], 2)


def test_include_is_about_the_items_of_the_page_only(shared_tagged: DatasetClient) -> None:
    answer = shared_tagged.get(f"{PATH}?include=tags&page_size=1&page=2").json()

    assert [item["tags"] for item in answer["data"]] == [[B]]
    assert answer["meta"]["include"] == {"tags": {"items": 1, "missing": 0, "hidden": 0}}
    assert shared_tagged.data(answer["meta"]["previous"])[0]["tags"] == [B, A]


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
def test_an_unknown_include_is_rejected_with_the_choices(path: str, choice: str, shared_tagged: DatasetClient) -> None:
    answer = shared_tagged.get(path)

    assert answer.status == 400
    assert f"list of {choice} at [" in answer.json()["errors"]["include"][0]


def test_a_derivation_keeps_the_relations_whose_fields_it_keeps(shared_tagged: DatasetClient) -> None:
    items = shared_tagged.data("/test/public/short/?include=main_tag")

    assert [(item["main_tag"], item["tags"]) for item in items] == [(B, 3), (None, 1), (None, 0)]


def test_include_is_an_unknown_parameter_without_relations(client: DatasetClient) -> None:
    client.publish({"slug": "a"})

    assert "Unknown parameter" in client.get("/trace/public/tiers/?include=tags").json()["errors"]["include"][0]


# --- caching and errors -----------------------------------------------------------------------------------------------


def test_a_response_changes_with_an_included_dataset(tagged: DatasetClient) -> None:
    path = f"{PATH}?include=tags"
    before = tagged.get(path)
    tagged.publish(Tag("a", "A"), Tag("b", "New"), dataset=TAGS)
    after = tagged.get(path, if_none_match=before.headers["etag"])

    assert (after.status, after.json()["data"][1]["tags"][0]["name"]) == (200, "New")
    assert after.headers["x-data-version"] == before.headers["x-data-version"] == "1"


def test_a_response_does_not_change_with_a_dataset_that_is_not_included(tagged: DatasetClient) -> None:
    before = tagged.get(PATH)
    tagged.publish(Tag("c"), dataset=TAGS)

    assert tagged.get(PATH, if_none_match=before.headers["etag"]).status == 304


def test_a_response_does_not_change_with_hidden_items(tagged: DatasetClient) -> None:
    before = tagged.get(f"{APP}?include=tags")
    tagged.publish(Tag("a", "A"), Tag("b", "New"), dataset=TAGS)

    assert tagged.get(f"{APP}?include=tags", if_none_match=before.headers["etag"]).status == 304


@pytest.mark.parametrize("path", [f"{PATH}?include=tags", "/test/public/with-tags/"])
def test_the_age_is_that_of_the_oldest_dataset(path: str, make_tagged: MakeClient) -> None:
    clock = TestClock()
    tagged = make_tagged(clock=clock)
    tagged.publish(Tag("a"), dataset=TAGS)
    clock.ahead = timedelta(hours=1)
    tagged.publish(Thing("x"), dataset=THINGS)

    answer, plain = tagged.get(path), tagged.get(PATH)

    assert int(plain.headers["x-data-age"]) < 60 <= 3600 <= int(answer.headers["x-data-age"])


def test_a_warning_names_the_included_dataset(tagged: DatasetClient) -> None:
    for name, reason in (("things", "too few"), ("tags", "cut short")):
        tagged.wait(tagged.datasets.refuse(name, reason, source="test"))

    assert meta(tagged, f"{PATH}?include=tags,main_tag")["warning"] == "too few; tags: cut short"


@pytest.mark.parametrize("path", [f"{PATH}?include=tags", "/test/public/with-tags/"])
def test_an_included_dataset_that_was_never_published_is_a_503(path: str, make_tagged: MakeClient) -> None:
    tagged = make_tagged()
    tagged.publish(Thing("x", tags=("a",)), dataset=THINGS)

    answer = tagged.get(path)

    assert (answer.status, answer.json()["detail"]) == (503, "the dataset 'tags' has not been published yet")
    assert "retry-after" in answer.headers
    assert tagged.get(PATH).status == 200


@pytest.mark.parametrize("path", ["things/?include=tags", "with-tags/"])
def test_a_filter_that_fails_on_an_included_dataset_is_a_503_for_its_application(
    path: str, make_tagged: MakeClient
) -> None:
    tagged = make_tagged({"tags": lambda items: [tag for tag in items if tag.colour]})
    tagged.publish(Tag("a"), dataset=TAGS)
    tagged.publish(Thing("x"), dataset=THINGS)

    assert [tagged.get(f"/test/public/{whose}{path}").status for whose in ("", "skyflow/")] == [200, 503]
    assert tagged.get(APP).status == 200
