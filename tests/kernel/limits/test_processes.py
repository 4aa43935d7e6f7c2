"""Throttles and plans where several processes count: real gunicorn workers, over real sockets."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.processes import eventually, serving

LIMIT = 300
CONNECTIONS = 8


@pytest.mark.process
def test_two_workers_admit_what_the_limit_allows_though_one_is_killed(database: str, tmp_path: Path) -> None:
    environment = {
        "TIERCEL_DATABASE_URL": database,
        "TIERCEL_WORKERS": "2",
        "TIERCEL_THROTTLE__OPEN": "true",
        "TIERCEL_THROTTLE__RATES": f'{{"read": "{LIMIT}/hour"}}',
    }
    with serving(tmp_path / "home", **environment) as running:

        def ask(count: int) -> Counter[int]:
            found: Counter[int] = Counter()
            for _ in range(count):
                # A new connection each time, which either worker may accept.
                connection = HTTPConnection("127.0.0.1", running.port, timeout=30)
                connection.request("GET", "/api/requests/?page_size=1")
                found[connection.getresponse().status] += 1
                connection.close()
            return found

        def ask_side_by_side(count: int) -> Counter[int]:
            return sum(pool.map(ask, [count // CONNECTIONS] * CONNECTIONS), Counter())

        if 3600 - time.time() % 3600 < 60:
            time.sleep(61)  # Not across two windows.
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            before = ask_side_by_side(LIMIT // 2)
            # What it has leased and not used is lost: a tenth of the limit at most, until the window ends.
            killed = running.workers()[0]
            killed.kill()
            assert eventually(lambda: killed not in running.workers() and len(running.workers()) == 2)
            after = ask_side_by_side(LIMIT)

    assert set(before) == {200}
    assert set(after) == {200, 429}
    assert LIMIT * 0.8 <= before[200] + after[200] <= LIMIT
