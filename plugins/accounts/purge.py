"""Remove for good what was deleted: once the retention of its account is over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import product
from typing import Any, LiteralString

import msgspec
import psycopg
from psycopg import Connection, sql

from kernel import (
    Database,
    load_queries,
)
from kernel.identity import acting_as

QUERIES = load_queries(__package__)
# One row after another refers to what can be removed after it: sectors to sites, tasks to sectors.
_PASSES_MAX = 10
_ACCOUNTS = "accounts.account"
_PLANS = "accounts.plan"


class PurgeReport(msgspec.Struct, frozen=True):
    """What a purge removed.

    Args:
        removed: Numbers of rows by table, or by plugin where it removes them itself.
        kept: How many rows stay because others refer to them, which are not removed yet.
    """

    removed: Mapping[str, int]
    kept: int


class Purge:
    """Removes deleted rows of accounts, in the tables of all plugins that keep them.

    Args:
        db: Connection pool.
        now: The clock.
        of_accounts: What removes the data of an account that are kept otherwise, by plugin.
    """

    def __init__(
        self, db: Database, now: Callable[[], datetime], of_accounts: Mapping[str, Callable[[int], Iterator[int]]]
    ) -> None:
        self._db = db
        self._now = now
        self._of_accounts = of_accounts

    def apply(self, check: Callable[[], None] = lambda: None) -> PurgeReport:
        """Remove what was deleted before the retention of its account.

        Args:
            check: Called before each table and after each transaction; raises to stop.
        """
        removed = self._remove_data(check)
        # Of all accounts, whoever started the job.
        with acting_as(None), self._db.connection() as connection:
            now = {"now": self._now()}
            removed["accounts.api_key"] = connection.execute(QUERIES["purge_keys"], now).rowcount
            removed["accounts.site_user_access"] = connection.execute(QUERIES["purge_site_access"], now).rowcount
            tables = {
                f"{schema}.{table}": QUERIES["list_expired_rows_of_sites" if has_site else "list_expired_rows"]
                for schema, table, has_site in connection.execute(QUERIES["list_purged_tables"])
            }
            for _ in range(_PASSES_MAX):
                before, kept = removed.total(), 0
                for table, listed in self._statements(tables):
                    check()
                    rows = connection.execute(listed, now).fetchall()
                    gone = sum(_remove(connection, table, row_id) for (row_id,) in rows)
                    removed[table] += gone
                    kept += len(rows) - gone
                if removed.total() == before:
                    break
        return PurgeReport({table: number for table, number in sorted(removed.items()) if number}, kept)

    def _remove_data(self, check: Callable[[], None]) -> Counter[str]:
        """Remove what plugins have of accounts that are due: before these, so that an interrupted purge goes on."""
        removed: Counter[str] = Counter()
        with acting_as(None), self._db.connection() as connection:
            listed = sql.SQL(QUERIES["list_expired_accounts"]).format()
            accounts = connection.execute(listed, {"now": self._now()}).fetchall()
        with acting_as(None):
            for (account,), (plugin, purge) in product(accounts, self._of_accounts.items()):
                for rows in purge(account):
                    check()
                    removed[plugin] += rows
        return removed

    def _statements(self, tables: Mapping[str, LiteralString]) -> list[tuple[str, sql.Composed]]:
        """Return the tables, those first that others refer to least, with what lists their expired rows."""
        of_accounts: list[tuple[str, sql.Composed]] = [
            (table, sql.SQL(listed).format(table=_identifier(table))) for table, listed in tables.items()
        ]
        return [
            *of_accounts,
            (_ACCOUNTS, sql.SQL(QUERIES["list_expired_accounts"]).format()),
            (_PLANS, sql.SQL(QUERIES["list_expired_plans"]).format()),
        ]


def _remove(connection: Connection[Any], table: str, row_id: int) -> bool:
    """Remove a row, unless others refer to it."""
    try:
        connection.execute(sql.SQL(QUERIES["purge_row"]).format(table=_identifier(table)), {"id": row_id})
    except psycopg.errors.ForeignKeyViolation:
        return False
    return True


def _identifier(table: str) -> sql.Identifier:
    return sql.Identifier(*table.split("."))
