"""The embedded PostgreSQL: start, stop with the last user, crashes, accounts and paths."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from kernel.embedded.server import EmbeddedServer
from kernel.errors import BootError
from tests.conftest import FAST
from tests.processes import copy_home, eventually, postmaster, python_as, python_environment

pytestmark = pytest.mark.process

# Uses a server until standard input ends.
HOLD = """
import sys
from pathlib import Path
from kernel.embedded.server import EmbeddedServer
with EmbeddedServer(Path(sys.argv[1])):
    print("running", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def new_home(tmp_path: Path) -> Iterator[Path]:
    """A home that does not exist yet. A server that a test leaves running in it is stopped."""
    path = tmp_path / ".tiercel"
    yield path
    if postmaster(path) is not None:
        with make_server(path):
            pass
    assert postmaster(path) is None


@pytest.fixture
def home(new_home: Path, initialised: Path) -> Path:
    """A home with an initialised cluster."""
    return copy_home(initialised, new_home.parent)


def make_server(home: Path, **options: str) -> EmbeddedServer:
    return EmbeddedServer(home, options={**FAST, **options})


def hold(home: Path, python: tuple[str, ...] = (sys.executable,)) -> subprocess.Popen[str]:
    """Start a process that uses the server of a home, and wait until it does."""
    process = subprocess.Popen(
        [*python, "-c", HOLD, str(home)],
        cwd="/",
        env=python_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def ask(server: EmbeddedServer, query: str) -> object:
    with psycopg.connect(server.conninfo, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


def read_log(home: Path) -> str:
    return "".join(path.read_text() for path in (home / "postgres" / "log").iterdir())


def modes(directory: Path) -> dict[Path, int]:
    return {path: path.stat().st_mode for path in directory.parents}


def test_a_new_server_answers_and_is_stopped_afterwards(new_home: Path) -> None:
    with make_server(new_home) as server:
        assert ask(server, "SELECT 1") == 1

    assert postmaster(new_home) is None


def test_the_role_of_the_service_is_not_a_superuser(home: Path) -> None:
    with make_server(home) as server:
        assert ask(server, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False


def test_two_users_share_one_server_and_the_last_stops_it(home: Path) -> None:
    first, second = make_server(home), make_server(home)
    first.acquire()
    second.acquire()

    first.release()
    assert ask(second, "SELECT 1") == 1
    second.release()

    assert postmaster(home) is None


def test_the_server_stops_after_kill_9_of_its_last_user(home: Path) -> None:
    first, second = hold(home), hold(home)
    running = postmaster(home)

    kill(first)
    time.sleep(1)
    assert postmaster(home) == running is not None
    kill(second)

    assert eventually(lambda: postmaster(home) is None)
    assert eventually(lambda: not (home / "run").exists())


def test_the_server_stops_after_kill_9_of_its_user_and_guardian(home: Path) -> None:
    owner = hold(home)
    running = postmaster(home)
    assert running is not None
    guardian = running.parent()
    assert guardian is not None
    assert "guardian.py" in str(guardian.cmdline())

    guardian.kill()
    kill(owner)

    assert eventually(lambda: postmaster(home) is None)
    assert "received fast shutdown request" in read_log(home)
    with make_server(home) as server:
        assert ask(server, "SELECT 1") == 1


def test_signals_for_a_service_do_not_end_the_guardian(home: Path) -> None:
    with make_server(home) as server:
        running = postmaster(home)
        assert running is not None
        guardian = running.parent()
        assert guardian is not None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            guardian.send_signal(number)
        time.sleep(0.5)

        assert ask(server, "SELECT 1") == 1
        assert postmaster(home) == running


def test_committed_data_survives_kill_9_of_server_and_user(home: Path) -> None:
    owner = hold(home)
    with make_server(home) as server, psycopg.connect(server.conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS number")
        killed = postmaster(home)
        assert killed is not None
        killed.send_signal(signal.SIGKILL)
        kill(owner)

        with make_server(home) as recovered:
            assert ask(recovered, "SELECT number FROM kept") == 42
            assert postmaster(home) != killed


@pytest.mark.parametrize("whose", ["the server's account", "ours"])
def test_a_stale_pid_file_with_the_pid_of_another_process_is_ignored(home: Path, whose: str) -> None:
    with make_server(home):
        pid_file = home / "postgres" / "postmaster.pid"
        content = pid_file.read_text()
    owner = (home / "postgres").stat()
    account = ["setpriv", f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", "--clear-groups", "--"]
    prefix = account if whose != "ours" and os.geteuid() == 0 else []
    other = subprocess.Popen([*prefix, "sleep", "60"])
    try:
        pid_file.write_text(str(other.pid) + content[content.index("\n") :])
        os.chown(pid_file, owner.st_uid, owner.st_gid)

        with make_server(home) as server:
            assert ask(server, "SELECT 1") == 1
    finally:
        other.kill()
        other.wait()


def test_the_leftovers_of_a_killed_initdb_are_replaced(new_home: Path) -> None:
    half_made = new_home / "postgres" / "new"
    (half_made / "base").mkdir(parents=True)
    (half_made / "PG_VERSION").write_text("18\n")

    with make_server(new_home) as server:
        assert ask(server, "SELECT 1") == 1


def test_a_home_under_a_private_directory_works_and_leaves_every_mode_alone(new_home: Path) -> None:
    private = new_home.parent / "private"
    private.mkdir(mode=0o700)
    deep = private / "some" / "home"
    deep.parent.mkdir()
    before = modes(deep)

    with make_server(deep) as server:
        assert ask(server, "SELECT 1") == 1

    assert modes(deep) == before


def test_a_plain_user_can_run_it() -> None:
    with tempfile.TemporaryDirectory(prefix="tiercel-plain-") as directory:
        home = Path(directory)
        owner = hold(home, tuple(python_as("nobody", home)))
        running = postmaster(home)
        assert running is not None
        assert running.uids().real == pwd.getpwnam("nobody").pw_uid

        owner.communicate()

        assert owner.returncode == 0
        assert postmaster(home) is None

        killed = hold(home, tuple(python_as("nobody", home)))
        again = postmaster(home)
        assert again is not None
        guardian = again.parent()
        assert guardian is not None
        guardian.kill()
        kill(killed)
        assert eventually(lambda: postmaster(home) is None)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("d" * 120, id="too long"),
        pytest.param("a,b", id="comma"),
        pytest.param(os.fsdecode(b"a\xffb"), id="not UTF-8"),
    ],
)
def test_a_path_that_clients_cannot_use_works_and_leaves_no_files_elsewhere(new_home: Path, name: str) -> None:
    with make_server(new_home / name) as server:
        sockets = Path(str(conninfo_to_dict(server.conninfo)["host"]))
        assert ask(server, "SELECT 1") == 1
        assert new_home not in sockets.parents

    assert not sockets.exists()


def test_data_of_another_version_is_rejected(home: Path) -> None:
    with make_server(home):
        pass
    (home / "postgres" / "PG_VERSION").write_text("12\n")

    with pytest.raises(BootError, match=r"was written by PostgreSQL 12, the installed one is 1[89]\."):
        make_server(home).acquire()


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"no_such_option": "1"}, "no_such_option"), ({"shared_buffers": "900TB"}, "shared_buffers")],
)
def test_an_invalid_option_fails_quickly_with_the_reason(home: Path, options: dict[str, str], reason: str) -> None:
    started = time.monotonic()

    with pytest.raises(BootError, match=reason):
        make_server(home, **options).acquire()

    assert time.monotonic() - started < 8


