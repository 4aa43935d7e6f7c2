"""An outage of a database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

# Of this role only: an autovacuum worker has no role, and only a superuser may end it. Waits for the end of each.
_END_ALL = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s AND usename = current_user"
# A connection that began before the statement that rejects them appears a little later.
_ROUNDS = 4
_ROUND_S = 0.05


@contextmanager
def outage(conninfo: str) -> Iterator[None]:
    """End all connections to a database and reject new ones until the block ends."""
    name = str(conninfo_to_dict(conninfo)["dbname"])
    statement = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    with psycopg.connect(make_conninfo(conninfo, dbname="postgres"), autocommit=True) as admin:
        admin.execute(statement.format(sql.Identifier(name), sql.SQL("false")))
        try:
            for _ in range(_ROUNDS):
                admin.execute(_END_ALL, [name])
                time.sleep(_ROUND_S)
            yield
        finally:
            admin.execute(statement.format(sql.Identifier(name), sql.SQL("true")))
