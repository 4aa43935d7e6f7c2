"""Real ``tiercel`` processes, each with its own home, working directory and port."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

ROOT = Path(__file__).parent.parent
# Of the processor: several of the pieces in which the system shares it out.
_SLOWDOWN_S = 0.05
TIERCEL = str(Path(sys.executable).with_name("tiercel"))
GUNICORN = str(Path(sys.executable).with_name("gunicorn"))
# httpx makes a context for each request that it is given none for, which takes twenty times as long as the request.
TLS = ssl.create_default_context()
START_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 60.0
# Variables that processes inherit. No other may influence them, settings of the project least of all.
_INHERITED = ("PATH", "LANG", "LC_ALL", "TMPDIR", "TZ")


def eventually(condition: Callable[[], bool], timeout_s: float = 15.0) -> bool:
    """Poll until a condition holds; return False if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def free_port() -> int:
    """Return a free TCP port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def slowdown() -> float:
    """Return how many times its processor time something takes now, because others use the processors as well.

    What takes too long by itself is told by this from what waits: alone on a machine, it is 1.
    """
    started, used = time.monotonic(), time.thread_time()
    while time.thread_time() - used < _SLOWDOWN_S:
        pass
    return max(1.0, (time.monotonic() - started) / _SLOWDOWN_S)


def send_until_answered(connection: socket.socket, piece: bytes, timeout_s: float) -> bytes:
    """Send a piece five times a second until the service answers; return the answer, empty if there is none in time."""
    connection.settimeout(0.2)
    deadline = time.monotonic() + timeout_s
    answer = b""
    while not answer and time.monotonic() < deadline:
        connection.sendall(piece)
        with suppress(TimeoutError):
            answer = connection.recv(4096)
    return answer


def find_program(name: str) -> str:
    """Return the path of a program: beside that of the service, of this machine, or of Debian where only root looks.

    A test is skipped where there is none, but in CI, which installs all of them, it fails.
    """
    path = os.pathsep.join([str(Path(TIERCEL).parent), os.environ.get("PATH", os.defpath), "/usr/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        assert not os.environ.get("CI"), f"{name} is not installed"
        pytest.skip(f"{name} is not installed")
    return found


def make_environment(home: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a process of this source tree with its own home."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {
        **inherited,
        "HOME": str(home.parent),
        "PYTHONPATH": str(ROOT),
        "TIERCEL_HOME": str(home),
        "TIERCEL_WORKERS": "1",
        **variables,
    }


def run_tiercel(
    home: Path, *arguments: str, command: Sequence[str] = (TIERCEL,), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process, in the directory above its home, and wait for it.

    Args:
        home: Directory of the data.
        arguments: Arguments of ``tiercel``.
        command: What is run with them; that of this source tree by default.
        variables: Further environment variables.
    """
    home.parent.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [*command, *arguments],
        cwd=home.parent,
        env=make_environment(home, **variables),
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )


def copy_home(home: Path, directory: Path) -> Path:
    """Copy a home into a directory, with the owners of its files, and return the copy."""
    subprocess.run(["cp", "-a", str(home), str(directory)], check=True)
    return directory / home.name


class Service:
    """A service in real processes, with a client.

    Args:
        home: Directory of the data; the directory above it is the working directory.
        command: The command; ``tiercel serve`` by default.
        host: Address to listen on.
        port: Port to listen on; a free one by default.
        variables: Further environment variables.
    """

    def __init__(
        self,
        home: Path,
        command: Sequence[str] = (TIERCEL, "serve"),
        *,
        host: str = "127.0.0.1",
        port: str = "",
        **variables: str,
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.port = int(port) if port else free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._output = home / f"{self.port}.out"
        self._errors = home / f"{self.port}.err"
        environment = make_environment(home, TIERCEL_BIND=f"{host}:{self.port}", **variables)
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command, cwd=home.parent, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
            )

    @property
    def output(self) -> str:
        """Standard output so far."""
        return self._output.read_text(encoding="utf-8")

    @property
    def errors(self) -> str:
        """Standard error so far."""
        return self._errors.read_text(encoding="utf-8")

    def get(self, path: str, timeout_s: float = 10) -> httpx.Response:
        """Send a GET on a new connection."""
        return httpx.get(self.url + path, timeout=timeout_s, verify=TLS)

    def get_with(self, path: str, **headers: str) -> httpx.Response:
        """Send a GET with headers on a new connection."""
        return httpx.get(self.url + path, timeout=10, headers=headers)

    def post(self, path: str, json: object, timeout_s: float = 10) -> httpx.Response:
        """Send a POST on a new connection."""
        return httpx.post(self.url + path, json=json, timeout=timeout_s, verify=TLS)

    def is_ready(self) -> bool:
        """Tell whether ``/readyz`` answers 200."""
        try:
            return self.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def wait_until_ready(self) -> None:
        """Wait until the service is ready; fail if it exits."""
        eventually(lambda: self.is_ready() or self.process.poll() is not None, START_TIMEOUT_S)
        assert self.is_ready(), self.errors

    def workers(self) -> list[psutil.Process]:
        """Return the processes of gunicorn's workers."""
        return psutil.Process(self.process.pid).children()

    def stop(self, timeout_s: float = 60) -> int:
        """Send SIGTERM, wait, and return the exit code. On an idle machine it takes a second or two."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


@contextmanager
def serving(home: Path, command: Sequence[str] = (TIERCEL, "serve"), **given: str) -> Iterator[Service]:
    """Run a ``Service`` until the block ends; it is ready when the block begins."""
    service = Service(home, command, **given)
    try:
        service.wait_until_ready()
        yield service
    finally:
        try:
            service.stop()
        except subprocess.TimeoutExpired:
            service.process.kill()
            service.process.wait()
            raise


def postmaster(home: Path) -> psutil.Process | None:
    """Return the process of the embedded server of a home; None if it does not run."""
    try:
        pid = int((home / "postgres" / "postmaster.pid").read_bytes().partition(b"\n")[0])
        found = psutil.Process(pid)
        return found if str(home / "postgres") in found.cmdline() else None
    except (OSError, ValueError, psutil.Error):
        return None


def python_as(user: str, home: Path) -> list[str]:
    """Return a command that runs Python as another account; skip the test if there is none.

    Args:
        user: Name of the account.
        home: A directory, which the account becomes the owner of.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can run processes as another account")
    account = pwd.getpwnam(user)
    os.chown(home, account.pw_uid, account.pw_gid)
    prefix = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", "--"]
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        command = [*prefix, python]
        tried = subprocess.run(
            [*command, "-c", "import kernel.app"], cwd="/", env=python_environment(), capture_output=True, check=False
        )
        if tried.returncode == 0:
            return command
    pytest.skip(f"no Python that {user} may run finds this project's packages")


def python_environment() -> dict[str, str]:
    """Return an environment in which any Python of this version finds the packages of this one."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
