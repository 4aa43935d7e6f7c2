"""Whose a dataset is, and what one process holds of the datasets of accounts.

A dataset is shared by all, or ``per_account``: then each account has versions of its own, and sees no others. Shared
ones are held as a whole (see ``snapshots``). Of accounts there may be many, so what is current for one is read when a
request needs it, and believed until a notification says that it changed.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import msgspec

from kernel.cache import Cache
from kernel.contracts import Dataset
from kernel.datasets import store
from kernel.datasets.models import SHARED, CurrentVersion
from kernel.db.pool import Database
from kernel.errors import ForbiddenError, NoAccountError, UnavailableError
from kernel.identity import current_identity


def account_of(dataset: Dataset, account: int | None = None) -> int:
    """Return the account whose versions of a dataset are meant; ``SHARED`` for a dataset that all share.

    Args:
        dataset: The dataset.
        account: The one that was asked for. By default that of the current identity.

    Raises:
        ForbiddenError: It is not the account of the current identity.
        NoAccountError: The current identity has no account.
        ValueError: None is named, and there is no identity: outside of requests, the account must be said.
    """
    if not dataset.per_account:
        return SHARED
    identity = current_identity()
    if identity is None:
        if account is None:
            raise ValueError(f"{dataset.name} is a dataset of accounts: outside of requests, say of which")
        return account
    if identity.account is None:
        raise NoAccountError(detail=f"{identity.name} belongs to no account")
    if account is not None and account != identity.account:
        raise ForbiddenError(detail=f"{identity.name} acts for account {identity.account}, not for {account}")
    return identity.account


def cached_for(name: str, account: int) -> str:
    """Return the name under which something is cached, which tells the account apart from others."""
    return name if account == SHARED else f"{name}@account-{account}"


class _Held(msgspec.Struct, frozen=True):
    """What is current for an account, by dataset; ``generation`` counts the polls up to the one it was read after."""

    generation: int
    versions: Mapping[str, CurrentVersion]


class AccountVersions:
    """The current versions of accounts, without their items, as far as one process has read them.

    Args:
        db: Where they are stored.
        cache: Of accounts.
    """

    def __init__(self, db: Database, cache: Cache[int, _Held]) -> None:
        self._db = db
        self._cache = cache
        self._generation = 0
        # By account, which read began last: what changes meanwhile makes it void.
        self._reads: dict[int, object] = {}
        self._lock = threading.Lock()

    def current(self, account: int, *, is_refreshed: bool) -> Mapping[str, CurrentVersion]:
        """Return the current version of each dataset that an account has published.

        Args:
            account: The account.
            is_refreshed: Whether ``forget`` and ``expire`` are called; if not, the database is queried each time.

        Raises:
            UnavailableError: The database is not available, and nothing is known that may still be true.
        """
        held = self._cache.get(account) if is_refreshed else None
        if held is not None and held.generation == self._generation:
            return held.versions
        try:
            return self._read(account)
        except UnavailableError:
            # A poll only asks whether something changed; while nobody can tell, what was current still is.
            if held is None:
                raise
            return held.versions

    def _read(self, account: int) -> Mapping[str, CurrentVersion]:
        begun = object()
        with self._lock:
            generation = self._generation
            self._reads[account] = begun
        found: Mapping[str, CurrentVersion] | None = None
        try:
            found = {each.dataset: each for each in store.list_current_versions(self._db, account)}
            return found
        finally:
            with self._lock:
                if self._reads.get(account) is begun:
                    del self._reads[account]
                    if found is not None:
                        self._cache.set(account, _Held(generation, found))

    def forget(self, accounts: set[int]) -> None:
        """Read what is current for some accounts anew when it is asked for next: something was published for them."""
        with self._lock:
            for account in accounts:
                self._reads.pop(account, None)
                self._cache.pop(account)

    def expire(self) -> None:
        """Read everything anew when it is asked for next: notifications may have been lost."""
        with self._lock:
            self._generation += 1
