"""When jobs are due: cron expressions and intervals, in UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Protocol

_EVERY = re.compile(r"^every ([1-9][0-9]{0,6}) ?([smhd])$")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_CRON_FIELDS = 5


class Schedule(Protocol):
    """Knows when a job is due."""

    text: str

    def latest(self, now: datetime) -> datetime:
        """Return the latest due time that is not after now."""

    def following(self, now: datetime) -> datetime:
        """Return the first due time after now."""


class _Every:
    """Due at every multiple of an interval since 1970, so that all workers agree on when."""

    def __init__(self, text: str, interval_s: int) -> None:
        self.text = text
        self._interval_s = interval_s

    def latest(self, now: datetime) -> datetime:
        return datetime.fromtimestamp(int(now.timestamp()) // self._interval_s * self._interval_s, UTC)

    def following(self, now: datetime) -> datetime:
        return self.latest(now) + timedelta(seconds=self._interval_s)


class _Cron:
    """Due as cron would be."""

    def __init__(self, text: str) -> None:
        # Imported where a schedule needs it: most processes have none.
        from croniter import croniter

        if len(text.split()) != _CRON_FIELDS or not croniter.is_valid(text):
            raise ValueError(f"{text!r} is neither a cron expression of five fields nor such as 'every 15m'")
        self.text = text
        self._croniter = croniter

    def latest(self, now: datetime) -> datetime:
        # get_prev leaves out the very moment it starts from.
        moment: datetime = self._croniter(self.text, now + timedelta(microseconds=1)).get_prev(datetime)
        return moment

    def following(self, now: datetime) -> datetime:
        moment: datetime = self._croniter(self.text, now).get_next(datetime)
        return moment


def parse_schedule(text: str) -> Schedule:
    """Read a schedule.

    Args:
        text: Five fields of cron, or ``every 15m`` (s, m, h, d).

    Raises:
        ValueError: It is neither, or never due.
    """
    every = _EVERY.fullmatch(text.strip())
    if every:
        return _Every(text, int(every[1]) * _UNIT_S[every[2]])
    schedule = _Cron(text.strip())
    try:
        schedule.following(datetime.now(UTC))
    except ValueError as ex:
        raise ValueError(f"{text!r} is never due") from ex
    return schedule
