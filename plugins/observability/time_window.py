"""The span of time that a request is about: its parameters, by either of their names."""

from __future__ import annotations

from datetime import datetime

import msgspec

from kernel import EndTime, InvalidError

_ALIASES = {"time_after": "start", "time_before": "end"}


class TimeWindowQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Query parameters of a span of time; each has two names. Read them as ``start`` and ``end``, whichever was given.

    Args:
        start: ISO 8601 date or time, inclusive; UTC without an offset.
        end: ISO 8601 date or time, inclusive; a date alone is the end of that day, UTC.
        time_after: Another name of ``start``.
        time_before: Another name of ``end``.

    Raises:
        InvalidError: A bound is given by both of its names.
    """

    start: datetime | None = None
    end: EndTime | None = None
    time_after: datetime | None = None
    time_before: EndTime | None = None

    def __post_init__(self) -> None:
        """Move what is given as an alias to the first name."""
        errors: dict[str, list[str]] = {}
        for alias, name in _ALIASES.items():
            time = getattr(self, alias)
            if time is None:
                continue
            if getattr(self, name) is not None:
                errors[name] = errors[alias] = [f"{name} and {alias} are the same parameter: give one of them."]
            # Frozen means frozen once it is made. Without this, ``structs.replace`` would find both names.
            msgspec.structs.force_setattr(self, name, time)
            msgspec.structs.force_setattr(self, alias, None)
        if errors:
            raise InvalidError(f"Some parameters are wrong: {', '.join(errors)}.", errors=errors)
