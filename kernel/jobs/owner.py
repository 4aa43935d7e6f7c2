"""Whose a job is: the account that it runs for, and the identity that started it.

A job ``per_account`` belongs to the account of the identity that starts it, and runs as that identity. Any other job is
the service's own: it belongs to the system account, and sees everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kernel.contracts import Job
from kernel.errors import NoAccountError
from kernel.identity import ALL_SCOPES, SYSTEM_ACCOUNT, Identity, current_identity

# What decides what a run may see and do. Two jobs that differ in it are not the same job.
_REACH = ("scopes", "sites", "services", "applications")


class Owner(msgspec.Struct, frozen=True):
    """Whose a job is.

    Args:
        account: The account that it runs for.
        sites: The sites of the account that it is limited to; None for all.
        started_by: The identity that started it; None for a schedule, a command, or the service itself.
        per_account: Whether it runs as that identity.
    """

    account: int = SYSTEM_ACCOUNT
    sites: tuple[int, ...] | None = None
    started_by: Identity | None = None
    per_account: bool = False

    def has_reach_of(self, stored: Mapping[str, Any] | None) -> bool:
        """Tell whether a job of the same account that this identity started may see and do the same."""
        if not self.per_account:
            return True
        if self.started_by is None or stored is None:
            return self.started_by is None and stored is None
        other = _decode(stored)
        return all(getattr(self.started_by, name) == getattr(other, name) for name in _REACH)

    def to_columns(self) -> dict[str, Any]:
        """Return the values of the columns ``account``, ``sites`` and ``started_by``, the last as plain data."""
        return {
            "account": self.account,
            "sites": None if self.sites is None else list(self.sites),
            "started_by": None if self.started_by is None else msgspec.to_builtins(self.started_by),
        }


def current_owner(job: Job) -> Owner:
    """Return whose a job is that is started now.

    Raises:
        NoAccountError: It is a job ``per_account``, and the current identity has no account.
    """
    identity = current_identity()
    if identity is None or not job.per_account:
        return Owner(started_by=identity, per_account=job.per_account)
    if identity.account is None:
        raise NoAccountError(detail=f"{job.name} runs for an account, and {identity.name} has none")
    return Owner(identity.account, identity.sites, identity, per_account=True)


def identity_of_run(
    job: Job, account: int, sites: Sequence[int] | None, started_by: Mapping[str, Any] | None
) -> Identity | None:
    """Return the identity as which a job runs; None for a job of the service itself.

    Args:
        job: The job.
        account: Columns, as ``Owner.to_columns`` makes them.
        sites: Likewise.
        started_by: Likewise.

    Raises:
        msgspec.ValidationError: The identity was stored by another version of the service.
    """
    if not job.per_account:
        return None
    if started_by is None:
        starter = Identity(scheme="job", name=f"job {job.name}", account=account, scopes=ALL_SCOPES)
    else:
        starter = _decode(started_by)
    # What the row belongs to decides, whatever else is stored in it.
    limits = None if sites is None else tuple(sites)
    return msgspec.structs.replace(starter, scheme="job", account=account, sites=limits)


def _decode(stored: Mapping[str, Any]) -> Identity:
    return msgspec.convert(stored, Identity)
