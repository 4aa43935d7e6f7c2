"""``tiercel doctor``: what it finds, what it does not tell, and that it works where nothing else does."""

from __future__ import annotations

import os
import resource
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
import psycopg
import pytest

from kernel.doctor.privacy import scrub, scrub_traceback, strip_values
from kernel.logging import make_logger
from kernel.settings import LogSettings
from tests.commands import RunCommand, make_runner
from tests.contract.tree import DOCS
from tests.processes import eventually

NOWHERE = "postgresql://somebody:secret-word@127.0.0.1:1/nothing"
OF_DATABASE = {
    "database",
    "database_clock",
    "connections",
    "statements",
    "slow_statements",
    "waiting_locks",
    "tables",
    "indexes",
    "bloat",
    "timescaledb",
    "migrations",
    "jobs",
    "datasets",
    "check_database",
}


@pytest.fixture
def tiercel(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunCommand:
    """Run commands in this process, in ``tmp_path`` and on a database of their own."""
    return make_runner(database, tmp_path, monkeypatch, capsys)


def parts_of(tiercel: RunCommand, *options: str, **variables: str) -> dict[str, Any]:
    """Return the parts of a report by name."""
    ran = tiercel("doctor", "-", *options, **variables)
    assert ran.code == 0, ran.errors
    assert "secret-word" not in ran.output + ran.errors
    parts: dict[str, Any] = ran.json()["parts"]
    return parts


def failed(parts: dict[str, Any]) -> dict[str, str]:
    return {name: part["reason"] for name, part in parts.items() if part["status"] == "failed"}


# --- a service that works -------------------------------------------------------------------------------------------


def test_the_report_is_a_file_that_only_its_user_can_read(tiercel: RunCommand, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ran = tiercel("doctor", "report.json", SECRET_KEY="secret-word")
    finally:
        os.umask(before)

    report = tmp_path / "report.json"
    assert (ran.code, stat.S_IMODE(report.stat().st_mode)) == (0, 0o600)
    assert "secret-word" not in report.read_text() + ran.output
    parts = msgspec.json.decode(report.read_bytes())["parts"]
    assert failed(parts) == {}
    assert parts.keys() > OF_DATABASE
    assert {"key": "secret_key", "value": "***", "from": "environment SECRET_KEY"} in parts["settings"]["content"][
        "rows"
    ]
    # What somebody else may have placed there is neither followed nor replaced.
    again = tiercel("doctor", "report.json")
    assert again.code == 1
    assert "report.json: File exists" in again.errors


def test_the_documentation_lists_the_parts(tiercel: RunCommand) -> None:
    page = (DOCS / "operations" / "troubleshooting.md").read_text()
    embedded = {"embedded_server"}

    assert [name for name in parts_of(tiercel).keys() | embedded if f"`{name}`" not in page] == []


def test_what_waits_is_shown_with_what_it_waits_for_and_no_values(tiercel: RunCommand, database: str) -> None:
    with waiting_for_lock(database):
        parts = parts_of(tiercel)

    (waiting,) = parts["waiting_locks"]["content"]["waiting"]
    (blocker,) = parts["waiting_locks"]["content"]["blocking"]
    assert waiting["relation"] == "tiercel.job_run"
    assert waiting["blocked_by"] == [blocker["pid"]]
    assert waiting["statement"] == "DELETE FROM tiercel.job_run WHERE name = ? AND id > ?"
    assert blocker["state"] == "idle in transaction"
    # The size of a table that is locked cannot be measured, but that of all others.
    locked = [row["table"] for row in parts["tables"]["content"] if row["locked_parts"]]
    assert locked == ["tiercel.job_run"]
    assert parts["tables"]["status"] == "ok"


@contextmanager
def waiting_for_lock(database: str) -> Iterator[None]:
    """Let a session hold a table, and another one wait for it."""

    def wait() -> None:
        with suppress(psycopg.Error), psycopg.connect(database) as waiting:
            pids.append(waiting.info.backend_pid)
            waiting.execute("DELETE FROM tiercel.job_run WHERE name = 'secret-word' -- it's\n AND id > 4711")

    pids: list[int] = []
    with psycopg.connect(database) as holding, psycopg.connect(database, autocommit=True) as admin:
        holding.execute("LOCK TABLE tiercel.job_run IN ACCESS EXCLUSIVE MODE")
        thread = threading.Thread(target=wait)
        thread.start()
        query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = ANY (%s)"
        try:
            assert eventually(lambda: admin.execute(query, [pids]).fetchone() == (1,))
            yield
        finally:
            admin.execute("SELECT pg_cancel_backend(pid) FROM unnest(%s::int[]) AS pid", [pids])
            thread.join()


def test_jobs_that_failed_or_are_stalled_are_shown_with_reasons(tiercel: RunCommand, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO tiercel.job_run (name, state, parameters, lock, error, finished_at, started_at, worker) VALUES"
            " ('shop.send', 'failed', '{\"to\": \"secret-word\"}', 'a', %s, now(), now(), NULL),"
            " ('shop.pack', 'running', '{}', 'b', NULL, NULL, now(), 7)",
            ["SMTPError: ada@example.com at 10.1.2.3 refused password=secret-word\nDETAIL: secret-word"],
        )
        connection.execute("INSERT INTO tiercel.job_worker (id, heartbeat_at) VALUES (7, now() - interval '1 hour')")

    jobs = parts_of(tiercel)["jobs"]["content"]

    (only,) = jobs["failed"]
    assert only["reason"] == "SMTPError: (e-mail) at (address) refused password=***"
    assert [(row["name"], row["is_stalled"]) for row in jobs["running"]] == [("shop.pack", True)]


# --- a service that does not ----------------------------------------------------------------------------------------


def test_a_database_that_is_down_is_the_reason_of_its_parts_alone(tiercel: RunCommand) -> None:
    parts = parts_of(tiercel, TIERCEL_DATABASE_URL=NOWHERE, TIERCEL_METRICS__ENABLED="false")

    reasons = failed(parts)
    assert reasons.pop("metrics") == "metrics.enabled is false"
    assert reasons.keys() == OF_DATABASE
    assert reasons["database"].startswith("no database server listens at the configured address")
    assert reasons["tables"] == f"left out: {reasons['database']}"


def test_a_database_that_hangs_costs_its_time_limit_once(tiercel: RunCommand) -> None:
    # Accepts connections, and answers nobody.
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"postgresql://somebody:secret-word@127.0.0.1:{server.getsockname()[1]}/nothing"
        parts = parts_of(tiercel, "--timeout-s=1", TIERCEL_DATABASE_URL=url, TIERCEL_METRICS__ENABLED="false")

    assert failed(parts).keys() >= OF_DATABASE
    assert parts["database"]["reason"] == "no answer within 1 s"
    assert parts["tables"] == {"status": "failed", "took_ms": 0, "reason": "left out: no answer within 1 s"}


def test_a_database_that_is_not_migrated_is_described_as_far_as_it_goes(
    tiercel: RunCommand, empty_database: str
) -> None:
    parts = parts_of(tiercel, TIERCEL_DATABASE_URL=empty_database, TIERCEL_METRICS__ENABLED="false")

    assert failed(parts).keys() == {"migrations", "jobs", "datasets", "metrics"}
    assert 'relation "tiercel.migration" does not exist' in parts["migrations"]["reason"]
    found = {row["check"]: row["result"] for row in parts["check_database"]["content"]}
    assert found["migrations"] == "PROBLEM"


def test_an_embedded_database_that_does_not_run_is_not_started(
    tiercel: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TIERCEL_DATABASE_URL")

    parts = parts_of(tiercel, TIERCEL_METRICS__ENABLED="false")

    assert parts["embedded_server"]["content"]["is_running"] is False
    assert failed(parts).keys() == {*OF_DATABASE, "metrics"}
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_configuration_does_not_keep_it_from_the_rest(tiercel: RunCommand) -> None:
    parts = parts_of(tiercel, TIERCEL_PLUGINS="system,no_such", TIERCEL_REQUIRED="no_such")
    wrong = parts_of(tiercel, TIERCEL_THREADS="many")

    assert "no_such" in failed(parts)["plugins"]
    assert parts["tables"]["status"] == parts["log"]["status"] == "ok"
    assert failed(wrong).keys() == {"settings"}
    assert "server.threads: Expected int" in wrong["settings"]["reason"]
    assert wrong["machine"]["status"] == "ok"


def test_a_report_that_cannot_be_written_leaves_no_piece_of_itself(tiercel: RunCommand, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may be larger, as if the disk were full.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        ran = tiercel("doctor", "report.json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert ran.code == 1
    assert "report.json: File too large; '-' in place of a file prints the report" in ran.errors
    assert not (tmp_path / "report.json").exists()


# --- logs -----------------------------------------------------------------------------------------------------------

FRAMES = 'Traceback (most recent call last):\n  File "shop.py", line 7, in send\n    raise ValueError(card)\n'


def refuse_card() -> None:
    raise ValueError("card of ada@example.com\nsecret-word")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_the_last_errors_of_the_log_say_what_failed_but_not_whose_it_was(
    log_format: Literal["json", "console"], tiercel: RunCommand, tmp_path: Path
) -> None:
    file = tmp_path / "service.log"
    with (tmp_path / "stderr").open("w") as stream:
        log = make_logger(LogSettings(format=log_format, file=file), stream)
        log.info("request", path="/secret-word", client="10.1.2.3")
        try:
            refuse_card()
        except ValueError:
            log.exception(
                "request_failed", route="/shop/", method="GET", path="/shop/?q=secret-word", client="10.1.2.3"
            )
        log.warning("database_unavailable", code="database_refused", reason="at 10.1.2.3, password=secret-word")

    (first, second) = parts_of(tiercel, TIERCEL_LOG__FILE=str(file))["log"]["content"]["lines"]

    assert (first["level"], first["event"], first["route"]) == ("error", "request_failed", "/shop/")
    assert first["exception"][-1] == "ValueError: card of (e-mail)"
    assert first["exception"][-2].endswith("in refuse_card")
    assert not first.keys() & {"path", "client"}
    assert (second["event"], second["code"]) == ("database_unavailable", "database_refused")
    assert second["reason"] == "at (address), password=***"


def test_the_log_of_the_embedded_server_tells_of_crashes_and_quotes_no_statement(
    tiercel: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".tiercel" / "postgres" / "log"
    folder.mkdir(parents=True)
    prefix = "2026-11-28 10:00:00.000 UTC [41]"
    lines = [
        f"{prefix} LOG:  checkpoint starting: time",
        f"{prefix} ERROR:  duplicate key value violates unique constraint",
        f"{prefix} DETAIL:  Key (email)=(secret-word) already exists.",
        f"{prefix} STATEMENT:  SELECT 'secret-word'",
        f"{prefix} PANIC:  could not write to file: No space left on device",
    ]
    (folder / "postgresql-Sat.log").write_text("\n".join(lines))
    monkeypatch.delenv("TIERCEL_DATABASE_URL")

    found = parts_of(tiercel)["embedded_server"]["content"]["log"]

    assert [(row["level"], row["event"]) for row in found] == [
        ("PANIC", "could not write to file: No space left on device")
    ]


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("SELECT * FROM a WHERE b = 'it''s' AND c = 1.5e3", "SELECT * FROM a WHERE b = ? AND c = ?"),
        (r"SELECT E'it\'s', 'a\', x, 'b'", "SELECT ?, ?, x, ?"),
        ("SELECT $tag$ it's $$ $tag$, $$x$$, $1", "SELECT ?, ?, $1"),
        ("SELECT -- it's\n a1 /* it's */ FROM \"it's 1\"", 'SELECT a1 FROM "it\'s 1"'),
        ("SELECT 'cut o", "SELECT ?"),
        ("SELECT $$cut o", "SELECT ?"),
    ],
)
def test_statements_are_shown_without_values(statement: str, shown: str) -> None:
    assert strip_values(statement) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at 192.168.7.9:5432, 2001:db8::7 and fe80:1:2:3:4:5:6:7", "at (address):5432, (address) and (address)"),
        ("version 18.6.3 at 10:20:30 on 127.0.0.1 and ::1", "version 18.6.3 at 10:20:30 on 127.0.0.1 and ::1"),
        ("postgresql://ada:word@db/x", "postgresql://***@db/x"),
    ],
)
def test_reasons_are_shown_without_addresses_and_secrets(text: str, shown: str) -> None:
    assert scrub(text) == shown


def test_a_traceback_is_shown_without_what_follows_the_first_line_of_a_message() -> None:
    lines = (
        f"{FRAMES}psycopg.errors.UniqueViolation: duplicate key\nDETAIL:  Key (email)=(x) already exists.".splitlines()
    )

    assert scrub_traceback(lines) == [
        "Traceback (most recent call last):",
        '  File "shop.py", line 7, in send',
        "psycopg.errors.UniqueViolation: duplicate key",
    ]
