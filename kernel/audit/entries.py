"""Entries of the audit log: what they say, and the form that is hashed.

The hash of an entry is SHA-256 over the JSON of all its other members, ``previous_hash`` among them, in the form of RFC
8785 (https://www.rfc-editor.org/rfc/rfc8785): members sorted by name, no white space, UTF-8. The Structs here have
their fields sorted by name, so that their encoding is that form. ``changes`` is stored as the text that is hashed. So
that every JSON library arrives at the same text, it has no numbers but those that each of them writes alike: others are
stored as text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence, Set
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec

from kernel.identity import Identity
from kernel.masking import MASK, is_secret_name, mask_text
from kernel.settings import Secret

# ``previous_hash`` of the first entry.
NO_HASH = bytes(32)
# By field, what it was before and what it is after.
Changes = Mapping[str, tuple[Any, Any]]
# Longer texts are cut off; of more fields, or items, the rest is left out.
TEXT_MAX = 1_000
FIELDS_MAX = 200
ITEMS_MAX = 100
CHANGES_MAX_BYTES = 64 * 1024
_DEPTH_MAX = 8
# Integers beyond are not exact where numbers are of double precision.
_INTEGER_MAX = 2**53 - 1
# JavaScript and Python write those within with the same digits, and without an exponent.
_FLOAT_MIN, _FLOAT_MAX = 1e-4, 2.0**53 - 1
_HASH_NAME = re.compile(r"hash|sha\d|digest|salt|otp\b", re.IGNORECASE)
# What PostgreSQL cannot store, or UTF-8 cannot encode.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_REPLACEMENT = "\ufffd"


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Who changed something. Fields are sorted by name: see the module.

    Args:
        account: The account that it belongs to; that of the chain may be another one.
        key: Number of the API key.
        name: For people, without secrets; of a command, the user of the operating system.
        scheme: How it was authenticated; ``command`` for the command line, ``anonymous`` for a request on a public
            route, ``service`` for work of the service itself.
        user: Number of the user.
    """

    account: int | None = None
    key: int | None = None
    name: str
    scheme: str
    user: int | None = None

    @classmethod
    def of(cls, identity: Identity) -> Actor:
        """Return the actor that an identity is."""
        return cls(
            account=identity.own_account,
            key=identity.key,
            name=clean_text(identity.name),
            scheme=identity.scheme,
            user=identity.user,
        )


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What was changed.

    Args:
        id: Which one; None for all of them, or none in particular.
        kind: Such as ``api_key``; ``path`` for what only a request names.
    """

    id: str | None
    kind: str


class _HashedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry without its hash."""

    account: int
    action: str
    actor: Actor
    changes: msgspec.Raw
    client: str | None
    number: int
    previous_hash: str
    request_id: str | None
    target: Target
    time: str


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the audit log. Fields are sorted by name: see the module.

    Args:
        account: The account whose chain it is in: the one whose data were changed.
        action: What was done, such as ``api_key.revoke``; of a request, method and route: ``PATCH /api/requests/{id}``.
        actor: Who did it.
        changes: By field, ``[before, after]``.
        client: Address of the client of the request.
        hash: SHA-256, hexadecimal, of the other members.
        number: In the chain of its account, from 1.
        previous_hash: The hash of the entry before it; zeros for the first.
        request_id: As in the response's ``X-Request-ID``.
        target: What was changed.
        time: UTC, with microseconds: ``2026-01-05T09:30:00.000000Z``.
    """

    account: int
    action: str
    actor: Actor
    changes: msgspec.Raw
    client: str | None
    hash: str
    number: int
    previous_hash: str
    request_id: str | None
    target: Target
    time: str

    def expected_hash(self) -> str:
        """Return the hash that the other members have, hexadecimal."""
        hashed = _HashedEntry(
            account=self.account,
            action=self.action,
            actor=self.actor,
            changes=self.changes,
            client=self.client,
            number=self.number,
            previous_hash=self.previous_hash,
            request_id=self.request_id,
            target=self.target,
            time=self.time,
        )
        return hashlib.sha256(msgspec.json.encode(hashed)).hexdigest()


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that has no place in a chain yet."""

    account: int
    action: str
    actor: Actor
    changes: str
    client: str | None
    request_id: str | None
    target: Target

    def at(self, number: int, time: datetime, previous_hash: bytes) -> AuditEntry:
        """Return the entry at its place in the chain."""
        entry = AuditEntry(
            account=self.account,
            action=self.action,
            actor=self.actor,
            changes=msgspec.Raw(self.changes.encode()),
            client=self.client,
            hash="",
            number=number,
            previous_hash=previous_hash.hex(),
            request_id=self.request_id,
            target=self.target,
            time=time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        )
        return msgspec.structs.replace(entry, hash=entry.expected_hash())


