"""Entries are written in the transactions of their changes, and chained, however many there are at once."""

from __future__ import annotations

import os
import pwd
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import LiteralString

import psycopg
import pytest

from kernel.audit import AuditFilter
from kernel.identity import acting_as
from kernel.testing import Client
from tests.conftest import Serve
from tests.kernel.audit.factories import actions, audit_of, chains_of, entries, record, verify
from tests.kernel.fakes import make_identity
from tests.processes import eventually


@pytest.fixture
def client(serve: Serve) -> Client:
    return serve(plugins=["accounts"], required=[])


def test_entries_are_numbered_and_chained(client: Client) -> None:
    record(client, 3)
    record(client)

    found = entries(client)
    assert [entry.number for entry in found] == [1, 2, 3, 4]
    assert [entry.previous_hash for entry in found] == ["0" * 64, *(entry.hash for entry in found[:-1])]
    assert verify(client).problems == 0


def test_what_is_rolled_back_leaves_no_entry(client: Client) -> None:
    with client.service.db.transaction() as connection:
        audit_of(client).record(connection, action="a", target=("thing", 1))
        raise psycopg.Rollback

    assert entries(client) == []


def test_a_savepoint_that_is_rolled_back_takes_its_entries_with_it(client: Client) -> None:
    audit = audit_of(client)
    with client.service.db.transaction() as connection:
        audit.record(connection, action="first", target=("thing", 1))
        with connection.transaction(force_rollback=True):
            audit.record(connection, action="forced", target=("thing", 1))
        with connection.transaction():
            audit.record(connection, action="kept", target=("thing", 1))
            with connection.transaction():
                audit.record(connection, action="inner", target=("thing", 1))
                raise psycopg.Rollback
        with suppress(psycopg.errors.DivisionByZero), connection.transaction():
            audit.record(connection, action="failed", target=("thing", 1))
            connection.execute("SELECT 1 / 0")

    assert actions(client) == ["first", "kept"]


def test_a_transaction_at_repeatable_read_writes_its_entries_as_well(client: Client) -> None:
    with client.service.db.transaction(repeatable_read=True) as connection:
        audit_of(client).record(connection, action="a", target=("thing", 1))

    assert actions(client) == ["a"]


def test_a_change_outside_of_a_transaction_cannot_be_recorded(client: Client, database: str) -> None:
    with client.service.db.connection() as connection, pytest.raises(RuntimeError, match="no transaction"):
        audit_of(client).record(connection, action="a", target=("thing", 1))
    with psycopg.connect(database) as other, pytest.raises(TypeError, match="pool"):
        audit_of(client).record(other, action="a", target=("thing", 1))


def test_an_entry_that_cannot_be_written_undoes_the_change(client: Client) -> None:
    db = client.service.db
    with db.connection() as connection:
        connection.execute("CREATE TABLE public.thing (id int)")
        connection.execute("ALTER TABLE tiercel.audit_entry ADD CHECK (action <> 'forbidden')")

    def change() -> None:
        with db.transaction() as connection:
            connection.execute("INSERT INTO public.thing VALUES (1)")
            audit_of(client).record(connection, action="forbidden", target=("thing", 1))

    with pytest.raises(psycopg.errors.CheckViolation):
        change()

    with db.connection() as connection:
        assert connection.execute("SELECT count(*) FROM public.thing").fetchone() == (0,)


def test_the_actor_is_the_identity_or_the_service(client: Client) -> None:
    record(client)
    with acting_as(make_identity("write", account=2, own_account=2, name="key of a shop", key=5)):
        record(client, account=2)
    record(client, identity=make_identity(scheme="session", name="ada", user=9))

    assert [(entry.actor.scheme, entry.actor.name) for entry in entries(client)] == [
        ("service", "the service"),
        ("session", "ada"),
    ]
    assert [(entry.actor.key, entry.actor.account) for entry in entries(client, 2)] == [(5, 2)]


def test_in_a_command_the_actor_is_the_user_of_the_operating_system(client: Client) -> None:
    user = pwd.getpwuid(os.getuid()).pw_name
    with (
        audit_of(client).command("tiercel things"),
        acting_as(make_identity("write", name="the command line", own_account=3)),
    ):
        record(client)

    (entry,) = entries(client)
    assert (entry.actor.scheme, entry.actor.account) == ("command", None)
    assert entry.actor.name.startswith(user)


