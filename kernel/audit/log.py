"""Write the audit log: entries in the transactions of the changes, and one for every request that changes something.

``Audit.record`` only notes what happened; the entries are written when the transaction commits. So the chain of an
account is locked for the time of two statements and the commit, whatever else the transaction does, and always after
everything else that it locks: transactions cannot deadlock on it. A savepoint that is rolled back takes its entries
with it.
"""

from __future__ import annotations

import os
import pwd
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from itertools import groupby
from typing import Any, Protocol, Self

import msgspec
from psycopg import Connection

from kernel.audit.entries import Actor, AuditEntry, Changes, Draft, Target, clean_text, encode_changes
from kernel.cache import Cache
from kernel.db.failures import describe
from kernel.db.pool import Database, defer_until_commit, include_accounts
from kernel.db.queries import load_queries
from kernel.identity import SYSTEM_ACCOUNT, Identity, current_identity
from kernel.logging import Logger

QUERIES = load_queries(__package__)
_SERVICE = Actor(name="the service", scheme="service")
_ANONYMOUS = Actor(name="anonymous", scheme="anonymous")
# Pages read what they show again and again: that is recorded once within this time.
_SEEN_FOR_S = 600.0
_SEEN_MAX = 10_000


class HttpRequest(Protocol):
    """What an entry says of a request."""

    @property
    def method(self) -> str:
        """In upper case."""

    @property
    def path_as_sent(self) -> str:
        """The path, without the query string."""

    @property
    def query_string(self) -> str:
        """Without the question mark."""

    @property
    def request_id(self) -> str:
        """As in ``X-Request-ID``."""

    @property
    def env(self) -> dict[str, Any]:
        """The environment of WSGI."""


class _Origin(msgspec.Struct):
    """Where the changes come from that are made in this thread.

    Args:
        action: What a change is called that nothing else is known of.
        actor: The user of a command; None in a request.
        request: The request; None in a command.
        identity: Who sends it; None before it is known, and on a public route.
        needs_entry: Whether the request, or command, is recorded if it changes something.
        has_entry: Whether a transaction with an entry was committed.
    """

    action: str
    actor: Actor | None = None
    request: HttpRequest | None = None
    identity: Identity | None = None
    needs_entry: bool = False
    has_entry: bool = False


_ORIGIN: ContextVar[_Origin | None] = ContextVar("audit_origin", default=None)


