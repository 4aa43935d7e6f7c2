"""Accounts, keys and users for tests."""

from __future__ import annotations

import itertools
from typing import Any

from kernel import Scope
from kernel.testing import Client
from plugins.accounts.container import Container, make_container
from plugins.accounts.keys import IssuedKey, NewKey

_numbers = itertools.count(1)


def accounts_of(client: Client) -> Container:
    """Return the objects of the plugin."""
    return client.service.registry.services["accounts"].once(make_container)


def create_account(client: Client, *, plan: str | None = "unlimited") -> int:
    """Create an account with a plan, and return its number."""
    with client.service.db.transaction() as connection:
        slug = f"account-{next(_numbers)}"
        row = connection.execute(
            "INSERT INTO accounts.account (slug, name) VALUES (%(slug)s, %(slug)s) RETURNING id", {"slug": slug}
        ).fetchone()
        assert row is not None
        connection.execute(
            "INSERT INTO accounts.subscription (account, plan) SELECT %s, id FROM accounts.plan WHERE slug = %s",
            [row[0], plan],
        )
    return int(row[0])


def create_site(client: Client, account: int) -> int:
    """Create a site, and return its number."""
    with client.service.db.connection() as connection:
        row = connection.execute(
            "INSERT INTO accounts.site (account, slug, name) VALUES (%(account)s, %(slug)s, %(slug)s) RETURNING id",
            {"account": account, "slug": f"site-{next(_numbers)}"},
        ).fetchone()
    assert row is not None
    return int(row[0])


def create_key(client: Client, *scopes: Scope, account: int = 0, **fields: Any) -> IssuedKey:
    """Create a key."""
    return accounts_of(client).keys.create(NewKey(account=account, name="test", scopes=scopes, **fields))


def with_key(issued: IssuedKey, **more: str) -> dict[str, str]:
    """Return the headers of a request with a key."""
    return {"Authorization": f"Api-Key {issued.secret}", **more}
