"""How many days each level is kept."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from plugins.observability.rollups.plan import DAY, Level, floor

FOREVER = 0


class Limits(msgspec.Struct, frozen=True):
    """Whole days, UTC, that each level is kept beside the running one; 0 is for ever.

    Args:
        raw: Events.
        hour: Rollups by hour.
        day: Rollups by day.

    Raises:
        ValueError: A coarser level would go before a finer one.
    """

    raw: int = FOREVER
    hour: int = FOREVER
    day: int = FOREVER

    def __post_init__(self) -> None:
        finer: tuple[str, int] | None = None
        for level, days in (("raw", self.raw), ("hourly", self.hour), ("daily", self.day)):
            if finer is not None and _longer(finer[1], days):
                kept = "for ever" if finer[1] == FOREVER else f"{finer[1]} days"
                raise ValueError(f"{level}_days = {days} is shorter than {finer[0]}_days, which keeps {kept}")
            finer = (level, days)

    def cutoffs(self, now: datetime) -> Mapping[Level, datetime]:
        """Return from when on each level is kept; one that is kept for ever has no such time."""
        today = floor(now, DAY)
        days: dict[Level, int] = {"raw": self.raw, "hour": self.hour, "day": self.day}
        return {level: today - number * DAY for level, number in days.items() if number != FOREVER}


def _longer(days: int, than: int) -> bool:
    return than != FOREVER and (days == FOREVER or days > than)
