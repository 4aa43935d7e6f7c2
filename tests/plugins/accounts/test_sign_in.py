"""Signing in: with tokens, a cookie or Basic; what it opens, and when it ends."""

from __future__ import annotations

from contextlib import nullcontext

import argon2
import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql

from kernel.errors import InvalidError
from kernel.testing import Client
from plugins.accounts.sign_in.passwords import Passwords
from plugins.accounts.sign_in.sessions import SESSIONS_MAX
from tests.plugins.accounts.factories import (
    TestUser,
    accounts_of,
    basic,
    bearer,
    cookie_of,
    create_account,
    create_key,
    create_site,
    create_user,
    grant_site,
    sign_in,
    tokens_of,
    with_cookie,
    with_key,
)
from tests.plugins.observability.events import make_event

ROOT = "/api/requests/"
ME = "/api/v1/auth/me/"
NEW = "another horse, another staple"


def headers_of(client: Client, user: TestUser) -> dict[str, dict[str, str]]:
    """Sign in with each scheme, and return the headers of requests."""
    return {
        "jwt": bearer(tokens_of(client, user)["access_token"]),
        "session": with_cookie(cookie_of(sign_in(client, user, cookie=True))),
        "basic": basic(user),
    }


def test_a_user_may_do_what_the_role_says_with_every_scheme(client: Client) -> None:
    user = create_user(client, "viewer")

    for scheme, headers in headers_of(client, user).items():
        me = client.get(ME, headers=headers).json()["data"]

        assert (me["scheme"], me["email"], me["user"], me["scopes"]) == (scheme, user.email, user.id, ["read"])
        assert client.get(ROOT, headers=headers).status == 200
        assert client.post(ROOT, make_event(), headers=headers).json()["code"] == "forbidden"


def test_owners_admins_and_developers_of_the_system_account_are_staff(client: Client) -> None:
    account = create_account(client)

    assert client.get("/stats/", headers=basic(create_user(client, "developer"))).status == 200
    assert client.get("/stats/", headers=basic(create_user(client, "viewer"))).status == 403
    assert client.get("/stats/", headers=basic(create_user(client, "owner", account=account))).status == 403


def test_a_user_without_a_role_sees_the_sites_granted_and_may_do_what_all_roles_allow(client: Client) -> None:
    account = create_account(client)
    user = create_user(client, None, account=account)
    read_only, writable, foreign = (create_site(client, account) for _ in range(3))
    headers = bearer(tokens_of(client, user)["access_token"])
    nothing = client.get(ME, headers=headers).json()["data"]

    grant_site(client, user, read_only, "viewer")
    grant_site(client, user, writable, "developer")
    accounts_of(client).sign_in.users.forget([str(user.id)])
    both = client.get(ME, headers=headers).json()["data"]
    one = client.get(ME, headers={**headers, "X-Site": str(writable)}).json()["data"]

    assert (nothing["sites"], nothing["scopes"]) == ([], [])
    assert (both["sites"], both["scopes"], both["role"]) == ([read_only, writable], ["read"], None)
    assert (one["sites"], one["scopes"]) == ([writable], ["ingest", "read", "write"])
    assert client.get(ME, headers={**headers, "X-Site": str(foreign)}).status == 403


