"""What a plugin's author needs to test a plugin: a service on a database of its own, and a client."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import falcon.testing
import msgspec
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from kernel.app import Tiercel
from kernel.config import Configuration
from kernel.db.queries import load_queries
from kernel.services import Clock
from kernel.sources import EnvironmentSource, FileSource

_QUERIES = load_queries("kernel.db")
_VACUUM_LEAVES_WITHIN_S = 30.0


def make_configuration(**values: Any) -> Configuration:
    """Make a configuration from nothing but the given values, deaf to the environment.

    Args:
        values: As in ``tiercel.toml``: ``plugins=[...]``, ``db={"url": ...}``, ``observability={...}``.
    """
    return Configuration((EnvironmentSource("environment", {}),), FileSource("test", values))


def create_database(conninfo: str, name: str, template: str = "template1") -> str:
    """Create a database as a copy of another, which nobody may be using; return how to connect to it.

    Args:
        conninfo: A server, and a role that may create databases.
        name: Of the new one; an old one of that name is dropped.
        template: The one to copy.
    """
    drop_database(conninfo, name)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        statement = sql.SQL(_QUERIES["create_database_from"])
        connection.execute(statement.format(name=sql.Identifier(name), template=sql.Identifier(template)))
    return make_conninfo(conninfo, dbname=name)


def drop_database(conninfo: str, name: str) -> None:
    """Drop a database, also while somebody is connected."""
    statement = sql.SQL(_QUERIES["drop_database"]).format(name=sql.Identifier(name))
    deadline = time.monotonic() + _VACUUM_LEAVES_WITHIN_S
    with psycopg.connect(conninfo, autocommit=True) as connection:
        while True:
            try:
                connection.execute(statement)
                break
            except psycopg.errors.InsufficientPrivilege:
                # An autovacuum worker in that database belongs to nobody, and only a superuser may end it.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


class Answer(msgspec.Struct, frozen=True):
    """What a service answered."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        """Decode the body."""
        return msgspec.json.decode(self.content)


class Client:
    """Asks a service in this process, request log and all.

    Args:
        service: A started service.
    """

    def __init__(self, service: Tiercel) -> None:
        self.service = service
        self._client = falcon.testing.TestClient(service)

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request.

        Args:
            method: HTTP method.
            path: With the query string.
            json: Sent as JSON.
            content: Sent as it is, as JSON unless a header says otherwise.
            headers: Further ones.
        """
        body = msgspec.json.encode(json) if content is None and json is not None else content
        given = {"Content-Type": "application/json"} if body is not None else {}
        path, _, query = path.partition("?")
        result = self._client.simulate_request(
            method, path, query_string=query, body=body, headers={**given, **(headers or {})}, host="127.0.0.1"
        )
        return Answer(result.status_code, dict(result.headers), result.content)

    def get(self, path: str, **given: Any) -> Answer:
        """Send a GET."""
        return self.request("GET", path, **given)

    def post(self, path: str, json: Any = None, **given: Any) -> Answer:
        """Send a POST."""
        return self.request("POST", path, json=json, **given)


@contextmanager
def running(configuration: Configuration, clock: Clock | None = None) -> Iterator[Client]:
    """Prepare and start a service in this process; stop it at the end.

    Args:
        configuration: From ``make_configuration``; should name a database.
        clock: To tell another time.
    """
    service = Tiercel(configuration, clock)
    service.prepare()
    try:
        service.start()
        yield Client(service)
    finally:
        service.stop()
        service.close()
