"""Requests of people: identities that are known by a header, beside the schemes of the plugin."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from kernel import (
    Identity,
    Request,
)
from kernel.http import Authenticator
from kernel.identity import Role, Scope
from kernel.testing import Client
from plugins.accounts.models import ROLE_SCOPES, STAFF_ROLES

_HEADER = "X-Member"
_numbers = itertools.count(1)


class Members:
    """An authenticator that knows members by a header, and leaves the rest to another one.

    Args:
        others: Authenticates requests without that header.
    """

    def __init__(self, others: Authenticator) -> None:
        self._others = others
        self.identities: dict[str, Identity] = {}

    def authenticate(self, request: Request) -> Identity | None:
        """Return the member that the header names."""
        named = request.get_header(_HEADER)
        return self._others.authenticate(request) if named is None else self.identities[named]

    def select(self, request: Request, identity: Identity) -> Identity:
        """Select account and site as the other one does."""
        return self._others.select(request, identity)

    def challenges(self) -> Sequence[str]:
        """Return the challenges of the other one."""
        return self._others.challenges()

    def security_schemes(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the schemes of the other one."""
        return self._others.security_schemes()


def member(client: Client, account: int, role: Role, **fields: Any) -> dict[str, str]:
    """Return the headers of requests by a user of an account."""
    authorizer = client.service.shared.authorizer
    members = authorizer._authenticator
    if not isinstance(members, Members):
        assert members is not None
        authorizer._authenticator = members = Members(members)
    name = f"{role}-{next(_numbers)}"
    staff: frozenset[Scope] = frozenset({"staff"} if account == 0 and role in STAFF_ROLES else set())
    members.identities[name] = Identity(
        scheme="session",
        name=name,
        account=account,
        own_account=account,
        scopes=ROLE_SCOPES[role] | staff,
        role=role,
        **fields,
    )
    # Of a page of the service itself.
    return {_HEADER: name, "Origin": "http://127.0.0.1"}
