"""``tiercel doctor``: one file about a service that is in trouble, for somebody who is to help."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from psycopg.conninfo import make_conninfo

from kernel.app import Tiercel
from kernel.cli.admin import check_database, check_setup
from kernel.cli.checklist import Finding
from kernel.cli.output import echo, print_table
from kernel.config import Configuration, load
from kernel.doctor.database import DatabaseReader
from kernel.doctor.logs import read_log, read_server_log
from kernel.doctor.machine import (
    ClockWatch,
    read_disks,
    read_machine,
    read_probes,
    read_processes,
    read_versions,
)
from kernel.doctor.privacy import scrub, scrub_setting
from kernel.doctor.report import Part, describe_error, gather, make_report, write_report
from kernel.embedded.server import EmbeddedServer
from kernel.errors import BootError, TiercelError
from kernel.logging import make_logger
from kernel.services import PluginStatus
from kernel.settings import LogSettings

_STANDARD_OUTPUT = "-"
# Of what is counted by bucket, the sums and counts are enough.
_LEFT_OUT = re.compile(r"_(bucket|created)$")


@click.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, allow_dash=True))
@click.option(
    "--timeout-s",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0.1, 600),
    help="How long each part may take; one that takes longer is left out.",
)
def doctor(*, file: str | None, timeout_s: float) -> None:
    """Gather what helps to find out what is wrong, in FILE; '-' prints it.

    Works while the database is down or frozen: what cannot be read has the reason in its place. The file has neither
    secrets nor values of statements, nor who sent what; only you can read it. By default it is
    tiercel-doctor-TIME.json in the current directory.
    """
    made_at = datetime.now(UTC)
    results = dict(gather(_list_parts(timeout_s), timeout_s))
    report = make_report(results, made_at)
    if file == _STANDARD_OUTPUT:
        click.echo(report, nl=False)
        return
    path = Path(file or f"tiercel-doctor-{made_at:%Y%m%dT%H%M%SZ}.json")
    rows = [(name, each.status, f"{each.took_ms:,.0f}", each.reason or "") for name, each in results.items()]
    print_table(("part", "status", "ms", "reason"), rows)
    try:
        write_report(path, report)
    except OSError as ex:
        raise TiercelError(f"{path}: {ex.strerror or ex}; '-' in place of a file prints the report") from ex
    echo(f"\n{path} has all of it, {len(report.encode()):,} bytes. Read it before you send it to somebody.")


def _list_parts(timeout_s: float) -> Sequence[Part]:
    """Return the parts, in the order of the report; as many as a configuration that may be wrong allows."""
    clock = ClockWatch()
    parts = [Part("versions", read_versions), Part("machine", read_machine), Part("processes", read_processes)]
    configuration, problem = _try(load)
    if configuration is None:
        return [*parts, Part("settings", _failing(problem)), Part("clock", clock.read)]
    settings = configuration.settings
    # Its lines would be in the log that is to be read.
    log = make_logger(LogSettings(level="error"))
    service, problem = _try(lambda: Tiercel(configuration, log=log))
    parts += [
        Part("settings", lambda: _describe_settings(configuration)),
        Part("disks", lambda: read_disks(settings)),
        Part("log", lambda: read_log(settings)),
        Part("probes", lambda: read_probes(settings, timeout_s / 3)),
    ]
    parts += _of_service(service) if service is not None else [Part("plugins", _failing(problem))]
    parts += _of_database(configuration, timeout_s)
    if service is not None:
        parts += [
            Part("check_database", lambda: _check_database(service), needs_database=True),
            Part("metrics", lambda: _read_metrics(service)),
        ]
    return [*parts, Part("clock", clock.read)]


def _of_service(service: Tiercel) -> Sequence[Part]:
    return [
        Part("plugins", lambda: [_describe_plugin(each) for each in service.registry.statuses.values()]),
        Part("check", lambda: [_describe_finding(each) for each in check_setup(service)]),
    ]


def _of_database(configuration: Configuration, timeout_s: float) -> Sequence[Part]:
    settings = configuration.settings
    parts: list[Part] = []
    if settings.db.url is not None:
        conninfo = settings.db.url.reveal()
    else:
        embedded, problem = _try(lambda: EmbeddedServer(settings.home, user=settings.db.embedded_user))
        if embedded is None:
            return [Part("database", _failing(problem))]
        # For the superuser the server reserves connections.
        conninfo = make_conninfo(embedded.superuser_conninfo, dbname=embedded.database)
        parts.append(Part("embedded_server", lambda: _describe_embedded(embedded)))
    return [*parts, *DatabaseReader(conninfo, timeout_s, settings.jobs.dead_after_s).parts()]


def _try(make: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """Return what a function makes, or why it cannot."""
    try:
        return make(), None
    except TiercelError as ex:
        return None, ex


def _failing(error: Exception | None) -> Callable[[], Any]:
    """Return what reads a part that cannot be read."""

    def fail() -> Any:
        raise BootError("" if error is None else describe_error(error))

    return fail


def _describe_settings(configuration: Configuration) -> dict[str, Any]:
    entries = configuration.entries()
    unused = [name for each in configuration.unused_variables() for name in each.variables]
    return {
        "directory": str(Path.cwd()),
        "rows": [{"key": each.key, "value": scrub_setting(each.value), "from": each.origin} for each in entries],
        "variables_without_effect": unused,
    }


def _describe_plugin(status: PluginStatus) -> dict[str, Any]:
    reason = None if status.reason is None else scrub(status.reason)
    return {"plugin": status.name, "state": status.state, "version": status.version, "reason": reason}


def _describe_finding(found: Finding) -> dict[str, Any]:
    # Of lists, such as who sends too much, the first line.
    return {"check": found.check, "result": found.mark, "detail": scrub(found.detail)}


def _check_database(service: Tiercel) -> list[dict[str, Any]]:
    """Check a database that runs: unlike ``tiercel check``, start none."""
    return [_describe_finding(each) for each in check_database(service, service.db.wait_for_server(0))]


def _describe_embedded(server: EmbeddedServer) -> dict[str, Any]:
    return {"is_running": server.is_running(), "data": str(server.data), "log": read_server_log(server.data)}


def _read_metrics(service: Tiercel) -> dict[str, float]:
    """Return what ``/metrics`` would show, without the buckets of histograms."""
    if not service.shared.metrics.is_on:
        raise BootError("metrics.enabled is false")
    service.db.open()
    try:
        return {
            _name_sample(sample.name, sample.labels): sample.value
            for family in service.shared.metrics.collect_from_outside()
            for sample in family.samples
            if not _LEFT_OUT.search(sample.name)
        }
    finally:
        service.db.close()


def _name_sample(name: str, labels: dict[str, str]) -> str:
    return name + (f"{{{', '.join(f'{label}={value}' for label, value in labels.items())}}}" if labels else "")
