"""Whose request logs somebody sees and writes: those of their account, sites and services, and nothing else."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from psycopg import sql

from kernel.identity import OPEN, Identity, acting_as
from kernel.testing import Client, Result
from plugins.observability import store
from plugins.observability.access import Access, Owner
from plugins.observability.analytics import sql_builder
from plugins.observability.filters import DEFAULT_ORDERING, with_tie_breaker
from plugins.observability.importer.service import LineIds
from plugins.observability.live import ArrivalReader, Cursor, LiveQuery
from plugins.observability.models import ListQuery
from plugins.observability.queries import QUERIES
from tests.conftest import Serve, service_starter
from tests.plugins.accounts.factories import create_account, create_key, create_site, with_key
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.events import ROOT, make_event

APPLICATIONS = "tests.plugins.observability.analytics.applications"
LEDGER = "/api/v1/ingest/ledger/"
NDJSON = {"Content-Type": "application/x-ndjson"}
# Every service of these tests is called this, so that only accounts, sites and keys tell them apart.
SERVICE = "Billing"
YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).replace(minute=30, second=0, microsecond=0)
ANALYTICS = (
    "kpis/?approx=true&",
    "kpis/?group_by=endpoint&percentiles=50&",
    "kpis/?method=GET&",
    "kpis/?group_by=application&",
    "top-endpoints/?",
    "hourly/?",
    "daily/?",
    "timeseries/?step=1h&",
    "timeseries/?step=1d&approx=true&group_by=endpoint&",
)
# A form that a page of the service sends.
OWN_FORM = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}


class Tenant:
    """An account, a site of it or a limited key, with what it does over HTTP.

    Args:
        client: A service in mode ``required``.
        account: The account.
        marker: A text that is in everything that it writes, and in nothing else.
        fields: Of its key: ``site``, ``services``, ``applications``.
    """

    def __init__(self, client: Client, account: int, marker: str, **fields: Any) -> None:
        self.account = account
        self.marker = marker
        self._client = client
        self._key = create_key(client, "ingest", "read", "write", account=account, **fields)

    def request(self, method: str, path: str, headers: dict[str, str] | None = None, **given: Any) -> Result:
        return self._client.request(method, path, headers=with_key(self._key, **(headers or {})), **given)

    def get(self, path: str) -> Any:
        answer = self.request("GET", path)
        assert answer.status == 200, answer.content
        return answer.json()

    def events(self, count: int, **fields: Any) -> list[dict[str, Any]]:
        return [
            make_event(
                time=(YESTERDAY + timedelta(seconds=number)).isoformat(),
                **{
                    "service": SERVICE,
                    "endpoint": f"/{self.marker}",
                    "user_ref": self.marker,
                    "tags": {"marker": self.marker},
                    "event_id": f"event-{number}",
                    **fields,
                },
            )
            for number in range(count)
        ]

    def ingest(self, count: int, **fields: Any) -> Any:
        answer = self.request("POST", f"{ROOT}ingest/", json=self.events(count, **fields))
        assert answer.status == 200, answer.content
        return answer.json()

    def count(self, query: str = "") -> int:
        return int(self.get(f"{ROOT}?page_size=1&{query}")["count"])

    def first_id(self) -> str:
        return str(self.get(ROOT)["results"][0]["id"])

    def hits(self, query: str = "") -> int:
        return int(self.get(f"{ROOT}kpis/?start={window()}&{query}")["hits"])


def window() -> str:
    return (YESTERDAY - timedelta(days=3)).date().isoformat()


@pytest.fixture(scope="module")
def client(module_database: str) -> Iterator[Client]:
    """A service in mode ``required``, shared by the tests of this file."""
    with service_starter({"url": module_database}) as start:
        yield start(
            auth="required",
            observability={"log_own_requests": False},
            plugins=["system", "accounts", "observability", APPLICATIONS],
        )


@pytest.fixture
def tenants(client: Client) -> Sequence[Tenant]:
    """Two accounts that send events of one service, with the same ids, at the same times: two and three."""
    account, other = create_account(client), create_account(client)
    first, second = Tenant(client, account, f"marker-{account}"), Tenant(client, other, f"marker-{other}")
    assert (first.ingest(2)["inserted"], second.ingest(3)["inserted"]) == (2, 3)
    return first, second


def test_every_read_has_the_events_of_the_account_alone(client: Client, tenants: Sequence[Tenant]) -> None:
    for refreshed in (False, True):
        if refreshed:
            container_of(client).rollups.refresh()
        for tenant, count in zip(tenants, (2, 3), strict=True):
            assert tenant.count() == tenant.count(f"service={SERVICE}") == tenant.count("search=billing") == count
            assert tenant.hits() == tenant.hits("approx=true") == tenant.hits(f"service={SERVICE}&approx=true") == count
            assert tenant.hits("percentiles=50") == count
            assert sum(step["hits"] for step in tenant.get(f"{ROOT}timeseries/?start={window()}")["steps"]) == count
            (endpoint,) = tenant.get(f"{ROOT}endpoints/")["results"]
            assert (endpoint["endpoint"], endpoint["hits"]) == (f"/{tenant.marker}", count)
            assert tenant.get(LEDGER)["data"]["totals"]["stored"] == count
            assert len(tenant.request("GET", f"{ROOT}export/?format=ndjson").content.splitlines()) == count + 1
            assert tenant.get(f"{ROOT}traces/trace-001/")["count"] == count


def test_what_is_of_others_does_not_exist(tenants: Sequence[Tenant]) -> None:
    first, second = tenants
    path = f"{ROOT}{second.first_id()}/"
    unknown = f"{ROOT}{first.first_id()[:-12]}aaaaaaaaaaaa/"
    for method, body in (
        ("GET", None),
        ("PATCH", {"status_code": 500}),
        ("PUT", make_event()),
        ("DELETE", None),
    ):
        answers = [first.request(method, each, json=body) for each in (path, unknown)]
        assert [answer.status for answer in answers] == [404, 404]
        messages = [{**answer.json(), "request_id": None} for answer in answers]
        assert {answer.pop("detail") for answer in messages} == {
            f"no request log has the id {each.split('/')[-2]}" for each in (path, unknown)
        }
        assert messages[0] == messages[1]
    removed = first.request("DELETE", f"{ROOT}?search={second.marker}")
    assert (removed.status, removed.json()["matched"]) == (200, 0)
    assert first.request("GET", f"{ROOT}traces/none/").status == 404
    assert second.count() == 3


def test_a_removal_takes_the_events_of_the_account_alone(tenants: Sequence[Tenant]) -> None:
    first, second = tenants

    removed = first.request("DELETE", f"{ROOT}?service={SERVICE}")

    assert removed.json()["deleted"] == 2
    assert (first.count(), first.hits(), second.count(), second.hits()) == (0, 0, 3, 3)
    assert first.get(LEDGER)["data"]["totals"]["deleted"] == 2
    assert second.get(LEDGER)["data"]["totals"]["deleted"] == 0


def test_replays_are_those_of_the_account(tenants: Sequence[Tenant]) -> None:
    first, second = tenants

    assert first.ingest(3) == {"inserted": 1, "duplicates": 2, "rejected": 0, "errors": [], "capped": 0}
    keyed = [
        tenant.request("POST", ROOT, {"Idempotency-Key": "same"}, json=make_event(service=SERVICE))
        for tenant in (first, second, first)
    ]
    assert [answer.status for answer in keyed] == [201, 201, 200]
    assert keyed[0].json()["id"] == keyed[2].json()["id"] != keyed[1].json()["id"]


def test_ids_of_the_system_account_are_those_from_before_there_were_accounts() -> None:
    assert LineIds().next_suffix("shop", b"line") == LineIds(owner=Owner(0)).next_suffix("shop", b"line")
    assert LineIds().next_suffix("shop", b"line") != LineIds(owner=Owner(1)).next_suffix("shop", b"line")
    assert Owner(0).id_part == b"0"
    assert len({Owner(1).id_part, Owner(1, 1).id_part, Owner(11).id_part}) == 3


def test_each_account_has_room_for_its_own_series(client: Client, database: str) -> None:
    with service_starter({"url": database}) as start:
        client = start(auth="required", observability={"log_own_requests": False, "series_max": 2})
        tenants = [Tenant(client, create_account(client), marker) for marker in ("first", "second")]
        for tenant in tenants:
            assert [tenant.ingest(1, endpoint=f"/{n}", event_id=f"n{n}")["capped"] for n in range(3)] == [0, 0, 1]


def test_series_of_all_sites_count_together(database: str) -> None:
    with service_starter({"url": database}) as start:
        client = start(auth="required", observability={"log_own_requests": False, "series_max": 2})
        account = create_account(client)
        sites = [Tenant(client, account, f"site-{n}", site=create_site(client, account)) for n in range(3)]
        assert [site.ingest(1)["capped"] for site in sites] == [0, 0, 1]


def test_what_others_write_makes_nothing_look_less_fresh(client: Client, tenants: Sequence[Tenant]) -> None:
    first, second = tenants
    container_of(client).rollups.refresh()
    before = datetime.fromisoformat(first.get(f"{ROOT}kpis/")["fresh_until"])

    second.ingest(1, event_id="late")

    assert datetime.fromisoformat(first.get(f"{ROOT}kpis/")["fresh_until"]) >= before
    assert datetime.fromisoformat(second.get(f"{ROOT}kpis/")["fresh_until"]) < before


# sites


@pytest.fixture
def sites(client: Client) -> Sequence[Tenant]:
    """Two sites of one account, each with a key of its own, with two and three events; and the whole account."""
    account = create_account(client)
    first, second = (
        Tenant(client, account, f"marker-{account}-{name}", site=create_site(client, account)) for name in "ab"
    )
    assert (first.ingest(2)["inserted"], second.ingest(3)["inserted"]) == (2, 3)
    return first, second, Tenant(client, account, "all")


def test_a_site_sees_its_own_events_and_the_account_those_of_all(client: Client, sites: Sequence[Tenant]) -> None:
    whole = sites[2]
    assert whole.ingest(1)["inserted"] == 1
    for refreshed in (False, True):
        if refreshed:
            container_of(client).rollups.refresh()
        for tenant, count in zip(sites, (2, 3, 6), strict=True):
            assert tenant.count() == tenant.hits() == tenant.hits("approx=true") == count
            assert tenant.hits(f"service={SERVICE}&approx=true&method=GET") == count
            assert tenant.get(LEDGER)["data"]["totals"]["stored"] == count
            (service,) = tenant.get(f"{ROOT}services/")["results"]
            assert service["hits"] == count


def test_a_site_edits_and_removes_its_own_events(sites: Sequence[Tenant]) -> None:
    first, second, whole = sites
    theirs = f"{ROOT}{second.first_id()}/"
    assert first.request("PATCH", theirs, json={"status_code": 500}).status == 404
    # Who edits them, moves them to no other site.
    assert whole.request("PATCH", theirs, json={"endpoint": "/edited"}).status == 200
    assert second.count("endpoint=/edited") == whole.count("endpoint=/edited") == 1
    assert first.request("DELETE", f"{ROOT}?service={SERVICE}").json()["deleted"] == 2
    assert second.request("DELETE", theirs).status == 204
    assert (first.count(), second.count(), whole.count()) == (0, 2, 2)
    assert [tenant.get(LEDGER)["data"]["totals"]["deleted"] for tenant in sites] == [2, 1, 3]


def test_a_request_that_may_write_to_several_sites_names_one(client: Client) -> None:
    several = Identity(scheme="job", name="test", account=create_account(client), scopes=OPEN.scopes, sites=(7, 8))
    container = container_of(client)
    with acting_as(several), pytest.raises(Exception, match="site is not given") as refused:
        container.ingest.ingest_event(b"{}", access=Access.of(several))
    assert getattr(refused.value, "errors", {}).keys() == {"X-Site"}


# services


def test_a_key_of_some_services_writes_and_reads_those_alone(client: Client, tenants: Sequence[Tenant]) -> None:
    whole = tenants[0]
    limited = Tenant(client, whole.account, "limited", services=("store",))

    answer = limited.request(
        "POST",
        f"{ROOT}ingest/",
        json=[
            *limited.events(1, service="store"),
            *limited.events(1, service="other"),
            *limited.events(1, service="STORE"),
        ],
    )

    assert (answer.json()["inserted"], answer.json()["rejected"]) == (1, 2)
    assert [(error["index"], list(error["errors"])) for error in answer.json()["errors"]] == [
        (1, ["service"]),
        (2, ["service"]),
    ]
    assert limited.request("POST", ROOT, json=make_event(service="other")).status == 400
    strict = limited.request("POST", f"{ROOT}ingest/?strict=true", json=limited.events(1))
    assert (strict.status, strict.json()["rejected"]) == (400, 1)
    lines = limited.request("POST", f"{ROOT}ingest/", NDJSON, content=b'{"time":"2025-12-14T12:00:00Z","service":"no",'
                            b'"endpoint":"/","method":"GET","status_code":200,"latency_ms":1}')  # fmt: skip
    assert lines.json()["rejected"] == 1
    edited = limited.request("PATCH", f"{ROOT}{limited.first_id()}/", json={"service": "other"})
    assert (edited.status, list(edited.json()["errors"])) == (400, ["service"])
    assert (limited.count(), limited.count(f"service={SERVICE}"), limited.hits("approx=true")) == (1, 0, 1)
    assert [each["service"] for each in limited.get(f"{ROOT}services/")["results"]] == ["store"]
    # Of the ledger, its own entries.
    assert limited.get(LEDGER)["data"]["totals"]["stored"] == 1
    assert (whole.count(), whole.get(LEDGER)["data"]["totals"]["stored"]) == (3, 3)


def test_an_event_of_a_limited_key_that_has_no_series_left_is_answered_as_stored(serve: Serve) -> None:
    client = serve(auth="required", observability={"series_max": 1, "log_own_requests": False})
    account = create_account(client)
    whole = Tenant(client, account, "whole")
    # All that may have an endpoint __other__ of their own have it.
    whole.request("POST", f"{ROOT}ingest/", json=[make_event(service=f"service-{number}") for number in range(102)])
    limited = Tenant(client, account, "limited", services=("store",))

    created = limited.request("POST", ROOT, json=make_event(service="store"))

    assert (created.status, created.json()["service"], created.json()["tags"]["service"]) == (201, "__other__", "store")
    assert limited.request("GET", f"{ROOT}{created.json()['id']}/").status == 404


def test_a_key_of_some_applications_reads_their_views_alone(client: Client, tenants: Sequence[Tenant]) -> None:
    limited = Tenant(client, tenants[0].account, "limited", applications=("idle",))

    assert limited.request("GET", f"{ROOT}kpis/?application=shop").status == 403
    assert limited.request("GET", "/observability/public/shop/kpis/").status == 403
    assert limited.get("/observability/public/idle/kpis/")["data"]["hits"] == 0
    (group,) = limited.get(f"{ROOT}kpis/?group_by=application&start={window()}")["groups"]
    assert (group["application"], group["hits"]) == (None, 2)
    assert tenants[0].get(f"/observability/public/shop/kpis/?start={window()}")["data"]["hits"] == 2


# commands


def test_commands_take_an_account(client: Client, tenants: Sequence[Tenant]) -> None:
    first = tenants[0]
    account = f"--account={first.account}"

    def run(name: str, *arguments: str) -> str:
        result = CliRunner().invoke(client.command("observability", name), arguments)
        assert result.exit_code == 0, result.output
        return result.output

    assert first.marker in run("endpoints", account)
    assert first.marker not in run("endpoints")
    assert run("export", account, "--format=csv").count(first.marker) == 2 * 3
    assert '"stored":2' in run("ledger", account, "--json").replace(" ", "")
    assert "1" in run("seed", account, "--events=1", "--days=1")
    assert first.count() == 3
    run("forget", account, "--yes", f"--search={first.marker}")
    assert first.count() == 1


# two walls: the conditions of every statement, and the policies of the tables


@pytest.fixture(params=["conditions", "policies"])
def one_wall(client: Client, request: pytest.FixtureRequest) -> Iterator[None]:
    """A service with one of the two walls."""
    if request.param == "policies":
        with pytest.MonkeyPatch.context() as monkeypatch:
            take_conditions_away(monkeypatch)
            yield
        _forget_composed_queries()
        return
    with client.service.db.connection() as connection:
        query = "SELECT relname FROM pg_class WHERE relrowsecurity AND relnamespace = 'observability'::regnamespace"
        tables = [name for (name,) in connection.execute(query)]
    assert {"series", "ingest_ledger", "rollup_touched"} <= {*tables}
    switch_policies(client, tables, "DISABLE")
    yield
    switch_policies(client, tables, "ENABLE")


def switch_policies(client: Client, tables: Sequence[str], state: str) -> None:
    statement = sql.SQL("ALTER TABLE observability.{} {} ROW LEVEL SECURITY")
    with client.service.db.connection() as connection:
        for table in tables:
            connection.execute(statement.format(sql.Identifier(table), sql.SQL(state)))


def take_conditions_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the conditions on account, site and service out of all statements."""
    own = re.compile(
        r"(?<!SELECT )\b(?:known\.)?account = %\(account\)s"
        r"|\(%\(visible_\w+\)s::\w+\[\] IS NULL OR \w+ = ANY\(%\(visible_\w+\)s\)\)"
    )
    changed = 0
    for name, module in sorted(sys.modules.items()):
        if name.startswith("plugins.observability"):
            for attribute in ("QUERIES", "ROLLUP_STATE"):
                queries = getattr(module, attribute, None)
                if isinstance(queries, str):
                    monkeypatch.setattr(module, attribute, own.sub("true", queries))
                elif queries is not None:
                    without = {each: own.sub("true", text) for each, text in queries.items()}
                    changed += without != dict(queries)
                    monkeypatch.setattr(module, attribute, MappingProxyType(without))
    assert changed > 5
    _forget_composed_queries()


