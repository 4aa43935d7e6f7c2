"""Resource tracking: for whom, what a response says, and what is kept of its statements."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from psycopg import sql

from kernel.contracts import Route
from kernel.errors import NotFoundError
from kernel.http.response import StreamingResponse
from kernel.identity import Role
from kernel.services import Services
from kernel.testing import Client, Result
from kernel.tracking import STATEMENTS_MAX, ResourceTracker
from tests.conftest import Serve
from tests.kernel.fakes import Boot, CapturedLog, KeyAuthenticator, MakePlugin, make_identity

ASKED = {"X-Debug-Resource-Tracking": "true"}
ROOT = "/api/v1/resource-tracking/"
# RFC 9110 tokens and quoted strings, as the specification of Server-Timing has them.
TIMING = re.compile(r'([!#$%&\'*+.^_`|~0-9A-Za-z-]+);dur=([0-9]+\.[0-9]{3})(?:;desc="[^"\\]*")?')
ROLES: dict[str, Role] = {"owner": "owner", "admin": "admin", "developer": "developer", "viewer": "viewer"}
IDENTITIES = {
    **{name: make_identity("read", scheme="session", role=role) for name, role in ROLES.items()},
    "key": make_identity("read"),
    "staff": make_identity("read", "staff"),
    "elsewhere": make_identity("read", scheme="session", role="owner", account=7),
    "nobody": make_identity("read", account=None, role="owner"),
}


def phases_of(answer: Result) -> dict[str, float]:
    """Parse ``Server-Timing``: the duration of each phase in milliseconds."""
    parsed = [TIMING.fullmatch(each) for each in answer.headers["server-timing"].split(", ")]
    return {each[1]: float(each[2]) for each in parsed if each is not None}


def make_routes(services: Services) -> list[Route]:
    """Make routes that use the database."""
    services.authenticate_with(KeyAuthenticator(IDENTITIES))
    db = services.db

    def work() -> str:
        with db.transaction() as connection:
            connection.execute("SELECT %(secret)s::text, generate_series(1, 3)", {"secret": "hunter2"})
            connection.execute(sql.SQL("SELECT {value}").format(value=sql.Literal("hunter3")))
        with db.connection() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE copied (name text)")
            with cursor.copy("COPY copied FROM STDIN") as copy:
                copy.write_row(["hunter4"])
            cursor.executemany("INSERT INTO copied VALUES (%s)", [["hunter5"], ["hunter6"]])
            cursor.execute("DROP TABLE copied")
        return "worked"

    def stream() -> StreamingResponse:
        def rows() -> Iterator[bytes]:
            with db.transaction() as connection, connection.cursor(name="rows") as cursor:
                cursor.execute("SELECT generate_series(1, %(last)s)", {"last": 42})
                for row in cursor:
                    yield f"{row[0]} ".encode()

        return StreamingResponse(rows(), "text/plain")

    def many() -> str:
        with db.connection() as connection:
            for _ in range(STATEMENTS_MAX + 5):
                connection.execute("SELECT 1")
        return "many"

    def fail() -> None:
        raise NotFoundError

    return [
        Route(path="/work/", handler=work, policy="read"),
        Route(path="/public/", handler=work, policy="public"),
        Route(path="/stream/", handler=stream, policy="read"),
        Route(path="/many/", handler=many, policy="read"),
        Route(path="/fail/", handler=fail, policy="read"),
    ]


@pytest.fixture
def client(serve: Serve, make_plugin: MakePlugin) -> Client:
    """A service in mode ``required`` with a database."""
    plugin = make_plugin("alpha", register_routes=make_routes)
    return serve(plugins=[plugin], required=[], auth="required")


def track(client: Client, path: str, key: str = "developer", **headers: str) -> tuple[Result, dict[str, Any]]:
    """Send a tracked request, and return its response with what is kept of it."""
    answer = client.get(path, headers={"X-Key": key, **ASKED, **headers})
    kept = client.get(f"{ROOT}{answer.headers['x-resource-tracking-id']}/", headers={"X-Key": key})
    assert kept.status == 200, kept.content
    data: dict[str, Any] = kept.json()["data"]
    return answer, data


def test_a_response_says_how_long_each_phase_took(client: Client) -> None:
    answer, kept = track(client, "/work/")

    phases = phases_of(answer)
    assert set(phases) == {"admission", "pool", "sql", "encoding", "total"}
    assert all(duration_ms > 0 for duration_ms in phases.values())
    # They do not overlap.
    assert sum(phases.values()) <= 2 * phases["total"]
    # Those of the response, and what came after its headers.
    assert kept["durations_ms"].keys() == phases.keys()
    assert kept["durations_ms"]["sql"] == pytest.approx(phases["sql"], abs=0.001)
    # No cache keeps it for somebody who did not ask.
    assert answer.headers["cache-control"] == "no-store"


def test_the_statements_of_a_request_are_kept_without_values(client: Client) -> None:
    answer, kept = track(client, "/work/", **{"X-Request-ID": "mine"})

    named = {name: kept[name] for name in ("request_id", "method", "route", "status")}
    assert named == {"request_id": "mine", "method": "GET", "route": "/work", "status": 200}
    assert (kept["id"], answer.json()) == (answer.headers["x-resource-tracking-id"], "worked")
    statements = kept["statements"]
    assert [(each["sql"], each["rows"]) for each in statements if "set_config" not in each["sql"]] == [
        ("SELECT %(secret)s::text, generate_series(1, 3)", 3),
        ("SELECT %s", 1),
        ("CREATE TEMPORARY TABLE copied (name text)", None),
        ("COPY copied FROM STDIN", 1),
        ("INSERT INTO copied VALUES (%s)", 2),
        ("DROP TABLE copied", None),
    ]
    assert "hunter" not in str(kept)
    assert len(statements) == kept["statement_count"]
    assert [each["at_ms"] for each in statements] == sorted(each["at_ms"] for each in statements)
    # The rest is for BEGIN and COMMIT.
    assert 0 < sum(each["duration_ms"] for each in statements) < kept["durations_ms"]["sql"]


def test_what_a_stream_does_after_its_headers_is_kept(client: Client) -> None:
    answer, kept = track(client, "/stream/")

    assert answer.content.split()[-1] == b"42"
    assert [each["sql"] for each in kept["statements"]][-1] == "SELECT generate_series(1, %(last)s)"


def test_of_many_statements_the_first_are_kept(client: Client) -> None:
    _, kept = track(client, "/many/")

    assert len(kept["statements"]) == STATEMENTS_MAX < kept["statement_count"]


def test_an_error_is_tracked_too(client: Client) -> None:
    answer, kept = track(client, "/fail/")

    assert (answer.status, kept["status"], kept["statement_count"]) == (404, 404, 0)
    assert "server-timing" in answer.headers


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("owner", True),
        ("admin", True),
        ("developer", True),
        ("staff", True),
        ("viewer", False),
        ("key", False),
    ],
)
@pytest.mark.parametrize("path", ["/work/", "/public/"])
def test_administrators_and_developers_may_track(client: Client, path: str, key: str, expected: bool) -> None:
    answer = client.get(path, headers={"X-Key": key, **ASKED})

    assert answer.status == 200
    names = ("x-resource-tracking-id", "server-timing")
    assert [name in answer.headers for name in names] == [expected, expected]
    assert client.get(f"{ROOT}{uuid4()}/", headers={"X-Key": key}).status == (404 if expected else 403)


def test_a_public_route_is_not_tracked_for_just_anybody(client: Client) -> None:
    assert "server-timing" not in client.get("/public/", headers=ASKED).headers
    assert "server-timing" not in client.get("/public/", headers={"X-Key": "nobody", **ASKED}).headers
    assert client.get("/public/", headers={"X-Key": "wrong", **ASKED}).status == 401
    assert client.get("/public/", headers={"X-Key": "wrong"}).status == 200


@pytest.mark.parametrize("value", ["false", "1", "", "yes"])
def test_nothing_is_tracked_unless_asked(client: Client, value: str) -> None:
    for more in ({}, {"X-Debug-Resource-Tracking": value}):
        answer = client.get("/work/", headers={"X-Key": "owner", **more})

        assert {"x-resource-tracking-id", "server-timing"} & answer.headers.keys() == set()
    with client.service.db.connection() as connection:
        assert connection.execute("SELECT count(*) FROM tiercel.tracked_request").fetchone() == (0,)


def test_the_statements_of_another_account_are_not_there(client: Client) -> None:
    answer, _ = track(client, "/work/")
    path = f"{ROOT}{answer.headers['x-resource-tracking-id']}/"

    foreign, unknown = (client.get(each, headers={"X-Key": "elsewhere"}) for each in (path, f"{ROOT}{uuid4()}/"))

    assert (foreign.status, foreign.json()["code"]) == (unknown.status, unknown.json()["code"]) == (404, "not_found")
    assert client.get(f"{ROOT}1/", headers={"X-Key": "owner"}).status == 404


def test_what_was_tracked_is_kept_for_an_hour_and_the_newest_of_an_account(client: Client) -> None:
    old, _ = track(client, "/fail/")
    foreign, _ = track(client, "/fail/", "elsewhere")
    with client.service.db.connection() as connection:
        connection.execute("UPDATE tiercel.tracked_request SET tracked_at = tracked_at - interval '61 minutes'")

    path = f"{ROOT}{old.headers['x-resource-tracking-id']}/"
    assert client.get(path, headers={"X-Key": "owner"}).status == 404
    for _ in range(102):
        client.get("/fail/", headers={"X-Key": "owner", **ASKED})
    with client.service.db.connection() as connection:
        counts = connection.execute("SELECT account, count(*) FROM tiercel.tracked_request GROUP BY account").fetchall()

    assert counts == [(0, 100)], foreign


def test_in_mode_open_everybody_may_track(serve: Serve, make_plugin: MakePlugin) -> None:
    client = serve(plugins=[make_plugin("alpha", register_routes=make_routes)], required=[])

    for path in ("/work/", "/public/"):
        answer = client.get(path, headers=ASKED)
        kept = client.get(f"{ROOT}{answer.headers['x-resource-tracking-id']}/")
        assert (kept.status, kept.json()["data"]["statement_count"] > 0) == (200, True)


def test_a_response_is_sent_although_nothing_can_be_kept(
    boot: Boot, make_plugin: MakePlugin, captured: CapturedLog
) -> None:
    client = boot(make_plugin("alpha", register_routes=make_routes))

    answer = client.get("/fail/", headers=ASKED)

    assert (answer.status, "server-timing" in answer.headers) == (404, True)
    [entry] = captured.events("resource_tracking_not_stored")
    assert entry["request_id"] == answer.headers["x-request-id"]
    # The next request of this thread is not tracked.
    assert "server-timing" not in client.get("/fail/").headers


def test_a_phase_does_not_count_those_in_it() -> None:
    tracker = ResourceTracker(time.perf_counter_ns())
    with tracker.measure("view"):
        with tracker.measure("filters"):
            time.sleep(0.05)
        with tracker.measure("filters"):
            pass

    durations_ms = tracker.durations_ms()

    assert durations_ms["view"] < 50 <= durations_ms["filters"] <= durations_ms["total"]
