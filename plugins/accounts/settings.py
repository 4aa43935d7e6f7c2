"""The table ``[accounts]`` of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from kernel import Secret, Table


class AccountsSettings(Table, frozen=True):
    """Keys, signing in, and mail.

    Args:
        keys_cached: How many API keys a process remembers.
        sessions_cached: How many sessions a process remembers, and how many users.
        access_token_s: How long an access token is good, in seconds.
        refresh_token_s: How long a refresh token is good, in seconds.
        session_idle_s: After how many seconds without a request a session with a cookie ends.
        session_max_s: How long a session lasts at most, in seconds.
        password_length_min: The fewest characters of a new password.
        password_hashes_max: How many passwords a process hashes at the same time.
        reset_token_s: How long a token that resets a password works, in seconds.
        reset_url: The page that a mail links to, with ``{token}``.
        mail: How mail is delivered.
        mail_from: The sender of mail.
        smtp_host: The server that takes mail.
        smtp_port: Its port.
        smtp_security: How its connection is secured.
        smtp_user: Its user.
        smtp_password: The password of that user.
    """

    keys_cached: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    sessions_cached: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    access_token_s: Annotated[int, msgspec.Meta(ge=10, le=86_400)] = 900
    refresh_token_s: Annotated[int, msgspec.Meta(ge=60)] = 14 * 86_400
    session_idle_s: Annotated[int, msgspec.Meta(ge=60)] = 12 * 3600
    session_max_s: Annotated[int, msgspec.Meta(ge=60, le=365 * 86_400)] = 30 * 86_400
    # NIST SP 800-63B-4 asks for 15 of a password that is the only factor, and for 8 at the least.
    password_length_min: Annotated[int, msgspec.Meta(ge=8, le=64)] = 12
    password_hashes_max: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    reset_token_s: Annotated[int, msgspec.Meta(ge=60, le=86_400)] = 3600
    reset_url: str | None = None
    mail: Literal["off", "smtp", "log"] = "off"
    mail_from: str = "tiercel@localhost"
    smtp_host: str = "localhost"
    smtp_port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 587
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    smtp_user: str | None = None
    smtp_password: Secret | None = None

    def __post_init__(self) -> None:
        """Validate that a token gets into the link."""
        if self.reset_url is not None and "{token}" not in self.reset_url:
            raise ValueError("reset_url: Expected an address with {token} in it.")
