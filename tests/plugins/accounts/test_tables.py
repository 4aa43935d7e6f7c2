"""Pages of what accounts have: they show and do what the API does, for whom the API does it."""

from __future__ import annotations

import html
import re
from typing import Any
from urllib.parse import urlencode

import pytest

from kernel.testing import Client, Result
from tests.plugins.accounts.factories import create_account, create_key, create_site, with_key
from tests.plugins.accounts.members import member
from tests.plugins.accounts.test_resources import API, create_user, data_of

FORM = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin", "Accept": "text/html"}
HOSTILE = "<script>alert(1)</script>\"'&" + "x" * 150


@pytest.fixture
def account(client: Client) -> int:
    return create_account(client)


@pytest.fixture
def owner(client: Client, account: int) -> dict[str, str]:
    return member(client, account, "owner")


@pytest.fixture
def staff(client: Client) -> dict[str, str]:
    return member(client, 0, "owner")


def page(client: Client, path: str, headers: dict[str, str]) -> str:
    """Return a page."""
    answer = client.get(path, headers={**headers, "Accept": "text/html"})
    assert answer.status == 200, answer.content
    return answer.content.decode()


def send(client: Client, path: str, headers: dict[str, str], **fields: Any) -> Result:
    """Send a form."""
    return client.post(path, content=urlencode(fields, doseq=True).encode(), headers={**FORM, **headers})


