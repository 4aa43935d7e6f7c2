"""The commands of ``tiercel trace``."""

from __future__ import annotations

from collections.abc import Iterable

from kernel import Command, Services
from plugins.trace.checking.commands import make_check_command
from plugins.trace.export.commands import make_refresh_command
from plugins.trace.webhooks.commands import make_webhook_command


def make_commands(services: Services) -> Iterable[Command]:
    """Return the commands."""
    return [make_refresh_command(services), make_check_command(services), make_webhook_command(services)]
