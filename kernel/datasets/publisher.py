"""Publish datasets: validate, sort and encode their items, and store them in one transaction."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import datetime
from typing import Any, Protocol

import msgspec
from psycopg import Connection

from kernel.contracts import Dataset
from kernel.conversion import UNKNOWN, convert_fields
from kernel.datasets import store
from kernel.datasets.accounts import account_of
from kernel.datasets.models import SHARED, Content, Publication, Rejected, decode_items, find_key_problem
from kernel.db.pool import Database
from kernel.errors import ConflictError, ForbiddenError, NotFoundError, UnavailableError
from kernel.http.lists import sort_items
from kernel.identity import acting_as, current_identity

# Keys of dictionaries in one order, so that equal items make equal bytes.
_ENCODER = msgspec.json.Encoder(order="deterministic")
# Raised for an invalid item; any other exception is a bug.
_INVALID_ITEM = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)


class JobRun(Protocol):
    """The run of a job that publishes: its transaction commits only if no other process has taken the job over."""

    @property
    def id(self) -> int:
        """Id of the job."""

    def transaction(self) -> AbstractContextManager[Connection[Any]]:
        """Open the transaction of this run."""


class Publisher:
    """Publishes datasets.

    Args:
        db: Where they are stored.
        now: Returns the time.
        keep_versions: How many versions of each dataset are kept.
        on_attempt: Called after an attempt of any outcome is committed. Must not raise.
    """

    def __init__(
        self,
        db: Database,
        now: Callable[[], datetime],
        keep_versions: int,
        on_attempt: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_attempt = on_attempt
        self._db = db
        self._now = now
        self._keep_versions = keep_versions

    def publish(
        self,
        items: Mapping[Dataset, Iterable[object]],
        *,
        source: str,
        account: int | None = None,
        run: JobRun | None = None,
        details: object = None,
        rejected: Mapping[Dataset, Sequence[Rejected]] | None = None,
        on_commit: Callable[[Connection[Any]], None] | None = None,
    ) -> dict[str, Publication]:
        """Publish several datasets at once: all become visible, or none does.

        Args:
            items: All items of each dataset: Structs, or mappings with their fields. Invalid ones are rejected.
            source: Where they come from, for people.
            account: Whose they are, of datasets of accounts; that of the current identity by default.
            run: The run of the job that publishes, if one does.
            details: Stored with each attempt, as JSON.
            rejected: Items of each dataset that the caller has rejected already.
            on_commit: Called inside the transaction, to store what belongs to it.

        Returns:
            How the attempt ended, by dataset.

        Raises:
            ForbiddenError: It is another account than that of the current identity, or a run for an account publishes
                what all accounts share.
            UnavailableError: The database is not available.
        """
        accounts = {dataset: account_of(dataset, account) for dataset in items}
        already = rejected or {}
        contents = {dataset: make_content(dataset, given, already.get(dataset, ())) for dataset, given in items.items()}
        # In one order, so that two publishers of the same datasets cannot deadlock.
        ordered = sorted(contents, key=lambda each: each.name)
        with self._transaction(accounts.values(), run) as connection:
            if on_commit is not None:
                on_commit(connection)
            for dataset in ordered:
                store.lock(connection, dataset.name, accounts[dataset])
            # One time for all: as of any other, either none of them or all are read.
            at = self._now()
            published = {
                dataset.name: _store(
                    connection,
                    dataset.name,
                    accounts[dataset],
                    contents[dataset],
                    at,
                    source,
                    None if run is None else run.id,
                    details,
                )
                for dataset in ordered
            }
        self._finish({dataset.name: accounts[dataset] for dataset in ordered})
        return published

    def refuse(
        self, dataset: Dataset, reason: str, *, source: str, account: int | None = None, job_id: int | None = None
    ) -> Publication:
        """Record an attempt that failed before it could publish. The current version stays and gets a warning.

        Args:
            dataset: The dataset.
            reason: Why, for people.
            source: Where the items should have come from.
            account: Whose dataset it is, as for ``publish``.
            job_id: The job that tried, if one did.
        """
        owner, name = account_of(dataset, account), dataset.name
        with self._transaction([owner]) as connection:
            store.lock(connection, name, owner)
            current = store.find_current(connection, name, owner)
            version = None if current is None else current[0]
            attempt = Publication(0, name, self._now(), "refused", version, source, job_id, 0, 0, reason=reason)
            attempt = _record(connection, attempt, owner, ())
        self._finish({name: owner})
        return attempt

    def roll_back(self, dataset: Dataset, version: int, *, source: str, account: int | None = None) -> Publication:
        """Publish the content of an older version again, as a new version.

        Raises:
            NotFoundError: There is no such version.
            ConflictError: Its items do not fit the plugin's Struct any more.
        """
        owner, name = account_of(dataset, account), dataset.name
        found = store.find_version(self._db, name, owner, version)
        if found is None:
            raise NotFoundError(f"{dataset.name} has no version {version}.")
        try:
            data = store.read_content(self._db, owner, found.sha256)
            items = decode_items(dataset, data)
        except LookupError:
            raise NotFoundError(f"{dataset.name} has no version {version} any more.") from None
        except msgspec.ValidationError as ex:
            reason = f"Version {version} of {dataset.name} does not fit what the plugin expects now."
            raise ConflictError(reason, detail=str(ex)) from ex
        content = Content(found.sha256, data, len(items), ())
        with self._transaction([owner]) as connection:
            store.lock(connection, name, owner)
            details = {"rolled_back_to": version}
            attempt = _store(connection, name, owner, content, self._now(), source, None, details)
        self._finish({name: owner})
        return attempt

    @contextmanager
    def _transaction(self, accounts: Collection[int], run: JobRun | None = None) -> Iterator[Connection[Any]]:
        with ExitStack() as stack:
            if SHARED in accounts and current_identity() is not None:
                if run is not None:
                    raise ForbiddenError(detail="a job that runs for an account cannot publish what all accounts share")
                # The session of a request writes what belongs to its account, and nothing else.
                stack.enter_context(acting_as(None))
            yield stack.enter_context(self._db.transaction() if run is None else run.transaction())

    def _finish(self, accounts: Mapping[str, int]) -> None:
        # The publication is committed and stays so if this fails; the next publisher cleans up.
        with suppress(UnavailableError):
            for dataset, account in accounts.items():
                with acting_as(None if account == SHARED else current_identity()):
                    store.remove_old(self._db, dataset, account, self._keep_versions)
        self._on_attempt()


def _store(
    connection: Connection[Any],
    dataset: str,
    account: int,
    content: Content,
    at: datetime,
    source: str,
    job_id: int | None,
    details: object,
) -> Publication:
    current = store.find_current(connection, dataset, account)
    attempt = Publication(
        id=0,
        dataset=dataset,
        at=at,
        outcome="unchanged",
        version=current[0] if current else 0,
        source=source,
        job_id=job_id,
        items=content.item_count,
        rejected=len(content.rejected),
        details=details,
    )
    if current is None or current[1] != content.sha256:
        version = (current[0] if current else 0) + 1
        store.insert_version(connection, dataset, account, version, content, at)
        attempt = msgspec.structs.replace(attempt, outcome="published", version=version)
    return _record(connection, attempt, account, content.rejected)


def _record(
    connection: Connection[Any], attempt: Publication, account: int, rejected: Sequence[Rejected]
) -> Publication:
    return msgspec.structs.replace(attempt, id=store.insert_publication(connection, attempt, account, rejected))


# --- content --------------------------------------------------------------------------------------------------------


def make_content(dataset: Dataset, items: Iterable[object], rejected: Sequence[Rejected] = ()) -> Content:
    """Validate items, sort them and encode them: equal items make equal bytes, in whatever order they come.

    Args:
        dataset: Defines Struct, key and order of the items.
        items: Structs of the dataset, or mappings with their fields.
        rejected: Items that the caller has rejected already.
    """
    decoder = msgspec.json.Decoder(dataset.item)
    # There may be many items: besides its bytes, only the fields that an item is sorted by are held.
    names = tuple(dict.fromkeys([*(field.removeprefix("-") for field in dataset.order), dataset.key]))
    sortable: Any = msgspec.defstruct("Sortable", [*names, "encoded_"])
    valid: dict[Any, Any] = {}
    invalid: list[Rejected] = list(rejected)
    for index, item in enumerate(items):
        try:
            encoded = _ENCODER.encode(item)
            if b"null" in encoded and not _is_finite(item):
                raise ValueError("JSON has no NaN and no infinity")
            # A Struct does not validate its fields when it is made.
            validated = decoder.decode(encoded)
            key = getattr(validated, dataset.key)
            if problem := find_key_problem(key):
                raise ValueError(f"the {dataset.key} {key!r:.80} {problem}")
            if key in valid:
                raise ValueError(f"another item has the {dataset.key} {key!r:.80}")
        except _INVALID_ITEM as ex:
            invalid.append(Rejected(index, _reason(dataset, item, ex), _as_json(item)))
        else:
            valid[key] = sortable(*(getattr(validated, name) for name in names), _ENCODER.encode(validated))
    # The key decides between equals.
    ordered = sort_items(valid.values(), (*dataset.order, dataset.key))
    data = b"".join([b"[", b",".join([each.encoded_ for each in ordered]), b"]"])
    return Content(hashlib.sha256(data).digest(), data, len(ordered), invalid)


def _is_finite(value: object) -> bool:
    # msgspec encodes NaN and infinity as null, which would be valid where a field may be null.
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, msgspec.Struct):
        return all(_is_finite(getattr(value, name)) for name in value.__struct_fields__)
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_finite, value))
    return True


def _reason(dataset: Dataset, item: object, error: Exception) -> str:
    if isinstance(item, Mapping) and isinstance(error, msgspec.ValidationError):
        _, errors = convert_fields(item, dataset.item)
        # An unknown field is an error only where the Struct forbids it; then msgspec's message names it.
        named = {name: messages for name, messages in errors.items() if messages != [UNKNOWN]}
        if named:
            return "; ".join(f"{name}: {' '.join(messages)}" for name, messages in named.items())
    return str(error).replace("`", "") or type(error).__name__


def _as_json(item: object) -> Any:
    try:
        return msgspec.json.decode(_ENCODER.encode(item))
    except _INVALID_ITEM:
        return repr(item)[:1000]
