"""Publishing: whole or not at all, only what is new, and bad items aside."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from kernel.datasets.models import Rejected
from kernel.errors import ConflictError, NotFoundError, UnavailableError
from tests.kernel.datasets.conftest import MEMBERS, PATH, TIERS, DatasetClient, Member, Tier
from tests.processes import eventually


class TakenOver:
    """A run of a job that another took over while it worked."""

    id = 7

    def __init__(self, database: str) -> None:
        self._database = database

    @contextmanager
    def transaction(self) -> Iterator[Connection[Any]]:
        with psycopg.connect(self._database) as connection:
            yield connection
            raise RuntimeError("taken over")


def test_a_dataset_that_was_never_published_is_a_503(client: DatasetClient) -> None:
    answer = client.get(PATH)

    assert (answer.status, answer.json()["detail"]) == (503, "the dataset 'tiers' has not been published yet")
    assert "retry-after" in answer.headers


def test_a_dataset_whose_first_attempt_was_refused_is_a_503_with_the_reason(client: DatasetClient) -> None:
    client.wait(client.datasets.refuse("tiers", "the source was empty", source="test"))

    assert client.get(PATH).json()["detail"].endswith("has not been published yet: the source was empty")


def test_the_same_items_in_another_order_make_no_new_version(client: DatasetClient) -> None:
    first = client.publish(Tier("a", 1), {"slug": "b", "level": 2})
    second = client.publish({"level": 2, "slug": "b"}, Tier("a", 1))

    assert (first.outcome, first.version) == ("published", 1)
    assert (second.outcome, second.version) == ("unchanged", 1)
    assert len(client.datasets.versions("tiers")) == 1


def test_equal_content_of_several_versions_is_stored_once(client: DatasetClient, database: str) -> None:
    for slug in ("a", "b", "a"):
        client.publish(Tier(slug))

    versions = client.datasets.versions("tiers")
    with psycopg.connect(database) as connection:
        contents = connection.execute("SELECT count(*) FROM tiercel.dataset_content").fetchone()

    assert [each.version for each in versions] == [3, 2, 1]
    assert versions[0].sha256 == versions[2].sha256
    assert contents == (2,)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        pytest.param({"slug": "bad", "level": "no"}, "level: Expected int, got 'no'.", id="wrong type"),
        pytest.param({"level": 1}, "slug: This field is required.", id="missing field"),
        pytest.param(Tier("bad", level="no"), "Expected int | null, got str - at $.level", id="Struct of wrong type"),  # type: ignore[arg-type]
        pytest.param(Tier("good"), "another item has the slug 'good'", id="duplicate key"),
        pytest.param({"slug": "good", "more": 1}, "another item has the slug 'good'", id="duplicate with a field more"),
        pytest.param(Tier("bad", score=math.nan), "JSON has no NaN and no infinity", id="NaN"),
        pytest.param({"slug": "bad", "score": math.inf}, "JSON has no NaN and no infinity", id="infinity"),
        pytest.param("bad", "Expected object, got str", id="no object"),
        pytest.param(object(), "Encoding objects of type object is unsupported", id="what JSON cannot say"),
    ],
)
def test_an_invalid_item_is_rejected_with_its_reason(item: object, reason: str, client: DatasetClient) -> None:
    published = client.publish(Tier("good"), item)

    assert (published.items, published.rejected) == (1, 1)
    (rejected,) = client.datasets.rejected("tiers")
    assert (rejected["index"], rejected["reason"]) == (1, reason)
    assert client.slugs() == ["good"]


def test_items_that_the_caller_rejected_are_counted_and_stored(client: DatasetClient) -> None:
    aside = [Rejected(7, "it was cut off", {"slug": "h"})]

    given = {TIERS: [Tier("a"), {"level": 1}]}
    published = client.datasets.publish(given, source="test", rejected={TIERS: aside})["tiers"]

    assert (published.items, published.rejected) == (1, 2)
    assert [(each["index"], each["item"]) for each in client.datasets.rejected("tiers")] == [
        (7, {"slug": "h"}),
        (1, {"level": 1}),
    ]


def test_several_datasets_become_visible_together_or_not_at_all(client: DatasetClient) -> None:
    client.publish(Tier("a"))

    with pytest.raises(psycopg.errors.NotNullViolation):
        # Its source is missing: the second of the two fails.
        client.datasets.publish({TIERS: [Tier("b")], MEMBERS: [Member(1)]}, source=None)  # type: ignore[arg-type]

    assert [each.version for each in client.datasets.versions("tiers")] == [1]
    assert client.datasets.versions("members") == []


def test_a_job_run_that_was_taken_over_cannot_publish(client: DatasetClient, database: str) -> None:
    client.publish(Tier("new"))

    with pytest.raises(RuntimeError, match="taken over"):
        client.datasets.publish({TIERS: [Tier("old")]}, source="test", run=TakenOver(database))

    assert [each.version for each in client.datasets.versions("tiers")] == [1]
    assert client.slugs() == ["new"]


def test_a_refused_attempt_leaves_the_current_version_with_a_warning(client: DatasetClient) -> None:
    client.publish(Tier("a"))
    client.wait(client.datasets.refuse("tiers", "only 3 of 400 items came", source="test"))

    answer = client.get(PATH).json()

    assert [item["slug"] for item in answer["data"]] == ["a"]
    assert answer["meta"]["warning"] == "only 3 of 400 items came"


def test_a_successful_attempt_removes_the_warning(client: DatasetClient) -> None:
    client.publish(Tier("a"))
    client.datasets.refuse("tiers", "short", source="test")
    client.publish(Tier("a"))

    assert "warning" not in client.get(PATH).json()["meta"]


def test_rollback_publishes_an_old_version_as_a_new_one(client: DatasetClient) -> None:
    client.publish(Tier("a"))
    client.publish(Tier("b"))

    client.wait(client.datasets.roll_back("tiers", 1, source="me"))

    assert client.slugs() == ["a"]
    assert [each.version for each in client.datasets.versions("tiers")] == [3, 2, 1]


def test_rollback_to_an_unknown_version_is_an_error(client: DatasetClient) -> None:
    with pytest.raises(NotFoundError, match="tiers has no version 5"):
        client.datasets.roll_back("tiers", 5, source="me")


def test_rollback_to_a_version_that_does_not_fit_is_a_conflict(client: DatasetClient, database: str) -> None:
    client.publish({"id": 1}, dataset=MEMBERS)
    client.publish(Tier("a"))
    client.publish(Tier("b"))
    with psycopg.connect(database) as connection:
        connection.execute(
            "UPDATE tiercel.dataset_version SET sha256 = (SELECT sha256 FROM tiercel.dataset_version"
            " WHERE dataset = 'members') WHERE dataset = 'tiers' AND version = 1"
        )

    with pytest.raises(ConflictError, match="does not fit"):
        client.datasets.roll_back("tiers", 1, source="me")


def test_old_versions_and_attempts_are_removed(client: DatasetClient, database: str) -> None:
    client.datasets._publisher._keep_versions = 2
    for number in range(5):
        client.publish(Tier(f"t{number}"))
    for _ in range(30):
        client.datasets.refuse("tiers", "short", source="test")

    with psycopg.connect(database) as connection:
        counted = connection.execute(
            "SELECT (SELECT count(*) FROM tiercel.dataset_content), (SELECT count(*) FROM tiercel.dataset_publication)"
        ).fetchone()

    assert [each.version for each in client.datasets.versions("tiers")] == [5, 4]
    # Of the attempts, twenty, and the last that succeeded: it says how old the data are.
    assert counted == (2, 21)
    assert client.datasets.read("tiers").snapshot.version == 5


def test_concurrent_publishers_make_one_version_each(client: DatasetClient) -> None:
    def publish(number: int) -> Any:
        both: Any = {TIERS: [Tier(f"t{number}")], MEMBERS: [Member(number)]}
        return client.datasets.publish(both, source="test")["tiers"].version

    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(publish, range(20)))

    assert sorted(versions) == list(range(1, 21))


@pytest.mark.slow
def test_readers_see_whole_snapshots_during_publications(client: DatasetClient) -> None:
    client.publish(*(Tier(f"t{number}", 0) for number in range(50)))
    seen: set[tuple[int, ...]] = set()

    def read() -> None:
        while len(seen) < 10:
            seen.add(tuple(sorted({item["level"] for item in client.data()})))

    with ThreadPoolExecutor(3) as pool:
        reading = [pool.submit(read) for _ in range(2)]
        for level in range(1, 200):
            client.publish(*(Tier(f"t{number}", level) for number in range(50)))
            if all(each.done() for each in reading):
                break
        for each in reading:
            each.result(30)

    assert all(len(levels) == 1 for levels in seen)


def test_a_publication_stands_if_cleaning_up_fails(client: DatasetClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_: object) -> None:
        raise UnavailableError("gone")

    monkeypatch.setattr("kernel.datasets.store.remove_old", unavailable)

    assert client.publish(Tier("a")).outcome == "published"
    assert eventually(lambda: client.slugs() == ["a"])
