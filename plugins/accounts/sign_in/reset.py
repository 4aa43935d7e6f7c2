"""Reset a forgotten password with a token that is sent by mail, works once, and expires."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from kernel import (
    Database,
    InvalidError,
    Job,
    Request,
    load_queries,
)
from kernel.http import network_of
from kernel.identity import acting_as
from kernel.jobs import JobError, Run
from plugins.accounts.emails import normalize_email
from plugins.accounts.sign_in.attempts import Attempts
from plugins.accounts.sign_in.mail import Mail, Mailer
from plugins.accounts.sign_in.passwords import Passwords
from plugins.accounts.sign_in.users import UserStore

QUERIES = load_queries(__package__)
JOB = "accounts.send_reset"
# Where a person enters a token. What a client says the service is called is no address to send people to.
PAGE = "/reset-password/confirm/"
_TOKEN = re.compile(r"tp_[A-Za-z0-9_-]{43}")
_SECRET_BYTES = 32
# Of one user, so that nobody can fill the mailbox of another one.
PENDING_MAX = 3


class ResetMail(msgspec.Struct, frozen=True):
    """Parameters of the job that sends a token.

    Args:
        email: Normalised address of somebody who may be a user.
    """

    email: str


class PasswordResets:
    """Sends and takes tokens.

    Args:
        db: Connection pool.
        users: The users.
        passwords: Hashes passwords.
        attempts: Limits how many tokens are asked for.
        mailer: Delivers tokens; None delivers none.
        url: Where a person enters the new password, with ``{token}``; None if the token is sent alone.
        lifetime_s: How long a token works.
        now: The clock.
    """

    def __init__(
        self,
        db: Database,
        users: UserStore,
        passwords: Passwords,
        attempts: Attempts,
        mailer: Mailer | None,
        url: str | None,
        lifetime_s: int,
        now: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._users = users
        self._passwords = passwords
        self._attempts = attempts
        self._mailer = mailer
        self._url = url
        self._lifetime_s = lifetime_s
        self._now = now

    def ensure_may_ask(self, request: Request) -> None:
        """Count a request for a token.

        Raises:
            TooManyRequestsError: Too many came from there.
        """
        self._attempts.begin_reset(network_of(request.remote_addr or ""))

    def job(self) -> Job:
        """Return the job that sends a token."""
        lock = f"{JOB}-{{email}}"
        return Job(name=JOB, run=self.send, lock=lock, timeout_s=120.0, retries=3, retry_wait_s=30.0)

    def send(self, parameters: ResetMail, run: Run) -> None:
        """Send a token to an address, if it is that of a user: the job ``accounts.send_reset``."""
        if self._mailer is None:
            run.log.warning("nothing_sent", reason="accounts.mail is off")
            return
        token = f"tp_{secrets.token_urlsafe(_SECRET_BYTES)}"
        now = self._now()
        values = {
            "email": parameters.email,
            "sha256": _hash(token),
            "now": now,
            "expires_at": now + timedelta(seconds=self._lifetime_s),
            "most": PENDING_MAX,
        }
        with acting_as(None), self._db.connection() as connection:
            connection.execute(QUERIES["delete_old_resets"], values)
            row = connection.execute(QUERIES["insert_reset"], values).fetchone()
        if row is None:
            run.log.info("nothing_sent", reason="there is no such user, or enough was sent already")
            return
        try:
            self._mailer.send(self._make_mail(parameters.email, token))
        except OSError as ex:
            with acting_as(None), self._db.connection() as connection:
                connection.execute(QUERIES["use_reset"], values)
            # The text of the error may quote the message.
            raise JobError(f"the mail could not be sent: {type(ex).__name__}", retry=True) from None

    def _make_mail(self, email: str, token: str) -> Mail:
        minutes = self._lifetime_s // 60
        how = (
            f"Open this page to choose a new one:\n\n{self._url.replace('{token}', token)}"
            if self._url
            else f"Choose a new one with this token, on the page {PAGE} of the service:\n\n{token}"
        )
        text = (
            f"Somebody, probably you, forgot the password of {email}.\n\n{how}\n\n"
            f"It works once, within {minutes} minutes. If it was not you, you need not do anything.\n"
        )
        return Mail(email, "Reset your password", text)

    def confirm(self, request: Request, token: str, password: str) -> None:
        """Set a new password.

        All sessions and tokens of the user end, and the client's address counts as one of the user's.

        Raises:
            InvalidError: The token does not work, or the password is not accepted.
        """
        unknown = InvalidError("The password was not reset.", errors={"token": ["It is unknown, used or expired."]})
        if not _TOKEN.fullmatch(token):
            raise unknown
        values = {"sha256": _hash(token), "now": self._now()}
        with acting_as(None), self._db.connection() as connection:
            row = connection.execute(QUERIES["find_reset"], values).fetchone()
        if row is None:
            raise unknown
        user, email = row
        self._passwords.ensure_acceptable(password, field="password", own_words=own_words(email))
        password_hash = self._passwords.hash(password)
        with acting_as(None), self._db.transaction() as connection:
            # Of two at the same time, one finds it used.
            if connection.execute(QUERIES["use_reset"], values).fetchone() is None:
                raise unknown
            self._users.set_password(user, password_hash, connection=connection)
        self._attempts.know(network_of(request.remote_addr or ""), normalize_email(email))


def own_words(email: str, name: str = "") -> tuple[str, ...]:
    """Return what a user is known by, and must not be the password."""
    return tuple(filter(None, (email, email.partition("@")[0], name, "tiercel")))


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
