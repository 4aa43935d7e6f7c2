"""``tiercel observability ...``."""

from __future__ import annotations

from collections.abc import Iterable

from kernel import Command
from plugins.observability.parts import Parts


def make_commands(parts: Parts) -> Iterable[Command]:
    """Return the commands of this plugin."""
    return []
