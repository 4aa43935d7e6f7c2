"""Which hours' rollups do not know every event, and from when on events are still there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from psycopg import Connection

from kernel import load_queries
from plugins.observability.rollups.plan import ALWAYS, Kept, Span

QUERIES = load_queries(__package__)
# The first of a transaction that sees one moment: partitions that are dropped are gone for those as well that look at
# an earlier moment.
HOLD_EVENTS = QUERIES["hold_events"]
SEE_ROLLUPS = QUERIES["see_rollups"]
Connected = Connection[tuple[Any, ...]]


class Known(msgspec.Struct, frozen=True):
    """What rollups know at one moment.

    Args:
        touched: Hours of a window of which they do not know every event.
        first_touched: The first such hour of all; None if they know every event.
        kept: From when on each level has everything.
    """

    touched: Collection[datetime]
    first_touched: datetime | None
    kept: Kept


def read_known(
    connection: Connected,
    window: Span,
    query: bytes,
    values: Mapping[str, Any],
) -> tuple[Known, Sequence[Any]]:
    """Return what rollups know of a window, and what else a query found.

    Args:
        connection: In a transaction that holds events.
        window: A stretch of time.
        query: Finds one row; its first columns are those of ``SEE_ROLLUPS``.
        values: Further parameters of it.
    """
    given = {**values, "start": window.start, "end": window.end}
    ((touched, first_touched, kept, *others),) = connection.execute(query, given)
    return Known(touched, first_touched, Kept(*(since or ALWAYS for since in kept))), others
