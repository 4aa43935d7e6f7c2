"""Commands that administer a service: ``check``, ``migrate``, ``plugins``, ``routes``, ``cache`` and ``shell``."""

from __future__ import annotations

import code
import copy
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, LiteralString

import click
from packaging.version import Version
from psycopg.rows import dict_row

from kernel.app import Tiercel
from kernel.cache_control import ProcessStats, clear_everywhere, collect_stats
from kernel.cli.checklist import Finding, check_capacity, check_deployment
from kernel.cli.output import echo, print_json, print_table
from kernel.config import Configuration, load
from kernel.contracts import HealthCheck
from kernel.db.engine import Engine
from kernel.db.migrations import Migration, MigrationError, describe_timescaledb
from kernel.db.pool import Database
from kernel.errors import BootError, ConfigError, TiercelError
from kernel.http.routing import methods_of
from kernel.logging import log_file
from kernel.package_names import PACKAGE_NAMES, describe_other_owners
from kernel.server.descriptors import raise_descriptor_limit
from kernel.suggestions import suggest

_POLLING = (
    "there is a pooler before the server, so that processes poll for changes of others, and cannot be told to clear"
    " caches; set db.direct_url to an address of the same database that leads past it"
)
_SHELL_BANNER = "Names: service, db, services['<plugin>'], sql('SELECT ...'). db.connection() borrows a connection."


# --- check ----------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(*, as_json: bool) -> None:
    """Verify configuration, plugins, database and migrations; exit with 1 on any problem."""
    configuration, findings = _run_checks()
    entries = configuration.entries() if configuration is not None else ()
    if as_json:
        print_json({"ok": all(found.ok for found in findings), "findings": findings, "settings": entries})
    else:
        print_table(("setting", "value", "from"), [(entry.key, entry.value, entry.origin) for entry in entries])
        echo()
        for found in findings:
            echo(f"[{found.mark}] {found.check}: {found.detail}")
    if not all(found.ok for found in findings):
        sys.exit(1)


def _run_checks() -> tuple[Configuration | None, list[Finding]]:
    configuration: Configuration | None = None
    try:
        configuration = load()
        service = Tiercel(configuration)
    except ConfigError as ex:
        return configuration, [Finding("configuration", ok=False, detail=problem) for problem in ex.problems]
    except BootError as ex:
        return configuration, [Finding("plugins", ok=False, detail=str(ex))]
    findings = [*check_setup(service), *_check_log_file(service)]
    try:
        with service.database_ready() as engine:
            findings += check_database(service, engine)
    except TiercelError as ex:
        findings.append(Finding("database", ok=False, detail=str(ex)))
    return configuration, findings


def check_setup(service: Tiercel) -> list[Finding]:
    """Check what needs no database, and write nothing."""
    configuration = service.configuration
    findings = [
        Finding("configuration", ok=True, detail=f"{len(configuration.entries())} settings"),
        *_check_packages(),
    ]
    if written := configuration.written_secrets():
        detail = f"{', '.join(written)}: keep secrets in the environment or in .env, not in a file that others may read"
        findings.append(Finding("secrets", ok=True, detail=detail, warning=True))
    findings += _check_variables(configuration)
    findings.append(_run_check("plugins", service.registry.check_health))
    findings += _check_names(service)
    findings.append(_run_check("access", lambda: _check_access(service)))
    if problem := raise_descriptor_limit(service.settings):
        findings.append(Finding("descriptors", ok=True, detail=problem, warning=True))
    findings += check_deployment(service, service.clock.now())
    for _, health_check in service.registry.contributions(HealthCheck):
        if health_check.setup is not None:
            findings.append(_run_check(health_check.name, health_check.setup))
    return findings


def check_database(service: Tiercel, engine: Engine) -> list[Finding]:
    """Check a database that answers.

    Raises:
        TiercelError: It does not any more.
    """
    findings = [Finding("database", ok=True, detail=f"{engine.name} {engine.version}, {engine.database}")]
    findings += _check_server(service)
    migrations = list(_check_migrations(service))
    findings += migrations
    if all(found.ok for found in migrations):
        findings += _review(service)
    return findings


def _run_check(name: str, run: Callable[[], str]) -> Finding:
    try:
        return Finding(name, ok=True, detail=run())
    except TiercelError as ex:
        return Finding(name, ok=False, detail=str(ex))


def _check_packages() -> Sequence[Finding]:
    taken = [Finding("packages", ok=True, detail=each, warning=True) for each in describe_other_owners(Path.cwd())]
    return taken or [Finding("packages", ok=True, detail=f"nobody else has {', '.join(PACKAGE_NAMES)}")]


def _check_variables(configuration: Configuration) -> Sequence[Finding]:
    return [
        Finding(
            "variables",
            ok=True,
            detail=f"{', '.join(unused.variables)} in {unused.place}: no effect: {unused.reason}",
            warning=True,
        )
        for unused in configuration.unused_variables()
    ]