def _forget_composed_queries() -> None:
    for function in ("opening_query", "series_of_groups_query", "build_query", "build_totals_and_percentiles"):
        getattr(sql_builder, function).cache_clear()
    for function in ("first_page", "count_if_alone"):
        getattr(store, function).cache_clear()


def routes_of(client: Client, event_id: str) -> Iterator[tuple[str, str]]:
    """Yield method and path of every route of the plugin, with a parameter that reads as much as there is."""
    for mounted in client.service.shared.routes:
        # A live tail has no end; what it reads has a test of its own.
        if mounted.owner == "observability" and not mounted.template.endswith("/requests/live"):
            path = mounted.template.replace("{application}", "shop").replace("{trace_id}", "trace-001")
            yield mounted.route.method or "GET", path.replace("{id}", event_id)


@pytest.mark.usefixtures("one_wall")
def test_each_wall_alone_keeps_accounts_apart(client: Client, tenants: Sequence[Tenant]) -> None:
    first, second = tenants
    container_of(client).rollups.refresh()
    second.ingest(1, event_id="after the refresh")
    theirs = second.first_id()
    called = 0
    for method, path in routes_of(client, theirs):
        body: Any = None if method in ("GET", "DELETE") else [] if path.endswith("/ingest") else make_event()
        query = "?service=Billing" if method == "DELETE" and theirs not in path else ""
        given: dict[str, Any] = {"json": body}
        if method == "POST" and path.startswith("/requests/"):
            given = {"headers": OWN_FORM, "content": b"title=mark"}
        answer = first.request(method, path + query, **given)
        assert answer.status < 500, (method, path, answer.content)
        assert second.marker not in answer.content.decode(), (method, path)
        assert (theirs not in path) or answer.status == 404, (method, path)
        called += 1
    assert called > 30
    for question in ANALYTICS:
        assert second.marker not in first.request("GET", f"{ROOT}{question}start={window()}").content.decode()
    assert second.marker not in first.request("GET", f"{ROOT}export/?format=ndjson").content.decode()
    assert {minute["account"] for minute in first.get(LEDGER)["data"]["minutes"]} == {first.account}
    assert second.count() == 4
    assert second.hits() == second.hits("approx=true") == 4
    assert second.get(LEDGER)["data"]["totals"]["stored"] == 4


