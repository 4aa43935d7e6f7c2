"""What accounts use of their plans: ``/api/v1/usage/``, and ``tiercel accounts usage``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime

import click
import msgspec

from kernel import Database, Identity, NotFoundError, load_queries, route
from kernel.cli import print_json, print_table
from kernel.identity import SYSTEM_ACCOUNT, acting_as
from kernel.limits import DayUsage, Usage

QUERIES = load_queries(__package__)
# What is shown ends the day after, which must be one.
_LAST_DAY = date(9999, 12, 30)


class UsageQuery(msgspec.Struct, frozen=True):
    """Parameters of the route.

    Args:
        day: UTC; today by default.
    """

    day: date | None = None

    def __post_init__(self) -> None:
        """Refuse the last day of the calendar."""
        if self.day is not None and self.day > _LAST_DAY:
            raise ValueError(f"day is after {_LAST_DAY}")


class AccountUsage:
    """Shows what accounts use.

    Args:
        db: Connection pool.
        usage: Counts it.
    """

    def __init__(self, db: Database, usage: Usage) -> None:
        self._db = db
        self._usage = usage

    @route("/api/v1/usage/", policy="read", menu="usage")
    def show(self, identity: Identity, query: UsageQuery) -> DayUsage:
        """Show what the account uses on a day (UTC), today by default, and what its plan allows."""
        account = SYSTEM_ACCOUNT if identity.account is None else identity.account
        return self._usage.show(account, identity.limits, query.day)

    def read(self, account: int, day: date | None) -> DayUsage:
        """Return what any account uses on a day.

        Raises:
            NotFoundError: There is no such account.
        """
        with acting_as(None), self._db.connection() as connection:
            row = connection.execute(QUERIES["find_account"], {"account": str(account)}).fetchone()
        if row is None:
            raise NotFoundError(detail=f"there is no account {account}")
        limits = {unit: number for unit, number in row[3].items() if number is not None}
        return self._usage.show(account, limits, day)

    def names(self, numbers: Sequence[int]) -> Mapping[int, str]:
        """Return the names of accounts, by number."""
        with acting_as(None), self._db.connection() as connection:
            return dict(connection.execute(QUERIES["list_account_names"], {"numbers": list(numbers)}).fetchall())


def make_usage_command(usage: AccountUsage) -> click.Command:
    """Make ``tiercel accounts usage``."""

    @click.command("usage")
    @click.option("--account", default=SYSTEM_ACCOUNT, show_default=True, help="Number of the account.")
    @click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="UTC; today by default.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def command(*, account: int, day: datetime | None, as_json: bool) -> None:
        """Show what an account uses on a day, and what its plan allows."""
        found = usage.read(account, None if day is None else min(day.date(), _LAST_DAY))
        if as_json:
            print_json(found)
            return
        rows = [(unit, each.used, each.limit) for unit, each in found.units.items()]
        print_table(("unit", "used", "limit"), rows)

    return command
