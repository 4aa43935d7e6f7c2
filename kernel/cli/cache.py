"""``tiercel cache``: what the processes of a service keep in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import click

from kernel.app import Tiercel
from kernel.cli.output import print_json, print_table
from kernel.config import load
from kernel.datasets.caches import ProcessStats, clear_everywhere, collect_stats


@click.group()
def cache() -> None:
    """See and clear the caches of every process of the service."""


@cache.command()
@click.argument("pattern", default="*")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def clear(*, pattern: str, as_json: bool) -> None:
    """Forget what is kept under names that match PATTERN, such as 'club_*'; everything by default."""
    service = Tiercel(load())
    with service.database_open():
        try:
            told = clear_everywhere(service.shared.db, pattern)
        except ValueError as ex:
            raise click.BadParameter(str(ex)) from ex
    if as_json:
        print_json({"pattern": pattern, "processes": told})
    else:
        click.echo(f"{told} processes were told to forget {pattern}.")


@cache.command()
@click.option("--timeout-s", default=2.0, show_default=True, type=click.FloatRange(0), help="How long to wait.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def stats(*, timeout_s: float, as_json: bool) -> None:
    """Show figures of the caches of every process that answers, and what is kept under which name."""
    service = Tiercel(load())
    with service.database_open():
        found = collect_stats(service.shared.db, timeout_s)
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("No process answered: the service does not run.")
        return
    print_table(
        ("process", "pid", "cache", "items", "hits", "misses", "bytes", "bytes at most"),
        [
            (one.process, one.pid, name, each.items, each.hits, each.misses, each.size_bytes, each.size_max_bytes)
            for one in found
            for name, each in one.caches.items()
        ],
    )
    _print_names(found)


def _print_names(found: Sequence[ProcessStats]) -> None:
    sizes: Counter[str] = Counter()
    processes: Counter[str] = Counter()
    for one in found:
        sizes.update(one.names)
        processes.update(one.names.keys())
    if sizes:
        click.echo()
        print_table(
            ("kept", "processes", "bytes"), [(name, processes[name], size) for name, size in sizes.most_common()]
        )
