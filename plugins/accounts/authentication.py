"""Authenticate requests: the first scheme whose credentials a request has decides."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kernel import Database, ForbiddenError, Identity, Request, acting_as, load_queries
from plugins.accounts.keys import ApiKeys

QUERIES = load_queries(__package__)
REALM = "tiercel"


class Authentication:
    """The authenticator of the service.

    Args:
        db: Connection pool.
        keys: API keys.
    """

    def __init__(self, db: Database, keys: ApiKeys) -> None:
        self._db = db
        self._keys = keys

    def authenticate(self, request: Request) -> Identity | None:
        """Return who sends a request; see ``kernel.http.Authenticator``."""
        scheme, _, credentials = (request.get_header("Authorization") or "").partition(" ")
        if scheme.lower() == "api-key":
            return self._keys.authenticate(credentials.strip())
        if (key := request.get_header("X-API-Key")) is not None:
            return self._keys.authenticate(key.strip())
        return None

    def challenges(self) -> Sequence[str]:
        """Return the schemes that a request may use."""
        return (f'Api-Key realm="{REALM}"',)

    def select(self, request: Request, identity: Identity) -> Identity:
        """Return the identity for the account and the site that a request names; see ``kernel.http.Authenticator``."""
        if (named := request.get_header("X-Account")) is not None:
            identity = self._select_account(identity, named)
        if (named := request.get_header("X-Site")) is not None:
            identity = self._select_site(identity, named)
        return identity

    def _select_account(self, identity: Identity, named: str) -> Identity:
        if not identity.is_staff:
            raise ForbiddenError(detail="only staff may name an account")
        with acting_as(None), self._db.connection() as connection:
            row = connection.execute(QUERIES["find_account"], {"account": named}).fetchone()
        if row is None:
            raise ForbiddenError(detail=f"there is no account {named!r:.80}")
        account, _, has_active_plan, limits = row
        return msgspec.structs.replace(
            identity,
            account=account,
            sites=None,
            has_active_plan=has_active_plan,
            limits={unit: number for unit, number in limits.items() if number is not None},
        )

    def _select_site(self, identity: Identity, named: str) -> Identity:
        with acting_as(None), self._db.connection() as connection:
            row = connection.execute(QUERIES["find_site"], {"account": identity.account, "site": named}).fetchone()
        if row is None or (identity.sites is not None and row[0] not in identity.sites):
            raise ForbiddenError(detail=f"site {named!r:.80} is none of those that {identity.name} may see")
        return msgspec.structs.replace(identity, sites=(row[0],))
