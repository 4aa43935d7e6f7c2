"""What became of a refresh: the result of the job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from kernel.datasets import Publication
from plugins.club.fetching.outcome import Fetched, Outcome, SourceFailure
from plugins.club.model import DatasetName, Item
from plugins.club.settings import Source
from plugins.club.store import Content


class SourceReport(msgspec.Struct, frozen=True):
    """What became of a source.

    Args:
        source: Its name.
        dataset: What it is a source of.
        state: ``failed`` keeps what it gave last.
        items: How many good ones count from now on; with a failure, those it gave last.
        rejected: How many others were kept aside.
        ms: How long it took, waits and all.
        reason: Why it failed.
    """

    source: str
    dataset: DatasetName
    state: Literal["fetched", "unchanged", "failed"]
    items: int
    rejected: int
    ms: int
    reason: str | None = None


class DatasetReport(msgspec.Struct, frozen=True):
    """What became of a dataset.

    Args:
        dataset: Its name.
        outcome: ``published`` made a version, ``unchanged`` found nothing new, ``refused`` let the last one serve on.
        version: The one that serves; None before the first.
        items: How many were published, of all sources.
        rejected: How many were kept aside.
        reason: Why it was refused.
    """

    dataset: str
    outcome: Literal["published", "unchanged", "refused"]
    version: int | None
    items: int
    rejected: int
    reason: str | None = None


class RefreshReport(msgspec.Struct, frozen=True):
    """What became of every source and of every dataset that has one."""

    sources: tuple[SourceReport, ...] = ()
    datasets: tuple[DatasetReport, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether any source failed."""
        return any(source.state == "failed" for source in self.sources)


def report_source(outcome: Outcome, source: Source, content: Content[Item] | None) -> SourceReport:
    """Say what became of a source.

    Args:
        outcome: Of fetching it.
        source: Its configuration.
        content: What counts as its own from now on.
    """
    failed = isinstance(outcome, SourceFailure)
    return SourceReport(
        source=outcome.source,
        dataset=source.dataset,
        state="failed" if failed else "fetched" if isinstance(outcome, Fetched) else "unchanged",
        items=0 if content is None else len(content.items),
        rejected=0 if content is None else len(content.rejected),
        ms=outcome.ms,
        reason=outcome.reason if isinstance(outcome, SourceFailure) else None,
    )


def report_datasets(publications: Mapping[str, Publication]) -> tuple[DatasetReport, ...]:
    """Say what became of datasets, by name."""
    return tuple(
        DatasetReport(each.dataset, each.outcome, each.version, each.items, each.rejected, each.reason)
        for _, each in sorted(publications.items())
    )
