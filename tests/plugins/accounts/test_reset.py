"""Resetting a forgotten password: tokens that are mailed, work once and expire."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from datetime import timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any
from urllib.parse import urlencode

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from kernel.testing import Client, Result
from plugins.accounts.sign_in.mail import LogMailer, Mail
from plugins.accounts.sign_in.reset import PAGE
from tests.conftest import service_starter
from tests.kernel.fakes import CapturedLog
from tests.plugins.accounts.factories import TestUser, accounts_of, basic, bearer, create_user, tokens_of
from tests.plugins.accounts.test_tokens import Clock

RESET, CONFIRM, ME = "/api/v1/auth/reset/", "/api/v1/auth/reset/confirm/", "/api/v1/auth/me/"
NEW = "a new and long password"
SMTP_PASSWORD = "the password of the server"


class Inbox:
    """A mail server's handler that keeps what it gets."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.passwords: list[bytes] = []

    def sign_in(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, data: LoginPassword) -> AuthResult:
        """Take any password, and keep it."""
        self.passwords.append(data.password)
        return AuthResult(success=True)

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        self.recipients += envelope.rcpt_tos
        return "250 OK"


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def smtp() -> Iterator[tuple[Inbox, int]]:
    """A real mail server on a port of this machine."""
    inbox = Inbox()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    controller = Controller(
        inbox,
        hostname="127.0.0.1",
        port=port,
        authenticator=inbox.sign_in,
        auth_require_tls=False,
        enable_SMTPUTF8=True,
    )
    controller.start()
    yield inbox, port
    controller.stop()


@pytest.fixture(scope="module")
def client(module_database: str, clock: Clock, smtp: tuple[Inbox, int]) -> Iterator[Client]:
    accounts = {
        "mail": "smtp",
        "mail_from": "tiercel@example.com",
        "smtp_host": "127.0.0.1",
        "smtp_port": smtp[1],
        "smtp_security": "none",
        "smtp_user": "tiercel",
        "smtp_password": SMTP_PASSWORD,
        "reset_url": "https://www.example.com/reset#{token}",
    }
    with service_starter({"url": module_database}) as start:
        yield start(clock=clock, auth="required", accounts=accounts)


@pytest.fixture(autouse=True)
def inbox(smtp: tuple[Inbox, int], clock: Clock) -> Inbox:
    clock.offset = timedelta(0)
    smtp[0].mails.clear()
    smtp[0].recipients.clear()
    return smtp[0]


def send_token(client: Client, email: str) -> None:
    """Run the job that a request starts."""
    done = client.service.shared.jobs.run_inline("accounts.send_reset", {"email": email})
    assert done.state == "succeeded", done


def token_in(inbox: Inbox) -> str:
    found = re.search(r"https://www\.example\.com/reset#(tp_\S+)", inbox.mails[-1].get_content())
    assert found is not None
    return found[1]


def confirm(client: Client, token: str, password: str = NEW) -> tuple[int, Any]:
    answer = client.post(CONFIRM, {"token": token, "password": password})
    return answer.status, answer.json().get("errors") if answer.content else None


def me(client: Client, user: TestUser, password: str) -> int:
    return client.get(ME, headers=basic(user, password)).status


def test_a_token_is_mailed_and_sets_a_new_password_once(client: Client, inbox: Inbox) -> None:
    user = create_user(client)
    session = bearer(tokens_of(client, user)["access_token"])
    send_token(client, user.email)
    (mail,) = inbox.mails

    assert (inbox.recipients, inbox.passwords[-1]) == ([user.email], SMTP_PASSWORD.encode())
    assert (mail["From"], mail["To"], mail["Subject"]) == ("tiercel@example.com", user.email, "Reset your password")
    assert confirm(client, token_in(inbox)) == (204, None)
    assert [me(client, user, password) for password in (NEW, user.password)] == [200, 401]
    assert client.get(ME, headers=session).status == 401
    assert confirm(client, token_in(inbox), "yet another password") == (
        400,
        {"token": ["It is unknown, used or expired."]},
    )


def test_the_page_takes_a_token(client: Client, inbox: Inbox) -> None:
    user = create_user(client)
    form = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin", "Accept": "text/html"}

    def send(path: str, **fields: str) -> Result:
        return client.post(path, content=urlencode(fields).encode(), headers=form)

    send_token(client, user.email)
    token = token_in(inbox)
    shown = client.get(f"{PAGE}?token={token}", headers={"Accept": "text/html"})
    weak = send(PAGE, token=token, password="short")

    assert f'value="{token}"' in shown.content.decode()
    assert "no-store" in shown.headers["cache-control"]
    assert (weak.status, 'id="form-password-error"' in weak.content.decode()) == (400, True)
    assert send(PAGE, token=token, password=NEW).headers["location"] == "/sign-in/"
    assert me(client, user, NEW) == 200
    assert send(PAGE, token=token, password=NEW).status == 400


