"""Turn the parameters of the list into conditions and order. The SQL itself stands in queries.sql."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from psycopg import sql

from kernel import InvalidError
from plugins.observability.model import Event, FilterQuery
from plugins.observability.queries import QUERIES

SEARCH_TERMS_MAX = 10
DEFAULT_ORDERING = ("-time",)
SORTABLE = ("time", "latency_ms", "status_code", "service", "endpoint", "method")
SMALLINT = range(-(2**15), 2**15)
INTEGER = range(-(2**31), 2**31)


class Conditions(msgspec.Struct):
    """Conditions on events and the values of their parameters."""

    parts: list[sql.Composable]
    values: dict[str, Any]

    def add(self, name: str, **values: Any) -> None:
        """Add the condition that queries.sql calls ``filter_<name>``."""
        self.parts.append(sql.SQL(QUERIES[f"filter_{name}"]))
        self.values.update(values)

    @property
    def where(self) -> sql.Composable:
        """All of them, as one expression."""
        return sql.SQL(" AND ").join(self.parts or [sql.SQL(QUERIES["filter_everything"])])


def event_conditions(query: FilterQuery, series: Sequence[int] | None) -> Conditions:
    """Make the conditions of a list, those of ``search`` aside.

    Args:
        query: The parameters.
        series: Numbers of the series that service, endpoint and method name; None if none of them is given.
    """
    conditions = Conditions([], {})
    if series is not None:
        conditions.add("series", series=list(series))
    for name in ("trace_id", "user_ref", "status_code", "time_after", "time_before", "latency_min", "latency_max"):
        value = getattr(query, name)
        if value is not None:
            conditions.add(name, **{name: value})
    if query.status_code__in:
        conditions.add("status_codes", status_codes=list(query.status_code__in))
    return conditions


def search_terms(text: str | None) -> list[str]:
    """Split a search into the terms that must all be found, as patterns of ILIKE.

    Raises:
        InvalidError: There are too many.
    """
    terms = (text or "").replace(",", " ").split()
    if len(terms) > SEARCH_TERMS_MAX:
        raise InvalidError(errors={"search": [f"Expected at most {SEARCH_TERMS_MAX} terms, got {len(terms)}."]})
    return [f"%{_escape(term)}%" for term in terms]


def add_search(conditions: Conditions, position: int, pattern: str, series: Sequence[int]) -> None:
    """Add one term of a search: some series match it, or a text of the event does."""
    names = {"series": f"search_series_{position}", "pattern": f"search_pattern_{position}"}
    composed = sql.SQL(QUERIES["filter_search"]).format(**{key: sql.Placeholder(name) for key, name in names.items()})
    conditions.parts.append(composed)
    conditions.values |= {names["series"]: list(series), names["pattern"]: pattern}


def parse_ordering(ordering: Sequence[str]) -> tuple[str, ...]:
    """Check an ordering such as ``("-time", "latency_ms")``.

    Raises:
        InvalidError: It names something that cannot be sorted by, or one thing twice.
    """
    fields = ordering or DEFAULT_ORDERING
    names = [field.removeprefix("-") for field in fields]
    wrong = [field for field, name in zip(fields, names, strict=True) if name not in SORTABLE]
    if wrong:
        raise InvalidError(
            errors={"ordering": [f"Cannot sort by {', '.join(wrong)}. There are: {', '.join(SORTABLE)}."]}
        )
    if len(set(names)) < len(names):
        raise InvalidError(errors={"ordering": ["A field is given more than once."]})
    return tuple(fields)


def with_tie_breaker(ordering: Sequence[str]) -> list[tuple[str, bool]]:
    """Return (column, descending) for each key, ending in ones that no two events share."""
    keys = [(field.removeprefix("-"), field.startswith("-")) for field in ordering]
    if all(name != "time" for name, _ in keys):
        keys.append(("time", True))
    # The index is (time DESC, id): with the id ascending it can be read in order.
    return [*keys, ("id", not dict(keys)["time"])]


def order_by(keys: Sequence[tuple[str, bool]], *, backwards: bool = False) -> sql.Composable:
    """Compose ORDER BY."""
    return sql.SQL(", ").join(
        sql.SQL("{} {}").format(_column(name), sql.SQL("DESC" if descending != backwards else "ASC"))
        for name, descending in keys
    )


def keyset(keys: Sequence[tuple[str, bool]], values: Sequence[Any], *, backwards: bool) -> Conditions:
    """Compose the condition "after this item in that order".

    (a, b, c) > (x, y, z) in mixed directions is a > x OR (a = x AND (b > y OR (b = y AND c > z))); the bound
    a >= x stands before it once more, because that alone can be read from an index.
    """
    parameters = {f"key_{position}": value for position, value in enumerate(values)}
    condition: sql.Composable | None = None
    for position in reversed(range(len(keys))):
        name, descending = keys[position]
        column, value = _column(name), sql.Placeholder(f"key_{position}")
        beyond = sql.SQL("{} {} {}").format(column, _beyond(descending=descending != backwards), value)
        if condition is not None:
            beyond = sql.SQL("({} OR ({} = {} AND {}))").format(beyond, column, value, condition)
        condition = beyond
    name, descending = keys[0]
    bound = sql.SQL("{} {}= {}").format(
        _column(name), _beyond(descending=descending != backwards), sql.Placeholder("key_0")
    )
    return Conditions([bound, condition] if condition is not None else [bound], parameters)


def key_values(event: Event, keys: Sequence[tuple[str, bool]]) -> tuple[Any, ...]:
    """Return the sort keys of an event."""
    return tuple(getattr(event, name) for name, _ in keys)


def refuse_out_of_range(query: FilterQuery) -> None:
    """Refuse numbers that no column can hold, and texts with a NUL, which the server would choke on.

    Raises:
        InvalidError: Names each parameter.
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
    errors |= _null_characters({name: getattr(query, name) for name in texts})
    if errors:
        raise InvalidError(f"Some parameters are wrong: {', '.join(errors)}.", errors=errors)


def refuse_null_characters(**texts: str | None) -> None:
    """Refuse texts with a NUL, which the server would choke on.

    Raises:
        InvalidError: Names each parameter.
    """
    errors = _null_characters(texts)
    if errors:
        raise InvalidError(f"Some parameters are wrong: {', '.join(errors)}.", errors=errors)


def _null_characters(texts: Mapping[str, str | None]) -> dict[str, list[str]]:
    return {
        name: [f"Null characters are not allowed, got {text!r:.80}."]
        for name, text in texts.items()
        if "\x00" in (text or "")
    }


def _escape(term: str) -> str:
    return term.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _column(name: str) -> sql.SQL:
    return sql.SQL(QUERIES[f"column_{name}"])


def _beyond(*, descending: bool) -> sql.SQL:
    return sql.SQL("<") if descending else sql.SQL(">")
