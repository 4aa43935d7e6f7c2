"""Requests that change something have an entry, whatever their handlers do, and those for another account as well."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import psycopg
import pytest

from kernel import (
    ConflictError,
    Request,
    Route,
    Services,
)
from kernel.http.response import Response, StreamingResponse
from kernel.identity import Identity, acting_as
from kernel.testing import Client
from tests.conftest import Serve
from tests.kernel.audit.factories import actions, entries, record, verify
from tests.kernel.fakes import KeyAuthenticator, MakePlugin, make_identity
from tests.outage import outage
from tests.processes import eventually

INSERT = "INSERT INTO public.thing DEFAULT VALUES"
IDENTITIES = {
    "writer": make_identity("read", "write", account=1, own_account=1, key=7, name="key of a writer"),
    "sender": make_identity("ingest", account=1, own_account=1),
    "staff": make_identity("read", "write", "staff", own_account=0, user=3),
}


class SelectingAuthenticator(KeyAuthenticator):
    """Knows accounts by number, and trusts everybody."""

    def select(self, request: Request, identity: Identity) -> Identity:
        return msgspec.structs.replace(identity, account=int(request.get_header("X-Account") or 0))


class Query(msgspec.Struct, frozen=True):
    a: int = 0
    token: str = ""
    password: str = ""


class Things:
    """A Falcon resource."""

    def __init__(self, services: Services) -> None:
        self._db = services.db

    def on_get(self, _request: Any, response: Any) -> None:
        response.media = []

    def on_post(self, _request: Any, _response: Any) -> None:
        with self._db.transaction() as connection:
            connection.execute(INSERT)


def thing_routes(services: Services) -> Iterable[Route]:  # noqa: C901 - many small handlers
    """Routes that change something in each of the ways there are."""
    services.authenticate_with(SelectingAuthenticator(IDENTITIES))
    db, audit = services.db, services.audit

    def in_transaction() -> None:
        with db.transaction() as connection:
            connection.execute(INSERT)

    def in_two() -> None:
        in_transaction()
        in_transaction()

    def after_reading() -> None:
        with db.transaction() as connection:
            connection.execute("SELECT 1")
        in_transaction()

    def recorded() -> None:
        with db.transaction() as connection:
            connection.execute(INSERT)
            audit.record(connection, action="thing.create", target=("thing", None))

    def in_autocommit() -> None:
        with db.connection() as connection:
            connection.execute(INSERT)

    def nothing(query: Query) -> Response[None]:
        return Response(None, 204)

    def refused() -> None:
        raise ConflictError("no")

    def refused_after() -> None:
        in_transaction()
        raise ConflictError("no")

    def rolled_back() -> None:
        with db.transaction() as connection:
            connection.execute(INSERT)
            audit.record(connection, action="thing.create", target=("thing", None))
            raise ConflictError("no")

    def retried() -> None:
        try:
            with db.transaction() as connection:
                connection.execute("INSERT INTO public.late VALUES (1)")
        except psycopg.errors.ForeignKeyViolation:
            in_transaction()

    def for_the_service() -> None:
        with acting_as(None):
            in_transaction()
        raise ConflictError("no")

    def redirected() -> Response[None]:
        in_autocommit()
        return Response(None, 303, {"Location": "/"})

    def streamed() -> Response[StreamingResponse]:
        in_autocommit()
        return Response(StreamingResponse(iter([b"x"]), "text/plain"))

    handlers: list[Callable[..., Any]] = [
        *(in_transaction, in_two, after_reading, recorded, in_autocommit, nothing, refused, refused_after),
        *(rolled_back, retried, for_the_service, redirected, streamed),
    ]
    return [
        *(Route(path=f"/{each.__name__}/", handler=each, policy="write", method="POST") for each in handlers),
        Route(path="/resource/", handler=Things(services), policy="staff", method=None),
        Route(path="/ingest/", handler=in_transaction, policy="ingest", method="POST"),
        Route(path="/query/", handler=nothing, policy="read", method="POST"),
        Route(path="/read/", handler=nothing, policy="read"),
        Route(path="/read-by-staff/", handler=nothing, policy="staff"),
        Route(path="/public/", handler=in_transaction, policy="public", method="POST"),
    ]


@pytest.fixture
def client(serve: Serve, make_plugin: MakePlugin) -> Client:
    client = serve(plugins=[make_plugin("things", register_routes=thing_routes)], required=[], auth="required")
    with client.service.db.connection() as connection:
        connection.execute("CREATE TABLE public.thing (id serial PRIMARY KEY)")
        connection.execute("CREATE TABLE public.late (thing int REFERENCES public.thing DEFERRABLE INITIALLY DEFERRED)")
    return client


def send(client: Client, path: str, method: str = "POST", key: str = "writer", **headers: str) -> int:
    """Send a request with a key, and return the status."""
    return client.request(method, path, headers={"X-Key": key, **headers}).status


def count_things(client: Client) -> int:
    """Return how many things there are."""
    with client.service.db.connection() as connection:
        row = connection.execute("SELECT count(*) FROM public.thing").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize(
    "name", ["in_transaction", "in_two", "after_reading", "in_autocommit", "nothing", "redirected", "streamed"]
)
def test_a_request_that_changes_something_has_one_entry(client: Client, name: str) -> None:
    assert send(client, f"/{name}/", **{"X-Request-ID": "r-1"}) in (200, 204, 303)

    (entry,) = entries(client, 1)
    assert (entry.action, entry.target.kind, entry.target.id) == (f"POST /{name}", "path", f"/{name}/")
    assert (entry.actor.name, entry.actor.key, entry.actor.account) == ("key of a writer", 7, 1)
    assert (entry.request_id, bytes(entry.changes)) == ("r-1", b"{}")
    assert verify(client, 1).problems == 0


def test_an_entry_of_the_handler_is_enough(client: Client) -> None:
    assert send(client, "/recorded/") == 200

    (entry,) = entries(client, 1)
    assert (entry.action, entry.actor.name) == ("thing.create", "key of a writer")


@pytest.mark.parametrize("name", ["refused", "rolled_back", "for_the_service"])
def test_a_request_that_fails_without_a_change_has_none(client: Client, name: str) -> None:
    assert send(client, f"/{name}/") == 409

    assert actions(client, 1) == []


def test_a_change_that_was_committed_has_its_entry_although_the_request_fails(client: Client) -> None:
    assert send(client, "/refused_after/") == 409

    assert (count_things(client), actions(client, 1)) == (1, ["POST /refused_after"])


def test_a_transaction_that_fails_at_its_commit_does_not_count_as_recorded(client: Client) -> None:
    assert send(client, "/retried/") == 200

    assert (count_things(client), actions(client, 1)) == (1, ["POST /retried"])


def test_only_what_changes_something_on_routes_to_write_is_recorded(client: Client) -> None:
    assert send(client, "/ingest/", key="sender") == 200
    assert send(client, "/query/") == 204
    assert send(client, "/read/", "GET") == 204
    assert send(client, "/read-by-staff/", "GET", key="staff") == 204
    assert send(client, "/public/") == 200
    assert send(client, "/resource/", "GET", key="staff") == 200
    assert send(client, "/in_transaction/", key="sender") == 403
    assert send(client, "/in_transaction/", key="unknown") == 401

    assert (actions(client, 0), actions(client, 1)) == ([], [])


def test_a_falcon_resource_has_its_entry(client: Client) -> None:
    assert send(client, "/resource/", key="staff") == 200

    (entry,) = entries(client, 0)
    assert (entry.action, entry.actor.user) == ("POST /resource", 3)


def test_secrets_in_a_query_string_are_masked(client: Client) -> None:
    assert send(client, "/nothing/?a=1&token=hunter2&password=hunter2") == 204

    (entry,) = entries(client, 1)
    assert bytes(entry.changes) == b'{"query":[null,"a=1&token=***&password=***"]}'


def test_staff_that_looks_into_another_account_is_recorded_in_both(client: Client) -> None:
    assert send(client, "/read/?a=1", "GET", "staff", **{"X-Account": "5"}) == 204

    (own,), (named,) = entries(client, 0), entries(client, 5)
    assert own.action == named.action == "account.access"
    assert (named.actor.account, named.actor.user, named.target.id) == (0, 3, "/read/")
    assert bytes(named.changes) == b'{"account":[0,5],"method":[null,"GET"],"query":[null,"a=1"]}'


def test_what_staff_changes_for_another_account_is_in_the_chain_of_that_account(client: Client) -> None:
    assert send(client, "/in_transaction/", key="staff", **{"X-Account": "5"}) == 200

    assert actions(client, 0) == ["account.access"]
    assert actions(client, 5) == ["account.access", "POST /in_transaction"]
    assert verify(client, 5).problems == 0


def test_an_account_that_names_itself_is_not_recorded(client: Client) -> None:
    assert send(client, "/read/", "GET", "staff", **{"X-Account": "0"}) == 204

    assert actions(client, 0) == []


def test_without_a_database_nobody_looks_into_another_account_and_nothing_succeeds_unseen(
    client: Client, database: str
) -> None:
    with outage(database):
        assert send(client, "/read/", "GET", "staff") == 204
        assert send(client, "/read/", "GET", "staff", **{"X-Account": "5"}) == 503
        assert send(client, "/nothing/") == 503
        assert send(client, "/in_transaction/") == 503

    # A failure is remembered for a moment.
    assert eventually(lambda: send(client, "/in_transaction/") == 200)
    assert (count_things(client), actions(client, 1)) == (1, ["POST /in_transaction"])


def test_while_the_database_is_read_only_nothing_is_done_that_must_be_recorded(client: Client) -> None:
    db = client.service.db
    record(client)
    with db.connection() as connection:
        connection.execute("SELECT set_config('default_transaction_read_only', 'on', false)")

    answer = client.get("/read/", headers={"X-Key": "staff", "X-Account": "5"})
    assert (answer.status, answer.json()["code"]) == (503, "database_read_only")
    assert send(client, "/nothing/") == 503
    assert actions(client) == ["thing.update"]
    assert verify(client).problems == 0
    with db.connection() as connection:
        connection.execute("RESET default_transaction_read_only")
