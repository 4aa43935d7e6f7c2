"""The scope of an analytics request: a window of time, its steps, and the series that match."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from kernel import InvalidError
from plugins.observability.models import STATUS_CODES
from plugins.observability.resolution import DAY, HOUR, Span, floor

STEPS_MAX = 5000
MINUTE = timedelta(minutes=1)
# The resolution of time in the database: an inclusive end is a half-open one this much later.
TICK = timedelta(microseconds=1)
# Times are clamped, so that a default length or a whole bucket can be added on either side. No event lies out there.
_MARGIN = timedelta(days=10)
_FIRST = datetime.min.replace(tzinfo=UTC) + _MARGIN
_LAST = datetime.max.replace(tzinfo=UTC) - _MARGIN
_LIMITS = ("visible_sites", "visible_services")
_FILTERS = ("service", "endpoint", "method", "services", "service_search", "endpoint_search", *_LIMITS)
_STEP = re.compile(r"([0-9]{1,4})([mhd])", re.ASCII)
_STEP_UNITS = {"m": MINUTE, "h": HOUR, "d": DAY}


class Scope(msgspec.Struct, frozen=True):
    """The events that an analytics request selects; texts are compared without case, and None matches everything.

    Args:
        window: Their time.
        account: Whose.
        service: Their service.
        endpoint: Their endpoint.
        method: Their HTTP method.
        services: One of these is their service.
        service_search: Patterns for ILIKE that their service matches.
        endpoint_search: Patterns for ILIKE, each of which their service or their endpoint matches.
        statuses: One of these is their status.
        visible_sites: One of these is their site.
        visible_services: One of these is their service, in the same case.
        owners: Services by the application that owns them; needed to group by application.
    """

    window: Span
    account: int
    service: str | None = None
    endpoint: str | None = None
    method: str | None = None
    services: tuple[str, ...] | None = None
    service_search: tuple[str, ...] | None = None
    endpoint_search: tuple[str, ...] | None = None
    statuses: range | None = None
    visible_sites: tuple[int, ...] | None = None
    visible_services: tuple[str, ...] | None = None
    owners: Mapping[str, Sequence[str]] = {}

    @property
    def filters(self) -> tuple[str, ...]:
        """The names of the filters on series that are set; none if the scope has every series of the account."""
        return tuple(name for name in _FILTERS if getattr(self, name) is not None)

    @property
    def is_coarse(self) -> bool:
        """Whether rollups by service and method can tell its events from others: they know no endpoints and sites."""
        return self.endpoint is None and all(getattr(self, name) is None for name in _LIMITS)

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of queries that look up its series."""
        filters = {name: getattr(self, name) for name in _FILTERS}
        statuses = STATUS_CODES if self.statuses is None else self.statuses
        owned = [(service, owner) for owner, services in self.owners.items() for service in services]
        return {
            "account": self.account,
            **{name: list(value) if isinstance(value, tuple) else value for name, value in filters.items()},
            "owned_services": [service for service, _ in owned],
            "owners": [owner for _, owner in owned],
            "status_from": statuses.start,
            "status_to": statuses.stop,
        }


def window_of(start: datetime | None, end: datetime | None, now: datetime, default_length: timedelta | None) -> Span:
    """Return the window that the parameters ``start`` and ``end`` select.

    Args:
        start: The first time; None is ``default_length`` before the end.
        end: The last time; None is now.
        now: The time.
        default_length: See ``start``; None has no bounds by default.

    Raises:
        InvalidError: The start is after the end.
    """
    default_end = now if default_length is not None else _LAST
    last = default_end if end is None else _clamp(end)
    default_start = last - default_length if default_length is not None else _FIRST
    first = default_start if start is None else _clamp(start)
    if first > last:
        message = f"Expected a time not after the end, {last.isoformat()}, got {first.isoformat()}."
        raise InvalidError(errors={"start": [message]})
    return Span(first, last + TICK)


def parse_step(text: str) -> timedelta:
    """Parse the length of a step, such as ``5m``, ``1h`` or ``1d``.

    Raises:
        InvalidError: It is not such a text, or not from one minute to one day.
    """
    match = _STEP.fullmatch(text.strip())
    step = int(match[1]) * _STEP_UNITS[match[2]] if match is not None else timedelta(0)
    if not MINUTE <= step <= DAY:
        message = f"Expected a number and m, h or d, from 1m to 1d, such as 5m or 6h, got {text!r:.80}."
        raise InvalidError(errors={"step": [message]})
    return step


def step_starts(window: Span, step: timedelta) -> Sequence[datetime]:
    """Return the start of every step that overlaps a window; that of the first may lie before the window.

    Raises:
        InvalidError: There are more than ``STEPS_MAX``.
    """
    start = floor(window.start, step)
    count = -((start - window.end) // step)
    if count > STEPS_MAX:
        message = (
            f"Expected at most {STEPS_MAX} steps in a window, got {count}: take a longer step or a shorter window."
        )
        raise InvalidError(errors={"step": [message]})
    return [start + number * step for number in range(count)]


def _clamp(time: datetime) -> datetime:
    return min(max(time, _FIRST), _LAST)
