"""``tiercel observability seed``: fill the store with demo data."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from random import Random

import click

from kernel import Command
from kernel.cli import print_json, progress
from plugins.observability.demo import traffic
from plugins.observability.ingest.preparing import prepare
from plugins.observability.ingest.writing import EventWriter
from plugins.observability.parts import Parts

# Small enough that `tiercel up` is ready in seconds.
DEMO_EVENTS = 20_000
DEMO_DAYS = 7


def seed(writer: EventWriter, *, count: int, days: int, end: datetime, random: Random, batch_size: int) -> int:
    """Store made-up events; return how many.

    Args:
        writer: Stores them.
        count: How many to make.
        days: How far back they reach.
        end: When they end, UTC.
        random: The same state makes the same events.
        batch_size: Events in one transaction.
    """
    events = traffic(count, end, days, random)
    inserted = 0
    with progress("events", total=count) as bar:
        while batch := list(islice(events, batch_size)):
            prepared, _ = prepare(range(len(batch)), batch, end)
            inserted += writer.write(prepared, sender="seed", batch_size=batch_size).inserted
            bar.advance(len(batch))
    return inserted


def make_seed_command(parts: Parts) -> Command:
    """Make the command; ``tiercel up`` runs it when there are no events at all."""

    @click.command("seed")
    @click.option("--events", default=DEMO_EVENTS, show_default=True, type=click.IntRange(0), help="How many.")
    @click.option("--days", default=DEMO_DAYS, show_default=True, type=click.IntRange(1, 3650), help="How far back.")
    @click.option("--random-seed", type=int, help="The same number makes the same events.")
    @click.option("--if-empty", is_flag=True, help="Only if there are no events at all.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def command(*, events: int, days: int, random_seed: int | None, if_empty: bool, as_json: bool) -> None:
        """Fill the store with demo data: a daily rhythm, a slow endpoint, an incident."""
        inserted = 0
        if not (if_empty and not parts.store.is_empty()):
            inserted = seed(
                parts.writer,
                count=events,
                days=days,
                end=parts.now(),
                random=Random(random_seed),  # noqa: S311 - demo data
                batch_size=parts.batch_size,
            )
        if as_json:
            print_json({"inserted": inserted})
        else:
            click.echo(f"{inserted:,} demo events stored.")

    return Command(command=command, demo=("--if-empty",))
