"""The group of all commands: the kernel's own, and one group for each plugin that has some."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import click

from kernel.app import Tiercel
from kernel.cli.apps import apps, list_apps, test_multi_app
from kernel.cli.cache import cache
from kernel.cli.check import check
from kernel.cli.data import data
from kernel.cli.inspect import plugins, routes
from kernel.cli.jobs import jobs
from kernel.cli.migrate import migrate
from kernel.cli.serve import serve, up
from kernel.cli.shell import shell
from kernel.cli.worker import worker
from kernel.config import load
from kernel.errors import ApiError, BootError, ConfigError, TiercelError
from kernel.sources import CONFIG_VARIABLE


class _Root(click.Group):
    """Finds groups of plugins when the kernel has no command of a name, so that most commands load no plugin."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        try:
            groups = _plugin_groups()
        except BootError as ex:
            # Help must work, most of all when the configuration does not.
            click.echo(f"tiercel: commands of plugins are missing: {ex}", err=True)
            groups = {}
        return [
            *super().list_commands(ctx),
            *(name for name, found in groups.items() if isinstance(found, click.Group)),
        ]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or _plugin_groups().get(cmd_name)


def _plugin_groups() -> dict[str, click.Command]:
    """Return a group for each plugin that has commands, and the commands that have an alias."""
    context = click.get_current_context().find_root()
    if context.obj is None:
        service = Tiercel(load())
        context.obj = {}
        for owner, item in service.registry.commands:
            group = context.obj.setdefault(owner, click.Group(owner, help=f"Commands of the plugin {owner}."))
            command = _with_database(service, owner, item.command)
            group.add_command(command)
            if item.alias is not None:
                context.obj[item.alias] = command
    groups: dict[str, click.Command] = context.obj
    return groups


def _with_database(service: Tiercel, owner: str, command: click.Command) -> click.Command:
    run = command.callback
    if run is not None:
        command.callback = _opened(service, owner, run)
    return command


def _opened(service: Tiercel, owner: str, run: Callable[..., Any]) -> Callable[..., Any]:
    def opened(*args: Any, **kwargs: Any) -> Any:
        with service.database_open():
            status = service.registry.statuses[owner]
            if status.state != "loaded":
                raise BootError(str(status.reason))  # its migrations failed just now
            return run(*args, **kwargs)

    return opened


def _use_file(_context: click.Context, _option: click.Parameter, file: str | None) -> None:
    # While the options are read: the plugins whose commands are looked up next come from that file.
    if file is not None:
        os.environ[CONFIG_VARIABLE] = file


@click.group(cls=_Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    callback=_use_file,
    help="The TOML file; config/tiercel.toml by default.",
)
@click.version_option(package_name="tiercel")
def root() -> None:
    """Tiercel: request logs, their analytics and per-application views, as plugins of a small kernel."""


_COMMANDS = (
    up,
    serve,
    worker,
    migrate,
    check,
    plugins,
    routes,
    apps,
    list_apps,
    test_multi_app,
    data,
    cache,
    jobs,
    shell,
)
for _command in _COMMANDS:
    root.add_command(_command)


def main() -> None:
    """Run the command line. Exit codes: 0 well, 1 a problem (one line for each), 2 wrong usage."""
    # Whoever just died would leave the embedded server running. gunicorn and the workers have handlers of their own.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        root(prog_name="tiercel", standalone_mode=False)
    except click.ClickException as ex:
        ex.show()
        sys.exit(ex.exit_code)
    except click.Abort:
        sys.exit(130)
    except ConfigError as ex:
        for problem in ex.problems:
            click.echo(f"tiercel: {problem}", err=True)
        sys.exit(1)
    except ApiError as ex:
        wrong = [f"{field}: {' '.join(messages)}" for field, messages in (ex.errors or {}).items()]
        for problem in wrong or [f"{ex.message} {ex.detail or ''}".rstrip()]:
            click.echo(f"tiercel: {problem}", err=True)
        sys.exit(1)
    except TiercelError as ex:
        click.echo(f"tiercel: {ex}", err=True)
        sys.exit(1)
