"""Several datasets are read as of the same time: now, or an earlier one."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from tests.kernel.datasets.conftest import DatasetClient, MakeClient, TestClock, make_tagged_client
from tests.kernel.datasets.tagged import (
    PATH,
    TAGS,
    THINGS,
    Tag,
    Thing,
    meta,
)

PUBLICATIONS = 30


History = tuple[DatasetClient, dict[str, str]]


def make_history(make: MakeClient) -> History:
    """Publish versions of things with new tags, and new tags between them.

    Returns:
        A client of the service, and by name a time after each publication.
    """
    clock = TestClock()
    tagged = make_tagged_client(make, clock=clock)
    moments: dict[str, str] = {}

    def wait(name: str) -> None:
        clock.ahead += timedelta(hours=1)
        moments[name] = f"{datetime.now(UTC) + clock.ahead:%Y-%m-%dT%H:%M:%SZ}"
        clock.ahead += timedelta(hours=1)

    def publish(level: int, name: str) -> None:
        published = tagged.datasets.publish(
            {THINGS: [Thing("x", tags=("a",), level=level)], TAGS: [Tag("a", name)]}, source="test"
        )
        for each in published.values():
            tagged.wait(each)
        wait(name)

    tagged.publish(Thing("x", tags=("a",)), dataset=THINGS)
    wait("nothing")
    publish(1, "first")
    tagged.publish(Tag("a", "corrected"), dataset=TAGS)
    wait("corrected")
    publish(2, "second")
    tagged.publish(Tag("a", "newest"), dataset=TAGS)
    wait("newest")
    return tagged, moments


@pytest.fixture(scope="module")
def history(make_shared_client: MakeClient) -> History:
    """A history for reading only."""
    return make_history(make_shared_client)


@pytest.mark.parametrize(("moment", "level"), [("first", 1), ("corrected", 1), ("second", 2), ("newest", 2)])
def test_as_of_a_time_reads_all_datasets_as_of_that_time(moment: str, level: int, history: History) -> None:
    tagged, moments = history

    (item,) = tagged.data(f"{PATH}?include=tags&as_of={moments[moment]}")

    assert (item["level"], item["tags"][0]["name"]) == (level, moment)


@pytest.mark.parametrize(("version", "name"), [(2, "corrected"), (3, "newest")])
def test_as_of_a_version_reads_the_others_as_of_the_last_time_it_was_current(
    version: int, name: str, history: History
) -> None:
    (item,) = history[0].data(f"{PATH}?include=tags&as_of={version}")

    assert item["tags"][0]["name"] == name


def test_an_included_dataset_without_a_version_at_that_time_is_a_404(history: History) -> None:
    tagged, moments = history

    answers = [tagged.get(f"{PATH}?include=tags&as_of={as_of}") for as_of in ("1", moments["nothing"])]

    assert [answer.status for answer in answers] == [404, 404]
    assert answers[0].json()["error"].startswith("tags has no version at ")


def test_a_derivation_reads_its_other_datasets_as_of_the_same_time(make_client: MakeClient) -> None:
    tagged, moments = make_history(make_client)
    tagged.publish(Tag("a"), Tag("b"), dataset=TAGS)

    metas = [
        meta(tagged, f"/test/public/with-tags/{query}") for query in ("", f"?as_of={moments['second']}", "?as_of=2")
    ]

    assert [each["tags"] for each in metas] == [["a", "b"], ["a"], ["a"]]
    assert metas[0]["before"] == 1


def test_a_derivation_gets_filtered_items_of_its_other_datasets(tagged: DatasetClient) -> None:
    assert [meta(tagged, f"/test/public/{whose}with-tags/")["tags"] for whose in ("", "skyflow/")] == [
        ["a", "b"],
        ["a"],
    ]


def test_datasets_published_together_have_the_same_time(tagged: DatasetClient) -> None:
    published = tagged.datasets.publish({THINGS: [Thing("q")], TAGS: [Tag("q")]}, source="test")

    assert published["things"].at == published["tags"].at


@pytest.mark.slow
def test_readers_see_all_datasets_of_a_publication_or_none(tagged: DatasetClient) -> None:
    def publish() -> None:
        for level in range(PUBLICATIONS):
            tagged.datasets.publish(
                {THINGS: [Thing("x", "a", level=level)], TAGS: [Tag("a", str(level))]}, source="test"
            )

    tagged.wait(tagged.datasets.publish({THINGS: [Thing("x", "a")], TAGS: [Tag("a", "0")]}, source="test")["tags"])
    seen: list[tuple[str, str]] = []
    publisher = threading.Thread(target=publish)
    publisher.start()
    while publisher.is_alive():
        (item,) = tagged.data(f"{PATH}?include=main_tag")
        seen.append((str(item["level"]), item["mainTag"]["name"]))
    publisher.join()

    assert len(set(seen)) > 1
    assert [pair for pair in seen if pair[0] != pair[1]] == []