def upload(client: Client, path: str, headers: dict[str, str], content: str, **fields: str) -> Result:
    """Send a form with a file."""
    parts = [f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n' for name, text in fields.items()]
    parts.append(f'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n{content}\r\n--x--\r\n')
    sent = {**FORM, **headers, "Content-Type": "multipart/form-data; boundary=x"}
    return client.post(path, content="".join(parts).encode(), headers=sent)


def text_of(answer: Result | str) -> str:
    """Return a page as it is read."""
    shown = answer if isinstance(answer, str) else answer.content.decode()
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", shown)).split())


def heads(shown: str) -> list[str]:
    """Return the heads of columns."""
    return [text_of(each) for each in re.findall(r"<th scope=\"col\".*?</th>", shown)]


def cells(shown: str) -> list[list[str]]:
    """Return the rows of the table."""
    return [
        [text_of(cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row, re.DOTALL)]
        for row in re.findall(r"<tr>\n(.*?)</tr>", shown, re.DOTALL)
        if "<td" in row
    ]


def entries(client: Client, headers: dict[str, str]) -> list[dict[str, Any]]:
    """Return the audit log of an account, the latest first."""
    found: list[dict[str, Any]] = data_of(client.get(f"{API}/audit/", headers=headers))["results"]
    return found


def test_a_row_is_created_shown_changed_and_deleted(client: Client, owner: dict[str, str]) -> None:
    created = send(client, "/admin/sites/new/", owner, slug="shop", name=HOSTILE, url="")
    path = created.headers["location"]
    shown = page(client, path, owner)

    assert created.status == 303
    assert re.fullmatch(r"/admin/sites/\d+/", path)
    assert f'value="{html.escape(HOSTILE).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")}"' in shown
    assert "<script>alert" not in shown
    assert "removed for good when the retention time" in text_of(shown)
    [action] = re.findall(r'action="([^"]*seen=[^"]*)"', shown)
    saved = send(client, html.unescape(action), owner, slug="shop", name="Shop", url="")
    assert (saved.status, saved.headers["location"]) == (303, path)
    cookie = saved.headers["set-cookie"].partition(";")[0]
    assert "Site saved." in page(client, path, {**owner, "Cookie": cookie})
    assert cells(page(client, "/admin/sites/", owner))[0][:2] == ["shop", "Shop"]
    deleted = send(client, f"{path}delete/", owner)
    assert (deleted.status, deleted.headers["location"]) == (303, "/admin/sites/")
    assert client.get(path, headers=owner).status == 404
    assert "No sites yet." in page(client, "/admin/sites/", owner)
    assert [each["action"] for each in entries(client, owner)] == ["site.delete", "site.update", "site.create"]
    assert entries(client, owner)[1]["changes"]["name"] == [HOSTILE, "Shop"]


def test_what_the_api_refuses_is_shown_in_the_form(client: Client, owner: dict[str, str]) -> None:
    send(client, "/admin/sites/new/", owner, slug="shop", name="Shop", url="")
    wrong = send(client, "/admin/sites/new/", owner, slug="Not a slug", name="", url="ftp://x", account="0")
    taken = send(client, "/admin/sites/new/", owner, slug="shop", name="Other", url="")
    last = create_user(client, owner, role="owner")
    unmade = send(client, f"/admin/users/{last['id']}/", owner, email=last["email"], name="", role="viewer")
    kept = send(client, f"/admin/users/{last['id']}/delete/", owner)

    assert (wrong.status, taken.status, unmade.status, kept.status) == (400, 409, 409, 409)
    for name in ("slug", "name", "url"):
        assert f'id="form-{name}-error"' in wrong.content.decode()
    assert "account: Unknown field." in text_of(wrong)
    assert "This value is taken already." in text_of(taken)
    assert 'value="Other"' in taken.content.decode()
    assert "The account needs an owner." in text_of(unmade)
    assert "The account needs an owner." in text_of(kept)


def test_only_what_was_changed_is_changed_and_nothing_is_overwritten_unseen(
    client: Client, staff: dict[str, str], account: int
) -> None:
    [plan, *_] = data_of(client.get(f"{API}/plans/", headers=staff))["results"]
    made = send(client, "/admin/subscriptions/new/", staff, account=account, plan=plan["id"], status="active")
    path = made.headers["location"]
    before = data_of(client.get(f"{API}{path.replace('/admin', '')}", headers=staff))
    shown = page(client, path, staff)
    [action] = [html.unescape(each) for each in re.findall(r'action="([^"]*seen=[^"]*)"', shown)]
    [starts_at] = re.findall(r'name="starts_at"[^>]* value="([^"]*)"', shown)
    form = {"account": account, "plan": plan["id"], "starts_at": starts_at, "ends_at": ""}

    assert send(client, action, staff, **form, status="trialing").status == 303
    after = data_of(client.get(f"{API}{path.replace('/admin', '')}", headers=staff))
    late = send(client, action, staff, **form, status="cancelled")

    assert {name for name in before if before[name] != after[name]} == {"status", "updated_at"}
    assert late.status == 409
    assert "Somebody else has changed this meanwhile." in text_of(late)
    assert '<option value="cancelled" selected>' in late.content.decode()
    [again] = [html.unescape(each) for each in re.findall(r'action="([^"]*seen=[^"]*)"', late.content.decode())]
    assert send(client, again, staff, **form, status="cancelled").status == 303


def test_a_list_is_filtered_searched_sorted_and_paged(client: Client, owner: dict[str, str]) -> None:
    for name in ("ada", "bob", "cyd"):
        create_user(client, owner, email=f"{name}.{id(owner)}@example.com", role="viewer" if name == "bob" else "admin")
    first = page(client, "/admin/users/?page_size=2&ordering=-email", owner)
    [following] = [html.unescape(each) for each in re.findall(r'rel="next" href="([^"]*)"', first)]
    found = page(client, "/admin/users/?role=viewer&search=", owner)

    assert heads(first)[0] == "Email ▼"
    assert [row[0][:3] for row in cells(first) + cells(page(client, following, owner))] == ["cyd", "bob", "ada"]
    assert 'aria-sort="descending"' in first
    assert 'href="/admin/users/?page_size=2&amp;ordering=email"' in first
    assert [row[0][:3] for row in cells(found)] == ["bob"]
    assert '<option value="viewer" selected>' in found
    assert "Role: viewer" in text_of(found)
    assert "No users match." in page(client, "/admin/users/?search=nobody", owner)
    assert client.get("/admin/users/?nobody=1", headers=owner).status == 400
    wrong = page(client, "/admin/users/?ordering=password", owner)
    assert 'class="panel-error"' in wrong


def test_references_have_names_and_links(client: Client, staff: dict[str, str], account: int) -> None:
    shown = page(client, f"/admin/subscriptions/?account={account}", staff)

    assert [row[1] for row in cells(shown)] == ["Unlimited"]
    assert re.search(r'<a href="/admin/plans/\d+/"', shown)
    assert f'<option value="{account}" selected>account-' in shown
    assert re.search(r'<select id="form-plan" name="plan" required', page(client, "/admin/subscriptions/new/", staff))


def test_what_has_no_name_is_called_by_its_number(client: Client, staff: dict[str, str]) -> None:
    shown = page(client, "/admin/subscriptions/1/", staff)

    assert "<h1><bdi>Subscription 1</bdi></h1>" in shown


def test_too_many_rows_to_choose_from_are_a_number(client: Client, account: int, owner: dict[str, str]) -> None:
    with client.service.db.connection() as connection:
        connection.execute(
            "INSERT INTO accounts.site (account, slug, name)"
            " SELECT %s, 's' || n, 'S' || n FROM generate_series(1, 201) n",
            [account],
        )

    assert '<input id="form-site" name="site" type="number"' in page(client, "/admin/sectors/new/", owner)


def test_nobody_sees_or_changes_rows_of_another_account(client: Client, owner: dict[str, str]) -> None:
    stranger = create_account(client)
    theirs = create_site(client, stranger)
    key = create_key(client, "read", account=stranger).key.id

    for path in (f"/admin/sites/{theirs}/", f"/admin/keys/{key}/", f"/admin/accounts/{stranger}/", "/admin/users/0/"):
        assert client.get(path, headers=owner).status == 404
    for path in (f"/admin/sites/{theirs}/delete/", f"/admin/keys/{key}/revoke/"):
        assert send(client, path, owner).status == 404
    assert send(client, f"/admin/sites/{theirs}/", owner, slug="mine", name="Mine", url="").status == 404
    assert f'<option value="{theirs}"' not in page(client, "/admin/sectors/new/", owner)
    assert send(client, "/admin/sectors/new/", owner, site=theirs, slug="a", name="A").status == 400


def test_what_somebody_may_not_do_has_no_button_and_is_refused(
    client: Client, account: int, owner: dict[str, str], staff: dict[str, str]
) -> None:
    viewer = member(client, account, "viewer")
    site = create_site(client, account)
    seen = page(client, f"/admin/sites/{site}/", viewer)

    assert "<form" not in seen.split("<main")[1]
    assert "New site" not in page(client, "/admin/sites/", viewer)
    assert "New site" in page(client, "/admin/sites/", owner)
    for path in ("/admin/sites/new/", "/admin/sites/import/", "/admin/keys/new/", "/admin/accounts/"):
        assert client.get(path, headers=viewer).status == 403
    for path in (f"/admin/sites/{site}/delete/", "/admin/sites/new/", f"/admin/sites/{site}/"):
        assert send(client, path, viewer, slug="a", name="A", url="").status == 403
    # Managers rename their account, and see of it what they may change; plans are staff's.
    own = page(client, f"/admin/accounts/{account}/", owner)
    assert re.findall(r'<input id="form-(\w+)"', own) == ["name"]
    assert send(client, f"/admin/accounts/{account}/", owner, name="New name").status == 303
    assert send(client, f"/admin/accounts/{account}/", owner, name="New", retention_days="0").status == 400
    assert "New plan" not in page(client, "/admin/plans/", owner)
    assert "New plan" in page(client, "/admin/plans/", staff)


def menu_of(client: Client, headers: dict[str, str]) -> set[str]:
    """Return the tables in the menu."""
    return set(re.findall(r'<a href="/admin/([\w-]+)/"', page(client, "/", headers)))


def test_what_owns_the_service_has_no_button_that_deletes_it(client: Client, staff: dict[str, str]) -> None:
    user = create_user(client, staff)["id"]

    assert "Delete account" not in page(client, "/admin/accounts/0/", staff)
    assert "Delete user" not in page(client, f"/admin/users/{user}/", staff)
    assert "Delete site" in page(client, f"/admin/sites/{create_site(client, 0)}/", staff)


def test_the_menu_has_tables_for_those_who_manage(
    client: Client, account: int, owner: dict[str, str], staff: dict[str, str]
) -> None:
    assert menu_of(client, member(client, account, "viewer")) == {"usage"}
    assert {"users", "keys", "sites"} <= menu_of(client, owner)
    assert "plans" not in menu_of(client, owner)
    assert "plans" in menu_of(client, staff)


def test_a_key_is_shown_once_rotated_and_revoked(client: Client, owner: dict[str, str]) -> None:
    form = page(client, "/admin/keys/new/", owner)
    none = send(client, "/admin/keys/new/", owner, name="ci")
    made = send(client, "/admin/keys/new/", owner, name="ci", scopes=["read", "ingest"], services="shop\r\nbilling")
    [secret] = re.findall(r'<code id="secret">(tk_[^<]+)</code>', made.content.decode())
    [path] = re.findall(r'href="(/admin/keys/\d+/)"', made.content.decode())

    assert 'value="staff"' not in form
    assert none.status == 400
    assert 'id="form-scopes-error"' in none.content.decode()
    assert (made.status, made.headers["cache-control"]) == (201, "no-store")
    assert "location" not in made.headers
    assert "set-cookie" not in made.headers
    assert client.get(f"{API}/auth/me/", headers={"X-API-Key": secret}).json()["data"]["services"] == [
        "billing",
        "shop",
    ]
    shown = page(client, path, owner)
    assert secret not in shown
    assert "works" in text_of(shown)
    wrong = send(client, f"{path}rotate/", owner, overlap_h="-1")
    assert wrong.status == 400
    assert 'id="form-overlap_h-error"' in wrong.content.decode()
    rotated = send(client, f"{path}rotate/", owner, overlap_h="1")
    [other] = re.findall(r'<code id="secret">(tk_[^<]+)</code>', rotated.content.decode())
    assert (rotated.status, other != secret) == (201, True)
    assert "/rotate/" not in page(client, path, owner)
    assert send(client, f"{path}revoke/", owner).status == 303
    assert client.get(f"{API}/auth/me/", headers={"X-API-Key": secret}).status == 401
    assert client.get(f"{API}/auth/me/", headers={"X-API-Key": other}).status == 200
    assert "does not work" in text_of(page(client, path, owner))


def test_a_csv_file_is_imported_whole_or_not_at_all(client: Client, owner: dict[str, str]) -> None:
    asked = page(client, "/admin/sites/import/", owner)
    wrong = upload(client, "/admin/sites/import/", owner, f"slug,name,url\r\na,A,\r\nNo,{HOSTILE},\r\n")
    tried = upload(client, "/admin/sites/import/", owner, "slug,name\r\na,A\r\n", dry_run="true")
    nothing = upload(client, "/admin/sites/import/", owner, "")
    assert cells(page(client, "/admin/sites/", owner)) == []
    stored = upload(client, "/admin/sites/import/", owner, "slug,name\r\na,A\r\nb,=1\r\n")

    assert 'href="/api/v1/sites/template.csv"' in asked
    assert 'enctype="multipart/form-data"' in asked
    assert (wrong.status, tried.status, nothing.status, stored.status) == (400, 200, 400, 200)
    assert "line 3: slug: Expected str matching" in text_of(wrong)
    assert "<script>alert" not in wrong.content.decode()
    assert "Nothing was stored" in text_of(tried)
    assert "2 created, 0 changed, 0 unchanged" in text_of(stored)
    assert [row[:2] for row in cells(page(client, "/admin/sites/?ordering=slug", owner))] == [["a", "A"], ["b", "=1"]]


def test_a_key_may_use_pages_as_well_but_only_from_them(client: Client, account: int) -> None:
    key = with_key(create_key(client, "read", "write", account=account))
    without = {name: value for name, value in FORM.items() if name != "Sec-Fetch-Site"}

    assert client.get("/admin/sites/", headers=key).status == 200
    refused = client.post("/admin/sites/new/", content=b"slug=a&name=A&url=", headers={**without, **key})
    assert refused.status == 403


def set_usage(client: Client, account: int, day: str, **used: int) -> None:
    """Store what an account has used."""
    with client.service.db.connection() as connection:
        for unit, number in used.items():
            connection.execute(
                "INSERT INTO tiercel.usage (account, day, unit, used)"
                " VALUES (%s, (now() AT TIME ZONE 'UTC')::date + %s, %s, %s)",
                [account, int(day), unit, number],
            )


def test_usage_is_shown_against_the_limits_of_the_plan(
    client: Client, account: int, owner: dict[str, str], staff: dict[str, str]
) -> None:
    limits = {"exports_per_day": "10", "events_per_day": "1000", "bytes_per_day": "0"}
    plan = send(client, "/admin/plans/new/", staff, slug=f"p{account}", name="P", is_active="true", **limits)
    number = plan.headers["location"].split("/")[-2]
    assert plan.status == 303
    assert send(client, "/admin/subscriptions/new/", staff, account=account, plan=number, status="active").status == 303
    set_usage(client, account, "0", exports=9, events=1000, requests=5_000_000)
    set_usage(client, account, "-1", exports=123)
    shown = page(client, "/admin/usage/", owner)
    tiles = [text_of(each) for each in re.findall(r'<div class="card">.*?</div>', shown, re.DOTALL)]

    assert "Exports 9 90 % 90 % of 10" in tiles
    assert "Events 1,000 100 % nothing left, 100 % of 1,000" in tiles
    assert "Bytes 0 100 % nothing left, 100 % of 0" in tiles
    assert any(tile.startswith("Requests 5,000,") and tile.endswith("no limit") for tile in tiles)
    assert '<meter min="0" max="10"' in shown
    assert "Exports a day" in text_of(shown)
    assert '<td class="number">123</td>' in shown
    assert 'id="accounts"' not in shown
    assert client.get("/admin/usage/?account=0", headers=owner).status == 403
    seen = page(client, f"/admin/usage/?account={account}&days=7", staff)
    assert "Exports 9 90 % 90 % of 10" in text_of(seen)
    listed = page(client, "/admin/usage/?sort=requests", staff)
    assert re.search(rf'href="/admin/usage/\?sort=requests&amp;account={account}"', listed)
    assert "No data" in page(client, "/admin/usage/", member(client, create_account(client), "owner"))


def test_the_audit_log_says_who_changed_what(client: Client, account: int, owner: dict[str, str]) -> None:
    made = send(client, "/admin/sites/new/", owner | {"X-Request-ID": f"r-{account}"}, slug="a", name=HOSTILE, url="")
    path = made.headers["location"]
    send(client, path, owner, slug="a", name="After", url="")
    send(client, "/admin/users/new/", owner, email=f"x{account}@example.com", name="X", role="viewer")
    shown = page(client, "/admin/audit/", owner)
    rows = cells(shown)

    assert [row[2].split(" ", 1)[0] for row in rows] == ["user.create", "site.update", "site.create"]
    assert f'<a href="{path}">' in shown
    assert "<script>alert" not in shown
    changed = [text_of(each) for each in re.findall(r"<dt><bdi>name</bdi></dt>\s*<dd>(.*?)</dd>", shown, re.DOTALL)]
    assert changed[1] == f"{HOSTILE} → became After"
    assert f'href="/admin/audit/?request_id=r-{account}"' in shown
    found = page(client, f"/admin/audit/?target_kind=site&request_id=r-{account}&user=", owner)
    assert len(cells(found)) == 1
    assert f'href="/api/v1/audit/export/?target_kind=site&amp;request_id=r-{account}&amp;format=csv"' in found
    assert "No entries match." in page(client, "/admin/audit/?action=nothing", owner)
    [following] = re.findall(r'rel="next" href="([^"]*)"', page(client, "/admin/audit/?page_size=2", owner))
    assert len(cells(page(client, html.unescape(following), owner))) == 1
    assert client.get("/admin/audit/", headers=member(client, account, "viewer")).status == 403


def test_the_audit_log_is_verified_on_demand(client: Client, account: int, owner: dict[str, str]) -> None:
    send(client, "/admin/sites/new/", owner, slug="a", name="A", url="")
    before = page(client, "/admin/audit/", owner)
    right = text_of(page(client, "/admin/audit/?verify=true", owner))
    with client.service.db.connection() as connection:
        connection.execute("ALTER TABLE tiercel.audit_entry DISABLE TRIGGER USER")
        connection.execute("UPDATE tiercel.audit_entry SET action = 'nothing' WHERE account = %s", [account])
    wrong = text_of(page(client, "/admin/audit/?verify=true", owner))

    assert 'href="/admin/audit/?verify=true#verification"' in before
    assert "as it was written" not in text_of(before)
    assert "as it was written" in right
    assert "1 problems" in wrong
    assert "Entry 1: was changed" in wrong
