"""Filters, search and order of lists and exports: from parameters to SQL, whose fragments are in queries.sql."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, LiteralString, cast

import msgspec
from psycopg import sql

from kernel import InvalidError
from plugins.observability.event_ids import EPOCH
from plugins.observability.models import (
    INT32_MAX,
    REFERENCE_MAX,
    STATUS_CODES,
    Event,
    SelectionQuery,
    status_range,
)
from plugins.observability.queries import QUERIES

SEARCH_TERMS_MAX = 10
# In characters. Each event is compared with the pattern of each term, which takes as long as the pattern is.
SEARCH_LENGTH_MAX = 300
DEFAULT_ORDERING = ("-time",)
SORTABLE = ("time", "latency_ms", "status_code", "service", "endpoint", "method")
SMALLINT = range(-(2**15), 2**15)
_PARAMETER = re.compile(r"%\((\w+)\)s")
INTEGER = range(-(2**31), 2**31)


class Conditions(msgspec.Struct):
    """Conditions on events, and the values of their parameters.

    Args:
        parts: The conditions.
        values: By the name of the parameter.
        preconditions: Those that are the same for all events: if one does not hold, none is selected.
        visible: Whether events must also be visible, which their series tell.
        alone: Whether all events are likely to be.
    """

    parts: list[sql.Composable]
    values: dict[str, Any]
    preconditions: tuple[sql.Composable, ...] = ()
    visible: bool = False
    alone: bool = False

    def add_precondition(self, name: str, **values: Any) -> None:
        """Add the fragment ``filter_<name>``, which is not about events."""
        self.preconditions = (*self.preconditions, sql.SQL(QUERIES[f"filter_{name}"]))
        self.values.update(values)

    def require_visible(self, parameters: Mapping[str, Any], *, alone: bool = False) -> None:
        """Add that events are visible.

        Args:
            parameters: Of ``Access``.
            alone: Whether all events are likely to be.
        """
        self.visible, self.alone = True, alone
        self.values.update(parameters)

    def add(self, name: str, **values: Any) -> None:
        """Add the fragment ``filter_<name>``."""
        self.parts.append(sql.SQL(QUERIES[f"filter_{name}"]))
        self.values.update(values)

    @property
    def whole_account(self) -> int | None:
        """The account of which these are all events: visible ones, by no other condition. None if there is another."""
        limits = (self.values.get("visible_sites"), self.values.get("visible_services"))
        if not self.visible or self.parts or self.preconditions or limits != (None, None):
            return None
        account: int = self.values["account"]
        return account

    @property
    def where(self) -> sql.Composable:
        """All conditions, as one expression on events."""
        visible = [sql.SQL(QUERIES["filter_visible"])] if self.visible else []
        return _all_of([*self.preconditions, *self.parts, *visible])

    def compose_page(self, order: sql.Composable) -> sql.Composed:
        """Return the statement of ``page_of_events``, or ``page_of_few_events`` for those of a trace."""
        visible = [sql.SQL(QUERIES["filter_visible_joined"])] if self.visible else []
        join = sql.SQL(QUERIES["join_last" if self.visible else "join_first"])
        if "trace_id" in self.values:
            where = _all_of([*self.preconditions, *self.parts])
            start, end = (
                sql.Placeholder(name) if name in self.values else sql.Literal(otherwise)
                for name, otherwise in (("start", "-infinity"), ("end", "infinity"))
            )
            return sql.SQL(QUERIES["page_of_few_events"]).format(
                start=start, end=end, join=join, where=where, conditions=_all_of(visible), order=order
            )
        where = _all_of([*self.preconditions, *self.parts, *visible])
        return sql.SQL(QUERIES["page_of_events"]).format(join=join, where=where, order=order)

    def and_also(self, other: Conditions) -> Conditions:
        """Return these conditions and those of another, which has no preconditions."""
        return msgspec.structs.replace(self, parts=self.parts + other.parts, values=self.values | other.values)

    def compose_count(self) -> sql.Composed:
        """Return the statement that counts the events: NULL if a precondition does not hold, or ``alone`` is wrong."""
        preconditions, where = self.preconditions, msgspec.structs.replace(self, preconditions=()).where
        if self.alone:
            preconditions, where = (*preconditions, sql.SQL(QUERIES["filter_alone"])), _all_of(self.parts)
        return sql.SQL(QUERIES["count_events"]).format(precondition=_all_of(preconditions), where=where)


def _all_of(conditions: Sequence[sql.Composable]) -> sql.Composable:
    return sql.SQL(" AND ").join(conditions or [sql.SQL(QUERIES["filter_everything"])])


def event_conditions(query: SelectionQuery, series: Sequence[int] | None) -> Conditions:
    """Return the conditions of all filters but ``search``.

    Args:
        query: The parameters.
        series: Numbers of the series that the filters ``service``, ``endpoint``, ``method`` and ``application`` match;
            None without any of these filters.
    """
    conditions = Conditions([], {})
    if _matches_nothing(query, series):
        conditions.add("nothing")
    if series is not None:
        conditions.add("series", series=list(series))
    for name in ("trace_id", "user_ref", "status_code", "start", "end", "latency_min", "latency_max"):
        value = getattr(query, name)
        if value is not None:
            conditions.add(name, **{name: value})
    if query.status_code__in:
        conditions.add("status_codes", status_codes=list(query.status_code__in))
    statuses = status_range(None, query.status_class)
    if statuses is not None:
        conditions.add("status_class", status_from=statuses.start, status_to=statuses.stop)
    return conditions


def selects_everything(query: SelectionQuery) -> bool:
    """Tell whether no filter of a query narrows it: an empty search, for one, is no filter.

    Raises:
        InvalidError: The search has too many terms.
    """
    by_series = (query.service, query.endpoint, query.method, query.application)
    return (
        all(text is None for text in by_series)
        and not split_search(query.search)
        and not event_conditions(query, None).parts
    )


def _matches_nothing(query: SelectionQuery, series: Sequence[int] | None) -> bool:
    """Tell whether no event can match some filters, so that the server need not look for any."""
    references = (query.trace_id, query.user_ref)
    return (
        (series is not None and not series)
        or (query.status_code is not None and query.status_code not in STATUS_CODES)
        or (query.status_code__in != () and set(STATUS_CODES).isdisjoint(query.status_code__in))
        or any(text is not None and len(text) > REFERENCE_MAX for text in references)
        or (query.latency_max is not None and query.latency_max < (query.latency_min or 0))
        or (query.end is not None and query.end < (query.start or EPOCH))
    )


def split_search(text: str | None) -> list[str]:
    """Split a search into its terms, all of which an event must match.

    Raises:
        InvalidError: There are more than ``SEARCH_TERMS_MAX``, or they are too long.
    """
    if len(text or "") > SEARCH_LENGTH_MAX:
        raise InvalidError(errors={"search": [f"Expected at most {SEARCH_LENGTH_MAX} characters."]})
    terms = (text or "").replace(",", " ").split()
    if len(terms) > SEARCH_TERMS_MAX:
        raise InvalidError(errors={"search": [f"Expected at most {SEARCH_TERMS_MAX} terms, got {len(terms)}."]})
    return terms


def search_pattern(term: str) -> str:
    """Return the pattern for ILIKE of texts that have a term in them."""
    return f"%{_escape(term)}%"


def search_terms(text: str | None) -> list[str]:
    """Return the patterns of all terms of a search; raises as ``split_search``."""
    return [search_pattern(term) for term in split_search(text)]


def add_search(conditions: Conditions, position: int, term: str, series: Sequence[int]) -> None:
    """Add one term of a search: the series of an event matches it, or a text of the event does.

    Args:
        conditions: To add to.
        position: Of the term, from 0; it makes the names of parameters unique.
        term: What to search for.
        series: Numbers of the series that match it.
    """
    series_name, pattern_name = f"search_series_{position}", f"search_pattern_{position}"
    if len(term) > REFERENCE_MAX:
        # Only a series has texts as long as this.
        if not series:
            conditions.add("nothing")
        conditions.parts.append(sql.SQL(QUERIES["filter_search_series"]).format(series=sql.Placeholder(series_name)))
        conditions.values[series_name] = list(series)
        return
    condition = sql.SQL(QUERIES["filter_search"]).format(
        series=sql.Placeholder(series_name), pattern=sql.Placeholder(pattern_name)
    )
    conditions.parts.append(condition)
    conditions.values |= {series_name: list(series), pattern_name: search_pattern(term)}


def parse_ordering(
    ordering: Sequence[str], sortable: Sequence[str] = SORTABLE, default: Sequence[str] = DEFAULT_ORDERING
) -> tuple[str, ...]:
    """Validate an ordering such as ``("-time", "latency_ms")``; a leading ``-`` sorts descending.

    Args:
        ordering: The fields; the default if there are none.
        sortable: The fields that there are.
        default: See ``ordering``.

    Raises:
        InvalidError: It has an unknown field, or one field twice.
    """
    fields = ordering or default
    names = [field.removeprefix("-") for field in fields]
    wrong = [field for field, name in zip(fields, names, strict=True) if name not in sortable]
    if wrong:
        raise InvalidError(
            errors={"ordering": [f"Cannot sort by {', '.join(wrong)}. There are: {', '.join(sortable)}."]}
        )
    if len(set(names)) < len(names):
        raise InvalidError(errors={"ordering": ["A field is given more than once."]})
    return tuple(fields)


def with_tie_breaker(ordering: Sequence[str]) -> tuple[tuple[str, bool], ...]:
    """Return (column, descending) for each sort key; time and id come last, so that no two events are equal."""
    keys = [(field.removeprefix("-"), field.startswith("-")) for field in ordering]
    if all(name != "time" for name, _ in keys):
        keys.append(("time", True))
    # The index is (time DESC, id): with the id ascending it can be read in order.
    return (*keys, ("id", not dict(keys)["time"]))


def order_by(keys: Sequence[tuple[str, bool]], *, backwards: bool = False) -> sql.Composable:
    """Compose ORDER BY."""
    return sql.SQL(", ").join(
        sql.SQL("{} {}").format(
            _column(name, descending=descending), sql.SQL("DESC" if descending != backwards else "ASC")
        )
        for name, descending in keys
    )


def inline_values(query: sql.Composable, values: Mapping[str, Any]) -> sql.Composed:
    """Put values into a statement, in place of its parameters.

    Sessions plan a statement with parameters each time (see ``configure_session``), and one without them once. So this
    is for statements that are sent often, with values of which there are few, and whose plan they do not change.
    """
    # Every other part is the name of a parameter.
    parts = _PARAMETER.split(query.as_string())
    return sql.Composed(
        [
            sql.Literal(values[part]) if number % 2 else sql.SQL(cast(LiteralString, part))
            for number, part in enumerate(parts)
        ]
    )


def keyset(keys: Sequence[tuple[str, bool]], values: Sequence[Any], *, backwards: bool) -> Conditions:
    """Compose the condition of keyset pagination: only events that come after one in an order.

    (a, b, c) > (x, y, z) in mixed directions is a > x OR (a = x AND (b > y OR (b = y AND c > z))). The bound a >= x is
    repeated in front of it, because an index can be used for that alone.

    Args:
        keys: From ``with_tie_breaker``.
        values: Those of the event, from ``key_values``.
        backwards: Compose "before" in place of "after".
    """
    parameters = {f"key_{position}": value for position, value in enumerate(values)}
    condition: sql.Composable | None = None
    for position in reversed(range(len(keys))):
        name, descending = keys[position]
        column, value = _column(name, descending=descending), sql.Placeholder(f"key_{position}")
        after = sql.SQL("{} {} {}").format(column, _comparison(descending=descending != backwards), value)
        if condition is not None:
            after = sql.SQL("({} OR ({} = {} AND {}))").format(after, column, value, condition)
        condition = after
    name, descending = keys[0]
    bound = sql.SQL("{} {}= {}").format(
        _column(name, descending=descending), _comparison(descending=descending != backwards), sql.Placeholder("key_0")
    )
    return Conditions([bound, condition] if condition is not None else [bound], parameters)


def key_values(event: Event, keys: Sequence[tuple[str, bool]]) -> tuple[Any, ...]:
    """Return the sort keys of an event."""
    return tuple(
        _absent_latency(descending=descending) if (value := getattr(event, name)) is None else value
        for name, descending in keys
    )


def validate_filters(query: SelectionQuery) -> None:
    """Check that numbers are in the range of their columns, and that texts have no NUL, as PostgreSQL rejects both.

    Raises:
        InvalidError: Names each parameter that is wrong.
    """
    errors: dict[str, list[str]] = {}
    ranges: Mapping[str, range] = {"status_code": SMALLINT, "latency_min": INTEGER, "latency_max": INTEGER}
    for name, valid in ranges.items():
        value = getattr(query, name)
        if value is not None and value not in valid:
            errors[name] = [f"Expected a number from {valid.start} to {valid.stop - 1}, got {value}."]
    if any(value not in SMALLINT for value in query.status_code__in):
        errors["status_code__in"] = [f"Expected numbers from {SMALLINT.start} to {SMALLINT.stop - 1}."]
    texts = ("service", "endpoint", "method", "trace_id", "user_ref", "search")
    errors |= _nul_errors({name: getattr(query, name) for name in texts})
    if errors:
        raise InvalidError(f"Some parameters are wrong: {', '.join(errors)}.", errors=errors)


def ensure_no_nul(**texts: str | None) -> None:
    """Check that texts have no NUL, as PostgreSQL stores none, and rejects queries with one.

    Raises:
        InvalidError: Names each parameter that is wrong.
    """
    errors = _nul_errors(texts)
    if errors:
        raise InvalidError(f"Some parameters are wrong: {', '.join(errors)}.", errors=errors)


def _nul_errors(texts: Mapping[str, str | None]) -> dict[str, list[str]]:
    return {
        name: [f"Null characters are not allowed, got {text!r:.80}."]
        for name, text in texts.items()
        if "\x00" in (text or "")
    }


def _escape(term: str) -> str:
    """Escape the wildcards of LIKE."""
    return term.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _column(name: str, *, descending: bool) -> sql.Composable:
    return sql.SQL(QUERIES[f"column_{name}"]).format(absent=_absent_latency(descending=descending))


def _absent_latency(*, descending: bool) -> int:
    """Return the latency that an event without one is sorted by: it comes last in either direction."""
    return -1 if descending else INT32_MAX + 1


def _comparison(*, descending: bool) -> sql.SQL:
    return sql.SQL("<") if descending else sql.SQL(">")