def _check_server(service: Tiercel) -> Iterator[Finding]:
    if not service.db.is_direct():
        yield Finding("pooler", ok=True, detail=_POLLING, warning=True)
    if advice := describe_timescaledb(service.db.direct_conninfo):
        yield Finding("timescaledb", ok=True, detail=advice, warning=True)


def _check_names(service: Tiercel) -> Sequence[Finding]:
    """Check names that match nothing: one that is similar to a known name is misspelt, another may be of no use now."""
    findings = [
        Finding(
            "disabled",
            ok=nearest is None,
            detail=f"there is no plugin {name!r}{suggest(nearest)}",
            warning=True,
        )
        for name, nearest in service.registry.unmatched_disabled().items()
    ]
    unmatched = service.shared.applications.unmatched_filters
    findings += [Finding("filters", ok=each.nearest is None, detail=str(each), warning=True) for each in unmatched]
    return findings


def _check_log_file(service: Tiercel) -> Sequence[Finding]:
    file = log_file(service.settings.log)
    if file is None:
        return []
    try:
        file.ensure_writable()
    except OSError as ex:
        return [Finding("log", ok=False, detail=f"{file.path} cannot be written: {ex.strerror or ex}")]
    return [Finding("log", ok=True, detail=str(file.path))]


def _check_access(service: Tiercel) -> str:
    service.ensure_safe()
    return f"auth is {service.settings.auth} on {service.settings.server.bind}"


def _check_migrations(service: Tiercel) -> Iterator[Finding]:
    """Compare the migrations with those that were applied, and the role's privileges with what they need."""
    missing = service.missing_privileges()
    lacks = "".join(f"\n  {each}" for each in (*missing.to_migrate, *missing.to_run))
    try:
        pending = service.pending_migrations()
    except MigrationError as ex:
        yield Finding("migrations", ok=False, detail=str(ex))
        return
    except BootError:
        yield Finding("privileges", ok=False, detail=f"the service cannot run:{lacks}")
        return
    if pending:
        names = "".join(f"\n  {migration.id}" for migration in pending)
        detail = f"{len(pending)} of {len(service.migrations())} not applied; run: tiercel migrate{names}"
        yield Finding("migrations", ok=False, detail=detail)
    else:
        newer = service.newer_migrations()
        by_newer = f"; a newer version applied {', '.join(newer)} as well, with which this one works" if newer else ""
        yield Finding("migrations", ok=True, detail=f"{len(service.migrations())} applied{by_newer}")
    if missing.to_run:
        yield Finding("privileges", ok=False, detail=f"the service cannot run:{lacks}")
    elif missing.to_migrate and pending:
        yield Finding("privileges", ok=False, detail=f"migrations would fail:{lacks}")
    elif missing.to_migrate:
        detail = f"the service runs, but migrations, and partitions of further days, would fail:{lacks}"
        yield Finding("privileges", ok=True, detail=detail, warning=True)
    else:
        yield Finding("privileges", ok=True, detail="migrations and requests may do what they need")


def _review(service: Tiercel) -> Iterator[Finding]:
    """Let plugins look into a database that has all that they expect."""
    reviews = {check.name: check.review for _, check in service.registry.contributions(HealthCheck) if check.review}
    service.db.open()
    try:
        yield from check_capacity(service)
        for name, review in reviews.items():
            try:
                detail = review()
            except TiercelError as ex:
                yield Finding(name, ok=False, detail=getattr(ex, "detail", None) or str(ex))
                continue
            if detail:
                yield Finding(name, ok=True, detail=detail, warning=True)
    finally:
        service.db.close()


# --- migrate --------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--plan", "only_plan", is_flag=True, help="Print the pending migrations, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def migrate(*, only_plan: bool, as_json: bool) -> None:
    """Apply pending migrations to the database."""
    service = Tiercel(load())
    if only_plan:
        with service.database_ready():
            migrations = service.pending_migrations()
    else:
        migrations = service.prepare(log_migrations=False)
        service.close()
        service.registry.check_health()
    if as_json:
        print_json([migration.id for migration in migrations])
        return
    # Nothing runs on a database that is still empty.
    is_upgrade = len(migrations) < len(service.migrations())
    for migration in migrations:
        echo(f"{migration.id} {'would be applied' if only_plan else 'applied'}")
        if only_plan and is_upgrade:
            for line in describe_upgrade(migration):
                echo(f"  {line}")
    if not migrations:
        echo("Nothing to do: every migration is applied.")


