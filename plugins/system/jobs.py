"""``/api/v1/jobs/``: list, show, start and cancel jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from kernel import Request, Response, Services, route
from kernel.http import Page, cursor_page, page_size_of, read_cursor
from kernel.jobs import JobLogLine, JobRecord, JobState, JobSummary
from plugins.system.job_events import ID_MAX, JobId

_NEWEST_FIRST = "-id"


class JobsQuery(msgspec.Struct, frozen=True):
    """Parameters of the list.

    Args:
        name: Only runs of this job.
        state: Only runs in this state.
        page_size: Number of runs per page; ``http.page_size`` by default.
        cursor: From ``next`` or ``previous`` of another page.
    """

    name: Annotated[str, msgspec.Meta(pattern="^[^\\x00]*$")] = ""
    state: JobState | None = None
    page_size: Annotated[int, msgspec.Meta(ge=1)] | None = None
    cursor: str = ""


class JobQuery(msgspec.Struct, frozen=True):
    """Parameters of one run.

    Args:
        log: Only log lines with a higher id.
    """

    log: Annotated[int, msgspec.Meta(ge=0, le=ID_MAX)] = 0


class StartBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a start.

    Args:
        name: The job.
        parameters: Its parameters.
    """

    name: str
    parameters: dict[str, Any] = {}


class JobDetail(JobRecord, frozen=True):
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
    def list(self, request: Request, query: JobsQuery) -> Page[JobRecord]:
        """List runs, newest first."""
        page_size = page_size_of(query.page_size, self._http.page_size, self._http.page_size_max)
        cursor = read_cursor(query.cursor, _NEWEST_FIRST, (JobId,))
        backwards = cursor is not None and cursor.backwards
        boundary = None if cursor is None else cursor.values[0]
        records = self._jobs.list(
            name=query.name or None,
            state=query.state,
            limit=page_size + 1,
            before=None if backwards else boundary,
            after=boundary if backwards else None,
        )
        return cursor_page(
            request,
            records,
            cursor=cursor,
            page_size=page_size,
            ordering=_NEWEST_FIRST,
            keys_of=lambda record: (record.id,),
        )

    @route("/api/v1/jobs/catalog/", policy="read")
    def catalog(self) -> Sequence[JobSummary]:
        """List the registered jobs with their parameters and schedules."""
        return self._jobs.summaries(self._clock.now())

    @route("/api/v1/jobs/{id}/", policy="read")
    def show(self, id: JobId, query: JobQuery) -> JobDetail:  # noqa: A002 - path parameter
        """Return a run with its log."""
        record = self._jobs.get(id)
        log = self._jobs.log_lines(id, after=query.log)
        return JobDetail(**msgspec.structs.asdict(record), log=log)

    @route("/api/v1/jobs/", method="POST", policy="write")
    def start(self, request: Request, body: StartBody) -> Response[JobRecord]:
        """Start a job: 202, or 200 with the run that already waits with the same lock."""
        record, is_new = self._jobs.start_once(body.name, body.parameters, request_id=request.request_id)
        headers = {"Location": f"/api/v1/jobs/{record.id}/"}
        return Response(record, 202 if is_new else 200, headers)

    @route("/api/v1/jobs/{id}/cancel/", method="POST", policy="write")
    def cancel(self, id: JobId) -> Response[JobRecord]:  # noqa: A002 - path parameter
        """Cancel a run: 200 if it was waiting, 202 if it is running and was asked to stop."""
        record = self._jobs.cancel(id)
        return Response(record, 200 if record.is_finished else 202)
