"""Jobs in the database: one method for each query.

A job is one row of ``tiercel.job_run``, from the moment it is queued until it is removed: waiting, running, then
succeeded, failed or cancelled. The query ``claim`` decides which job a worker runs next, and the index ``job_run_lock``
keeps two jobs with one lock from running at the same time.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Literal, Unpack

import msgspec
import psycopg
from psycopg import Connection, sql
from psycopg.types.json import Jsonb

from kernel.conversion import strip_nul
from kernel.db.pool import Database
from kernel.db.queries import load_queries
from kernel.identity import SYSTEM_ACCOUNT, current_identity
from kernel.jobs.models import LATEST_FIRST, JobFigures, JobLogLine, JobRecord, JobSelection, Progress
from kernel.jobs.owner import Owner
from kernel.notifications import notify
from kernel.tracking import current_tracker

QUERIES = load_queries(__package__)
# Workers listen here: for a job that may be due, and for a running one that should stop.
CHANNEL = "tiercel_jobs"
QUEUED, CANCELLED = "queued", "cancelled"
# Claims that lost a lock to another worker, until the next poll.
_CLAIM_ATTEMPTS = 3
# Of the jobs that match the other conditions, so many are searched, or put into another order than that of their ids.
_LATEST_RUNS = 10_000
# Rows in a round trip while a page is read.
_PAGE_FETCH_ROWS = 10

FinalState = Literal["succeeded", "failed", "cancelled"]


class Claim(msgspec.Struct, frozen=True):
    """A job that a worker has begun to run.

    Args:
        id: Of the job.
        name: Which job.
        lock: Held while it runs.
        attempt: The fence: a later attempt makes this claim void.
        failures: Earlier attempts that cost a retry.
        request_id: The request that started it.
        parameters: As given.
        account: The account that it runs for.
        sites: The sites of the account that it is limited to; None for all.
        started_by: The identity that started it, as plain data.
        traceparent: The span of the request that started it; see ``kernel.tracing``.
    """

    id: int
    name: str
    lock: str
    attempt: int
    failures: int
    request_id: str | None
    parameters: dict[str, Any]
    account: int = SYSTEM_ACCOUNT
    sites: list[int] | None = None
    started_by: dict[str, Any] | None = None
    traceparent: str | None = None


class JobHealth(msgspec.Struct, frozen=True):
    """What the health of the jobs depends on.

    Args:
        has_worker: Whether a worker is alive.
        has_waiting: Whether a job waits.
        failing: By name of a job whose last run failed, the id of that run. A run that was cancelled does not count,
            nor does one that is to be retried.
    """

    has_worker: bool
    has_waiting: bool
    failing: Mapping[str, int]


class JobMeasures(msgspec.Struct, frozen=True):
    """What is measured of all jobs.

    Args:
        counts: Jobs that wait, run, or have failed within the last day, by name and state.
        oldest_waiting_s: For how long the job that is due for longest has been waiting; 0 if none is due.
        workers: Workers that are alive.
        schedules: By name of a job, the text of its schedule, and when it was due last.
    """

    counts: Mapping[tuple[str, str], int]
    oldest_waiting_s: float
    workers: int
    schedules: Mapping[str, tuple[str, datetime]]


class JobStore:
    """Jobs in the database.

    Args:
        db: The pool of this process.
    """

    def __init__(self, db: Database) -> None:
        self.db = db

    # --- queue, list, cancel ----------------------------------------------------------------------------------------

    @contextmanager
    def enqueueing(self, name: str, lock: str) -> Iterator[Connection[Any]]:
        """Open a transaction in which no other process enqueues the same job."""
        with self.db.transaction() as connection:
            connection.execute(QUERIES["lock_enqueue"], {"name": name, "lock": lock})
            yield connection

    def find_waiting(
        self, connection: Connection[Any], name: str, lock: str, owner: Owner
    ) -> tuple[int, dict[str, Any]] | None:
        """Return the job of that lock that waits already, with its parameters; keep workers from claiming it.

        The name of the lock has the account. A job that may see less or more than the owner's is another one.
        """
        rows = connection.execute(QUERIES["find_waiting"], {"name": name, "lock": lock}).fetchall()
        return next(((job_id, raw) for job_id, raw, by in rows if owner.has_reach_of(by)), None)

    def bring_forward(self, connection: Connection[Any], job_id: int, delay_s: float) -> None:
        """Make a waiting job due after so many seconds, unless it is due before."""
        if connection.execute(QUERIES["bring_forward"], {"id": job_id, "delay_s": delay_s}).rowcount:
            notify(connection, CHANNEL, QUEUED)

    def insert_waiting(
        self,
        connection: Connection[Any],
        name: str,
        lock: str,
        parameters: Mapping[str, Any],
        request_id: str | None,
        owner: Owner,
        delay_s: float = 0.0,
        *,
        is_scheduled: bool = False,
    ) -> int:
        """Queue a job, due after so many seconds; return its id."""
        given = _new_job(name, lock, parameters, request_id, owner)
        timing = {"delay_s": delay_s, "is_scheduled": is_scheduled}
        row = connection.execute(QUERIES["insert_waiting"], {**given, **timing}).fetchone()
        notify(connection, CHANNEL, QUEUED)
        return int(row[0]) if row else 0

    def insert_running(
        self, worker: int, name: str, lock: str, parameters: dict[str, Any], request_id: str | None, owner: Owner
    ) -> Claim | None:
        """Begin a job that was not queued; None, and a record that is cancelled, if its lock is held."""
        given = _new_job(name, lock, parameters, request_id, owner)
        with self.db.transaction() as connection:
            row = connection.execute(QUERIES["insert_running"], {**given, "worker": worker}).fetchone()
            if row is None:
                connection.execute(QUERIES["insert_cancelled"], given)
                return None
        columns = {**owner.to_columns(), "traceparent": given["traceparent"]}
        return Claim(int(row[0]), name, lock, 1, 0, request_id, parameters, **columns)

    def find(self, job_id: int | None = None, *, limit: int = 1, **selection: Unpack[JobSelection]) -> list[JobRecord]:
        """Return jobs. A request finds those of its account only, as in all of these methods.

        Args:
            job_id: Only this one.
            limit: How many.
            selection: Which, and in which order.
        """
        query, given = _list_query(job_id, limit, selection)
        with self._reading(selection) as connection:
            found = [_record(row) for row in connection.execute(query, given)]
        return found[::-1] if selection.get("backwards") else found

    def find_page(
        self, page_size: int, max_bytes: int, **selection: Unpack[JobSelection]
    ) -> tuple[list[JobRecord], int]:
        """Return the jobs of a page and the one beyond it, and how many the page has.

        Args:
            page_size: The most jobs of a page.
            max_bytes: The page ends where parameters, results and errors would be longer. It has one job at least.
            selection: Which, and in which order.
        """
        query, given = _list_query(None, page_size + 1, selection)
        found: list[JobRecord] = []
        size_bytes = 0
        # A client-side cursor would fetch all rows at once, however long they are.
        with self._reading(selection) as connection, connection.cursor(name="jobs") as cursor:
            cursor.itersize = _PAGE_FETCH_ROWS
            for row in cursor.execute(query, given):
                record = _record(row)
                found.append(record)
                size_bytes += _size_bytes(record)
                if size_bytes > max_bytes and len(found) > 1:
                    page_size = min(page_size, len(found) - 1)
                    break
        return (found[::-1] if selection.get("backwards") else found), page_size

    @contextmanager
    def _reading(self, selection: JobSelection) -> Iterator[Connection[Any]]:
        with self.db.transaction() as connection:
            if not _has_index(selection):
                connection.execute(QUERIES["prefer_indexes"])
            yield connection

    def list_log_lines(self, job_id: int, after: int, limit: int, *, latest: bool = False) -> Sequence[JobLogLine]:
        """Return lines of a job's log, earliest first: the first ones, or the latest ones."""
        of_account, account = _of_current_account()
        direction = sql.SQL("DESC" if latest else "ASC")
        query = sql.SQL(QUERIES["list_log_lines"]).format(of_account=of_account, direction=direction)
        with self.db.connection() as connection:
            rows = connection.execute(query, {"id": job_id, "after": after, "limit": limit, **account})
            lines = [JobLogLine(*row) for row in rows]
        return lines[::-1] if latest else lines

    def list_schedules(self) -> Mapping[str, tuple[str, datetime]]:
        """Return by name of a job the text of its schedule, and when it was due last, as workers recorded it."""
        with self.db.connection() as connection:
            rows = connection.execute(QUERIES["list_schedules"])
            return {name: (schedule, due) for name, schedule, due in rows}

    def cancel(self, job_id: int) -> JobRecord | None:
        """Cancel a waiting job, ask a running one to stop; None if it is finished, or there is none.

        The record is of the same transaction: that of a running job says so, however soon its run stops.
        """
        of_account, account = _of_current_account()
        insert, end = (
            sql.SQL(QUERIES[name]).format(of_account=of_account) for name in ("insert_cancellation", "cancel_waiting")
        )
        with self.db.transaction() as connection:
            if connection.execute(insert, {"id": job_id, **account}).fetchone() is None:
                return None
            has_ended = connection.execute(end, {"id": job_id, **account}).fetchone() is not None
            # After the commit, a run that stops at once would look like a job that had waited.
            (row,) = connection.execute(*_list_query(job_id, 1, {}))
            record = _record(row)
            if not has_ended:
                if record.is_finished:  # of itself, in this moment
                    return None
                notify(connection, CHANNEL, CANCELLED)
            return record

    # --- a run ------------------------------------------------------------------------------------------------------

    def claim(self, worker: int) -> Claim | None:
        """Begin the next job that is due; None if there is none."""
        # Without parameters it is planned once for a session, not each time, which takes longer than its execution.
        query = sql.SQL(QUERIES["claim"]).format(worker=sql.Literal(worker))
        for _ in range(_CLAIM_ATTEMPTS):
            try:
                with self.db.connection() as connection:
                    row = connection.execute(query).fetchone()
            except psycopg.errors.UniqueViolation:
                continue  # another worker began a job of that lock in the same moment
            return Claim(*row) if row else None
        return None

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
        """Record that the effect of a run is in the database once this transaction commits."""
        connection.execute(QUERIES["mark_committed"], {"id": claim.id, "result": encode_json(result)})

    def write_progress(self, claim: Claim, progress: Progress) -> bool:
        """Store how far a run is; tell whether the claim is still valid."""
        given = {"id": claim.id, "attempt": claim.attempt, **msgspec.structs.asdict(progress)}
        with self.db.connection() as connection:
            return connection.execute(QUERIES["write_progress"], strip_nul(given)).fetchone() is not None

    def insert_log_line(self, claim: Claim, level: str, event: str, fields: Mapping[str, Any]) -> None:
        """Store a line of a run's log."""
        plain = msgspec.to_builtins(fields, str_keys=True, enc_hook=str)
        given = {"id": claim.id, "attempt": claim.attempt, "level": level, "event": strip_nul(event)}
        with self.db.connection() as connection:
            connection.execute(QUERIES["insert_log_line"], {**given, "fields": encode_json(plain)})

    def poll_cancellation(self, claim: Claim) -> tuple[bool, bool]:
        """Tell whether a claim is valid, and whether its run was asked to stop."""
        given = {"id": claim.id, "attempt": claim.attempt}
        with self.db.connection() as connection:
            row = connection.execute(QUERIES["poll_cancellation"], given).fetchone()
        return (bool(row[0]), bool(row[1])) if row else (False, False)

    def finish(self, claim: Claim, state: FinalState, error: str | None = None, result: Any = None) -> bool:
        """End a run; tell whether the claim was still valid."""
        with self.db.connection() as connection:
            return self.finish_in(connection, claim.id, claim.attempt, state, error, result)

    def fail_overrun(self, claim: Claim, error: str) -> None:
        """Fail a run that does not stop, unless its effect is in the database."""
        self.end_session_of_run(claim.id)
        with self.db.transaction() as connection:
            found = self.lock_running(connection, claim)
            if found is not None:
                committed, _ = found
                state: FinalState = "succeeded" if committed else "failed"
                self.finish_in(connection, claim.id, claim.attempt, state, None if committed else error)

    def requeue(
        self, claim: Claim, error: str | None, *, wait_s: float = 0, failures: int = 0, end_session: bool = False
    ) -> None:
        """Queue a job for its next attempt, unless its effect is in the database or it was cancelled meanwhile.

        Args:
            claim: The attempt that ended.
            error: Why it ended.
            wait_s: Seconds until the next attempt is due.
            failures: What it costs of the job's retries.
            end_session: End the session of a run that may be about to commit.
        """
        if end_session:
            self.end_session_of_run(claim.id)
        with self.db.transaction() as connection:
            found = self.lock_running(connection, claim)
            if found is None:
                return
            committed, cancelled = found
            if committed or cancelled:
                state: FinalState = "succeeded" if committed else "cancelled"
                self.finish_in(connection, claim.id, claim.attempt, state, None if committed else error)
                return
            self.requeue_in(connection, claim.id, claim.attempt, error, wait_s=wait_s, failures=failures)

    # --- parts of transactions --------------------------------------------------------------------------------------

    def lock_running(self, connection: Connection[Any], claim: Claim) -> tuple[bool, bool] | None:
        """Lock a running job; tell whether its effect is committed and whether it was cancelled; None if void."""
        given = {"id": claim.id, "attempt": claim.attempt}
        row = connection.execute(QUERIES["lock_running"], given).fetchone()
        return None if row is None else (bool(row[0]), self.is_cancelled(connection, claim.id))

    def is_cancelled(self, connection: Connection[Any], job_id: int) -> bool:
        """Tell whether a job that is locked was asked to stop."""
        return connection.execute(QUERIES["find_cancellation"], {"id": job_id}).fetchone() is not None

    def finish_in(
        self,
        connection: Connection[Any],
        job_id: int,
        attempt: int,
        state: FinalState,
        error: str | None = None,
        result: Any = None,
    ) -> bool:
        """Like ``finish``, inside the caller's transaction."""
        given = {"id": job_id, "attempt": attempt, "state": state, "error": strip_nul(error)}
        return connection.execute(QUERIES["finish"], {**given, "result": encode_json(result)}).fetchone() is not None

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
        """Queue a running job for its next attempt, on a connection."""
        given = {"id": job_id, "attempt": attempt, "wait_s": wait_s, "failures": failures, "deaths": deaths}
        connection.execute(QUERIES["requeue"], {**given, "error": strip_nul(error)})
        notify(connection, CHANNEL, QUEUED)

    # --- workers ----------------------------------------------------------------------------------------------------

    def heartbeat(self, worker: int) -> None:
        """Record that a worker is alive."""
        with self.db.connection() as connection:
            connection.execute(QUERIES["heartbeat"], {"worker": worker})

    def delete_worker(self, worker: int) -> None:
        """Delete a worker that ended."""
        with self.db.connection() as connection:
            connection.execute(QUERIES["delete_worker"], {"worker": worker})

    def end_session_of_run(self, job_id: int) -> None:
        """End the session in which a run is about to commit, if there is one."""
        with self.db.connection() as connection:
            connection.execute(QUERIES["end_session_of_run"], {"id": job_id})

    def delete_old(self, keep_days: int, limit: int = 1000) -> int:
        """Remove jobs that finished long ago, some at a time; return how many."""
        with self.db.connection() as connection:
            return connection.execute(QUERIES["delete_old"], {"keep_days": keep_days, "limit": limit}).rowcount

    def purge_account(self, account: int, limit: int = 1000) -> Iterator[int]:
        """Remove the jobs of an account, but for those that run; see ``Services.purge_accounts_with``."""
        removed = limit
        while removed == limit:
            with self.db.connection() as connection:
                removed = connection.execute(QUERIES["purge_jobs"], {"account": account, "limit": limit}).rowcount
            yield removed

    def read_figures(self, names: Sequence[str]) -> JobFigures:
        """Count jobs, and find which of these fail."""
        with self.db.connection() as connection:
            row = connection.execute(QUERIES["read_figures"]).fetchone()
            failing = connection.execute(QUERIES["list_failing"], {"names": list(names)}).fetchall()
        waiting, running, failed, oldest_waiting_s = row or (0, 0, 0, 0.0)
        return JobFigures(waiting, running, failed, oldest_waiting_s, tuple(name for name, _ in failing))

    def read_measures(self, dead_after_s: float, timeout_s: float) -> JobMeasures:
        """Count jobs by name and state, and workers; list when each schedule was due last."""
        with self.db.connection(timeout_s=timeout_s) as connection:
            counts = connection.execute(QUERIES["count_by_name"]).fetchall()
            figures = connection.execute(QUERIES["read_figures"]).fetchone()
            workers = connection.execute(QUERIES["count_workers"], {"dead_after_s": dead_after_s}).fetchone()
            schedules = connection.execute(QUERIES["list_schedules"]).fetchall()
        return JobMeasures(
            {(name, state): count for name, state, count in counts},
            0.0 if figures is None else figures[-1],
            0 if workers is None else workers[0],
            {name: (schedule, due) for name, schedule, due in schedules},
        )

    def read_health(self, dead_after_s: float, names: Sequence[str]) -> JobHealth:
        """Tell whether a worker is alive, whether a job waits, and which of these jobs fail."""
        with self.db.connection() as connection:
            alive, waiting = connection.execute(QUERIES["read_health"], {"dead_after_s": dead_after_s}).fetchone() or (
                False,
                False,
            )
            failing = connection.execute(QUERIES["list_failing"], {"names": list(names)}).fetchall()
        return JobHealth(alive, waiting, dict(failing))


