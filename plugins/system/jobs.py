"""``/api/v1/jobs/``: list, show, start and cancel jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

from kernel import EndTime, Identity, Request, Response, Services, StreamingResponse, route
from kernel.http import ListQuery, Page, cursor_page, escape_controls, list_page, page_size_of, read_cursor
from kernel.identity import acting_as
from kernel.jobs import JobLogLine, JobOrdering, JobRecord, JobState, JobSummary
from plugins.system.job_access import JobId, LineId, RunQuery, reading_runs

# PostgreSQL rejects queries with a null character.
Text = Annotated[str, msgspec.Meta(pattern="^[^\\x00]*$")]

_LATEST_FIRST: JobOrdering = "-id"
# Sort keys in a cursor; a time that has not come is null.
_KEY_TYPES: dict[str, Any] = {
    "id": JobId,
    "name": Text,
    "state": JobState,
    "created_at": datetime,
    "started_at": datetime | None,
    "finished_at": datetime | None,
}


class JobsQuery(RunQuery, frozen=True, kw_only=True):
    """Parameters of the list.

    Args:
        name: Only runs of this job.
        state: Only runs in this state.
        start: Only runs that were started at this time or later.
        end: Only runs that were started at this time or earlier.
        with_routine: Also runs that a schedule started and that succeeded.
        account: Only runs of this account.
        all_accounts: Also runs of other accounts, for staff that acts for none.
        search: Only runs with this text in name, lock, request id, error or parameters, ignoring case, of the 10,000
            latest that match the other parameters. Errors and parameters of more than 2 KiB, compressed, are left out.
        ordering: A field; a leading ``-`` sorts descending. Latest first by default. Other orders than by ``id`` are of
            the 10,000 latest runs that match the other parameters.
        page_size: Number of runs per page; ``http.page_size`` by default.
        cursor: From ``next`` or ``previous`` of another page.
    """

    name: Text | None = None
    state: JobState | None = None
    start: datetime | None = None
    end: EndTime | None = None
    with_routine: bool = True
    account: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | None = None
    search: Text = ""
    ordering: JobOrdering | Literal[""] = ""
    page_size: Annotated[int, msgspec.Meta(ge=1)] | None = None
    cursor: str = ""


class CatalogQuery(ListQuery, frozen=True):
    """Parameters of the catalog.

    Args:
        search: Jobs with this text in any of their text fields, ignoring case.
        ordering: Fields separated by commas; a leading ``-`` sorts descending.
        page: Number of a page, from 1.
        page_size: Jobs per page; ``http.page_size`` by default.
        name: Only the job of this name.
        plugin: Only jobs of this plugin.
    """

    name: str | msgspec.UnsetType = msgspec.UNSET
    plugin: str | msgspec.UnsetType = msgspec.UNSET


class JobQuery(RunQuery, frozen=True, kw_only=True):
    """Parameters of one run.

    Args:
        log: Only log lines with a higher id.
        all_accounts: Also a run of another account, for staff that acts for none.
    """

    log: LineId = 0


class LogQuery(RunQuery, frozen=True, kw_only=True):
    """Parameters of the whole log.

    Args:
        all_accounts: Also of a run of another account, for staff that acts for none.
    """


class StartBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a start.

    Args:
        name: The job.
        parameters: Its parameters.
    """

    name: str
    parameters: dict[str, Any] = {}


class JobDetail(JobRecord, frozen=True, kw_only=True):
    """A run with its log.

    Args:
        log: Its lines, earliest first, at most a thousand.
    """

    log: Sequence[JobLogLine]


