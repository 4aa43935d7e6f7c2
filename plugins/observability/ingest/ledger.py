"""The ledger: what was received and what became of it, by account, key and minute.

Entries are only ever appended, in the transaction that stores the events, so writers never wait for each other and a
sum over the ledger agrees with the events. They are summed when they are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from psycopg import Connection

from kernel import Database
from plugins.observability.model import ItemError
from plugins.observability.queries import QUERIES
from plugins.observability.retention.watermark import ensure_not_too_old
from plugins.observability.series import LOCAL_ACCOUNT, refuse_removed

LOCAL_KEY = "local"
REASON_MAX = 200
REASONS_MAX = 10
OTHER_REASONS = "other"


class Entry(msgspec.Struct, frozen=True):
    """What became of one batch.

    Args:
        received: Items that were sent; the sum of the next three.
        stored: Items that are stored by this batch.
        duplicate: Items that were there already.
        rejected: Items that were refused.
        reasons: How many were refused for which reason.
        capped: Items, stored or duplicate, that went to ``__other__``; see ``series``.
    """

    received: int
    stored: int
    duplicate: int
    rejected: int
    reasons: dict[str, int]
    capped: int = 0


class LedgerMinute(msgspec.Struct, frozen=True):
    """The entries of one account, key and minute, summed."""

    minute: datetime
    account: int
    key: str
    received: int
    stored: int
    duplicate: int
    rejected: int
    capped: int
    reasons: dict[str, int]


class Totals(msgspec.Struct, frozen=True):
    """A sum over minutes."""

    received: int = 0
    stored: int = 0
    duplicate: int = 0
    rejected: int = 0
    capped: int = 0


class LedgerPage(msgspec.Struct, frozen=True):
    """What the ledger says about a span of time.

    Args:
        totals: Over the whole span.
        minutes: The newest first; as many as were asked for.
    """

    totals: Totals
    minutes: Sequence[LedgerMinute]


class LedgerQuery(msgspec.Struct, frozen=True):
    """Parameters of the ledger.

    Args:
        start: From when; a day before ``end`` by default.
        end: Up to when, inclusive of its minute; now by default.
        key: Of one sender only.
        limit: Minutes to list.
    """

    start: datetime | None = None
    end: datetime | None = None
    key: Annotated[str, msgspec.Meta(pattern="^[ -~]*$")] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=5000)] = 500


def count_reasons(errors: Iterable[ItemError]) -> dict[str, int]:
    """Count why items were refused: by field and message, the rare ones together."""
    reasons = Counter(
        f"{field}: {message}"[:REASON_MAX]
        for error in errors
        for field, messages in error.errors.items()
        for message in messages
    )
    counted = dict(reasons.most_common(REASONS_MAX))
    rest = reasons.total() - sum(counted.values())
    return {**counted, OTHER_REASONS: rest} if rest else counted


def append(
    connection: Connection[tuple[object, ...]],
    entry: Entry,
    key: str = LOCAL_KEY,
    account: int = LOCAL_ACCOUNT,
    hours: Sequence[datetime] = (),
    generation: int | None = None,
) -> None:
    """Append an entry, in the caller's transaction.

    Args:
        connection: Inside that transaction.
        entry: What became of a batch.
        key: Of its sender.
        account: Of its sender.
        hours: In which the batch has events; their rollups must be computed anew.
        generation: Of the numbers of its series; None without events.

    Raises:
        TooOldError: There are no events any more in some of the hours.
        SeriesRemovedError: That is not the generation any more.
    """
    values = {name: getattr(entry, name) for name in entry.__struct_fields__}
    values |= {"reasons": msgspec.json.encode(entry.reasons).decode(), "key": key, "account": account}
    row = connection.execute(QUERIES["append_ledger"], {**values, "hours": list(hours)}).fetchone()
    ensure_not_too_old(row)
    if generation is not None:
        refuse_removed(row, generation)


class Ledger:
    """Reads the ledger.

    Args:
        db: Where it stands.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    def read(
        self, start: datetime, end: datetime, limit: int, key: str | None = None, account: int = LOCAL_ACCOUNT
    ) -> LedgerPage:
        """Sum the entries of a span of time by minute, and over all of it."""
        given: dict[str, Any] = {"start": start, "end": end, "key": key, "account": account, "limit": limit}
        with self._db.transaction() as connection:
            connection.execute(QUERIES["see_one_moment"])
            totals = connection.execute(QUERIES["sum_ledger"], given).fetchone()
            rows = connection.execute(QUERIES["list_ledger"], given).fetchall()
        return LedgerPage(Totals(*totals) if totals is not None else Totals(), [_minute(*row) for row in rows])


def _minute(*row: Any) -> LedgerMinute:
    names = LedgerMinute.__struct_fields__
    return msgspec.convert(
        {**dict(zip(names, row, strict=True)), "reasons": msgspec.json.decode(row[-1])}, LedgerMinute
    )
