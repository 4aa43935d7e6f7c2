"""``tiercel plugins`` and ``tiercel routes``."""

from __future__ import annotations

import click

from kernel.app import Tiercel
from kernel.cli.output import print_json, print_table
from kernel.config import load
from kernel.http.routing import methods_of


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(*, as_json: bool) -> None:
    """List plugins: which are loaded, quarantined (and why) or disabled."""
    found = list(Tiercel(load()).registry.statuses.values())
    if as_json:
        print_json(found)
        return
    rows = [(one.name, one.state, "yes" if one.required else "no", one.origin, one.reason) for one in found]
    print_table(("plugin", "state", "required", "origin", "reason"), rows)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def routes(*, as_json: bool) -> None:
    """List routes: method, path, who may use them, and the plugin that answers."""
    rows = [
        (method, mounted.template, mounted.route.policy, mounted.owner)
        for mounted in Tiercel(load()).shared.inventory.routes
        for method in methods_of(mounted.route)
    ]
    titles = ("method", "path", "policy", "plugin")
    if as_json:
        print_json([dict(zip(titles, row, strict=True)) for row in rows])
        return
    print_table(titles, rows)