@pytest.mark.usefixtures("one_wall")
def test_each_wall_alone_keeps_accounts_apart_as_requests_arrive(client: Client, tenants: Sequence[Tenant]) -> None:
    container = container_of(client)
    reader = ArrivalReader(container.db, container.store)

    def arrived(tenant: Tenant, cursor: Cursor) -> int:
        access = Access(account=tenant.account)
        with acting_as(msgspec.structs.replace(OPEN, account=tenant.account)):
            return len(reader.events(reader.since(cursor, LiveQuery(), access).keys, access))

    start = reader.now()
    tenants[1].ingest(1, event_id="as it arrives")

    assert [arrived(tenant, start) for tenant in tenants] == [0, 1]


@pytest.mark.usefixtures("one_wall")
def test_each_wall_alone_keeps_sites_apart(client: Client, sites: Sequence[Tenant]) -> None:
    first, second, _ = sites
    container_of(client).rollups.refresh()

    assert (first.count(), first.hits(), first.hits("approx=true")) == (2, 2, 2)
    for question in ANALYTICS:
        assert second.marker not in first.request("GET", f"{ROOT}{question}start={window()}").content.decode()
    assert first.request("DELETE", f"{ROOT}{second.first_id()}/").status == 404
    assert first.get(LEDGER)["data"]["totals"]["stored"] == 2


