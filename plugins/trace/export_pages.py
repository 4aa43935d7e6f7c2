"""Pages of exports: how fresh the specifications are, and the certificate that says what was read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from time import sleep
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from kernel import ConflictError, Identity, InvalidError, NotFoundError, Request, Response, Services, route
from kernel.datasets import Publication
from kernel.http import (
    JOB_EVENTS,
    JOB_PAGE,
    Form,
    FormResponse,
    Notice,
    Panel,
    Submitted,
    TemplateResponse,
    make_form,
    page_link,
    redirect,
)
from plugins.trace.freshness import FreshnessCheck
from plugins.trace.jobs import RECONCILE, REFRESH, RefreshParameters
from plugins.trace.notion import make_limiter
from plugins.trace.settings import TraceSettings
from plugins.trace.store import list_sources
from plugins.trace.sync.completeness import DataSourceReport, ExportReport, SourceReport

FRESHNESS_PATH = "/trace/freshness/"
CERTIFICATE_PATH = "/trace/certificate/"
STARTED = Notice("The export is queued.")
_NOTION = "https://www.notion.so/"
_PAGE_ID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_REFRESH_S = 30
# Shorter pauses are part of any export.
_PAUSE_MIN_S = 5.0
_ATTEMPTS_MAX = 100
_SHOWN_ATTEMPTS_MAX = 12
_WINDOWS_MAX = 200


class CertificateQuery(msgspec.Struct, frozen=True):
    """Parameters of the certificate.

    Args:
        job: Number of the job whose export it certifies; by default the last that succeeded.
    """

    job: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)] | None = None


class Finding(NamedTuple):
    """What a certificate says about one question.

    Args:
        state: ``passed``, or ``note`` for what people should know, or ``failed``.
        title: What was checked.
        evidence: The figures.
    """

    state: Literal["passed", "note", "failed"]
    title: str
    evidence: str


class SourceStatus(NamedTuple):
    """A source of the configuration, and how fresh its dataset is."""

    name: str
    items: int | None
    version: int | None
    read_at: datetime | None
    reconciled_at: datetime | None
    latest: Publication | None


class Attempt(NamedTuple):
    """One export, or what else published datasets: the attempts that one job made.

    Args:
        at: When.
        since: When the first of several was that ended alike, without publishing anything.
        times: How many these are.
        source: Who published.
        job: Number of the job.
        outcomes: How it ended, and for how many datasets.
        reason: Why it was refused.
        certificate: Link to the certificate; None if it has none.
    """

    at: datetime
    since: datetime
    times: int
    source: str
    job: int | None
    outcomes: Mapping[str, int]
    reason: str | None
    certificate: str | None


class ExportPages:
    """The handlers of ``/trace/freshness/`` and ``/trace/certificate/``.

    Args:
        services: Of this plugin.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._datasets = services.datasets
        self._settings = services.settings(TraceSettings)
        self._check = FreshnessCheck(services)

    # --- freshness --------------------------------------------------------------------------------------------------

    @route(FRESHNESS_PATH, policy="read", menu="Freshness")
    def freshness(self, identity: Identity) -> TemplateResponse:
        """Show how old the specifications are, and why; what was exported last, and when the next export is due."""
        # Exports read what no application need see.
        identity.ensure_application(None)
        return self._freshness(identity, make_form(RefreshParameters))

    @route(FRESHNESS_PATH, policy="write", method="POST")
    def refresh(self, request: Request, form: Submitted[RefreshParameters], identity: Identity) -> FormResponse:
        """Start an export, which the page then follows.

        Raises:
            ForbiddenError: Only staff may start it.
        """
        self._services.jobs.ensure_may_control(REFRESH)
        try:
            self._services.jobs.start(REFRESH, form.value(), request_id=request.request_id)
        except (InvalidError, ConflictError) as ex:
            return Response(self._freshness(identity, form.again(ex)), ex.status)
        return redirect(FRESHNESS_PATH, STARTED)

    def _freshness(self, identity: Identity, form: Form) -> TemplateResponse:
        context = {
            "certificate": CERTIFICATE_PATH,
            # The service's own jobs are for staff.
            "form": form if identity.is_staff and self._settings.is_active else None,
        }
        panels = {
            "status": Panel(lambda: self._status(identity), "trace/status.html", "Status", refresh_s=_REFRESH_S),
            "sources": Panel(self._sources, "trace/sources.html", "Sources", refresh_s=_REFRESH_S),
            "exports": Panel(lambda: self._exports(identity), "trace/exports.html", "Exports", refresh_s=_REFRESH_S),
        }
        return TemplateResponse("trace/freshness.html", context, panels=panels)

    def _status(self, identity: Identity) -> Mapping[str, Any]:
        settings = self._settings
        context: dict[str, Any] = {"idle_reason": settings.idle_reason, "setup": self._check.describe_setup()}
        if not settings.is_active:
            return context
        times = list_sources(self._services.db)
        problems: dict[str, list[str]] = {}
        for each in self._check.problems(times):
            problems.setdefault(each.reason, []).append(each.source)
        known = [times[name] for name in settings.sources if name in times]
        wait_s = make_limiter(self._services, sleep).wait_s()
        report = self._latest_report()
        return {
            **context,
            "problems": problems,
            "read_at": min((each.read_at for each in known), default=None),
            "reconciled_at": min((each.reconciled_at for each in known), default=None),
            "paused_until": (
                self._services.clock.now() + timedelta(seconds=wait_s) if wait_s >= _PAUSE_MIN_S else None
            ),
            "warnings": [(each.source, each.warnings) for each in report.sources if each.warnings],
            # The service's own jobs are for staff.
            "jobs": self._jobs() if identity.is_staff else [],
            "job_page": JOB_PAGE,
            "job_events": JOB_EVENTS,
        }

    def _jobs(self) -> Sequence[Any]:
        names = {REFRESH: "Changes", RECONCILE: "Every row"}
        found = self._services.jobs.summaries(self._services.clock.now())
        return [(names[each.name], each) for each in found if each.name in names]

    def _sources(self) -> Mapping[str, Any]:
        times = list_sources(self._services.db)
        rows: list[SourceStatus] = []
        for dataset in self._settings.datasets:
            versions = self._datasets.versions(dataset.name, 1)
            latest = self._datasets.publications(dataset.name, 1)
            read = times.get(dataset.name)
            rows.append(
                SourceStatus(
                    name=dataset.name,
                    items=versions[0].items if versions else None,
                    version=versions[0].version if versions else None,
                    read_at=None if read is None else read.read_at,
                    reconciled_at=None if read is None else read.reconciled_at,
                    latest=latest[0] if latest else None,
                )
            )
        return {"rows": rows}

    def _exports(self, identity: Identity) -> Mapping[str, Any]:
        groups: dict[object, list[Publication]] = {}
        for dataset in self._settings.datasets:
            for each in self._datasets.publications(dataset.name, _ATTEMPTS_MAX):
                groups.setdefault(each.at if each.job_id is None else each.job_id, []).append(each)
        rows: list[Attempt] = []
        for attempt in map(_attempt, sorted(groups.values(), key=_last_id, reverse=True)):
            last = rows[-1] if rows else None
            # Most exports find nothing new, or what kept the one before from publishing.
            if last is not None and "published" not in attempt.outcomes and _is_alike(last, attempt):
                rows[-1] = last._replace(since=attempt.at, times=last.times + 1)
            else:
                rows.append(attempt)
        return {"rows": rows[:_SHOWN_ATTEMPTS_MAX], "is_staff": identity.is_staff, "job_link": job_link}

    # --- the certificate --------------------------------------------------------------------------------------------

    @route(CERTIFICATE_PATH, policy="read")
    def certificate(self, query: CertificateQuery, identity: Identity) -> TemplateResponse:
        """Show what an export read and published, with the figures that prove that it is complete. To be printed."""
        identity.ensure_application(None)
        panels = {
            "certificate": Panel(
                lambda: self._certificate(query.job, identity), "trace/certificate_panel.html", "Export"
            )
        }
        return TemplateResponse("trace/certificate.html", {"freshness": FRESHNESS_PATH}, panels=panels)

    def _certificate(self, job: int | None, identity: Identity) -> Mapping[str, Any]:
        published = self._find_publications(job)
        if not published:
            if job is not None:
                raise NotFoundError(detail=f"no certificate of job {job} is kept")
            return {"report": None, "setup": self._check.describe_setup()}
        report, full = _decode_report(published[0]), self._last_full()
        latest = {each.dataset: self._datasets.publications(each.dataset, 1)[0] for each in published}
        hashes = {
            each.dataset: next(
                (version for version in self._datasets.versions(each.dataset) if version.version == each.version), None
            )
            for each in published
        }
        # Only those of the last attempt are kept.
        rejected = [
            (each.dataset, found)
            for each in published
            if each.rejected and self._last_successful(each.dataset) == each.id
            for found in self._datasets.rejected(each.dataset)
        ]
        return {
            "report": report,
            "publications": published,
            "versions": hashes,
            "job": published[0].job_id,
            "job_href": job_link(published[0].job_id) if identity.is_staff and published[0].job_id else None,
            "at": published[0].at,
            "refused": next((each.reason for each in latest.values() if each.outcome == "refused"), None),
            "is_latest": job is None or all(latest[each.dataset].id == each.id for each in published),
            "findings": [(each, _check_source(each)) for each in report.sources],
            "summary": _summarize(report, published),
            "rejected": [(dataset, split_pages(each["reason"])) for dataset, each in rejected],
            "rejected_count": sum(each.rejected for each in published),
            "notion_link": notion_link,
            "windows_max": _WINDOWS_MAX,
            "full": None if _is_full(report) or full is None else page_link(CERTIFICATE_PATH, job=full),
        }

    def _find_publications(self, job: int | None) -> Sequence[Publication]:
        """Return what an export published, by default the last: an attempt for each dataset."""
        attempts = self._list_exports()
        wanted = job if job is not None else max((each.job_id or 0 for each in attempts), default=None)
        return [each for each in attempts if each.job_id == wanted]

    def _list_exports(self) -> Sequence[Publication]:
        return [
            each
            for dataset in self._settings.datasets
            for each in self._datasets.publications(dataset.name, _ATTEMPTS_MAX)
            if each.outcome != "refused" and each.job_id is not None and _decode_report(each).sources
        ]

    def _last_full(self) -> int | None:
        """Return the job of the last export that read every row, as far as it is known."""
        full = (each.job_id or 0 for each in self._list_exports() if _is_full(_decode_report(each)))
        return max(full, default=None)

    def _last_successful(self, name: str) -> int | None:
        attempts = self._datasets.publications(name, _ATTEMPTS_MAX)
        return next((each.id for each in attempts if each.outcome != "refused"), None)

    def _latest_report(self) -> ExportReport:
        published = self._find_publications(None)
        return _decode_report(published[0]) if published else ExportReport()


