"""Fetch all sources at the same time. The failure of one becomes its result, and does not affect the others."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from plugins.club.fetch.client import FetchContext, SourceClient, make_transport
from plugins.club.fetch.limits import HostLimits, TimeBudget
from plugins.club.fetch.pages import Page, fetch_first_page, fingerprint, follow_pages
from plugins.club.fetch.results import (
    Fetched,
    FetchError,
    FetchResult,
    PageValidator,
    RejectedItem,
    SourceFailure,
    SourceProgress,
    State,
    Unchanged,
    Validators,
)
from plugins.club.mapping import InvalidItemError, Mapper
from plugins.club.models import Item
from plugins.club.settings import ClubSettings, Source

# Upper bound of the delay until progress is passed on and a stop is noticed.
POLL_INTERVAL_S = 0.1


async def fetch_all(
    sources: Mapping[str, Source],
    settings: ClubSettings,
    *,
    validators: Mapping[str, Validators] | None = None,
    environ: Mapping[str, str] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[SourceProgress], None] = lambda _: None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> dict[str, FetchResult]:
    """Fetch sources concurrently.

    Args:
        sources: By name.
        settings: Limits.
        validators: By name, the validators of the last successful fetch. Only for sources whose items are still stored.
        environ: Environment variables, from which headers take their secrets; those of the process by default.
        should_stop: Called ten times a second; once it returns true, unfinished sources fail as ``stopped``.
        on_progress: Called for every step of every source. What it or ``should_stop`` raises cancels all of them.
        now: Returns the current time, UTC; for dates in ``Retry-After``.

    Returns:
        The results by name, in the order of ``sources``. The failure of a source is a result, never raised.
    """
    known = validators or {}
    steps: deque[SourceProgress] = deque()

    def report_steps() -> None:
        while steps:
            on_progress(steps.popleft())

    def keep_waiting() -> bool:
        report_steps()
        return not should_stop()

    async with make_transport() as transport:
        hosts = HostLimits(settings.per_host)
        context = FetchContext(transport, hosts, os.environ if environ is None else environ, now)
        fetches = {
            name: SourceFetch(name, source, settings, known.get(name), steps.append) for name, source in sources.items()
        }
        tasks = {name: asyncio.create_task(fetch.run(context), name=name) for name, fetch in fetches.items()}
        await _wait_or_cancel(tasks.values(), keep_waiting)
        results = {name: fetches[name].stopped() if task.cancelled() else task.result() for name, task in tasks.items()}
    report_steps()
    return results


async def _wait_or_cancel(tasks: Collection[asyncio.Task[FetchResult]], keep_waiting: Callable[[], bool]) -> None:
    """Wait until all tasks are done; cancel those that are not when told to stop, or when an exception passes."""
    pending = set(tasks)
    try:
        while pending and keep_waiting():
            _, pending = await asyncio.wait(pending, timeout=POLL_INTERVAL_S)
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


class SourceFetch:
    """One source, from the start to its result.

    Args:
        name: Name of the source.
        source: Its configuration.
        settings: Limits.
        known: Validators of its last successful fetch.
        on_progress: Called for every step.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        settings: ClubSettings,
        known: Validators | None,
        on_progress: Callable[[SourceProgress], None],
    ) -> None:
        self._source = source
        self._settings = settings
        self._known = known
        self._on_progress = on_progress
        self._started_s = time.monotonic()
        self._progress = SourceProgress(source=name, state="fetching")

    async def run(self, context: FetchContext) -> FetchResult:
        """Fetch the source. Raises nothing but a cancellation."""
        self._report("fetching")
        try:
            async with asyncio.timeout(self._settings.total_timeout_s) as timeout:
                return await self._fetch(context, TimeBudget(timeout))
        except FetchError as ex:
            return self._fail(ex)
        except TimeoutError:
            return self._fail(FetchError("timeout", f"not finished within {self._settings.total_timeout_s:g} s"))
        except Exception as ex:  # a bug of this plugin must not lose the other sources
            return self._fail(FetchError("internal", f"failed unexpectedly: {_locate(ex)}"))

    def stopped(self) -> SourceFailure:
        """Return the result of a source whose task was cancelled."""
        return self._fail(FetchError("stopped", "stopped before it was finished"))

    async def _fetch(self, context: FetchContext, budget: TimeBudget) -> FetchResult:
        source, name = self._source, self._progress.source
        client = SourceClient(context, self._settings, source.headers, budget, self._report_retry)
        first = await fetch_first_page(client, source, self._known)
        if isinstance(first, Validators):
            self._report("unchanged")
            return Unchanged(source=name, validators=first, ms=self._progress.ms)
        content = _Content(Mapper(source.dataset, source.mapping, source.feature))
        async with aclosing(follow_pages(client, source, first, self._settings.max_pages)) as pages:
            async for page in pages:
                content.add(page)
                self._progress = msgspec.structs.replace(
                    self._progress, items=len(content.items), bytes=content.size_bytes
                )
                self._report("fetching")
        self._report("fetched")
        return Fetched(
            source=name,
            items=tuple(content.items.values()),
            rejected=tuple(content.rejected),
            validators=content.validators(source),
            pages=len(content.page_validators),
            bytes=content.size_bytes,
            ms=self._progress.ms,
        )

    def _fail(self, error: FetchError) -> SourceFailure:
        self._report("failed", error.reason)
        return SourceFailure(source=self._progress.source, kind=error.kind, reason=error.reason, ms=self._progress.ms)

    def _report_retry(self, reason: str) -> None:
        self._report("retrying", reason)

    def _report(self, state: State, detail: str | None = None) -> None:
        ms = round((time.monotonic() - self._started_s) * 1000)
        self._progress = msgspec.structs.replace(self._progress, state=state, detail=detail, ms=ms)
        self._on_progress(self._progress)


class _Content:
    """The items of a source, collected page by page."""

    def __init__(self, mapper: Mapper) -> None:
        self._mapper = mapper
        self.items: dict[str, Item] = {}
        self.rejected: list[RejectedItem] = []
        self.page_validators: list[PageValidator | None] = []
        self.size_bytes = 0

    def add(self, page: Page) -> None:
        """Map the items of a page; reject those that do not fit the mapping or repeat a key."""
        for index, raw in enumerate(page.items, len(self.items) + len(self.rejected)):
            try:
                item = self._mapper.convert(raw)
            except InvalidItemError as ex:
                self.rejected.append(RejectedItem(index=index, reason=str(ex), raw=raw))
                continue
            if item.key in self.items:
                reason = f"duplicate of {item.key!r:.80}"
                self.rejected.append(RejectedItem(index=index, reason=reason, raw=raw))
            else:
                self.items[item.key] = item
        self.page_validators.append(page.validator)
        self.size_bytes += page.size_bytes

    def validators(self, source: Source) -> Validators | None:
        """Return the validators for the next fetch; None if some page has none."""
        pages = tuple(page for page in self.page_validators if page is not None)
        is_complete = len(pages) == len(self.page_validators)
        return Validators(fingerprint=fingerprint(source), pages=pages) if is_complete else None


def _locate(error: Exception) -> str:
    """Return the type and the place of an error, but not its message, which may contain a header."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" in {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    return f"{type(error).__name__}{place}"
