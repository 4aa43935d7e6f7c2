"""A refresh in a worker process."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import psycopg
import pytest

from kernel.jobs.service import Jobs
from tests.conftest import Serve
from tests.plugins.club.factories import PLUGINS, keys_of, serve_club, table
from tests.plugins.club.fakes import Exchange, FakeApi, fixed, hanging, member, metric
from tests.plugins.club.fetching import members, source
from tests.processes import TIERCEL, eventually, make_environment

pytestmark = pytest.mark.process
COUNT = "SELECT (SELECT count(*) FROM club.source) + (SELECT count(*) FROM tiercel.dataset_publication)"


@pytest.fixture
def worker(tmp_path: Path, database: str, api: FakeApi) -> Iterator[psutil.Process]:
    """Keep ``tiercel worker`` with one process running."""
    sources = {"heroes": source(api), "flow": members(api)}
    environment = make_environment(
        tmp_path / ".tiercel",
        TIERCEL_PLUGINS=",".join(PLUGINS),
        TIERCEL_DATABASE_URL=database,
        TIERCEL_JOB_PROCESSES="1",
        TIERCEL_CLUB__SOURCES=msgspec.json.encode(table(sources)["sources"]).decode(),
    )
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen([TIERCEL, "worker"], cwd=tmp_path, env=environment, stdout=log, stderr=log)
    supervisor = psutil.Process(process.pid)
    try:
        assert eventually(lambda: len(supervisor.children()) == 1, 30), (tmp_path / "worker.log").read_text()
        yield supervisor
    finally:
        for child in supervisor.children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


def count_rows(database: str) -> int:
    """Count sources and attempts to publish that are stored."""
    with psycopg.connect(database) as connection:
        row = connection.execute(COUNT).fetchone()
    return int(row[0]) if row else 0


def test_a_killed_worker_stores_nothing_and_the_next_attempt_succeeds(
    serve: Serve, worker: psutil.Process, api: FakeApi, database: str
) -> None:
    def hang_once(exchange: Exchange) -> None:
        hanging(exchange) if exchange.number == 1 else exchange.json([member("ada")])

    api.routes |= {"/metrics": fixed([metric("joined")]), "/members": hang_once}
    client = serve_club(serve, {})
    jobs: Jobs = client.service.shared.jobs
    started = jobs.start("club.refresh")
    assert eventually(lambda: sorted(api.paths()) == ["/members", "/metrics"], 30)

    worker.children()[0].kill()
    left = count_rows(database)

    done = jobs.wait(started.id, 30)
    assert (left, done.state, done.attempt) == (0, "succeeded", 2)
    assert count_rows(database) == 4  # two sources, two publications
    assert eventually(lambda: keys_of(client, "most-present") == ["flow/ada"])
