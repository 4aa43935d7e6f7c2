"""Read the audit log: lists, exports, and verification, which finds what was changed or removed by hand."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from psycopg import Connection, sql

from kernel.audit.entries import NO_HASH, TEXT_MAX, AuditEntry, to_entry
from kernel.audit.log import QUERIES, Audit
from kernel.conversion import EndTime, escape_formula
from kernel.db.pool import Database
from kernel.errors import NotFoundError

ExportFormat = Literal["ndjson", "csv"]
# PostgreSQL rejects queries with a null character.
Text = Annotated[str, msgspec.Meta(pattern="^[^\\x00]*$", max_length=TEXT_MAX)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_BATCH_ENTRIES = 2_000
_CUT_TIMEOUT_S = 3600.0
# Of one chain; more are counted.
FINDINGS_MAX = 100
CSV_COLUMNS = (
    *("account", "number", "time", "action", "actor_scheme", "actor_name", "actor_account", "actor_user", "actor_key"),
    *("target_kind", "target_id", "changes", "client", "request_id", "previous_hash", "hash"),
)
_COMPARISONS = {False: (">", "ASC"), True: ("<", "DESC")}


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries of a chain are meant, as query parameters and as options.

    Args:
        start: From this time on; UTC without an offset.
        end: Up to this time; a date alone is the end of that day.
        action: With this action.
        target_kind: Of this kind of thing.
        target_id: Of the thing with this id.
        scheme: By somebody who was authenticated this way.
        user: By the user of this number.
        key: With the API key of this number.
        client: From this address.
        request_id: In this request.
        search: With this text in action, name of the actor, target, changes, client or request id, ignoring case.
    """

    start: datetime | None = None
    end: EndTime | None = None
    action: Text | None = None
    target_kind: Text | None = None
    target_id: Text | None = None
    scheme: Text | None = None
    user: Number | None = None
    key: Number | None = None
    client: Text | None = None
    request_id: Text | None = None
    search: Text = ""


_EVERYTHING = AuditFilter()


class Finding(msgspec.Struct, frozen=True):
    """Something in a chain that is not as it was written.

    Args:
        account: The chain; None if no chain has what is missing.
        number: The entry; None if it is not one that is there.
        problem: What is wrong, for people.
    """

    account: int | None
    number: int | None
    problem: str


class ChainReport(msgspec.Struct, frozen=True):
    """What the verification of one chain found.

    Args:
        account: Whose chain it is.
        entries: How many entries there are.
        cut: The number of the last entry that was cut off; 0 if none was.
        number: Of the last entry.
        head: Hash of the last entry, hexadecimal. Kept elsewhere, it proves later that the chain goes on from there.
        problems: How many there are.
        findings: The first ``FINDINGS_MAX`` of them.
    """

    account: int
    entries: int
    cut: int
    number: int
    head: str
    problems: int
    findings: tuple[Finding, ...]


class Cut(msgspec.Struct, frozen=True):
    """What was cut off the beginning of a chain.

    Args:
        account: Whose chain it is.
        entries: How many entries were removed.
        number: Of the last of them.
        hash: Of the last of them, hexadecimal.
    """

    account: int
    entries: int
    number: int
    hash: str


class _Chain(msgspec.Struct, frozen=True):
    """A row of ``list_chains``; None where only entries are there."""

    account: int
    number: int | None
    hash: str | None
    cut_number: int | None
    cut_hash: str | None