def test_a_token_expires(client: Client, inbox: Inbox, clock: Clock) -> None:
    user = create_user(client)
    send_token(client, user.email)

    clock.offset = timedelta(hours=1, seconds=1)

    assert confirm(client, token_in(inbox))[0] == 400
    assert me(client, user, user.password) == 200


def test_a_token_that_was_sent_to_a_former_address_does_not_work(client: Client, inbox: Inbox) -> None:
    user = create_user(client)
    send_token(client, user.email)
    with client.service.db.connection() as connection:
        connection.execute("UPDATE accounts.user SET email = 'former.' || email WHERE id = %s", [user.id])

    assert confirm(client, token_in(inbox))[0] == 400


def test_a_token_is_kept_if_the_new_password_is_not_accepted(client: Client, inbox: Inbox) -> None:
    user = create_user(client)
    send_token(client, user.email)

    assert confirm(client, token_in(inbox), "short") == (400, {"password": ["Expected at least 12 characters."]})
    assert confirm(client, token_in(inbox))[0] == 204


def test_another_token_works_no_more_once_the_password_is_new(client: Client, inbox: Inbox) -> None:
    user = create_user(client)
    send_token(client, user.email)
    first = token_in(inbox)
    send_token(client, user.email)

    assert confirm(client, token_in(inbox))[0] == 204
    assert confirm(client, first, "yet another password")[0] == 400


def test_nobody_can_fill_the_mailbox_of_another_one(client: Client, inbox: Inbox) -> None:
    user = create_user(client)

    for _ in range(5):
        send_token(client, user.email)

    assert len(inbox.mails) == 3


@pytest.mark.parametrize("way", ["unknown", "inactive"])
def test_nothing_is_mailed_to_who_is_no_user(client: Client, inbox: Inbox, way: str) -> None:
    user = create_user(client)
    with client.service.db.connection() as connection:
        connection.execute("UPDATE accounts.user SET is_active = %s WHERE id = %s", [way == "unknown", user.id])

    send_token(client, "nobody@example.com" if way == "unknown" else user.email)

    assert inbox.mails == []


def test_a_request_starts_the_job_and_an_address_that_asks_too_often_has_to_wait(client: Client) -> None:
    answers = [client.post(RESET, {"email": f"ann{number}@example.com"}) for number in range(12)]

    assert [answer.status for answer in answers] == [202] * 11 + [429]
    (job, *_) = client.service.shared.jobs.list(name="accounts.send_reset")
    assert job.state == "waiting"


@pytest.mark.parametrize("token", ["", "tp_x", "tp_" + "A" * 43, "tp_" + "A" * 42 + "\0", "' OR 1=1 --"])
def test_a_token_that_was_not_issued_is_refused(client: Client, token: str) -> None:
    assert confirm(client, token) == (400, {"token": ["It is unknown, used or expired."]})


def test_an_address_beyond_ascii_gets_mail(client: Client, inbox: Inbox) -> None:
    accounts = accounts_of(client)
    with client.service.db.connection() as connection:
        connection.execute("INSERT INTO accounts.user (account, email) VALUES (0, 'björn@bücher.example')")

    send_token(client, "björn@bücher.example")

    assert inbox.recipients == ["björn@xn--bcher-kva.example"]
    assert accounts.settings.mail == "smtp"


def test_a_server_that_refuses_is_tried_again_and_its_token_does_not_count(module_database: str, smtp: Any) -> None:
    wrong = {"mail": "smtp", "smtp_host": "127.0.0.1", "smtp_port": smtp[1]}
    with service_starter({"url": module_database}) as start:
        # The server offers no STARTTLS: nothing is sent in the open.
        client = start(auth="required", accounts=wrong)
        user = create_user(client)
        done = client.service.shared.jobs.run_inline("accounts.send_reset", {"email": user.email})

        assert (done.state, done.error) == ("failed", "the mail could not be sent: SMTPNotSupportedError")
        with client.service.db.connection() as connection:
            assert connection.execute(
                "SELECT count(*) FROM accounts.password_reset WHERE user_id = %s", [user.id]
            ).fetchone() == (0,)


def test_by_default_nothing_is_sent(module_database: str) -> None:
    with service_starter({"url": module_database}) as start:
        client = start(auth="required")
        user = create_user(client)
        send_token(client, user.email)

        with client.service.db.connection() as connection:
            pending = connection.execute("SELECT FROM accounts.password_reset WHERE user_id = %s", [user.id])
            assert pending.fetchone() is None


def test_mail_can_be_written_to_the_log() -> None:
    captured = CapturedLog()

    LogMailer(captured.log).send(Mail("ann@example.com", "Reset your password", "tp_x"))

    assert captured.events("mail")[0]["text"] == "tp_x"
