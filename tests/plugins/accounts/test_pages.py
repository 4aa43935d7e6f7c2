"""Pages to sign in and out, to see one's account, to reset a password, and to act for another account."""

from __future__ import annotations

import html
import re
from urllib.parse import urlencode

import pytest

from kernel.testing import Client, Result
from tests.plugins.accounts.factories import (
    PASSWORD,
    TestUser,
    accounts_of,
    basic,
    cookie_of,
    create_account,
    create_user,
    sign_in,
    with_cookie,
)

HTML = {"Accept": "text/html"}
NEW = "another horse, another staple"
ACCOUNT = "/account/"
SWITCH = "/account/switch/"
HOSTILE = "<script>alert(1)</script>"


def send(client: Client, path: str, headers: dict[str, str] | None = None, **fields: str) -> Result:
    """Send a form, as the page of it does."""
    form = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
    return client.post(path, content=urlencode(fields).encode(), headers={**HTML, **form, **(headers or {})})


def enter(client: Client, user: TestUser, *, following: str = "/", password: str = PASSWORD) -> Result:
    return send(client, f"/sign-in/?{urlencode({'next': following})}", email=user.email, password=password)


def page(client: Client, path: str, headers: dict[str, str]) -> str:
    answer = client.get(path, headers={**HTML, **headers})
    assert answer.status == 200, answer.content
    return answer.content.decode()


def signed_in(client: Client, user: TestUser) -> dict[str, str]:
    return with_cookie(cookie_of(sign_in(client, user, cookie=True)))


def audit(client: Client, account: int) -> list[tuple[str, str]]:
    """Return actions and targets in the audit log of an account."""
    with client.service.db.connection() as connection:
        return connection.execute(
            "SELECT action, target_id FROM tiercel.audit_entry WHERE account = %s ORDER BY number", [account]
        ).fetchall()


def test_signing_in_leads_to_where_a_person_wanted_to(client: Client) -> None:
    user = create_user(client)
    asked = client.get("/requests/?last=7d", headers=HTML)
    form = page(client, asked.headers["location"], {})

    answer = send(client, asked.headers["location"], email=f" {user.email.upper()}", password=PASSWORD)

    assert 'autocomplete="username"' in form
    assert 'autocomplete="current-password"' in form
    assert (answer.status, answer.headers["location"]) == (303, "/requests/?last=7d")
    assert re.search(
        r"^tiercel_session=[^;]+; Path=/; HttpOnly; SameSite=Lax; Max-Age=\d+$", answer.headers["set-cookie"]
    )
    assert user.email in page(client, "/requests/", with_cookie(cookie_of(answer)))


@pytest.mark.parametrize(
    "following", ["https://evil.example/", "//evil.example/", "/\\evil.example", "/\t/evil.example"]
)
def test_signing_in_leads_nowhere_else(following: str, client: Client) -> None:
    assert enter(client, create_user(client), following=following).headers["location"] == "/"


def test_a_wrong_password_is_told_like_an_unknown_address_and_kept_out_of_the_page(client: Client) -> None:
    user = create_user(client)

    wrong = enter(client, user, password="my secret")
    unknown = send(client, "/sign-in/", email="nobody@example.com", password="my secret")

    assert (wrong.status, unknown.status) == (401, 401)
    assert "set-cookie" not in wrong.headers
    assert "Basic" not in wrong.headers["www-authenticate"]
    texts = [re.sub(r"<code>\w+</code>|value=\"[^\"]*\"", "", each.content.decode()) for each in (wrong, unknown)]
    assert "the e-mail address or the password is wrong" in texts[0]
    assert f'value="{user.email}"' in wrong.content.decode()
    assert "my secret" not in wrong.content.decode()
    assert texts[0].replace("/sign-in/?next=%2F", "/sign-in/") == texts[1].replace("/sign-in/?next=%2F", "/sign-in/")


def test_guessing_is_slowed_down_as_in_the_api(client: Client) -> None:
    user = create_user(client)

    answers = [enter(client, user, password=f"wrong {number}") for number in range(7)]

    assert [each.status for each in answers] == [401] * 6 + [429]
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert sign_in(client, user).status == 429


