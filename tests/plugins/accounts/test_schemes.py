"""Which credentials decide, cookies and pages of other sites, and headers that are meant to confuse."""

from __future__ import annotations

import base64

import pytest

from kernel.testing import Client
from tests.conftest import Serve
from tests.plugins.accounts.factories import (
    accounts_of,
    basic,
    bearer,
    cookie_of,
    create_key,
    create_user,
    sign_in,
    tokens_of,
    with_cookie,
    with_key,
)

ME = "/api/v1/auth/me/"
SIGN_OUT = "/api/v1/auth/sign-out/"


def scheme_of(client: Client, headers: dict[str, str]) -> str:
    """Return the scheme that authenticated a request, or what was wrong."""
    answer = client.get(ME, headers=headers)
    body = answer.json()
    text: str = body["data"]["scheme"] if answer.status == 200 else body["detail"]
    return text


# --- which one decides ------------------------------------------------------------------------------------------------


def test_the_first_scheme_that_is_present_decides(client: Client) -> None:
    user = create_user(client)
    key = {"X-API-Key": create_key(client, "read").secret}
    token = bearer(tokens_of(client, user)["access_token"])
    cookie = with_cookie(cookie_of(sign_in(client, user, cookie=True)))

    assert scheme_of(client, {**token, **cookie, **key}) == "api_key"
    assert scheme_of(client, {**token, **cookie}) == "jwt"
    assert scheme_of(client, {**basic(user), **cookie}) == "session"
    assert scheme_of(client, basic(user)) == "basic"


def test_a_scheme_that_is_wrong_is_not_made_up_for_by_the_next(client: Client) -> None:
    user = create_user(client)
    good = basic(user)

    assert scheme_of(client, {**good, "X-API-Key": "tk_x"}) == "the API key is malformed"
    assert scheme_of(client, {**good, "Cookie": "tiercel_session=x"}) == "the session is malformed"
    assert scheme_of(client, {**good, "Cookie": "tiercel_session="}) == "the session is malformed"
    assert scheme_of(client, {**with_cookie(cookie_of(sign_in(client, user, cookie=True))), **bearer("x")}) == (
        "the access token is malformed"
    )


def test_a_401_lists_every_scheme(client: Client) -> None:
    for headers in ({}, bearer("x"), {"Authorization": "Digest x"}):
        answer = client.get(ME, headers=headers)

        assert answer.status == 401
        assert answer.headers["www-authenticate"] == (
            'Api-Key realm="tiercel", Bearer realm="tiercel", Basic realm="tiercel", charset="UTF-8"'
        )


def test_public_routes_look_at_no_credentials(client: Client) -> None:
    assert client.get("/livez", headers=bearer("x")).status == 200


# --- headers that are meant to confuse --------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["BEARER", "bearer", "bEaReR"])
def test_schemes_are_case_insensitive_and_credentials_are_not(client: Client, scheme: str) -> None:
    token = tokens_of(client, create_user(client))["access_token"]

    assert scheme_of(client, {"Authorization": f"{scheme} {token}"}) == "jwt"
    assert scheme_of(client, {"Authorization": f"{scheme} {token.swapcase()}"}).startswith("the access token is ")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        # As servers join two headers of the same name.
        ("Bearer {token}, Bearer {token}", "the access token is malformed"),
        ("Bearer {token},Basic {basic}", "the access token is malformed"),
        ("Basic {basic}, Bearer {token}", "the credentials of Basic are malformed"),
        ("Basic {basic},{basic}", "the credentials of Basic are malformed"),
        ("Api-Key {key},{key}", "the API key is malformed"),
        ("Bearer\t{token}", "the scheme of Authorization is none of Api-Key, Bearer and Basic"),
        ("Bearer={token}", "the scheme of Authorization is none of Api-Key, Bearer and Basic"),
        # A letter that only looks like one, as its UTF-8 arrives.
        ("\xd0\x92earer {token}", "the scheme of Authorization is none of Api-Key, Bearer and Basic"),
        ("Ba\xc5\xbfic {basic}", "the scheme of Authorization is none of Api-Key, Bearer and Basic"),
        ("Token {token}", "the scheme of Authorization is none of Api-Key, Bearer and Basic"),
        ("{token}", "the scheme of Authorization is none of Api-Key, Bearer and Basic"),
        ("Bearer", "the access token is malformed"),
        ("Basic", "the credentials of Basic are malformed"),
        ("Basic !!!", "the credentials of Basic are malformed"),
        ("Basic " + base64.b64encode(b"no colon").decode(), "the credentials of Basic are malformed"),
        ("Basic " + base64.b64encode(b":x").decode(), "the credentials of Basic are malformed"),
        ("Basic " + base64.b64encode(b"\xff:x").decode(), "the credentials of Basic are malformed"),
    ],
)
def test_two_headers_and_look_alikes_are_refused(client: Client, header: str, reason: str) -> None:
    user = create_user(client)
    text = header.format(
        token=tokens_of(client, user)["access_token"],
        basic=basic(user)["Authorization"].partition(" ")[2],
        key=create_key(client, "read").secret,
    )

    assert scheme_of(client, {"Authorization": text}) == reason