def test_a_first_page_is_planned_once_and_is_that_of_whoever_asks(client: Client, tenants: Sequence[Tenant]) -> None:
    with client.service.db.connection() as connection:
        # Each has half of all events.
        connection.execute("ANALYZE observability.event")
    # More often than the driver waits before it prepares a statement.
    for _ in range(8):
        for tenant in tenants:
            assert {each["user_ref"] for each in tenant.get(ROOT)["results"]} == {tenant.marker}

    with client.service.db.connection() as connection:
        query = """SELECT generic_plans > 0, custom_plans FROM pg_prepared_statements
                   WHERE statement LIKE '%LEFT JOIN observability.series%'"""
        assert connection.execute(query).fetchall() == [(True, 0)] * 2
    theirs = Access(account=tenants[1].account)
    conditions = container_of(client).store.conditions(ListQuery(), theirs)
    with acting_as(msgspec.structs.replace(OPEN, account=tenants[0].account)):
        assert container_of(client).store.list(conditions, with_tie_breaker(DEFAULT_ORDERING), 50) == ([], 0)


def test_row_level_security_leaves_indexes_usable(client: Client, tenants: Sequence[Tenant]) -> None:
    access = Access(account=tenants[0].account)
    asked = {**access.parameters, "service": SERVICE.upper(), "endpoint": None, "method": None, "services": None}
    span = {"start": YESTERDAY, "end": YESTERDAY + timedelta(days=2), "sender": None}
    with (
        acting_as(msgspec.structs.replace(OPEN, account=access.account)),
        client.service.db.transaction() as connection,
    ):
        connection.execute("SET LOCAL enable_seqscan = off")
        for name, index in (("match_series", "series_lower"), ("sum_ledger", "ingest_ledger_at")):
            plan = connection.execute(f"EXPLAIN {QUERIES[name]}", {**asked, **span}).fetchall()
            text = "\n".join(line for (line,) in plan)
            assert index in text
            assert "Index Cond: ((account = " in text
