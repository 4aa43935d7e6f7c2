"""Cut time into steps of one length, aligned as clocks are, UTC."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from kernel import InvalidError
from plugins.observability.rollups.plan import DAY, HOUR, Level, Plan, Span, floor

STEPS_MAX = 5000
MINUTE = timedelta(minutes=1)
_STEP = re.compile(r"([0-9]{1,4})([mhd])", re.ASCII)
_UNITS = {"m": MINUTE, "h": HOUR, "d": DAY}


def read_step(text: str) -> timedelta:
    """Read a length such as ``5m``, ``1h`` or ``1d``.

    Raises:
        InvalidError: It is none, or not from one minute to one day.
    """
    found = _STEP.fullmatch(text.strip())
    step = int(found[1]) * _UNITS[found[2]] if found is not None else timedelta(0)
    if not MINUTE <= step <= DAY:
        message = f"Expected a number and m, h or d, from 1m to 1d, such as 5m or 6h, got {text!r:.80}."
        raise InvalidError(errors={"step": [message]})
    return step


def steps_of(window: Span, step: timedelta) -> Sequence[datetime]:
    """Return the start of every step that a window touches; the first may lie before the window.

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


def level_of(step: timedelta) -> Level:
    """Return the coarsest level whose buckets a step is made of."""
    if step % DAY == timedelta(0):
        return "day"
    return "hour" if step % HOUR == timedelta(0) else "raw"


def refuse_too_fine(plan: Plan, step: timedelta) -> None:
    """Refuse a step that what is left of the past cannot tell apart.

    Raises:
        InvalidError: Retention left whole days, or whole hours, of a part of the window.
    """
    for spans, unit, name in ((plan.days, DAY, "1d"), (plan.hours, HOUR, "1h")):
        if spans and step % unit != timedelta(0):
            message = f"Expected a multiple of {name}: nothing finer is left of a part of the window."
            raise InvalidError(errors={"step": [message]})
