"""The objects of this plugin, constructed and wired together once for a process."""

from __future__ import annotations

from typing import Any

import msgspec

from kernel import Cache, Services
from plugins.accounts.authentication import Authentication
from plugins.accounts.keys import CHANNEL, ApiKeys
from plugins.accounts.settings import AccountsSettings
from plugins.accounts.sign_in import sessions as sessions_module
from plugins.accounts.sign_in import signing_keys as signing_keys_module
from plugins.accounts.sign_in import users as users_module
from plugins.accounts.sign_in.access_tokens import LEEWAY_S, AccessTokens
from plugins.accounts.sign_in.attempts import Attempts
from plugins.accounts.sign_in.mail import LogMailer, Mailer, SmtpMailer, SmtpServer
from plugins.accounts.sign_in.passwords import Passwords
from plugins.accounts.sign_in.reset import PasswordResets
from plugins.accounts.sign_in.service import PasswordSignIn
from plugins.accounts.sign_in.sessions import SessionLimits, Sessions
from plugins.accounts.sign_in.signing_keys import SigningKeys
from plugins.accounts.sign_in.users import Users

_BASIC_CACHED = 1000


class Container(msgspec.Struct, frozen=True):
    """What routes, commands and jobs share."""

    settings: AccountsSettings
    keys: ApiKeys
    users: Users
    passwords: Passwords
    attempts: Attempts
    signing_keys: SigningKeys
    sessions: Sessions
    access_tokens: AccessTokens
    sign_in: PasswordSignIn
    resets: PasswordResets
    authentication: Authentication


def make_container(services: Services) -> Container:
    """Construct the objects. Called through ``services.once``."""
    settings, db, now = services.settings(AccountsSettings), services.db, services.clock.now
    cache: Cache[str, Any] = services.cache.create("accounts.keys", settings.keys_cached)
    keys = ApiKeys(db, cache, now)
    services.listen(CHANNEL, keys.forget, poll=cache.clear)

    users_cache: Cache[int, Any] = services.cache.create("accounts.users", settings.sessions_cached)
    users = Users(db, users_cache)
    services.listen(users_module.CHANNEL, users.forget, poll=users_cache.clear)

    signing_keys = SigningKeys(db, now, settings.access_token_s + LEEWAY_S, services.kernel_settings.secret_key)
    services.listen(signing_keys_module.CHANNEL, signing_keys.forget, poll=signing_keys.forget)

    sessions_cache: Cache[int, Any] = services.cache.create("accounts.sessions", settings.sessions_cached)
    limits = SessionLimits(settings.session_idle_s, settings.refresh_token_s, settings.session_max_s)
    sessions = Sessions(db, sessions_cache, signing_keys, users, limits, now)
    services.listen(sessions_module.CHANNEL, sessions.forget, poll=sessions_cache.clear)
    access_tokens = AccessTokens(signing_keys, sessions, settings.access_token_s, now)

    passwords = Passwords(settings.password_length_min, settings.password_hashes_max)
    attempts = Attempts(db, now)
    sign_in = PasswordSignIn(users, passwords, attempts, services.cache.create("accounts.basic", _BASIC_CACHED))
    resets = PasswordResets(
        db,
        users,
        passwords,
        attempts,
        _make_mailer(services, settings),
        settings.reset_url,
        settings.reset_token_s,
        now,
    )
    return Container(
        settings=settings,
        keys=keys,
        users=users,
        passwords=passwords,
        attempts=attempts,
        signing_keys=signing_keys,
        sessions=sessions,
        access_tokens=access_tokens,
        sign_in=sign_in,
        resets=resets,
        authentication=Authentication(db, keys, access_tokens, sessions, sign_in, users),
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
