"""E-mail addresses: one spelling, and none that can be mistaken for another one."""

# ruff: noqa: RUF001 - look-alikes are what this is about
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.accounts.emails import normalize_email


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        (" Ann.O'Neil+news@Example.COM ", "ann.o'neil+news@example.com"),
        ("ａｎｎ@example.com", "ann@example.com"),
        ("\u212aate@example.com", "kate@example.com"),
        ("Straße@example.com", "strasse@example.com"),
        ("ann@xn--bcher-kva.example", "ann@bücher.example"),
        ("jose\u0301@example.com", "josé@example.com"),
        ("иван@пример.рф", "иван@пример.рф"),
        ("田中tanaka@example.jp", "田中tanaka@example.jp"),
        ("root@localhost", "root@localhost"),
    ],
)
def test_an_address_has_one_spelling(text: str, normalized: str) -> None:
    assert normalize_email(text) == normalized


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ann", "Expected"),
        ("@example.com", "Expected"),
        ("ann@", "Expected"),
        ("ann@b@example.com", "Expected"),
        ("ann@example..com", "empty"),
        ("ann@-example.com", "hyphen"),
        ("ann@exa_mple.com", "domain"),
        (".ann@example.com", "dot"),
        ('"ann"@example.com', "QUOTATION"),
        ("a nn@example.com", "SPACE"),
        ("ann\n@example.com", "U+000A"),
        ("ann\x00@example.com", "U+0000"),
        ("ann\u200b@example.com", "ZERO WIDTH"),
        ("\u202eann@example.com", "RIGHT-TO-LEFT"),
        ("аnn@example.com", "mixes"),
        ("ann@eхample.com", "mixes"),
        ("mıke@example.com", "looks like"),
        ("ɑnn@example.com", "looks like"),
        ("аре@example.com", "another script"),
        ("ann@xn--80ak6aa92e.com", "another script"),
        ("ann@xn--ann-.com", "IDNA"),
        ("Ꭺnn@example.com", "CHEROKEE"),
        ("ann\u0332@example.com", "accent"),
        ("a" * 65 + "@example.com", "longer"),
        ("ann@" + "a.b" * 100 + ".com", "longer"),
        ("ann\ud800@example.com", "U+D800"),
    ],
)
def test_what_could_be_mistaken_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("+", r"\+")):
        normalize_email(text)


@given(st.text(max_size=12), st.text(max_size=12))
def test_a_normalised_address_stays_as_it_is(local_part: str, domain: str) -> None:
    try:
        normalized = normalize_email(f"{local_part}@{domain}")
    except ValueError:
        return

    assert normalize_email(normalized) == normalized
    assert normalize_email(normalized.upper().lower()) == normalized
