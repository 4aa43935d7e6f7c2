"""The job of this plugin: remove what was deleted, every night."""

from __future__ import annotations

from collections.abc import Iterable

from kernel import Job
from kernel.jobs import Run
from plugins.accounts.container import Container
from plugins.accounts.purge import PurgeReport


def make_jobs(container: Container) -> Iterable[Job]:
    """Make ``accounts.purge``."""

    def purge(run: Run) -> PurgeReport:
        return container.purge.apply(run.check)

    return [Job(name="accounts.purge", run=purge, schedule="50 0 * * *", retries=3, retry_wait_s=60)]
