"""What processes leave behind that are killed, or that cannot start: nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from kernel.errors import BootError
from kernel.server.addresses import ensure_addresses_free
from tests.faults.database import ask
from tests.processes import (
    GUNICORN,
    ROOT,
    TIERCEL,
    Service,
    copy_home,
    eventually,
    free_port,
    make_environment,
    postmaster,
    run_tiercel,
    serving,
    slowdown,
)

pytestmark = pytest.mark.process
VARIABLES = {"TIERCEL_JOBS__GRACEFUL_TIMEOUT_S": "1", "TIERCEL_OBSERVABILITY__LOG_OWN_REQUESTS": "false"}
JOB_WORKERS = "SELECT count(*) FROM tiercel.job_worker WHERE heartbeat_at > now() - interval '7 s'"
# Without the check, gunicorn retries for five seconds after the database was started. Starting Python takes one or two.
REFUSAL_S = 6.0


@pytest.fixture
def home(initialised: Path, tmp_path: Path) -> Path:
    return copy_home(initialised, tmp_path)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def kill_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def tree(service: Service) -> list[psutil.Process]:
    main = psutil.Process(service.process.pid)
    return [main, *main.children(recursive=True)]


def supervisor(service: Service) -> psutil.Process:
    """The child whose children run jobs: gunicorn's workers have none."""
    return next(process for process in service.workers() if process.children())


# --- killed ---------------------------------------------------------------------------------------------------------


def test_kill_9_of_everything_leaves_nothing_and_what_dies_alone_is_replaced(home: Path) -> None:
    with serving(home, (TIERCEL, "up"), **VARIABLES) as service:
        assert eventually(lambda: ask(home, JOB_WORKERS) == 2)
        killed = supervisor(service)
        jobs = killed.children()
        killed.kill()
        # Its children notice, and end; the new one starts others.
        assert eventually(lambda: not any(process.is_running() for process in jobs), 20)
        assert eventually(lambda: any(process.children() for process in service.workers()), 20), service.errors
        replaced = supervisor(service)
        assert replaced != killed
        assert "supervisor of jobs" in service.errors
        assert eventually(lambda: len(replaced.children()) == 2)
        (worker, _) = replaced.children()
        worker.kill()
        assert eventually(lambda: len(replaced.children()) == 2 and worker not in replaced.children())
        assert service.is_ready()

        everything = tree(service)
        kill_all(everything)

        assert not any(process.is_running() for process in everything)
        assert eventually(lambda: postmaster(home) is None)
        assert eventually(lambda: not (home / "run").exists())


def test_services_that_share_a_database_keep_it_until_the_last_was_killed(home: Path) -> None:
    with serving(home, **VARIABLES) as first, serving(home, **VARIABLES) as second:
        running = postmaster(home)
        kill_all(tree(first))
        time.sleep(1)  # the guardian looks twice a second
        assert postmaster(home) == running is not None

        guardian = running.parent()
        assert guardian is not None
        guardian.kill()
        # The service that is left starts both again.
        assert eventually(lambda: postmaster(home) not in (None, running) and second.is_ready(), 30), second.errors

        again = postmaster(home)
        assert again is not None
        new_guardian = again.parent()
        assert new_guardian is not None
        kill_all([*tree(second), new_guardian])
        assert eventually(lambda: postmaster(home) is None)


# --- refused to start -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [(TIERCEL, "serve"), (GUNICORN, "-c", str(ROOT / "config" / "gunicorn.conf.py"))])
def test_a_port_in_use_is_reported_before_the_database_starts(
    tmp_path: Path, listener: socket.socket, command: tuple[str, ...]
) -> None:
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    started = time.monotonic()
    ran = subprocess.run(
        command,
        cwd=tmp_path,
        env=make_environment(tmp_path / "home", TIERCEL_BIND=address),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    # All of it is the start of a process.
    assert time.monotonic() - started < REFUSAL_S * slowdown()
    assert ran.returncode == 1
    assert f"tiercel: {address} is in use by process {os.getpid()} (" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "home").exists()


def test_addresses_that_nobody_can_listen_on_are_named(tmp_path: Path, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    local = tmp_path / "used"
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as used:
        used.bind(str(local))
        used.listen()
        expected = {
            f"127.0.0.1:{free_port()},127.0.0.1:{port}": f"127.0.0.1:{port} is in use by process {os.getpid()} ",
            "192.0.2.1:8000": "cannot listen on 192.0.2.1:8000: no interface of this machine",
            "no-such-host.invalid:8000": "cannot listen on no-such-host.invalid:8000: ",
            f"unix:{local}": "is in use by another process",
            f"unix:{tmp_path}/file": "it exists, and is not a socket",
            f"unix:{tmp_path}/none/socket": f"there is no directory {tmp_path}/none",
        }
        for bind, message in expected.items():
            with pytest.raises(BootError, match=message.replace("(", r"\(")):
                ensure_addresses_free(bind)
    # What a killed service left there is replaced.
    ensure_addresses_free(f"unix:{local}")
    ensure_addresses_free(f"[::1]:0, 127.0.0.1:{free_port()}")


def test_a_local_socket_is_for_the_user_and_the_group_only(home: Path) -> None:
    path = home.parent / "service.sock"
    service = Service(home, (TIERCEL, "serve", "--bind", f"unix:{path}"), **VARIABLES)
    try:
        assert eventually(lambda: path.exists() or service.process.poll() is not None, 30), service.errors
        assert path.stat().st_mode & 0o777 == 0o660
        second = run_tiercel(home, "serve", "--bind", f"unix:{path}")
        assert second.stderr == f"tiercel: unix:{path} is in use by another process; stop it, or set TIERCEL_BIND\n"
    finally:
        assert service.stop() == 0
    assert not path.exists()