@pytest.mark.parametrize("way", ["deactivate", "delete", "password", "everywhere"])
def test_whatever_was_issued_to_a_user_ends_at_once(client: Client, way: str) -> None:
    user = create_user(client)
    issued = headers_of(client, user)
    refresh_token = tokens_of(client, user)["refresh_token"]
    assert {client.get(ME, headers=headers).status for headers in issued.values()} == {200}

    if way == "password":
        body = {"password": user.password, "new_password": NEW}
        assert client.post("/api/v1/auth/change/", body, headers=issued["jwt"]).status == 204
    elif way == "everywhere":
        assert client.post("/api/v1/auth/sign-out/?everywhere=true", headers=issued["jwt"]).status == 204
        del issued["basic"]
    else:
        changed = "is_active = false" if way == "deactivate" else "deleted_at = now()"
        with client.service.db.connection() as connection:
            connection.execute(f"UPDATE accounts.user SET {changed} WHERE id = %s", [user.id])
        # What a process remembers of the user is forgotten by the notification that a trigger sends.
        accounts_of(client).sign_in.users.forget([str(user.id)])

    answers = {scheme: client.get(ME, headers=headers) for scheme, headers in issued.items()}
    assert {answer.status for answer in answers.values()} == {401}
    assert answers["jwt"].json()["detail"] == "the access token is revoked"
    assert answers["session"].json()["detail"] == "the session is revoked"
    refreshed = client.post("/api/v1/auth/refresh/", {"refresh_token": refresh_token})
    assert (refreshed.status, refreshed.json()["detail"]) == (401, "the refresh token is revoked")


def test_what_has_ended_stays_so_when_the_user_is_active_again(client: Client) -> None:
    user = create_user(client)
    issued = headers_of(client, user)
    for is_active in (False, True):
        with client.service.db.connection() as connection:
            connection.execute("UPDATE accounts.user SET is_active = %s WHERE id = %s", [is_active, user.id])
    accounts_of(client).sign_in.users.forget([str(user.id)])

    answers = {scheme: client.get(ME, headers=headers).status for scheme, headers in issued.items()}

    # The password is still right.
    assert answers == {"jwt": 401, "session": 401, "basic": 200}


@pytest.mark.parametrize("scheme", ["jwt", "session"])
def test_signing_out_ends_one_session(client: Client, scheme: str) -> None:
    user = create_user(client)
    ended, other = headers_of(client, user)[scheme], headers_of(client, user)[scheme]

    answer = client.post("/api/v1/auth/sign-out/", headers=ended)

    assert answer.status == 204
    assert [client.get(ME, headers=headers).status for headers in (ended, other)] == [401, 200]


def test_only_a_user_has_a_password_to_change(client: Client) -> None:
    body = {"password": "x", "new_password": NEW}

    assert client.post("/api/v1/auth/change/", body, headers=with_key(create_key(client, "write"))).status == 403


def test_a_password_is_changed_by_who_knows_the_present_one(client: Client) -> None:
    user = create_user(client)

    answer = client.post("/api/v1/auth/change/", {"password": NEW, "new_password": NEW}, headers=basic(user))

    assert (answer.status, answer.json()["detail"]) == (403, "the present password is wrong")
    assert client.get(ME, headers=basic(user)).status == 200


@pytest.mark.parametrize(
    ("password", "problem"),
    [
        ("short", "Expected at least 12 characters."),
        ("x" * 257, "Expected at most 256 characters."),
        ("qwertyuiop123", "This is one of the most frequent passwords. Choose another one."),
        ("Password1234!!", "This is one of the most frequent passwords. Choose another one."),
        ("password" * 3, "This is one of the most frequent passwords. Choose another one."),
        ("abcabcabcabc", "This is one of the most frequent passwords. Choose another one."),
        ("ann.lee@example.com", "This is what you are known by. Choose another one."),
        ("ann.leeann.lee", "This is what you are known by. Choose another one."),
        ("correct horse battery staple", None),
        ("пароль из шести слов", None),
    ],
)
def test_new_passwords_are_long_and_not_among_the_commonest(password: str, problem: str | None) -> None:
    passwords = Passwords(length_min=12, hashes_max=1)

    with nullcontext() if problem is None else pytest.raises(InvalidError) as raised:
        passwords.ensure_acceptable(password, field="password", own_words=("ann.lee@example.com", "ann.lee"))

    assert problem is None or (raised is not None and raised.value.errors == {"password": [problem]})


def test_a_password_is_the_same_however_it_is_typed(client: Client) -> None:
    accounts = accounts_of(client)
    stored = accounts.sign_in.passwords.hash("Zu\u0308richer Straße 7")

    assert accounts.sign_in.passwords.verify("Züricher Straße 7", stored)