class Audit:
    """The audit log.

    Args:
        db: The pool; every transaction of it that commits writes the entries that were recorded in it.
        log: Gets an entry that could not be written.
        now: The clock.
    """

    def __init__(self, db: Database, log: Logger, now: Callable[[], datetime]) -> None:
        self._db = db
        self._log = log
        self._now = now
        self._lock = threading.Lock()
        self._written = 0
        # Until when a page that somebody looked at counts as seen, of ``time.monotonic``.
        self._seen: Cache[tuple[object, ...], float] = Cache(_SEEN_MAX)
        db.before_commit(self._before_commit)

    @property
    def written(self) -> int:
        """How many entries this process has committed."""
        return self._written

    def record(
        self,
        connection: Connection[Any],
        *,
        action: str,
        target: tuple[str, object],
        changes: Changes | None = None,
        account: int | None = None,
        identity: Identity | None = None,
    ) -> None:
        """Record a change in the transaction that makes it: both are committed, or neither.

        Example::

            with services.db.transaction() as connection:
                before, after = rename(connection, site, name)
                services.audit.record(
                    connection, action="site.update", target=("site", site), changes=compare(before, after)
                )

        Args:
            connection: Of the pool, in a transaction at READ COMMITTED.
            action: What is done: the kind of thing and a verb.
            target: Kind and id of what is changed; None in place of an id for all of that kind.
            changes: By field, the values before and after; see ``compare``. What looks like a secret or a hash by its
                name, its type or its form becomes ``***``, and what is long is cut off.
            account: The account whose chain gets the entry; by default the account of the request.
            identity: Who does it, where that is not who sends the request: somebody who signs in.

        Raises:
            RuntimeError: There is no transaction.
        """
        origin = _ORIGIN.get()
        by = identity or current_identity() or (None if origin is None else origin.identity)
        if account is None:
            account = SYSTEM_ACCOUNT if by is None or by.account is None else by.account
        kind, target_id = target
        self._defer(connection, origin, by, account, action, (kind, target_id), changes)

    # --- requests and commands --------------------------------------------------------------------------------------

    def request(self, request: HttpRequest, template: str, *, needs_entry: bool) -> AuditedRequest:
        """Serve a request in a block, with what this returns: what is recorded in it is said to come from there.

        A request that ``needs_entry`` gets one with the first of its transactions that changes something. Where the
        handler records an entry itself, that one is enough.

        Args:
            request: The request.
            template: Its route.
            needs_entry: Whether it is recorded if it changes something.
        """
        return AuditedRequest(self, _Origin(f"{request.method} {template}", request=request, needs_entry=needs_entry))

    @contextmanager
    def command(self, name: str) -> Iterator[None]:
        """Run a command in the block: what is recorded in it was done by the user of the operating system.

        It gets an entry with the first of its transactions that changes something, unless it records one itself.

        Args:
            name: As it is called, without arguments, which may be secrets: ``tiercel observability forget``.
        """
        token = _ORIGIN.set(_Origin(name, actor=_command_actor(), needs_entry=True))
        try:
            yield
        finally:
            _ORIGIN.reset(token)

    def admit(self, identity: Identity | None) -> None:
        """Note who sends the current request. If it acts for an account that it does not belong to, record that first.

        What a browser that acts for an account reads again within ten minutes, such as a part of a page that refreshes
        itself, is not recorded again.

        Raises:
            UnavailableError: The entry cannot be written: nobody looks into another account unseen.
        """
        origin = _ORIGIN.get()
        if origin is None or identity is None:
            return
        origin.identity = identity
        own, named = identity.own_account, identity.account
        if own is None or named is None or own == named or origin.request is None:
            return
        request = origin.request
        seen = _seen_key(identity, request)
        if seen is not None and (self._seen.get(seen) or 0) > time.monotonic():
            return
        changes: Changes = {
            "account": (own, named),
            "method": (None, request.method),
            "query": (None, request.query_string),
        }
        target = ("path", request.path_as_sent)
        with self._db.transaction() as connection:
            for account in (own, named):
                self._defer(connection, origin, identity, account, "account.access", target, changes)
        # That was not the change itself.
        origin.has_entry = False
        if seen is not None:
            self._seen.set(seen, time.monotonic() + _SEEN_FOR_S)

    def ensure_entry(self, origin: _Origin) -> None:
        """Write the entry of a request that needs one and has none."""
        if not origin.needs_entry or origin.has_entry or origin.request is None:
            return
        draft = _draft_of_origin(origin)
        try:
            with self._db.transaction() as connection:
                defer_until_commit(connection, draft)
        except Exception as ex:
            # The change is done, and cannot be undone: let at least the log have it.
            self._log.error(
                "audit_entry_lost",
                account=draft.account,
                actor=draft.actor.name,
                action=draft.action,
                target=draft.target.id,
                client=draft.client,
                request_id=draft.request_id,
                reason=describe(ex),
            )
            raise

    # --- entries ----------------------------------------------------------------------------------------------------

    def _defer(
        self,
        connection: Connection[Any],
        origin: _Origin | None,
        by: Identity | None,
        account: int,
        action: str,
        target: tuple[str, object],
        changes: Changes | None,
    ) -> None:
        defer_until_commit(connection, _make_draft(origin, by, account, action, target, changes))

    def _before_commit(self, connection: Connection[Any], deferred: Sequence[Draft]) -> Callable[[], None] | None:
        origin = _ORIGIN.get()
        drafts = deferred
        if not drafts and origin is not None and _lacks_entry(origin, connection):
            drafts = [_draft_of_origin(origin)]
        if not drafts:
            return None
        self._append(connection, drafts)
        return lambda: self._note_committed(origin, len(drafts))

    def _note_committed(self, origin: _Origin | None, count: int) -> None:
        with self._lock:
            self._written += count
        if origin is not None:
            origin.has_entry = True

    def _append(self, connection: Connection[Any], drafts: Sequence[Draft]) -> None:
        """Write entries, account by account in the order of their numbers, so that no two wait for each other."""
        include_accounts(connection, {draft.account for draft in drafts})
        for account, group in groupby(sorted(drafts, key=lambda draft: draft.account), lambda draft: draft.account):
            number, previous_hash = _lock_chain(connection, account)
            rows = []
            for draft in group:
                number += 1
                entry = draft.at(number, self._now(), previous_hash)
                previous_hash = bytes.fromhex(entry.hash)
                rows.append(_to_row(entry, draft.changes))
            if len(rows) > 1:
                connection.cursor().executemany(QUERIES["insert_entry"], rows[:-1])
            connection.execute(QUERIES["append_last_entry"], rows[-1])


