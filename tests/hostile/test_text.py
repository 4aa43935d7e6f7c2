"""Text that is long or odd: it takes no time, no memory, and no space in responses that grow beyond its own size."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator

import pytest

from kernel.errors import InvalidError
from kernel.testing import Client
from tests.conftest import service_starter
from tests.plugins.accounts.factories import accounts_of, create_account
from tests.plugins.accounts.members import member

AUTH = "/api/v1/auth"
# Without other load, each takes a few milliseconds; machines that run tests are busy.
LIMIT_S = 2.0
# Marks of two kinds, which normalization sorts: this many take ten minutes, if they are not refused before.
MARKS = "a" + "\u0301\u0316" * 120_000
TEXTS = (
    "a" + "\u0301\u0316" * 1_200,
    "a" + "\u0301\u0316" * 1_200 + "@example.com",
    "ann@xn--" + "9" * 12_000,
    "\ufdfa" * 2_500,
    "a\0@example.com",
    "\uffff@example.com",
    "\u202eann@example.com",
)
VALUES = ("", " ", "\xff\xfe", "é", "-1", "0", "1e3", "9" * 400, "0x1", "1_0", "\u0661", "null", "a, b", "x" * 7000)


@pytest.fixture(scope="module")
def client(module_database: str) -> Iterator[Client]:
    """A service that authenticates."""
    with service_starter({"url": module_database}) as start:
        yield start(auth="required")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("sign-in", {"email": "TEXT", "password": "x"}),
        ("sign-in", {"email": "ann@example.com", "password": "TEXT"}),
        ("refresh", {"refresh_token": "TEXT"}),
        ("reset", {"email": "TEXT"}),
        ("reset/confirm", {"token": "TEXT", "password": "x"}),
        ("reset/confirm", {"token": "tp_" + "x" * 43, "password": "TEXT"}),
    ],
)
def test_nobody_waits_for_what_anybody_may_send(client: Client, path: str, body: dict[str, str]) -> None:
    for text in TEXTS:
        started = time.monotonic()
        answer = client.post(f"{AUTH}/{path}/", {name: value.replace("TEXT", text) for name, value in body.items()})

        assert answer.status in {202, 400, 401, 429}
        assert time.monotonic() - started < LIMIT_S
        assert len(answer.content) < 2_000
    assert client.post(f"{AUTH}/{path}/", {"email": "x" * 20_000}).status == 413


def test_a_long_address_is_refused_before_it_is_normalized(client: Client) -> None:
    owner = member(client, create_account(client), "owner")
    started = time.monotonic()

    for text in (MARKS, f"{MARKS}@example.com", "ann@xn--" + "9" * 900_000):
        answer = client.post("/api/v1/users/", {"email": text, "role": "viewer"}, headers=owner)
        assert (answer.status, list(answer.json()["errors"])) == (400, ["email"])
    with pytest.raises(InvalidError, match="not accepted"):
        accounts_of(client).sign_in.passwords.ensure_acceptable(MARKS, field="password")
    assert not accounts_of(client).sign_in.passwords.verify(MARKS, None)
    assert time.monotonic() - started < LIMIT_S


def test_odd_headers_are_refused_or_do_nothing(client: Client) -> None:
    headers = member(client, create_account(client), "owner")

    for name in ("X-Account", "X-Site", "Origin", "Idempotency-Key", "Authorization", "Cookie"):
        for value in VALUES:
            for path in (f"{AUTH}/me/", "/api/requests/"):
                answer = client.get(path, headers={**headers, name: value.encode().decode("latin-1")})
                assert answer.status in {200, 400, 401, 403}, (name, value)


def test_a_file_takes_little_more_than_its_size(client: Client) -> None:
    headers = {**member(client, create_account(client), "owner"), "Content-Type": "text/csv"}
    head = b"slug,name,url\n"
    files = {
        "columns": b"," * 1_000_000,
        "cells": head + b"," * 1_000_000,
        "lines of a cell": head + b'"",\n' * 300_000,
        "long names": head + b"".join(b"s%d," % number + b"x" * 10_000 + b",\n" for number in range(100)),
        "long slugs": head + b"".join(b"x" * 10_000 + b",n,ftp\n" for _ in range(100)),
        "a long cell": head + b"a,b," + b"h" * 200_000,
        "an open quotation mark": head + b'"' + b"x" * 1_000_000,
        "UTF-16": b"\xff\xfe" + "slug,name\na,b\n".encode("utf-16-le"),
        "null in the header": b"slug,name\0\na,b\n",
        "null in a cell": head + b"a,\0,\n",
        "no UTF-8": head + b"\xc3\x28,a,\n",
    }
    for name, content in files.items():
        tracemalloc.start()
        answer = client.post("/api/v1/sites/import/", content=content, headers=headers)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert answer.status in {400, 413}, name
        assert peak_bytes < 40 * 1024 * 1024, name
        assert len(answer.content) < 64 * 1024, name
    assert client.post("/api/v1/sites/import/", content=head + b"\n" * 1_000_000, headers=headers).status == 200
