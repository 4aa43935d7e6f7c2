"""Whether the published specifications are up to date with Notion: the health check ``trace``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from kernel import Services, UnavailableError
from kernel.datasets import Publication
from plugins.trace.settings import TraceSettings
from plugins.trace.store import SourceTimes, list_sources

_HISTORY_MAX = 100


class SourceProblem(msgspec.Struct, frozen=True):
    """What is wrong with a source.

    Args:
        source: Its name.
        reason: Common to all sources that have the same problem.
        detail: Of this source.
    """

    source: str
    reason: str
    detail: str


class FreshnessCheck:
    """Checks how old and how successful the exports are.

    Args:
        services: Of this plugin.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.settings(TraceSettings)

    def describe_setup(self) -> str:
        """Describe the configuration in one line, for ``tiercel check``."""
        settings = self._settings
        if idle_reason := settings.idle_reason:
            return idle_reason
        changes = settings.schedule if settings.webhook_token is None else f"{settings.schedule}, and on webhooks"
        reads = f"reads {', '.join(settings.sources)} from {settings.api_url}, version {settings.api_version}"
        return f"{reads}: changes {changes}, every row {settings.full_schedule}; tiercel trace check asks Notion"

    def check(self) -> str:
        """Report how old the exports are, for readiness.

        Raises:
            UnavailableError: Exports were refused, are stale, or never ran; names sources and reasons.
        """
        if idle_reason := self._settings.idle_reason:
            return idle_reason
        times = list_sources(self._services.db)
        names = tuple(self._settings.sources)
        # Most reasons are common to all sources, because none is published without the others.
        details: dict[str, list[str]] = {}
        for problem in self.problems(times):
            details.setdefault(problem.reason, []).append(f"{problem.source}: {problem.detail}")
        if details:
            raise UnavailableError("; ".join(f"{reason} ({'; '.join(each)})" for reason, each in details.items()))
        read_at = min(times[name].read_at for name in names)
        reconciled_at = min(times[name].reconciled_at for name in names)
        ages = f"changes were read {self._ago(read_at)}, every row {self._ago(reconciled_at)}"
        return f"sources: {len(names)} are exported; {ages}"

    def problems(self, times: Mapping[str, SourceTimes]) -> Sequence[SourceProblem]:
        """Return what is wrong with the sources of the configuration.

        Args:
            times: When each was read.
        """
        found = (self._find_problem(name, times.get(name)) for name in self._settings.sources)
        return [problem for problem in found if problem is not None]

    def _find_problem(self, name: str, times: SourceTimes | None) -> SourceProblem | None:
        latest = self._services.datasets.publications(name, 1)
        if latest and latest[0].outcome == "refused":
            return self._describe_refusal(name)
        if times is None:
            return SourceProblem(name, "not exported yet", "imported data are served" if latest else "no data")
        age_s = (self._services.clock.now() - times.read_at).total_seconds()
        if age_s <= self._settings.stale_after_s:
            return None
        return SourceProblem(name, f"not read for more than {self._settings.stale_after_s:g} s", f"for {age_s:.0f} s")

    def _describe_refusal(self, name: str) -> SourceProblem:
        """Report since when exports are refused, and the current version. Publications are listed latest first."""
        attempts = self._services.datasets.publications(name, _HISTORY_MAX)
        good = next((each for each in attempts if each.outcome != "refused"), None)
        refused = attempts[: attempts.index(good)] if good is not None else attempts
        since = "at least " if good is None and len(attempts) == _HISTORY_MAX else ""
        served = self._describe_served(good, attempts[-1])
        return SourceProblem(
            name, refused[0].reason or "", f"refused since {since}{self._ago(refused[-1].at)}, {served}"
        )

    def _describe_served(self, good: Publication | None, oldest: Publication) -> str:
        if good is not None:
            return f"version {good.version} is served, confirmed {self._ago(good.at)}"
        return "no data" if oldest.version is None else f"version {oldest.version} is served"

    def _ago(self, moment: datetime) -> str:
        return f"{max(0, int((self._services.clock.now() - moment).total_seconds()))} s ago"
