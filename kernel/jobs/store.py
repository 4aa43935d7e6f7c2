"""What is stored of jobs: one method for each question or change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg
from psycopg import Connection, sql

from kernel.db.pool import Database
from kernel.db.queries import load_queries
from kernel.jobs.encoding import encode_json
from kernel.jobs.model import JobFigures, JobLogLine, JobRecord, JobState, Progress

QUERIES = load_queries(__package__)
# Workers take jobs from this queue; commands that run a job themselves have one of their own each.
QUEUE = "tiercel"
OWN_QUEUE_PREFIX = "tiercel-here-"
_BEFORE_OTHERS = 1
_QUEUE_STATUS: Mapping[JobState, str] = {"succeeded": "succeeded", "failed": "failed", "cancelled": "aborted"}


class Claim(msgspec.Struct, frozen=True):
    """A job that this process has taken on.

    Args:
        id: Its number.
        name: Which job.
        lock: Held while it runs.
        attempt: The fence: a later attempt makes this claim void.
        failures: Earlier attempts that failed.
        request_id: The request that started it.
        parameters: As given.
    """

    id: int
    name: str
    lock: str
    attempt: int
    failures: int
    request_id: str | None
    parameters: dict[str, Any]


class JobStore:
    """Jobs in the database.

    Args:
        db: The pool of this process.
    """

    def __init__(self, db: Database) -> None:
        self.db = db

    # --- start, look, cancel ----------------------------------------------------------------------------------------

    @contextmanager
    def starting(self, name: str, lock: str) -> Iterator[Connection[Any]]:
        """Open a transaction in which nobody else starts the same job."""
        with self.db.transaction() as connection:
            connection.execute(QUERIES["lock_start"], {"name": name, "lock": lock})
            yield connection

    def find_waiting(self, connection: Connection[Any], name: str, lock: str) -> tuple[int, dict[str, Any]] | None:
        """Return the job of that lock that waits already, with its parameters; keep workers off it."""
        return connection.execute(QUERIES["find_waiting"], {"name": name, "lock": lock}).fetchone()

    def bring_forward(self, connection: Connection[Any], job_id: int, delay_s: float = 0.0) -> None:
        """Make a waiting job due after so many seconds, unless it is so before."""
        if connection.execute(QUERIES["bring_forward"], {"id": job_id, "delay_s": delay_s}).rowcount:
            connection.execute(QUERIES["notify_workers"], {"queue": QUEUE})

    def insert(
        self,
        connection: Connection[Any],
        name: str,
        lock: str,
        parameters: Mapping[str, Any],
        request_id: str | None,
        queue: str = QUEUE,
        delay_s: float = 0.0,
    ) -> int:
        """Queue a job, due after so many seconds; return its number."""
        given = {
            "name": name,
            "lock": lock,
            "parameters": encode_json(parameters),
            "request_id": request_id,
            "queue": queue,
            "delay_s": delay_s,
            "priority": 0 if queue == QUEUE else _BEFORE_OTHERS,
        }
        row = connection.execute(QUERIES["insert_job"], given).fetchone()
        return int(row[0]) if row else 0

    def find(
        self,
        *,
        job_id: int | None = None,
        name: str | None = None,
        state: JobState | None = None,
        lock: str | None = None,
        before: int | None = None,
        after: int | None = None,
        limit: int = 1,
    ) -> list[JobRecord]:
        """Return jobs that fit, latest first: the latest, or with ``after`` the next ones above that number."""
        given = {"id": job_id, "name": name, "state": state, "lock": lock, "before": before, "after": after}
        direction = sql.SQL("DESC" if after is None else "ASC")
        query = sql.SQL(QUERIES["list_jobs"]).format(direction=direction)
        with self.db.connection() as connection:
            found = [_record(row) for row in connection.execute(query, {**given, "limit": limit})]
        return found if after is None else found[::-1]

    def list_lines(self, job_id: int, after: int, limit: int) -> Sequence[JobLogLine]:
        """Return lines of a job's log, earliest first."""
        with self.db.connection() as connection:
            rows = connection.execute(QUERIES["list_lines"], {"id": job_id, "after": after, "limit": limit})
            return [JobLogLine(*row) for row in rows]

    def cancel(self, job_id: int) -> bool:
        """Cancel a waiting job, ask a running one to stop; tell whether it was either."""
        with self.db.transaction() as connection:
            row = connection.execute(QUERIES["lock_queued"], {"id": job_id}).fetchone()
            if row is None or row[0] not in {"todo", "doing"}:
                return False
            connection.execute(QUERIES["cancel_queued"], {"id": job_id})
            if row[0] == "todo":
                connection.execute(QUERIES["cancel_run"], {"id": job_id})
            return True

    # --- a run ------------------------------------------------------------------------------------------------------

    def claim(self, worker: int, queue: str = QUEUE) -> Claim | None:
        """Take on the next job that is due; None if there is none."""
        try:
            with self.db.connection() as connection:
                row = connection.execute(QUERIES["claim"], {"worker": worker, "queue": queue}).fetchone()
        except psycopg.errors.UniqueViolation:
            return None  # somebody took another job of its lock in the same moment
        except psycopg.errors.ForeignKeyViolation:
            self.heartbeat(worker)  # this worker was thought dead, and forgotten
            return None
        return Claim(*row) if row else None

    @contextmanager
    def transaction(self, timeout_s: float) -> Iterator[Connection[Any]]:
        """Open a transaction that may take as long as its job."""
        with self.db.transaction(timeout_s) as connection:
            yield connection

    def fence(self, connection: Connection[Any], claim: Claim) -> bool:
        """Keep a claim valid until this transaction ends; tell whether it was."""
        given = {"id": claim.id, "attempt": claim.attempt}
        return connection.execute(QUERIES["fence"], given).fetchone() is not None

    def mark_committed(self, connection: Connection[Any], claim: Claim, result: Any) -> None:
        """Say that the effect of a run is in the database once this transaction commits."""
        connection.execute(QUERIES["mark_committed"], {"id": claim.id, "result": encode_json(result)})

    def write_progress(self, claim: Claim, progress: Progress) -> bool:
        """Store how far a run is; tell whether the claim is still valid."""
        given = {"id": claim.id, "attempt": claim.attempt, **msgspec.structs.asdict(progress)}
        with self.db.connection() as connection:
            return connection.execute(QUERIES["write_progress"], given).fetchone() is not None

    def write_line(self, claim: Claim, level: str, event: str, fields: Mapping[str, Any]) -> None:
        """Store a line of a run's log."""
        plain = msgspec.to_builtins(fields, str_keys=True, enc_hook=str)
        given = {"id": claim.id, "attempt": claim.attempt, "level": level, "event": event.replace("\x00", "")}
        with self.db.connection() as connection:
            connection.execute(QUERIES["write_line"], {**given, "fields": encode_json(plain)})

    def finish(self, claim: Claim, state: JobState, error: str | None = None, result: Any = None) -> bool:
        """End a run; tell whether it was still this one's to end."""
        with self.db.connection() as connection:
            return self.finish_in(connection, claim.id, claim.attempt, state, error, result)

    def finish_in(
        self,
        connection: Connection[Any],
        job_id: int,
        attempt: int,
        state: JobState,
        error: str | None = None,
        result: Any = None,
    ) -> bool:
        """As ``finish``, on a connection."""
        given = {
            "id": job_id,
            "attempt": attempt,
            "state": state,
            "status": _QUEUE_STATUS[state],
            "error": error and error.replace("\x00", ""),
            "result": encode_json(result),
        }
        return connection.execute(QUERIES["finish"], given).fetchone() is not None

    def end_by_force(self, claim: Claim, error: str) -> None:
        """Fail a run from outside, unless its effect is in the database."""
        self.end_session_of_run(claim.id)
        with self.db.transaction() as connection:
            row = connection.execute(QUERIES["lock_running"], {"id": claim.id, "attempt": claim.attempt}).fetchone()
            if row is not None:
                state: JobState = "succeeded" if row[0] else "failed"
                self.finish_in(connection, claim.id, claim.attempt, state, None if row[0] else error)

    def give_back(
        self, claim: Claim, error: str | None, *, wait_s: float = 0, failures: int = 0, by_force: bool = False
    ) -> None:
        """Let a run be tried again, unless its effect is in the database or it was cancelled meanwhile.

        Args:
            claim: The attempt.
            error: Why.
            wait_s: Until then.
            failures: What it costs of its retries.
            by_force: From outside, while it may be about to commit.
        """
        if by_force:
            self.end_session_of_run(claim.id)
        with self.db.transaction() as connection:
            row = connection.execute(QUERIES["lock_running"], {"id": claim.id, "attempt": claim.attempt}).fetchone()
            if row is None:
                return
            committed, cancelled = row
            if committed or cancelled:
                state: JobState = "succeeded" if committed else "cancelled"
                self.finish_in(connection, claim.id, claim.attempt, state, None if committed else error)
                return
            self.requeue_in(connection, claim.id, claim.attempt, error, wait_s=wait_s, failures=failures)

    def requeue_in(
        self,
        connection: Connection[Any],
        job_id: int,
        attempt: int,
        error: str | None,
        *,
        wait_s: float = 0,
        failures: int = 0,
        deaths: int = 0,
    ) -> None:
        """Let a run be tried again, on a connection."""
        given = {"id": job_id, "attempt": attempt, "wait_s": wait_s, "failures": failures, "deaths": deaths}
        connection.execute(QUERIES["requeue"], {**given, "error": error and error.replace("\x00", "")})
        connection.execute(QUERIES["notify_workers"], {"queue": QUEUE})

    # --- workers ----------------------------------------------------------------------------------------------------

    def heartbeat(self, worker: int) -> None:
        """Say that a worker lives."""
        with self.db.connection() as connection:
            connection.execute(QUERIES["heartbeat"], {"worker": worker})

    def read_wish(self, claim: Claim) -> tuple[bool, bool]:
        """Tell whether a claim is valid, and whether its run should stop."""
        with self.db.connection() as connection:
            row = connection.execute(QUERIES["read_wish"], {"id": claim.id, "attempt": claim.attempt}).fetchone()
        return (bool(row[0]), bool(row[1])) if row else (False, False)

    def unregister(self, worker: int) -> None:
        """Say that a worker ended."""
        with self.db.connection() as connection:
            connection.execute(QUERIES["unregister"], {"worker": worker})

    def end_session_of_run(self, job_id: int) -> None:
        """End the session in which a run is about to commit, if there is one."""
        with self.db.connection() as connection:
            connection.execute(QUERIES["end_session_of_run"], {"id": job_id})

    def delete_old(self, keep_days: int, limit: int = 1000) -> int:
        """Remove jobs that finished long ago, some at a time; return how many."""
        with self.db.connection() as connection:
            return connection.execute(QUERIES["delete_old"], {"keep_days": keep_days, "limit": limit}).rowcount

    def read_figures(self) -> JobFigures:
        """Count jobs."""
        with self.db.connection() as connection:
            return JobFigures(*connection.execute(QUERIES["read_figures"]).fetchone() or (0, 0, 0, 0.0))

    def read_health(self, dead_after_s: float) -> tuple[bool, bool]:
        """Tell whether a worker lives, and whether a job waits."""
        with self.db.connection() as connection:
            row = connection.execute(QUERIES["read_health"], {"dead_after_s": dead_after_s}).fetchone()
        return (bool(row[0]), bool(row[1])) if row else (False, False)


def _record(row: tuple[Any, ...]) -> JobRecord:
    done: float | None = row[7]
    progress = None if done is None else Progress(done, row[8], row[9])
    values = (*row[:7], progress, *row[10:])
    return JobRecord(**dict(zip(JobRecord.__struct_fields__, values, strict=True)))
