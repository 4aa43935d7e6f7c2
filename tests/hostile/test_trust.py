"""Who is believed: proxies, hosts, pages of other sites, and sockets that somebody else opened."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.raw_http import Answer, ask, exchange
from tests.processes import (
    GUNICORN,
    ROOT,
    Service,
    copy_home,
    eventually,
    free_port,
    make_environment,
    postmaster,
    serving,
)

pytestmark = pytest.mark.process

CONFIG = str(ROOT / "config" / "gunicorn.conf.py")
JSON = "Content-Type: application/json"
FORM = "Content-Type: application/x-www-form-urlencoded"
START = '{"name": "club.refresh"}'
JOBS = "/api/v1/jobs/"


@pytest.fixture(scope="module")
def service(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that trusts nobody, whatever gunicorn is told. It also listens on a Unix socket."""
    home = copy_home(initialised, tmp_path_factory.mktemp("trust"))
    command = (GUNICORN, "-c", CONFIG, "--forwarded-allow-ips=*", "--forwarder-headers=SCRIPT_NAME,REMOTE_USER")
    with serving(home, command, host=f"unix:{home}/socket,127.0.0.1", TIERCEL_LOG="json") as started:
        yield started


@pytest.fixture(scope="module")
def behind_proxy(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that trusts proxies of this machine, on its Unix socket too, and of one network."""
    home = copy_home(initialised, tmp_path_factory.mktemp("proxy"))
    own = {
        "TIERCEL_LOG": "json",
        "TIERCEL_HTTP__TRUSTED_PROXIES": "127.0.0.1,10.0.0.0/8,unix",
        "TIERCEL_HTTP__ALLOWED_HOSTS": "api.example",
    }
    with serving(home, host=f"unix:{home}/socket,127.0.0.1", **own) as started:
        yield started


def link_of(answer: Answer) -> str:
    """Return the link that a response has to the service itself."""
    link: str = answer.json()["resources"]["api"]["url"]
    return link


def client_of(service: Service, answer: Answer) -> str | None:
    """Return the client's address in the line of the request log, waiting for it."""
    found: dict[str, dict[str, str]] = {}

    def is_logged() -> bool:
        lines = [json.loads(line) for line in service.errors.splitlines()]
        found.update({line["request_id"]: line for line in lines if line["event"] == "request"})
        return answer.headers["x-request-id"] in found

    assert eventually(is_logged)
    return found[answer.headers["x-request-id"]].get("client")


# --- proxies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "SCRIPT_NAME: /livez",
        "SCRIPT_NAME: /nowhere",
        "Script-Name: /livez",
        "PATH_INFO: /api/",
        "X-Script-Name: /livez",
        "X-Forwarded-Prefix: /evil",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Ssl: on",
        "X-Forwarded-Protocol: ssl",
        "X-Forwarded-Host: evil.example",
        "X-Forwarded-For: 10.9.9.9",
        "X-Real-Ip: 10.9.9.9",
        "Forwarded: for=10.9.9.9;host=evil.example;proto=https",
        "X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off",
    ],
)
def test_no_header_moves_a_request_unless_its_sender_is_trusted(service: Service, header: str) -> None:
    answer = ask(service.port, "GET", "/api/", header)

    assert (answer.status, link_of(answer)) == (200, "http://127.0.0.1/api/")
    assert client_of(service, answer) == "127.0.0.1"
    # A proxy that lets everybody see /livez lets nobody see more.
    assert ask(service.port, "GET", "/livez/stats/", header).status == 404


