"""Several processes, lost notifications, and a database that goes away."""

from __future__ import annotations

import time
from datetime import timedelta

import psycopg
import pytest

from kernel.datasets.caches import LISTENER, clear_everywhere, collect_stats
from kernel.datasets.store import QUERIES
from tests.kernel.datasets.conftest import (
    PATH,
    TIERS,
    OpenShop,
    Shop,
    TestClock,
    Tier,
)
from tests.outage import outage
from tests.processes import eventually

# Everything that a publication does, except telling anybody.
_PUBLISH_SILENTLY = """
WITH old AS (SELECT * FROM tiercel.dataset_version WHERE dataset = 'tiers' AND version = 1)
INSERT INTO tiercel.dataset_version SELECT dataset, 3, sha256, now() FROM old
"""


@pytest.fixture
def two(open_shop: OpenShop) -> tuple[Shop, Shop]:
    """Two services on one database, with two versions: ``a``, and then ``b``."""
    shops = open_shop(), open_shop()
    for slug in ("a", "b"):
        shops[0].publish(Tier(slug))
    assert eventually(lambda: shops[1].get(PATH).status == 200 and shops[1].slugs() == ["b"])
    return shops


def test_a_version_is_seen_in_another_process_within_a_second(two: tuple[Shop, Shop]) -> None:
    one, other = two
    one.datasets.publish({TIERS: [Tier("c")]}, source="test")

    assert eventually(lambda: other.slugs() == ["c"], 1.0)


def test_a_lost_notification_costs_a_poll(open_shop: OpenShop, database: str) -> None:
    shop = open_shop()
    shop.datasets._watch._poll_interval_s = 0.3
    for slug in ("a", "b"):
        shop.publish(Tier(slug))
    with psycopg.connect(database) as connection:
        connection.execute(_PUBLISH_SILENTLY)

    assert eventually(lambda: shop.slugs() == ["a"], 3.0)


def test_data_are_served_while_the_database_is_away_and_go_on_after(open_shop: OpenShop, database: str) -> None:
    clock = TestClock()
    shop = open_shop({"skyflow": {"tier": lambda items: items[:1]}}, clock=clock, db={"pool_timeout_s": 0.2})
    shop.publish(Tier("a"), Tier("b"))
    paths = (PATH, "/trace/public/skyflow/tiers/", f"{PATH}?search=b", f"{PATH}?as_of=1", "/trace/public/index/")

    with outage(database):
        clock.ahead = timedelta(minutes=5)
        answers = [shop.get(path) for path in paths]
        unknown = shop.get("/trace/public/members/?as_of=1")

    assert [answer.status for answer in answers] == [200] * 5
    assert all(int(answer.headers["x-data-age"]) >= 300 for answer in answers)
    assert unknown.status == 503
    assert eventually(lambda: _can_publish(shop))
    assert eventually(lambda: shop.slugs() == ["c"])


def _can_publish(shop: Shop) -> bool:
    try:
        shop.datasets.publish({TIERS: [Tier("c")]}, source="test")
    except Exception:
        return False
    return True


def test_a_process_that_starts_without_its_database_answers_at_once_and_serves_later(
    open_shop: OpenShop, database: str
) -> None:
    open_shop().publish(Tier("a"))
    late = open_shop(db={"pool_timeout_s": 0.2})
    service = late.client.service
    service.stop()
    service.shared.datasets._snapshots._state = None
    with outage(database):
        service.start()
        began = time.monotonic()
        answers = [late.get(PATH) for _ in range(3)]
        took_s = time.monotonic() - began

    assert [(answer.status, "retry-after" in answer.headers) for answer in answers] == [(503, True)] * 3
    assert took_s < 5
    assert eventually(lambda: late.get(PATH).status == 200)


def test_content_that_does_not_fit_costs_its_dataset_alone(shop: Shop, database: str) -> None:
    shop.publish(Tier("a"))
    with psycopg.connect(database) as connection:
        connection.execute(
            "INSERT INTO tiercel.dataset_version SELECT 'members', 1, sha256, now() FROM tiercel.dataset_version"
        )
        connection.execute(QUERIES["notify_channel"], {"channel": "tiercel_datasets", "payload": "members"})

    shop.publish(Tier("b"))

    assert shop.slugs() == ["b"]
    assert eventually(lambda: "does not fit" in shop.get("/trace/public/members/").json()["detail"])
    assert "does not fit" in shop.get("/readyz?verbose").content.decode()


def test_clearing_reaches_every_process(two: tuple[Shop, Shop]) -> None:
    for shop in two:
        shop.slugs()
    name = "trace_data_tiers.json"
    caches = [shop.client.service.shared.cache for shop in two]
    assert all(name in cache.names() for cache in caches)

    told = clear_everywhere(two[0].client.service.shared.db, "trace_data_t*")

    assert told == 2
    assert eventually(lambda: not any(name in cache.names() for cache in caches))


def test_every_process_tells_its_figures(two: tuple[Shop, Shop], database: str) -> None:
    two[1].slugs()

    found = collect_stats(two[0].client.service.shared.db, 5)

    assert len(found) == 2
    assert any("trace_data_tiers.json" in each.names for each in found)
    assert all(each.caches["datasets"].size_max_bytes for each in found)
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM tiercel.cache_report").fetchone() == (0,)


def test_a_process_that_does_not_answer_is_not_waited_for(shop: Shop, database: str) -> None:
    db = shop.client.service.shared.db
    assert eventually(lambda: len(collect_stats(db)) == 1)

    with psycopg.connect(database, application_name=LISTENER):
        found = collect_stats(db)

    assert len(found) == 1


def test_a_pattern_that_no_notification_holds_is_refused(shop: Shop) -> None:
    with pytest.raises(ValueError, match="at most 1000 characters"):
        clear_everywhere(shop.client.service.shared.db, "x" * 1001)


def test_the_index_lists_what_an_application_sees(open_shop: OpenShop) -> None:
    shop = open_shop({"skyflow": {"tier": lambda items: items[:1]}})
    shop.publish(Tier("a"), Tier("b"))
    shop.wait(shop.datasets.refuse("tiers", "short", source="test"))

    tiers, members = shop.data("/trace/public/skyflow/index/")

    assert (tiers["dataset"], tiers["file"], tiers["version"], tiers["items"]) == ("tiers", "tiers.json", 1, 1)
    assert tiers["warning"] == "short"
    assert [each["outcome"] for each in tiers["history"]] == ["refused", "published"]
    assert (members["version"], members["items"], members["history"]) == (None, None, [])


def test_the_index_has_an_etag_that_changes_with_each_attempt(shop: Shop) -> None:
    path = "/trace/public/index/"
    shop.publish(Tier("a"))
    etag = shop.get(path).headers["etag"]
    assert shop.get(path, if_none_match=etag).status == 304

    shop.publish(Tier("a"))

    assert shop.get(path, if_none_match=etag).status == 200


def test_the_index_is_offered_under_its_file(shop: Shop) -> None:
    shop.publish(Tier("a"))
    entries = shop.datasets.indexes["test_index.json"]

    assert [(each.dataset, each.items) for each in entries(None)] == [("tiers", 1), ("members", None)]
