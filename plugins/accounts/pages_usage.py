"""The page of what an account uses of its plan: today against the limits, and the days before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Literal

import msgspec

from kernel import ForbiddenError, Identity, Request, route
from kernel.http import Chart, Panel, Series, TemplateResponse, page_link
from kernel.identity import SYSTEM_ACCOUNT
from kernel.limits import Usage
from plugins.accounts.resources import is_unscoped_staff
from plugins.accounts.usage import AccountUsage

PATH = "/admin/usage/"
_LABELS = {"requests": "Requests", "events": "Events", "bytes": "Bytes", "exports": "Exports"}
_ACCOUNTS_MAX = 50
_PERIODS = (7, 30, 90, 365)
_DAY = timedelta(days=1)


class UsagePageQuery(msgspec.Struct, frozen=True):
    """Parameters of the page.

    Args:
        account: The account, for staff; the own one by default.
        days: How many days are shown.
        sort: Of which unit the accounts in the list use most.
    """

    account: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | None = None
    days: Annotated[int, msgspec.Meta(ge=2, le=400)] = 30
    sort: Literal["requests", "events", "bytes", "exports"] = "requests"


class Meter(msgspec.Struct, frozen=True):
    """What is used of one unit.

    Args:
        label: For people.
        used: So far.
        limit: What the plan allows; None for no limit.
    """

    label: str
    used: int
    limit: int | None

    @property
    def share(self) -> float | None:
        """The part of the limit that is used; None without one."""
        return None if self.limit is None else self.used / self.limit if self.limit else 1.0

    @property
    def percent(self) -> int:
        """The part of the limit that is used, as it is shown."""
        return int((self.share or 0) * 100)

    @property
    def tone(self) -> str:
        """How it looks: ``bad`` where nothing is left, ``warn`` where little is."""
        share = self.share or 0.0
        return "bad" if share >= 1 else "warn" if share >= 0.8 else ""


class UsagePages:
    """The handler.

    Args:
        usage: Counts what is used.
        shown: Reads what any account uses.
        now: The clock.
    """

    def __init__(self, usage: Usage, shown: AccountUsage, now: Callable[[], datetime]) -> None:
        self._usage = usage
        self._shown = shown
        self._now = now

    @route(PATH, policy="read", menu="Usage")
    def show(self, request: Request, query: UsagePageQuery, identity: Identity) -> TemplateResponse:
        """Show what an account uses of its plan, and has used."""
        own = SYSTEM_ACCOUNT if identity.account is None else identity.account
        account = own if query.account is None else query.account
        if account != own and not is_unscoped_staff(identity):
            raise ForbiddenError(detail="only staff sees what other accounts use")

        def today() -> Mapping[str, Any]:
            found = self._shown.read(account, None)
            meters = [Meter(_LABELS[unit], each.used, each.limit) for unit, each in found.units.items()]
            name = self._shown.names([account]).get(account, "")
            return {"name": name, "meters": meters, "resets_at": found.resets_at}

        panels = {
            "today": Panel(today, "accounts/usage_today.html", "Today", refresh_s=30),
            "before": Panel(lambda: self._history(account, query.days), "accounts/usage_days.html", "Days before"),
        }
        if is_unscoped_staff(identity):
            panels["accounts"] = Panel(
                lambda: self._heaviest(request, query), "accounts/usage_accounts.html", "Accounts today", refresh_s=30
            )
        context = {
            "account": account,
            "is_own": account == own,
            "shows_accounts": "accounts" in panels,
            "own_link": page_link(PATH, request, account=None),
            "periods": [(f"{days} days", page_link(PATH, request, days=days), days == query.days) for days in _PERIODS],
        }
        return TemplateResponse("accounts/usage.html", context, panels=panels)

    def _history(self, account: int, days: int) -> Mapping[str, Any]:
        last = self._today() - _DAY
        first = last - (days - 1) * _DAY
        found = self._usage.days(account, first, last)
        shown = [first + number * _DAY for number in range(days)]

        def draw(unit: str) -> Chart:
            values = [found.get(day, {}).get(unit, 0) for day in shown]
            return Chart(
                title=f"{_LABELS[unit]} a day",
                unit="count",
                starts=[datetime.combine(day, time(), UTC) for day in shown],
                step=_DAY,
                series=[Series(_LABELS[unit], "info", values)],
                stacked=True,
            )

        return {"charts": [draw(unit) for unit in _LABELS]}

    def _heaviest(self, request: Request, query: UsagePageQuery) -> Mapping[str, Any]:
        found = self._usage.heaviest(self._today(), query.sort, _ACCOUNTS_MAX)
        names = self._shown.names(list(found))
        return {
            "columns": [
                (unit, label, page_link(PATH, request, sort=unit), unit == query.sort)
                for unit, label in _LABELS.items()
            ],
            "rows": [
                (names.get(number, str(number)), page_link(PATH, request, account=number), used)
                for number, used in found.items()
            ],
            "limit": _ACCOUNTS_MAX,
        }

    def _today(self) -> date:
        return self._now().astimezone(UTC).date()
