"""The objects that sign users in, constructed and wired together once for a process."""

from __future__ import annotations

from typing import Any

import msgspec

from kernel import Cache, Services
from plugins.accounts.settings import AccountsSettings
from plugins.accounts.sign_in import sessions, signing_keys, users
from plugins.accounts.sign_in.access_tokens import LEEWAY_S, AccessTokens
from plugins.accounts.sign_in.attempts import Attempts
from plugins.accounts.sign_in.mail import LogMailer, Mailer, SmtpMailer, SmtpServer
from plugins.accounts.sign_in.password_check import PasswordCheck
from plugins.accounts.sign_in.passwords import Passwords
from plugins.accounts.sign_in.reset import PasswordResets

_BASIC_CACHED = 1000


class SignIn(msgspec.Struct, frozen=True):
    """What signs users in."""

    users: users.UserStore
    passwords: Passwords
    attempts: Attempts
    password_check: PasswordCheck
    signing_keys: signing_keys.SigningKeys
    sessions: sessions.Sessions
    access_tokens: AccessTokens
    resets: PasswordResets


def make_sign_in(services: Services) -> SignIn:
    """Construct the objects."""
    settings, db, now = services.settings(AccountsSettings), services.db, services.clock.now

    users_cache: Cache[int, Any] = services.cache.create("accounts.users", settings.sessions_cached)
    user_store = users.UserStore(db, users_cache, services.audit)
    services.listen(users.CHANNEL, user_store.forget, poll=users_cache.clear)

    keys = signing_keys.SigningKeys(db, now, settings.access_token_s + LEEWAY_S, services.kernel_settings.secret_key)
    services.listen(signing_keys.CHANNEL, keys.forget, poll=keys.forget)

    sessions_cache: Cache[int, Any] = services.cache.create("accounts.sessions", settings.sessions_cached)
    limits = sessions.SessionLimits(settings.session_idle_s, settings.refresh_token_s, settings.session_max_s)
    all_sessions = sessions.Sessions(db, sessions_cache, keys, user_store, limits, services.audit, now)
    services.listen(sessions.CHANNEL, all_sessions.forget, poll=sessions_cache.clear)

    passwords = Passwords(settings.password_length_min, settings.password_hashes_max)
    attempts = Attempts(db, now)
    mailer = _make_mailer(services, settings)
    return SignIn(
        users=user_store,
        passwords=passwords,
        attempts=attempts,
        password_check=PasswordCheck(
            user_store,
            passwords,
            attempts,
            services.cache.create("accounts.basic", _BASIC_CACHED),
            services.metrics.counter(
                "password_checks_total",
                "Passwords: right, wrong, or slowed_down, which is not checked.",
                ("outcome",),
            ),
        ),
        signing_keys=keys,
        sessions=all_sessions,
        access_tokens=AccessTokens(
            keys,
            all_sessions,
            settings.access_token_s,
            now,
            services.cache.create("accounts.access_tokens", settings.sessions_cached),
        ),
        resets=PasswordResets(
            db, user_store, passwords, attempts, mailer, settings.reset_url, settings.reset_token_s, now
        ),
    )


def _make_mailer(services: Services, settings: AccountsSettings) -> Mailer | None:
    if settings.mail == "off":
        return None
    if settings.mail == "log":
        return LogMailer(services.log)
    return SmtpMailer(
        SmtpServer(
            host=settings.smtp_host,
            port=settings.smtp_port,
            security=settings.smtp_security,
            user=settings.smtp_user,
            password=settings.smtp_password,
            sender=settings.mail_from,
        )
    )
