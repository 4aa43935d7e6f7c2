"""The jobs ``trace.refresh`` and ``trace.reconcile``: read Notion, prove that it is all, publish it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from psycopg import Connection

from kernel import ApiError, Job, Services
from kernel.datasets import Difference, Publication
from kernel.jobs import JobError, JobRecord, Run, RunStopped
from plugins.trace.export.exporting import Exported, Watcher, exported_datasets, read_all
from plugins.trace.export.model import Certificate, DatasetReport
from plugins.trace.notion.errors import NotionError
from plugins.trace.settings import TraceSettings
from plugins.trace.store import delete_moved, delete_others, save_source

REFRESH = "trace.refresh"
RECONCILE = "trace.reconcile"
_LOCK = "trace"


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
        """Read and publish; or leave what serves alone, and have the datasets say why.

        Raises:
            JobError: It was refused.
            RunStopped: The run has to end. Nothing is published.
        """
        if not self._settings.is_active:
            run.log.info("nothing_to_read")
            return Certificate()
        watcher = Watcher(
            run.check,
            lambda rows, message: run.progress(rows, None, message),
            lambda reason: run.log.warning("notion_retrying", reason=reason),
        )
        try:
            return self._publish(run, read_all(self._services, watcher, full=parameters.full))
        except NotionError as ex:
            self._refuse(run, ex.reason)
            raise JobError(ex.reason, retry=ex.retry) from None
        except RunStopped as ex:
            if ex.reason == "soft timeout":
                self._refuse(run, f"it was not through after {self._settings.total_timeout_s:g} s")
            raise
        except ApiError:
            # Our own: the database is away, and nothing can be stored.
            raise
        except Exception as ex:
            if not run.committed:
                self._refuse(run, f"it failed: {type(ex).__name__}; the log of job {run.id} says where")
            raise

    def _refuse(self, run: Run, reason: str) -> None:
        for dataset in exported_datasets(self._settings):
            self._services.datasets.refuse(dataset.name, reason, source=f"job {run.name}", job_id=run.id)

    def _publish(self, run: Run, exported: Exported) -> Certificate:
        def save(connection: Connection[Any]) -> None:
            for dataset, kept in exported.kept.items():
                save_source(connection, dataset.name, kept)
            delete_others(connection, self._settings.sources.keys())
            delete_moved(connection, exported.moved)

        run.result = exported.certificate
        published = self._services.datasets.publish(
            {dataset: each.items for dataset, each in exported.linked.items()},
            source=f"job {run.name}",
            run=run,
            details=exported.certificate,
            rejected={dataset: each.rejected for dataset, each in exported.linked.items()},
            on_commit=save,
        )
        return msgspec.structs.replace(exported.certificate, datasets=_reports(published))


def _reports(published: Mapping[str, Publication]) -> tuple[DatasetReport, ...]:
    return tuple(
        DatasetReport(each.dataset, each.outcome, each.version, each.items, each.rejected, each.reason)
        for _, each in sorted(published.items())
    )


class ExportError(Exception):
    """An export was refused; what serves serves on."""


def run_export(
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


class Preview(msgspec.Struct, frozen=True):
    """What an export would change.

    Args:
        certificate: What was read.
        differences: To what serves, of each dataset.
    """

    certificate: Certificate
    differences: tuple[Difference, ...]


def preview(services: Services, watcher: Watcher) -> Preview:
    """Read every row, and publish and store nothing.

    Args:
        services: Of this plugin.
        watcher: Hears of progress.

    Raises:
        ExportError: It would be refused.
    """
    try:
        exported = read_all(services, watcher, full=True)
    except NotionError as ex:
        raise ExportError(ex.reason) from None
    found = {dataset: services.datasets.preview(dataset, each.items) for dataset, each in exported.linked.items()}
    return Preview(exported.certificate, tuple(found.values()))
