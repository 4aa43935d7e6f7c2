"""The job ``club.refresh``: fetch every source, and publish what they say together."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from psycopg import Connection

from kernel import Job, Services
from kernel.datasets import Publication
from kernel.jobs import Run
from plugins.club.datasets import DATASETS
from plugins.club.fetching.outcome import Fetched, Outcome, SourceProgress
from plugins.club.model import Item
from plugins.club.report import RefreshReport, SourceReport, report_datasets, report_source
from plugins.club.settings import ClubSettings
from plugins.club.store import Content, delete_others, read_contents, save_outcome
from plugins.club.union import unite

JOB = "club.refresh"
ORIGIN = f"job {JOB}"
# On top of what the sources may take one after the other.
_OWN_TIME_S = 300.0
_MESSAGE_CHARACTERS_MAX = 1000
_URL = re.compile(r"https?://\S+")


class RefreshError(Exception):
    """Every source failed; what serves serves on."""


class Refresh:
    """Runs refreshes.

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
            timeout_s=self._settings.total_timeout_s * sources + _OWN_TIME_S,
            retries=2,
            retry_wait_s=60.0,
        )

    def run(self, run: Run) -> RefreshReport:
        """Fetch and publish.

        Raises:
            RefreshError: Every source failed. Nothing is published, and the datasets say why.
            RunStopped: The run has to end. Nothing is published.
        """
        sources = self._settings.sources
        if not sources:
            run.log.info("no_sources_configured")
            return RefreshReport()
        kept = read_contents(self._services.db, sources)
        outcomes = self._fetch(run, kept)
        contents = _contents(outcomes, kept)
        reports = tuple(report_source(outcome, sources[name], contents.get(name)) for name, outcome in outcomes.items())
        run.result = RefreshReport(reports)
        publications = self._publish(run, outcomes, contents, reports)
        failures = _failures(reports)
        for dataset in sorted({each.dataset for each in reports} - publications.keys()):
            # Everybody reads this beside the data, and where a source is may be nobody's business.
            told = (
                _URL.sub("its address", text) for name, text in failures.items() if sources[name].dataset == dataset
            )
            reason = "; ".join(told)
            refused = self._services.datasets.refuse(dataset, reason, source=ORIGIN, job_id=run.id)
            publications[dataset] = refused
        if len(failures) == len(reports):
            raise RefreshError(f"every source failed: {'; '.join(failures.values())}")
        return RefreshReport(reports, report_datasets(publications))

    def _fetch(self, run: Run, kept: Mapping[str, Content[Item]]) -> dict[str, Outcome]:
        # Imported where it is needed: httpx takes a tenth of a second, which a process that fetches nothing need not
        # pay.
        from plugins.club.fetching.fetch import fetch_all

        def should_stop() -> bool:
            run.check()
            return False

        sources = self._settings.sources
        validators = {name: content.validators for name, content in kept.items() if content.validators is not None}
        return asyncio.run(
            fetch_all(
                sources,
                self._settings,
                validators=validators,
                should_stop=should_stop,
                on_progress=Steps(run, tuple(sources)),
                now=self._services.clock.now,
            )
        )

    def _publish(
        self,
        run: Run,
        outcomes: Mapping[str, Outcome],
        contents: Mapping[str, Content[Item]],
        reports: tuple[SourceReport, ...],
    ) -> dict[str, Publication]:
        """Store what became of the sources, and publish the datasets of which at least one answered, all at once."""
        at = self._services.clock.now()

        def save(connection: Connection[Any]) -> None:
            for name, outcome in outcomes.items():
                save_outcome(connection, self._settings.sources[name], outcome, at)
            delete_others(connection, outcomes.keys())

        answered = {report.dataset for report in reports if report.state != "failed"}
        if not answered:
            # Not the run's own transaction, which would make this its effect: it is to be tried again.
            with self._services.db.transaction() as connection:
                run.fence(connection)
                save(connection)
            return {}
        unions = {
            dataset: unite(
                {each.source: contents[each.source] for each in reports if _is_part(each, dataset.name, contents)}
            )
            for dataset in DATASETS
            if dataset.name in answered
        }
        return self._services.datasets.publish(
            {dataset: union.items for dataset, union in unions.items()},
            source=ORIGIN,
            run=run,
            details={"sources": [msgspec.structs.asdict(each) for each in reports]},
            rejected={dataset: union.rejected for dataset, union in unions.items()},
            on_commit=save,
        )


class Steps:
    """Tells the run of every step of every source.

    Args:
        run: Hears of them.
        names: Every source.
    """

    def __init__(self, run: Run, names: tuple[str, ...]) -> None:
        self._run = run
        self._latest = {name: SourceProgress(source=name, state="fetching") for name in names}

    def __call__(self, step: SourceProgress) -> None:
        """Take a step."""
        self._latest[step.source] = step
        given = {"source": step.source, "ms": step.ms}
        if step.state in {"failed", "retrying"}:
            self._run.log.warning(f"source_{step.state}", reason=step.detail, **given)
        elif step.state == "fetched":
            self._run.log.info("source_fetched", items=step.items, bytes=step.bytes, **given)
        elif step.state == "unchanged":
            self._run.log.info("source_unchanged", **given)
        done = sum(each.state not in {"fetching", "retrying"} for each in self._latest.values())
        message = ", ".join(map(_describe, self._latest.values()))
        self._run.progress(done, len(self._latest), message[:_MESSAGE_CHARACTERS_MAX])


def _contents(outcomes: Mapping[str, Outcome], kept: Mapping[str, Content[Item]]) -> dict[str, Content[Item]]:
    """Return what counts as the sources' own from now on: what came, or what they gave last."""
    contents = dict(kept)
    for name, outcome in outcomes.items():
        if isinstance(outcome, Fetched):
            contents[name] = Content(outcome.items, outcome.rejected, outcome.validators)
    return contents


def _is_part(report: SourceReport, dataset: str, contents: Mapping[str, Content[Item]]) -> bool:
    return report.dataset == dataset and report.source in contents


def _failures(reports: tuple[SourceReport, ...]) -> dict[str, str]:
    return {each.source: f"{each.source}: {each.reason}" for each in reports if each.state == "failed"}


def _describe(step: SourceProgress) -> str:
    return f"{step.source} {step.state}" if step.state != "fetched" else f"{step.source} {step.items:,} items"


def export(services: Services, on_progress: Callable[[Any], None] | None = None) -> RefreshReport:
    """Run the job in this process and return what became of it.

    Args:
        services: Of this plugin.
        on_progress: Called with the job's record when it says how far it is.

    Raises:
        ConflictError: A refresh is running already.
        RefreshError: It failed.
    """
    record = services.jobs.run_here(JOB, on_progress=on_progress)
    if record.state != "succeeded":
        # The record names the kind of the error as well, which says nothing here.
        raise RefreshError((record.error or record.state).removeprefix(f"{__name__}.{RefreshError.__name__}: "))
    return msgspec.convert(record.result, RefreshReport)
