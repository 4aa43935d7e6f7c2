"""Resources: what a declaration must be, and how changes, their records and their errors belong together."""

from __future__ import annotations

from datetime import datetime
from types import SimpleNamespace
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg import Connection

from kernel.errors import NoAccountError
from kernel.http import Change, Resource
from kernel.identity import Identity
from kernel.testing import Client
from tests.conftest import Serve
from tests.kernel.fakes import install_plugin

# For declarations: nothing is asked of the database yet.
SERVICES: Any = SimpleNamespace(db=None, audit=None, kernel_settings=SimpleNamespace(http=None))


class NewNote(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    rank: int = 0
    tags: tuple[str, ...] = ()
    extra: dict[str, Any] = {}


class Note(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    account: int
    text: str
    rank: int
    tags: tuple[str, ...]
    extra: dict[str, Any]
    updated_at: datetime


class Notes(Resource[Note]):
    path = "/notes/"
    table = "notes.note"
    item = Note
    body = NewNote
    search = ("text",)
    keeps_deleted = False

    def on_change(self, connection: Connection[Any], change: Change) -> None:
        """Record a change, and refuse some."""
        connection.execute(
            "INSERT INTO notes.log (action, account, note) VALUES (%s, %s, %s)",
            [change.action, change.account, change.id],
        )
        if isinstance(change.after, Note) and change.after.text == "refused":
            raise RuntimeError("the change cannot be recorded")


TABLES = """
CREATE SCHEMA notes;
CREATE TABLE notes.note (
    id         integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    text       text        NOT NULL UNIQUE,
    rank       smallint    NOT NULL CHECK (rank <> 7),
    tags       text[]      NOT NULL,
    extra      jsonb       NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE notes.log (action text, account integer, note integer);
SELECT tiercel.scope_by_account('notes.note');
"""


@pytest.fixture
def client(serve: Serve, database: str, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A service in mode ``open`` with notes."""
    with psycopg.connect(database) as connection:
        connection.execute(TABLES)
    routes = {"register_routes": lambda services: Notes(services).routes()}
    return serve(plugins=["system", install_plugin(monkeypatch, "notes", routes)])


def recorded(client: Client) -> list[tuple[Any, ...]]:
    """Return what was recorded of changes."""
    with client.service.db.connection() as connection:
        return connection.execute("SELECT action, account, note FROM notes.log").fetchall()


def test_a_change_and_its_record_are_one_transaction(client: Client) -> None:
    note = client.post("/notes/", {"text": "a", "tags": ["x"], "extra": {"k": [1]}}).json()
    path = f"/notes/{note['id']}/"

    assert (note["tags"], note["extra"]) == (["x"], {"k": [1]})
    assert client.request("PATCH", path, json={"rank": 1}).json()["rank"] == 1
    # What changes nothing is no change.
    assert client.request("PATCH", path, json={"rank": 1, "tags": ["x"], "extra": {"k": [1]}}).status == 200
    assert client.request("PATCH", path, json={"text": "refused"}).status == 500
    assert client.post("/notes/", {"text": "refused"}).status == 500
    assert client.get(path).json()["text"] == "a"
    assert client.request("DELETE", path).status == 204
    assert recorded(client) == [(action, 0, note["id"]) for action in ("create", "update", "delete")]
    assert client.get("/notes/").json()["count"] == 0


@pytest.mark.parametrize(
    ("body", "status", "errors"),
    [
        ({"text": "taken"}, 409, {"text": ["This value is taken already."]}),
        ({"text": "a", "rank": 100_000}, 400, None),
        ({"text": "a", "rank": 7}, 400, None),
        ({"text": "a\x00"}, 400, None),
        ({"text": "a", "extra": {"k": "\x00"}}, 400, None),
        ({"text": 1, "other": 1}, 400, {"other": ["Unknown field."], "text": ["Expected str, got 1."]}),
    ],
)
def test_what_the_table_refuses_is_an_error_of_the_client(
    client: Client, body: dict[str, Any], status: int, errors: Any
) -> None:
    client.post("/notes/", {"text": "taken"})

    answer = client.post("/notes/", body)

    assert (answer.status, answer.json().get("errors")) == (status, errors)
    assert client.get("/notes/").json()["count"] == 1


def test_lists_take_any_value(client: Client) -> None:
    client.post("/notes/", {"text": "100%", "rank": 3})

    for query, count in (
        ("rank=3", 1),
        ("rank=99999999999999999999", 0),
        ("search=0%25", 1),
        ("search=_", 0),
        ("text=100%25", 1),
        ("id=-1", 0),
    ):
        assert client.get(f"/notes/?{query}").json()["count"] == count, query
    assert client.get("/notes/?text=%00").status == 400
    assert client.get("/notes/99999999999999999999/").status == 404


def test_a_wrong_declaration_is_refused() -> None:
    class Open(NewNote, frozen=True, kw_only=True):
        id: int = 0

    class Nobodys(msgspec.Struct, frozen=True, kw_only=True):
        id: int
        text: str
        rank: int
        tags: tuple[str, ...]
        extra: dict[str, Any]

    class WithId(Notes):
        body = Open

    class Misspelt(Notes):
        ordering = ("-rnak",)

    class WithoutAccount(Resource[Nobodys]):
        path, table, item, body = "/notes/", "notes.note", Nobodys, NewNote

    for resource, reason in (
        (WithId, "id: not a column that clients may set"),
        (Misspelt, "rnak"),
        (WithoutAccount, "has no account"),
    ):
        with pytest.raises(TypeError, match=reason):
            resource(SERVICES)


def test_nobody_without_an_account_sees_those_of_all() -> None:
    notes = Notes(SERVICES)

    with pytest.raises(NoAccountError):
        notes.account_of(Identity(scheme="jwt", name="nobody", account=None, scopes=frozenset({"read"})))