def make_worker_id() -> int:
    """Make a random id for a worker, which its supervisor knows before the worker is in the database."""
    return secrets.randbits(62)


def encode_json(value: Any) -> Jsonb | None:
    """Encode a value for a ``jsonb`` column; None stays None.

    Raises:
        TypeError: It cannot be JSON.
    """
    return None if value is None else Jsonb(strip_nul(msgspec.to_builtins(value, str_keys=True)))


def _new_job(
    name: str, lock: str, parameters: Mapping[str, Any], request_id: str | None, owner: Owner
) -> dict[str, Any]:
    columns = owner.to_columns()
    tracker = current_tracker()
    return {
        "name": name,
        "lock": lock,
        "parameters": encode_json(parameters),
        "request_id": request_id,
        **columns,
        "started_by": encode_json(columns["started_by"]),
        "traceparent": None if tracker is None else tracker.traceparent,
    }


def _of_current_account() -> tuple[sql.SQL, dict[str, Any]]:
    """Return the condition that limits a query to what the current identity may see, and its parameters."""
    identity = current_identity()
    if identity is None:
        return sql.SQL(QUERIES["of_any_account"]), {}
    if identity.sites is None:
        return sql.SQL(QUERIES["of_account"]), {"account": identity.account}
    return sql.SQL(QUERIES["of_sites"]), {"account": identity.account, "sites": list(identity.sites)}


