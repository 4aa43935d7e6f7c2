"""What an entry says, and the form that is hashed."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import PurePath
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.audit.entries import CHANGES_MAX_BYTES, NO_HASH, Actor, Draft, Target, compare, encode_changes
from kernel.settings import Secret

TEXTS = st.text(st.characters(exclude_categories=[]), max_size=30)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


class Thing(msgspec.Struct):
    name: str
    size: int | None = None


def decoded(changes: Any) -> Any:
    """Encode changes, and decode them as others would."""
    return json.loads(encode_changes(changes))


def utf16(text: str) -> bytes:
    """Return what RFC 8785 sorts names by."""
    return text.encode("utf-16-be")


def canonical(value: Any) -> str:
    """Serialise JSON as RFC 8785 has it, for the numbers that entries have."""
    if isinstance(value, dict):
        members = (f"{canonical(name)}:{canonical(value[name])}" for name in sorted(value, key=utf16))
        return f"{{{','.join(members)}}}"
    if isinstance(value, list):
        return f"[{','.join(map(canonical, value))}]"
    return json.dumps(value, ensure_ascii=False)


@given(name=TEXTS, before=VALUES, after=VALUES, text=TEXTS)
def test_the_hash_is_that_of_the_entry_as_another_program_serialises_it(
    name: str, before: Any, after: Any, text: str
) -> None:
    draft = Draft(
        account=7,
        action="thing.update",
        actor=Actor(name="key of a test", scheme="api_key", key=3),
        changes=encode_changes({name: (before, after)}),
        client="2001:db8::1",
        request_id=None,
        target=Target(id=encode_changes({text: (None, 1)}), kind="thing"),
    )

    entry = draft.at(1, datetime(2026, 1, 5, 9, 30, tzinfo=UTC), NO_HASH)

    members = json.loads(msgspec.json.encode(entry))
    written = members.pop("hash")
    assert hashlib.sha256(canonical(members).encode()).hexdigest() == written == entry.expected_hash()
    assert members["time"] == "2026-01-05T09:30:00.000000Z"
    assert members["previous_hash"] == "0" * 64


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (2**53 - 1, 2**53 - 1),
        (2**53, "9007199254740992"),
        (-(10**30), str(-(10**30))),
        (1.0, 1),
        (-0.0, 0),
        (12.5, 12.5),
        (0.00001, "1e-05"),
        (1e300, "1e+300"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (Decimal("1.10"), "1.10"),
        (datetime(2026, 1, 5, 10, tzinfo=timezone(timedelta(hours=1))), "2026-01-05T09:00:00Z"),
        (UUID(int=1), str(UUID(int=1))),
        (PurePath("/a"), "/a"),
        (("a", None), ["a", None]),
        ({3, 1, 2}, [1, 2, 3]),
        (Thing("a"), {"name": "a", "size": None}),
        ("a\x00b\ud800", "a\ufffdb\ufffd"),
        ("x" * 2000, "x" * 999 + "…"),
        (list(range(500)), list(range(100))),
    ],
)
def test_a_value_has_a_form_that_every_program_reads_alike(value: Any, shown: Any) -> None:
    assert decoded({"field": (value, None)}) == {"field": [shown, None]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("password", "hunter2"),
        ("token", "hunter2"),
        ("sha256", "hunter2"),
        ("password_hash", "hunter2"),
        ("salt", b"hunter2"),
        ("anything", b"hunter2"),
        ("anything", Secret("hunter2")),
        ("settings", {"api_key": "hunter2"}),
        ("settings", [{"nested": {"client_secret": "hunter2"}}]),
        ("settings", {"inner": b"hunter2"}),
        ("url", "postgresql://user:hunter2@host/db"),
        ("url", "https://host/?token=hunter2"),
        ("header", "Authorization: Bearer hunter2hunter2"),
    ],
)
def test_secrets_and_hashes_are_never_in_an_entry(name: str, value: Any) -> None:
    text = encode_changes({name: (None, value)})

    assert "hunter2" not in text
    assert "68756e74657232" not in text
    assert "***" in text


def test_the_name_of_a_member_may_be_a_secret_as_well() -> None:
    assert "hunter2" not in encode_changes({"links": (None, {"https://user:hunter2@host": 1})})


def test_changes_that_are_too_long_name_the_fields_alone() -> None:
    changes = {f"field{number}": (None, "x" * 1000) for number in range(100)}

    assert len(encode_changes(changes).encode()) < CHANGES_MAX_BYTES
    assert decoded(changes).keys() == changes.keys()


def test_values_that_are_nested_without_end_are_cut_off() -> None:
    endless: list[Any] = []
    endless.append(endless)

    assert len(encode_changes({"field": (None, endless)})) < 100


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        (None, Thing("a"), {"name": (None, "a")}),
        (Thing("a", 1), None, {"name": ("a", None), "size": (1, None)}),
        (Thing("a", 1), Thing("a", 2), {"size": (1, 2)}),
        ({"a": 1}, {"a": 1, "b": 2}, {"b": (None, 2)}),
        (Thing("a"), Thing("a"), {}),
    ],
)
def test_two_states_are_compared_by_field(before: Any, after: Any, changes: Any) -> None:
    assert compare(before, after) == changes