def job_link(id_: int) -> str:
    """Return the link to the page of a job."""
    return JOB_PAGE.format(id=id_)


def notion_link(id_: str) -> str:
    """Return the link to a page, database or data source in Notion."""
    return _NOTION + id_.replace("-", "")


def split_pages(text: str) -> Sequence[tuple[str, str | None]]:
    """Split a text at the ids of pages: each part with a link to Notion, if it is one."""
    parts: list[tuple[str, str | None]] = []
    end = 0
    for found in _PAGE_ID.finditer(text):
        parts += [(text[end : found.start()], None), (found[0], notion_link(found[0]))]
        end = found.end()
    return [*parts, (text[end:], None)]


def _decode_report(publication: Publication) -> ExportReport:
    """Return the report of an export; an empty one if something else published."""
    try:
        return msgspec.convert(publication.details, ExportReport, strict=False)
    except msgspec.ValidationError:
        return ExportReport()


def _is_full(report: ExportReport) -> bool:
    return all(each.mode == "full" for each in report.sources)


def _attempt(group: Sequence[Publication]) -> Attempt:
    last = max(group, key=lambda each: each.id)
    outcomes: dict[str, int] = {}
    for each in group:
        outcomes[each.outcome] = outcomes.get(each.outcome, 0) + 1
    has_report = last.job_id is not None and last.outcome != "refused" and bool(_decode_report(last).sources)
    certificate = page_link(CERTIFICATE_PATH, job=last.job_id) if has_report else None
    return Attempt(last.at, last.at, 1, last.source, last.job_id, outcomes, last.reason, certificate)


