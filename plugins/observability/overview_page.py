"""The overview of request logs, ``/requests/``: how much, how well and how fast requests are answered, and since when.

Its parameters have the names of the API, so that a page and a call differ by the path alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from kernel import Identity, InvalidError, Request, route
from kernel.http import Chart, HeatMap, Mark, Panel, Series, TemplateResponse, compare, format_value, page_link
from plugins.observability.access import Access
from plugins.observability.analytics.grouping import DimensionName, percentile_name
from plugins.observability.analytics.models import (
    KpiQuery,
    Kpis,
    Timeseries,
    TimeseriesQuery,
    TimeseriesStep,
    TopQuery,
    WindowQuery,
)
from plugins.observability.analytics.scope import window_of
from plugins.observability.analytics.service import GROUPED_STEPS_MAX, AnalyticsService
from plugins.observability.event_list import EventPages
from plugins.observability.marks import MARKS_MAX, MarkStore
from plugins.observability.models import (
    INT32_MAX,
    STATUS_CLASSES,
    Event,
    ListQuery,
    StatusClass,
    StatusCode,
    status_range,
)
from plugins.observability.page_links import HELPERS, LIST, OVERVIEW, SHARED_FILTERS, WITHOUT_TIMES
from plugins.observability.resolution import DAY, HOUR, Span
from plugins.observability.store import EventStore

MINUTE = timedelta(minutes=1)
TICK = timedelta(microseconds=1)
Last = Literal["15m", "1h", "6h", "24h", "7d", "30d", "90d"]
LASTS: Mapping[Last, tuple[timedelta, str]] = {
    "15m": (15 * MINUTE, "15 minutes"),
    "1h": (HOUR, "hour"),
    "6h": (6 * HOUR, "6 hours"),
    "24h": (DAY, "24 hours"),
    "7d": (7 * DAY, "7 days"),
    "30d": (30 * DAY, "30 days"),
    "90d": (90 * DAY, "90 days"),
}
DEFAULT_LAST: Last = "24h"
Before = Literal["period", "day", "week", "none"]
BEFORES: Mapping[Before, tuple[str, str]] = {
    "period": ("Period before", "the period before"),
    "day": ("Day before", "a day before"),
    "week": ("Week before", "a week before"),
    "none": ("Nothing", ""),
}
# Steps of charts. From an hour on, percentiles come from rollups: of more than some days, from those by day.
_STEPS = {
    "1m": MINUTE,
    "5m": 5 * MINUTE,
    "15m": 15 * MINUTE,
    "1h": HOUR,
    "3h": 3 * HOUR,
    "1d": DAY,
}
_STEPS_PER_CHART = 90
# Longer than this, minutes are too expensive to read.
_FINE_WINDOW_MAX = 6 * HOUR
_WINDOW_MAX = 400 * DAY
# Rollups know no latencies by status. For a shorter window, a filter on the status is answered from the events.
_EXACT_STATUS_WINDOW_MAX = 2 * DAY
_PERCENTILES = (50.0, 95.0, 99.0)
# So that each of them may have a step for every day of the longest window.
_STATUSES_MAX = GROUPED_STEPS_MAX // (_WINDOW_MAX // DAY + 2)
_ROWS = 8
_GROUPS = 20
# From which rate of errors on a service is not healthy, and from which it fails.
_SOME_ERRORS = 0.01
_FAILING = 0.05


class OverviewQuery(WindowQuery, frozen=True, kw_only=True):
    """Parameters of the overview.

    Args:
        method: HTTP method.
        status_code: HTTP status.
        status_class: A class of statuses, such as ``5xx``.
        last: How long the window is, if it has no start; it ends now, or with ``end``.
        before: What is compared with: the ``period`` before, the same a ``day`` or a ``week`` before, or ``none``.
        percentile: A further percentile of latency, from 0 to 100.
        latency_ms: Also show which share of requests took at most so long.
    """

    method: str | None = None
    status_code: StatusCode | None = None
    status_class: StatusClass | None = None
    last: Last = DEFAULT_LAST
    before: Before = "period"
    percentile: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None
    latency_ms: Annotated[int, msgspec.Meta(ge=0, le=INT32_MAX)] | None = None


class State(NamedTuple):
    """In a word, how requests are answered."""

    label: str
    tone: Literal["good", "warn", "bad", ""]


class OverviewPage:
    """The handler of the page.

    Args:
        analytics: Computes what is shown.
        events: Lists the newest errors.
        store: Suggests names for filters.
        marks: What else happened.
        now: The clock.
    """

    def __init__(
        self,
        analytics: AnalyticsService,
        events: EventPages,
        store: EventStore,
        marks: MarkStore,
        now: Callable[[], datetime],
    ) -> None:
        self.analytics = analytics
        self.events = events
        self.store = store
        self.marks = marks
        self.now = now

    @route(OVERVIEW, policy="read", menu="Overview")
    def show(self, request: Request, query: OverviewQuery, identity: Identity) -> TemplateResponse:
        """Show how much, how well and how fast requests were answered."""
        view = _View(self, request, query, Access.of(identity))
        refresh_s, rankings = view.refresh_s, view.rankings()
        context = {
            "query": query,
            "window": view.window,
            "title": query.endpoint or query.service or "Overview",
            "period": LASTS[query.last][1] if view.is_last else None,
            "lasts": [(last, view.link(**WITHOUT_TIMES, last=last)) for last in LASTS],
            "last": query.last if query.start is None else None,
            "moves": view.moves,
            "befores": [(before, label, view.link(before=before)) for before, (label, _) in BEFORES.items()],
            "filters": list(view.filters.items()),
            "hidden": [(name, value) for name, value in view.kept if value is not None],
            "clear": view.link(**dict.fromkeys((*SHARED_FILTERS, "percentile", "latency_ms"))),
            "everything": view.list_link(),
            "columns": list(rankings),
            "status_classes": STATUS_CLASSES,
        }
        panels = {
            "totals": Panel(view.totals, "observability/totals.html", None, refresh_s, framed=False),
            "charts": Panel(view.charts, "observability/over_time.html", "Over time", refresh_s, framed=False),
            **rankings,
            "newest": Panel(view.newest, "observability/newest.html", view.newest_title, refresh_s),
            "suggestions": Panel(view.suggestions, "observability/suggestions.html", None, framed=False),
        }
        return TemplateResponse("observability/overview.html", context, panels=panels)


class _View:
    """What one request shows.

    Panels are loaded one by one, some of them alone: each reads what it needs, and what another has read already.

    Args:
        page: The services.
        request: The request.
        query: Its parameters.
        access: Of whoever asks.
    """

    def __init__(self, page: OverviewPage, request: Request, query: OverviewQuery, access: Access) -> None:
        self._page = page
        self._request = request
        self._query = query
        self._access = access
        self._now = page.now()
        self.window = window_of(query.start, query.end, self._now, LASTS[query.last][0])
        self.filters = {name: value for name in SHARED_FILTERS if (value := getattr(query, name)) is not None}
        if self._length > _WINDOW_MAX:
            raise InvalidError(errors={"start": [f"Expected at most {_WINDOW_MAX.days} days before the end."]})
        self._step_name, self._step = step_for(self._length)
        self._statuses = status_range(query.status_code, query.status_class)
        by_status = self._statuses is not None
        self._approx = not by_status or self._length > _EXACT_STATUS_WINDOW_MAX + MINUTE

    # --- the window and links -----------------------------------------------------------------------------------------

    @property
    def _length(self) -> timedelta:
        return self.window.end - self.window.start

    @property
    def is_last(self) -> bool:
        """Whether the window ends now, whenever it is looked at."""
        return self._query.start is None and self._query.end is None

    @property
    def refresh_s(self) -> int | None:
        """After how many seconds the page has something new to show; None for a window that stays."""
        if not self.is_last:
            return None
        return 30 if self._length <= _FINE_WINDOW_MAX + MINUTE else 60 if self._length <= DAY + MINUTE else 300

    @property
    def kept(self) -> Iterable[tuple[str, object]]:
        """Parameters that the form of filters has no field for."""
        last = None if self._query.start is not None or self._query.last == DEFAULT_LAST else self._query.last
        return (("last", last), ("before", None if self._query.before == "period" else self._query.before))

    @property
    def moves(self) -> Sequence[tuple[str, str]]:
        """Links to the windows before and after, and to one of thrice the length around this one."""
        length, window = self._length, self.window
        moves = [("Earlier", Span(window.start - length, window.start))]
        if window.end + MINUTE < self._now:
            moves.append(("Later", Span(window.end, min(window.end + length, self._now))))
        if length * 3 <= _WINDOW_MAX:
            end = min(window.end + length, max(self._now, window.end))
            moves.append(("Zoom out", Span(end - 3 * length, end)))
        return [
            (label, self.link(**{**WITHOUT_TIMES, "last": None, "start": span.start, "end": span.end - TICK}))
            for label, span in moves
        ]

    def link(self, **parameters: Any) -> str:
        """Return a link to this page with some parameters changed."""
        return page_link(OVERVIEW, self._request, **parameters)

    def list_link(self, **parameters: Any) -> str:
        """Return a link to the requests that are shown, or to some of them."""
        return page_link(LIST, None, **{**self._selection(self.window), **parameters})

    def _selection(self, window: Span) -> dict[str, Any]:
        """Return the parameters of the API that select what is shown, in a window."""
        return {**self.filters, "start": window.start, "end": window.end - TICK}

    # --- panels -------------------------------------------------------------------------------------------------------

    def totals(self) -> Mapping[str, Any]:
        """Return the tiles, and what they say in a word."""
        now, then = self._kpis(self.window, self._query.latency_ms), None
        if (shift := self._shift) is not None:
            then = self._kpis(Span(self.window.start - shift, self.window.end - shift))
        tiles = [
            compare("Requests per minute", self._per_minute(now), self._per_minute(then), "rate", less_is_better=None),
            compare("Error rate", _error_rate(now), _error_rate(then), "percent", less_is_better=True),
        ]
        before = {} if then is None else {each.percentile: each.value_ms for each in then.percentiles}
        tiles += [
            compare(
                f"Latency p{percentile_name(each.percentile)}",
                each.value_ms,
                before.get(each.percentile),
                "ms",
                less_is_better=True,
            )
            for each in now.percentiles
        ]
        hits = now.figures["hits"]
        return {
            "tiles": tiles,
            "before": BEFORES[self._query.before][1],
            "state": self._state(now),
            "hits": hits,
            "share": now.latency_share,
            "share_percentile": self._link_to_percentile(now),
            "without_share": self.link(latency_ms=None),
            "fresh_until": now.fresh_until,
            "is_empty": not hits and self._has_no_events(),
            "origin": self._request.origin,
            "end": self.window.end,
        }

    def charts(self) -> Mapping[str, Any]:
        """Return the charts and the heat map, with what else happened."""
        series, shift = self._series, self._shift
        before = None if shift is None else self._series_before(shift)
        marks = self._page.marks.find(self._access, self.window, self._query.service, self._query.application)
        given: dict[str, Any] = {
            "starts": [each.start for each in series.steps],
            "step": self._step,
            "marks": [Mark(each.time, each.title, each.kind) for each in marks],
        }
        return {
            "charts": [
                self._chart_of_requests(series, before, given),
                self._chart_of_errors(series, before, given),
                self._chart_of_latency(series, before, given),
            ],
            "heat_map": self._heat_map(series, given),
            "knows_latencies": self._approx is False or self._statuses is None,
            "marks": marks,
            "marks_max": MARKS_MAX,
        }

    def rankings(self) -> Mapping[str, Panel]:
        """Return the panels that divide requests: of an endpoint by method and status, otherwise by endpoint."""
        if self._query.endpoint is not None:
            return {
                "methods": Panel(lambda: self._groups("method"), "observability/groups.html", "Methods"),
                "statuses": Panel(lambda: self._groups("status_code"), "observability/groups.html", "Statuses"),
            }
        ranking = "observability/ranking.html"
        panels = {"busiest": Panel(lambda: self._rank("hits"), ranking, "Busiest endpoints", self.refresh_s)}
        if self._statuses is None:
            panels["slowest"] = Panel(lambda: self._rank("p95"), ranking, "Slowest endpoints", self.refresh_s)
        return panels

    @property
    def newest_title(self) -> str:
        """The title of the newest requests: errors, unless other statuses are asked for."""
        return "Newest errors" if self._statuses is None else "Newest requests"

    def newest(self) -> Mapping[str, Any]:
        """Return the newest errors, or of the statuses that are asked for."""
        of_errors: dict[str, Any] = {} if self._statuses is not None else {"status_class": "5xx"}
        events: list[Event] = []
        # Rollups know when errors happened: without them, all events may have to be read to find a few.
        for each in reversed(self._cheap_steps):
            count = each.hits if self._statuses is not None else each.errors
            if count and len(events) < _ROWS:
                span = Span(max(each.start, self.window.start), min(each.start + self._step, self.window.end))
                query = ListQuery(
                    **self._selection(span),
                    **of_errors,
                    page_size=min(_ROWS - len(events), count),
                    count="none",
                    cursor="",
                )
                events.extend(self._page.events.page(self._request, query, self._access).results)
        return {
            **HELPERS,
            "title": self.newest_title,
            "events": events,
            "list": self.list_link(**of_errors),
            "everything": self.list_link(),
        }

    def suggestions(self) -> Mapping[str, Any]:
        """Return names for the filters."""
        return {"suggestions": self._page.store.suggest(self._query.service, self._access)}

    # --- what they read -----------------------------------------------------------------------------------------------

    @property
    def _shift(self) -> timedelta | None:
        """How long before the window the one is that it is compared with."""
        shifts: Mapping[Before, timedelta | None] = {"day": DAY, "week": 7 * DAY, "none": None}
        return shifts.get(self._query.before, self._length)

    @property
    def _percentiles(self) -> tuple[float, ...]:
        asked = self._query.percentile
        return _PERCENTILES if asked is None or asked in _PERCENTILES else (*_PERCENTILES, asked)

    def _kpis(self, window: Span, latency_ms: int | None = None) -> Kpis:
        query = KpiQuery(
            **self._selection(window), percentiles=self._percentiles, latency_ms=latency_ms, approx=self._approx
        )
        return self._page.analytics.kpis(query, self._access)

    @cached_property
    def _series(self) -> Timeseries:
        """The steps of all charts."""
        return self._timeseries(
            self.window,
            percentiles=self._percentiles,
            histogram=True,
            group_by=("status_code",),
            limit=_STATUSES_MAX,
            approx=self._approx,
        )

    @property
    def _cheap_steps(self) -> Sequence[TimeseriesStep]:
        """The steps without percentiles and groups, unless they have been read with them."""
        known = self.__dict__.get("_series")
        return (known or self._timeseries(self.window, approx=True)).steps

    def _series_before(self, shift: timedelta) -> Sequence[TimeseriesStep]:
        """Return steps to lay over those of the window; their times differ by whole steps."""
        shift = max(1, round(shift / self._step)) * self._step
        before = Span(self.window.start - shift, self.window.end - shift)
        return self._timeseries(before, percentiles=(95.0,), approx=self._approx).steps

    def _timeseries(self, window: Span, **given: Any) -> Timeseries:
        query = TimeseriesQuery(**self._selection(window), step=self._step_name, **given)
        return self._page.analytics.timeseries(query, self._access)

    def _per_minute(self, kpis: Kpis | None) -> float | None:
        """Return requests per minute; what is to come of the window does not count."""
        if kpis is None:
            return None
        length = min(self.window.end, self._now) - self.window.start
        return float(kpis.figures["hits"]) / (max(length, MINUTE) / MINUTE)

    def _state(self, kpis: Kpis) -> State | None:
        rate = _error_rate(kpis)
        if rate is None:
            return State("No requests", "")
        if self._statuses is not None:
            return None
        if rate >= _FAILING:
            return State("Failing", "bad")
        return State("Some errors", "warn") if rate >= _SOME_ERRORS else State("Healthy", "good")

    def _link_to_percentile(self, kpis: Kpis) -> str | None:
        share = kpis.latency_share
        if share is None or share.share is None:
            return None
        return self.link(latency_ms=None, percentile=percentile_name(round(share.share * 100, 2)))

    def _has_no_events(self) -> bool:
        latest = ListQuery(page_size=1, count="none", cursor="")
        return not self._page.events.page(self._request, latest, self._access).results

    # --- charts -------------------------------------------------------------------------------------------------------

    def _rates(self, counts: Iterable[int], starts: Sequence[datetime]) -> Sequence[float | None]:
        """Return counts of steps as requests per minute of the part of each that lies in the window, and is over."""
        end = min(self.window.end, self._now)
        rates: list[float | None] = []
        for start, count in zip(starts, counts, strict=True):
            inside = min(start + self._step, end) - max(start, self.window.start)
            rates.append(count / (max(inside, MINUTE) / MINUTE))
        return rates

    def _chart_of_requests(
        self, series: Timeseries, before: Sequence[TimeseriesStep] | None, given: Mapping[str, Any]
    ) -> Chart:
        starts = given["starts"]
        by_class = {number: [0] * len(starts) for number in range(1, 6)}
        # 1xx, and the rarest statuses, if there are too many.
        others = [each.hits for each in series.steps]
        for group in series.groups or ():
            layer = by_class[group["status_code"] // 100]
            for position, each in enumerate(group["steps"]):
                layer[position] += each.hits
        for number in range(2, 6):
            others = [count - hits for count, hits in zip(others, by_class[number], strict=True)]
        layers = [
            Series("2xx", "good", self._rates(by_class[2], starts)),
            Series("3xx", "info", self._rates(by_class[3], starts)),
            Series("4xx", "warn", self._rates(by_class[4], starts)),
            Series("5xx", "bad", self._rates(by_class[5], starts)),
        ]
        if any(others):
            layers.append(Series("other", "muted", self._rates(others, starts)))
        overlay = self._overlay(before, lambda steps: self._rates([each.hits for each in steps], starts))
        return Chart(title="Requests per minute", unit="rate", series=layers, stacked=True, overlay=overlay, **given)

    def _chart_of_errors(
        self, series: Timeseries, before: Sequence[TimeseriesStep] | None, given: Mapping[str, Any]
    ) -> Chart:
        def rates(steps: Sequence[TimeseriesStep]) -> Sequence[float | None]:
            return [each.error_rate if each.hits else None for each in steps]

        lines = [Series("5xx", "bad", rates(series.steps))]
        return Chart(title="Error rate", unit="percent", series=lines, overlay=self._overlay(before, rates), **given)

    def _chart_of_latency(
        self, series: Timeseries, before: Sequence[TimeseriesStep] | None, given: Mapping[str, Any]
    ) -> Chart:
        def percentile(steps: Sequence[TimeseriesStep], name: str) -> Sequence[float | None]:
            return [each.percentiles_ms[name] for each in steps]

        names = [percentile_name(each) for each in self._percentiles]
        tones: tuple[Literal["first", "second", "third", "fourth"], ...] = ("first", "second", "third", "fourth")
        lines = [
            Series(f"p{name}", tone, percentile(series.steps, name)) for name, tone in zip(names, tones, strict=False)
        ]
        limit = self._query.latency_ms
        levels = [] if limit is None else [(format_value(limit, "ms"), float(limit))]
        overlay = self._overlay(before, lambda steps: percentile(steps, "95"), "p95 ")
        return Chart(title="Latency", unit="ms", series=lines, overlay=overlay, levels=levels, **given)

    def _overlay(
        self,
        before: Sequence[TimeseriesStep] | None,
        values: Callable[[Sequence[TimeseriesStep]], Sequence[float | None]],
        prefix: str = "",
    ) -> Sequence[Series]:
        if before is None:
            return []
        return [Series(f"{prefix}{BEFORES[self._query.before][0].lower()}", "before", values(before))]

    def _heat_map(self, series: Timeseries, given: Mapping[str, Any]) -> HeatMap:
        def link(start: datetime | None, end: datetime | None, low_ms: int, high_ms: int) -> str:
            window = self.window
            span = window if start is None or end is None else Span(max(start, window.start), min(end, window.end))
            # There are a thousand of them: what they share is encoded once.
            first, last = (f"{time:%Y-%m-%dT%H:%M:%S.%fZ}" for time in (span.start, span.end - TICK))
            latencies = f"latency_min={low_ms + 1}&latency_max={high_ms}"
            return f"{everything}{separator}start={first}&end={last}&{latencies}"

        everything = self.list_link(start=None, end=None)
        separator = "&" if "?" in everything else "?"

        return HeatMap(
            title="Latency heat map",
            bounds_ms=series.histogram_bounds_ms or (),
            counts=[each.histogram or () for each in series.steps],
            href=link,
            share_href=lambda latency_ms: self.link(latency_ms=latency_ms, percentile=None),
            **given,
        )

    # --- groups -------------------------------------------------------------------------------------------------------

    def _rank(self, sort_by: str) -> Mapping[str, Any]:
        query = TopQuery(
            **self._selection(self.window),
            sort_by=sort_by,
            limit=_ROWS,
            with_p95=True,
            approx=self._approx,
        )
        rows = [
            {
                **row,
                "href": self.link(service=row["service"], endpoint=row["endpoint"]),
                "list": self.list_link(service=row["service"], endpoint=row["endpoint"]),
            }
            for row in self._page.analytics.top_endpoints(query, self._access).rows
        ]
        return {"rows": rows}

    def _groups(self, dimension: DimensionName) -> Mapping[str, Any]:
        query = TopQuery(
            **self._selection(self.window),
            group_by=(dimension,),
            limit=_GROUPS,
            with_p95=dimension != "status_code",
            approx=self._approx,
        )
        rows = self._page.analytics.top_endpoints(query, self._access).rows
        total = sum(row["hits"] for row in rows)
        return {
            "dimension": dimension,
            "rows": [
                {
                    **row,
                    "share": row["hits"] / total,
                    "href": self.link(**{dimension: row[dimension]}),
                    "list": self.list_link(**{dimension: row[dimension]}),
                }
                for row in rows
            ],
        }


def step_for(length: timedelta) -> tuple[str, timedelta]:
    """Return the finest step with which a chart has room for a window, and with which it is not expensive."""
    for name, step in _STEPS.items():
        if length / step <= _STEPS_PER_CHART and (step >= HOUR or length <= _FINE_WINDOW_MAX + MINUTE):
            return name, step
    return "1d", DAY


def _error_rate(kpis: Kpis | None) -> float | None:
    return None if kpis is None or not kpis.figures["hits"] else kpis.figures["error_rate"]
