"""``tiercel jobs``: list, start, watch and cancel jobs."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, get_args

import click
import msgspec

from kernel.app import Tiercel
from kernel.cli.output import echo, encode_json, print_json, print_json_array, print_table, progress
from kernel.config import load
from kernel.conversion import convert_value, struct_fields
from kernel.errors import NotFoundError, UnavailableError
from kernel.identity import ALL_SCOPES, Identity, acting_as
from kernel.jobs.events import JobFollower
from kernel.jobs.models import JobLogLine, JobRecord, JobState, Progress
from kernel.jobs.registry import RegisteredJob
from kernel.jobs.service import Jobs
from kernel.masking import mask

# How often a job that is followed is polled: progress is stored no more often.
_POLL_INTERVAL_S = 0.2
_TITLES = ("id", "job", "state", "progress", "started", "took", "error")
# Of an error in the table of jobs; ``tiercel jobs show`` has it whole.
_ERROR_MAX_CHARACTERS = 500
# The field of a log line that holds a traceback, and how each frame of one begins.
_EXCEPTION = "exception"
_FRAME = '  File "'
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def jobs() -> None:
    """List, start, watch and cancel jobs."""


@jobs.command("list")
@click.option("--all", "with_routine", is_flag=True, help="Also successes of jobs that a schedule started.")
@click.option("--name", metavar="JOB", help="Only this job, with all its successes.")
@click.option("--state", type=click.Choice(get_args(JobState)), help="Only those in this state.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="How many.")
@_JSON
def list_(*, with_routine: bool, name: str | None, state: JobState | None, limit: int, as_json: bool) -> None:
    """List jobs, newest first, without those that a schedule started and that succeeded."""
    with_routine = with_routine or name is not None or state is not None
    with _open_service() as service:
        records = service.shared.jobs.iterate(limit, name=name, state=state, with_routine=with_routine)
        if as_json:
            print_json_array(records)
            return
        rows = [_table_row(record) for record in records]
    if rows:
        print_table(_TITLES, rows)
    else:
        echo("There are no jobs to list.", err=True)
    if not with_routine:
        echo("Successes of jobs that a schedule started are left out; --all lists them.", err=True)


@jobs.command()
@click.argument("job_id", metavar="ID", type=click.IntRange(1))
@_JSON
def show(*, job_id: int, as_json: bool) -> None:
    """Show what is known of one job."""
    with _open_service() as service:
        record = service.shared.jobs.get(job_id)
        if not as_json:
            echo(_describe(record, service))
    _print(record, as_json=as_json)


@jobs.command()
@click.argument("name")
@click.option("-p", "--parameter", "given", metavar="KEY=VALUE", multiple=True, help="A parameter; may be repeated.")
@click.option("--account", type=click.IntRange(0), help="Number of the account, for a job that runs for accounts.")
@click.option("--wait", is_flag=True, help="Wait until it is finished; exit with 1 unless it succeeded.")
@_JSON
def start(*, name: str, given: tuple[str, ...], account: int | None, wait: bool, as_json: bool) -> None:
    """Start a job; a worker runs it. One that waits already is not started twice."""
    with _open_service() as service:
        registered = service.shared.jobs.registry.get(name)
        if account is not None and not registered.job.per_account:
            raise click.BadParameter(f"{name} runs for no account", param_hint="--account")
        with acting_as(None if account is None else _for_account(account)):
            record, is_new = service.shared.jobs.start_once(name, _read_parameters(registered, given))
        if not is_new:
            echo(f"It waits already, as {record.id}.", err=True)
        if wait:
            record = _wait(service.shared.jobs, record)
    _print(record, as_json=as_json)
    if wait and record.state != "succeeded":
        sys.exit(1)


@jobs.command()
@click.argument("job_id", metavar="ID", type=click.IntRange(1))
@_JSON
def cancel(*, job_id: int, as_json: bool) -> None:
    """Cancel a job that waits, ask one that runs to stop."""
    with _open_service() as service:
        record = service.shared.jobs.cancel(job_id)
    if as_json:
        print_json(record)
    else:
        echo(f"{record.id}: {'cancelled' if record.is_finished else 'asked to stop'}.")


@jobs.command()
@click.argument("job_id", metavar="ID", type=click.IntRange(1))
@click.option("--follow", is_flag=True, help="Go on until the job is finished.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one line each.")
def log(*, job_id: int, follow: bool, as_json: bool) -> None:
    """Show the state of a job, and what it logged. Of a traceback the error itself comes first."""
    with _open_service() as service:
        follower = JobFollower(service.shared.jobs, job_id)
        if not (follow or as_json):
            echo(_describe(service.shared.jobs.get(job_id), service))
        while True:
            for event in follower.poll():
                if isinstance(event.value, JobLogLine):
                    echo(encode_json(event.value) if as_json else _format_line(event.value))
                elif isinstance(event.value, JobRecord) and follow and not as_json:
                    echo(_describe(event.value, service))
            if not follow or follower.is_finished:
                return
            time.sleep(_POLL_INTERVAL_S)


@jobs.command()
@_JSON
def schedules(*, as_json: bool) -> None:
    """List the jobs that can be started: schedule in force, next due time, last run."""
    with _open_service() as service:
        summaries = service.shared.jobs.summaries(service.shared.clock.now())
    if as_json:
        print_json(summaries)
        return
    rows = [
        (
            each.name,
            each.plugin,
            each.schedule or "on demand",
            _format_time(each.next_due),
            "never" if each.last_run is None else f"{each.last_run.state} {_format_time(each.last_run.created_at)}",
        )
        for each in summaries
    ]
    print_table(("job", "plugin", "schedule", "next due", "last run"), rows)


def _for_account(account: int) -> Identity:
    return Identity(scheme="job", name="tiercel jobs start", account=account, scopes=ALL_SCOPES)


@contextmanager
def _open_service() -> Iterator[Tiercel]:
    service = Tiercel(load())
    with service.database_open():
        yield service


def _read_parameters(job: RegisteredJob, given: tuple[str, ...]) -> dict[str, Any]:
    fields = {} if job.parameters is None else struct_fields(job.parameters)
    read: dict[str, Any] = {}
    for pair in given:
        key, parted, text = pair.partition("=")
        if not parted:
            raise click.BadParameter(f"expected KEY=VALUE, got {pair!r}", param_hint="-p")
        read[key] = _read_value(text, fields[key].type) if key in fields else text
    return read


def _read_value(text: str, annotation: Any) -> Any:
    try:
        return msgspec.to_builtins(convert_value(text, annotation, strict=False))
    except ValueError:
        pass
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text  # rejected together with the other wrong parameters


def _wait(service_jobs: Jobs, record: JobRecord) -> JobRecord:
    try:
        service_jobs.check_worker()
    except UnavailableError as ex:
        echo(f"tiercel: {ex.detail}", err=True)
    follower = JobFollower(service_jobs, record.id)
    with progress(record.name) as bar:
        while True:
            for event in follower.poll():
                if isinstance(event.value, Progress):
                    bar.show(event.value.done, event.value.total, event.value.message)
                elif isinstance(event.value, JobRecord):
                    record = event.value
            if follower.is_finished:
                return record
            time.sleep(_POLL_INTERVAL_S)


def _print(record: JobRecord, *, as_json: bool) -> None:
    if as_json:
        print_json(record)
        return
    for name, value in mask(msgspec.to_builtins(record)).items():
        if value is not None:
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            echo(f"{name.replace('_', ' ')}: {text}")


def _table_row(record: JobRecord) -> tuple[object, ...]:
    took_s = None
    if record.started_at is not None and record.finished_at is not None:
        took_s = f"{(record.finished_at - record.started_at).total_seconds():.1f} s"
    return (
        record.id,
        record.name,
        record.state,
        _format_progress(record.progress),
        _format_time(record.started_at),
        took_s,
        record.error and textwrap.shorten(record.error, _ERROR_MAX_CHARACTERS, placeholder=" ..."),
    )


def _format_progress(progress: Progress | None) -> str:
    if progress is None:
        return ""
    return f"{progress.done:g} of {progress.total:g}" if progress.total else f"{progress.done:g}"


def _format_time(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def _describe(record: JobRecord, service: Tiercel) -> str:
    """Describe the state of a job in a line: ``trace.refresh: waiting, attempt 1 of 3 ended, the next in 10 s``."""
    parts = [f"{record.name}: {record.state}"]
    if record.attempt:
        # A run that a stopped worker gave back, or a dead one left behind, costs no retry.
        attempts = f"attempt {record.attempt} of {max(record.attempt, _attempts_max(record, service))}"
        parts.append(f"{attempts} ended" if record.state == "waiting" else attempts)
    if record.state == "waiting":
        wait_s = max(0.0, (record.due_at - service.clock.now()).total_seconds())
        due = f"in {wait_s:.0f} s" if wait_s else "as soon as a worker is free"
        parts.append(f"the next {due}" if record.attempt else f"due {due}")
    return ", ".join(parts) + (f": {record.error}" if record.error else "")


def _attempts_max(record: JobRecord, service: Tiercel) -> int:
    try:
        return 1 + service.shared.jobs.registry.get(record.name).job.retries
    except NotFoundError:
        return 1  # of a plugin that is not loaded any more


def _format_line(line: JobLogLine) -> str:
    fields = " ".join(f"{name}={value}" for name, value in line.fields.items() if name != _EXCEPTION)
    text = f"{line.at:%Y-%m-%d %H:%M:%S} {line.level:<8} {line.event} {fields}".rstrip()
    traceback = line.fields.get(_EXCEPTION)
    if not isinstance(traceback, str):
        return text
    error, rest = _split_traceback(traceback)
    return "\n".join([text, *(f"    {each}" for each in (*error, *rest))])


def _split_traceback(text: str) -> tuple[list[str], list[str]]:
    """Split a traceback into the lines of the error, which come last and may be several, and those before them."""
    lines = text.rstrip().split("\n")
    start = max((number for number, each in enumerate(lines) if each.startswith(_FRAME)), default=len(lines) - 2) + 1
    # Below a frame are its line of code and marks.
    while start < len(lines) - 1 and lines[start].startswith("    "):
        start += 1
    return lines[start:], lines[:start]
