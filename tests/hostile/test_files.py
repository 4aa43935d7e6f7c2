"""Homes with hostile names, and files and links that others place where the service is going to write."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from kernel.datasets.published_files import write_json
from kernel.embedded.server import EmbeddedServer
from kernel.errors import BootError
from kernel.files import open_log, open_own, replace_file
from kernel.logging import LogFile
from tests.conftest import FAST
from tests.processes import TIERCEL, copy_home, postmaster, run_tiercel, serving

SPECIAL = "a 'b\"c\\\\d\\e$HOME`f;g*h é%s&|<>(){}[]~!#^@=+-: 'x' -D"
ANOTHER = 12345
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


def make_server(home: Path) -> EmbeddedServer:
    return EmbeddedServer(home, options=FAST)


def ask(server: EmbeddedServer, query: str) -> object:
    with psycopg.connect(server.conninfo, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


# --- names of homes -------------------------------------------------------------------------------------------------


@pytest.mark.process
def test_a_home_with_special_characters_works(initialised: Path, tmp_path: Path) -> None:
    home = copy_home(initialised, tmp_path).rename(tmp_path / SPECIAL)

    with serving(home, (TIERCEL, "serve"), TIERCEL_OBSERVABILITY__LOG_OWN_REQUESTS="false") as service:
        assert service.is_ready()
        assert postmaster(home) is not None
        assert service.stop() == 0
    assert postmaster(home) is None


@pytest.mark.process
def test_a_cluster_can_be_initialised_in_a_home_with_special_characters(tmp_path: Path) -> None:
    with make_server(tmp_path / f"{SPECIAL},") as server:
        assert ask(server, "SELECT 1") == 1


@pytest.mark.process
def test_a_home_that_postgresql_cannot_be_in_is_refused_with_the_reason(tmp_path: Path) -> None:
    for name, problem in {
        "two\nlines": "contains '\\n'",
        "a\tb": "contains '\\t'",
        "d/" * 500: "up to 800 bytes",
    }.items():
        with pytest.raises(BootError, match=r"^TIERCEL_HOME: ") as raised:
            make_server(tmp_path / name)
        assert problem in str(raised.value)

    ran = run_tiercel(tmp_path / "two\nlines", "serve")
    assert ran.returncode == 1
    assert ran.stderr.startswith("tiercel: TIERCEL_HOME: ")
    assert ran.stderr.count("\n") == 1


# --- what others placed ---------------------------------------------------------------------------------------------


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that must stay as it is."""
    path = tmp_path / "victim"
    path.write_text("precious")
    return path


@pytest.mark.parametrize("name", ["postgres.start.lock", "postgres.users.lock"])
def test_a_link_in_place_of_a_lock_is_refused(tmp_path: Path, victim: Path, name: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / name).symlink_to(victim)

    with pytest.raises(BootError, match="is a symbolic link, which is not followed here"):
        make_server(home).acquire()

    assert victim.read_text() == "precious"


@needs_root
def test_a_lock_that_another_user_could_hold_forever_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "postgres.start.lock").touch()
    os.chown(home / "postgres.start.lock", ANOTHER, ANOTHER)

    with pytest.raises(BootError, match=f"belongs to another user .{ANOTHER}."):
        make_server(home).acquire()


@needs_root
@pytest.mark.parametrize("name", ["run", "postgres"])
def test_a_directory_of_another_user_is_refused(tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    (home / name).mkdir(parents=True)
    os.chown(home / name, ANOTHER, ANOTHER)

    with pytest.raises(BootError, match=f"{name}.* belongs to another user .{ANOTHER}."):
        make_server(home).acquire()

    assert (home / name).stat().st_uid == ANOTHER


@needs_root
def test_a_directory_for_sockets_in_the_temporary_one_must_not_be_made_by_another_user(
    tmp_path: Path,
) -> None:
    server = make_server(tmp_path / ("d" * 120))
    sockets = Path(str(conninfo_to_dict(server.conninfo)["host"]))
    assert not sockets.exists()
    sockets.mkdir()
    for owner, mode in ((ANOTHER, 0o700), (0, 0o777)):
        os.chown(sockets, owner, 0)
        sockets.chmod(mode)
        with pytest.raises(BootError, match=r"belongs to another user|can be written to by others"):
            server.acquire()
    sockets.rmdir()


@pytest.mark.process
def test_links_that_the_account_of_the_database_made_do_not_let_it_write_as_root(
    initialised: Path, tmp_path: Path, victim: Path
) -> None:
    home = copy_home(initialised, tmp_path)
    data = home / "postgres"
    for name in ("tiercel.conf", ".tiercel.conf.part", "start.log"):
        (data / name).unlink(missing_ok=True)
        (data / name).symlink_to(victim)
    before = victim.stat()

    with make_server(home) as server:
        assert ask(server, "SELECT 1") == 1

    assert victim.read_text() == "precious"
    assert (victim.stat().st_uid, victim.stat().st_mode) == (before.st_uid, before.st_mode)
    main = (data / "postgresql.conf").rename(tmp_path / "postgresql.conf")
    (data / "postgresql.conf").symlink_to(main)
    with pytest.raises(BootError, match=r"postgresql\.conf"):
        make_server(home).acquire()


def append_to_log(path: Path) -> None:
    LogFile(path, 1000, 1).ensure_writable()


@needs_root
@pytest.mark.parametrize(
    "write",
    [
        append_to_log,
        lambda path: os.close(open_log(path, 0o600)),
        lambda path: os.close(open_own(path, os.O_RDWR | os.O_CREAT)),
    ],
)
def test_a_link_of_another_user_is_not_followed(tmp_path: Path, victim: Path, write: Callable[[Path], object]) -> None:
    link = tmp_path / "link"
    link.symlink_to(victim)
    os.chown(link, ANOTHER, ANOTHER, follow_symlinks=False)

    with pytest.raises(OSError, match="is a symbolic link"):
        write(link)

    assert victim.read_text() == "precious"


def test_a_log_may_be_a_device_or_a_link_of_this_user(tmp_path: Path, victim: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(victim)

    append_to_log(link)
    append_to_log(Path("/dev/null"))


def test_no_link_is_followed_when_a_full_log_file_is_renamed(tmp_path: Path, victim: Path) -> None:
    path = tmp_path / "tiercel.log"
    path.with_name("tiercel.log.lock").symlink_to(victim)
    log = LogFile(path, 10, 1)
    log.write(b"0123456789\n")
    log.write(b"more\n")

    assert victim.read_text() == "precious"
    # It could not be locked, so it grew.
    assert path.read_text() == "0123456789\nmore\n"


def test_a_file_is_replaced_whatever_stands_in_its_place(tmp_path: Path, victim: Path) -> None:
    path = tmp_path / "items.json"
    path.symlink_to(victim)
    path.with_name(".items.json.part").symlink_to(victim)

    write_json(path, [1])

    assert victim.read_text() == "precious"
    assert path.read_text() == "[\n  1\n]\n"
    assert not path.is_symlink()
    assert [each.name for each in tmp_path.iterdir() if each.suffix == ".part"] == []


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(OSError, match="is not a regular file"):
        open_own(tmp_path / "pipe", os.O_RDWR)


def test_a_new_file_has_the_mode_and_no_other(tmp_path: Path) -> None:
    replace_file(tmp_path / "secret", b"content", 0o600)

    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
