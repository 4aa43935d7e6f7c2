"""The commands ``import``, ``follow``, ``export``, ``forget``, ``seed`` and ``ledger``."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any, BinaryIO, TypeVar

import click
import msgspec

from kernel import Command
from kernel.cli import echo, print_json, print_table, progress, struct_options
from plugins.observability.access import Access, Owner, account_option
from plugins.observability.container import Container
from plugins.observability.export import ExportQuery, write_export
from plugins.observability.importer.follow import PATH_MAX, FollowedFile, Positions, follow
from plugins.observability.importer.parsers import AUTO, validate_format
from plugins.observability.importer.service import COUNTS, FileReport, Importer, OnRead
from plugins.observability.ledger import LedgerPage, LedgerQuery, LedgerTotals
from plugins.observability.models import SERVICE_MAX
from plugins.observability.removal import RemovalQuery
from plugins.observability.seed import DEMO_DAYS, DEMO_EVENTS, seed

STDIN = STDOUT = "-"
DETAIL_MAX = 200
# What rotation and compression append to a name. It must not count: the ids of events are derived from their service.
_SUFFIX = re.compile(r"(?:\.(?:gz|log|txt|json|jsonl|ndjson|\d+)|[.-]\d{4}-?\d\d-?\d\d(?:[-_T]?\d+)?)$", re.IGNORECASE)
_TITLES = ("file", "format", *COUNTS)


def make_commands(container: Container) -> Iterable[Command]:
    """Make the commands; ``tiercel up`` runs ``seed`` if there are no events."""
    return [
        Command(command=_import_command(container)),
        Command(command=_follow_command(container)),
        Command(command=_export_command(container)),
        Command(command=_forget_command(container)),
        Command(command=_seed_command(container), demo=("--if-empty",)),
        Command(command=_ledger_command(container)),
    ]


# import


class ImportSummary(msgspec.Struct, frozen=True):
    """The outcome of all files; the counts are sums."""

    files: Sequence[FileReport]
    lines: int
    inserted: int
    replaced: int
    duplicates: int
    refused: int
    repaired: int
    capped: int

    @property
    def failed(self) -> bool:
        """Whether a file could not be read, or every line was refused."""
        is_nothing_stored = self.inserted + self.replaced + self.duplicates == 0
        return any(report.problem for report in self.files) or (is_nothing_stored and self.refused > 0)


def service_of_file(file: str) -> str:
    """Return the service that a file is named after; the same after rotation or compression."""
    name = "stdin" if file == STDIN else Path(file).name
    while _SUFFIX.sub("", name) not in ("", name):
        name = _SUFFIX.sub("", name)
    return name.encode("utf-8", "replace").decode().strip()[:SERVICE_MAX] or "unnamed"


def _import_command(container: Container) -> click.Command:
    @click.command("import")
    @click.argument("files", nargs=-1, required=True, metavar="FILE...")
    @_log_options(container)
    @click.option(
        "--replace",
        is_flag=True,
        help="Replace what an earlier import stored of the same lines, such as after one with another --format.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def command(
        *,
        files: Sequence[str],
        service: str | None,
        format_name: str,
        replace: bool,
        with_templates: bool,
        account: int,
        as_json: bool,
    ) -> None:
        """Import access logs or JSON lines, plain, gzip or zstd; FILE - is standard input.

        What was imported before is not stored again, also when the file grew, was renamed or packed since, as long as
        the service is the same. With --replace it is updated where it differs; what was edited since is lost.

        The latency comes from the fields for it in the format, or from times behind the format that cannot be mistaken;
        where there is none, it is absent. JSON lines hold one event each, as for the REST interface; --service is for
        events that name none.
        """
        importer = Importer(
            container.ingest,
            container.settings.ingest_batch_size,
            container.now,
            container.templates if with_templates else None,
            replace=replace,
            say=lambda text: echo(text, err=True),
            owner=Owner(account),
        )
        reports = [FileReport(file, format_name) for file in files]
        with progress("bytes", _total_bytes(files)) as bar:
            for report in reports:
                _import(importer, report, service, bar.advance)
        summary = _sum_up(reports)
        _print_import(summary, as_json=as_json)
        if summary.failed:
            sys.exit(1)

    return command


F = TypeVar("F", bound=Callable[..., None])


def _log_options(container: Container) -> Callable[[F], F]:
    """Return a decorator that adds the options of all commands that read logs."""
    options = (
        click.option("--service", callback=_validate_service, help="The service; by default the name of the file."),
        click.option(
            "--format",
            "format_name",
            default=AUTO,
            show_default=True,
            callback=_validate_format,
            metavar="FORMAT",
            help="auto, json, combined, common, vhost_combined, one of these with the fields behind it such as "
            "combined+request_time, nginx_json, traefik_json, caddy, envoy_json, alb, w3c, or a format string of "
            "Apache or nginx.",
        ),
        click.option(
            "--templates/--no-templates",
            "with_templates",
            default=container.settings.template_imports,
            show_default=True,
            help="Turn paths into templates: /users/42 into /users/{id}. The path is kept in the tag 'path'.",
        ),
        account_option,
    )

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _import(importer: Importer, report: FileReport, service: str | None, on_read: OnRead) -> None:
    with ExitStack() as stack:
        try:
            stream = _open(report.file, stack)
        except (OSError, ValueError) as ex:
            report.problem = f"cannot be read: {ex}"
            return
        name = service or service_of_file(report.file)
        importer.import_file(report, stream, on_read, service=name, json_service=service)


def _open(file: str, stack: ExitStack) -> BinaryIO:
    if file == STDIN:
        return sys.stdin.buffer
    return stack.enter_context(Path(file).open("rb"))


def _total_bytes(files: Sequence[str]) -> float | None:
    try:
        return None if STDIN in files else float(sum(Path(file).stat().st_size for file in files))
    except (OSError, ValueError):
        return None


def _sum_up(reports: Sequence[FileReport]) -> ImportSummary:
    return ImportSummary(reports, *(sum(getattr(report, name) for report in reports) for name in COUNTS))


def _print_import(summary: ImportSummary, *, as_json: bool) -> None:
    for report in summary.files:
        for refused in report.shown:
            detail = f" ({refused.detail[:DETAIL_MAX]})" if refused.detail else ""
            echo(f"{report.file}:{refused.line}: {refused.reason}{detail}", err=True)
        if report.problem:
            echo(f"{report.file}: {report.problem}", err=True)
    if as_json:
        print_json(summary)
        return
    rows = [[getattr(report, title) for title in _TITLES] for report in summary.files]
    if len(rows) > 1:
        rows.append(["all", "", *(getattr(summary, title) for title in _TITLES[2:])])
    print_table(_TITLES, rows)
    for report in summary.files:
        for text in _remarks(report):
            echo(f"{report.file}: {text}")


def _remarks(report: FileReport) -> Iterator[str]:
    for reason, count in report.reasons.most_common():
        yield f"{count:,} refused: {reason}"
    for reason, count in report.repairs.most_common():
        yield f"{count:,} repaired: {report.with_example(reason)}"
    yield from report.notes
    if report.differing:
        yield f"{report.differing:,} duplicates differ from what is stored; use --replace"


def _validate_service(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    name = value.strip() if value is not None else None
    if name is not None and not (0 < len(name) <= SERVICE_MAX and name.isprintable()):
        raise click.BadParameter(f"Expected 1 to {SERVICE_MAX} characters that can be printed.")
    return name


def _validate_format(_context: click.Context, _option: click.Parameter, value: str) -> Any:
    try:
        validate_format(value)
    except ValueError as ex:
        raise click.BadParameter(str(ex)) from ex
    return value


# follow


def _follow_command(container: Container) -> click.Command:
    @click.command("follow")
    @click.argument("files", nargs=-1, required=True, metavar="FILE...")
    @_log_options(container)
    @click.option("--new-only", is_flag=True, help="Read files that are followed for the first time from their end.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def command(
        *,
        files: Sequence[str],
        service: str | None,
        format_name: str,
        with_templates: bool,
        account: int,
        new_only: bool,
        as_json: bool,
    ) -> None:
        """Import access logs or JSON lines while they are written, until the command is interrupted.

        A file that is rotated is read to its end before the new one; one that is truncated is read from its beginning.
        The position is kept: what was written while the command did not run is read when it starts, from rotated files
        too. Nothing is stored twice, also if files are imported as well. While the database is unavailable it waits.
        """
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        importer = Importer(
            container.ingest,
            container.settings.ingest_batch_size,
            container.now,
            container.templates if with_templates else None,
            say=lambda text: echo(text, err=True),
            owner=Owner(account),
        )
        positions = Positions(container.db, account)
        followed = []
        for file in files:
            path = Path(file).absolute()
            if len(str(path)) > PATH_MAX:
                raise click.BadParameter(f"Expected a path of at most {PATH_MAX} characters.")
            name = service or service_of_file(file)
            report = FileReport(file, format_name)
            followed.append(
                FollowedFile(path, name, importer, positions, report, stopping, json_service=service, new_only=new_only)
            )
        try:
            follow(followed, stopping)
        finally:
            summary = _sum_up([file.report for file in followed])
            _print_import(summary, as_json=as_json)
        if any(report.problem for report in summary.files):
            sys.exit(1)

    return command


# export


def _export_command(container: Container) -> click.Command:
    @click.command("export")
    @click.option("--output", default=STDOUT, show_default=True, metavar="FILE", help="The file; - is standard output.")
    @account_option
    @struct_options(ExportQuery)
    def command(query: ExportQuery, *, output: str, account: int) -> None:
        """Export every request log that some filters match into a file, in one snapshot of the database.

        The file appears under its name once it is complete. Its end says how many request logs it has: a last line in
        csv and ndjson, the metadata in parquet.
        """
        try:
            with ExitStack() as stack:
                stream = sys.stdout.buffer if output == STDOUT else stack.enter_context(_complete_file(Path(output)))
                bar = stack.enter_context(progress("request logs"))
                rows = write_export(container.scanner, query, stream, bar.show, Access(account=account))
                stream.flush()
        except OSError as ex:
            raise click.ClickException(f"{output} cannot be written: {ex}") from ex
        echo(f"{rows:,} request logs exported", err=True)

    return command


@contextmanager
def _complete_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces ``path`` at the end of the block, unless that raises."""
    # Links stay what they are; what is no file, such as a pipe, is written straight.
    path = path.resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as stream:
            yield stream
        return
    unfinished = path.with_name(f".{path.name}.part")
    try:
        with unfinished.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


