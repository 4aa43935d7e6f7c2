"""The service as it runs in production: gunicorn, its workers, and the embedded database below them."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from tests.plugins.observability.events import make_event
from tests.processes import GUNICORN, ROOT, TIERCEL, Service, copy_home, eventually, postmaster, run_tiercel, serving

pytestmark = pytest.mark.process

LIST = "/api/requests/"


@pytest.fixture
def home(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_home(initialised, tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working directory, home of the user and place for temporary files of the shared service."""
    path = tmp_path_factory.mktemp("shared")
    (path / "tmp").mkdir()
    return path


@pytest.fixture(scope="module")
def service(surroundings: Path) -> Iterator[Service]:
    """A service that began with nothing and runs through all tests of this file; none of them harms it."""
    temporary = str(surroundings / "tmp")
    with serving(surroundings / ".tiercel", TIERCEL_LOG="json", TIERCEL_WORKERS="2", TMPDIR=temporary) as started:
        yield started


def test_it_stores_and_serves(service: Service) -> None:
    created = service.post(LIST, make_event())

    assert created.status_code == 201
    assert service.get(f"{LIST}{created.json()['id']}/").json() == created.json()


def test_every_line_of_its_log_is_json(service: Service) -> None:
    service.get("/api/")

    def logged() -> str:
        return " ".join(str(json.loads(line)["event"]) for line in service.errors.splitlines())

    assert eventually(lambda: "request" in logged().split())
    assert "Listening at" in logged(), "gunicorn's lines as well"


def test_nothing_is_written_outside_its_home(service: Service, surroundings: Path) -> None:
    service.post(LIST, make_event())

    outside = {path for path in surroundings.rglob("*") if service.home not in (path, *path.parents)}

    assert outside == {surroundings / "tmp"}


def test_it_exits_0_on_sigterm_and_takes_the_database_with_it(home: Path) -> None:
    with serving(home) as service:
        workers = service.workers()

        assert service.stop(timeout_s=10) == 0

    assert postmaster(home) is None
    assert not any(worker.is_running() for worker in workers)


@pytest.mark.parametrize("arguments", [("serve",), ("up",), ("shell", "-c", "import time; time.sleep(60)")], ids=str)
def test_a_command_that_is_ended_early_takes_the_database_with_it(home: Path, arguments: tuple[str, ...]) -> None:
    service = Service(home, (TIERCEL, *arguments))
    assert eventually(lambda: postmaster(home) is not None)

    assert service.stop() in (0, 128 + signal.SIGTERM)

    assert postmaster(home) is None
    assert "Traceback" not in service.errors


def test_after_kill_9_of_the_master_its_workers_go_and_the_next_start_works(home: Path) -> None:
    service = Service(home)
    service.wait_until_ready()
    created = service.post(LIST, make_event()).json()
    workers = service.workers()
    service.process.kill()
    service.process.wait()

    assert workers
    assert psutil.wait_procs(workers, timeout=15)[1] == []
    with serving(home) as again:
        assert again.get(f"{LIST}{created['id']}/").json() == created
    assert postmaster(home) is None


def test_a_worker_that_is_killed_is_replaced(home: Path) -> None:
    with serving(home) as service:
        (killed,) = service.workers()
        killed.send_signal(signal.SIGKILL)

        assert eventually(lambda: service.workers() not in ([], [killed]) and service.is_ready())


def test_services_with_homes_of_their_own_have_data_of_their_own(service: Service, home: Path) -> None:
    created = service.post(LIST, make_event()).json()
    with serving(home) as other:
        assert other.get(f"{LIST}{created['id']}/").status_code == 404
        assert service.get(f"{LIST}{created['id']}/").status_code == 200


def test_services_on_one_home_share_the_database_until_the_last_stops(home: Path) -> None:
    with serving(home) as first, serving(home) as second:
        created = first.post(LIST, make_event()).json()

        assert first.stop() == 0

        assert second.get(f"{LIST}{created['id']}/").json() == created
    assert postmaster(home) is None


def test_gunicorn_alone_runs_it_from_its_configuration_file(home: Path) -> None:
    with serving(home, (GUNICORN, "-c", str(ROOT / "config" / "gunicorn.conf.py"))) as service:
        assert service.post(LIST, make_event()).status_code == 201
        assert service.stop() == 0

    assert postmaster(home) is None


def test_gunicorn_alone_refuses_a_wrong_setting_in_one_line(home: Path) -> None:
    service = Service(home, (GUNICORN, "-c", str(ROOT / "config" / "gunicorn.conf.py")), TIERCEL_THREADS="many")

    assert service.process.wait(20) != 0
    assert "TIERCEL_THREADS: server.threads: Expected int" in service.errors


def test_an_open_service_refuses_to_listen_beyond_this_machine(home: Path) -> None:
    ran = run_tiercel(home, "serve", "--bind", "0.0.0.0:0")

    assert ran.returncode == 1
    assert ran.stderr.startswith("tiercel: auth is 'open' and 0.0.0.0:0 can be reached from other machines")
    assert postmaster(home) is None


def test_an_open_service_listens_everywhere_if_told_so(home: Path) -> None:
    with serving(home, (TIERCEL, "serve", "--insecure"), host="0.0.0.0") as service:
        assert service.get("/livez").status_code == 200


@pytest.fixture(scope="module")
def impatient(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with two threads that waits one second for the rest of a request."""
    home = copy_home(initialised, tmp_path_factory.mktemp("impatient"))
    with serving(home, TIERCEL_THREADS="2", TIERCEL_SERVER__HEADER_TIMEOUT_S="1") as started:
        yield started


def test_half_sent_headers_on_every_thread_stop_it_for_a_moment_only(impatient: Service) -> None:
    with ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", impatient.port)))
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: 127")
        started = time.monotonic()

        assert impatient.get("/livez", timeout_s=20).status_code == 200
        assert time.monotonic() - started < 4
        assert eventually(lambda: "dropped a client that stopped sending" in impatient.errors)

    assert "Traceback" not in impatient.errors


@pytest.mark.parametrize(
    ("framing", "status"),
    [
        pytest.param('Content-Length: 100\r\n\r\n{"service":', 408, id="half sent"),
        pytest.param('Transfer-Encoding: chunked\r\n\r\na\r\n{"service"', 408, id="half sent in chunks"),
        pytest.param("Transfer-Encoding: chunked\r\n\r\nnonsense\r\n", 400, id="bad chunk"),
    ],
)
def test_a_body_that_does_not_arrive_is_the_fault_of_the_client(impatient: Service, framing: str, status: int) -> None:
    head = f"POST {LIST} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=10) as connection:
        connection.sendall((head + framing).encode())

        assert connection.recv(4096).startswith(f"HTTP/1.1 {status} ".encode())

    assert "Traceback" not in impatient.errors


def test_up_prints_where_to_look_and_publishes_demo_data(home: Path) -> None:
    with serving(home, (TIERCEL, "up")) as service:
        assert f"  curl -s {service.url}/api/requests/" in service.output
        assert "Stop with Ctrl-C." in service.output
        of_applications = re.findall(r"  curl -s (\S+/public/(?:skyflow|nexus)/\S+)  +# ", service.output)
        metas = [httpx.get(url).json()["meta"] for url in of_applications]

    assert [(meta["endpoint"].split("/")[1], meta["application"]) for meta in metas] == [
        ("trace", "skyflow"),
        ("trace", "nexus"),
        ("club", "skyflow"),
        ("club", "nexus"),
    ]
    assert all(meta["total_items"] > 0 for meta in metas)
