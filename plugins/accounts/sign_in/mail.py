"""Deliver mail: through a server, or to the log, where there is none."""

from __future__ import annotations

import smtplib
import ssl
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Literal, Protocol

import msgspec

from kernel import Secret

_TIMEOUT_S = 20.0
SmtpSecurity = Literal["starttls", "tls", "none"]


class Mail(msgspec.Struct, frozen=True):
    """A message.

    Args:
        to: Normalised address.
        subject: One line.
        text: Plain text.
    """

    to: str
    subject: str
    text: str


class Mailer(Protocol):
    """Delivers mail."""

    def send(self, mail: Mail) -> None:
        """Deliver a message.

        Raises:
            OSError: It could not be delivered; ``smtplib.SMTPException`` is one.
        """


class MailLog(Protocol):
    """A log that mail can be written to."""

    def info(self, event: str, **fields: object) -> object:
        """Write a line."""


class LogMailer:
    """Writes mail to the log: for development, and where the one who asks for it is the one who reads the log.

    Args:
        log: The log.
    """

    def __init__(self, log: MailLog) -> None:
        self._log = log

    def send(self, mail: Mail) -> None:
        """Write a message to the log; see ``Mailer``."""
        self._log.info("mail", to=mail.to, subject=mail.subject, text=mail.text)


class SmtpServer(msgspec.Struct, frozen=True):
    """A server that takes mail.

    Args:
        host: Its name.
        port: Its port.
        security: ``starttls``, ``tls`` from the first byte, or ``none``.
        user: To sign in with; None for not at all.
        password: Of the user.
        sender: The address that mail is from.
    """

    host: str
    port: int
    security: SmtpSecurity
    user: str | None
    password: Secret | None
    sender: str


class SmtpMailer:
    """Sends mail through a server (RFC 5321).

    Args:
        server: The server.
    """

    def __init__(self, server: SmtpServer) -> None:
        self._server = server

    def send(self, mail: Mail) -> None:
        """Send a message; see ``Mailer``."""
        server = self._server
        message = EmailMessage()
        message["From"] = server.sender
        message["To"] = _address(mail.to)
        message["Subject"] = mail.subject
        message["Date"] = formatdate(localtime=False)
        message["Message-ID"] = make_msgid(domain=server.sender.rpartition("@")[2])
        # No vacation notices (RFC 3834).
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail.text)
        context = ssl.create_default_context()
        smtp = (
            smtplib.SMTP_SSL(server.host, server.port, timeout=_TIMEOUT_S, context=context)
            if server.security == "tls"
            else smtplib.SMTP(server.host, server.port, timeout=_TIMEOUT_S)
        )
        with smtp:
            if server.security == "starttls":
                # Raises if the server does not: nothing is sent in the open.
                smtp.starttls(context=context)
            if server.user is not None and server.password is not None:
                smtp.login(server.user, server.password.reveal())
            smtp.send_message(message)


def _address(email: str) -> Address:
    local_part, _, domain = email.rpartition("@")
    # Servers take domains in ASCII; a local part beyond it needs one that knows SMTPUTF8.
    return Address(username=local_part, domain=domain.encode("idna").decode())
