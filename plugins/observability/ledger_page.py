"""The page ``/requests/ingest/``: what was sent, stored and refused, by sender, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from kernel import Identity, InvalidError, Request, route
from kernel.http import Chart, Panel, Series, TemplateResponse, compare, page_link
from plugins.observability.access import Access
from plugins.observability.ledger import REMOVAL, Ledger, LedgerMinute, LedgerQuery, LedgerTotals
from plugins.observability.page_links import WITHOUT_TIMES
from plugins.observability.resolution import DAY, HOUR

INGEST = "/requests/ingest/"
Last = Literal["1h", "6h", "24h", "7d", "30d"]
_LENGTHS: Mapping[Last, timedelta] = {"1h": HOUR, "6h": 6 * HOUR, "24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
_STEPS = tuple(timedelta(minutes=each) for each in (1, 5, 15, 60, 180, 720, 1440))
_STEPS_SHOWN_MAX = 90
_WINDOW_MAX = 400 * DAY
_SENDERS_MAX = 100
_REFUSALS_MAX = 25
_REASONS_MAX = 5
_REFRESH_S = 30
# Documentation of what is refused and how to send it, of which the service itself ships none.
_REFERENCE = "/api/docs"


class IngestPageQuery(LedgerQuery, frozen=True, kw_only=True):
    """Parameters of the page: those of the ledger, and how long the span is.

    Args:
        last: How long, if it has no start.
    """

    last: Last = "24h"


class IngestPage:
    """The handler of the page.

    Args:
        ledger: The ledger.
        now: The clock.
    """

    def __init__(self, ledger: Ledger, now: Callable[[], datetime]) -> None:
        self._ledger = ledger
        self._now = now

    @route(INGEST, policy="read", menu="Ingest ledger")
    def show(self, request: Request, query: IngestPageQuery, identity: Identity) -> TemplateResponse:
        """Show what became of what was sent."""
        access = Access.of(identity)
        end = query.end or self._now() + timedelta(minutes=1)
        start = query.start or end - _LENGTHS[query.last]
        if not start < end or end - start > _WINDOW_MAX:
            raise InvalidError(
                errors={"start": [f"Expected a time before the end, by {_WINDOW_MAX.days} days at most."]}
            )
        asked = LedgerQuery(start=start, end=end, sender=query.sender, limit=_SENDERS_MAX)

        def of_sender(sender: str | None) -> str:
            return page_link(INGEST, request, key=sender)

        def totals() -> Mapping[str, Any]:
            now = self._ledger.read(_limited(asked, 1), access).totals
            before = self._ledger.read(_limited(asked, 1, start=start - (end - start), end=start), access).totals
            return {"tiles": _tiles(now, before)}

        def refusals() -> Mapping[str, Any]:
            minutes = self._ledger.read(_limited(asked, _REFUSALS_MAX, refused=True), access).minutes
            return {"minutes": minutes, "reasons": _most_frequent, "of_sender": of_sender, "reference": _REFERENCE}

        panels = {
            "totals": Panel(totals, "observability/ledger_totals.html", "Totals", _REFRESH_S, framed=False),
            "over_time": Panel(
                lambda: {"chart": self._chart(asked, access)},
                "observability/ledger_chart.html",
                "Over time",
                refresh_s=_REFRESH_S,
            ),
            "refusals": Panel(refusals, "observability/refusals.html", "Newest refusals", refresh_s=_REFRESH_S),
            "senders": Panel(
                lambda: {
                    "senders": self._ledger.senders(asked, access),
                    "of_sender": of_sender,
                    "removal": REMOVAL,
                    "most": _SENDERS_MAX,
                },
                "observability/senders.html",
                "Senders",
                refresh_s=_REFRESH_S,
            ),
        }
        context = {
            "query": query,
            "start": start,
            "end": end,
            "lasts": [(last, page_link(INGEST, request, **{**WITHOUT_TIMES, "last": last})) for last in _LENGTHS],
            "last": query.last if query.start is None and query.end is None else None,
            "everybody": of_sender(None),
            "call": page_link("/api/v1/ingest/ledger/", None, start=start, end=end, key=query.sender),
        }
        return TemplateResponse("observability/ledger.html", context, panels=panels)

    def _chart(self, query: LedgerQuery, access: Access) -> Chart:
        start, end = self._ledger.span(query)
        step = next((each for each in _STEPS if (end - start) / each <= _STEPS_SHOWN_MAX), 7 * DAY)
        # Whole steps, so that none is cut at its beginning.
        asked = _limited(query, 1, start=start - (start - datetime.min.replace(tzinfo=start.tzinfo)) % step)
        steps = self._ledger.steps(asked, step, access)
        series = [
            Series("Stored", "good", [sums.stored for _, sums in steps]),
            Series("Duplicate", "muted", [sums.duplicate for _, sums in steps]),
            Series("Rejected", "bad", [sums.rejected for _, sums in steps]),
        ]
        return Chart(
            title="Requests sent", unit="count", starts=[at for at, _ in steps], step=step, stacked=True, series=series
        )


def _limited(query: LedgerQuery, limit: int, **changes: Any) -> LedgerQuery:
    changed: LedgerQuery = msgspec.structs.replace(query, limit=limit, **changes)
    return changed


def _tiles(now: LedgerTotals, before: LedgerTotals) -> Sequence[Any]:
    labels = (
        ("Sent", "received", None),
        ("Stored", "stored", None),
        ("Duplicate", "duplicate", None),
        ("Rejected", "rejected", True),
        ("Capped", "capped", True),
    )
    return [
        compare(label, getattr(now, name), getattr(before, name), "count", less_is_better=less_is_better)
        for label, name, less_is_better in labels
    ]


def _most_frequent(minute: LedgerMinute) -> Sequence[tuple[str, int]]:
    return sorted(minute.reasons.items(), key=lambda each: -each[1])[:_REASONS_MAX]