def _seen_key(identity: Identity, request: HttpRequest) -> tuple[object, ...] | None:
    """Return what a request of a browser looks at, and who does; None if each of its kind is recorded.

    A program names the account in a header, with each request that it means to send.
    """
    if request.method not in {"GET", "HEAD"} or "HTTP_X_ACCOUNT" in request.env:
        return None
    return identity.scheme, identity.name, identity.account, request.path_as_sent, request.query_string


class AuditedRequest:
    """The block in which a request is served; every request has one, and a class is entered faster than a generator.

    Args:
        audit: The audit log.
        origin: The request.
    """

    __slots__ = ("_audit", "_origin", "_token")

    def __init__(self, audit: Audit, origin: _Origin) -> None:
        self._audit = audit
        self._origin = origin

    def __enter__(self) -> Self:
        self._token = _ORIGIN.set(self._origin)
        return self

    def __exit__(self, *_raised: object) -> None:
        _ORIGIN.reset(self._token)

    def ensure_entry(self) -> None:
        """Write the entry of a request that succeeded, and changed something outside of transactions."""
        self._audit.ensure_entry(self._origin)


def _draft_of_origin(origin: _Origin) -> Draft:
    """Return the entry of a request, or command, of which nothing else is known."""
    by, request = origin.identity, origin.request
    account = SYSTEM_ACCOUNT if by is None or by.account is None else by.account
    if request is None:
        return _make_draft(origin, by, account, origin.action, ("command", None), None)
    changes: Changes = {"query": (None, request.query_string)} if request.query_string else {}
    return _make_draft(origin, by, account, origin.action, ("path", request.path_as_sent), changes)


def _make_draft(
    origin: _Origin | None,
    by: Identity | None,
    account: int,
    action: str,
    target: tuple[str, object],
    changes: Changes | None,
) -> Draft:
    request = None if origin is None else origin.request
    kind, target_id = target
    if origin is not None and origin.actor is not None:
        # A command acts as identities that it makes up.
        actor = origin.actor
    elif by is not None:
        actor = Actor.of(by)
    else:
        actor = _SERVICE if request is None else _ANONYMOUS
    return Draft(
        account=account,
        action=clean_text(action),
        actor=actor,
        changes=encode_changes(changes),
        # The clients of a Unix socket have no address.
        client=None if request is None else request.env.get("REMOTE_ADDR") or None,
        request_id=None if request is None else request.request_id,
        target=Target(id=None if target_id is None else clean_text(str(target_id)), kind=clean_text(kind)),
    )


def _lacks_entry(origin: _Origin, connection: Connection[Any]) -> bool:
    """Tell whether a transaction is to have the entry of its request or command: the first that changes something."""
    # What the service does for itself meanwhile, as nobody, is not the change that was asked for.
    is_for_nobody = origin.request is not None and current_identity() is None
    if not origin.needs_entry or origin.has_entry or is_for_nobody:
        return False
    row = connection.execute(QUERIES["has_changed"]).fetchone()
    return row is not None and bool(row[0])


def _lock_chain(connection: Connection[Any], account: int) -> tuple[int, bytes]:
    """Return number and hash of the last entry of a chain; no other transaction adds one until this one ends."""
    while (row := connection.execute(QUERIES["lock_chain"], {"account": account}).fetchone()) is None:
        connection.execute(QUERIES["create_chain"], {"account": account})
    return row[0], bytes(row[1])


def _to_row(entry: AuditEntry, changes: str) -> dict[str, Any]:
    return {
        "account": entry.account,
        "number": entry.number,
        "time": entry.time,
        "actor_scheme": entry.actor.scheme,
        "actor_name": entry.actor.name,
        "actor_account": entry.actor.account,
        "actor_user": entry.actor.user,
        "actor_key": entry.actor.key,
        "action": entry.action,
        "target_kind": entry.target.kind,
        "target_id": entry.target.id,
        "changes": changes,
        "client": entry.client,
        "request_id": entry.request_id,
        "previous_hash": bytes.fromhex(entry.previous_hash),
        "hash": bytes.fromhex(entry.hash),
    }


def _command_actor() -> Actor:
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        # Containers have users without a name.
        user = str(os.getuid())
    # Of a user who became root; sudo sets it.
    behind = os.environ.get("SUDO_USER") if os.getuid() == 0 else None
    name = f"{user} ({behind})" if behind else user
    return Actor(name=clean_text(f"{name} on {socket.gethostname()}"), scheme="command")
