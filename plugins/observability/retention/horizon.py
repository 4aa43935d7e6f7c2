"""Events that are older than what is kept are not taken in: their rollups are final."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from kernel import InvalidError
from plugins.observability.model import Messages
from plugins.observability.retention.limits import Limits


class TooOldError(InvalidError):
    """Events would fall into a time of which the events were removed.

    Args:
        since: From when on there are events.
    """

    def __init__(self, since: datetime) -> None:
        super().__init__("Some fields are wrong: time.", errors=too_old(since))
        self.since = since


def too_old(since: datetime) -> Messages:
    """Return what the sender of an event is told that is older than what is kept."""
    return {"time": [f"Ensure this time is not before {since.isoformat()}: older events are not kept (raw_days)."]}


def refuse_old(row: tuple[object, ...] | None) -> None:
    """Look at what a write returned: from when on there are events, if it has older ones.

    Raises:
        TooOldError: It has.
    """
    if row is not None and isinstance(row[0], datetime):
        raise TooOldError(row[0])


class Horizon:
    """From when on events are taken, as far as this process knows. The database has the last word, in each write.

    Args:
        limits: What the configuration says.
        now: The clock.
    """

    def __init__(self, limits: Limits, now: Callable[[], datetime]) -> None:
        self._limits = limits
        self._now = now
        self._learnt: datetime | None = None

    @property
    def since(self) -> datetime | None:
        """From when on; None takes everything."""
        known = (self._limits.cutoffs(self._now()).get("raw"), self._learnt)
        return max((moment for moment in known if moment is not None), default=None)

    def learn(self, since: datetime) -> None:
        """Remember what the database said: longer retention brings nothing back."""
        self._learnt = since
