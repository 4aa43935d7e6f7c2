"""``tiercel migrate``."""

from __future__ import annotations

import click

from kernel.app import Tiercel
from kernel.cli.output import print_json
from kernel.config import load
from kernel.db.migrate import Migration


@click.command()
@click.option("--plan", "only_plan", is_flag=True, help="Say what would be applied, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def migrate(*, only_plan: bool, as_json: bool) -> None:
    """Bring the database to where this version needs it."""
    service = Tiercel(load())
    if only_plan:
        with service.database_ready():
            found = service.pending_migrations()
    else:
        found = service.prepare()
        service.close()
        service.check_plugins()
    _print(found, "would be applied" if only_plan else "applied", as_json=as_json)


def _print(migrations: tuple[Migration, ...], what: str, *, as_json: bool) -> None:
    if as_json:
        print_json([migration.id for migration in migrations])
        return
    for migration in migrations:
        click.echo(f"{migration.id} {what}")
    if not migrations:
        click.echo("Nothing to do: every migration is applied.")
