"""Accounts, keys and users for tests."""

from __future__ import annotations

import base64
import itertools
from typing import Any

import msgspec

from kernel.identity import Role, Scope
from kernel.testing import Client, Result
from plugins.accounts.container import Container, make_container
from plugins.accounts.keys import IssuedKey, NewKey
from plugins.accounts.sign_in.users import NewUser

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


PASSWORD = "correct horse battery staple"


class TestUser(msgspec.Struct, frozen=True):
    """A user, and how to sign in.

    Args:
        id: Number of the user.
        email: Address of the user.
        password: Password of the user.
    """

    __test__ = False

    id: int
    email: str
    password: str


def create_user(client: Client, role: Role | None = "viewer", *, account: int = 0) -> TestUser:
    """Create a user with a password."""
    accounts = accounts_of(client)
    email = f"user{next(_numbers)}@example.com"
    new = NewUser(account=account, email=email, role=role)
    return TestUser(accounts.sign_in.users.create(new, accounts.sign_in.passwords.hash(PASSWORD)), email, PASSWORD)


def grant_site(client: Client, user: TestUser, site: int, role: Role) -> None:
    """Give a user access to a site of its account."""
    with client.service.db.connection() as connection:
        connection.execute(
            "INSERT INTO accounts.site_user_access (account, site, user_id, role)"
            " SELECT account, %s, id, %s FROM accounts.user WHERE id = %s",
            [site, role, user.id],
        )


def sign_in(client: Client, user: TestUser, *, address: str | None = None, **fields: Any) -> Result:
    """Sign in; ``address`` is where the request comes from, with a service that trusts ``unix`` as a proxy."""
    headers = {} if address is None else {"X-Forwarded-For": address}
    body = {"email": user.email, "password": user.password, **fields}
    return client.post("/api/v1/auth/sign-in/", body, headers=headers)


def tokens_of(client: Client, user: TestUser) -> dict[str, Any]:
    """Sign in, and return the tokens."""
    tokens: dict[str, Any] = sign_in(client, user).json()["data"]
    return tokens


def bearer(token: str, **more: str) -> dict[str, str]:
    """Return the headers of a request with an access token."""
    return {"Authorization": f"Bearer {token}", **more}


def basic(user: TestUser, password: str | None = None) -> dict[str, str]:
    """Return the headers of a request with user and password."""
    text = f"{user.email}:{user.password if password is None else password}"
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


def cookie_of(answer: Result) -> str:
    """Return name and value of the cookie that a response sets."""
    return answer.headers["set-cookie"].partition(";")[0]


def with_cookie(cookie: str, **more: str) -> dict[str, str]:
    """Return the headers of a browser's request from a page of the service."""
    return {"Cookie": cookie, "Sec-Fetch-Site": "same-origin", **more}
