"""Backups: what ``docs/operations/backup.md`` says, done while the service writes; and what may go wrong."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from kernel.backup import archive, programs
from kernel.backup.programs import find_programs
from kernel.backup.restore import restore_embedded
from kernel.embedded.server import EmbeddedServer
from kernel.errors import BootError
from kernel.testing import Client, create_database, drop_database, make_configuration, running
from tests.commands import Ran, RunCommand, make_runner
from tests.conftest import FAST, memory_directory
from tests.contract.tree import DOCS
from tests.plugins.accounts.factories import create_account, create_key, with_key
from tests.plugins.observability.engines import TIMESCALE_URL, oldest_postgresql
from tests.plugins.observability.events import make_event, make_events
from tests.processes import TIERCEL, copy_home, eventually, make_environment

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
QUIET: dict[str, Any] = {
    "log": {"level": "error", "requests": False},
    "observability": {"log_own_requests": False},
}

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
            # How wide a column is depends on what is in it.
            pattern = re.escape(" ".join(_replace(expected, folder, replaced).split())).replace("…", ".*")
            assert re.fullmatch(pattern, " ".join(line.split())), line
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
    with (
        EmbeddedServer(home, options=options) as server,
        running(make_configuration(db={"url": server.conninfo}, **QUIET)) as client,
    ):
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
    backups = archive.BackupDirectory(folder / "tiercel")
    with EmbeddedServer(home, options=FAST) as server:
        assert hashes(server.conninfo) == restored
        # The same positions of the log hold something else now.
        assert backups.find_parent(server.lineage()) is None

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
            with pytest.raises(BootError, match="is in use: stop the service first"):
                restore_newest(server, backups, folder / "tiercel-wal", None)
    server = EmbeddedServer(home, options=archiving)
    for wal, until, reason in (
        (None, None, "pass --wal DIRECTORY"),
        (folder / "tiercel-wal", time + timedelta(days=1), "recovery ended before configured recovery target"),
    ):
        with pytest.raises(BootError, match=reason):
            restore_newest(server, backups, wal, until)
        assert not (home / "postgres.new").exists()
    page("To a point in time", variables, 1, **{"2026-11-29 10:31": time.isoformat()})
    with EmbeddedServer(home, options=archiving) as server:
        assert hashes(server.conninfo) == wanted
        with psycopg.connect(server.superuser_conninfo) as connection:
            ((timeline,),) = connection.execute("SELECT timeline_id FROM pg_control_checkpoint()")
    assert timeline > 1

    # To a server of one's own.
    page("From one server to another", variables, **{"postgresql://tiercel@db.example/tiercel": empty_database})
    assert hashes(empty_database) == wanted


def restore_newest(
    server: EmbeddedServer, backups: archive.BackupDirectory, wal: Path | None, until: datetime | None
) -> None:
    newest = backups.list()[-1]
    restore_embedded(server, backups, newest, replace=True, wal=wal, until=until, progress=lambda _: None)


# --- dumps ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiercel(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunCommand:
    """Run commands in this process, on a migrated database of a server that is not embedded."""
    return make_runner(database, tmp_path, monkeypatch, capsys)


@pytest.fixture
def dumped(tiercel: RunCommand, tmp_path: Path) -> Path:
    """A backup of that database."""
    ran = tiercel("backup", "--json", "backups")
    assert ran.code == 0, ran.errors
    path = Path(ran.json()["directory"])
    assert path.parent == tmp_path / "backups"
    return path


# In which order statements of a restore ended.
RECORD = """
CREATE TABLE public.statement (number bigserial, text text);
CREATE FUNCTION public.record() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS
    $$ BEGIN INSERT INTO public.statement (text) VALUES (current_query()); END $$;
