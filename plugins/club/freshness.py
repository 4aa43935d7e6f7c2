"""How fresh each source is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from kernel import Services, UnavailableError
from plugins.club.refresh import JOB
from plugins.club.settings import ClubSettings, Source
from plugins.club.store import SourceState, list_states

NOTHING_CONFIGURED = "no sources are configured: what was imported is served"
Condition = Literal["ok", "failing", "stale", "waiting"]


class SourceFreshness(msgspec.Struct, frozen=True, kw_only=True):
    """A source, and how old what it gave is.

    Args:
        source: Its name.
        dataset: What it is a source of.
        host: Where it is. The rest of the URL may hold secrets.
        state: ``failing`` keeps what it gave last; ``stale`` was not asked for too long; ``waiting`` never was.
        items: How many good ones it gave last.
        rejected: How many others.
        changed_at: When they came.
        succeeded_at: When they were last found to be so.
        age_s: Since then.
        failed_at: When it last failed.
        failure: Why.
        failures: How often since its last good answer.
        attempted_at: When it was last tried.
        next_try_at: When it will be; None without a schedule.
    """

    source: str
    dataset: str
    host: str
    state: Condition
    items: int = 0
    rejected: int = 0
    changed_at: datetime | None = None
    succeeded_at: datetime | None = None
    age_s: int | None = None
    failed_at: datetime | None = None
    failure: str | None = None
    failures: int = 0
    attempted_at: datetime | None = None
    next_try_at: datetime | None = None


class Freshness:
    """Looks at sources.

    Args:
        services: Settings, database, jobs, clock.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.settings(ClubSettings)

    def list(self) -> Sequence[SourceFreshness]:
        """Return every configured source.

        Raises:
            UnavailableError: The database is away.
        """
        sources = self._settings.sources
        if not sources:
            return ()
        states = list_states(self._services.db, sources)
        now, next_try_at = self._services.clock.now(), self._next_try_at()
        return [self._of(name, source, states.get(name), now, next_try_at) for name, source in sources.items()]

    def check(self) -> str:
        """Say how the sources are, for readiness.

        Raises:
            UnavailableError: Some fail, are stale, or were never fetched; says which and why.
        """
        found = self.list()
        if not found:
            return NOTHING_CONFIGURED
        if problems := [text for each in found if (text := describe(each)) is not None]:
            raise UnavailableError("; ".join(problems))
        return f"sources: {len(found)} are fresh"

    def _of(
        self, name: str, source: Source, state: SourceState | None, now: datetime, next_try_at: datetime | None
    ) -> SourceFreshness:
        about = SourceFreshness(
            source=name,
            dataset=source.dataset,
            host=urlsplit(source.url).netloc,
            state="waiting",
            next_try_at=next_try_at,
        )
        if state is None:
            return about
        age_s = None if state.succeeded_at is None else max(0, int((now - state.succeeded_at).total_seconds()))
        stale = age_s is not None and age_s > self._settings.stale_after_s
        # What it gave when it was a source of something else counts for nothing.
        fits = state.dataset == source.dataset
        return msgspec.structs.replace(
            about,
            state="failing" if state.failures else "stale" if stale else "ok",
            items=state.items if fits else 0,
            rejected=state.rejected if fits else 0,
            changed_at=state.changed_at,
            succeeded_at=state.succeeded_at,
            age_s=age_s,
            failed_at=state.failed_at,
            failure=state.failure,
            failures=state.failures,
            attempted_at=state.attempted_at,
        )

    def _next_try_at(self) -> datetime | None:
        jobs, now = self._services.jobs, self._services.clock.now()
        schedule = jobs.catalogue.schedules.get(JOB)
        times = [] if schedule is None else [schedule.following(now)]
        times += [job.due_at for job in jobs.list(name=JOB, state="waiting", limit=1)]
        return min(times, default=None)


def describe(source: SourceFreshness) -> str | None:
    """Say what is wrong with a source; None if nothing is."""
    if source.state == "ok":
        return None
    if source.state == "waiting":
        return f"{source.source}: has not been fetched yet"
    last = "it has given nothing yet" if source.age_s is None else f"its last good answer came {source.age_s} s ago"
    return f"{source.source}: {last}" if source.state == "stale" else f"{source.source}: {source.failure}; {last}"
