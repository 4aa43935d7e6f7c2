"""``/api/v1/jobs/``: which jobs there are, what became of them; start and cancel them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from kernel import (
    Envelope,
    Page,
    Request,
    Response,
    Route,
    Services,
    cursor_page,
    envelope,
    page_size_of,
    read_cursor,
)
from kernel.jobs import JobLogLine, JobRecord, JobState, JobSummary, summarize_jobs
from plugins.system.job_events import ID_MAX, JobEventRoute, JobId

BASE = "/api/v1/jobs/"
_NEWEST_FIRST = "-id"


class JobsQuery(msgspec.Struct, frozen=True):
    """Parameters of the list.

    Args:
        name: Only this job.
        state: Only those in this state.
        page_size: Jobs of a page; ``http.page_size`` by default.
        cursor: From the links of a page.
    """

    name: Annotated[str, msgspec.Meta(pattern="^[^\\x00]*$")] = ""
    state: JobState | None = None
    page_size: Annotated[int, msgspec.Meta(ge=1)] | None = None
    cursor: str = ""


class JobQuery(msgspec.Struct, frozen=True):
    """Parameters of one job.

    Args:
        log: Only log lines with a higher id than this.
    """

    log: Annotated[int, msgspec.Meta(ge=0, le=ID_MAX)] = 0


class Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a start.

    Args:
        name: Which job.
        parameters: The values it takes.
    """

    name: str
    parameters: dict[str, Any] = {}


class JobDetail(JobRecord, frozen=True):
    """A job with its log.

    Args:
        log: Its lines, earliest first, a thousand at most.
    """

    log: Sequence[JobLogLine]


class JobRoutes:
    """Handlers of ``/api/v1/jobs/``.

    Args:
        services: Has the jobs.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._jobs = services.jobs

    def list(self, request: Request, query: JobsQuery) -> Envelope[Page[JobRecord]]:
        """List jobs, newest first."""
        http = self._services.kernel_settings.http
        size = page_size_of(query.page_size, http.page_size, http.page_size_max)
        cursor = read_cursor(query.cursor, _NEWEST_FIRST, (JobId,))
        backwards = cursor is not None and cursor.backwards
        id_of_cursor = None if cursor is None else cursor.values[0]
        jobs = self._jobs.list(
            name=query.name or None,
            state=query.state,
            limit=size + 1,
            before=None if backwards else id_of_cursor,
            after=id_of_cursor if backwards else None,
        )
        page = cursor_page(
            request, jobs, cursor=cursor, page_size=size, ordering=_NEWEST_FIRST, keys_of=lambda job: (job.id,)
        )
        return envelope(request, page)

    def show(self, request: Request, id: JobId, query: JobQuery) -> Envelope[JobDetail]:  # noqa: A002 - the segment's name
        """Return one job with its log."""
        record = self._jobs.get(id)
        log = self._jobs.log_lines(id, after=query.log)
        return envelope(request, JobDetail(**msgspec.structs.asdict(record), log=log))

    def catalog(self, request: Request) -> Envelope[Sequence[JobSummary]]:
        """List the jobs that can be started, with parameters and schedules."""
        return envelope(request, summarize_jobs(self._jobs, self._services.clock.now()))

    def start(self, request: Request, body: Start) -> Response[Envelope[JobRecord]]:
        """Start a job; 202, or 200 if one of its lock waits already."""
        record, is_new = self._jobs.start_once(body.name, body.parameters, request_id=request.request_id)
        headers = {"Location": f"{BASE}{record.id}/"}
        return Response(envelope(request, record), 202 if is_new else 200, headers)

    def cancel(self, request: Request, id: JobId) -> Response[Envelope[JobRecord]]:  # noqa: A002 - the segment's name
        """Cancel a job that waits (200), ask one that runs to stop (202)."""
        record = self._jobs.cancel(id)
        return Response(envelope(request, record), 200 if record.is_finished else 202)

    def routes(self) -> Sequence[Route]:
        """Return the routes."""
        one = f"{BASE}{{id}}/"
        return [
            Route(path=BASE, handler=self.list, policy="read", menu="jobs"),
            Route(path=f"{BASE}catalog/", handler=self.catalog, policy="read"),
            Route(path=one, handler=self.show, policy="read"),
            Route(path=f"{one}events/", handler=JobEventRoute(self._services).stream, policy="read"),
            Route(method="POST", path=BASE, handler=self.start, policy="write"),
            Route(method="POST", path=f"{one}cancel/", handler=self.cancel, policy="write"),
        ]
