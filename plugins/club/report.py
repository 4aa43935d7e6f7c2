"""The result of ``club.refresh``: what happened to each source and each dataset."""

from __future__ import annotations

from typing import Literal

import msgspec

from kernel.datasets import DatasetReport
from plugins.club.fetch.results import Fetched, FetchResult, SourceFailure
from plugins.club.models import DatasetName, Item
from plugins.club.settings import Source
from plugins.club.store import SourceContent


class SourceReport(msgspec.Struct, frozen=True):
    """What happened to a source.

    Args:
        source: Its name.
        dataset: The dataset it belongs to.
        state: ``fetched``; ``unchanged`` if the source answered 304; ``failed`` keeps the last content.
        items: Number of valid items that count from now on; after a failure, those of the last content.
        rejected: Number of invalid items, likewise.
        ms: Duration in milliseconds, waits included.
        reason: Why it failed.
    """

    source: str
    dataset: DatasetName
    state: Literal["fetched", "unchanged", "failed"]
    items: int
    rejected: int
    ms: int
    reason: str | None = None


class RefreshReport(msgspec.Struct, frozen=True):
    """What happened to every source, and to every dataset that has sources."""

    sources: tuple[SourceReport, ...] = ()
    datasets: tuple[DatasetReport, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether any source failed."""
        return any(source.state == "failed" for source in self.sources)


def report_source(result: FetchResult, source: Source, content: SourceContent[Item] | None) -> SourceReport:
    """Report what happened to a source.

    Args:
        result: The result of fetching it.
        source: Its configuration.
        content: Its content after the fetch; None if it was never fetched successfully.
    """
    failed = isinstance(result, SourceFailure)
    return SourceReport(
        source=result.source,
        dataset=source.dataset,
        state="failed" if failed else "fetched" if isinstance(result, Fetched) else "unchanged",
        items=0 if content is None else len(content.items),
        rejected=0 if content is None else len(content.rejected),
        ms=result.ms,
        reason=result.reason if isinstance(result, SourceFailure) else None,
    )
