"""Entries of the audit log for tests."""

from __future__ import annotations

from typing import Any

from kernel.audit import Audit, AuditChains, AuditEntry, ChainReport
from kernel.testing import Client


def audit_of(client: Client) -> Audit:
    """Return the audit log of a service."""
    return client.service.shared.audit


def chains_of(client: Client) -> AuditChains:
    """Return its chains."""
    return AuditChains(client.service.db, audit_of(client))


def record(client: Client, count: int = 1, *, account: int = 0, **fields: Any) -> None:
    """Record changes in one transaction."""
    with client.service.db.transaction() as connection:
        for number in range(count):
            given = {"action": "thing.update", "target": ("thing", number), "changes": {"size": (number, number + 1)}}
            audit_of(client).record(connection, account=account, **{**given, **fields})


def entries(client: Client, account: int = 0) -> list[AuditEntry]:
    """Return the entries of an account, the earliest first."""
    return list(chains_of(client).list(account, descending=False, limit=10_000))


def verify(client: Client, account: int = 0) -> ChainReport:
    """Verify the chain of an account."""
    (report,) = chains_of(client).verify(account)
    assert isinstance(report, ChainReport)
    return report


def actions(client: Client, account: int = 0) -> list[str]:
    """Return the actions of the entries of an account, the earliest first."""
    return [entry.action for entry in entries(client, account)]