def describe_upgrade(migration: Migration) -> Iterator[str]:
    """Say what a migration means for processes of earlier versions, line by line."""
    header = migration.header
    if header is None:
        yield "running beside it: not stated; stop the service first"
        yield "roll back: not stated; make a backup first"
        return
    if migration.release is not None and Version(header.compatible) >= migration.release:
        yield "running beside it: no earlier version; stop the service first"
    else:
        yield f"running beside it: version {header.compatible} and later"
    kind, _, detail = header.rollback.partition(" ")
    yield {
        "safe": f"roll back: to version {header.compatible} and later, and nothing is lost",
        "loses": f"roll back: to version {header.compatible} and later, which loses {detail}",
        "impossible": f"roll back: only from a backup made before: {detail}",
    }[kind]
    for lock in header.locks:
        yield f"locks: {lock}"
    if not header.locks:
        yield "locks: none that reads or writes wait for"


mig = copy.copy(migrate)
mig.name, mig.hidden = "mig", True


# --- plugins, routes ------------------------------------------------------------------------------------------------


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(*, as_json: bool) -> None:
    """List plugins: which are loaded, quarantined (and why) or disabled."""
    statuses = list(Tiercel(load()).registry.statuses.values())
    if as_json:
        print_json(statuses)
        return
    rows = [(each.name, each.state, "yes" if each.required else "no", each.origin, each.reason) for each in statuses]
    print_table(("plugin", "state", "required", "origin", "reason"), rows)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def routes(*, as_json: bool) -> None:
    """List routes: method, path, policy and plugin."""
    rows = [
        (method, mounted.template, mounted.route.policy, mounted.owner)
        for mounted in Tiercel(load()).shared.routes
        for method in methods_of(mounted.route)
    ]
    titles = ("method", "path", "policy", "plugin")
    if as_json:
        print_json([dict(zip(titles, row, strict=True)) for row in rows])
        return
    print_table(titles, rows)


# --- cache ----------------------------------------------------------------------------------------------------------


@click.group()
def cache() -> None:
    """Inspect and clear the caches of every process of the service."""


@cache.command()
@click.argument("patterns", metavar="[NAME]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def clear(*, patterns: Sequence[str], as_json: bool) -> None:
    """Remove the cached values of each NAME, which may be a pattern such as 'shop_*'; all by default."""
    patterns = patterns or ("*",)
    service = Tiercel(load())
    with service.database_open():
        try:
            processes = clear_everywhere(service.shared.db, *patterns)
        except ValueError as ex:
            raise click.BadParameter(str(ex)) from ex
    if as_json:
        print_json({"patterns": patterns, "processes": processes})
    else:
        echo(f"{processes} processes were told to clear {', '.join(patterns)}.")


@cache.command()
@click.option("--timeout-s", default=2.0, show_default=True, type=click.FloatRange(0), help="How long to wait.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def stats(*, timeout_s: float, as_json: bool) -> None:
    """Show statistics of the caches of every process that answers, and the names of what is cached."""
    service = Tiercel(load())
    with service.database_open():
        found = collect_stats(service.shared.db, timeout_s)
    if as_json:
        print_json(found)
        return
    if not found:
        echo("No process answered: the service does not run.")
        return
    print_table(
        ("process", "pid", "cache", "items", "hits", "misses", "bytes", "bytes at most"),
        [
            (one.process, one.pid, name, each.items, each.hits, each.misses, each.size_bytes, each.size_max_bytes)
            for one in found
            for name, each in one.caches.items()
        ],
    )
    _print_cached_names(found)


def _print_cached_names(found: Sequence[ProcessStats]) -> None:
    sizes: Counter[str] = Counter()
    processes: Counter[str] = Counter()
    for one in found:
        sizes.update(one.names)
        processes.update(one.names.keys())
    if sizes:
        echo()
        rows = [(name, processes[name], size) for name, size in sizes.most_common()]
        print_table(("name", "processes", "bytes"), rows)


# --- shell ----------------------------------------------------------------------------------------------------------


@click.command()
@click.option("-c", "command", metavar="CODE", help="Run this code and exit.")
def shell(command: str | None) -> None:
    """Open a Python shell on the service, or run one line of Python.

    `sql` runs a statement and returns its rows as dictionaries: sql('SELECT count(*) FROM observability.event').
    """
    service = Tiercel(load())
    with service.database_open():
        names: dict[str, Any] = {
            "service": service,
            "db": service.shared.db,
            "services": service.registry.services,
            "sql": partial(_run_sql, service.shared.db),
        }
        if command is not None:
            exec(compile(command, "<command>", "exec"), names)  # noqa: S102 - that is what a shell is for
        else:
            code.interact(banner=_SHELL_BANNER, local=names, exitmsg="")


def _run_sql(db: Database, statement: LiteralString, parameters: Any = None) -> list[dict[str, Any]]:
    """Run a statement that somebody at the shell wrote; return its rows, if it has any."""
    with db.connection() as connection:
        cursor = connection.cursor(row_factory=dict_row).execute(statement, parameters)
        return cursor.fetchall() if cursor.description is not None else []
