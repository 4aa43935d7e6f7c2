"""Which hours' rollups do not know every event, and from when on events are still there."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from psycopg import Connection

from kernel import load_queries
from plugins.observability.rollups.plan import ALWAYS, Kept, Span

QUERIES = load_queries(__package__)
Connected = Connection[tuple[Any, ...]]


def hold_events(connection: Connected) -> None:
    """Keep retention from removing anything for as long as this transaction lasts.

    The first statement of a transaction that sees one moment: partitions that are dropped are gone for those as well
    that look at an earlier moment.
    """
    connection.execute(QUERIES["hold_events"])


def touched_hours(connection: Connected, window: Span) -> Collection[datetime]:
    """Return the hours of a window whose rollups do not know every event."""
    rows = connection.execute(QUERIES["list_touched"], {"start": window.start, "end": window.end}).fetchall()
    return [hour for (hour,) in rows]


def fresh_until(connection: Connected, now: datetime) -> datetime:
    """Return up to when rollups know every event."""
    row = connection.execute(QUERIES["first_touched"]).fetchone()
    return row[0] if row is not None and row[0] is not None else now


def kept_since(connection: Connected) -> Kept:
    """Return from when on each level still has everything."""
    rows: dict[str, datetime | None] = dict(connection.execute(QUERIES["list_kept"]).fetchall())
    return Kept(**{level: rows.get(level) or ALWAYS for level in ("raw", "hour", "day")})