def test_only_the_pages_of_the_service_sign_in_and_out(client: Client) -> None:
    user = create_user(client)
    headers = signed_in(client, user)

    for foreign in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):
        assert send(client, "/sign-in/", foreign, email=user.email, password=PASSWORD).status == 403
        assert send(client, "/sign-out/", headers | foreign).status == 403
        assert send(client, SWITCH, headers | foreign, account="0").status == 403
    assert client.get(ACCOUNT, headers=headers).status == 200


def test_signing_in_ends_the_session_before_and_signing_out_the_own(client: Client) -> None:
    first, second = create_user(client), create_user(client)
    before = signed_in(client, first)

    entered = send(client, "/sign-in/", before, email=second.email, password=PASSWORD)
    now = with_cookie(cookie_of(entered))

    assert client.get(ACCOUNT, headers=before).status == 401
    assert second.email in page(client, ACCOUNT, now)
    left = send(client, "/sign-out/", now)
    assert (left.status, left.headers["location"]) == (303, "/sign-in/")
    assert client.get(ACCOUNT, headers=now).status == 401
    assert client.get(ACCOUNT, headers=HTML | now).headers["location"] == "/sign-in/?next=%2Faccount%2F"


def test_the_account_says_who_it_is_what_that_allows_and_what_is_used(client: Client) -> None:
    account = create_account(client)
    user = create_user(client, "viewer", account=account)
    with client.service.db.connection() as connection:
        connection.execute("UPDATE accounts.account SET name = %s WHERE id = %s", [HOSTILE, account])

    shown = page(client, ACCOUNT, basic(user))

    facts = dict(re.findall(r"<dt>([^<]*)</dt><dd>(.*?)</dd>", shown, re.DOTALL))
    assert user.email in facts["E-mail address"]
    assert "Viewer" in facts["Role"]
    assert re.findall(r"badge\">(\w+)<", facts["May"]) == ["read"]
    assert "Unlimited" in facts["Plan"]
    assert html.escape(HOSTILE) in facts["Account"]
    assert HOSTILE not in shown
    assert "Requests today" in facts
    assert "Act for another account" not in shown


def test_a_changed_password_ends_all_sessions_and_a_wrong_one_changes_nothing(client: Client) -> None:
    user = create_user(client)
    headers = signed_in(client, user)

    wrong = send(client, "/account/password/", headers, password="wrong", new_password=NEW)
    weak = send(client, "/account/password/", headers, password=PASSWORD, new_password="short")
    good = send(client, "/account/password/", headers, password=PASSWORD, new_password=NEW)

    assert (wrong.status, weak.status, good.status) == (403, 400, 303)
    assert "the present password is wrong" in wrong.content.decode()
    assert 'id="form-new_password-error"' in weak.content.decode()
    assert good.headers["location"] == "/sign-in/"
    assert client.get(ACCOUNT, headers=headers).status == 401
    assert enter(client, user).status == 401
    assert enter(client, user, password=NEW).status == 303


def test_whether_there_is_a_user_of_an_address_is_not_told(client: Client) -> None:
    addresses = (create_user(client).email, "nobody@example.com", "no address")

    answers = [send(client, "/reset-password/", email=address) for address in addresses]

    assert {(each.status, each.headers["location"]) for each in answers} == {(303, "/reset-password/confirm/")}


def test_staff_acts_for_another_account_until_it_goes_back(client: Client) -> None:
    account, staff = create_account(client), create_user(client, "admin")
    headers = signed_in(client, staff)
    own = len(audit(client, 0))

    switched = send(client, SWITCH, headers, account=str(account), next="/requests/")
    acting = headers | {"Cookie": f"{headers['Cookie']}; {cookie_of(switched)}"}

    assert (switched.status, switched.headers["location"]) == (303, "/requests/")
    assert switched.headers["set-cookie"] == f"tiercel_account={account}; Path=/; HttpOnly; SameSite=Lax"
    assert client.get("/api/v1/auth/me/", headers=acting).json()["data"]["account"] == account
    # The header precedes the cookie, and goes with whoever sends it.
    assert client.get("/api/v1/auth/me/", headers=acting | {"X-Account": "0"}).json()["data"]["account"] == 0
    assert "Back to own account" in page(client, ACCOUNT, acting)
    back = send(client, SWITCH, acting, next="//evil.example")
    assert (back.headers["location"], "tiercel_account=;" in back.headers["set-cookie"]) == ("/", True)
    recorded = audit(client, account)
    assert recorded[0] == ("account.switch", str(account))
    assert recorded[1:] == [("account.access", "/api/v1/auth/me/"), ("account.access", ACCOUNT)]
    assert audit(client, 0)[own:] == [*recorded, ("POST /account/switch", SWITCH)]