def test_the_proxy_protocol_is_no_http(service: Service) -> None:
    [answer] = exchange(
        service.port, "PROXY TCP4 10.9.9.9 127.0.0.1 1 2\r\nGET /api/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    )

    assert (answer.status, answer.json()["code"]) == (400, "malformed")


@pytest.mark.parametrize(
    ("headers", "client", "link"),
    [
        ([], "127.0.0.1", "http://127.0.0.1/api/"),
        (["X-Forwarded-For: 203.0.113.7"], "203.0.113.7", "http://127.0.0.1/api/"),
        (["X-Forwarded-For: 1.1.1.1, 203.0.113.7, 10.0.0.3"], "203.0.113.7", "http://127.0.0.1/api/"),
        (["X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 203.0.113.7"], "203.0.113.7", "http://127.0.0.1/api/"),
        (["X-Forwarded-For: 203.0.113.7:4711"], "203.0.113.7", "http://127.0.0.1/api/"),
        (["X-Forwarded-For: [2001:db8::7]:4711"], "2001:db8::7", "http://127.0.0.1/api/"),
        (["X-Forwarded-For: 2001:db8::7"], "2001:db8::7", "http://127.0.0.1/api/"),
        (["X-Forwarded-For: 1.1.1.1, <script>, 10.0.0.3"], "10.0.0.3", "http://127.0.0.1/api/"),
        (["X-Forwarded-Proto: https"], "127.0.0.1", "https://127.0.0.1/api/"),
        (["X-Forwarded-Proto: http, https"], "127.0.0.1", "https://127.0.0.1/api/"),
        (["X-Forwarded-Proto: javascript"], "127.0.0.1", "http://127.0.0.1/api/"),
        (["X-Forwarded-Host: api.example"], "127.0.0.1", "http://api.example/api/"),
        (["X-Forwarded-Host: evil.example, api.example:8443"], "127.0.0.1", "http://api.example:8443/api/"),
        (["SCRIPT_NAME: /api", "X-Forwarded-Prefix: /x"], "127.0.0.1", "http://127.0.0.1/api/"),
    ],
)
def test_a_trusted_proxy_names_client_scheme_and_host(
    behind_proxy: Service, headers: list[str], client: str, link: str
) -> None:
    answer = ask(behind_proxy.port, "GET", "/api/", *headers)

    assert (answer.status, link_of(answer)) == (200, link)
    assert client_of(behind_proxy, answer) == client


@pytest.mark.parametrize("host", ["evil.example", 'api.example"><script>', "api.example@evil.example", "api.example:0"])
def test_the_host_that_a_trusted_proxy_names_is_checked_as_well(behind_proxy: Service, host: str) -> None:
    assert ask(behind_proxy.port, "GET", "/api/", f"X-Forwarded-Host: {host}").status == 400


@pytest.mark.parametrize(
    ("fixture", "client", "link"),
    [
        ("service", None, "http://127.0.0.1/api/"),
        ("behind_proxy", "203.0.113.7", "https://api.example/api/"),
    ],
)
def test_the_clients_of_a_unix_socket_are_trusted_only_if_the_setting_says_so(
    fixture: str, client: str | None, link: str, request: pytest.FixtureRequest
) -> None:
    service: Service = request.getfixturevalue(fixture)
    headers = ["X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: api.example"]
    answer = ask(service.home / "socket", "GET", "/api/", *headers)

    assert (answer.status, link_of(answer)) == (200, link)
    assert client_of(service, answer) == client


# --- Host -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "",
        "localhost:1@evil.example",
        "localhost@evil.example",
        'localhost:"><script>',
        "localhost:0",
        "localhost:65536",
        "localhost:",
        "localhost:80:80",
        "localhost:+1",
        "localhost/evil.example",
        "localhost?",
        "localhost#",
        "localhost\\evil.example",
        "localhost%2eevil.example",
        "localhost, evil.example",
        "[::1",
        "[::1]evil.example",
        "[::1]:x",
        "[v1.x]",
        "[::1%25lo]",
        "127.0.0.256",
        "127.1.evil.1",
        "127.0.0.1.evil.example",
        "a..b",
        "l\xf6calhost",
    ],
)
@pytest.mark.parametrize("target", ["/api/requests/?page_size=1", "/none/"])
def test_a_host_is_a_name_or_an_address_with_or_without_a_port(service: Service, host: str, target: str) -> None:
    answer = ask(service.port, "GET", target, f"Host: {host}")

    # On a path without a route, nothing asks whether the host is allowed.
    assert answer.status == 400 or (target == "/none/" and host == "127.0.0.1.evil.example")
    if answer.status == 400:
        assert answer.json()["code"] == "malformed"
    # The same host in a target of absolute form, where some characters end it.
    if host not in ("", "127.0.0.1.evil.example") and not set(host) & set("/?#"):
        assert ask(service.port, "GET", f"http://{host}{target}").status == 400


@pytest.mark.parametrize("host", ["LOCALHOST:65535", "[::1]:1", "127.0.0.1"])
def test_hosts_of_this_machine_are_served(service: Service, host: str) -> None:
    assert link_of(ask(service.port, "GET", "/api/", f"Host: {host}")) == f"http://{host}/api/"


