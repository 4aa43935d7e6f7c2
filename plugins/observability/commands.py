"""``tiercel observability import``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from kernel import Command
from kernel.cli import print_json, print_table, progress
from plugins.observability.importing.importer import FileReport, Importer, OnRead
from plugins.observability.importing.lineformats import AUTO, check_format
from plugins.observability.model import SERVICE_MAX
from plugins.observability.parts import Parts

STDIN = "-"
DETAIL_MAX = 200
# What rotation and packing put behind a name. It must not count: the id of an event derives from its service.
_SUFFIX = re.compile(r"(?:\.(?:gz|log|txt|json|jsonl|ndjson|\d+)|[.-]\d{4}-?\d\d-?\d\d(?:[-_T]?\d+)?)$", re.IGNORECASE)
_COUNTS = ("lines", "inserted", "duplicates", "refused", "capped")
_TITLES = ("file", "format", *_COUNTS)


class Summary(msgspec.Struct, frozen=True):
    """What became of all files; the counts are sums."""

    files: Sequence[FileReport]
    lines: int
    inserted: int
    duplicates: int
    refused: int
    capped: int

    @property
    def failed(self) -> bool:
        """Whether a file could not be read, or every line was refused."""
        nothing_arrived = self.inserted + self.duplicates == 0
        return any(report.problem for report in self.files) or (nothing_arrived and self.refused > 0)


def make_commands(parts: Parts) -> Iterable[Command]:
    """Return the command ``import``."""
    return [Command(command=_make_import(parts))]


def service_name(file: str) -> str:
    """Return the service that a file is named after; the same when it is rotated or packed."""
    name = "stdin" if file == STDIN else Path(file).name
    while _SUFFIX.sub("", name) not in ("", name):
        name = _SUFFIX.sub("", name)
    return name.encode("utf-8", "replace").decode().strip()[:SERVICE_MAX] or "unnamed"


def _make_import(parts: Parts) -> click.Command:
    @click.command("import")
    @click.argument("files", nargs=-1, required=True, metavar="FILE...")
    @click.option("--service", callback=_checked_service, help="The service; by default the name of the file.")
    @click.option(
        "--format",
        "format_name",
        default=AUTO,
        show_default=True,
        callback=_checked_format,
        metavar="FORMAT",
        help="auto, combined, common, json, or a format string of Apache.",
    )
    @click.option(
        "--templates/--no-templates",
        "with_templates",
        default=parts.template_imports,
        show_default=True,
        help="Turn paths into templates: /users/42 into /users/{id}. The path is kept in the tag 'path'.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def command(
        *, files: Sequence[str], service: str | None, format_name: str, with_templates: bool, as_json: bool
    ) -> None:
        """Import access logs or JSON lines, plain or gzip; FILE - is standard input.

        What was imported before is not stored again, also when the file grew, was renamed or packed since, as long as
        the service is the same.

        The latency comes from %D or %T, or is 0 where the format has neither. For nginx's $request_time write
        %{request_time}x. JSON lines hold one event each, as for the REST interface; --service is for events that
        name none.
        """
        templates = parts.templates if with_templates else None
        importer = Importer(parts.writer, parts.batch_size, parts.now(), templates)
        reports = [FileReport(file, format_name) for file in files]
        with progress("bytes", _total_bytes(files)) as bar:
            for report in reports:
                _import(importer, report, service, bar.advance)
        summary = _sum(reports)
        _print(summary, as_json=as_json)
        if summary.failed:
            sys.exit(1)

    return command


def _import(importer: Importer, report: FileReport, service: str | None, on_read: OnRead) -> None:
    with ExitStack() as stack:
        try:
            stream = _open(report.file, stack)
        except (OSError, ValueError) as ex:
            report.problem = f"cannot be read: {ex}"
            return
        name = service or service_name(report.file)
        importer.run(report, stream, on_read, service=name, json_service=service)


def _open(file: str, stack: ExitStack) -> BinaryIO:
    if file == STDIN:
        return sys.stdin.buffer
    return stack.enter_context(Path(file).open("rb"))


def _total_bytes(files: Sequence[str]) -> float | None:
    try:
        return None if STDIN in files else float(sum(Path(file).stat().st_size for file in files))
    except (OSError, ValueError):
        return None


def _sum(reports: Sequence[FileReport]) -> Summary:
    def total(name: str) -> int:
        return sum(getattr(report, name) for report in reports)

    return Summary(reports, *(total(name) for name in _COUNTS))


def _print(summary: Summary, *, as_json: bool) -> None:
    for report in summary.files:
        for refused in report.shown:
            detail = f" ({refused.detail[:DETAIL_MAX]})" if refused.detail else ""
            click.echo(f"{report.file}:{refused.line}: {refused.reason}{detail}", err=True)
        if report.problem:
            click.echo(f"{report.file}: {report.problem}", err=True)
    if as_json:
        print_json(summary)
        return
    rows = [[getattr(report, title) for title in _TITLES] for report in summary.files]
    if len(rows) > 1:
        rows.append(["all", "", *(getattr(summary, title) for title in _TITLES[2:])])
    print_table(_TITLES, rows)
    for report in summary.files:
        for reason, count in report.reasons.most_common():
            click.echo(f"{report.file}: {count:,} refused: {reason}")


def _checked_service(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    name = value.strip() if value is not None else None
    if name is not None and not (0 < len(name) <= SERVICE_MAX and name.isprintable()):
        raise click.BadParameter(f"Expected 1 to {SERVICE_MAX} characters that can be printed.")
    return name


def _checked_format(_context: click.Context, _option: click.Parameter, value: str) -> Any:
    try:
        check_format(value)
    except ValueError as ex:
        raise click.BadParameter(str(ex)) from ex
    return value