def _has_index(selection: JobSelection) -> bool:
    """Tell whether an index leads to the jobs that are asked for, in their order."""
    is_by_id = selection.get("ordering", LATEST_FIRST).removeprefix("-") == "id"
    return is_by_id and selection.get("search") is None


def _list_query(job_id: int | None, limit: int, selection: JobSelection) -> tuple[sql.Composed, dict[str, Any]]:
    """Return the query for jobs that match, and its values; see ``JobStore.find``."""
    given: dict[str, Any] = {name: selection.get(name) for name in ("name", "state", "lock", "search", "start", "end")}
    given["of"] = selection.get("account")
    given |= {"id": job_id, "limit": limit, "latest": _LATEST_RUNS, "with_routine": selection.get("with_routine", True)}
    ordering = selection.get("ordering", LATEST_FIRST)
    given["boundary"], given["boundary_id"] = selection.get("beyond") or (None, None)
    column = ordering.removeprefix("-")
    descending = (column != ordering) != selection.get("backwards", False)
    of_account, account = _of_current_account()
    matches = sql.SQL(QUERIES["matches"]).format(of_account=of_account)
    runs = sql.SQL(QUERIES["all_runs" if _has_index(selection) else "latest_runs"]).format(matches=matches)
    query = sql.SQL(QUERIES["list_jobs"]).format(
        runs=runs,
        matches=matches,
        column=sql.SQL(QUERIES[f"column_{column}"]),
        boundary=sql.SQL(QUERIES[f"boundary_{column}"]),
        comparison=sql.SQL("<" if descending else ">"),
        direction=sql.SQL("DESC" if descending else "ASC"),
    )
    return query, {**given, **account}


def _size_bytes(record: JobRecord) -> int:
    """Return the length of what a job was given and returned; everything else in a record is short."""
    return len(msgspec.json.encode((record.parameters, record.result, record.error)))


def _record(row: tuple[Any, ...]) -> JobRecord:
    done: float | None = row[7]
    progress = None if done is None else Progress(done, row[8], row[9])
    values = (*row[:7], progress, *row[10:])
    return JobRecord(**dict(zip(JobRecord.__struct_fields__, values, strict=True)))