def _last_id(group: Sequence[Publication]) -> int:
    return max(each.id for each in group)


def _is_alike(one: Attempt, other: Attempt) -> bool:
    return (one.source, one.outcomes, one.reason) == (other.source, other.outcomes, other.reason)


def _summarize(report: ExportReport, published: Sequence[Publication]) -> Sequence[Finding]:
    rows = sum(each.rows for each in report.sources)
    rejected = sum(each.rejected for each in published)
    missing = sum(each.missing for each in report.sources)
    links, unlinked = (sum(getattr(each, name) for each in report.sources) for name in ("links", "unlinked"))
    warnings = sum(len(each.warnings) for each in report.sources)
    return [
        Finding(
            "note" if missing else "passed",
            "All rows were read",
            f"{rows:,} rows"
            + (f"; {missing:,} of the last export are gone without being in the trash" if missing else ""),
        ),
        Finding(
            "note" if rejected else "passed",
            "All rows make items",
            f"{sum(each.items for each in published):,} items, {rejected:,} rows rejected",
        ),
        Finding(
            "note" if unlinked else "passed",
            "All relations have a target",
            f"{links:,} relations, {unlinked:,} to pages in the trash left out",
        ),
        Finding("note" if warnings else "passed", "Nothing to warn of", f"{warnings:,} warnings"),
    ]


def _check_source(source: SourceReport) -> Sequence[Finding]:
    return [_check_rows(each, source) for each in source.data_sources]


def _check_rows(data_source: DataSourceReport, source: SourceReport) -> Finding:
    if source.mode == "incremental":
        evidence = f"{data_source.read:,} of {data_source.rows:,} rows had changed and were read"
        return Finding("passed", "Changes were read", evidence)
    expected = sum(each.expected for each in data_source.windows)
    fetched = sum(each.fetched for each in data_source.windows)
    evidence = f"{expected:,} rows counted, {fetched:,} read"
    if data_source.corrected:
        evidence += f", {data_source.corrected:,} that changed meanwhile read again"
    return Finding("passed" if expected == fetched or data_source.corrected else "failed", "Two passes agree", evidence)
