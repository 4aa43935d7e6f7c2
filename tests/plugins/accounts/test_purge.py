"""What was deleted is kept for the retention of its account, then removed."""

from __future__ import annotations

from kernel.testing import Client
from tests.conftest import Serve
from tests.plugins.accounts.callers import OWNED, Caller
from tests.plugins.accounts.factories import accounts_of, create_account, create_key, create_site, with_key
from tests.plugins.accounts.members import member
from tests.plugins.accounts.test_resources import API, create_user, data_of
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.events import ROOT, make_event

TABLES = (
    "tiercel.job_run",
    "tiercel.dataset_publication",
    "tiercel.dataset_version",
    "tiercel.dataset_content",
    "observability.coarse_hour",
    "observability.coarse_day",
    "observability.ingest_ledger",
)


def age(client: Client, table: str, row: int, days: int, column: str = "deleted_at") -> None:
    """Move the deletion of a row into the past."""
    with client.service.db.connection() as connection:
        connection.execute(
            f"UPDATE accounts.{table} SET {column} = now() - make_interval(days => %s) WHERE id = %s", [days, row]
        )


def exists(client: Client, table: str, row: int) -> bool:
    """Tell whether a row is still stored."""
    with client.service.db.connection() as connection:
        found = connection.execute(f"SELECT FROM accounts.{table} WHERE id = %s", [row]).fetchone()
    return found is not None


def run_purge(client: Client) -> dict[str, int]:
    """Run the job, and return how many rows of each table it removed."""
    done = client.service.shared.jobs.run_inline("accounts.purge", {})
    assert done.state == "succeeded"
    assert isinstance(done.result, dict)
    removed: dict[str, int] = done.result["removed"]
    return removed


def test_what_is_deleted_is_removed_after_the_retention_of_its_account(own_client: Client) -> None:
    client = own_client
    account = create_account(client)
    owner = member(client, account, "owner")
    site, kept = create_site(client, account), create_site(client, account)
    sector = data_of(client.post(f"{API}/sectors/", {"site": site, "slug": "a", "name": "A"}, headers=owner), 201)
    user = create_user(client, owner)
    access = {"site": site, "user_id": user["id"], "role": "viewer"}
    access = data_of(client.post(f"{API}/site-access/", access, headers=owner), 201)
    key = create_key(client, "read", account=account, site=site)
    assert client.request("DELETE", f"{API}/sites/{site}/", headers=owner).status == 204

    age(client, "site", site, 29)
    assert run_purge(client) == {}
    age(client, "site", site, 31)
    removed = run_purge(client)

    assert removed == {"accounts.api_key": 1, "accounts.site": 1, "accounts.site_user_access": 1, "accounts.sector": 1}
    gone = (("site", site), ("sector", sector["id"]), ("site_user_access", access["id"]), ("api_key", key.key.id))
    assert [exists(client, table, row) for table, row in gone] == [False] * 4
    assert exists(client, "site", kept)
    assert exists(client, "user", user["id"])


def test_an_account_is_removed_with_what_it_has(own_client: Client) -> None:
    client = own_client
    staff = with_key(create_key(client, "read", "write", "staff"))
    account, other = create_account(client), create_account(client)
    site = create_site(client, account)
    user = create_user(client, member(client, account, "owner"), role="owner")
    issued = create_key(client, "read", account=account)
    assert client.request("DELETE", f"{API}/accounts/{account}/", headers=staff).status == 204
    assert client.request("DELETE", f"{API}/accounts/{account}/", headers=staff).status == 404

    age(client, "account", account, 31)
    run_purge(client)

    rows = (("account", account), ("site", site), ("user", user["id"]), ("api_key", issued.key.id))
    assert [exists(client, table, row) for table, row in rows] == [False] * 4
    assert exists(client, "account", other)
    assert exists(client, "account", 0)
    assert client.get(f"{API}/sites/", headers=with_key(issued)).json()["detail"] == "the API key is unknown"
    assert accounts_of(client).purge.apply().removed == {}


def test_data_of_plugins_are_removed_with_their_account(serve: Serve) -> None:
    client = serve(auth="required", plugins=[*OWNED, "observability"], observability={"log_own_requests": False})
    gone, kept = (Caller(client, create_account(client), "ingest", "read", "write") for _ in range(2))
    for caller in (gone, kept):
        caller.publish(a="text")
        caller.start("owned.publish", texts={"a": "text"})
        events = [make_event(endpoint=f"/{number % 3}") for number in range(20)]
        assert caller.post(f"{ROOT}ingest/", events).json()["inserted"] == 20
    container = container_of(client)
    container.rollups.refresh()
    with client.service.db.connection() as connection:
        connection.execute("UPDATE accounts.account SET deleted_at = now() WHERE id = %s", [gone.account])
    age(client, "account", gone.account, 31)

    stopped = interrupt(client, after=6)
    removed = run_purge(client)

    assert stopped
    assert removed["accounts.account"] == 1
    assert removed["observability"] > 0
    with client.service.db.connection() as connection:
        for table in TABLES:
            query = f"SELECT account, count(*) FROM {table} WHERE account IN (%s, %s) GROUP BY 1"
            rows = dict(connection.execute(query, [gone.account, kept.account]).fetchall())
            assert rows.keys() == {kept.account}, table
        assert connection.execute("SELECT count(*) FROM observability.event").fetchone() == (20,)
        assert connection.execute("SELECT count(DISTINCT series) FROM observability.rollup_day").fetchone() == (3,)
    container.rollups.refresh()
    container.retention.apply()
    with client.service.db.connection() as connection:
        assert connection.execute("SELECT DISTINCT account FROM observability.series").fetchall() == [(kept.account,)]
    assert kept.get(f"{ROOT}kpis/?start=2000-01-01&approx=true").json()["hits"] == 20


def interrupt(client: Client, after: int) -> bool:
    """Run the purge until its job is stopped, after some transactions."""
    steps = iter(range(after))

    def check() -> None:
        if next(steps, None) is None:
            raise InterruptedError

    try:
        accounts_of(client).purge.apply(check)
    except InterruptedError:
        return True
    return False


def test_a_revoked_key_is_removed_later(own_client: Client) -> None:
    recent, old = (create_key(own_client, "read") for _ in range(2))
    for issued, days in ((recent, 29), (old, 31)):
        accounts_of(own_client).keys.revoke(0, issued.key.id)
        age(own_client, "api_key", issued.key.id, days, "revoked_at")

    assert run_purge(own_client) == {"accounts.api_key": 1}
    assert (exists(own_client, "api_key", recent.key.id), exists(own_client, "api_key", old.key.id)) == (True, False)
