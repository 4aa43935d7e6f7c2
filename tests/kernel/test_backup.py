"""Backups: what ``docs/operations/backup.md`` says, done while the service writes; and what may go wrong."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psycopg
import pytest
from psycopg import sql

from kernel.embedded.server import EmbeddedServer
from kernel.testing import Client, make_configuration, running
from tests.commands import Ran, make_runner
from tests.conftest import FAST, memory_directory
from tests.contract.tree import DOCS
from tests.plugins.observability.events import make_events
from tests.processes import copy_home, eventually

PAGE = (DOCS / "operations" / "backup.md").read_text()
TABLES = """
SELECT relnamespace::regnamespace::text, relname::text
FROM pg_class
WHERE relkind = 'r' AND relnamespace::regnamespace::text !~ '^pg_|^information_schema|^_timescaledb'
ORDER BY 1, 2
"""
HASH = "SELECT count(*), md5(string_agg(md5(t::text), '' ORDER BY md5(t::text))) FROM {table} AS t"
BATCHES = """
SELECT split_part(service, '-', 2)::integer, count(*), (SELECT sum(stored)::integer FROM observability.ingest_ledger)
FROM observability.event JOIN observability.series ON series.id = series GROUP BY 1 ORDER BY 1
"""
BATCH = 20

Page = Callable[..., list[str]]


def hashes(conninfo: str) -> Mapping[str, object]:
    """Return the number of rows and a hash of every table."""
    with psycopg.connect(conninfo) as connection:
        names = connection.execute(TABLES).fetchall()
        assert ("observability", "series") in names
        return {
            ".".join(name): connection.execute(sql.SQL(HASH).format(table=sql.Identifier(*name))).fetchone()
            for name in names
        }


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory in memory, if there is room, that the account of the server may enter."""
    with tempfile.TemporaryDirectory(prefix="tiercel-test-", dir=memory_directory()) as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def page(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Page:
    """Run the commands of a section of the page, and compare what they print with what it shows.

    ``page("Verify", environment, {"/var": "/tmp"})`` replaces texts; the output is returned.
    """
    run = make_runner("", folder, monkeypatch, capsys)
    monkeypatch.delenv("TIERCEL_DATABASE_URL")

    def run_section(title: str, variables: Mapping[str, str], number: int = 0, **replaced: str) -> list[str]:
        (section,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
        blocks = re.findall(r"^```sh\n(.*?)^```\n(?:```text\n(.*?)^```)?", section, re.MULTILINE | re.DOTALL)
        commands, shown = blocks[number]
        printed: list[str] = []
        for line in commands.splitlines():
            words = shlex.split(line)
            given = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
            words = [_replace(word, folder, replaced) for word in words[len(given) :]]
            given = {name: _replace(value, folder, replaced) for name, value in given.items()}
            if words[0] != "tiercel":
                subprocess.run(words, check=True)
                continue
            with monkeypatch.context() as patched:
                for name, value in {**variables, **given}.items():
                    patched.setenv(name, value)
                ran: Ran = run(*words[1:])
            assert ran.code == 0, ran.errors
            printed += ran.output.splitlines()
        for expected, line in zip(shown.splitlines(), printed, strict=True) if shown else ():
            pattern = re.escape(_replace(expected, folder, replaced)).replace("…", ".*")
            assert re.fullmatch(pattern, line), line
        return printed

    return run_section


def _replace(text: str, folder: Path, replaced: Mapping[str, str]) -> str:
    for old, new in {"/var/backups": str(folder), "/srv": str(folder), **replaced}.items():
        text = text.replace(old, new)
    return text


@contextmanager
def writing(client: Client) -> Iterator[list[int]]:
    """Send one batch after the other until the block ends; yield the numbers of those that are confirmed."""
    confirmed: list[int] = []
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            send(client, len(confirmed))
            confirmed.append(len(confirmed))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert eventually(lambda: len(confirmed) > 2)
        yield confirmed
    finally:
        stop.set()
        thread.join()


def send(client: Client, number: int) -> None:
    result = client.post("/api/requests/ingest/", make_events(BATCH, service=f"batch-{number}"))
    assert result.status == 200, result.json()


@contextmanager
def service(home: Path, options: Mapping[str, str]) -> Iterator[tuple[EmbeddedServer, Client]]:
    """Run a service in this process, on the embedded server of a home."""
    with EmbeddedServer(home, options=options) as server:
        log = {"level": "error", "requests": False}
        own = {"log_own_requests": False}
        with running(make_configuration(db={"url": server.conninfo}, log=log, observability=own)) as client:
            yield server, client


@pytest.mark.process
@pytest.mark.slow
def test_the_page(initialised: Path, folder: Path, page: Page, empty_database: str) -> None:
    home = copy_home(initialised, folder)
    variables = {"TIERCEL_HOME": str(home), "TIERCEL_DB__EMBEDDED_OPTIONS": msgspec.json.encode(FAST).decode()}

    # While the service writes, an incremental backup of everything that was confirmed before it, and no half batch.
    with service(home, FAST) as (server, client), writing(client) as confirmed:
        before = len(confirmed)
        page("Back up", variables)
        after = len(confirmed)
        assert after > before
    page("Verify", variables)
    tried = folder / "tiercel-tried"
    page("Restore", {**variables, "TIERCEL_HOME": str(tried)})
    with EmbeddedServer(tried, options=FAST) as server:
        restored = hashes(server.conninfo)
        with psycopg.connect(server.conninfo) as connection:
            batches = connection.execute(BATCHES).fetchall()
    assert batches == [(number, BATCH, BATCH * len(batches)) for number in range(len(batches))]
    assert before <= len(batches) <= after + 1
    last = msgspec.json.decode((home / "last_backup.json").read_bytes())
    assert last["kind"] == "incremental"
    assert Path(last["directory"]).parent == folder / "tiercel"
    modes = {path.lstat().st_mode & 0o077 for path in (folder / "tiercel").rglob("*")}
    assert modes == {0}

    # In the place of other data, which are kept.
    *_, kept = page("Restore", variables, 1)
    assert (Path(kept.removeprefix("The former data is in ").partition(";")[0]) / "PG_VERSION").exists()
    with EmbeddedServer(home, options=FAST) as server:
        assert hashes(server.conninfo) == restored

    # To a point in time before a mistake.
    toml = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[0]
    archiving = FAST | tomllib.loads(toml.replace("/var/backups", str(folder)))["db"]["embedded_options"]
    variables["TIERCEL_DB__EMBEDDED_OPTIONS"] = msgspec.json.encode(archiving).decode()
    page("To a point in time", variables)
    shutil.rmtree(folder / "tiercel")
    with service(home, archiving) as (server, client):
        page("Back up", variables)
        send(client, 1_000)
        wanted = hashes(server.conninfo)
        with psycopg.connect(server.conninfo, autocommit=True) as connection:
            ((time,),) = connection.execute("SELECT now()")
            connection.execute("DELETE FROM observability.event")
            connection.execute("DROP SCHEMA club CASCADE")
    page("To a point in time", variables, 1, **{"2026-11-29 10:31": time.isoformat()})
    with EmbeddedServer(home, options=archiving) as server:
        assert hashes(server.conninfo) == wanted
        with psycopg.connect(server.superuser_conninfo) as connection:
            ((timeline,),) = connection.execute("SELECT timeline_id FROM pg_control_checkpoint()")
    assert timeline > 1

    # To a server of one's own.
    page("From one server to another", variables, **{"postgresql://tiercel@db.example/tiercel": empty_database})
    assert hashes(empty_database) == wanted