def test_a_failed_start_does_not_count_as_a_user(home: Path) -> None:
    failed = make_server(home, no_such_option="1")
    with pytest.raises(BootError):
        failed.acquire()

    with make_server(home):
        pass

    assert postmaster(home) is None


def test_a_home_that_cannot_be_created_is_named(new_home: Path) -> None:
    new_home.parent.joinpath("file").touch()

    with pytest.raises(BootError, match="file/home cannot hold the embedded PostgreSQL"):
        make_server(new_home.parent / "file" / "home").acquire()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make accounts")
def test_services_that_start_at_the_same_time_on_a_new_machine_make_one_account(tmp_path: Path) -> None:
    """Of two that make the same account at the same time, ``useradd`` lets the second one change its number."""
    accounts = tmp_path / "etc"
    shutil.copytree("/etc", accounts, symlinks=True)
    # One write a line: six processes share the pipe.
    find = (
        "import os; from kernel.embedded.privileges import unprivileged_runner; "
        "os.write(1, b'%a\\n' % (unprivileged_runner('newcomer', []).owner,))"
    )
    script = "\n".join(
        [
            "mount --make-rprivate /",
            f"mount --bind {accounts} /etc",
            *([f'{shlex.quote(sys.executable)} -c "{find}" &'] * 6),
            "wait",
            "id --user newcomer",
        ]
    )

    done = subprocess.run(["unshare", "--mount", "sh", "-euc", script], capture_output=True, text=True, check=True)

    *owners, number = done.stdout.splitlines()
    assert len(owners) == 6
    assert set(owners) == {owners[0]}
    assert owners[0].startswith(f"({number}, ")
