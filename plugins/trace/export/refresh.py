"""The jobs ``trace.refresh`` and ``trace.reconcile``: read Notion, prove that it is all, publish it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from psycopg import Connection

from kernel import Dataset, Job, JobRecord, Publication, Run, Services
from plugins.trace.datasets import DATASETS
from plugins.trace.export.linking import Linked, Linker
from plugins.trace.export.model import Certificate, DatasetReport
from plugins.trace.export.reading import Reading, SourceReader
from plugins.trace.notion.errors import NotionError
from plugins.trace.settings import TraceSettings
from plugins.trace.store import delete_others, find_source, save_source

REFRESH = "trace.refresh"
RECONCILE = "trace.reconcile"
_LOCK = "trace"
_WAIT_STEP_S = 0.5


class RefreshParameters(msgspec.Struct, frozen=True):
    """What to read.

    Args:
        full: Every row, and not only those that have changed.
    """

    full: bool = False


class Refresh:
    """Runs exports.

    Args:
        services: Settings, database, datasets, clock.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.settings(TraceSettings)

    def jobs(self) -> Iterator[Job]:
        """Return the jobs. Without token or sources they have nothing to do, and no schedule."""
        settings = self._settings
        limits: dict[str, Any] = {
            "soft_timeout_s": settings.total_timeout_s,
            "timeout_s": settings.total_timeout_s + 60.0,
            "lock": _LOCK,
            "retries": 2,
            "retry_wait_s": 60.0,
        }
        changes = settings.schedule if settings.is_active else None
        everything = settings.full_schedule if settings.is_active else None
        yield Job(name=REFRESH, run=self.run, parameters=RefreshParameters, schedule=changes, **limits)
        yield Job(name=RECONCILE, run=self.reconcile, schedule=everything, **limits)

    def reconcile(self, run: Run) -> Certificate:
        """Read every row."""
        return self.run(run, RefreshParameters(full=True))

    def run(self, run: Run, parameters: RefreshParameters) -> Certificate:
        """Read and publish.

        Raises:
            NotionError: It cannot be read whole, or relations do not close. Nothing is published.
            RunStopped: The run has to end. Nothing is published.
        """
        if not self._settings.is_active:
            run.log.info("nothing_to_read")
            return Certificate()
        datasets = [each for each in DATASETS if each.name in self._settings.sources]
        try:
            export = _Export(self._services, run, datasets)
            readings, linked = export.read(full=parameters.full)
        except NotionError as ex:
            for dataset in datasets:
                self._services.datasets.refuse(dataset.name, ex.reason, source=f"job {run.name}", job_id=run.id)
            raise
        return self._publish(run, readings, linked, export.certificate(readings, linked))

    def _publish(
        self,
        run: Run,
        readings: Mapping[Dataset, Reading],
        linked: Mapping[Dataset, Linked],
        certificate: Certificate,
    ) -> Certificate:
        def save(connection: Connection[Any]) -> None:
            for dataset, reading in readings.items():
                save_source(connection, dataset.name, reading.kept)
            delete_others(connection, self._settings.sources.keys())

        run.result = certificate
        published = self._services.datasets.publish(
            {dataset: each.items for dataset, each in linked.items()},
            source=f"job {run.name}",
            run=_Together(run, save),
            details=certificate,
            rejected={dataset: each.rejected for dataset, each in linked.items()},
        )
        return msgspec.structs.replace(certificate, datasets=_reports(published))


class _Export:
    """One export: everything that is read."""

    def __init__(self, services: Services, run: Run, datasets: list[Dataset]) -> None:
        self._services = services
        self._settings = services.settings(TraceSettings)
        self._run = run
        self._datasets = datasets
        self._started_s = time.monotonic()
        # Imported where it is needed: it takes a tenth of a second, which a process that reads nothing need not pay.
        from plugins.trace.notion.connect import connect

        self._api = connect(services, self._wait, self._retrying)

    def read(self, *, full: bool) -> tuple[Mapping[Dataset, Reading], Mapping[Dataset, Linked]]:
        try:
            readings = {dataset: self._read(dataset, full=full) for dataset in self._datasets}
            linker = Linker({dataset: each.kept.rows for dataset, each in readings.items()}, self._api.is_trashed)
            return readings, {dataset: linker.link(dataset) for dataset in readings}
        finally:
            self._api.close()

    def certificate(self, readings: Mapping[Dataset, Reading], linked: Mapping[Dataset, Linked]) -> Certificate:
        sources = tuple(
            msgspec.structs.replace(each.report, links=linked[dataset].links, unlinked=linked[dataset].unlinked)
            for dataset, each in readings.items()
        )
        duration_s = round(time.monotonic() - self._started_s, 3)
        return Certificate(sources, (), self._api.requests, self._api.received_bytes, duration_s)

    def _read(self, dataset: Dataset, *, full: bool) -> Reading:
        reader = SourceReader(
            self._api,
            dataset,
            self._settings.sources[dataset.name],  # type: ignore[index]
            list(self._settings.sources),
            find_source(self._services.db, dataset.name),
            self._progress,
        )
        return reader.read(full=full)

    def _progress(self, title: str, rows: int) -> None:
        self._run.progress(rows, None, f"{title}: {rows:,} rows")

    def _retrying(self, reason: str) -> None:
        self._run.log.warning("notion_retrying", reason=reason)

    def _wait(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            self._run.check()
            time.sleep(min(left_s, _WAIT_STEP_S))
        self._run.check()


class _Together:
    """The transaction of a run, in which something else is stored as well.

    Args:
        run: Whose transaction.
        save: Stores it.
    """

    def __init__(self, run: Run, save: Callable[[Connection[Any]], None]) -> None:
        self.id = run.id
        self._run = run
        self._save = save

    @contextmanager
    def transaction(self) -> Iterator[Connection[Any]]:
        with self._run.transaction() as connection:
            self._save(connection)
            yield connection


def _reports(published: Mapping[str, Publication]) -> tuple[DatasetReport, ...]:
    return tuple(
        DatasetReport(each.dataset, each.outcome, each.version, each.items, each.rejected, each.reason)
        for _, each in sorted(published.items())
    )


class ExportError(Exception):
    """An export was refused; what serves serves on."""


def export(
    services: Services, *, full: bool = False, on_progress: Callable[[JobRecord], None] | None = None
) -> Certificate:
    """Run the job in this process and return what became of it.

    Args:
        services: Of this plugin.
        full: Every row, and not only those that have changed.
        on_progress: Called with the job's record when it says how far it is.

    Raises:
        ConflictError: An export is running already.
        ExportError: It was refused.
    """
    record = services.jobs.run_here(REFRESH, RefreshParameters(full), on_progress=on_progress)
    if record.state != "succeeded":
        raise ExportError(record.error or record.state)
    return msgspec.convert(record.result, Certificate)