def test_a_hash_with_other_parameters_is_replaced_when_the_password_is_known(client: Client) -> None:
    user = create_user(client)
    weak = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(user.password)
    with client.service.db.connection() as connection:
        connection.execute("UPDATE accounts.password SET hash = %s WHERE user_id = %s", [weak, user.id])

    headers = bearer(tokens_of(client, user)["access_token"])

    _, stored = accounts_of(client).sign_in.users.find_password(user.email) or (0, None)
    assert stored is not None
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    # The password is the same, so nothing ends.
    assert client.get(ME, headers=headers).status == 200


def test_addresses_are_those_of_the_user_however_they_are_spelt(client: Client) -> None:
    user = create_user(client)

    assert sign_in(client, user, email=f"  {user.email.upper()} ").status == 200
    # A Cyrillic letter that looks like the Latin one.
    assert sign_in(client, user, email=user.email.replace("e", "\u0435", 1)).status == 401


def test_the_sessions_of_a_user_are_bounded_and_old_ones_are_removed(client: Client) -> None:
    user = create_user(client)
    first = bearer(tokens_of(client, user)["access_token"])
    with client.service.db.connection() as connection:
        connection.execute(
            "INSERT INTO accounts.session"
            " (account, user_id, kind, sha256, token_version, created_at, used_at, expires_at)"
            " SELECT 0, %(user)s, 'token', ''::bytea, 0, now(), now(),"
            "        now() + CASE WHEN n > 20 THEN interval '1 day' ELSE interval '-8 days' END"
            " FROM generate_series(1, 150) AS n",
            {"user": user.id},
        )
        sign_in(client, user)
        row = connection.execute(
            "SELECT count(*), count(*) FILTER (WHERE expires_at < now()) FROM accounts.session WHERE user_id = %s",
            [user.id],
        ).fetchone()

    assert row is not None
    assert row[0] <= SESSIONS_MAX
    assert row[1] == 0
    accounts_of(client).sign_in.sessions.forget([str(number) for number in range(1, 1000)])
    assert client.get(ME, headers=first).json()["detail"] == "the access token is revoked"


def test_responses_with_secrets_are_not_cached(client: Client) -> None:
    assert sign_in(client, create_user(client)).headers["cache-control"] == "no-store"


def test_an_account_without_a_plan_may_sign_in_and_out(client: Client) -> None:
    user = create_user(client, "owner", account=create_account(client, plan=None))
    headers = bearer(tokens_of(client, user)["access_token"])

    assert client.get(ROOT, headers=headers).status == 402
    assert client.get(ME, headers=headers).status == 200
    assert client.post("/api/v1/auth/sign-out/", headers=headers).status == 204


def test_keys_and_sessions_work_on_a_server_that_is_read_only(own_client: Client, database: str) -> None:
    user = create_user(own_client)
    cookie = with_cookie(cookie_of(sign_in(own_client, user, cookie=True)))
    key = create_key(own_client, "read")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE accounts.session SET used_at = used_at - interval '10 minutes'")
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
        connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename = current_user"
        )
    accounts_of(own_client).sign_in.sessions.forget([str(number) for number in range(10)])

    assert [own_client.get(ME, headers=headers).status for headers in (cookie, with_key(key))] == [200, 200]
    assert sign_in(own_client, user).json()["code"] == "database_read_only"


def test_a_password_is_asked_for_and_not_shown(client: Client) -> None:
    command = client.command("accounts", "create-admin")

    ran = CliRunner().invoke(command, ["Carol@Example.com", "--name", "Carol"], input=f"{NEW}\n{NEW}\n")

    assert ran.exit_code == 0, ran.output
    assert "carol@example.com, administers the service" in ran.output
    assert NEW not in ran.output
    carol = TestUser(0, "carol@example.com", NEW)
    assert client.get(ME, headers=basic(carol)).json()["data"]["role"] == "owner"
