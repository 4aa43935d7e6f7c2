"""The ledger over REST and on the command line."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import click

from kernel import Command, Envelope, Request, Route, envelope, parse_time
from kernel.cli import print_json, print_table
from plugins.observability.ids import EPOCH
from plugins.observability.ingest.ledger import Ledger, LedgerPage, LedgerQuery, Totals

SPAN = timedelta(days=1)


class LedgerView:
    """Shows the ledger to whoever sends events, so that they can compare it with what they sent.

    Args:
        ledger: The entries.
        now: The clock.
    """

    def __init__(self, ledger: Ledger, now: Callable[[], datetime]) -> None:
        self._ledger = ledger
        self._now = now

    def show(self, request: Request, query: LedgerQuery) -> Envelope[LedgerPage]:
        """Sum what was received, stored, duplicate and rejected, by key and minute."""
        return envelope(request, self._read(query))

    def routes(self) -> list[Route]:
        """Return the route."""
        return [
            Route(path="/api/v1/ingest/ledger/", handler=self.show, policy="read", menu="what became of what was sent")
        ]

    def command(self) -> Command:
        """Make the command."""

        @click.command("ledger")
        @click.option("--start", metavar="TIME", help="From when, ISO 8601; a day before the end by default.")
        @click.option("--end", metavar="TIME", help="Up to when; now by default.")
        @click.option("--key", help="Of one sender only.")
        @click.option("--limit", default=500, show_default=True, type=click.IntRange(1, 5000), help="Minutes to list.")
        @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
        def command(*, start: str | None, end: str | None, key: str | None, limit: int, as_json: bool) -> None:
            """Show what was received and what became of it, by key and minute."""
            page = self._read(LedgerQuery(start=_time(start), end=_time(end), key=key, limit=limit))
            if as_json:
                print_json(page)
            else:
                _print(page)

        return Command(command=command)

    def _read(self, query: LedgerQuery) -> LedgerPage:
        # The end of the span lies behind the last entry, which has the time of the database's clock.
        end = query.end or self._now() + timedelta(minutes=1)
        start = query.start or max(end, EPOCH + SPAN) - SPAN
        return self._ledger.read(start, end, query.limit, query.key)


def _time(text: str | None) -> datetime | None:
    try:
        return None if text is None else parse_time(text)
    except ValueError as ex:
        raise click.BadParameter(f"{text!r} is no ISO 8601 time") from ex


def _print(page: LedgerPage) -> None:
    figures = Totals.__struct_fields__
    rows = [
        (minute.minute.isoformat(timespec="minutes"), minute.key, *(getattr(minute, name) for name in figures))
        for minute in page.minutes
    ]
    rows.append(("total", "", *(getattr(page.totals, name) for name in figures)))
    print_table(("minute", "key", *figures), rows)
    for minute in page.minutes:
        for reason, items in minute.reasons.items():
            click.echo(f"{minute.minute.isoformat(timespec='minutes')} {minute.key}: {items} rejected: {reason}")
