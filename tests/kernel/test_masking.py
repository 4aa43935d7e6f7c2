"""Secrets in what is printed: by type, by name, and by their place in URLs."""

from __future__ import annotations

import time

import msgspec
import pytest

from kernel.masking import mask, mask_text
from kernel.settings import Secret


class Source(msgspec.Struct):
    url: str
    headers: dict[str, str]
    api_key: str = ""
    retries: int = 3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://user:hunter2@db:5432/shop", "postgresql://***@db:5432/shop"),
        ("postgresql://user:hunt@er2@db/shop", "postgresql://***@db/shop"),
        ("https://hunter2@api.example/", "https://***@api.example/"),
        ("host=db password='hunter2 x' user=a", "host=db password=*** user=a"),
        ("https://api.example/?a=1&api_key=hunter2&b=2", "https://api.example/?a=1&api_key=***&b=2"),
        ("https://api.example/?ACCESS_TOKEN=hunter2#f", "https://api.example/?ACCESS_TOKEN=***#f"),
        ("https://api.example/?key=hunter2", "https://api.example/?key=***"),
        ("got {'Authorization': 'Bearer hunter2', 'A': 'b'}.", "got {'Authorization': '***', 'A': 'b'}."),
        ('{"my-secret": "hunter\\"2", "a": "b"}', '{"my-secret": \'***\', "a": "b"}'),
        ("Authorization: Basic aHVudGVyMg==", "Authorization: Basic ***"),
        ("a=token=hunter2 X.Token.Y='hunter2'", "a=token=*** X.Token.Y=***"),
        # No secrets.
        ("trace.token: is required (Secret)", "trace.token: is required (Secret)"),
        ("https://api.example/users/@me?page=2", "https://api.example/users/@me?page=2"),
    ],
)
def test_a_secret_in_a_text_is_masked(text: str, shown: str) -> None:
    assert mask_text(text) == shown


@pytest.mark.parametrize("piece", ["x", "token", "'token", "a=", "://", "token=", "Bearer ", "'token' "])
def test_the_time_is_proportional_to_the_length_of_the_text(piece: str) -> None:
    started = time.process_time()

    mask_text(piece * (200_000 // len(piece)))

    assert time.process_time() - started < 5


def test_secrets_in_settings_are_masked_at_any_depth() -> None:
    sources = {
        "heroes": Source("https://u:hunter2@a.example/", {"Authorization": "hunter2", "Accept": "a"}, "hunter2"),
        "others": [Secret("hunter2"), {"X-Auth-Token": "hunter2", "passwords": ["hunter2"], "token_count": 3}],
    }

    assert mask(sources) == {
        "heroes": {
            "url": "https://***@a.example/",
            "headers": {"Authorization": "***", "Accept": "a"},
            "api_key": "***",
            "retries": 3,
        },
        "others": ["***", {"X-Auth-Token": "***", "passwords": ["***"], "token_count": 3}],
    }