class JobRoutes:
    """The handlers of ``/api/v1/jobs/``.

    Args:
        services: Jobs, clock, page sizes.
    """

    def __init__(self, services: Services) -> None:
        self._jobs = services.jobs
        self._clock = services.clock
        self._http = services.kernel_settings.http

    @route("/api/v1/jobs/", policy="read", menu="jobs")
    def list(self, request: Request, query: JobsQuery, identity: Identity) -> Page[JobRecord]:
        """List the runs of the account, newest first. A page with over 4 MiB of parameters and results ends early."""
        page_size = page_size_of(query.page_size, self._http.page_size, self._http.page_size_max)
        ordering: JobOrdering = query.ordering or _LATEST_FIRST
        field = ordering.removeprefix("-")
        cursor = read_cursor(query.cursor, ordering, (_KEY_TYPES[field], JobId))
        with reading_runs(identity, query):
            records, page_size = self._jobs.page(
                page_size,
                name=query.name,
                state=query.state,
                start=query.start,
                end=query.end,
                account=query.account,
                with_routine=query.with_routine,
                search=query.search or None,
                ordering=ordering,
                beyond=None if cursor is None else (cursor.values[0], cursor.values[1]),
                backwards=cursor is not None and cursor.backwards,
            )
        return cursor_page(
            request,
            records,
            cursor=cursor,
            page_size=page_size,
            ordering=ordering,
            keys_of=lambda record: (getattr(record, field), record.id),
        )

    @route("/api/v1/jobs/catalog/", policy="read")
    def catalog(self, request: Request, query: CatalogQuery) -> Page[JobSummary]:
        """List the jobs that may be started, with their parameters and schedules."""
        return list_page(request, self._jobs.summaries(self._clock.now()), query, JobSummary, self._http)

    @route("/api/v1/jobs/{id}/", policy="read")
    def show(self, id: JobId, query: JobQuery, identity: Identity) -> JobDetail:  # noqa: A002 - path parameter
        """Return a run with its log."""
        with reading_runs(identity, query):
            record = self._jobs.get(id)
            log = self._jobs.log_lines(id, after=query.log)
        return JobDetail(**msgspec.structs.asdict(record), log=log)

    @route("/api/v1/jobs/{id}/log/", policy="read", responses={200: {"text/plain": str}})
    def log(
        self,
        id: JobId,  # noqa: A002 - path parameter
        query: LogQuery,
        identity: Identity,
    ) -> Response[StreamingResponse]:
        """Download the log of a run: a line for each of its lines, with the fields as JSON."""
        with reading_runs(identity, query):
            name = self._jobs.get(id).name

        def read() -> Iterator[bytes]:
            after = 0
            while True:
                # A body is sent after its handler has returned, by whatever thread sends it.
                with acting_as(identity), reading_runs(identity, query):
                    lines = self._jobs.log_lines(id, after=after)
                if not lines:
                    return
                yield b"".join(map(_encode_line, lines))
                after = lines[-1].id

        file = f"job-{id}-{name.replace('/', '_')}.log"
        headers = {"Content-Disposition": f'attachment; filename="{file}"', "Cache-Control": "no-store"}
        return Response(StreamingResponse(read(), "text/plain; charset=utf-8"), 200, headers)

    @route(
        "/api/v1/jobs/",
        method="POST",
        policy="write",
        responses={200: JobRecord, 202: JobRecord},
        errors=(404,),
    )
    def start(self, request: Request, body: StartBody) -> Response[JobRecord]:
        """Start a job: 202, or 200 with the run that already waits with the same lock."""
        self._jobs.ensure_may_control(body.name)
        record, is_new = self._jobs.start_once(body.name, body.parameters, request_id=request.request_id)
        headers = {"Location": f"/api/v1/jobs/{record.id}/"}
        return Response(record, 202 if is_new else 200, headers)

    @route("/api/v1/jobs/{id}/cancel/", method="POST", policy="write", responses={200: JobRecord, 202: JobRecord})
    def cancel(self, id: JobId) -> Response[JobRecord]:  # noqa: A002 - path parameter
        """Cancel a run: 200 if it was waiting, 202 if it is running and was asked to stop."""
        self._jobs.ensure_may_control(self._jobs.get(id).name)
        record = self._jobs.cancel(id)
        return Response(record, 200 if record.is_finished else 202)


def _encode_line(line: JobLogLine) -> bytes:
    """Return a line of a log as text: one line, whatever is in it."""
    fields = msgspec.json.encode(line.fields).decode() if line.fields else ""
    text = f"{line.at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ} {line.level} attempt={line.attempt} {line.event} {fields}"
    return f"{escape_controls(text.rstrip())}\n".encode(errors="replace")