# --- pages of other sites ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        ["Sec-Fetch-Site: cross-site"],
        ["Sec-Fetch-Site: same-site", "Origin: http://127.0.0.1:3001"],
        ["Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: cross-site"],
        ["Sec-Fetch-Site: SAME-ORIGIN, x"],
        ["Origin: https://evil.example"],
        ["Origin: null"],
        ["Sec-Fetch-Site: same-origin", "Origin: null"],
        ["Origin: http://127.0.0.1:1"],
        ["Origin: http://127.0.0.1@evil.example"],
    ],
)
def test_a_page_of_another_site_changes_nothing(service: Service, headers: list[str]) -> None:
    job = ask(service.port, "POST", JOBS, JSON, body=START).json()["data"]["id"]
    attacks = [
        ask(service.port, "POST", JOBS, JSON, *headers, body=START),
        ask(service.port, "POST", f"{JOBS}{job}/cancel/", *headers),
        ask(service.port, "POST", f"{JOBS}{job}/cancel/", FORM, *headers, body="a=b"),
        ask(service.port, "POST", "/api/requests/ingest/", JSON, *headers, body="[]"),
        ask(service.port, "POST", "/trace/webhooks/notion/", JSON, *headers, body="{}"),
        ask(service.port, "DELETE", "/api/requests/00000000-0000-0000-0000-000000000000/", *headers),
    ]

    assert [(each.status, each.json()["code"]) for each in attacks] == [(403, "cross_site")] * len(attacks)
    assert ask(service.port, "GET", f"{JOBS}{job}/").json()["data"]["state"] == "waiting"


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"])
def test_the_media_types_of_forms_change_nothing(service: Service, kind: str) -> None:
    job = ask(service.port, "POST", JOBS, JSON, body=START).json()["data"]["id"]

    for path in (f"{JOBS}{job}/cancel/", JOBS, "/api/requests/ingest/"):
        answer = ask(service.port, "POST", path, f"Content-Type: {kind}", body=START)
        assert (answer.status, answer.json()["code"]) == (415, "unsupported_media_type"), path
    assert ask(service.port, "GET", f"{JOBS}{job}/").json()["data"]["state"] == "waiting"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["Sec-Fetch-Site: same-origin"],
        ["Sec-Fetch-Site: none"],
        ["Origin: http://127.0.0.1"],
        # A proxy ended TLS.
        ["Origin: https://127.0.0.1"],
    ],
)
def test_programs_and_own_pages_may_change_something(service: Service, headers: list[str]) -> None:
    job = ask(service.port, "POST", JOBS, JSON, *headers, body=START).json()["data"]["id"]

    assert ask(service.port, "POST", f"{JOBS}{job}/cancel/", *headers).json()["data"]["state"] == "cancelled"


def test_pages_of_other_sites_may_be_linked_from(service: Service) -> None:
    assert ask(service.port, "GET", "/api/", "Sec-Fetch-Site: cross-site").status == 200


# --- sockets ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_home(initialised, tmp_path_factory.mktemp("sockets"))


def test_mode_open_is_not_served_beyond_this_machine_whatever_opened_the_socket(home: Path) -> None:
    reachable = socket.create_server(("0.0.0.0", 0))
    activated = [
        sys.executable,
        "-c",
        # What systemd does with a socket unit.
        "import os, sys; os.dup2(int(sys.argv[1]), 3, inheritable=True); os.environ['LISTEN_FDS'] = '1';"
        " os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[2], sys.argv[2:])",
        str(reachable.fileno()),
        GUNICORN,
        "-c",
        CONFIG,
    ]
    attempts: list[tuple[list[str], dict[str, str]]] = [
        ([GUNICORN, "-c", CONFIG, "-b", f"127.0.0.1:{free_port()}", "-b", f"0.0.0.0:{free_port()}"], {}),
        ([GUNICORN, "-c", CONFIG], {"GUNICORN_CMD_ARGS": f"--bind 0.0.0.0:{free_port()}"}),
        (activated, {}),
    ]
    with reachable:
        ran = [
            subprocess.run(
                command,
                cwd=home.parent,
                env=make_environment(home, **variables),
                pass_fds=[reachable.fileno()],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            for command, variables in attempts
        ]

    for each in ran:
        assert each.returncode == 1, each.stderr
        assert "can be reached from other machines" in each.stderr
        assert "Traceback" not in each.stderr
    assert postmaster(home) is None
