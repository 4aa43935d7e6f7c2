"""The job ``club.refresh``: fetch every source, merge their items, and publish the datasets in one transaction."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from psycopg import Connection

from kernel import Job, Services
from kernel.datasets import Publication, report_publications
from kernel.jobs import JobError, JobRecord, Run
from plugins.club.datasets import DATASETS
from plugins.club.fetch.results import Fetched, FetchResult, SourceProgress
from plugins.club.merge import merge_sources
from plugins.club.models import Item
from plugins.club.report import RefreshReport, SourceReport, report_source
from plugins.club.settings import ClubSettings, Source
from plugins.club.store import SourceContent, delete_others, read_contents, save_result

JOB = "club.refresh"
# Recorded as the source of publications.
PUBLISHER = f"job {JOB}"
# Allowed for everything but fetching.
_OVERHEAD_S = 300.0
_MESSAGE_CHARACTERS_MAX = 1000
_URL = re.compile(r"https?://\S+")


class RefreshError(Exception):
    """Every source failed; the current versions stay."""


class RefreshParameters(msgspec.Struct, frozen=True):
    """Parameters of ``club.refresh``.

    Args:
        sources: Only the sources of these names; of the others, the last content counts. All by default.
    """

    sources: tuple[str, ...] = ()


class RefreshJob:
    """Refreshes the datasets from their sources.

    Args:
        services: Settings, database, datasets, clock.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.settings(ClubSettings)

    def job(self) -> Job:
        """Return the job. Without sources it has nothing to do, and no schedule."""
        sources = len(self._settings.sources)
        return Job(
            name=JOB,
            run=self.run,
            schedule=self._settings.schedule if sources else None,
            timeout_s=self._settings.total_timeout_s * sources + _OVERHEAD_S,
            retries=2,
            retry_wait_s=60.0,
        )

    def run(self, run: Run, parameters: RefreshParameters) -> RefreshReport:
        """Fetch and publish.

        Raises:
            JobError: There is no source of a name that the parameters have.
            RefreshError: Every source failed. Nothing is published, and the datasets carry the reason as a warning.
            RunStopped: The run has to stop. Nothing is published.
        """
        sources = self._settings.sources
        if unknown := [name for name in parameters.sources if name not in sources]:
            raise JobError(f"no source is named {', '.join(unknown)}; sources: {', '.join(sources) or 'none'}")
        if not sources:
            run.log.info("no_sources_configured")
            return RefreshReport()
        stored = read_contents(self._services.db, sources)
        wanted = {name: each for name, each in sources.items() if name in (parameters.sources or sources)}
        results = self._fetch(run, wanted, stored)
        contents = _update_contents(stored, results)
        reports = tuple(report_source(result, sources[name], contents.get(name)) for name, result in results.items())
        run.result = RefreshReport(reports)
        publications = self._publish(run, results, contents, reports)
        failed = [report for report in reports if report.state == "failed"]
        for dataset in sorted({report.dataset for report in reports} - publications.keys()):
            publications[dataset] = self._refuse(run, dataset, failed)
        if len(failed) == len(reports):
            raise RefreshError(f"every source failed: {_join_reasons(failed)}")
        return RefreshReport(reports, report_publications(publications))

    def _fetch(
        self, run: Run, sources: Mapping[str, Source], stored: Mapping[str, SourceContent[Item]]
    ) -> dict[str, FetchResult]:
        # Importing httpx takes 0.1 s, which a process that fetches nothing need not spend.
        from plugins.club.fetch.sources import fetch_all

        def should_stop() -> bool:
            run.check()
            return False

        validators = {
            name: content.validators
            for name, content in stored.items()
            if name in sources and content.validators is not None
        }
        return asyncio.run(
            fetch_all(
                sources,
                self._settings,
                validators=validators,
                should_stop=should_stop,
                on_progress=ProgressReporter(run, sources),
                now=self._services.clock.now,
            )
        )

    def _publish(
        self,
        run: Run,
        results: Mapping[str, FetchResult],
        contents: Mapping[str, SourceContent[Item]],
        reports: tuple[SourceReport, ...],
    ) -> dict[str, Publication]:
        """Store the results, and publish every dataset of which a source succeeded, in one transaction."""
        at = self._services.clock.now()

        def save_results(connection: Connection[Any]) -> None:
            for name, result in results.items():
                save_result(connection, self._settings.sources[name], result, at)
            delete_others(connection, self._settings.sources.keys())

        succeeded = {report.dataset for report in reports if report.state != "failed"}
        if not succeeded:
            # Not in run.transaction(), which would mark the run as done: it is to be retried.
            with self._services.db.transaction() as connection:
                run.fence(connection)
                save_results(connection)
            return {}
        merged = {
            dataset: merge_sources(
                {
                    name: contents[name]
                    for name, source in self._settings.sources.items()
                    if source.dataset == dataset.name and name in contents
                }
            )
            for dataset in DATASETS
            if dataset.name in succeeded
        }
        return self._services.datasets.publish(
            {dataset: each.items for dataset, each in merged.items()},
            source=PUBLISHER,
            run=run,
            details={"sources": [msgspec.structs.asdict(report) for report in reports]},
            rejected={dataset: each.rejected for dataset, each in merged.items()},
            on_commit=save_results,
        )

    def _refuse(self, run: Run, dataset: str, failed: list[SourceReport]) -> Publication:
        """Record why a dataset was not published."""
        # The reason is public, as a warning next to the data; the addresses of sources need not be.
        reason = _URL.sub("its address", _join_reasons(report for report in failed if report.dataset == dataset))
        return self._services.datasets.refuse(dataset, reason, source=PUBLISHER, job_id=run.id)


