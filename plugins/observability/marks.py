"""Marks: times at which something happened that charts may show the effects of, such as deployments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

import click
import msgspec
from psycopg.rows import class_row

from kernel import Command, Database, ForbiddenError, Identity, InvalidError, Route, Services
from kernel.cli import echo, print_json, struct_options
from kernel.http import JOB_PAGE, Action, Edit, Resource, ResourcePages
from kernel.jobs import JobRecord
from plugins.observability.access import Access, OwnedServices, account_option
from plugins.observability.models import Service
from plugins.observability.page_links import MARKS
from plugins.observability.queries import QUERIES
from plugins.observability.requests_route import ROOTS
from plugins.observability.resolution import Span

# Of one page.
MARKS_MAX = 50

TITLE_MAX = 200
Title = Annotated[str, msgspec.Meta(min_length=1, max_length=TITLE_MAX)]
# A link of a page: no other scheme can be trusted to be one.
Url = Annotated[str, msgspec.Meta(max_length=2000, pattern="^https?://")]


class MarkDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What a mark may have beside its title.

    Args:
        time: When; now by default.
        service: The service that it concerns; all by default.
        url: Where to read more.
    """

    time: datetime | None = None
    service: Service | None = None
    url: Url | None = None


# Its fields are those of a form, which begins with the title.
class NewMark(msgspec.Struct, frozen=True, kw_only=True):
    """A mark as clients send it.

    Args:
        title: What happened, such as ``shop 1.5.0``.
        time: When it happened; now by default.
        service: The service that it concerns; all by default.
        url: Where to read more.
    """

    title: Title
    time: datetime | None = None
    service: Service | None = None
    url: Url | None = None


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A stored mark.

    Args:
        id: Its number.
        account: Whose it is.
        time: When it happened; a new one happened now by default.
        title: What happened, such as ``shop 1.5.0``.
        service: The service that it concerns; None for all.
        url: Where to read more.
        created_at: When it was stored.
        updated_at: When it was changed last.
    """

    id: int
    account: int
    time: datetime
    title: Title
    service: Service | None
    url: Url | None
    created_at: datetime
    updated_at: datetime


class Marks(Resource[Mark]):
    """``/api/requests/marks/``."""

    path = f"{ROOTS[0]}marks/"
    table = "observability.mark"
    item = Mark
    body = NewMark
    search = ("title", "service")
    ordering = ("-time",)
    site_column = None
    keeps_deleted = False
    example: ClassVar[Mapping[str, Any]] = {
        "title": "shop 1.5.0",
        "service": "shop",
        "url": "https://example.org/releases/1.5.0",
    }

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        self._now = services.clock.now

    def routes(self, *actions: Action) -> Sequence[Route]:
        """Return the routes, below both roots of request logs."""
        return [
            msgspec.structs.replace(each, aliases=(each.path.replace(*ROOTS, 1),)) for each in super().routes(*actions)
        ]

    def authorize(self, action: Action, identity: Identity) -> None:
        """Let whoever is limited to some services add marks of these, and no more: marks of others are not theirs."""
        if identity.services is not None and action != "create":
            raise ForbiddenError(detail=f"{identity.name} is limited to some services, and may only add marks")

    def clean(self, edit: Edit[Mark]) -> dict[str, Any]:
        """Complete the time."""
        identity = edit.identity
        if identity is not None and identity.services is not None and edit.values["service"] not in identity.services:
            raise InvalidError(errors={"service": ["Expected one of the services that you may write to."]})
        return {**edit.values, "time": edit.values["time"] or self._now()}


class ShownMark(msgspec.Struct, frozen=True):
    """A mark, or a run of a job, as pages show it.

    Args:
        time: When.
        title: What happened.
        kind: Which of the two.
        service: The service that it concerns; None for all.
        url: Where to read more.
    """

    time: datetime
    title: str
    kind: Literal["deploy", "job"] = "deploy"
    service: str | None = None
    url: str | None = None


class MarkStore:
    """Finds marks and runs of jobs.

    Args:
        db: The database.
        list_jobs: Returns runs of jobs, the latest first.
        owned_services: Tells which services applications own.
    """

    def __init__(
        self, db: Database, list_jobs: Callable[[], Iterable[JobRecord]], owned_services: OwnedServices
    ) -> None:
        self._db = db
        self._list_jobs = list_jobs
        self._owned_services = owned_services

    def find(
        self, access: Access, window: Span, service: str | None = None, application: str | None = None
    ) -> Sequence[ShownMark]:
        """Return the marks and the runs of jobs of a window, the newest first, ``MARKS_MAX`` at most.

        Args:
            access: Of whoever asks.
            window: When.
            service: Marks of this service, and of none.
            application: Marks of the services of this application, and of none.
        """
        services = access.services_of(application, self._owned_services)
        if service is not None:
            services = (service,)
        values = {
            "account": access.account,
            "visible_services": None if access.services is None else sorted(access.services),
            "start": window.start,
            "end": window.end,
            "services": None if services is None else list(services),
            "limit": MARKS_MAX,
        }
        with self._db.connection() as connection, connection.cursor(row_factory=class_row(ShownMark)) as cursor:
            marks = cursor.execute(QUERIES["list_marks"], values).fetchall()
        return sorted([*marks, *self._runs(access, window)], key=lambda mark: mark.time, reverse=True)[:MARKS_MAX]

    def _runs(self, access: Access, window: Span) -> Iterator[ShownMark]:
        """Yield the runs of jobs that began in a window."""
        if access.services is not None or access.sites is not None:
            return
        for job in self._list_jobs():
            if job.created_at < window.start and job.is_finished:
                return
            if job.started_at is not None and window.start <= job.started_at < window.end:
                url = JOB_PAGE.format(id=job.id)
                yield ShownMark(job.started_at, f"{job.name}: {job.state}", "job", url=url)


def make_mark_pages(services: Services, marks: Marks) -> ResourcePages[Mark]:
    """Return the pages on which people add marks, and change and delete them."""
    return ResourcePages(
        services, marks, MARKS, menu="Marks", columns=("title", "service", "time", "url"), in_menu=_sees_all_services
    )


def _sees_all_services(identity: Identity) -> bool:
    return identity.services is None


def make_mark_command(marks: Marks) -> Command:
    """Return ``tiercel observability mark``."""

    @click.command("mark")
    @click.argument("title")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @account_option
    @struct_options(MarkDetails)
    def mark(query: MarkDetails, *, title: str, as_json: bool, account: int) -> None:
        """Mark a time in charts, such as that of a deployment: now, unless a time is given."""
        if not 1 <= len(title) <= TITLE_MAX:
            raise click.BadParameter(f"expected at most {TITLE_MAX} characters, and not none", param_hint="TITLE")
        values = {"title": title, **msgspec.structs.asdict(query), "account": account}
        with marks.transaction(None) as connection:
            made = marks.insert(connection, values, None)
        if as_json:
            print_json(made)
        else:
            echo(f"mark {made.id} at {made.time:%Y-%m-%dT%H:%M:%SZ}")

    return Command(command=mark)