# forget


def _forget_command(container: Container) -> click.Command:
    @click.command("forget")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @account_option
    @struct_options(RemovalQuery)
    def command(query: RemovalQuery, *, yes: bool, account: int, as_json: bool) -> None:
        """Delete every request log that some filters match. Asks first, with their number; a filter is required.

        They are deleted in batches: what is interrupted stays correct, and the same command completes it. Analytics
        count what is left at every moment.
        """
        removal, access = container.removal, Access(account=account)
        result = removal.count(query, access)
        if result.matched and not query.dry_run:
            if not yes:
                click.confirm(f"Delete {result.matched:,} request logs?", abort=True, err=True)
            with progress("request logs", result.matched) as bar:
                result = removal.remove(query, access, on_batch=lambda deleted: bar.show(deleted, result.matched))
        if as_json:
            print_json(result)
        else:
            print_table(("matched", "deleted"), [(result.matched, result.deleted)])
        if result.kept_before is not None:
            echo(
                f"Analytics of the time before {result.kept_before.isoformat()} still count such request logs: "
                "retention has removed these themselves, and their sums cannot be taken apart.",
                err=True,
            )

    return command


# seed


def _seed_command(container: Container) -> click.Command:
    @click.command("seed")
    @click.option("--events", default=DEMO_EVENTS, show_default=True, type=click.IntRange(0), help="How many.")
    @click.option("--days", default=DEMO_DAYS, show_default=True, type=click.IntRange(1, 3650), help="How far back.")
    @click.option("--random-seed", type=int, help="The same number makes the same events.")
    @account_option
    @click.option("--if-empty", is_flag=True, help="Only if there are no events at all.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def command(
        *, events: int, days: int, random_seed: int | None, account: int, if_empty: bool, as_json: bool
    ) -> None:
        """Fill the store with demo data: a daily rhythm, a slow endpoint, an incident."""
        inserted = 0
        if not (if_empty and not container.store.is_empty()):
            inserted = seed(
                container.ingest,
                count=events,
                days=days,
                end=container.now(),
                random=Random(random_seed),  # noqa: S311 - demo data
                batch_size=container.settings.ingest_batch_size,
                owner=Owner(account),
            )
        if as_json:
            print_json({"inserted": inserted})
        else:
            echo(f"{inserted:,} demo events stored.")

    return command


# ledger


def _ledger_command(container: Container) -> click.Command:
    @click.command("ledger")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @account_option
    @struct_options(LedgerQuery)
    def command(query: LedgerQuery, *, account: int, as_json: bool) -> None:
        """Count received, stored, duplicate and rejected items, by sender and minute: of the last day by default."""
        page = container.ledger.read(query, Access(account=account))
        if as_json:
            print_json(page)
        else:
            _print_ledger(page)

    return command


def _print_ledger(page: LedgerPage) -> None:
    figures = LedgerTotals.__struct_fields__
    rows = [
        (minute.minute.isoformat(timespec="minutes"), minute.sender, *(getattr(minute, name) for name in figures))
        for minute in page.minutes
    ]
    rows.append(("total", "", *(getattr(page.totals, name) for name in figures)))
    print_table(("minute", "key", *figures), rows)
    for minute in page.minutes:
        for reason, items in minute.reasons.items():
            echo(f"{minute.minute.isoformat(timespec='minutes')} {minute.sender}: {items} rejected: {reason}")