class ProgressReporter:
    """Logs the steps of sources, and reports their progress as that of the run.

    Args:
        run: The run.
        names: Names of all sources.
    """

    def __init__(self, run: Run, names: Collection[str]) -> None:
        self._run = run
        self._latest = {name: SourceProgress(source=name, state="fetching") for name in names}

    def __call__(self, step: SourceProgress) -> None:
        """Handle a step of a source."""
        self._latest[step.source] = step
        fields = {"source": step.source, "ms": step.ms}
        if step.state in {"failed", "retrying"}:
            self._run.log.warning(f"source_{step.state}", reason=step.detail, **fields)
        elif step.state == "fetched":
            self._run.log.info("source_fetched", items=step.items, bytes=step.bytes, **fields)
        elif step.state == "unchanged":
            self._run.log.info("source_unchanged", **fields)
        done = sum(each.state not in {"fetching", "retrying"} for each in self._latest.values())
        message = ", ".join(map(_describe, self._latest.values()))
        self._run.progress(done, len(self._latest), message[:_MESSAGE_CHARACTERS_MAX])


def run_refresh(
    services: Services, on_progress: Callable[[JobRecord], None] | None = None, *, sources: Sequence[str] = ()
) -> RefreshReport:
    """Run the job in this process and return its result.

    Args:
        services: Those of this plugin.
        on_progress: Called with the job's record when its progress changes.
        sources: Only those of these names; all by default.

    Raises:
        ConflictError: A refresh is already running.
        RefreshError: The refresh failed or was cancelled.
    """
    record = services.jobs.run_inline(JOB, RefreshParameters(tuple(sources)), on_progress=on_progress)
    if record.state != "succeeded":
        # The record's error begins with the type of the exception.
        raise RefreshError((record.error or record.state).removeprefix(f"{__name__}.{RefreshError.__name__}: "))
    return msgspec.convert(record.result, RefreshReport)


def _update_contents(
    stored: Mapping[str, SourceContent[Item]], results: Mapping[str, FetchResult]
) -> dict[str, SourceContent[Item]]:
    """Return the contents of sources after a fetch: what was fetched, else what is stored."""
    contents = dict(stored)
    for name, result in results.items():
        if isinstance(result, Fetched):
            contents[name] = SourceContent(result.items, result.rejected, result.validators)
    return contents


def _join_reasons(failed: Iterable[SourceReport]) -> str:
    return "; ".join(f"{report.source}: {report.reason}" for report in failed)


def _describe(step: SourceProgress) -> str:
    return f"{step.source} {step.state}" if step.state != "fetched" else f"{step.source} {step.items:,} items"
