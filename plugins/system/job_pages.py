"""Pages of jobs: what runs, waits and has run, one run while it runs, and the schedules.

Their parameters have the names of the API, so that a page and a call differ by the path alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, get_args
from urllib.parse import quote

import msgspec

from kernel import ConflictError, Identity, InvalidError, Request, Response, Services, UnavailableError, route
from kernel.http import (
    Form,
    FormResponse,
    NoFields,
    Notice,
    Panel,
    Submitted,
    TemplateResponse,
    local_link,
    make_form,
    mask,
    page_link,
    redirect,
)
from kernel.jobs import JobRecord, JobState, RegisteredJob
from plugins.system.job_access import JobId, RunQuery, may_read_all, reading_runs
from plugins.system.jobs import JobQuery, JobRoutes, JobsQuery

JOBS = "/system/jobs/"
# Of what runs and waits, a page shows so many, and tells that there are more.
_ACTIVE_MAX = 50
_ACTIVE_REFRESH_S = 5
_RUNS_REFRESH_S = 30
# The last lines of a log; the whole is downloaded.
_LINES_MAX = 500
_UPCOMING = 3
# Longer results and parameters are shown by the API only.
_JSON_CHARACTERS_MAX = 20_000


QUEUED = Notice("The job is queued.")
WAITED_ALREADY = Notice("The job was waiting already. This is the run.")
CANCELLED = Notice("The run is cancelled.")
ASKED_TO_STOP = Notice("The run is asked to stop.")
FINISHED = Notice("The run had finished before it could be cancelled.")


class JobsPageQuery(JobsQuery, frozen=True, kw_only=True):
    """Parameters of the page: those of the list.

    Args:
        with_routine: Also runs that a schedule started and that succeeded; always, if a job or a state is given.
    """

    with_routine: bool = False


class StartQuery(msgspec.Struct, frozen=True):
    """Parameters of the form that starts a job.

    Args:
        run: The run whose parameters are entered; the defaults otherwise.
    """

    run: JobId | None = None


class SchedulesQuery(msgspec.Struct, frozen=True):
    """Parameters of the page of schedules.

    Args:
        unscheduled: Also jobs that have no schedule.
    """

    unscheduled: bool = False


class JobPages:
    """The handlers of the pages.

    Args:
        services: Jobs and the clock.
        routes: What answers the same over the API.
    """

    def __init__(self, services: Services, routes: JobRoutes) -> None:
        self._jobs = services.jobs
        self._clock = services.clock
        self._routes = routes

    @route(JOBS, policy="read", menu="Jobs")
    def list(self, request: Request, query: JobsPageQuery, identity: Identity) -> TemplateResponse:
        """Show what runs now, what waits, and what has run."""
        asked = query
        if query.name is not None or query.state is not None:
            asked = msgspec.structs.replace(query, with_routine=True)
        common = {"query": query, "run_link": _run_link, "may_cancel": lambda each: self._may_cancel(each, identity)}

        def active(state: JobState) -> Mapping[str, Any]:
            with reading_runs(identity, query):
                found = self._jobs.list(
                    limit=_ACTIVE_MAX + 1, state=state, ordering="id", name=query.name, account=query.account
                )
            return {**common, "runs": found[:_ACTIVE_MAX], "has_more": len(found) > _ACTIVE_MAX, "now": self._now()}

        def runs() -> Mapping[str, Any]:
            page = self._routes.list(request, asked, identity)
            return {
                **common,
                "runs": page.results,
                "now": self._now(),
                "next": local_link(page.next, request),
                "previous": local_link(page.previous, request),
                "routine": None if asked.with_routine else page_link(JOBS, request, with_routine=1, cursor=None),
            }

        panels = {
            "running": Panel(lambda: active("running"), "system/jobs_running.html", "Running", _ACTIVE_REFRESH_S),
            "waiting": Panel(lambda: active("waiting"), "system/jobs_waiting.html", "Waiting", _ACTIVE_REFRESH_S),
            "runs": Panel(runs, "system/jobs_runs.html", "Runs", _RUNS_REFRESH_S),
        }
        filters = ("name", "state", "account", "search", "start", "end")
        context = {
            "query": query,
            "filters": [(each, value) for each in filters if (value := getattr(query, each)) not in (None, "")],
            "clear": page_link(JOBS, None, all_accounts=1 if query.all_accounts else None),
            "names": self._names(identity),
            "startable": self._startable(identity),
            "start_link": start_link,
            "states": get_args(JobState),
            "may_read_all": may_read_all(identity),
            "accounts": [
                ("Own account", page_link(JOBS, request, all_accounts=None, account=None, cursor=None)),
                ("All accounts", page_link(JOBS, request, all_accounts=1, cursor=None)),
            ],
        }
        return TemplateResponse("system/jobs.html", context, panels=panels)

    @route(f"{JOBS}{{id}}/", policy="read")
    def show(self, id: JobId, query: JobQuery, identity: Identity) -> TemplateResponse:  # noqa: A002 - path parameter
        """Show one run: how far it is, what came of it, and what it logs."""
        record = self._find(id, query, identity)

        def load_run() -> Mapping[str, Any]:
            with reading_runs(identity, query):
                run = self._jobs.get(id)
            return {
                "run": run,
                "now": self._now(),
                "attempts_max": self._attempts_max(run.name),
                "result": None if run.result is None else _format_json(run.result),
                "parameters": _format_json(run.parameters) if run.parameters else None,
                "may_cancel": self._may_cancel(run, identity),
                "may_start": self._may_start_again(run, identity),
                "is_other_account": run.account != identity.account,
                "start_link": start_link,
            }

        def load_log() -> Mapping[str, Any]:
            with reading_runs(identity, query):
                lines = self._jobs.log_lines(id, query.log, limit=_LINES_MAX + 1, latest=True)
            return {
                "lines": [(line, _format_fields(line.fields)) for line in lines[-_LINES_MAX:]],
                "is_cut": len(lines) > _LINES_MAX,
                "download": _with_accounts(f"/api/v1/jobs/{id}/log/", query),
            }

        is_finished = record is not None and record.is_finished
        refresh_s = None if is_finished else _ACTIVE_REFRESH_S
        panels = {
            "run": Panel(load_run, "system/job_run.html", "Run", refresh_s),
            "log": Panel(load_log, "system/job_log.html", "Log", refresh_s),
        }
        context = {
            "id": id,
            "name": None if record is None else record.name,
            "is_finished": is_finished,
            "events": _with_accounts(f"/api/v1/jobs/{id}/events/", query),
            "api": _with_accounts(f"/api/v1/jobs/{id}/", query),
        }
        return TemplateResponse("system/job.html", context, panels=panels)

    @route("/system/schedules/", policy="read", menu="Schedules")
    def schedules(self, request: Request, query: SchedulesQuery, identity: Identity) -> TemplateResponse:
        """Show when schedules start jobs next, and what became of their last runs."""

        def load() -> Mapping[str, Any]:
            now = self._now()
            found = self._jobs.summaries(now)
            scheduled = sorted((each for each in found if each.schedule), key=lambda each: each.next_due or now)
            others = [each for each in found if not each.schedule]
            return {
                "jobs": [*scheduled, *(others if query.unscheduled else ())],
                "upcoming": {each.name: self._jobs.upcoming(each.name, now, _UPCOMING) for each in scheduled},
                "late": [each.name for each in scheduled if each.is_late],
                "unscheduled": None if query.unscheduled else len(others),
                "everything": page_link("/system/schedules/", request, unscheduled=1),
                "may_start": {each.name for each in found if self._may_start(each.name, identity)},
                "run_link": _run_link,
                "start_link": start_link,
                "query": RunQuery(),
                "now": now,
            }

        panel = Panel(load, "system/schedules_panel.html", "Jobs by their next start", _RUNS_REFRESH_S)
        return TemplateResponse("system/schedules.html", panels={"schedules": panel})

    @route(f"{JOBS}start/{{job}}/", policy="write")
    def ask(self, job: str, query: StartQuery) -> TemplateResponse:
        """Show the form that starts a job, with the parameters of an earlier run if one is given."""
        registered = self._controllable(job)
        values = None
        if query.run is not None:
            run = self._jobs.get(query.run)
            # Secrets are entered again.
            values = {name: value for name, value in run.parameters.items() if mask(value, name) == value}
        return self._start_page(registered, make_form(registered.parameters or NoFields, values=values))

    @route(f"{JOBS}start/{{job}}/", policy="write", method="POST")
    def start(self, request: Request, job: str, form: Submitted[NoFields]) -> FormResponse:
        """Start a job with the parameters of the form."""
        registered = self._controllable(job)
        entered = form.of(registered.parameters or NoFields)
        try:
            return self._start(request, job, entered.value())
        except (InvalidError, ConflictError) as ex:
            return Response(self._start_page(registered, entered.again(ex)), ex.status)

    @route(f"{JOBS}{{id}}/again/", policy="write", method="POST")
    def start_again(
        self,
        request: Request,
        id: JobId,  # noqa: A002 - path parameter
        form: Submitted[NoFields],
    ) -> FormResponse:
        """Start a job once more, with the parameters of one of its runs."""
        form.value()
        run = self._jobs.get(id)
        self._controllable(run.name)
        return self._start(request, run.name, run.parameters)

    @route(f"{JOBS}{{id}}/cancel/", policy="write", method="POST")
    def cancel(self, id: JobId, form: Submitted[NoFields]) -> FormResponse:  # noqa: A002 - path parameter
        """Cancel a run that waits, ask one that runs to stop."""
        form.value()
        try:
            record = self._routes.cancel(id).body
        except ConflictError:
            return redirect(f"{JOBS}{id}/", FINISHED)
        return redirect(f"{JOBS}{id}/", CANCELLED if record.is_finished else ASKED_TO_STOP)

    def _start(self, request: Request, name: str, parameters: msgspec.Struct | Mapping[str, Any]) -> Response[None]:
        record, is_new = self._jobs.start_once(name, parameters, request_id=request.request_id)
        return redirect(f"{JOBS}{record.id}/", QUEUED if is_new else WAITED_ALREADY)

    def _controllable(self, name: str) -> RegisteredJob:
        registered = self._jobs.registry.get(name)
        self._jobs.ensure_may_control(name)
        return registered

    def _start_page(self, registered: RegisteredJob, form: Form) -> TemplateResponse:
        job = registered.job
        context = {
            "job": job,
            "plugin": registered.plugin,
            "description": inspect.getdoc(job.run),
            "schedule": self._jobs.registry.schedules.get(job.name),
            "form": form,
        }
        return TemplateResponse("system/job_start.html", context)

    def _now(self) -> datetime:
        return self._clock.now()

    def _find(self, job_id: int, query: JobQuery, identity: Identity) -> JobRecord | None:
        """Return a run; None while the database is away, so that its panels say so."""
        try:
            with reading_runs(identity, query):
                return self._jobs.get(job_id)
        except UnavailableError:
            return None

    def _names(self, identity: Identity) -> Sequence[str]:
        """Return the jobs whose runs the client may find."""
        registry = self._jobs.registry
        return [each for each in registry.names if identity.is_staff or each not in registry.service_names]

    def _startable(self, identity: Identity) -> Sequence[str]:
        return [each for each in self._names(identity) if self._may_start(each, identity)]

    def _may_start(self, name: str, identity: Identity) -> bool:
        return "write" in identity.scopes and self._jobs.may_control(name)

    def _may_start_again(self, run: JobRecord, identity: Identity) -> bool:
        is_known = run.name in self._jobs.registry.names
        return run.is_finished and is_known and run.account == identity.account and self._may_start(run.name, identity)

    def _may_cancel(self, run: JobRecord, identity: Identity) -> bool:
        is_own = run.account == identity.account
        return not run.is_finished and not run.is_cancelling and is_own and self._may_start(run.name, identity)

    def _attempts_max(self, name: str) -> int | None:
        registry = self._jobs.registry
        return registry.get(name).job.retries + 1 if name in registry.names else None


def start_link(name: str, run: int | None = None) -> str:
    """Return the page with the form that starts a job, with the parameters of a run if one is given."""
    return page_link(f"{JOBS}start/{quote(name, safe='')}/", None, run=run)


def _run_link(run: JobRecord, query: RunQuery) -> str:
    return _with_accounts(f"{JOBS}{run.id}/", query)


def _with_accounts(path: str, query: RunQuery) -> str:
    return page_link(path, None, all_accounts=1 if query.all_accounts else None)


def _format_json(value: Any) -> str:
    text = msgspec.json.format(msgspec.json.encode(mask(value)), indent=2).decode(errors="replace")
    if len(text) <= _JSON_CHARACTERS_MAX:
        return text
    return (
        f"{text[:_JSON_CHARACTERS_MAX]}\n\N{HORIZONTAL ELLIPSIS} {len(text) - _JSON_CHARACTERS_MAX:,} more characters"
    )


def _format_fields(fields: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """Return the fields of a line as text: what is text stays as it is, anything else is JSON."""
    masked = mask(fields)
    return [
        (name, value if isinstance(value, str) else msgspec.json.encode(value).decode(errors="replace"))
        for name, value in masked.items()
    ]
