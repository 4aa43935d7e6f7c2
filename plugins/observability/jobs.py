"""The jobs of this plugin: rollups are refreshed, and retention is applied."""

from __future__ import annotations

from collections.abc import Iterable

from kernel import ConflictError, Job
from kernel.jobs import Run
from plugins.observability.retention.apply import Retention, RetentionReport
from plugins.observability.rollups.refresh import RefreshReport, Rollups

# Neither may run while the other does.
_LOCK = "observability.rollups"
_TIMEOUT_S = 86_400.0


def make_jobs(rollups: Rollups, retention: Retention, running_hour_wait_s: float) -> Iterable[Job]:
    """Return ``observability.rollups`` and ``observability.retention``.

    Args:
        rollups: What the first refreshes.
        retention: What the second applies.
        running_hour_wait_s: See ``Rollups.refresh``.
    """

    def refresh(run: Run) -> RefreshReport | None:
        def report_progress(done: int, total: int) -> None:
            run.progress(done, total, "days")

        try:
            return rollups.refresh(running_hour_wait_s=running_hour_wait_s, progress=report_progress)
        except ConflictError as ex:
            # The command ``refresh`` runs at the moment.
            run.log.info("rollups_busy", reason=ex.message)
            return None

    def apply_retention(run: Run) -> RetentionReport:
        def report_step(step: str) -> None:
            run.check()
            run.progress(0, None, step)

        return retention.apply(report_step)

    return [
        Job(name="observability.rollups", run=refresh, schedule="every 1m", timeout_s=_TIMEOUT_S, lock=_LOCK),
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
