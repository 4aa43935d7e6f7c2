"""What is changed in the log by hand is found, and named."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import Connection, sql

from kernel import NotFoundError
from kernel.audit import AuditFilter, ChainReport, Finding
from kernel.testing import Client
from tests.conftest import Serve
from tests.kernel.audit.factories import actions, chains_of, entries, record, verify

ENTRIES = 12
# By column, another value than the one that is there.
OTHER_VALUES: dict[str, LiteralString] = {
    "account": "account + 1",
    "number": "number + 1000",
    "time": "time + interval '1 microsecond'",
    "actor_scheme": "actor_scheme || ' '",
    "actor_name": "lower(actor_name) || 'x'",
    "actor_account": "coalesce(actor_account, 0) + 1",
    "actor_user": "coalesce(actor_user, 0) + 1",
    "actor_key": "coalesce(actor_key, 0) + 1",
    "action": "action || 'd'",
    "target_kind": "upper(target_kind)",
    "target_id": "CASE WHEN target_id IS NULL THEN '' END",
    "changes": "(changes::text || ' ')::json",
    "client": "CASE WHEN client IS NULL THEN '' END",
    "request_id": "coalesce(request_id, '') || '1'",
    "previous_hash": "set_byte(previous_hash, 31, get_byte(previous_hash, 31) # 1)",
    "hash": "set_byte(hash, 0, get_byte(hash, 0) # 1)",
}
NUMBERS = st.integers(1, ENTRIES)
TAMPERING = st.one_of(
    st.tuples(st.just("change"), st.sampled_from(sorted(OTHER_VALUES)), NUMBERS),
    st.tuples(st.just("delete"), NUMBERS, st.integers(0, 3)),
    st.tuples(st.just("swap"), NUMBERS, NUMBERS).filter(lambda each: each[1] != each[2]),
    st.tuples(st.just("insert"), NUMBERS, st.integers(1, 3)),
    st.tuples(st.sampled_from(["truncate", "end"]), st.integers(0, ENTRIES - 1), st.none()),
    st.tuples(st.sampled_from(["hash", "gone"]), st.none(), st.none()),
    st.tuples(st.just("cut"), NUMBERS, st.none()),
)


@pytest.fixture
def client(serve: Serve) -> Client:
    return serve(plugins=["accounts"], required=[])


@pytest.fixture
def owner(client: Client, database: str) -> Iterator[Connection[Any]]:
    """A session of somebody who owns the tables, and has switched off what keeps them."""
    record(client, ENTRIES)
    record(client, 3, account=7)
    with psycopg.connect(database, autocommit=True) as connection:
        for table in ("audit_entry", "audit_chain"):
            connection.execute(sql.SQL("ALTER TABLE tiercel.{} DISABLE TRIGGER USER").format(sql.Identifier(table)))
            copy = sql.SQL("CREATE TABLE public.{0} AS SELECT * FROM tiercel.{0}").format(sql.Identifier(table))
            connection.execute(copy)
        yield connection


def restore(owner: Connection[Any]) -> None:
    """Undo everything."""
    for table in map(sql.Identifier, ("audit_entry", "audit_chain")):
        owner.execute(sql.SQL("DELETE FROM tiercel.{}").format(table))
        owner.execute(sql.SQL("INSERT INTO tiercel.{0} SELECT * FROM public.{0}").format(table))


def tamper(owner: Connection[Any], kind: str, what: Any, how: Any) -> None:
    """Change something by hand in the chain of the system account."""
    given = {"what": what, "how": how, "added": None}
    statements: list[LiteralString] = {
        "delete": [
            "DELETE FROM tiercel.audit_entry WHERE account = 0 AND number BETWEEN %(what)s AND %(what)s + %(how)s"
        ],
        "swap": [
            "UPDATE tiercel.audit_entry SET number = 1000 WHERE account = 0 AND number = %(what)s",
            "UPDATE tiercel.audit_entry SET number = %(what)s WHERE account = 0 AND number = %(how)s",
            "UPDATE tiercel.audit_entry SET number = %(how)s WHERE account = 0 AND number = 1000",
        ],
        "insert": [
            "CREATE TEMPORARY TABLE added AS SELECT * FROM tiercel.audit_entry WHERE account = 0 AND number = %(what)s",
            "UPDATE added SET number = (SELECT max(number) FROM tiercel.audit_entry WHERE account = 0) + %(how)s",
            "INSERT INTO tiercel.audit_entry SELECT * FROM added",
            "DROP TABLE added",
        ],
        "truncate": ["DELETE FROM tiercel.audit_entry WHERE account = 0 AND number > %(what)s"],
        # With the end of the chain, as somebody does who knows that it is recorded, but not what the hash is.
        "end": ["UPDATE tiercel.audit_chain SET number = %(what)s WHERE account = 0"],
        "hash": ["UPDATE tiercel.audit_chain SET hash = cut_hash WHERE account = 0"],
        "gone": ["DELETE FROM tiercel.audit_chain WHERE account = 0"],
        # As somebody does who knows how entries are cut off.
        "cut": [
            "UPDATE tiercel.audit_chain AS chain SET cut_number = entry.number, cut_hash = entry.hash FROM"
            " tiercel.audit_entry AS entry WHERE chain.account = 0 AND entry.account = 0 AND entry.number = %(what)s",
            "DELETE FROM tiercel.audit_entry WHERE account = 0 AND number <= %(what)s",
        ],
    }.get(kind, [])
    for statement in statements:
        owner.execute(statement, given)
    if kind == "change":
        change = sql.SQL("UPDATE tiercel.audit_entry SET {} = {} WHERE account = 0 AND number = %(how)s")
        owner.execute(change.format(sql.Identifier(what), sql.SQL(OTHER_VALUES[what])), given)


def expected_text(kind: str, what: Any, how: Any) -> str:
    """Return what the findings say of something that was changed by hand: account, number of the entry, problem."""
    if kind == "change" and what in ("account", "number"):
        return f"entries {how} to" if (what, how) == ("number", ENTRIES) else f"entry {how} is missing"
    return {
        "change": f"0 {how} ",
        "delete": f"{what} ",
        "swap": f"0 {what} was changed",
        "insert": f"0 {ENTRIES + (how or 0)} was changed" if kind == "insert" else "",
        "truncate": f"{ENTRIES} are missing at the end" if what != ENTRIES - 1 else f"entry {ENTRIES} is missing",
        "end": "beyond the recorded end" if what != ENTRIES else "",
        "hash": f"0 {ENTRIES} is not the recorded end",
        "gone": "None the recorded end of the chain is missing",
        "cut": "None the recorded beginning of the chain",
    }[kind]


def problems(client: Client) -> list[Finding]:
    """Return what the verification of all chains finds."""
    reports = [each for each in chains_of(client).verify() if isinstance(each, ChainReport)]
    return [finding for report in reports for finding in report.findings]


@given(TAMPERING)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_changed_by_hand_is_found_and_named(
    client: Client, owner: Connection[Any], tampering: tuple[str, Any, Any]
) -> None:
    restore(owner)
    assert problems(client) == []

    tamper(owner, *tampering)

    found = problems(client)
    assert expected_text(*tampering) in "\n".join(f"{each.account} {each.number} {each.problem}" for each in found)
    # An entry that was moved to another account is found there as well. Of other chains nothing is said.
    assert {each.account for each in found} == ({0, 1} if tampering[1] == "account" else {0})


def test_a_chain_that_was_replaced_is_found_with_a_hash_that_was_kept_elsewhere(
    client: Client, owner: Connection[Any]
) -> None:
    kept = verify(client).head
    owner.execute("DELETE FROM tiercel.audit_entry WHERE account = 0")
    owner.execute("DELETE FROM tiercel.audit_chain WHERE account = 0")
    record(client, ENTRIES)

    assert verify(client).problems == 0
    *_, missing = chains_of(client).verify(0, heads=[kept])
    assert isinstance(missing, Finding)
    assert kept in missing.problem


def test_the_hash_of_any_entry_proves_that_the_chain_goes_on_from_there(client: Client) -> None:
    record(client, 3)
    heads = [entry.hash.upper() for entry in entries(client)]
    record(client)

    assert all(isinstance(each, ChainReport) for each in chains_of(client).verify(heads=heads))


def test_the_report_says_how_long_the_chain_is_and_where_it_ends(client: Client) -> None:
    record(client, 3)

    report = verify(client)

    assert (report.entries, report.number, report.cut, report.head) == (3, 3, 0, entries(client)[-1].hash)


def test_many_findings_are_counted(client: Client, owner: Connection[Any]) -> None:
    record(client, 200)
    owner.execute("UPDATE tiercel.audit_entry SET action = 'x' WHERE account = 0")

    report = verify(client)

    assert (report.problems, len(report.findings)) == (ENTRIES + 200, 100)


class SteppingClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time


def test_a_chain_that_was_cut_can_be_verified(serve: Serve) -> None:
    clock = SteppingClock()
    client = serve(plugins=["accounts"], required=[], clock=clock)
    record(client, 3)
    clock.time += timedelta(days=1)
    record(client, 2)
    chains = chains_of(client)
    old = [entry for batch in chains.scan(0, AuditFilter(end=clock.time - timedelta(seconds=1))) for entry in batch]

    done = chains.cut(0, clock.time)

    assert (done.entries, done.number, done.hash) == (3, 3, old[-1].hash)
    assert actions(client) == ["thing.update", "thing.update", "audit_chain.cut"]
    report = verify(client)
    assert (report.problems, report.entries, report.cut, report.number) == (0, 3, 3, 6)
    assert all(isinstance(each, ChainReport) for each in chains.verify(heads=[old[-1].hash]))
    with pytest.raises(NotFoundError):
        chains.cut(0, clock.time)
    clock.time += timedelta(days=1)
    assert chains.cut(0, clock.time).entries == 3
    assert (verify(client).problems, actions(client)) == (0, ["audit_chain.cut"])


@pytest.mark.slow
def test_a_hundred_thousand_entries_are_verified_in_seconds(client: Client) -> None:
    for _ in range(10):
        record(client, 10_000)

    started = time.perf_counter()
    report = verify(client)

    assert (report.problems, report.entries) == (0, 100_000)
    assert time.perf_counter() - started < 20
