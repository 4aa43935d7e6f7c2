"""The jobs ``trace.refresh`` and ``trace.reconcile``: export from Notion, publish the datasets or record a refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import msgspec
from psycopg import Connection

from kernel import ApiError, Job, Services
from kernel.datasets import Difference, report_publications
from kernel.jobs import JobError, JobRecord, Run, RunStopped
from plugins.trace.notion.errors import NotionError
from plugins.trace.settings import TraceSettings
from plugins.trace.store import delete_moved_pages, delete_other_sources, save_source
from plugins.trace.sync.completeness import ExportReport
from plugins.trace.sync.export import Export, ExportMonitor, read_export

REFRESH = "trace.refresh"
RECONCILE = "trace.reconcile"
_LOCK = "trace"


class RefreshParameters(msgspec.Struct, frozen=True):
    """Parameters of ``trace.refresh``.

    Args:
        full: Read every row, and not only those that have changed.
    """

    full: Annotated[bool, msgspec.Meta(title="Every row")] = False


class ExportJobs:
    """The jobs that export.

    Args:
        services: Of this plugin.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.settings(TraceSettings)

    def jobs(self) -> Iterator[Job]:
        """Return the jobs. They have no schedule while there is no token or no source."""
        settings = self._settings
        limits: dict[str, Any] = {
            "soft_timeout_s": settings.total_timeout_s,
            "timeout_s": settings.total_timeout_s + 60.0,
            "lock": _LOCK,
            "retries": 2,
            "retry_wait_s": 60.0,
        }
        schedule = settings.schedule if settings.is_active else None
        full_schedule = settings.full_schedule if settings.is_active else None
        yield Job(name=REFRESH, run=self.refresh, schedule=schedule, **limits)
        yield Job(name=RECONCILE, run=self.reconcile, schedule=full_schedule, **limits)

    def reconcile(self, run: Run) -> ExportReport:
        """Export every row."""
        return self.refresh(run, RefreshParameters(full=True))

    def refresh(self, run: Run, parameters: RefreshParameters) -> ExportReport:
        """Export and publish; if the export is refused, keep the last versions and record the reason with them.

        Raises:
            JobError: The export was refused.
            RunStopped: The run has to stop. Nothing is published.
        """
        if not self._settings.is_active:
            run.log.info("nothing_to_read")
            return ExportReport()
        monitor = ExportMonitor(
            check=run.check,
            progress=lambda rows, message: run.progress(rows, None, message),
            warn=lambda reason: run.log.warning("notion_retrying", reason=reason),
        )
        try:
            return self._publish(run, read_export(self._services, monitor, full=parameters.full))
        except NotionError as ex:
            self._record_refusal(run, ex.reason)
            raise JobError(ex.reason, retry=ex.retry) from None
        except RunStopped as ex:
            if ex.reason == "soft timeout":
                self._record_refusal(run, f"the export took longer than {self._settings.total_timeout_s:g} s")
            raise
        except ApiError:
            # Raised by the kernel: the database is unavailable, so nothing can be recorded.
            raise
        except Exception as ex:
            if not run.committed:
                self._record_refusal(run, f"the export failed: {type(ex).__name__}; see the log of job {run.id}")
            raise

    def _record_refusal(self, run: Run, reason: str) -> None:
        for dataset in self._settings.datasets:
            self._services.datasets.refuse(dataset.name, reason, source=f"job {run.name}", job_id=run.id)

    def _publish(self, run: Run, export: Export) -> ExportReport:
        """Publish all datasets and store the state of their sources in one transaction."""

        def save_state(connection: Connection[Any]) -> None:
            for dataset, state in export.states.items():
                save_source(connection, dataset.name, state)
            delete_other_sources(connection, self._settings.sources.keys())
            delete_moved_pages(connection, export.moved)

        run.result = export.report
        published = self._services.datasets.publish(
            {dataset: each.items for dataset, each in export.items.items()},
            source=f"job {run.name}",
            run=run,
            details=export.report,
            rejected={dataset: each.rejected for dataset, each in export.items.items()},
            on_commit=save_state,
        )
        return msgspec.structs.replace(export.report, datasets=report_publications(published))


class ExportError(Exception):
    """An export was refused; the last good versions are still served."""


def run_export(
    services: Services, *, full: bool = False, on_progress: Callable[[JobRecord], None] | None = None
) -> ExportReport:
    """Run ``trace.refresh`` in this process and return its report.

    Args:
        services: Of this plugin.
        full: Read every row, and not only those that have changed.
        on_progress: Called with the job's record as it progresses.

    Raises:
        ConflictError: Another export is running.
        ExportError: The export was refused.
    """
    record = services.jobs.run_inline(REFRESH, RefreshParameters(full), on_progress=on_progress)
    if record.state != "succeeded":
        raise ExportError(record.error or record.state)
    return msgspec.convert(record.result, ExportReport)


class ExportPreview(msgspec.Struct, frozen=True, rename={"report": "certificate"}):
    """What an export would change.

    Args:
        report: What was read.
        differences: Between each dataset as it would be published and its current version.
    """

    report: ExportReport
    differences: tuple[Difference, ...]


def preview_export(services: Services, monitor: ExportMonitor) -> ExportPreview:
    """Read every row, and neither publish nor store anything.

    Args:
        services: Of this plugin.
        monitor: Follows the export.

    Raises:
        ExportError: The export would be refused.
    """
    try:
        export = read_export(services, monitor, full=True)
    except NotionError as ex:
        raise ExportError(ex.reason) from None
    differences = [services.datasets.preview(dataset, each.items) for dataset, each in export.items.items()]
    return ExportPreview(export.report, tuple(differences))
