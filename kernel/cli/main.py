"""The command ``tiercel``: the kernel's own commands, a group of commands for each plugin, and exit codes."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from importlib import import_module
from typing import Any

import click

from kernel.app import Tiercel
from kernel.cli.output import echo
from kernel.config import CONFIG_VARIABLE, load
from kernel.contracts import Command
from kernel.errors import ApiError, BootError, ConfigError, TiercelError, UnavailableError
from kernel.registry import KERNEL_COMMANDS


class _LazyGroup(click.Group):
    """Imports a command of the kernel when it is used, and boots a service only if a command is not the kernel's."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        try:
            plugins = [name for name, command in _plugin_commands(ctx).items() if isinstance(command, click.Group)]
        except BootError as ex:
            # Help must work especially when the configuration does not.
            echo(f"tiercel: commands of plugins are missing: {ex}", err=True)
            plugins = []
        return [*sorted(KERNEL_COMMANDS), *plugins]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in KERNEL_COMMANDS:
            module, _, attribute = KERNEL_COMMANDS[cmd_name].partition(":")
            command: click.Command = getattr(import_module(module), attribute)
            return command
        return _plugin_commands(ctx).get(cmd_name)


def _plugin_commands(context: click.Context) -> Mapping[str, click.Command]:
    """Return a group for each plugin that has commands, and the commands that have an alias."""
    root_context = context.find_root()
    if root_context.obj is None:
        service = Tiercel(load())
        groups: dict[str, click.Group] = {}
        aliases: dict[str, click.Command] = {}
        for plugin, contribution in service.registry.contributions(Command):
            command = _with_database(service, plugin, contribution.command)
            group = groups.setdefault(plugin, click.Group(plugin, help=f"Commands of the plugin {plugin}."))
            group.add_command(command)
            if contribution.alias is not None:
                aliases[contribution.alias] = command
        root_context.obj = {**aliases, **groups}
    commands: Mapping[str, click.Command] = root_context.obj
    return commands


def _with_database(service: Tiercel, plugin: str, command: click.Command) -> click.Command:
    """Let a command of a plugin, or each command of a group, run with the database open."""
    if isinstance(command, click.Group):
        # Its own callback has returned when one of its commands begins.
        for inner in command.commands.values():
            _with_database(service, plugin, inner)
        return command
    callback = command.callback
    if callback is not None:
        command.callback = _run_with_database(service, plugin, callback)
    return command


def _run_with_database(service: Tiercel, plugin: str, callback: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(callback)
    def run(*args: Any, **kwargs: Any) -> Any:
        with service.database_open():
            status = service.registry.statuses[plugin]
            if status.state != "loaded":
                raise BootError(str(status.reason))  # a migration failed just now
            return callback(*args, **kwargs)

    return run


def _set_config_file(_context: click.Context, _option: click.Parameter, file: str | None) -> None:
    # The plugins whose commands are looked up after this come from that file.
    if file is not None:
        os.environ[CONFIG_VARIABLE] = file


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    callback=_set_config_file,
    help="The TOML file; config/tiercel.toml by default.",
)
@click.version_option(package_name="tiercel")
def root() -> None:
    """Tiercel: request logs, their analytics and per-application views, as plugins of a small kernel."""


def main() -> None:
    """Run the command line. Exit codes: 0 success, 1 a problem (one line for each), 2 wrong usage."""
    # Killed by SIGTERM, a process would leave the embedded server running. gunicorn and the workers have other
    # handlers.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        root(prog_name="tiercel", standalone_mode=False)
    except click.ClickException as ex:
        # What is printed quotes arguments, such as names of files that others gave.
        shown = io.StringIO()
        ex.show(shown)
        echo(shown.getvalue().rstrip("\n"), err=True)
        sys.exit(ex.exit_code)
    except click.Abort:
        sys.exit(130)
    except TiercelError as ex:
        for problem in _problems(ex):
            echo(f"tiercel: {problem}", err=True)
        sys.exit(1)


def _problems(error: TiercelError) -> list[str]:
    """Return one line for each problem that an error names."""
    if isinstance(error, ConfigError):
        return list(error.problems)
    if isinstance(error, ApiError):
        if isinstance(error, UnavailableError):
            return [error.detail or error.message]
        by_field = [f"{field}: {' '.join(messages)}" for field, messages in (error.errors or {}).items()]
        return by_field or [f"{error.message} {error.detail or ''}".rstrip()]
    return [str(error)]
