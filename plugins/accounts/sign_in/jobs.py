"""The jobs that send mail, and remove what is over."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import msgspec

from kernel import Job, Services, acting_as, load_queries
from plugins.accounts.container import Container
from plugins.accounts.sign_in.reset import JOB as RESET_JOB

QUERIES = load_queries(__package__)
TIDY_JOB = "accounts.tidy"
# How long a session is kept that is over, so that its client is told why.
_KEPT = timedelta(days=7)


class Removed(msgspec.Struct, frozen=True):
    """What was removed.

    Args:
        sessions: Sessions that ended more than a week ago.
        resets: Tokens that have expired.
    """

    sessions: int
    resets: int


def make_jobs(container: Container, services: Services) -> Iterable[Job]:
    """Make the jobs."""

    def tidy() -> Removed:
        container.attempts.tidy()
        now = services.clock.now()
        with acting_as(None), services.db.connection() as connection:
            sessions = connection.execute(QUERIES["delete_old_sessions"], {"before": now - _KEPT}).rowcount
            resets = connection.execute(QUERIES["delete_old_resets"], {"now": now}).rowcount
        return Removed(sessions, resets)

    return [
        Job(
            name=RESET_JOB,
            run=container.resets.send,
            lock=f"{RESET_JOB}-{{email}}",
            timeout_s=120.0,
            retries=3,
            retry_wait_s=30.0,
        ),
        Job(name=TIDY_JOB, run=tidy, schedule="17 * * * *"),
    ]