def test_a_command_that_changes_something_has_one_entry(client: Client) -> None:
    db = client.service.db
    with audit_of(client).command("tiercel things list"), db.transaction() as connection:
        connection.execute("SELECT 1")
    assert entries(client) == []

    with audit_of(client).command("tiercel things forget"):
        for _ in range(2):
            with db.transaction() as connection:
                connection.execute("CREATE TEMPORARY TABLE IF NOT EXISTS thing (id int)")

    (entry,) = entries(client)
    assert (entry.action, entry.target.kind, entry.actor.scheme) == ("tiercel things forget", "command", "command")


def test_a_session_sees_the_entries_of_its_account_only(client: Client) -> None:
    record(client, account=1)
    record(client, account=2)
    with acting_as(make_identity("read", account=2)), client.service.db.connection() as connection:
        seen = connection.execute("SELECT account FROM tiercel.audit_entry").fetchall()
        ends = connection.execute("SELECT account FROM tiercel.audit_chain").fetchall()
        # The first wall alone, and the second alone.
        assert chains_of(client).list(1) == []

    assert (seen, ends) == ([(2,)], [(2,)])


def test_an_entry_of_another_account_leaves_the_session_scoped(client: Client) -> None:
    with acting_as(make_identity("write", account=2)), client.service.db.connection() as connection:
        for _ in range(2):
            with connection.transaction():
                audit_of(client).record(connection, action="a", target=("thing", 1), account=1)
                audit_of(client).record(connection, action="a", target=("thing", 1))
            seen = connection.execute("SELECT DISTINCT account FROM tiercel.audit_entry").fetchall()
            assert seen == [(2,)]

    assert (len(entries(client, 1)), len(entries(client, 2))) == (2, 2)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tiercel.audit_entry SET action = 'x'",
        "DELETE FROM tiercel.audit_entry",
        "TRUNCATE tiercel.audit_entry",
        "UPDATE tiercel.audit_chain SET number = 0",
        "UPDATE tiercel.audit_chain SET account = 9",
        "DELETE FROM tiercel.audit_chain",
        "TRUNCATE tiercel.audit_chain",
    ],
)
def test_the_owner_of_the_tables_can_only_append(client: Client, database: str, statement: LiteralString) -> None:
    record(client, 2)

    with psycopg.connect(database) as owner, pytest.raises(psycopg.errors.RestrictViolation):
        owner.execute(statement)

    assert verify(client).problems == 0


def test_one_chain_under_many_threads_has_no_gaps(client: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: record(client, number % 3 + 1), range(60)))

    assert [entry.number for entry in entries(client)] == list(range(1, 121))
    assert verify(client).problems == 0


def test_many_chains_under_many_threads_do_not_mix_and_do_not_deadlock(client: Client) -> None:
    def work(number: int) -> None:
        # Both orders, in one transaction each.
        accounts = (1, 2, 3) if number % 2 else (3, 2, 1)
        with client.service.db.transaction() as connection:
            for account in accounts:
                audit_of(client).record(connection, action="a", target=("thing", number), account=account)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(60)))

    for account in (1, 2, 3):
        assert [entry.number for entry in entries(client, account)] == list(range(1, 61))
        assert verify(client, account).problems == 0


def test_a_transaction_that_is_open_holds_up_nobody(client: Client) -> None:
    with client.service.db.transaction() as connection:
        audit_of(client).record(connection, action="slow", target=("thing", 1))
        record(client, action="fast")

    assert actions(client) == ["fast", "slow"]


def test_an_account_whose_chain_is_locked_does_not_hold_up_others(client: Client, database: str) -> None:
    record(client, account=1)
    with psycopg.connect(database) as other:
        other.execute("SELECT FROM tiercel.audit_chain WHERE account = 1 FOR UPDATE")
        waits = threading.Thread(target=record, args=(client,), kwargs={"account": 1})
        waits.start()
        record(client, account=2)

        assert waits.is_alive()
        assert actions(client, 2) == ["thing.update"]
    waits.join(10)

    assert eventually(lambda: len(actions(client, 1)) == 2)


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        (AuditFilter(action="thing.update"), [3, 1]),
        (AuditFilter(target_kind="thing", target_id="7"), [2]),
        (AuditFilter(scheme="session"), [3]),
        (AuditFilter(user=9), [3]),
        (AuditFilter(key=9), []),
        (AuditFilter(search="TING%"), []),
        (AuditFilter(search="Thing.Up"), [3, 1]),
        (AuditFilter(search='"colour":[null,"red"]'), [2]),
    ],
)
def test_a_filter_selects_entries(client: Client, query: AuditFilter, numbers: list[int]) -> None:
    record(client)
    record(client, action="thing.paint", target=("thing", 7), changes={"colour": (None, "red")})
    record(client, identity=make_identity(scheme="session", name="ada", user=9))

    assert [entry.number for entry in chains_of(client).list(0, query)] == numbers
