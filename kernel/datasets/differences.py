"""Print what differs between two versions of a dataset."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from kernel.datasets.compare import Difference

SHOWN_MAX = 20


def print_difference(found: Difference, key: str) -> None:
    """Print what differs for people.

    Args:
        found: All of it; of each kind the first are shown.
        key: The field that identifies an item.
    """
    added, removed, changed = len(found.added), len(found.removed), len(found.changed)
    click.echo(
        f"{found.dataset}, version {found.from_version} to {found.to_version}: "
        f"{added:,} added, {removed:,} removed, {changed:,} changed, {found.unchanged:,} unchanged"
    )
    _print_some([f"  + {_key(item, key)}" for item in found.added[:SHOWN_MAX]], added)
    _print_some([f"  - {_key(item, key)}" for item in found.removed[:SHOWN_MAX]], removed)
    lines = [
        f"  ~ {each.key}: " + ", ".join(f"{name} {_text(one.before)} -> {_text(one.after)}" for name, one in fields)
        for each in found.changed[:SHOWN_MAX]
        if (fields := each.fields.items())
    ]
    _print_some(lines, changed)


def _print_some(lines: Sequence[str], count: int) -> None:
    for line in lines:
        click.echo(line)
    if count > len(lines):
        click.echo(f"    and {count - len(lines):,} more")


def _key(item: object, key: str) -> object:
    return getattr(item, key)


def _text(value: object) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()
