"""Publish: check the items, and in one transaction make them what everybody reads, or leave everything as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from typing import Any, Protocol

import msgspec
from psycopg import Connection

from kernel.contracts import Dataset
from kernel.datasets import store
from kernel.datasets.content import make_content, read_items
from kernel.datasets.model import Content, Publication, Rejected
from kernel.db.pool import Database
from kernel.errors import ConflictError, NotFoundError, UnavailableError


class Guard(Protocol):
    """The run of a job: its transaction only commits while it still is the running one."""

    @property
    def id(self) -> int:
        """Number of the job."""

    def transaction(self) -> AbstractContextManager[Connection[Any]]:
        """Give the one transaction of this run."""


class Publisher:
    """Publishes datasets.

    Args:
        db: Where they are kept.
        now: Tells the time.
        keep_versions: How many of each dataset stay.
    """

    def __init__(self, db: Database, now: Callable[[], datetime], keep_versions: int) -> None:
        self._db = db
        self._now = now
        self._keep_versions = keep_versions

    def publish(
        self,
        items: Mapping[Dataset, Iterable[object]],
        *,
        source: str,
        run: Guard | None = None,
        details: object = None,
        rejected: Mapping[Dataset, Sequence[Rejected]] | None = None,
        on_commit: Callable[[Connection[Any]], None] | None = None,
    ) -> dict[str, Publication]:
        """Publish several datasets at once: all become visible, or none does.

        Args:
            items: Of each dataset, all its items.
            source: Where they come from, for people.
            run: The run of the job that publishes. A run that was taken over by another cannot publish any more.
            details: Kept with each attempt.
            rejected: Of each dataset, what the publisher itself has kept aside already.
            on_commit: Stores whatever else belongs to it, in the same transaction.

        Returns:
            What became of each dataset, by name.

        Raises:
            UnavailableError: The database is not there.
        """
        aside = rejected or {}
        contents = {dataset: make_content(dataset, given, aside.get(dataset, ())) for dataset, given in items.items()}
        job_id = None if run is None else run.id
        # In one order, so that two publishers of the same datasets cannot wait for each other.
        ordered = sorted(contents, key=lambda each: each.name)
        with self._db.transaction() if run is None else run.transaction() as connection:
            if on_commit is not None:
                on_commit(connection)
            for dataset in ordered:
                store.lock(connection, dataset.name)
            # One time for all: at no other is a part of them read without the rest.
            at = self._now()
            published = {
                each.name: self._publish_one(connection, each.name, contents[each], at, source, job_id, details)
                for each in ordered
            }
        for name in published:
            self._remove_old(name)
        return published

    def refuse(self, dataset: str, reason: str, *, source: str, job_id: int | None = None) -> Publication:
        """Record that an attempt failed. The last good version serves on and says why.

        Args:
            dataset: Its name.
            reason: For people.
            source: Where the items would have come from.
            job_id: The job that tried.
        """
        with self._db.transaction() as connection:
            store.lock(connection, dataset)
            head = store.find_head(connection, dataset)
            version = None if head is None else head[0]
            attempt = Publication(0, dataset, self._now(), "refused", version, source, job_id, 0, 0, reason=reason)
            attempt = _record(connection, attempt, None)
        self._remove_old(dataset)
        return attempt

    def roll_back(self, dataset: Dataset, version: int, *, source: str) -> Publication:
        """Publish the content of an older version again, as a new one.

        Raises:
            NotFoundError: There is no such version.
            ConflictError: It does not fit what the plugin expects now.
        """
        found = store.find_version(self._db, dataset.name, version)
        if found is None:
            raise NotFoundError(f"{dataset.name} has no version {version}.")
        try:
            data = store.read_content(self._db, found.sha256)
            items = read_items(dataset, data)
        except LookupError:
            raise NotFoundError(f"{dataset.name} has no version {version} any more.") from None
        except msgspec.ValidationError as ex:
            reason = f"Version {version} of {dataset.name} does not fit what the plugin expects now."
            raise ConflictError(reason, detail=str(ex)) from ex
        content = Content(found.sha256, data, len(items), ())
        with self._db.transaction() as connection:
            store.lock(connection, dataset.name)
            details = {"rolled_back_to": version}
            attempt = self._publish_one(connection, dataset.name, content, self._now(), source, None, details)
        self._remove_old(dataset.name)
        return attempt

    def _remove_old(self, dataset: str) -> None:
        # What was published stays published, whatever becomes of this; the next to publish cleans up.
        with suppress(UnavailableError):
            store.remove_old(self._db, dataset, self._keep_versions)

    def _publish_one(
        self,
        connection: Connection[Any],
        dataset: str,
        content: Content,
        at: datetime,
        source: str,
        job_id: int | None,
        details: object,
    ) -> Publication:
        head = store.find_head(connection, dataset)
        outcome = "unchanged" if head is not None and head[1] == content.sha256 else "published"
        version = (head[0] if head else 0) + (outcome == "published")
        if outcome == "published":
            store.insert_version(connection, dataset, version, content, at)
        attempt = Publication(
            id=0,
            dataset=dataset,
            at=at,
            outcome=outcome,  # type: ignore[arg-type]
            version=version,
            source=source,
            job_id=job_id,
            items=content.item_count,
            rejected=len(content.rejected),
            details=details,
        )
        return _record(connection, attempt, content)


def _record(connection: Connection[Any], attempt: Publication, content: Content | None) -> Publication:
    return msgspec.structs.replace(attempt, id=store.insert_publication(connection, attempt, content))
