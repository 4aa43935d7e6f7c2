"""Access and refresh tokens, and what is tried against them."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from kernel.testing import Client
from plugins.accounts.sign_in.signing_keys import SigningKeys
from tests.conftest import Serve, service_starter
from tests.plugins.accounts.factories import (
    accounts_of,
    bearer,
    cookie_of,
    create_user,
    sign_in,
    tokens_of,
    with_cookie,
)

ME = "/api/v1/auth/me/"
REFRESH = "/api/v1/auth/refresh/"


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.offset = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def client(module_database: str, clock: Clock) -> Iterator[Client]:
    with service_starter({"url": module_database}) as start:
        yield start(clock=clock, auth="required")


@pytest.fixture(autouse=True)
def _now(clock: Clock) -> None:
    clock.offset = timedelta(0)


def decode(part: str) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return decoded


def encode(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def sign_by_hand(header: dict[str, Any], claims: dict[str, Any], secret: bytes) -> str:
    """Sign with HMAC, which no library refuses to do with such a secret."""
    signed = f"{encode(header)}.{encode(claims)}"
    signature = base64.urlsafe_b64encode(hmac.digest(secret, signed.encode(), "sha256")).rstrip(b"=").decode()
    return f"{signed}.{signature}"


def ask(client: Client, token: str) -> tuple[int, str | None]:
    """Return the status and the detail of a request with an access token."""
    answer = client.get(ME, headers=bearer(token))
    return answer.status, answer.json().get("detail")


def forge(client: Client, token: str, header: dict[str, Any] | None = None, **claims: Any) -> str:
    """Sign other claims as the service would: its key is known here."""
    head, body, _ = token.split(".")
    key = OctKey.import_key(accounts_of(client).sign_in.signing_keys.current_jwt().secret)
    merged = {name: value for name, value in {**decode(body), **claims}.items() if value is not None}
    return jwt.encode({**decode(head), **(header or {})}, merged, key, algorithms=["HS256"], default_type=None)


@pytest.fixture
def token(client: Client) -> str:
    issued: str = tokens_of(client, create_user(client))["access_token"]
    return issued


# --- access tokens ----------------------------------------------------------------------------------------------------


def test_a_token_names_its_key_its_user_and_its_end(client: Client, token: str) -> None:
    head, body, _ = token.split(".")

    assert decode(head) == {
        "alg": "HS256",
        "kid": accounts_of(client).sign_in.signing_keys.current_jwt().kid,
        "typ": "at+jwt",
    }
    claims = decode(body)
    assert claims["exp"] - claims["iat"] == 900
    assert ask(client, token) == (200, None)


@pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", "NONE", "", "hs256", "HS512", "RS256", "EdDSA", None, 1])
def test_no_other_algorithm_is_taken(client: Client, token: str, algorithm: Any) -> None:
    head, body, signature = token.split(".")
    header = encode({**decode(head), "alg": algorithm})

    for forged in (f"{header}.{body}.{signature}", f"{header}.{body}."):
        assert ask(client, forged) == (401, "the access token is malformed")


def test_a_key_of_another_kind_verifies_nothing(client: Client, token: str) -> None:
    head, body, _ = token.split(".")
    claims, kid = decode(body), decode(head)["kid"]
    own_key = RSAKey.generate_key(2048)
    ec_key = ECKey.generate_key("P-256")
    header = {"kid": kid, "typ": "at+jwt"}
    # Public: what a verifier that takes the algorithm from the token would use as the secret of an HMAC.
    public = own_key.as_pem(private=False)

    forged = [
        jwt.encode({"alg": "RS256", **header}, claims, own_key, algorithms=["RS256"]),
        jwt.encode({"alg": "ES256", **header}, claims, ec_key, algorithms=["ES256"]),
        sign_by_hand({"alg": "HS256", **header}, claims, public),
        sign_by_hand({"alg": "HS256", **header}, claims, b""),
        sign_by_hand({"alg": "HS256", **header, "jwk": {"kty": "oct", "k": "AA"}}, claims, b"\0"),
        sign_by_hand({"alg": "HS256", **header, "jku": "https://evil.example/"}, claims, b"\0"),
    ]

    assert {ask(client, each)[0] for each in forged} == {401}


@pytest.mark.parametrize("kid", ["0" * 16, "../../dev/null", "' OR 1=1 --", "", None, 1, ["a"], "\0"])
def test_a_key_that_is_unknown_verifies_nothing(client: Client, token: str, kid: Any) -> None:
    head, body, _ = token.split(".")
    forged = f"{encode({**decode(head), 'kid': kid})}.{body}.{encode('x')}"

    assert ask(client, forged)[0] == 401


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": 1}, "expired"),
        ({"exp": None}, "malformed"),
        ({"exp": "tomorrow"}, "malformed"),
        ({"iat": 2**40}, "malformed"),
        ({"iat": None}, "malformed"),
        ({"iss": "somebody"}, "malformed"),
        ({"aud": "somebody"}, "malformed"),
        ({"sub": None}, "malformed"),
        ({"sid": None}, "malformed"),
        ({"sid": 7}, "malformed"),
        ({"sid": "7 OR 1=1"}, "malformed"),
        ({"sid": "999999999999"}, "revoked"),
        ({"nbf": 2**40}, "malformed"),
    ],
)
def test_claims_that_are_wrong_are_refused_although_the_signature_is_right(
    client: Client, token: str, claims: dict[str, Any], reason: str
) -> None:
    assert ask(client, forge(client, token, **claims)) == (401, f"the access token is {reason}")


@pytest.mark.parametrize(
    "header",
    [{"typ": "JWT"}, {"typ": None}, {"crit": ["exp"]}, {"crit": ["b64"], "b64": False}],
)
def test_a_token_of_another_type_or_with_unknown_demands_is_refused(
    client: Client, token: str, header: dict[str, Any]
) -> None:
    head, body, signature = token.split(".")
    forged = f"{encode({**decode(head), **header})}.{body}.{signature}"

    assert ask(client, forged)[0] == 401


def test_a_changed_token_is_refused(client: Client, token: str) -> None:
    head, body, signature = token.split(".")
    other = encode({**decode(body), "sub": "1"})

    assert ask(client, f"{head}.{other}.{signature}") == (401, "the access token is not signed by this service")


@pytest.mark.parametrize("text", ["", ".", "..", "a.b", "a.b.c", "a.b.c.d.e", "a b c", "ä.b.c", "=.=.=", "x" * 9000])
def test_what_is_no_token_is_malformed(client: Client, text: str) -> None:
    assert ask(client, text) == (401, "the access token is malformed")


def test_clocks_may_differ_a_little(client: Client, token: str) -> None:
    now = int(time.time())

    answers = [ask(client, forge(client, token, iat=now + skew))[0] for skew in (20, 40)]
    answers += [ask(client, forge(client, token, exp=now - skew))[0] for skew in (20, 40)]

    assert answers == [200, 401, 200, 401]


def test_a_token_expires(client: Client, clock: Clock, token: str) -> None:
    clock.offset = timedelta(seconds=900 + 31)

    assert ask(client, token) == (401, "the access token is expired")


def test_a_process_that_has_just_read_the_keys_verifies_with_one_that_is_newer(client: Client, clock: Clock) -> None:
    processes = [SigningKeys(client.service.db, clock.now, 900.0, None) for _ in range(2)]
    processes[1].list_jwt()

    new = processes[0].rotate_jwt()

    assert processes[1].find_jwt(new.kid) == new
    # One that is guessed costs no query so soon.
    newer = processes[0].rotate_jwt()
    assert processes[1].find_jwt(newer.kid) is None


def test_a_key_that_was_rotated_verifies_until_its_tokens_expire(client: Client, clock: Clock, token: str) -> None:
    keys = accounts_of(client).sign_in.signing_keys
    old = keys.current_jwt().kid

    new = keys.rotate_jwt().kid
    issued = tokens_of(client, create_user(client))["access_token"]

    assert new != old
    assert decode(issued.split(".")[0])["kid"] == new
    assert [ask(client, each)[0] for each in (token, issued)] == [200, 200]
    clock.offset = timedelta(seconds=900 + 31)
    # A token that would be good until then is not: its key is not.
    assert ask(client, forge_with_old_key(client, token, old)) == (
        401,
        "the access token is not signed by this service",
    )


def forge_with_old_key(client: Client, token: str, kid: str) -> str:
    key = next(key for key in accounts_of(client).sign_in.signing_keys.list_jwt() if key.kid == kid)
    claims = {**decode(token.split(".")[1]), "exp": int(time.time()) + 10_000}
    header = {"alg": "HS256", "kid": kid, "typ": "at+jwt"}
    return jwt.encode(header, claims, OctKey.import_key(key.secret), algorithms=["HS256"])


def test_keys_that_are_rotated_at_once_verify_nothing_more(client: Client, token: str) -> None:
    accounts_of(client).sign_in.signing_keys.rotate_jwt(at_once=True)

    assert ask(client, token) == (401, "the access token is not signed by this service")


def test_a_token_that_was_good_is_verified_no_longer_once_it_is_not(client: Client, token: str, clock: Clock) -> None:
    assert [ask(client, token)[0] for _ in range(2)] == [200, 200]
    clock.offset = timedelta(seconds=900 + 31)
    assert ask(client, token) == (401, "the access token is expired")
    clock.offset = timedelta(0)
    assert ask(client, token)[0] == 200

    accounts_of(client).sign_in.signing_keys.rotate_jwt(at_once=True)

    assert ask(client, token) == (401, "the access token is not signed by this service")


# --- refresh tokens ---------------------------------------------------------------------------------------------------


def refresh(client: Client, token: str) -> tuple[int, dict[str, Any]]:
    answer = client.post(REFRESH, {"refresh_token": token})
    return answer.status, answer.json()["data"] if answer.status == 200 else answer.json()


def test_a_refresh_token_works_once_and_a_second_use_ends_the_session(client: Client) -> None:
    first = tokens_of(client, create_user(client))
    status, second = refresh(client, first["refresh_token"])
    assert status == 200
    assert ask(client, second["access_token"])[0] == 200

    status, refused = refresh(client, first["refresh_token"])

    assert (status, refused["detail"]) == (401, "the refresh token was used before: its session is revoked")
    # Whoever of the two is the thief has nothing.
    assert refresh(client, second["refresh_token"])[0] == 401
    assert {ask(client, each["access_token"])[0] for each in (first, second)} == {401}


def test_a_forged_refresh_token_ends_no_session(client: Client) -> None:
    token = tokens_of(client, create_user(client))["refresh_token"]
    session, random, signature = token.split(".")

    for forged in (f"{session}.{random[::-1]}.{signature}", f"{session}.{random}.x", f"{session}..", "", "a.b.c"):
        assert refresh(client, forged)[1]["detail"] == "the refresh token is malformed"

    assert refresh(client, token)[0] == 200


def test_tokens_are_no_cookies_and_cookies_no_tokens(client: Client) -> None:
    user = create_user(client)
    refresh_token = tokens_of(client, user)["refresh_token"]
    cookie = sign_in(client, user, cookie=True).headers["set-cookie"].partition(";")[0]

    assert refresh(client, cookie.partition("=")[2])[0] == 401
    assert client.get(ME, headers={"Cookie": f"tiercel_session={refresh_token}"}).status == 401
    assert ask(client, refresh_token)[0] == 401


def test_a_refresh_token_that_is_not_used_expires(client: Client, clock: Clock) -> None:
    token = tokens_of(client, create_user(client))["refresh_token"]

    clock.offset = timedelta(days=14)

    assert refresh(client, token)[1]["detail"] == "the refresh token is expired"


def test_a_session_ends_however_often_it_is_refreshed(client: Client, clock: Clock) -> None:
    tokens = tokens_of(client, create_user(client))

    for days in (10, 20, 29):
        clock.offset = timedelta(days=days)
        status, tokens = refresh(client, tokens["refresh_token"])
        assert (status, tokens["expires_in"]) == (200, 900)
    clock.offset = timedelta(days=30, seconds=-60)
    _, tokens = refresh(client, tokens["refresh_token"])
    assert tokens["expires_in"] <= 60
    clock.offset = timedelta(days=30)

    assert refresh(client, tokens["refresh_token"])[1]["detail"] == "the refresh token is expired"


def test_the_secret_of_the_settings_signs_refresh_tokens(serve: Serve) -> None:
    client = serve(auth="required", secret_key="a long random text")
    token = tokens_of(client, create_user(client))["refresh_token"]

    other = serve(auth="required", secret_key="another long random text")

    assert refresh(other, token)[1]["detail"] == "the refresh token is malformed"
    assert refresh(client, token)[0] == 200


# --- sessions with a cookie -------------------------------------------------------------------------------------------


def test_a_session_with_a_cookie_ends_when_it_is_not_used(client: Client, clock: Clock) -> None:
    headers = with_cookie(cookie_of(sign_in(client, create_user(client), cookie=True)))

    for hours in (11, 22, 33):
        clock.offset = timedelta(hours=hours)
        accounts_of(client).sign_in.sessions.forget([str(number) for number in range(1000)])
        assert client.get(ME, headers=headers).status == 200
    clock.offset = timedelta(hours=33 + 12)

    assert client.get(ME, headers=headers).json()["detail"] == "the session is expired"


def test_a_session_with_a_cookie_ends_however_much_it_is_used(client: Client, clock: Clock) -> None:
    headers = with_cookie(cookie_of(sign_in(client, create_user(client), cookie=True)))
    with client.service.db.connection() as connection:
        connection.execute("UPDATE accounts.session SET used_at = used_at + interval '30 days'")
    accounts_of(client).sign_in.sessions.forget([str(number) for number in range(1000)])

    clock.offset = timedelta(days=30)

    assert client.get(ME, headers=headers).json()["detail"] == "the session is expired"