CREATE EVENT TRIGGER record ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION public.record();
"""
LAST_KEY_AND_FIRST_SECURITY = """
SELECT max(number) FILTER (WHERE text LIKE '%FOREIGN KEY%'), min(number) FILTER (WHERE text LIKE '%ENABLE ROW LEVEL%')
FROM public.statement
"""


def test_a_dump_has_the_rows_of_every_account(tiercel: RunCommand, database: str, empty_database: str) -> None:
    configuration = make_configuration(auth="required", db={"url": database}, **QUIET)
    with running(configuration) as client:
        for account in (0, create_account(client)):
            key = with_key(create_key(client, "ingest", account=account))
            assert client.post("/api/requests/ingest/", [make_event()], headers=key).status == 200
    with psycopg.connect(database) as connection:
        connection.execute("GRANT USAGE ON SCHEMA tiercel TO pg_monitor")

    with psycopg.connect(make_conninfo(empty_database, user="postgres")) as connection:
        connection.execute(RECORD)

    made = tiercel("backup", "backups", "--jobs", "2")
    restored = tiercel("restore", "backups", "--jobs", "4", TIERCEL_DATABASE_URL=empty_database)

    assert (made.code, restored.code) == (0, 0), made.errors + restored.errors
    # A foreign key sees no rows of a table that has its row security already, and not its policies.
    with psycopg.connect(make_conninfo(empty_database, user="postgres")) as connection:
        ((last_key, first_security),) = connection.execute(LAST_KEY_AND_FIRST_SECURITY)
        connection.execute("DROP EVENT TRIGGER record")
        connection.execute("DROP TABLE public.statement")
    assert last_key < first_security
    assert {path.lstat().st_mode & 0o077 for path in Path("backups").rglob("*")} == {0}
    after = hashes(empty_database)
    assert after == hashes(database)
    # Of two accounts, and none by the policies' leave.
    assert after["observability.series"][0] == 2  # type: ignore[index] # a table that is there
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT relforcerowsecurity FROM pg_class WHERE relname = 'api_key'").fetchone() == (
            True,
        )
        assert connection.execute("SELECT has_schema_privilege('pg_monitor', 'tiercel', 'USAGE')").fetchone() == (True,)
    again = tiercel("restore", "backups")
    assert again.code == 1
    assert "the database has tables of the service already" in again.errors


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunCommand:
    """Run commands in this process, on no database yet."""
    return make_runner("", folder, monkeypatch, capsys)


def restored_to_another_database(url: str, run: RunCommand) -> Mapping[str, object]:
    """Back up a database of a server with some events and restore it to another one; return what is in both."""
    source, target = (
        create_database(url, f"backup_{os.getpid()}_{name}", "template0") for name in ("source", "target")
    )
    with running(make_configuration(db={"url": source}, **QUIET)) as client:
        send(client, 0)
    for command, database in (("backup", source), ("restore", target)):
        ran = run(command, "backups", TIERCEL_DATABASE_URL=database)
        assert ran.code == 0, ran.errors
    wanted, found = ({**hashes(each)} for each in (source, target))
    if url == TIMESCALE_URL:
        # Its scheduler refreshes rollups, which empties this, as soon as the target is restored.
        del wanted["observability.rollup_touched"], found["observability.rollup_touched"]
    assert found == wanted
    for conninfo in (source, target):
        drop_database(url, str(conninfo_to_dict(conninfo)["dbname"]))
    return wanted


@pytest.mark.process
@pytest.mark.slow
def test_a_dump_of_an_earlier_postgresql_is_restored_to_it_and_to_the_embedded_server(
    folder: Path, run: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    with oldest_postgresql() as url:
        wanted = restored_to_another_database(url, run)
    monkeypatch.delenv("TIERCEL_DATABASE_URL")
    # As after a release with another version of PostgreSQL.
    data = folder / ".tiercel" / "postgres"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("15\n")
    given = ("--replace", "--json", "backups")
    ran = run("restore", *given, TIERCEL_DB__EMBEDDED_OPTIONS=msgspec.json.encode(FAST).decode())
    assert ran.code == 0, ran.errors
    kept = Path(ran.json()["kept"])
    assert kept.name.startswith("postgres-15-")
    assert (kept / "PG_VERSION").read_text() == "15\n"
    with EmbeddedServer(folder / ".tiercel", options=FAST) as server:
        assert hashes(server.conninfo) == wanted


if TIMESCALE_URL:

    def test_a_dump_of_timescaledb_has_its_chunks(run: RunCommand) -> None:
        assert TIMESCALE_URL
        wanted = restored_to_another_database(TIMESCALE_URL, run)

        assert wanted["observability.event"][0] == BATCH  # type: ignore[index] # a table that is there


def test_a_restore_that_failed_leaves_nothing_that_a_service_starts_with(
    tiercel: RunCommand, database: str, empty_database: str
) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE public.last (name text)")
        connection.execute("CREATE INDEX last_name ON public.last (name)")
    assert tiercel("backup", "backups").code == 0
    with psycopg.connect(empty_database) as connection:
        # Found when every row has been restored.
        connection.execute("CREATE TABLE public.last_name ()")

    ran = tiercel("restore", "backups", TIERCEL_DATABASE_URL=empty_database)

    assert ran.code == 1
    assert ran.errors.startswith("tiercel: pg_restore: error: ")
    assert 'relation "last_name" already exists' in ran.errors
    assert tiercel("migrate").code == 1


@pytest.mark.parametrize(
    ("server", "made_by", "fits"),
    [(15, 0, "15"), (16, 0, "16"), (17, 0, "18"), (18, 0, "18"), (18, 15, "18"), (15, 15, "15"), (15, 16, "16")],
)
def test_programs_are_of_the_version_of_the_server_or_the_next_that_it_understands(
    monkeypatch: pytest.MonkeyPatch, server: int, made_by: int, fits: str
) -> None:
    monkeypatch.setattr(programs, "_installed_programs", lambda _: [(int(n), Path(n)) for n in ("18", "15", "16")])

    assert find_programs("pg_restore", server, made_by) == Path(fits)


@pytest.mark.parametrize(
    ("server", "made_by", "reason"),
    [
        (
            19,
            0,
            "the server is PostgreSQL 19, which needs pg_dump 19 or later; there is 18: install postgresql-client-19",
        ),
        (15, 0, "the server is PostgreSQL 15, which needs pg_dump 15; there is 18: install postgresql-client-15"),
        (15, 18, "pg_dump 18 made the dump, and servers before PostgreSQL 17 cannot read it: this one is 15"),
    ],
)
def test_programs_that_do_not_fit_are_named(
    monkeypatch: pytest.MonkeyPatch, server: int, made_by: int, reason: str
) -> None:
    monkeypatch.setattr(programs, "_installed_programs", lambda _: [(18, Path("18"))])

    with pytest.raises(BootError, match=re.escape(reason)):
        find_programs("pg_dump", server, made_by)


# --- what may go wrong ------------------------------------------------------------------------------------------------


@pytest.mark.process
def test_what_a_killed_backup_leaves_is_no_backup_and_is_removed_by_the_next(
    tiercel: RunCommand, database: str, tmp_path: Path
) -> None:
    backups = tmp_path / "backups"
    with psycopg.connect(database) as connection:
        # pg_dump waits for it.
        connection.execute("LOCK TABLE observability.mark")
        command = [TIERCEL, "backup", "backups"]
        environment = make_environment(tmp_path / ".tiercel", TIERCEL_DATABASE_URL=database)
        process = subprocess.Popen(command, cwd=tmp_path, env=environment)
        assert eventually(lambda: bool(list(backups.glob(".*.part/dump"))), 60)
        process.kill()
        process.wait()

        assert "there is no backup in" in tiercel("restore", "backups").errors
        # pg_dump goes on.
        assert "another backup is being made in" in tiercel("backup", "backups").errors
    assert eventually(lambda: tiercel("backup", "backups").code == 0, 60)

    (made,) = archive.BackupDirectory(backups).list()
    assert sorted(path.name for path in backups.iterdir()) == [".lock", made.path.name]


@contextmanager
def backup_held_up(home: Path, server: EmbeddedServer, backups: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a backup of the embedded server of a home, which waits for its checkpoint until the block ends."""
    with psycopg.connect(server.superuser_conninfo, autocommit=True) as connection:
        ((checkpointer,),) = connection.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
        os.kill(checkpointer, signal.SIGSTOP)
        try:
            command = [TIERCEL, "backup", str(backups)]
            environment = make_environment(home)
            process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
            waiting = "SELECT FROM pg_stat_progress_basebackup WHERE phase = 'waiting for checkpoint to finish'"
            assert eventually(lambda: connection.execute(waiting).fetchone() is not None, 60)
            yield process
        finally:
            os.kill(checkpointer, signal.SIGCONT)


