"""Random events: good ones, and ones with anything in any field."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from tests.plugins.observability.events import make_event

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

_offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
_moments = st.datetimes(datetime(1970, 1, 2), datetime(2026, 2, 27))
times = _moments | st.builds(lambda moment, offset: moment.replace(tzinfo=offset), _moments, _offsets)
_blanks = st.text(" \t\n\u00a0\u3000", max_size=2)
_storable = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
_numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)


def json_values(texts: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Make any JSON value out of some texts."""
    return st.recursive(
        st.none() | st.booleans() | _numbers | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=5,
    )


def texts(length_max: int) -> st.SearchStrategy[str]:
    """Make texts that are too long now and then, with blanks at both ends and halves of surrogate pairs."""
    short = st.text(max_size=12) | st.text("x", min_size=length_max - 1, max_size=length_max + 1)
    return st.builds("{}{}{}".format, _blanks, short, _blanks)


_odd = json_values(st.text(max_size=5))
_status = st.integers(90, 610) | st.integers(100, 599).map(str) | st.integers(100, 599).map(float) | _odd
_latency = st.integers(-1, 2**31) | st.integers(0, 10**6).map("{}.0".format) | _odd

_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "time": times.map(datetime.isoformat) | st.datetimes(timezones=st.just(UTC)).map(str) | _odd,
    "service": texts(100) | _odd,
    "endpoint": texts(255) | _odd,
    "method": texts(20) | _odd,
    "status_code": _status,
    "latency_ms": _latency,
    "trace_id": texts(128) | _odd,
    "user_ref": texts(128) | _odd,
    "tags": st.dictionaries(st.text(max_size=5), _odd, max_size=3) | _odd,
}

any_events = st.builds(
    lambda changes, left_out: make_event(**changes, **dict.fromkeys(left_out - changes.keys(), ...)),
    st.fixed_dictionaries({}, optional=_FIELDS),
    st.sets(st.sampled_from(sorted(_FIELDS)), max_size=1) | st.just(set()),
)
any_items = any_events | _odd

good_events = st.builds(
    make_event,
    time=times.map(datetime.isoformat),
    service=st.sampled_from(["billing", "Billing", "auth", "a_b", "ä%"]),
    endpoint=st.sampled_from(["/", "/a", "/A/b", "/%", "/_"]),
    method=st.sampled_from(["GET", "get", "POST"]),
    status_code=st.sampled_from([200, 201, 404, 500, 503]),
    latency_ms=st.none() | st.integers(0, 5) | st.integers(0, 2**31 - 1),
    trace_id=st.none() | st.sampled_from(["t1", "T1", "%", "billing"]),
    user_ref=st.none() | st.sampled_from(["u1", "u_1", "ux1"]),
    tags=st.dictionaries(st.text(_storable, max_size=4), json_values(st.text(_storable, max_size=4)), max_size=2),
)
