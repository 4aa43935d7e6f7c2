"""What runs by itself: rollups are kept up to date, and what is too old goes."""

from __future__ import annotations

from collections.abc import Iterable

from kernel import ConflictError, Job
from kernel.jobs import Run
from plugins.observability.retention.removing import Retention
from plugins.observability.retention.sweeping import Removed
from plugins.observability.rollups.refresh import Refreshed, Rollups

# Neither may run while the other does.
_LOCK = "observability.rollups"
_DAY_S = 86_400.0


def make_jobs(rollups: Rollups, retention: Retention, running_hour_wait_s: float) -> Iterable[Job]:
    """Return ``observability.rollups`` and ``observability.retention``.

    Args:
        rollups: Are refreshed.
        retention: Is applied.
        running_hour_wait_s: See ``Rollups.refresh``.
    """

    def refresh(run: Run) -> Refreshed | None:
        def show(done: int, total: int) -> None:
            run.progress(done, total, "days")

        try:
            return rollups.refresh(running_wait_s=running_hour_wait_s, progress=show)
        except ConflictError as ex:
            # A command does it at the moment.
            run.log.info("rollups_busy", reason=ex.message)
            return None

    def retain(run: Run) -> Removed:
        def show(step: str) -> None:
            run.check()
            run.progress(0, None, step)

        return retention.apply(show)

    return [
        Job(name="observability.rollups", run=refresh, schedule="every 1m", timeout_s=_DAY_S, lock=_LOCK),
        Job(
            name="observability.retention",
            run=retain,
            schedule="20 0 * * *",
            timeout_s=_DAY_S,
            lock=_LOCK,
            retries=3,
            retry_wait_s=60,
        ),
    ]
