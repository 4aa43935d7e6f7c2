"""From when on there are events and rollups: limits of the configuration, watermarks, and events that are too old."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

import msgspec

from kernel import FieldErrors, InvalidError
from plugins.observability.resolution import BEGINNING, DAY, Resolution, floor

FOREVER = 0


class RetentionLimits(msgspec.Struct, frozen=True):
    """How many days each resolution is kept, in addition to the current day; 0 keeps it forever.

    Args:
        raw: Whole days, UTC, of events.
        hour: Of rollups by hour.
        day: Of rollups by day.

    Raises:
        ValueError: A coarser resolution would be removed before a finer one.
    """

    raw: int = FOREVER
    hour: int = FOREVER
    day: int = FOREVER

    def __post_init__(self) -> None:
        finer: tuple[Resolution, int] | None = None
        for resolution, days in self._days().items():
            if finer is not None and _is_longer(finer[1], days):
                kept = "forever" if finer[1] == FOREVER else f"{finer[1]} days"
                name, finer_name = f"{resolution.adjective}_days", f"{finer[0].adjective}_days"
                raise ValueError(f"{name} = {days} is shorter than {finer_name}, which keeps {kept}")
            finer = (resolution, days)

    def cutoffs(self, now: datetime) -> Mapping[Resolution, datetime]:
        """Return the time before which each resolution is to be removed; one that is kept forever is left out."""
        today = floor(now, DAY)
        return {resolution: today - days * DAY for resolution, days in self._days().items() if days != FOREVER}

    def _days(self) -> Mapping[Resolution, int]:
        return {Resolution.RAW: self.raw, Resolution.HOUR: self.hour, Resolution.DAY: self.day}


class Watermarks(msgspec.Struct, frozen=True):
    """The time from which on each resolution is complete: what is older was removed, and never comes back.

    A coarser resolution reaches at least as far back as a finer one. The table ``retention`` holds them.
    """

    raw: datetime = BEGINNING
    hour: datetime = BEGINNING
    day: datetime = BEGINNING


class TooOldError(InvalidError):
    """Events lie before the watermark.

    Args:
        since: The watermark.
    """

    def __init__(self, since: datetime) -> None:
        super().__init__("Some fields are wrong: time.", errors=too_old_errors(since))
        self.since = since


def too_old_errors(since: datetime) -> FieldErrors:
    """Return the messages by field for an event that lies before the watermark.

    Its hour was computed for good: nothing is left to compute it from again.
    """
    return {"time": [f"Ensure this time is not before {since.isoformat()}: older events are not kept (raw_days)."]}


def ensure_not_too_old(row: tuple[object, ...] | None) -> None:
    """Check the row that a write returns: its first value is the watermark, if an event lies before it.

    Raises:
        TooOldError: One does.
    """
    if row is not None and isinstance(row[0], datetime):
        raise TooOldError(row[0])


class IngestWatermark:
    """The time before which events are rejected, as far as this process knows.

    It saves writes that would fail: the database checks every write, because another process may have moved the
    watermark.

    Args:
        limits: Of the configuration.
        now: The clock.
    """

    def __init__(self, limits: RetentionLimits, now: Callable[[], datetime]) -> None:
        self._limits = limits
        self._now = now
        self._learned: datetime | None = None

    @property
    def since(self) -> datetime | None:
        """The time; None accepts every event."""
        known = (self._limits.cutoffs(self._now()).get(Resolution.RAW), self._learned)
        return max((time for time in known if time is not None), default=None)

    def learn(self, since: datetime) -> None:
        """Remember the watermark of the database, which counts even where the configuration keeps events for longer."""
        self._learned = since


def _is_longer(days: int, than: int) -> bool:
    return than != FOREVER and (days == FOREVER or days > than)