class AuditChains:
    """The chains of all accounts.

    Args:
        db: Connection pool.
        audit: Records what is cut off.
    """

    def __init__(self, db: Database, audit: Audit) -> None:
        self._db = db
        self._audit = audit

    # --- lists and exports ------------------------------------------------------------------------------------------

    def list(
        self,
        account: int,
        query: AuditFilter = _EVERYTHING,
        *,
        descending: bool = True,
        beyond: int | None = None,
        limit: int = 100,
    ) -> Sequence[AuditEntry]:
        """Return some entries of an account.

        Args:
            account: Whose chain it is.
            query: Which of its entries.
            descending: The latest first.
            beyond: Only entries after the one with this number, in the order of the list.
            limit: How many at most.
        """
        with self._db.connection() as connection:
            return _list(connection, account, query, descending=descending, beyond=beyond, limit=limit)

    def scan(self, account: int, query: AuditFilter = _EVERYTHING) -> Iterator[Sequence[AuditEntry]]:
        """Return all entries that a filter selects, the earliest first, in batches.

        Those that are added meanwhile come last: a chain only grows. No connection is held between two batches.
        """
        beyond: int | None = None
        while batch := self.list(account, query, descending=False, beyond=beyond, limit=_BATCH_ENTRIES):
            beyond = batch[-1].number
            yield batch

    # --- verification -----------------------------------------------------------------------------------------------

    def verify(
        self,
        account: int | None = None,
        *,
        heads: Collection[str] = (),
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> Iterator[ChainReport | Finding]:
        """Verify chains: every entry has the hash of its content and of the entry before it, and none is missing.

        What was replaced consistently, down to the last entry and the recorded end of the chain, shows only by a hash
        that was kept elsewhere.

        Args:
            account: Whose chain to verify; None for all.
            heads: Hashes that entries must have, hexadecimal: heads of earlier reports.
            on_batch: Called with the number of entries that were verified since the last call.

        Yields:
            A report for each chain; at the end a finding for each hash of ``heads`` that no entry has.
        """
        missing = {head.lower() for head in heads}
        with self._db.transaction(repeatable_read=True) as connection:
            rows = connection.execute(QUERIES["list_chains"], {"account": account}).fetchall()
            for row in rows:
                verification = _Verification(_Chain(*row), missing)
                for batch in _batches(connection, row[0]):
                    verification.check(batch)
                    on_batch(len(batch))
                yield verification.finish()
        for head in sorted(missing):
            yield Finding(None, None, f"no entry has the hash {head}: the chain was replaced, or cut off after it")

    # --- retention --------------------------------------------------------------------------------------------------

    def cut(self, account: int, before: datetime) -> Cut:
        """Remove the entries of a chain before a time. What remains can be verified as before.

        The chain keeps number and hash of the last entry that is removed, and gets an entry that says the same, so that
        nothing can be cut off by hand without a trace.

        Args:
            account: Whose chain it is.
            before: Entries of this time and later remain.

        Raises:
            NotFoundError: There are none before.
        """
        given = {"account": account, "before": before}
        with self._db.transaction(_CUT_TIMEOUT_S) as connection:
            connection.execute(QUERIES["lock_chain"], {"account": account})
            row = connection.execute(QUERIES["find_last_before"], given).fetchone()
            if row is None:
                raise NotFoundError(detail=f"account {account} has no entries before {before.isoformat()}")
            values = {"account": account, "number": row[0], "hash": bytes(row[1])}
            connection.execute(QUERIES["cut_chain"], values)
            removed = connection.execute(QUERIES["delete_cut"], values).rowcount
            digest = bytes(row[1]).hex()
            # Not under the name of a hash, of which entries have none.
            changes = {"number": (None, row[0]), "head": (None, digest), "entries": (None, removed)}
            self._audit.record(
                connection, action=CUT, target=("audit_chain", account), changes=changes, account=account
            )
        return Cut(account, removed, row[0], digest)


CUT = "audit_chain.cut"


def _list(
    connection: Connection[Any],
    account: int,
    query: AuditFilter,
    *,
    descending: bool,
    beyond: int | None,
    limit: int,
) -> Sequence[AuditEntry]:
    comparison, direction = _COMPARISONS[descending]
    statement = sql.SQL(QUERIES["list_entries"]).format(comparison=sql.SQL(comparison), direction=sql.SQL(direction))
    given = {**msgspec.structs.asdict(query), "account": account, "beyond": beyond, "limit": limit}
    return [to_entry(row) for row in connection.execute(statement, given)]


def _batches(connection: Connection[Any], account: int) -> Iterator[Sequence[AuditEntry]]:
    beyond: int | None = None
    while batch := _list(connection, account, _EVERYTHING, descending=False, beyond=beyond, limit=_BATCH_ENTRIES):
        beyond = batch[-1].number
        yield batch


class _Verification:
    """The verification of one chain.

    Args:
        chain: What is recorded of its beginning and its end.
        missing: Hashes to look for; those that are found are taken out.
    """

    def __init__(self, chain: _Chain, missing: set[str]) -> None:
        self._chain = chain
        self._missing = missing
        self._cut_number = chain.cut_number or 0
        # Of the entry before the next one.
        self._number = self._cut_number
        self._hash = chain.cut_hash or NO_HASH.hex()
        # What the latest entry about a cut says. A cut that was made by hand has none.
        self._cut_of_entry: tuple[int, str] = (0, NO_HASH.hex())
        self._entries = self._problems = 0
        self._findings: list[Finding] = []
        missing.discard(self._hash)

    def check(self, entries: Sequence[AuditEntry]) -> None:
        """Check the next entries, in order."""
        for entry in entries:
            if entry.number <= self._cut_number:
                self._find(entry.number, "is there, although it was cut off")
            else:
                self._check(entry)
        self._entries += len(entries)

    def _check(self, entry: AuditEntry) -> None:
        if entry.number > self._number + 1:
            self._find(None, f"{_numbers(self._number + 1, entry.number - 1)} missing")
        elif entry.previous_hash != self._hash:
            self._find(entry.number, "does not follow the entry before it: previous_hash is not that one's hash")
        if entry.expected_hash() != entry.hash:
            self._find(entry.number, "was changed: its hash is not that of its content")
        if entry.action == CUT:
            self._cut_of_entry = _read_cut(entry)
        self._number, self._hash = entry.number, entry.hash
        self._missing.discard(entry.hash)

    def finish(self) -> ChainReport:
        """Check the end, and the beginning if entries were cut off there; return the report."""
        chain, number = self._chain, self._number
        if chain.number is None:
            self._find(None, "the recorded end of the chain is missing")
        elif number < chain.number:
            self._find(None, f"{_numbers(number + 1, chain.number)} missing at the end")
        elif number > chain.number:
            self._find(None, f"{_numbers(chain.number + 1, number)} beyond the recorded end of the chain")
        elif self._hash != chain.hash:
            self._find(number, "is not the recorded end of the chain: the hash is another one")
        if chain.number is not None and self._cut_of_entry != (chain.cut_number, chain.cut_hash):
            self._find(None, "the recorded beginning of the chain is not what the latest entry about a cut says")
        return ChainReport(
            account=chain.account,
            entries=self._entries,
            cut=self._cut_number,
            number=number,
            head=self._hash,
            problems=self._problems,
            findings=tuple(self._findings),
        )

    def _find(self, number: int | None, problem: str) -> None:
        self._problems += 1
        if len(self._findings) < FINDINGS_MAX:
            self._findings.append(Finding(self._chain.account, number, problem))


def _read_cut(entry: AuditEntry) -> tuple[int, str]:
    try:
        changes = msgspec.json.decode(entry.changes)
        return changes["number"][1], changes["head"][1]
    except (msgspec.DecodeError, KeyError, IndexError, TypeError):
        # Not one that was written here: its own hash is wrong as well.
        return 0, ""


def _numbers(first: int, last: int) -> str:
    return f"entry {first} is" if first == last else f"entries {first} to {last} are"


# --- files ------------------------------------------------------------------------------------------------------------


def encode_entries(entries: Sequence[AuditEntry], file_format: ExportFormat) -> bytes:
    """Return the lines of entries: JSON as it is hashed, with the hash; or CSV, of which no text is a formula."""
    if file_format == "ndjson":
        return msgspec.json.Encoder().encode_lines(entries)
    text = io.StringIO(newline="")
    csv.writer(text).writerows(map(_csv_cells, entries))
    return text.getvalue().encode()


def csv_header() -> bytes:
    """Return the first line of a CSV file."""
    return (",".join(CSV_COLUMNS) + "\r\n").encode()


def _csv_cells(entry: AuditEntry) -> list[Any]:
    actor, target = entry.actor, entry.target
    cells = (
        *(entry.account, entry.number, entry.time, entry.action, actor.scheme, actor.name, actor.account, actor.user),
        *(actor.key, target.kind, target.id, bytes(entry.changes).decode(), entry.client, entry.request_id),
        *(entry.previous_hash, entry.hash),
    )
    return [escape_formula(cell) if isinstance(cell, str) else cell for cell in cells]
