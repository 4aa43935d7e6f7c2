"""``tiercel shell``."""

from __future__ import annotations

import code
from typing import Any

import click

from kernel.app import Tiercel
from kernel.config import load

_BANNER = "service, db and services['<plugin>'] are here; db.connection() borrows a connection."


@click.command()
@click.option("-c", "command", metavar="CODE", help="Run this and leave.")
def shell(command: str | None) -> None:
    """Open a Python shell on the service, or run one line of Python."""
    service = Tiercel(load())
    with service.database_open():
        names: dict[str, Any] = {
            "service": service,
            "db": service.shared.db,
            "services": service.registry.services,
        }
        if command is not None:
            exec(compile(command, "<command>", "exec"), names)  # noqa: S102 - that is what a shell is for
        else:
            code.interact(banner=_BANNER, local=names, exitmsg="")
