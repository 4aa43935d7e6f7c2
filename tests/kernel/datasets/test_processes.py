"""Several processes, lost notifications, and a database that becomes unavailable."""

from __future__ import annotations

import time
from datetime import timedelta

import psycopg
import pytest

from kernel.cache_control import LISTENER, clear_everywhere, collect_stats
from kernel.datasets.store import CHANNEL
from kernel.notifications import notify
from tests.kernel.datasets.conftest import (
    PATH,
    TIERS,
    DatasetClient,
    MakeClient,
    TestClock,
    Tier,
)
from tests.outage import outage
from tests.processes import eventually

pytestmark = pytest.mark.slow

# Everything that a publication does, except telling anybody.
_PUBLISH_SILENTLY = """
WITH old AS (SELECT * FROM tiercel.dataset_version WHERE dataset = 'tiers' AND version = 1)
INSERT INTO tiercel.dataset_version SELECT dataset, 3, sha256, now() FROM old
"""


@pytest.fixture
def two(make_client: MakeClient) -> tuple[DatasetClient, DatasetClient]:
    """Two services on one database, with two versions: ``a``, and then ``b``."""
    clients = make_client(), make_client()
    for slug in ("a", "b"):
        clients[0].publish(Tier(slug))
    assert eventually(lambda: clients[1].get(PATH).status == 200 and clients[1].slugs() == ["b"])
    return clients


def test_another_process_serves_a_new_version_within_a_second(two: tuple[DatasetClient, DatasetClient]) -> None:
    one, other = two
    one.datasets.publish({TIERS: [Tier("c")]}, source="test")

    assert eventually(lambda: other.slugs() == ["c"], 1.0)


def test_polling_finds_a_version_whose_notification_was_lost(make_client: MakeClient, database: str) -> None:
    client = make_client()
    client.service.shared.listener._poll_interval_s = 0.3
    for slug in ("a", "b"):
        client.publish(Tier(slug))
    with psycopg.connect(database) as connection:
        connection.execute(_PUBLISH_SILENTLY)

    assert eventually(lambda: client.slugs() == ["a"], 3.0)


def test_data_are_served_while_the_database_is_away(make_client: MakeClient, database: str) -> None:
    clock = TestClock()
    client = make_client({"skyflow": {"tier": lambda items: items[:1]}}, clock=clock, db={"pool_timeout_s": 0.2})
    client.publish(Tier("a"), Tier("b"))
    paths = (PATH, "/trace/public/skyflow/tiers/", f"{PATH}?search=b", f"{PATH}?as_of=1", "/trace/public/index/")

    with outage(database):
        clock.ahead = timedelta(minutes=5)
        answers = [client.get(path) for path in paths]
        unknown = client.get("/trace/public/members/?as_of=1")

    assert [answer.status for answer in answers] == [200] * 5
    assert all(int(answer.headers["x-data-age"]) >= 300 for answer in answers)
    assert unknown.status == 503
    assert eventually(lambda: _can_publish(client))
    assert eventually(lambda: client.slugs() == ["c"])


def _can_publish(client: DatasetClient) -> bool:
    try:
        client.datasets.publish({TIERS: [Tier("c")]}, source="test")
    except Exception:
        return False
    return True


def test_a_process_that_starts_without_its_database_responds_503_and_serves_later(
    make_client: MakeClient, database: str
) -> None:
    make_client().publish(Tier("a"))
    late = make_client(db={"pool_timeout_s": 0.2})
    service = late.service
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


def test_an_unreadable_version_affects_its_dataset_only(client: DatasetClient, database: str) -> None:
    client.publish(Tier("a"))
    with psycopg.connect(database) as connection:
        connection.execute(
            "INSERT INTO tiercel.dataset_version SELECT 'members', 1, sha256, now() FROM tiercel.dataset_version"
        )
        notify(connection, CHANNEL, "members")

    client.publish(Tier("b"))

    assert client.slugs() == ["b"]
    assert eventually(lambda: "does not fit" in client.get("/trace/public/members/").json()["detail"])
    assert "does not fit" in client.get("/readyz?verbose").content.decode()


def test_clear_everywhere_clears_the_caches_of_every_process(two: tuple[DatasetClient, DatasetClient]) -> None:
    for client in two:
        client.slugs()
    name = "trace_data_tiers.json"
    caches = [client.service.shared.cache for client in two]
    assert all(name in cache.names() for cache in caches)

    told = clear_everywhere(two[0].service.shared.db, "trace_data_t*")

    assert told == 2
    assert eventually(lambda: not any(name in cache.names() for cache in caches))


def test_collect_stats_has_figures_of_every_process(two: tuple[DatasetClient, DatasetClient], database: str) -> None:
    two[1].slugs()

    found = collect_stats(two[0].service.shared.db, 5)

    assert len(found) == 2
    assert any("trace_data_tiers.json" in each.names for each in found)
    assert all(each.caches["datasets"].size_max_bytes for each in found)
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM tiercel.cache_report").fetchone() == (0,)


def test_collect_stats_does_not_wait_longer_than_its_timeout(client: DatasetClient, database: str) -> None:
    db = client.service.shared.db
    assert eventually(lambda: len(collect_stats(db)) == 1)

    with psycopg.connect(database, application_name=LISTENER):
        found = collect_stats(db)

    assert len(found) == 1


def test_a_pattern_too_long_for_a_notification_is_rejected(client: DatasetClient) -> None:
    with pytest.raises(ValueError, match="at most 1000 characters"):
        clear_everywhere(client.service.shared.db, "x" * 1001)
