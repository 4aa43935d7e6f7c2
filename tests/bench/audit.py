"""A handler that changes a row, on a route with an entry in the audit log, against one without."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPConnection

import psycopg

from tests.bench.audited import AUDITED, TABLE, UNAUDITED
from tests.bench.figures import Figure, in_turn
from tests.bench.load import side_by_side
from tests.bench.service import service

ROUNDS = 7
CONNECTIONS = 4
REQUESTS = 300
PLUGIN = "tests.bench.audited"
# The chain is locked from its last hash to the end of the commit, or there would be two entries after one. So its
# writes wait for the disk one after another, where others share a flush: about half is left, less what two statements
# take.
TARGET = 0.35


def figures(full: bool) -> Iterator[Figure]:
    """Measure both routes: all entries are in one chain, which is the worst case."""
    with service(TIERCEL_PLUGINS=f"system,observability,{PLUGIN}") as running:
        with psycopg.connect(running.conninfo) as connection:
            connection.execute(f"CREATE TABLE {TABLE} (at timestamptz NOT NULL DEFAULT now())")
            connection.execute(f"GRANT INSERT ON {TABLE} TO PUBLIC")
        for path in (AUDITED, UNAUDITED):
            _post(running.port, path)
        ratio, audited, unaudited = in_turn(
            lambda: _post(running.port, AUDITED), lambda: _post(running.port, UNAUDITED), ROUNDS
        )
    detail = f"{audited:,.0f} requests/s audited, {unaudited:,.0f} not"
    yield Figure("write with audit log against without", ratio, TARGET, detail=detail)


def _post(port: int, path: str) -> float:
    """Send requests over some connections; return how many a second."""

    def send(_number: int) -> int:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        for _ in range(REQUESTS):
            connection.request("POST", path, headers={"Content-Length": "0"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{path}: {answer.status}")
        connection.close()
        return REQUESTS

    return side_by_side(CONNECTIONS, send)
