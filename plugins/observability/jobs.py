"""The jobs of this plugin: refresh rollups every minute, apply retention every night."""

from __future__ import annotations

from collections.abc import Iterable

from kernel import ConflictError, Job
from kernel.jobs import JobError, Run
from plugins.observability.container import Container
from plugins.observability.retention.apply import RetentionReport
from plugins.observability.rollups.refresh import RefreshError, RefreshReport

# They share a lock: neither may run while the other does.
_LOCK = "observability.rollups"
_TIMEOUT_S = 86_400.0


def make_jobs(container: Container) -> Iterable[Job]:
    """Make ``observability.rollups`` and ``observability.retention``."""

    def refresh_rollups(run: Run) -> RefreshReport | None:
        def report_progress(done: int, total: int) -> None:
            run.progress(done, total, "days")

        wait_s = container.settings.running_hour_wait_s
        try:
            return container.rollups.refresh(running_hour_wait_s=wait_s, progress=report_progress)
        except ConflictError as ex:
            # The command ``refresh`` is running.
            run.log.info("rollups_busy", reason=ex.message)
            return None
        except RefreshError as ex:
            raise JobError(str(ex)) from ex

    def apply_retention(run: Run) -> RetentionReport:
        def report_step(step: str) -> None:
            run.check()
            run.progress(0, None, step)

        try:
            return container.retention.apply(report_step)
        except RefreshError as ex:
            raise JobError(str(ex)) from ex

    return [
        Job(name="observability.rollups", run=refresh_rollups, schedule="every 1m", timeout_s=_TIMEOUT_S, lock=_LOCK),
        Job(
            name="observability.retention",
            run=apply_retention,
            schedule="20 0 * * *",
            timeout_s=_TIMEOUT_S,
            lock=_LOCK,
            retries=3,
            retry_wait_s=60,
        ),
    ]
