"""The commands ``tiercel accounts audit ...``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import BinaryIO

import click
import msgspec

from kernel import (
    parse_time,
)
from kernel.audit import (
    AuditChains,
    AuditEntry,
    AuditFilter,
    ChainReport,
    ExportFormat,
    Finding,
    csv_header,
    encode_entries,
)
from kernel.cli import echo, print_json, print_table, progress, struct_options
from kernel.identity import SYSTEM_ACCOUNT

_account_option = click.option("--account", default=SYSTEM_ACCOUNT, show_default=True, help="Number of the account.")
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_format_option = click.option(
    "--format", "file_format", type=click.Choice(["ndjson", "csv"]), default="ndjson", show_default=True
)
_NEW_FILE_MODE = 0o600


class Verification(msgspec.Struct, frozen=True):
    """What ``verify --json`` prints.

    Args:
        chains: A report for each account.
        missing: Hashes of ``--head`` that no entry has.
    """

    chains: Sequence[ChainReport]
    missing: Sequence[Finding]

    @property
    def problems(self) -> int:
        """How many problems were found."""
        return len(self.missing) + sum(each.problems for each in self.chains)


def make_audit_group(chains: AuditChains) -> click.Group:
    """Make the commands."""

    @click.group("audit")
    def group() -> None:
        """Verify, list, export and cut the audit log."""

    _add_verify(group, chains)
    _add_list(group, chains)
    _add_export(group, chains)
    _add_cut(group, chains)
    return group


def _add_verify(group: click.Group, chains: AuditChains) -> None:
    @group.command("verify")
    @click.option("--account", type=int, help="Number of an account; all by default.")
    @click.option(
        "--head", "heads", multiple=True, metavar="HASH", help="A hash that an entry must have, from an earlier report."
    )
    @_json_option
    def verify(*, account: int | None, heads: tuple[str, ...], as_json: bool) -> None:
        """Verify that nothing was changed, removed or added by hand; exit code 1 if something was."""
        reports: list[ChainReport] = []
        missing: list[Finding] = []
        with progress("entries") as bar:
            for found in chains.verify(account, heads=heads, on_batch=bar.advance):
                if isinstance(found, ChainReport):
                    reports.append(found)
                else:
                    missing.append(found)
        verification = Verification(reports, missing)
        if as_json:
            print_json(verification)
        else:
            _print_verification(verification)
        if verification.problems:
            sys.exit(1)


def _add_list(group: click.Group, chains: AuditChains) -> None:
    @group.command("list")
    @_account_option
    @click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many at most.")
    @struct_options(AuditFilter)
    @_json_option
    def list_entries(*, account: int, limit: int, query: AuditFilter, as_json: bool) -> None:
        """List entries of an account, the latest first."""
        entries = chains.list(account, query, limit=limit)
        if as_json:
            print_json(entries)
            return
        titles = ("number", "time", "actor", "action", "target", "changes", "client", "request_id")
        print_table(titles, list(map(_to_cells, entries)))


def _add_export(group: click.Group, chains: AuditChains) -> None:
    @group.command("export")
    @_account_option
    @_format_option
    @click.option("--output", type=click.Path(dir_okay=False), help="A new file; standard output by default.")
    @struct_options(AuditFilter)
    def export(*, account: int, file_format: ExportFormat, output: str | None, query: AuditFilter) -> None:
        """Export entries of an account, the earliest first, as JSON lines or CSV."""
        if output is None:
            _write(sys.stdout.buffer, chains, account, query, file_format)
            return
        with _new_file(output) as file:
            count = _write(file, chains, account, query, file_format)
        echo(f"{count} entries are in {output}", err=True)


def _add_cut(group: click.Group, chains: AuditChains) -> None:
    @group.command("cut")
    @_account_option
    @click.option("--before", required=True, metavar="TIME", help="Entries of this time and later remain.")
    @click.option(
        "--export", "output", required=True, type=click.Path(dir_okay=False), help="A new file for the others."
    )
    def cut(*, account: int, before: str, output: str) -> None:
        """Export the entries before a time, then remove them. What remains can be verified as before."""
        time = _parse_time(before)
        with _new_file(output) as file:
            _write(file, chains, account, AuditFilter(end=time - timedelta(microseconds=1)), "ndjson")
        done = chains.cut(account, time)
        echo(f"{done.entries} entries up to {done.number} are in {output}; the last one's hash is {done.hash}")


def _parse_time(text: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError as ex:
        raise click.BadParameter(str(ex), param_hint="--before") from ex


@contextmanager
def _new_file(path: str) -> Iterator[BinaryIO]:
    """Make a file that is on the disk when the block ends; only its owner can read it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _NEW_FILE_MODE)
    except OSError as ex:
        raise click.ClickException(f"{path} cannot be made: {ex.strerror}") from ex
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _write(file: BinaryIO, chains: AuditChains, account: int, query: AuditFilter, file_format: ExportFormat) -> int:
    count = 0
    if file_format == "csv":
        file.write(csv_header())
    for batch in chains.scan(account, query):
        file.write(encode_entries(batch, file_format))
        count += len(batch)
    file.flush()
    return count


def _print_verification(verification: Verification) -> None:
    titles = ("account", "entries", "last", "head", "problems")
    print_table(
        titles, [(each.account, each.entries, each.number, each.head, each.problems) for each in verification.chains]
    )
    for report in verification.chains:
        for finding in report.findings:
            echo(f"account {finding.account}: {_describe(finding)}", err=True)
        if report.problems > len(report.findings):
            echo(f"account {report.account}: and {report.problems - len(report.findings)} more problems", err=True)
    for finding in verification.missing:
        echo(finding.problem, err=True)


def _describe(finding: Finding) -> str:
    return finding.problem if finding.number is None else f"entry {finding.number} {finding.problem}"


def _to_cells(entry: AuditEntry) -> tuple[object, ...]:
    target = entry.target.kind if entry.target.id is None else f"{entry.target.kind} {entry.target.id}"
    changes = bytes(entry.changes).decode()
    return (
        *(entry.number, entry.time, entry.actor.name, entry.action, target),
        *("" if changes == "{}" else changes, entry.client, entry.request_id),
    )
