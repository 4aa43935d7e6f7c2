"""How finely request logs are known: as single events, or summed up by hour or by day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Literal

import msgspec

Adjective = Literal["raw", "hourly", "daily"]

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
# The first and the last times that both Python and PostgreSQL can hold.
BEGINNING = datetime.min.replace(tzinfo=UTC)
END = datetime(9999, 12, 31, tzinfo=UTC)
# Buckets are counted from here, as ``date_bin`` does in queries.sql.
_ORIGIN = datetime(2000, 1, 1, tzinfo=UTC)


class Resolution(StrEnum):
    """The length of the buckets that requests are summed up by; RAW are the events themselves.

    The values are those of the database: ``date_trunc('hour', ...)``, the tables ``rollup_hour`` and ``retention``.
    """

    RAW = "raw"
    HOUR = "hour"
    DAY = "day"

    @property
    def adjective(self) -> Adjective:
        """The word for it in the HTTP API and in the settings: ``raw``, ``hourly`` or ``daily``."""
        return _ADJECTIVES[self]


_ADJECTIVES: dict[Resolution, Adjective] = {
    Resolution.RAW: "raw",
    Resolution.HOUR: "hourly",
    Resolution.DAY: "daily",
}


class Span(msgspec.Struct, frozen=True, order=True):
    """A half-open interval of time: its start belongs to it, its end does not."""

    start: datetime
    end: datetime


def floor(time: datetime, step: timedelta) -> datetime:
    """Return the start of the bucket that a time lies in; hours and days are those of UTC."""
    return _ORIGIN + (time - _ORIGIN) // step * step


def ceil(time: datetime, step: timedelta) -> datetime:
    """Return the time itself if it is the start of a bucket, else the start of the next one."""
    return floor(time + step - datetime.resolution, step)