@pytest.mark.process
def test_a_copy_of_files_that_is_killed_is_no_backup_and_is_removed_by_the_next(
    initialised: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, backups = copy_home(initialised, folder), folder / "backups"
    tiercel = make_runner("", folder, monkeypatch, capsys)
    monkeypatch.delenv("TIERCEL_DATABASE_URL")
    monkeypatch.setenv("TIERCEL_HOME", str(home))
    with service(home, FAST) as (server, client):
        with backup_held_up(home, server, backups) as process:
            process.kill()
            process.communicate()
            assert "there is no backup in" in tiercel("backup", "verify", str(backups)).errors
            # pg_basebackup goes on.
            assert "another backup is being made in" in tiercel("backup", str(backups)).errors
        assert eventually(lambda: tiercel("backup", str(backups)).code == 0, 60)

        # One that the server ends has words, and leaves nothing.
        with backup_held_up(home, server, backups) as process:
            with psycopg.connect(server.superuser_conninfo) as connection:
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_progress_basebackup")
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "terminating connection due to administrator command" in errors
        send(client, 0)

    (made,) = archive.BackupDirectory(backups).list()
    assert sorted(path.name for path in backups.iterdir()) == [".lock", made.path.name]
    assert tiercel("backup", "verify", str(backups)).code == 0


def test_a_full_disk_has_words_and_leaves_nothing(tiercel: RunCommand, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], check=True)
    try:
        ran = tiercel("backup", "small")

        assert ran.code == 1
        assert "No space left on device" in ran.errors
        assert [path.name for path in small.iterdir()] == [".lock"]
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)


