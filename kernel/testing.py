"""What plugin authors need to test a plugin: a service in the process of the test, its database, and a client.

With pytest::

    @pytest.fixture
    def client() -> Iterator[Client]:
        with running(make_configuration(plugins=["acme.shop"], required=[])) as client:
            yield client

    def test_products_are_listed(client: Client) -> None:
        assert client.get("/shop/products/").json() == []

Home and database are temporary: neither those of the working directory nor those of the environment are touched.
"""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import click
import falcon.testing
import msgspec
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from kernel.app import Tiercel
from kernel.config import Configuration, EnvironmentSource, FileSource, read_shipped_file
from kernel.contracts import Command
from kernel.db.pool import QUERIES
from kernel.embedded.server import EmbeddedServer
from kernel.identity import acting_as, current_identity
from kernel.services import Clock

__all__ = ["Client", "Result", "create_database", "drop_database", "make_configuration", "running"]

_AUTOVACUUM_TIMEOUT_S = 30.0
_AUTOVACUUM_POLL_S = 0.05
_PLACE = "test"
# Tests start from nothing: durability does not matter.
_SERVER_OPTIONS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_numbers = itertools.count(1)


def make_configuration(**values: Any) -> Configuration:
    """Make a configuration of the given values and the defaults; the environment and files of the user do not matter.

    Args:
        values: Keys and tables as in ``tiercel.toml``: ``plugins=[...]``, ``db={"url": ...}``, ``shop={...}``. Without
            ``home``, it is a temporary directory, which all configurations of the process share.

    Raises:
        ConfigError: The kernel's settings are wrong.
    """
    values = {"home": str(_temporary_home()), **values}
    return Configuration((EnvironmentSource("environment", {}),), FileSource(_PLACE, values), read_shipped_file())


@cache
def _temporary_home() -> Path:
    home = Path(tempfile.mkdtemp(prefix="tiercel-test-"))
    _at_exit(lambda: shutil.rmtree(home, ignore_errors=True))
    return home


@cache
def _temporary_server() -> EmbeddedServer:
    """Start the server of the databases that ``running`` makes, the first time; it stops at the end of the process."""
    server = EmbeddedServer(_temporary_home(), options=_SERVER_OPTIONS)
    server.acquire()
    _at_exit(server.release)
    return server


def _at_exit(call: Callable[[], object]) -> None:
    owner = os.getpid()

    def call_in_owner() -> None:
        # A forked child, which a job may be, leaves what its parent still uses.
        if os.getpid() == owner:
            call()

    atexit.register(call_in_owner)


@contextmanager
def _temporary_database() -> Iterator[str]:
    server = _temporary_server()
    name = f"test_{next(_numbers)}"
    try:
        yield create_database(server.conninfo, name)
    finally:
        drop_database(server.conninfo, name)


def create_database(conninfo: str, name: str, template: str = "template1") -> str:
    """Create a database as a copy of another, and return its connection string.

    Args:
        conninfo: Connection string of a server, with a role that may create databases.
        name: Name of the new database; an existing one of this name is dropped.
        template: The database to copy. Nobody may be connected to it.
    """
    drop_database(conninfo, name)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        statement = sql.SQL(QUERIES["create_database_from_template"])
        connection.execute(statement.format(name=sql.Identifier(name), template=sql.Identifier(template)))
    return make_conninfo(conninfo, dbname=name)


def drop_database(conninfo: str, name: str) -> None:
    """Drop a database if it exists, and end the sessions that are connected to it.

    Args:
        conninfo: Connection string of the server.
        name: Name of the database.
    """
    statement = sql.SQL(QUERIES["drop_database"]).format(name=sql.Identifier(name))
    deadline = time.monotonic() + _AUTOVACUUM_TIMEOUT_S
    with psycopg.connect(conninfo, autocommit=True) as connection:
        while True:
            try:
                connection.execute(statement)
                break
            except psycopg.errors.InsufficientPrivilege:
                # An autovacuum worker is connected, which only a superuser may end.
                if time.monotonic() > deadline:
                    raise
                time.sleep(_AUTOVACUUM_POLL_S)


class Result(msgspec.Struct, frozen=True):
    """The response to a request.

    Args:
        status: HTTP status code.
        headers: Headers by name, in lower case.
        content: The body as it was sent.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        """Decode the body as JSON."""
        return msgspec.json.decode(self.content)


class Client:
    """Sends requests to a service in this process, without a network. The request log sees them as well.

    Args:
        service: A started service.
    """

    def __init__(self, service: Tiercel) -> None:
        self.service = service
        self._client = falcon.testing.TestClient(service)

    def command(self, plugin: str, name: str) -> click.Command:
        """Return a command of a plugin, to be run with ``click.testing.CliRunner``.

        Raises:
            LookupError: The plugin has no command of this name.
        """
        for owner, contribution in self.service.registry.contributions(Command):
            if (owner, contribution.command.name) == (plugin, name):
                return contribution.command
        raise LookupError(f"{plugin} has no command {name!r}")

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Result:
        """Send a request.

        Args:
            method: HTTP method.
            path: Path, with the query string.
            json: Body to encode as JSON.
            content: Body as it is; its type is JSON unless a header says otherwise.
            headers: Further headers.
        """
        body = msgspec.json.encode(json) if content is None and json is not None else content
        defaults = {"Content-Type": "application/json"} if body is not None else {}
        path, _, query = path.partition("?")
        # The identity of a request stays that of its thread until the next one; the test goes on as who it was.
        with acting_as(current_identity()):
            result = self._client.simulate_request(
                method, path, query_string=query, body=body, headers={**defaults, **(headers or {})}, host="127.0.0.1"
            )
        return Result(result.status_code, dict(result.headers), result.content)

    def get(self, path: str, **given: Any) -> Result:
        """Send a GET. Takes the arguments of ``request``."""
        return self.request("GET", path, **given)

    def post(self, path: str, json: Any = None, **given: Any) -> Result:
        """Send a POST. Takes the arguments of ``request``."""
        return self.request("POST", path, json=json, **given)


@contextmanager
def running(configuration: Configuration, clock: Clock | None = None) -> Iterator[Client]:
    """Run a service in this process until the block ends: prepare it, migrations included, and start it.

    Without ``db.url``, it gets a new database, which is dropped at the end, on an embedded PostgreSQL that starts with
    the first such service of the process; with a ``home`` of its own, the embedded PostgreSQL of that home.

    Args:
        configuration: From ``make_configuration``.
        clock: Replaces the clock of the system.

    Raises:
        ValueError: The configuration is not from ``make_configuration``: the tests would write into live data.
    """
    origins = {entry.key: entry.origin for entry in configuration.entries()}
    if origins["home"] != _PLACE:
        raise ValueError(f"home is that of {origins['home']}: make the configuration with make_configuration")
    settings = configuration.settings
    needs_database = settings.db.url is None and settings.home == _temporary_home()
    with _temporary_database() if needs_database else nullcontext() as conninfo:
        if conninfo is not None:
            configuration = configuration.with_variables(_PLACE, {"TIERCEL_DB__URL": conninfo})
        service = Tiercel(configuration, clock)
        service.prepare()
        try:
            service.start()
            yield Client(service)
        finally:
            service.stop()
            service.close()