def test_what_a_page_reads_again_is_recorded_once_and_changes_each_time(client: Client) -> None:
    account, staff = create_account(client), create_user(client, "admin")
    headers = signed_in(client, staff)
    acting = headers | {"Cookie": f"{headers['Cookie']}; tiercel_account={account}"}

    for _ in range(3):
        page(client, ACCOUNT, acting | {"X-Panel": "plan"})
    for number in range(2):
        body = {"slug": f"site-of-{account}-{number}", "name": "Site", "url": ""}
        assert client.post("/api/v1/sites/", body, headers=acting).status == 201
    for _ in range(2):
        assert client.get(ACCOUNT, headers=headers | {"X-Account": str(account)}).status == 200

    actions = [action for action, _ in audit(client, account)]
    assert actions == ["account.access", *["account.access", "site.create"] * 2, *["account.access"] * 2]


def test_nobody_else_acts_for_another_account(client: Client) -> None:
    account, other = create_account(client), create_account(client)
    owner = signed_in(client, create_user(client, "owner", account=account))
    forged = owner | {"Cookie": f"{owner['Cookie']}; tiercel_account={other}"}

    refused = send(client, SWITCH, owner, account=str(other))

    assert refused.status == 403
    assert "set-cookie" not in refused.headers
    assert audit(client, other) == []
    # A cookie that somebody makes up opens nothing, and can be left.
    for path in (ACCOUNT, "/requests/", "/api/v1/sites/"):
        assert client.get(path, headers=HTML | forged).status == 403
    for path in (SWITCH, SWITCH.rstrip("/"), "/sign-out"):
        assert send(client, path, forged).status == 303
    assert send(client, SWITCH, signed_in(client, create_user(client, "admin")), account="nobody").status == 403


def test_whoever_is_no_longer_staff_stops_acting_at_once(client: Client) -> None:
    account, staff = create_account(client), create_user(client, "admin")
    headers = signed_in(client, staff)
    acting = headers | {"Cookie": f"{headers['Cookie']}; tiercel_account={account}"}
    assert client.get(ACCOUNT, headers=acting).status == 200

    with client.service.db.connection() as connection:
        connection.execute("UPDATE accounts.user SET role = 'viewer' WHERE id = %s", [staff.id])
    accounts_of(client).sign_in.users.forget([str(staff.id)])

    assert client.get(ACCOUNT, headers=acting).status == 403


def test_staff_finds_accounts_to_act_for(client: Client) -> None:
    account = create_account(client)
    path = f"/search/?q=account-{account}"
    with client.service.db.connection() as connection:
        connection.execute("UPDATE accounts.account SET slug = %s WHERE id = %s", [f"account-{account}", account])

    found = client.get(path, headers=basic(create_user(client, "admin"))).json()["groups"]
    others = client.get(path, headers=basic(create_user(client, "owner", account=account))).json()["groups"]

    assert f"/account/?account=account-{account}#act-for" in [
        each["path"] for group in found if group["name"] == "Accounts" for each in group["results"]
    ]
    assert all(group["name"] != "Accounts" for group in others)
    # Whoever acts for an account sees that one alone.
    acting = basic(create_user(client, "admin")) | {"X-Account": str(create_account(client))}
    assert all(group["name"] != "Accounts" for group in client.get(path, headers=acting).json()["groups"])
    assert "Act for another account" not in page(client, ACCOUNT, acting)
