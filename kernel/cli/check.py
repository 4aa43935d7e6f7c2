"""``tiercel check``."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click
import msgspec

from kernel.app import Tiercel
from kernel.cli.output import print_json, print_table
from kernel.config import Configuration, load
from kernel.errors import BootError, ConfigError, TiercelError


class Finding(msgspec.Struct, frozen=True):
    """What one check found.

    Args:
        check: Its name.
        ok: Whether all is well.
        detail: What is well, or what is not.
        warning: Whether somebody should look at it although it works.
    """

    check: str
    ok: bool
    detail: str
    warning: bool = False

    @property
    def mark(self) -> str:
        """For people."""
        if not self.ok:
            return "PROBLEM"
        return "warning" if self.warning else "ok"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(*, as_json: bool) -> None:
    """Verify configuration, plugins, database and migrations; exit with 1 on any problem."""
    configuration, findings = _run()
    entries = configuration.entries() if configuration is not None else ()
    if as_json:
        print_json({"ok": all(found.ok for found in findings), "findings": findings, "settings": entries})
    else:
        print_table(("setting", "value", "from"), [(entry.key, entry.value, entry.origin) for entry in entries])
        click.echo()
        for found in findings:
            click.echo(f"[{found.mark}] {found.check}: {found.detail}")
    if not all(found.ok for found in findings):
        sys.exit(1)


def _run() -> tuple[Configuration | None, list[Finding]]:
    try:
        configuration = load()
    except ConfigError as ex:
        return None, [Finding("configuration", False, problem) for problem in ex.problems]  # noqa: FBT003
    try:
        service = Tiercel(configuration)
    except ConfigError as ex:
        return configuration, [Finding("configuration", False, problem) for problem in ex.problems]  # noqa: FBT003
    except BootError as ex:
        return configuration, [Finding("plugins", False, str(ex))]  # noqa: FBT003
    findings = [Finding("configuration", ok=True, detail=f"{len(configuration.entries())} settings")]
    if written := configuration.written_secrets():
        detail = f"{', '.join(written)}: keep secrets in the environment or in .env, not in a file that others may read"
        findings.append(Finding("secrets", ok=True, detail=detail, warning=True))
    checks: dict[str, Callable[[], str]] = {"plugins": service.check_plugins, "access": lambda: _access(service)}
    checks |= {each.name: each.setup for _, each in service.registry.health_checks if each.setup is not None}
    findings += [_find(name, run) for name, run in checks.items()]
    try:
        with service.database_ready() as engine:
            findings.append(Finding("database", ok=True, detail=f"{engine.name} {engine.version}, {engine.database}"))
            findings.append(_find("migrations", lambda: _migrations(service)))
    except TiercelError as ex:
        findings.append(Finding("database", ok=False, detail=str(ex)))
    return configuration, findings


def _find(name: str, run: Callable[[], str]) -> Finding:
    try:
        return Finding(name, ok=True, detail=run())
    except TiercelError as ex:
        return Finding(name, ok=False, detail=str(ex))


def _access(service: Tiercel) -> str:
    service.ensure_safe()
    return f"auth is {service.settings.auth} on {service.settings.server.bind}"


def _migrations(service: Tiercel) -> str:
    pending = service.pending_migrations()
    if pending:
        raise BootError(f"not applied: {', '.join(migration.id for migration in pending)}; run: tiercel migrate")
    return f"{len(service.migrations())} applied"
