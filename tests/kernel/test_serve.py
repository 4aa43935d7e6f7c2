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
from tests.processes import (
    GUNICORN,
    ROOT,
    TIERCEL,
    TLS,
    Service,
    copy_home,
    eventually,
    postmaster,
    run_tiercel,
    serving,
)

pytestmark = pytest.mark.process

LIST = "/api/requests/"
DEVELOPMENT = """
DEBUG=True
SECRET_KEY=dev-key-change-in-production
NOTION_TOKEN=your-notion-integration-token
API_BASE_URL=http://localhost:8000
DATABASE_URL=sqlite:///db.sqlite3
"""


@pytest.fixture
def home(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_home(initialised, tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working directory, home directory and folder of temporary files of the shared service."""
    path = tmp_path_factory.mktemp("shared")
    (path / "tmp").mkdir()
    return path


@pytest.fixture(scope="module")
def service(surroundings: Path) -> Iterator[Service]:
    """A service that started with an empty home; shared by tests that do not harm it."""
    home, temporary = surroundings / ".tiercel", str(surroundings / "tmp")
    variables = {"TIERCEL_LOG": "json", "TIERCEL_LOG__FILE": str(home / "log" / "tiercel.log"), "TIERCEL_WORKERS": "2"}
    with serving(home, TMPDIR=temporary, **variables) as started:
        yield started


@pytest.fixture(scope="module")
def insecure(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A second service with a separate home. It listens on every address, its two threads wait one second, and the disk
    of its log file is full.

    Its ``.env`` is that of a development setup of another service of this kind.
    """
    home = copy_home(initialised, tmp_path_factory.mktemp("insecure"))
    (home.parent / ".env").write_text(DEVELOPMENT)
    variables = {
        "TIERCEL_THREADS": "2",
        "TIERCEL_SERVER__HEADER_TIMEOUT_S": "1",
        "TIERCEL_SERVER__RECEIVE_TIMEOUT_S": "1",
        "TIERCEL_LOG__FILE": "/dev/full",
    }
    with serving(home, (TIERCEL, "serve", "--insecure"), host="0.0.0.0", **variables) as started:
        yield started


def test_it_stores_and_serves(service: Service) -> None:
    created = service.post(LIST, make_event())

    assert created.status_code == 201
    assert service.get(f"{LIST}{created.json()['id']}/").json() == created.json()


def test_a_dotenv_that_names_sqlite_starts_on_the_embedded_database_and_says_so(insecure: Service) -> None:
    warnings = [line for line in insecure.errors.splitlines() if "variables_without_effect" in line]

    assert [re.search(r"variables=(\S+)", line)[1] for line in warnings] == ["API_BASE_URL", "DATABASE_URL"]  # type: ignore[index]
    assert "SQLite is not supported; unless another database is configured, the embedded PostgreSQL" in warnings[1]
    assert insecure.get("/health/").json()["engine"].startswith("postgresql 18")
    assert postmaster(insecure.home) is not None


def test_every_line_of_the_log_is_json(service: Service) -> None:
    service.get("/api/")

    def logged() -> str:
        return " ".join(str(json.loads(line)["event"]) for line in service.errors.splitlines())

    assert eventually(lambda: "request" in logged().split())
    assert "Listening at" in logged(), "gunicorn's lines as well"


def test_the_log_file_has_the_lines_of_every_process_with_request_ids(service: Service) -> None:
    request_id = service.get("/api/").headers["x-request-id"]
    path = service.home / "log" / "tiercel.log"

    def logged(text: str) -> list[tuple[str, str]]:
        lines = map(json.loads, text.splitlines())
        return sorted((line["event"], line.get("request_id") or "") for line in lines)

    assert eventually(lambda: ("request", request_id) in logged(path.read_text()))
    assert eventually(lambda: logged(path.read_text()) == logged(service.errors))
    assert "Listening at" in path.read_text(), "gunicorn's lines as well"


def test_a_full_disk_of_the_log_file_breaks_no_request_and_is_reported(insecure: Service) -> None:
    assert [insecure.get("/api/").status_code for _ in range(3)] == [200, 200, 200]

    reported = insecure.errors.count("tiercel: /dev/full: log lines are lost: No space left on device")
    # Once by each of: our lines and gunicorn's, in the master and in its worker.
    assert 1 <= reported <= 4


def test_nothing_is_written_outside_the_home(service: Service, surroundings: Path) -> None:
    service.post(LIST, make_event())

    outside = {path for path in surroundings.rglob("*") if service.home not in (path, *path.parents)}

    assert outside == {surroundings / "tmp"}


def test_sigterm_stops_service_and_database_with_exit_code_0(home: Path) -> None:
    with serving(home) as service:
        workers = service.workers()

        assert service.stop(timeout_s=10) == 0

    assert postmaster(home) is None
    assert not any(worker.is_running() for worker in workers)


@pytest.mark.parametrize("arguments", [("serve",), ("up",), ("shell", "-c", "import time; time.sleep(60)")], ids=str)
def test_sigterm_during_the_start_stops_the_database(home: Path, arguments: tuple[str, ...]) -> None:
    service = Service(home, (TIERCEL, *arguments))
    assert eventually(lambda: postmaster(home) is not None)

    assert service.stop() in (0, 128 + signal.SIGTERM)

    assert postmaster(home) is None
    assert "Traceback" not in service.errors


def test_after_kill_9_of_the_master_the_workers_exit_and_the_next_start_works(home: Path) -> None:
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


def test_a_worker_that_is_killed_is_replaced(insecure: Service) -> None:
    (killed,) = insecure.workers()
    killed.send_signal(signal.SIGKILL)

    assert eventually(lambda: insecure.workers() not in ([], [killed]) and insecure.is_ready())


def test_services_with_different_homes_have_different_data(service: Service, insecure: Service) -> None:
    created = service.post(LIST, make_event()).json()

    assert insecure.get(f"{LIST}{created['id']}/").status_code == 404
    assert service.get(f"{LIST}{created['id']}/").status_code == 200


def test_services_with_the_same_home_share_the_database_until_the_last_stops(home: Path) -> None:
    with serving(home) as first, serving(home) as second:
        created = first.post(LIST, make_event()).json()

        assert first.stop() == 0

        assert second.get(f"{LIST}{created['id']}/").json() == created
    assert postmaster(home) is None


def test_gunicorn_can_run_the_service_from_the_configuration_file(home: Path) -> None:
    with serving(home, (GUNICORN, "-c", str(ROOT / "config" / "gunicorn.conf.py"))) as service:
        assert service.post(LIST, make_event()).status_code == 201
        assert service.stop() == 0

    assert postmaster(home) is None


def test_gunicorn_reports_a_wrong_setting_in_one_line(home: Path) -> None:
    service = Service(home, (GUNICORN, "-c", str(ROOT / "config" / "gunicorn.conf.py")), TIERCEL_THREADS="many")

    assert service.process.wait(20) != 0
    assert "TIERCEL_THREADS: server.threads: Expected int" in service.errors


def test_an_open_service_refuses_to_listen_beyond_this_machine(home: Path) -> None:
    ran = run_tiercel(home, "serve", "--bind", "0.0.0.0:0")

    assert ran.returncode == 1
    assert ran.stderr.startswith("tiercel: auth is 'open' and 0.0.0.0:0 can be reached from other machines")
    assert postmaster(home) is None


def test_an_open_service_listens_on_every_address_with_the_option_insecure(insecure: Service) -> None:
    with socket.create_connection(("127.0.0.2", insecure.port), timeout=10) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.2\r\n\r\n")

        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_half_sent_headers_do_not_block_threads(insecure: Service) -> None:
    with ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", insecure.port)))
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: 127")
        started = time.monotonic()

        assert insecure.get("/livez", timeout_s=20).status_code == 200
        assert time.monotonic() - started < 4
        assert eventually(lambda: "dropped a client that stopped sending" in insecure.errors)

    assert "Traceback" not in insecure.errors


@pytest.mark.parametrize(
    ("framing", "status"),
    [
        pytest.param('Content-Length: 100\r\n\r\n{"service":', 408, id="half sent"),
        pytest.param('Transfer-Encoding: chunked\r\n\r\na\r\n{"service"', 408, id="half sent in chunks"),
        pytest.param("Transfer-Encoding: chunked\r\n\r\nnonsense\r\n", 400, id="bad chunk"),
    ],
)
def test_a_body_that_does_not_arrive_is_answered_4xx(insecure: Service, framing: str, status: int) -> None:
    head = f"POST {LIST} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", insecure.port), timeout=10) as connection:
        connection.sendall((head + framing).encode())

        assert connection.recv(4096).startswith(f"HTTP/1.1 {status} ".encode())

    assert "Traceback" not in insecure.errors


def test_up_prints_urls_and_publishes_demo_data(home: Path) -> None:
    with serving(home, (TIERCEL, "up")) as service:
        assert f"  curl -s {service.url}/api/requests/" in service.output
        assert "Stop with Ctrl-C." in service.output
        of_applications = re.findall(r"  curl -s (\S+/public/(?:skyflow|nexus)/\S+)  +# ", service.output)
        metas = [httpx.get(url, verify=TLS).json()["meta"] for url in of_applications]

    assert [(meta["endpoint"].split("/")[1], meta["application"]) for meta in metas] == [
        ("trace", "skyflow"),
        ("trace", "nexus"),
        ("club", "skyflow"),
        ("club", "nexus"),
    ]
    assert all(meta["total_items"] > 0 for meta in metas)
