"""Accounts, plans, subscriptions, sites, sectors and users: who sees and changes what."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kernel.testing import Client, Result
from plugins.accounts.keys import BELIEVED_S
from tests.conftest import Serve
from tests.plugins.accounts.factories import create_account, create_key, create_site, with_key
from tests.plugins.accounts.members import member
from tests.processes import eventually

API = "/api/v1"
_numbers = itertools.count(1)


def data_of(answer: Result, status: int = 200) -> Any:
    """Return what an answer has inside its envelope."""
    assert answer.status == status, answer.content
    return answer.json()["data"]


def create_user(client: Client, headers: dict[str, str], **fields: Any) -> dict[str, Any]:
    """Create a user."""
    body = {"email": f"user{next(_numbers)}@example.com", **fields}
    user: dict[str, Any] = data_of(client.post(f"{API}/users/", body, headers=headers), 201)
    return user


# --- what all of them do ----------------------------------------------------------------------------------------------


def test_a_site_is_created_shown_changed_and_deleted(client: Client) -> None:
    account = create_account(client)
    owner = member(client, account, "owner")

    created = client.post(f"{API}/sites/", {"slug": "shop", "name": "Shop"}, headers=owner)
    site = data_of(created, 201)
    path = f"{API}/sites/{site['id']}/"

    assert (site["account"], site["slug"], site["url"]) == (account, "shop", "")
    assert created.headers["location"] == path
    assert data_of(client.get(path, headers=owner)) == site
    changed = data_of(client.request("PATCH", path, json={"name": "Store"}, headers=owner))
    assert (changed["name"], changed["slug"]) == ("Store", "shop")
    assert changed["updated_at"] > site["updated_at"]
    replaced = data_of(client.request("PUT", path, json={"slug": "store", "name": "Store"}, headers=owner))
    assert (replaced["slug"], replaced["created_at"]) == ("store", site["created_at"])
    assert client.request("DELETE", path, headers=owner).status == 204
    missing = client.get(path, headers=owner)
    assert (missing.status, missing.json()["success"], missing.json()["code"]) == (404, False, "not_found")
    assert client.request("DELETE", path, headers=owner).status == 404


def test_a_list_is_filtered_searched_ordered_and_paged(client: Client) -> None:
    owner = member(client, create_account(client), "owner")
    for slug, name in (("a", "Beta"), ("b", "ALPHA"), ("c", "Gamma")):
        assert client.post(f"{API}/sites/", {"slug": slug, "name": name}, headers=owner).status == 201

    def slugs(query: str) -> list[str]:
        return [site["slug"] for site in data_of(client.get(f"{API}/sites/?{query}", headers=owner))["results"]]

    assert slugs("") == ["a", "b", "c"]
    assert slugs("ordering=-name") == ["c", "a", "b"]
    assert slugs("search=alph") == ["b"]
    assert slugs("search=%25") == []
    assert slugs("name=Gamma") == ["c"]
    page = data_of(client.get(f"{API}/sites/?page=2&page_size=2", headers=owner))
    assert (page["count"], page["next"], [site["slug"] for site in page["results"]]) == (3, None, ["c"])
    assert page["previous"].endswith(f"{API}/sites/?page_size=2")
    assert client.get(f"{API}/sites/?page=9", headers=owner).status == 404
    assert client.get(f"{API}/sites/?page=99999999999999999999", headers=owner).status == 404
    assert list(client.get(f"{API}/sites/?ordering=account_id", headers=owner).json()["errors"]) == ["ordering"]
    assert list(client.get(f"{API}/sites/?colour=red", headers=owner).json()["errors"]) == ["colour"]


@pytest.mark.parametrize("field", ["id", "account", "created_at", "deleted_at", "is_staff", "is_system"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_a_client_sets_no_field_that_is_not_its_own(client: Client, field: str, method: str) -> None:
    account, other = create_account(client), create_account(client)
    owner = member(client, account, "owner")
    path = f"{API}/sites/" if method == "POST" else f"{API}/sites/{create_site(client, account)}/"
    body = {"slug": f"mass-{next(_numbers)}", "name": "Mass", field: other}

    answer = client.request(method, path, json=body, headers=owner)

    assert (answer.status, answer.json()["errors"]) == (400, {field: ["Unknown field."]})


def test_every_wrong_field_is_named(client: Client) -> None:
    owner = member(client, create_account(client), "owner")

    wrong = client.post(f"{API}/sites/", {"slug": "7", "url": "javascript:alert(1)", "colour": 1}, headers=owner)
    long = client.post(f"{API}/sites/", {"slug": "a", "name": "x\x00y"}, headers=owner)

    assert (wrong.status, sorted(wrong.json()["errors"])) == (400, ["colour", "name", "slug", "url"])
    assert (long.status, list(long.json()["errors"])) == (400, ["name"])


def test_a_taken_slug_is_a_conflict_that_names_the_field_and_frees_with_its_site(client: Client) -> None:
    owner, other = (member(client, create_account(client), "owner") for _ in range(2))
    body = {"slug": "shop", "name": "Shop"}
    site = data_of(client.post(f"{API}/sites/", body, headers=owner), 201)

    taken = client.post(f"{API}/sites/", body, headers=owner)

    assert (taken.status, list(taken.json()["errors"])) == (409, ["slug"])
    assert client.post(f"{API}/sites/", body, headers=other).status == 201
    client.request("DELETE", f"{API}/sites/{site['id']}/", headers=owner)
    assert client.post(f"{API}/sites/", body, headers=owner).status == 201


# --- accounts apart ---------------------------------------------------------------------------------------------------


def test_what_belongs_to_another_account_is_not_there(client: Client) -> None:
    theirs, ours = create_account(client), create_account(client)
    site = create_site(client, theirs)
    they, we = member(client, theirs, "owner"), member(client, ours, "owner")
    sector = data_of(client.post(f"{API}/sectors/", {"site": site, "slug": "a", "name": "A"}, headers=they), 201)
    user = create_user(client, they, role="owner")
    issued = create_key(client, "read", account=theirs)

    for path in (f"sites/{site}", f"sectors/{sector['id']}", f"users/{user['id']}", f"keys/{issued.key.id}"):
        nothing = client.get(f"{API}/{path.partition('/')[0]}/2000000000/", headers=we)
        found = client.get(f"{API}/{path}/", headers=we)
        assert (found.status, found.json()["error"], found.json()["code"]) == (
            404,
            nothing.json()["error"],
            nothing.json()["code"],
        )
        assert client.request("DELETE", f"{API}/{path}/", headers=we).status == 404
        assert data_of(client.get(f"{API}/{path.partition('/')[0]}/", headers=we))["results"] == []
    assert client.request("PATCH", f"{API}/sites/{site}/", json={"name": "Ours"}, headers=we).status == 404
    assert client.get(f"{API}/accounts/{theirs}/", headers=we).status == 404
    # Nor can their site be told from one that does not exist.
    body = {"slug": "a", "name": "A"}
    foreign = client.post(f"{API}/sectors/", {**body, "site": site}, headers=we)
    absent = client.post(f"{API}/sectors/", {**body, "site": 2_000_000_000}, headers=we)
    assert foreign.json()["errors"] == {"site": [f"There is no site {site}."]}
    assert absent.json()["errors"] == {"site": ["There is no site 2000000000."]}


def test_somebody_with_one_site_sees_and_adds_to_that_one(client: Client) -> None:
    account = create_account(client)
    own, other = create_site(client, account), create_site(client, account)
    one_site = member(client, account, "admin", sites=(own,))
    owner = member(client, account, "owner")
    body = {"name": "A", "slug": "a"}

    added = data_of(client.post(f"{API}/sectors/", body, headers=one_site), 201)
    refused = client.post(f"{API}/sectors/", {**body, "site": other}, headers=one_site)
    foreign = data_of(client.post(f"{API}/sectors/", {**body, "site": other}, headers=owner), 201)

    assert added["site"] == own
    assert (refused.status, list(refused.json()["errors"])) == (400, ["site"])
    assert [site["id"] for site in data_of(client.get(f"{API}/sites/", headers=one_site))["results"]] == [own]
    assert client.get(f"{API}/sectors/{foreign['id']}/", headers=one_site).status == 404
    moved = client.request("PATCH", f"{API}/sectors/{added['id']}/", json={"site": other}, headers=one_site)
    assert (moved.status, list(moved.json()["errors"])) == (400, ["site"])
    # A complete body without a site leaves the row where it is.
    renamed = client.request("PUT", f"{API}/sectors/{added['id']}/", json={**body, "name": "B"}, headers=owner)
    assert (data_of(renamed)["site"], data_of(renamed)["name"]) == (own, "B")
    assert client.post(f"{API}/sites/", body, headers=one_site).status == 403
    assert client.post(f"{API}/users/", {"email": "a@example.com"}, headers=one_site).status == 403
    # Without one, and with several to choose from.
    missing = client.post(f"{API}/sectors/", body, headers=owner)
    assert (missing.status, list(missing.json()["errors"])) == (400, ["site"])
    assert client.post(f"{API}/sectors/", {**body, "slug": "b"}, headers=owner | {"X-Site": str(own)}).status == 201


# --- who may ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["developer", "viewer"])
def test_readers_read_sites_and_users_and_change_none(client: Client, role: Any) -> None:
    account = create_account(client)
    site = create_site(client, account)
    reader = member(client, account, role)

    for name in ("sites", "sectors", "users", "keys", "plans"):
        assert client.get(f"{API}/{name}/", headers=reader).status == 200
        assert client.post(f"{API}/{name}/", _body_of(name, site), headers=reader).status == 403
    for name in ("accounts", "subscriptions", "site-access"):
        assert client.get(f"{API}/{name}/", headers=reader).status == 403
    assert client.request("PATCH", f"{API}/sites/{site}/", json={"name": "B"}, headers=reader).status == 403
    assert client.request("DELETE", f"{API}/sites/{site}/", headers=reader).status == 403


def _body_of(name: str, site: int) -> dict[str, Any]:
    named = {"slug": "by-a-reader", "name": "A"}
    bodies: dict[str, dict[str, Any]] = {
        "sectors": {**named, "site": site},
        "users": {"email": "a@example.com"},
        "sites": named,
        "plans": named,
    }
    return bodies.get(name) or {"name": "a", "scopes": ["read"]}


def test_an_owner_reads_and_renames_their_account_only(client: Client) -> None:
    account = create_account(client)
    owner = member(client, account, "owner")
    path = f"{API}/accounts/{account}/"

    assert [each["id"] for each in data_of(client.get(f"{API}/accounts/", headers=owner))["results"]] == [account]
    assert data_of(client.request("PATCH", path, json={"name": "New name"}, headers=owner))["name"] == "New name"
    for body in ({"slug": "other"}, {"retention_days": 0}):
        assert client.request("PATCH", path, json=body, headers=owner).status == 403
    assert client.request("DELETE", path, headers=owner).status == 403
    assert client.post(f"{API}/accounts/", {"slug": "mine", "name": "Mine"}, headers=owner).status == 403
    subscriptions = data_of(client.get(f"{API}/subscriptions/", headers=owner))["results"]
    assert [each["account"] for each in subscriptions] == [account]
    renewed = {"account": account, "plan": subscriptions[0]["plan"]}
    assert client.post(f"{API}/subscriptions/", renewed, headers=owner).status == 403
    assert client.request("DELETE", f"{API}/subscriptions/{subscriptions[0]['id']}/", headers=owner).status == 403


def test_staff_gives_an_account_a_plan(client: Client) -> None:
    staff = with_key(create_key(client, "read", "write", "staff"))
    account = data_of(client.post(f"{API}/accounts/", {"slug": "acme", "name": "Acme"}, headers=staff), 201)
    plan = {"slug": "small", "name": "Small", "requests_per_day": 100}
    plan = data_of(client.post(f"{API}/plans/", plan, headers=staff), 201)
    key = create_key(client, "read", account=account["id"])

    before = client.get(f"{API}/sites/", headers=with_key(key)).status
    bought = {"account": account["id"], "plan": plan["id"]}
    subscription = data_of(client.post(f"{API}/subscriptions/", bought, headers=staff), 201)
    after = client.get(f"{API}/sites/", headers=with_key(key)).status
    path = f"{API}/subscriptions/{subscription['id']}/"
    cancelled = client.request("PATCH", path, json={"status": "cancelled"}, headers=staff)

    assert (before, after, subscription["status"], cancelled.status) == (402, 200, "active", 200)
    assert client.request("DELETE", f"{API}/plans/{plan['id']}/", headers=staff).status == 409
    accounts = data_of(client.get(f"{API}/accounts/?ordering=-id&page_size=1", headers=staff))
    assert (accounts["results"][0]["slug"], accounts["count"] > 2) == ("acme", True)
    # For an account that staff acts for, it sees and adds to that one only.
    acting = staff | {"X-Account": str(create_account(client))}
    assert data_of(client.get(f"{API}/subscriptions/", headers=acting))["count"] == 1
    assert list(client.post(f"{API}/subscriptions/", bought, headers=acting).json()["errors"]) == ["account"]
    assert client.get(f"{API}/accounts/{account['id']}/", headers=acting).status == 404
    own = data_of(client.get(f"{API}/subscriptions/", headers=acting))["results"][0]
    moved = client.request(
        "PATCH", f"{API}/subscriptions/{own['id']}/", json={"account": account["id"]}, headers=acting
    )
    assert (moved.status, list(moved.json()["errors"])) == (400, ["account"])
    assert client.post(f"{API}/accounts/", {"slug": "other", "name": "Other"}, headers=acting).status == 403
    ended = {**bought, "starts_at": "2026-01-02T00:00:00Z", "ends_at": "2026-01-01T00:00:00Z"}
    assert list(client.post(f"{API}/subscriptions/", ended, headers=staff).json()["errors"]) == ["ends_at"]
    unknown = client.post(f"{API}/subscriptions/", {"account": 2**31 - 1, "plan": plan["id"]}, headers=staff)
    assert (unknown.status, list(unknown.json()["errors"])) == (400, ["account"])


# --- users ------------------------------------------------------------------------------------------------------------


def test_an_address_is_normalised_and_given_once(client: Client) -> None:
    owner, other = (member(client, create_account(client), "owner") for _ in range(2))

    user = create_user(client, owner, email=" Ann.Lee@EXAMPLE.com")
    taken = client.post(f"{API}/users/", {"email": "ann.lee@example.com"}, headers=other)
    look_alike = client.post(f"{API}/users/", {"email": "\u0430nn.lee@example.com"}, headers=other)

    assert user["email"] == "ann.lee@example.com"
    assert (taken.status, list(taken.json()["errors"])) == (409, ["email"])
    assert (look_alike.status, list(look_alike.json()["errors"])) == (400, ["email"])


def test_only_an_owner_makes_and_unmakes_owners(client: Client) -> None:
    account = create_account(client)
    owner, admin = member(client, account, "owner"), member(client, account, "admin")
    first, second = (create_user(client, owner, role="owner") for _ in range(2))
    someone = create_user(client, admin, role="viewer")

    for user, changes in (
        (someone, {"role": "owner"}),
        (first, {"role": "viewer"}),
        (second, {"email": "x@y.example"}),
    ):
        path = f"{API}/users/{user['id']}/"
        assert client.request("PATCH", path, json=changes, headers=admin).status == 403
    assert client.post(f"{API}/users/", {"email": "z@y.example", "role": "owner"}, headers=admin).status == 403
    assert client.request("DELETE", f"{API}/users/{first['id']}/", headers=admin).status == 403
    assert client.request("DELETE", f"{API}/users/{first['id']}/", headers=owner).status == 204


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("DELETE", None),
        ("PATCH", {"role": "admin"}),
        ("PATCH", {"role": None}),
        ("PATCH", {"is_active": False}),
        ("PUT", {"email": "last@example.com"}),
    ],
)
def test_an_account_keeps_an_owner(client: Client, method: str, body: Any) -> None:
    account = create_account(client)
    owner = member(client, account, "owner")
    last = create_user(client, owner, role="owner")
    create_user(client, owner, role="owner", is_active=False)

    answer = client.request(method, f"{API}/users/{last['id']}/", json=body, headers=owner)

    assert (answer.status, answer.json()["code"]) == (409, "conflict")
    assert client.request("PATCH", f"{API}/users/{last['id']}/", json={"name": "Last"}, headers=owner).status == 200


def test_two_owners_who_leave_at_once_leave_one(client: Client) -> None:
    account = create_account(client)
    owner = member(client, account, "owner")
    for _ in range(5):
        users = [create_user(client, owner, role="owner")["id"] for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            answers = list(
                pool.map(lambda user: client.request("DELETE", f"{API}/users/{user}/", headers=owner), users)
            )
        left = data_of(client.get(f"{API}/users/?role=owner", headers=owner))["results"]
        assert sorted(answer.status for answer in answers) in ([204, 204], [204, 409])
        assert left
        # Those that are left over take no part in the next round.
        for user in left:
            with client.service.db.connection() as connection:
                connection.execute("UPDATE accounts.user SET role = 'viewer' WHERE id = %s", [user["id"]])


def test_the_system_account_and_its_users_stay(client: Client) -> None:
    staff = member(client, 0, "owner")
    user = create_user(client, staff, role="viewer")

    for path in ("accounts/0", f"users/{user['id']}"):
        answer = client.request("DELETE", f"{API}/{path}/", headers=staff)
        assert (answer.status, answer.json()["code"]) == (403, "forbidden")


def test_a_user_has_access_to_sites_of_their_account(client: Client) -> None:
    account, other = create_account(client), create_account(client)
    own, foreign = create_site(client, account), create_site(client, other)
    owner = member(client, account, "owner")
    user = create_user(client, owner)
    stranger = create_user(client, member(client, other, "owner"))
    body = {"site": own, "user_id": user["id"], "role": "viewer"}

    given = data_of(client.post(f"{API}/site-access/", body, headers=owner), 201)

    assert (given["account"], given["site"], given["user_id"]) == (account, own, user["id"])
    for field, value in (("site", foreign), ("user_id", stranger["id"])):
        mixed = client.post(f"{API}/site-access/", {**body, field: value}, headers=owner)
        assert (mixed.status, list(mixed.json()["errors"])) == (400, [field])
    assert client.post(f"{API}/site-access/", body, headers=owner).status == 409
    path = f"{API}/site-access/{given['id']}/"
    assert client.request("PATCH", path, json={"role": "owner"}, headers=member(client, account, "admin")).status == 403
    assert client.request("DELETE", path, headers=owner).status == 204
    assert client.get(path, headers=owner).status == 404


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_key_shows_its_secret_once_and_works(client: Client) -> None:
    account = create_account(client)
    owner = member(client, account, "owner")

    created = client.post(f"{API}/keys/", {"name": "Reader", "scopes": ["read"]}, headers=owner)
    issued = data_of(created, 201)
    headers = {"Authorization": f"Api-Key {issued['secret']}"}

    assert created.headers["cache-control"] == "no-store"
    assert client.get(f"{API}/sites/", headers=headers).status == 200
    shown = client.get(f"{API}/keys/{issued['key']['id']}/", headers=owner)
    assert issued["secret"] not in shown.content.decode()
    assert data_of(shown)["prefix"] == issued["secret"][3:11]
    rotated = data_of(client.post(f"{API}/keys/{issued['key']['id']}/rotate/", {"overlap_h": 0}, headers=owner), 201)
    assert client.get(f"{API}/sites/", headers=headers).status == 401
    headers = {"Authorization": f"Api-Key {rotated['secret']}"}
    assert client.get(f"{API}/sites/", headers=headers).status == 200
    assert client.request("DELETE", f"{API}/keys/{rotated['key']['id']}/", headers=owner).status == 204
    assert client.get(f"{API}/sites/", headers=headers).json()["detail"] == "the API key is revoked"
    assert client.post(f"{API}/keys/{rotated['key']['id']}/rotate/", {}, headers=owner).status == 404


def test_a_key_makes_none_that_may_more_than_itself(client: Client) -> None:
    site, other = create_site(client, 0), create_site(client, 0)
    maker = create_key(client, "write", "staff", site=site, services=("shop",), applications=("nexus",))
    limits: dict[str, Any] = {"site": site, "services": ["shop"], "applications": ["nexus"]}
    wider: list[dict[str, Any]] = [
        {"scopes": ["read"]},
        {"site": other},
        {"services": None},
        {"services": ["shop", "fleet"]},
        {"applications": None},
        {"applications": ["skyflow"]},
    ]

    def create(**fields: Any) -> Result:
        body = {"name": "made", "scopes": ["write"], **limits, **fields}
        return client.post(f"{API}/keys/", body, headers=with_key(maker))

    assert [create(**each).status for each in wider] == [403, 400, 403, 403, 403, 403]
    assert create().status == 201
    assert data_of(create(site=None), 201)["key"]["site"] == site
    # Nor does it get the secret of one by rotation.
    mighty = create_key(client, "read", "write", "staff", site=site)
    assert client.post(f"{API}/keys/{mighty.key.id}/rotate/", {}, headers=with_key(maker)).status == 403


def test_a_customer_makes_no_key_of_staff(client: Client) -> None:
    owner = member(client, create_account(client), "owner")

    answer = client.post(f"{API}/keys/", {"name": "a", "scopes": ["read", "staff"]}, headers=owner)

    assert answer.status in (400, 403)
    for field in ("account", "created_by", "sha256", "prefix"):
        answer = client.post(f"{API}/keys/", {"name": "a", "scopes": ["read"], field: 0}, headers=owner)
        assert (answer.status, list(answer.json()["errors"])) == (400, [field])


def test_a_key_ends_with_its_account_in_other_processes_as_well(serve: Serve) -> None:
    client, other = serve(auth="required"), serve(auth="required")
    staff = with_key(create_key(client, "read", "write", "staff"))
    account = create_account(client)
    key = create_key(client, "read", account=account)
    assert other.get(f"{API}/sites/", headers=with_key(key)).status == 200

    assert client.request("DELETE", f"{API}/accounts/{account}/", headers=staff).status == 204

    # Sooner than what was read of the key is read again anyway.
    ended = eventually(lambda: other.get(f"{API}/sites/", headers=with_key(key)).status == 401, BELIEVED_S / 2)
    assert ended


@pytest.mark.parametrize("what", ["account", "site"])
def test_with_its_account_or_site_a_key_ends_at_once(client: Client, what: str) -> None:
    staff = with_key(create_key(client, "read", "write", "staff"))
    account = create_account(client)
    site = create_site(client, account)
    key = create_key(client, "read", account=account, site=site)
    assert client.get(f"{API}/sites/", headers=with_key(key)).status == 200

    path = f"{API}/accounts/{account}/" if what == "account" else f"{API}/sites/{site}/"
    headers = staff if what == "account" else member(client, account, "owner")
    assert client.request("DELETE", path, headers=headers).status == 204

    assert client.get(f"{API}/sites/", headers=with_key(key)).status == 401
