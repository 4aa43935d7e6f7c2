"""Whether the specifications are what Notion has."""

from __future__ import annotations

from datetime import datetime

import msgspec

from kernel import Services, UnavailableError
from kernel.datasets import Publication
from plugins.trace.settings import TraceSettings
from plugins.trace.store import SourceTimes, list_sources

NO_TOKEN = "NOTION_TOKEN is not set: what was imported is served"  # noqa: S105 - says that there is none
NO_SOURCES = "no sources are configured: what was imported is served"
_HISTORY_MAX = 100


class _Problem(msgspec.Struct, frozen=True):
    """What is wrong with a source.

    Args:
        reason: The same for all that have it.
        detail: Of this one.
    """

    reason: str
    detail: str


class Freshness:
    """Looks at exports.

    Args:
        services: Settings, database, datasets, clock.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.settings(TraceSettings)

    def idle_reason(self) -> str | None:
        """Say why nothing is exported; None if something is."""
        settings = self._settings
        if settings.is_active:
            return None
        return NO_TOKEN if settings.sources else NO_SOURCES

    def setup(self) -> str:
        """Say what is configured."""
        settings = self._settings
        if idle := self.idle_reason():
            return idle
        changes = settings.schedule if settings.webhook_token is None else f"{settings.schedule}, and on webhooks"
        reads = f"reads {', '.join(settings.sources)} from {settings.api_url}, version {settings.api_version}"
        return f"{reads}: changes {changes}, every row {settings.full_schedule}; tiercel trace check asks Notion"

    def check(self) -> str:
        """Say how the exports are, for readiness.

        Raises:
            UnavailableError: Some were refused, are too old, or were never made; says which, why, and what serves.
        """
        if idle := self.idle_reason():
            return idle
        times = list_sources(self._services.db)
        names = tuple(self._settings.sources)
        problems: dict[str, list[str]] = {}
        for name in names:
            if (problem := self._problem(name, times.get(name))) is not None:
                # Most reasons hold for all: nothing is published without the rest.
                problems.setdefault(problem.reason, []).append(f"{name}: {problem.detail}")
        if problems:
            raise UnavailableError("; ".join(f"{reason} ({'; '.join(each)})" for reason, each in problems.items()))
        read_at = min(times[name].read_at for name in names)
        reconciled_at = min(times[name].reconciled_at for name in names)
        ages = f"changes were read {self._ago(read_at)}, every row {self._ago(reconciled_at)}"
        return f"sources: {len(names)} are exported; {ages}"

    def _problem(self, name: str, times: SourceTimes | None) -> _Problem | None:
        latest = self._services.datasets.publications(name, 1)
        if latest and latest[0].outcome == "refused":
            return self._refused(name)
        if times is None:
            return _Problem("not exported yet", "what was imported serves" if latest else "nothing serves")
        age_s = (self._services.clock.now() - times.read_at).total_seconds()
        if age_s <= self._settings.stale_after_s:
            return None
        return _Problem(f"not read for more than {self._settings.stale_after_s:g} s", f"for {age_s:.0f} s")

    def _refused(self, name: str) -> _Problem:
        attempts = self._services.datasets.publications(name, _HISTORY_MAX)
        good = next((each for each in attempts if each.outcome != "refused"), None)
        refused = attempts[: attempts.index(good)] if good is not None else attempts
        since = "at least " if good is None and len(attempts) == _HISTORY_MAX else ""
        serves = self._what_serves(good, attempts[-1])
        return _Problem(refused[0].reason or "", f"refused since {since}{self._ago(refused[-1].at)}, {serves}")

    def _what_serves(self, good: Publication | None, oldest: Publication) -> str:
        if good is not None:
            return f"version {good.version} serves, confirmed {self._ago(good.at)}"
        return "nothing serves" if oldest.version is None else f"version {oldest.version} serves"

    def _ago(self, moment: datetime) -> str:
        return f"{max(0, int((self._services.clock.now() - moment).total_seconds()))} s ago"
