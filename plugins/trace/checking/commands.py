"""``tiercel trace check``."""

from __future__ import annotations

import sys

import click

from kernel import Command, Services
from kernel.cli import print_json, print_table
from plugins.trace.checking.model import Check, DataSourceCheck, list_problems


def make_check_command(services: Services) -> Command:
    """Return the command."""

    @click.command("check")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def check_mapping(*, as_json: bool) -> None:
        """Compare [trace.sources] with what Notion has; exit with 1 on any problem.

        Asks for databases, columns and the first rows, and stores nothing.
        """
        # Imported where it is needed: Notion's client takes a tenth of a second.
        from plugins.trace.checking.run import check

        found = check(services, lambda reason: click.echo(f"trying again: {reason}", err=True))
        if as_json:
            print_json(found)
        else:
            _print(found)
        if not found.ok:
            sys.exit(1)

    return Command(command=check_mapping)


def _print(found: Check) -> None:
    where = f"{found.api_url}, version {found.api_version}"
    if found.problem is not None:
        click.echo(f"[PROBLEM] {where}: {found.problem}")
        return
    click.echo(f"{where}: the token is accepted")
    for source in found.sources:
        for each in source.data_sources:
            _print_data_source(source.source, each)
    problems = [problem for source in found.sources for problem in list_problems(source)]
    click.echo()
    for problem in problems:
        click.echo(f"[PROBLEM] {problem}")
    click.echo("all of it fits" if found.ok else f"problems: {len(problems)}")


def _print_data_source(source: str, found: DataSourceCheck) -> None:
    rows = f"the first {found.rows} rows" if found.has_more else f"rows: {found.rows}"
    click.echo(f"\n{source}: {found.title} ({found.id}), {rows}")
    titles = ("field", "column", "type", "state", "detail")
    print_table(titles, [[getattr(each, title) for title in titles] for each in found.fields])
    for note in found.notes:
        click.echo(note)