def to_entry(row: Sequence[Any]) -> AuditEntry:
    """Make an entry of a row of ``list_entries``."""
    (account, number, time, scheme, name, own_account, user, key, action, kind, target, changes, client, request_id) = (
        row[:14]
    )
    return AuditEntry(
        account=account,
        action=action,
        actor=Actor(account=own_account, key=key, name=name, scheme=scheme, user=user),
        changes=msgspec.Raw(changes.encode()),
        client=client,
        hash=row[15],
        number=number,
        previous_hash=row[14],
        request_id=request_id,
        target=Target(id=target, kind=kind),
        time=time,
    )


# --- changes ----------------------------------------------------------------------------------------------------------


def compare(before: Any, after: Any) -> Changes:
    """Return the fields in which two states of a thing differ, for ``Audit.record``.

    Args:
        before: A Struct or a mapping; None if it did not exist.
        after: Likewise; None if it does not exist any more.
    """
    old, new = _fields(before), _fields(after)
    names = [*old, *(name for name in new if name not in old)]
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def _fields(state: Any) -> Mapping[str, Any]:
    if state is None:
        return {}
    return msgspec.structs.asdict(state) if isinstance(state, msgspec.Struct) else state


def encode_changes(changes: Changes | None) -> str:
    """Return the text of changes as it is stored and hashed (RFC 8785), without secrets and hashes."""
    given = list((changes or {}).items())
    plain = _sorted_members(
        {clean_text(name): [_plain(before, name), _plain(after, name)] for name, (before, after) in given[:FIELDS_MAX]}
    )
    text = _encode_canonical(plain)
    if len(text.encode()) > CHANGES_MAX_BYTES:
        # Which fields changed is still of use.
        text = _encode_canonical({name: [_REPLACEMENT, _REPLACEMENT] for name in plain})
    return text


def clean_text(text: str, length_max: int = TEXT_MAX) -> str:
    """Return a text that can be stored, cut off at a length, with ``***`` in place of what looks like a secret."""
    # What is far beyond the end is not looked at.
    text = mask_text(_UNSTORABLE.sub(_REPLACEMENT, text[: 10 * length_max]))
    return text if len(text) <= length_max else f"{text[: length_max - 1]}…"


def _encode_canonical(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _plain(value: Any, name: str, depth: int = 0) -> Any:
    """Return a value of the types of JSON, without secrets."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Secret | bytes | bytearray | memoryview) or is_secret_name(name) or _HASH_NAME.search(name):
        return MASK
    if isinstance(value, int | float):
        return _plain_number(value)
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    if isinstance(value, Mapping | Set | list | tuple):
        return _REPLACEMENT if depth >= _DEPTH_MAX else _plain_collection(value, name, depth + 1)
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(UTC)
    return clean_text(str(msgspec.to_builtins(value, enc_hook=str)))


def _plain_collection(value: Mapping[Any, Any] | Set[Any] | Sequence[Any], name: str, depth: int) -> Any:
    if isinstance(value, Mapping):
        items = islice(value.items(), ITEMS_MAX)
        return _sorted_members({clean_text(str(key)): _plain(inner, str(key), depth) for key, inner in items})
    ordered = sorted(value, key=str) if isinstance(value, Set) else value
    return [_plain(inner, name, depth) for inner in ordered[:ITEMS_MAX]]


def _sorted_members(members: dict[str, Any]) -> dict[str, Any]:
    """Return an object with its members in the order of RFC 8785: by the UTF-16 code units of their names."""
    return dict(sorted(members.items(), key=lambda member: member[0].encode("utf-16-be")))


def _plain_number(value: float) -> float | int | str:
    if abs(value) <= _INTEGER_MAX and value == int(value):
        return int(value)
    # Larger integers are larger than this as well.
    return value if _FLOAT_MIN <= abs(value) <= _FLOAT_MAX else repr(value)
