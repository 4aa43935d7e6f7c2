"""Real processes: the first key, commands, what several workers know of a revocation, and what is in the log."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.faults.database import connect
from tests.hostile.raw_http import ask
from tests.processes import COMMAND_TIMEOUT_S, TIERCEL, TLS, Service, copy_home, make_environment, run_tiercel, serving

pytestmark = pytest.mark.process

EMAIL, PASSWORD, NEW = "ann@example.com", "correct horse battery staple", "another horse, another staple"
ME = "/api/v1/auth/me/"
REVOKED_WITHIN_S = 5.0


@pytest.fixture(scope="module")
def home(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_home(initialised, tmp_path_factory.mktemp("accounts"))


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[Service]:
    """A service of two workers, with an administrator."""
    with serving(home, (TIERCEL, "up"), TIERCEL_AUTH="required", TIERCEL_WORKERS="2", TIERCEL_LOG="json") as started:
        ran = run_tiercel(home, "sudo", EMAIL, TIERCEL_PASSWORD=PASSWORD)
        assert ran.returncode == 0, ran.stderr
        yield started


def first_key(service: Service) -> str:
    return next(line.strip() for line in service.output.splitlines() if line.startswith("  tk_"))


def sign_in(service: Service, **fields: object) -> httpx.Response:
    answer = service.post("/api/v1/auth/sign-in/", {"email": EMAIL, "password": PASSWORD, **fields})
    assert answer.status_code == 200, answer.text
    return answer


def statuses(service: Service, path: str, headers: Mapping[str, str]) -> dict[int, int]:
    """Return the status of a request by the process that answered it, once two have."""
    found: dict[int, int] = {}
    deadline = time.monotonic() + 20
    while len(found) < 2 and time.monotonic() < deadline:
        answer = httpx.get(service.url + "/stats/", headers=headers, verify=TLS)
        pid = answer.json()["process"]["pid"] if answer.status_code == 200 else 0
        found[pid] = httpx.get(service.url + path, headers=headers, verify=TLS).status_code
    return found


def assert_revoked_everywhere(service: Service, headers: Mapping[str, str]) -> None:
    """Ask on new connections until forty requests in a row are refused; none is let in after five seconds."""
    revoked_at = let_in_at = time.monotonic()
    refused = 0
    while refused < 40:
        if httpx.get(service.url + ME, headers=headers, verify=TLS).status_code == 401:
            refused += 1
        else:
            refused, let_in_at = 0, time.monotonic()
        assert let_in_at - revoked_at < REVOKED_WITHIN_S


def test_the_first_key_is_printed_once_and_is_in_no_log(service: Service, home: Path) -> None:
    key = first_key(service)

    assert service.output.count(key) == 1
    assert key not in service.errors
    assert service.get("/stats/").status_code == 401
    assert httpx.get(f"{service.url}/stats/", headers={"X-API-Key": key}, verify=TLS).status_code == 200
    again = run_tiercel(home, "accounts", "first-key", TIERCEL_AUTH="required")
    assert (again.returncode, again.stdout) == (0, "")


def test_mode_open_needs_no_first_key(initialised: Path, tmp_path: Path) -> None:
    ran = run_tiercel(copy_home(initialised, tmp_path), "accounts", "first-key")

    assert (ran.returncode, ran.stdout) == (0, "")


@pytest.mark.parametrize("kind", ["key", "cookie", "token", "user"])
def test_every_worker_knows_of_a_revocation_within_five_seconds(service: Service, home: Path, kind: str) -> None:
    headers: dict[str, str] = {}
    if kind == "key":
        ran = run_tiercel(home, "accounts", "keys", "create", "test", "--scope", "read", "--scope", "staff")
        headers["X-API-Key"] = ran.stdout.strip()
    elif kind == "cookie":
        headers["Cookie"] = sign_in(service, cookie=True).headers["set-cookie"].partition(";")[0]
        headers["Sec-Fetch-Site"] = "same-origin"
    else:
        headers["Authorization"] = f"Bearer {sign_in(service).json()['data']['access_token']}"
    assert set(statuses(service, ME, headers).values()) == {200}
    assert len(statuses(service, ME, headers)) == 2

    if kind == "key":
        # Without a notification, as if that were lost.
        with connect(home) as connection:
            connection.execute("UPDATE accounts.api_key SET revoked_at = now() WHERE name = 'test'")
    elif kind == "user":
        with connect(home) as connection:
            connection.execute("UPDATE accounts.user SET token_version = token_version + 1")
    else:
        assert httpx.post(f"{service.url}/api/v1/auth/sign-out/", headers=headers, verify=TLS).status_code == 204

    assert_revoked_everywhere(service, headers)


def test_a_key_that_is_rotated_signs_in_every_worker_without_a_restart(service: Service, home: Path) -> None:
    old = sign_in(service).json()["data"]["access_token"]
    ran = run_tiercel(home, "accounts", "jwt-keys", "rotate")
    kid = ran.stdout.split()[1]
    new = sign_in(service).json()["data"]["access_token"]

    for token in (old, new):
        headers = {"Authorization": f"Bearer {token}"}
        assert {httpx.get(service.url + ME, headers=headers, verify=TLS).status_code for _ in range(20)} == {200}
    listed = run_tiercel(home, "accounts", "jwt-keys", "list")
    assert [line.split()[0] for line in listed.stdout.splitlines()][1] == kid


@pytest.mark.parametrize(
    "headers",
    [
        ("Authorization: Bearer {token}", "Authorization: Bearer {token}"),
        ("Authorization: Bearer x", "Authorization: Bearer {token}"),
        ("Authorization: Bearer {token}", "authorization: Api-Key {key}"),
        ("X-API-Key: {key}", "X-Api-Key: {key}"),
        # What some servers read as the same name.
        ("X_API_Key: {key}",),
        ("Authorization : Bearer {token}",),
    ],
)
def test_credentials_that_are_sent_twice_or_under_other_names_do_not_count(
    service: Service, headers: tuple[str, ...]
) -> None:
    token = sign_in(service).json()["data"]["access_token"]
    key = first_key(service)

    answer = ask(service.port, "GET", ME, *(each.format(token=token, key=key) for each in headers))

    assert answer.status in (400, 401)


def test_no_secret_is_in_the_log(service: Service, home: Path) -> None:
    tokens = sign_in(service).json()["data"]
    cookie = sign_in(service, cookie=True).headers["set-cookie"].partition(";")[0]
    key = first_key(service)
    refused = [
        {"Authorization": f"Bearer {tokens['access_token']}x"},
        {"Authorization": f"Basic {PASSWORD}"},
        {"Authorization": f"Api-Key {key}x"},
        {"Cookie": f"{cookie}x"},
    ]
    for headers in refused:
        assert httpx.get(service.url + ME, headers=headers, verify=TLS).status_code == 401
    service.post("/api/v1/auth/sign-in/", {"email": EMAIL, "password": PASSWORD, "extra": 1})
    service.post("/api/v1/auth/sign-in/", {"email": EMAIL, "password": ["in a list", PASSWORD]})
    service.post("/api/v1/auth/refresh/", {"refresh_token": tokens["refresh_token"]})
    service.post("/api/v1/auth/refresh/", {"refresh_token": tokens["refresh_token"]})
    service.post("/api/v1/auth/reset/confirm/", {"token": "tp_" + "A" * 43, "password": NEW})
    with connect(home) as connection:
        # An unexpected error, whose traceback is logged.
        connection.execute("ALTER TABLE accounts.password RENAME TO password_")
        try:
            failed = service.post("/api/v1/auth/sign-in/", {"email": EMAIL, "password": PASSWORD})
        finally:
            connection.execute("ALTER TABLE accounts.password_ RENAME TO password")
        assert failed.status_code in (500, 503)

    log = service.errors
    secrets = [PASSWORD, NEW, tokens["access_token"], tokens["refresh_token"], cookie.partition("=")[2], key]
    assert log.count('"event":"request"') > len(refused)
    assert [secret for secret in secrets if secret in log] == []


def test_passwords_are_read_from_standard_input_and_not_taken_as_arguments(service: Service, home: Path) -> None:
    def run(*arguments: str, entered: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [TIERCEL, "accounts", *arguments],
            cwd=home.parent,
            env=make_environment(home),
            input=entered,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )

    assert run("create-admin", "bob@example.com", "--password-stdin", entered=f"{NEW}\n").returncode == 0
    again = run("create-admin", "bob@example.com", "--password-stdin", entered=f"{NEW}\n")
    assert (again.returncode, "there is a user bob@example.com" in again.stderr) == (1, True)
    weak = run("users", "set-password", "bob@example.com", "--password-stdin", entered="password\n")
    assert (weak.returncode, weak.stderr) == (1, "tiercel: password: Expected at least 12 characters.\n")
    assert run("users", "set-password", "bob@example.com", "--password-stdin", entered=f"{PASSWORD}\n").returncode == 0
    assert run("users", "set-password", "bob@example.com", "--password", PASSWORD, entered="").returncode == 2
    assert run("create-admin", "no address", "--password-stdin", entered=f"{NEW}\n").returncode == 2
    answer = service.post("/api/v1/auth/sign-in/", {"email": "bob@example.com", "password": PASSWORD})
    assert answer.status_code == 200


def test_the_tables_of_secrets_show_nothing_to_a_session_of_an_account(home: Path, service: Service) -> None:
    sign_in(service)
    tables = ("signing_key", "sign_in_attempt", "known_address")
    with psycopg.connect(run_tiercel(home, "db", "url").stdout.strip(), autocommit=True) as connection:
        counts = {name: connection.execute(f"SELECT count(*) FROM accounts.{name}").fetchone() for name in tables}
        connection.execute("SET tiercel.account = '0'")
        seen = {name: connection.execute(f"SELECT count(*) FROM accounts.{name}").fetchone() for name in tables}

    assert all(count is not None and count[0] > 0 for count in counts.values())
    assert set(seen.values()) == {(0,)}
