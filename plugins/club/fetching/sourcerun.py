"""The fetching of one source, from its start to its outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import httpx
import msgspec

from plugins.club.fetching.budget import Budget
from plugins.club.fetching.headers import resolve_headers
from plugins.club.fetching.hosts import HostLimits
from plugins.club.fetching.outcome import (
    Fetched,
    FetchError,
    Outcome,
    SourceFailure,
    SourceProgress,
    State,
    Unchanged,
    Validators,
)
from plugins.club.fetching.requests import Requests
from plugins.club.fetching.retries import Retries
from plugins.club.fetching.source import SourceFetcher
from plugins.club.settings import ClubSettings, Source


class Shared(msgspec.Struct, frozen=True):
    """What the sources have in common.

    Args:
        transport: Sends.
        hosts: Bounds what is with one host.
        environ: What headers take their secrets from.
        now: UTC.
    """

    transport: httpx.AsyncHTTPTransport
    hosts: HostLimits
    environ: Mapping[str, str]
    now: Callable[[], datetime]


class SourceRun:
    """Times a source, limits it, and makes a failure of whatever goes wrong.

    Args:
        name: Of the source.
        source: Its configuration.
        settings: Limits.
        known: What came with its last good answer.
        report: Told of every step.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        settings: ClubSettings,
        known: Validators | None,
        report: Callable[[SourceProgress], None],
    ) -> None:
        self._source = source
        self._settings = settings
        self._known = known
        self._tell = report
        self._started_s = time.monotonic()
        self._progress = SourceProgress(source=name, state="fetching")

    async def fetch(self, shared: Shared) -> Outcome:
        """Fetch it. Raises nothing but a cancellation."""
        self._report("fetching")
        try:
            return await self._within_budget(shared)
        except FetchError as ex:
            return self._failure(ex)
        except TimeoutError:
            return self._failure(FetchError("timeout", f"not done within {self._settings.total_timeout_s:g} s"))
        except Exception as ex:  # a fault of ours, and no reason to lose the other sources
            return self._failure(FetchError("internal", f"failed unexpectedly: {_place(ex)}"))

    def stopped(self) -> SourceFailure:
        """Return the outcome of a source whose task was cancelled."""
        return self._failure(FetchError("stopped", "stopped before it was done"))

    async def _within_budget(self, shared: Shared) -> Outcome:
        settings = self._settings
        async with asyncio.timeout(settings.total_timeout_s) as limit:
            budget = Budget(limit)
            headers = resolve_headers(self._source.headers, shared.environ)
            requests = Requests(shared.transport, settings, shared.hosts, budget, headers, shared.now)
            retries = Retries(settings.retries, settings.retry_wait_s, budget, self._retrying)
            fetcher = SourceFetcher(self._source, requests, retries, settings.max_pages, self._page)
            return await self._outcome(fetcher)

    async def _outcome(self, fetcher: SourceFetcher) -> Outcome:
        harvest = await fetcher.run(self._known)
        name = self._progress.source
        if isinstance(harvest, Validators):
            self._report("unchanged")
            return Unchanged(source=name, validators=harvest, ms=self._progress.ms)
        self._report("fetched")
        return Fetched(
            source=name,
            items=tuple(harvest.items.values()),
            rejected=tuple(harvest.rejected),
            validators=fetcher.validators(harvest),
            pages=len(harvest.validators),
            bytes=harvest.bytes,
            ms=self._progress.ms,
        )

    def _failure(self, error: FetchError) -> SourceFailure:
        self._report("failed", error.reason)
        progress = self._progress
        return SourceFailure(source=progress.source, kind=error.kind, reason=error.reason, ms=progress.ms)

    def _retrying(self, reason: str) -> None:
        self._report("retrying", reason)

    def _page(self, items: int, size_bytes: int) -> None:
        self._progress = msgspec.structs.replace(self._progress, items=items, bytes=size_bytes)
        self._report("fetching")

    def _report(self, state: State, detail: str | None = None) -> None:
        ms = round((time.monotonic() - self._started_s) * 1000)
        self._progress = msgspec.structs.replace(self._progress, state=state, detail=detail, ms=ms)
        self._tell(self._progress)


def _place(error: Exception) -> str:
    """Say what happened and where; not its message, which may repeat a header."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" in {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    return f"{type(error).__name__}{where}"
