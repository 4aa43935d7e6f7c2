"""Throttles and plans where several processes count: real gunicorn workers, over real sockets."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.processes import serving

LIMIT = 300
CONNECTIONS = 8


@pytest.mark.process
def test_two_workers_together_admit_what_the_limit_allows(database: str, tmp_path: Path) -> None:
    environment = {
        "TIERCEL_DATABASE_URL": database,
        "TIERCEL_WORKERS": "2",
        "TIERCEL_THROTTLE__OPEN": "true",
        "TIERCEL_THROTTLE__RATES": f'{{"read": "{LIMIT}/hour"}}',
    }
    with serving(tmp_path / "home", **environment) as running:

        def ask(_number: int) -> Counter[int]:
            found: Counter[int] = Counter()
            for _ in range(LIMIT // CONNECTIONS + 20):
                # A new connection each time, which either worker may accept.
                connection = HTTPConnection("127.0.0.1", running.port, timeout=30)
                connection.request("GET", "/api/requests/?page_size=1")
                found[connection.getresponse().status] += 1
                connection.close()
            return found

        if 3600 - time.time() % 3600 < 30:
            time.sleep(31)  # Not across two windows.
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            found = sum(pool.map(ask, range(CONNECTIONS)), Counter())

    assert set(found) == {200, 429}
    assert LIMIT * 0.8 <= found[200] <= LIMIT