def test_only_as_many_backups_are_kept_as_wanted_and_those_that_they_build_upon(tmp_path: Path) -> None:
    backups = archive.BackupDirectory(tmp_path)
    names: list[str] = []
    chains: list[tuple[archive.Kind, int | None]]
    chains = [("base", None), ("base", None), ("incremental", 1), ("incremental", 2), ("dump", None)]
    with backups.lock():
        for kind, parent in chains:
            with backups.unfinished(kind) as part:
                made = backups.publish(part, make_manifest(kind, None if parent is None else names[parent]))
            names.append(made.path.name)

    removed = backups.keep(2)

    assert [each.path.name for each in removed] == names[:1]
    assert [path.name for path in backups.paths()] == names[1:]
    (tmp_path / names[2] / archive.MANIFEST).unlink()
    with pytest.raises(BootError, match="is no backup"):
        backups.keep(1)
    assert [path.name for path in backups.paths()] == names[1:]


def test_names_are_in_the_order_of_backups_however_fast_they_are_made_and_whatever_the_clock(tmp_path: Path) -> None:
    # Made while the clock was wrong.
    (tmp_path / "29991231T235959.999Z-incremental").mkdir()
    backups = archive.BackupDirectory(tmp_path)
    names = ["29991231T235959.999Z-incremental"]
    with backups.lock():
        for _ in range(20):
            with backups.unfinished("base") as part:
                names.append(backups.publish(part, make_manifest("base", None)).path.name)

    assert [path.name for path in backups.paths()] == names
    assert names[1] == "30000101T000000.000Z-base"


def make_manifest(kind: archive.Kind, parent: str | None) -> archive.Manifest:
    now = datetime.now(UTC)
    return archive.Manifest(
        kind=kind,
        started_at=now,
        finished_at=now,
        tiercel="0",
        postgresql="18.6",
        program="18.6",
        migrations=(),
        parent=parent,
        size_bytes=0,
        digests={},
    )


def change(backup: Path, **fields: Any) -> None:
    manifest = msgspec.json.decode((backup / archive.MANIFEST).read_bytes())
    (backup / archive.MANIFEST).write_bytes(msgspec.json.encode({**manifest, **fields}))


def test_what_is_damaged_is_named_and_not_restored(
    tiercel: RunCommand, dumped: Path, database: str, empty_database: str
) -> None:
    contents = dumped / "dump" / "toc.dat"
    right = contents.read_bytes()
    assert tiercel("backup", "verify", "backups").output == f"[ok] {dumped}\n"
    contents.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))

    problem = f"{dumped} is damaged: dump/toc.dat was changed"
    for directory in ("backups", str(dumped)):
        verified = tiercel("backup", "verify", directory)
        assert (verified.code, verified.output) == (1, f"[PROBLEM] {problem}\n")
    refused = tiercel("restore", "backups", TIERCEL_DATABASE_URL=empty_database)
    assert (refused.code, refused.errors) == (1, f"tiercel: {problem}\n")
    contents.unlink()
    assert "dump/toc.dat: No such file" in tiercel("backup", "verify", "backups").output
    (dumped / archive.MANIFEST).write_text("{")
    assert "is damaged: tiercel-backup.json: " in tiercel("backup", "verify", "backups").output
    # It is no reason not to make another.
    assert tiercel("backup", "backups", TIERCEL_DATABASE_URL=database).code == 0


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"format": 2, "kind": "stream"}, "was made by a later version of Tiercel: restore it with that"),
        (
            {"tiercel": "9.0", "migrations": ["kernel/0001_datasets", "kernel/9000_new", "absent/0001_any"]},
            "was made by a later version of Tiercel (9.0), which this one does not know the migrations of:"
            " kernel/9000_new; restore it with that version",
        ),
        ({"kind": "base"}, "has the files of an embedded server, and db.url names another"),
        ({"parent": "../../etc"}, "is damaged: tiercel-backup.json: Expected `str` matching regex"),
    ],
)
def test_what_cannot_be_restored_here_says_so(
    tiercel: RunCommand, dumped: Path, fields: dict[str, Any], reason: str
) -> None:
    change(dumped, **fields)

    ran = tiercel("restore", "backups")

    assert ran.code == 1
    assert reason in ran.errors
