"""Fetch all sources at once."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime

from plugins.club.fetching.hosts import HostLimits
from plugins.club.fetching.outcome import Outcome, SourceProgress, Validators
from plugins.club.fetching.requests import make_transport
from plugins.club.fetching.sourcerun import Shared, SourceRun
from plugins.club.settings import ClubSettings, Source

# How long at most until a stop is noticed, and a step told.
STOP_CHECK_S = 0.1


async def fetch_all(
    sources: Mapping[str, Source],
    settings: ClubSettings,
    *,
    validators: Mapping[str, Validators] | None = None,
    environ: Mapping[str, str] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[SourceProgress], None] = lambda _: None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> dict[str, Outcome]:
    """Fetch sources, all at the same time.

    Args:
        sources: By name; those of the settings, or some of them.
        settings: Limits.
        validators: By name, what came with the last good answer. Only for sources whose items are still at hand.
        environ: What headers take their secrets from; the process's environment by default.
        should_stop: Asked ten times a second; once it says so, what is not done has failed as ``stopped``.
        on_progress: Told of every step of every source. What it or ``should_stop`` raises ends everything.
        now: UTC; for dates in ``Retry-After``.

    Returns:
        By name, what became of each, in the order of ``sources``. No failure of a source is raised.
    """
    known = validators or {}
    steps: deque[SourceProgress] = deque()

    def tell() -> None:
        while steps:
            on_progress(steps.popleft())

    def carry_on() -> bool:
        tell()
        return not should_stop()

    async with make_transport() as transport:
        shared = Shared(transport, HostLimits(settings.per_host), os.environ if environ is None else environ, now)
        runs = {
            name: SourceRun(name, source, settings, known.get(name), steps.append) for name, source in sources.items()
        }
        tasks = {name: asyncio.create_task(run.fetch(shared), name=name) for name, run in runs.items()}
        await _finish(tasks.values(), carry_on)
        outcomes = {name: runs[name].stopped() if task.cancelled() else task.result() for name, task in tasks.items()}
    tell()
    return outcomes


async def _finish(tasks: Collection[asyncio.Task[Outcome]], carry_on: Callable[[], bool]) -> None:
    """Wait for tasks, or end them: when told so, and whatever happens here."""
    pending = set(tasks)
    try:
        while pending and carry_on():
            _, pending = await asyncio.wait(pending, timeout=STOP_CHECK_S)
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