def test_two_api_keys_are_refused(client: Client) -> None:
    one, two = create_key(client, "read"), create_key(client, "read")

    assert scheme_of(client, {**with_key(one), "X-API-Key": two.secret}) == "the API key is malformed: there are two"


def test_a_password_may_have_colons(client: Client) -> None:
    user = create_user(client)
    password = "a:b:c and some more: words"
    accounts = accounts_of(client)
    accounts.sign_in.users.set_password(user.id, accounts.sign_in.passwords.hash(password))

    assert scheme_of(client, basic(user, password)) == "basic"


# --- cookies ----------------------------------------------------------------------------------------------------------


def test_a_cookie_is_kept_from_scripts_and_other_sites(client: Client) -> None:
    header = sign_in(client, create_user(client), cookie=True).headers["set-cookie"]

    assert header.startswith("tiercel_session=")
    assert header.partition("; ")[2] == "Path=/; HttpOnly; SameSite=Lax; Max-Age=2592000"


def test_behind_tls_a_cookie_is_secure_and_of_this_host(serve: Serve) -> None:
    client = serve(auth="required", http={"trusted_proxies": ["unix"]})
    user = create_user(client)
    tls = {"X-Forwarded-Proto": "https"}
    body = {"email": user.email, "password": user.password, "cookie": True}
    answer = client.post("/api/v1/auth/sign-in/", body, headers=tls)
    name, _, value = cookie_of(answer).partition("=")

    assert name == "__Host-tiercel_session"
    assert answer.headers["set-cookie"].endswith("; Secure")
    assert scheme_of(client, {"Cookie": f"{name}={value}", **tls}) == "session"
    # A network without TLS, or a neighbour, could have set the other name.
    assert scheme_of(client, {"Cookie": f"tiercel_session={value}", **tls}) == "the request has no credentials"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 204),
        ({"Sec-Fetch-Site": "none"}, 204),
        ({"Origin": "http://127.0.0.1"}, 204),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        # Neither: an old browser, or one whose headers were removed.
        ({}, 403),
    ],
)
def test_a_cookie_changes_nothing_unless_the_browser_says_that_the_page_is_ours(
    client: Client, headers: dict[str, str], status: int
) -> None:
    cookie = cookie_of(sign_in(client, create_user(client), cookie=True))

    answer = client.post(SIGN_OUT, headers={"Cookie": cookie, **headers})

    assert answer.status == status
    assert status == 204 or answer.json()["code"] == "cross_site"


def test_programs_need_no_headers_of_browsers(client: Client) -> None:
    assert client.post(SIGN_OUT, headers=bearer(tokens_of(client, create_user(client))["access_token"])).status == 204


def test_a_page_of_another_site_cannot_sign_somebody_in(client: Client) -> None:
    user = create_user(client)
    body = {"email": user.email, "password": user.password, "cookie": True}

    answer = client.post("/api/v1/auth/sign-in/", body, headers={"Sec-Fetch-Site": "cross-site"})

    assert (answer.status, "set-cookie" in answer.headers) == (403, False)


def test_signing_in_never_goes_on_with_a_session_that_somebody_else_knows(client: Client) -> None:
    fixed = cookie_of(sign_in(client, create_user(client), cookie=True))
    victim = create_user(client)
    body = {"email": victim.email, "password": victim.password, "cookie": True}

    answer = client.post("/api/v1/auth/sign-in/", body, headers=with_cookie(fixed))

    assert cookie_of(answer) != fixed
    assert scheme_of(client, {"Cookie": fixed}) == "the session is revoked"
    assert client.get(ME, headers={"Cookie": cookie_of(answer)}).json()["data"]["email"] == victim.email


def test_several_cookies_of_the_name_are_refused(client: Client) -> None:
    one, two = (cookie_of(sign_in(client, create_user(client), cookie=True)) for _ in range(2))

    assert scheme_of(client, {"Cookie": f"{one}; {two}"}) == "the session is malformed: there are several cookies"


def test_a_changed_cookie_is_refused(client: Client) -> None:
    name, _, value = cookie_of(sign_in(client, create_user(client), cookie=True)).partition("=")
    session, random, signature = value.split(".")

    for forged in (f"{int(session) + 1}.{random}.{signature}", f"{session}.{random}", f"{session}.{random}.", "\xff"):
        assert scheme_of(client, {"Cookie": f"{name}={forged}"}) == "the session is malformed"


def test_signing_out_makes_the_browser_forget_the_cookie(client: Client) -> None:
    answer = client.post(SIGN_OUT, headers=with_cookie(cookie_of(sign_in(client, create_user(client), cookie=True))))

    assert answer.headers["set-cookie"].startswith("tiercel_session=; ")
    assert "Max-Age=0" in answer.headers["set-cookie"]
