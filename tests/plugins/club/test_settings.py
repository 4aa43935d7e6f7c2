"""Validation of the configured sources."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kernel.config import load
from kernel.errors import ConfigError
from plugins.club.settings import ClubSettings, Source
from tests.contract.tree import ROOT

GOOD = """
[club.sources.fans]
url = "https://community.example.com/api/members?limit=5"
dataset = "most-present"
feature = "flow"
headers = { Authorization = "env:FANS_TOKEN", Accept = "application/json" }
items = "data.members[0]"
mapping = { member = "user.id", count = "=1" }
next = "links.next"
"""


def decode(toml: str, directory: Path) -> ClubSettings:
    (directory / "tiercel.toml").write_text(toml)
    return load({"TIERCEL_CONFIG": str(directory / "tiercel.toml")}, directory).table("club", ClubSettings)


def with_source(**changes: Any) -> ClubSettings:
    """Make settings with one source that differs from a good one."""
    return ClubSettings(sources={"fans": Source(**{"url": "https://a.example/", "dataset": "hero-metrics", **changes})})


def test_a_source_is_read_from_the_file(tmp_path: Path) -> None:
    source = decode(GOOD, tmp_path).sources["fans"]

    assert (source.dataset, source.feature, source.next) == ("most-present", "flow", "links.next")
    assert source.mapping == {"member": "user.id", "count": "=1"}


def test_the_example_in_the_configuration_file_works(tmp_path: Path) -> None:
    example = re.findall(r"^#   (\S.*)$", (ROOT / "config/tiercel.toml").read_text(), re.MULTILINE)

    (source,) = decode("\n".join(example), tmp_path).sources.values()

    assert (source.dataset, source.items, source.mapping["unit"]) == ("hero-metrics", "data.metrics", "=members")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"url": "ftp://a.example/"}, "fans.url: expected http:// or https://"),
        ({"url": "/metrics"}, "fans.url: expected http:// or https://"),
        ({"url": "https:///x"}, "fans.url: expected http:// or https://"),
        ({"url": "https://[x"}, "fans.url: is not a valid URL"),
        ({"url": "https://a.example:x/"}, "fans.url: is not a valid URL"),
        ({"url": "https://a.example:99999/"}, "fans.url: is not a valid URL"),
        ({"url": "https://xn--/"}, "fans.url: is not a valid URL"),
        ({"url": "https://user:word@a.example/"}, "fans.url: contains a user or password"),
        ({"items": "a..b"}, "fans.items: 'a..b' is not a path"),
        ({"next": "a["}, "fans.next: 'a\\['"),
        ({"mapping": {"x": "y"}}, "fans.mapping.x: no such field"),
        ({"mapping": {"value": "["}}, "fans.mapping.value: '\\[' is not a path"),
        ({"feature": "flow", "mapping": {"feature": "f"}}, "fans.mapping.feature: set both by"),
        ({"headers": {"X Y": "z"}}, "fans.headers.X Y: is not a valid header name"),
        ({"headers": {"Host": "z"}}, "fans.headers.Host: is set by Tiercel"),
        ({"headers": {"X": "env:A B"}}, "fans.headers.X: expected env:"),
        ({"headers": {"X": "a\r\nY: b"}}, "fans.headers.X: contains characters"),
    ],
)
def test_an_invalid_source_is_named_with_its_key(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=f"^sources: {problem}"):
        with_source(**changes)


@pytest.mark.parametrize("name", ["Authorization", "cookie", "X-API-Key", "X-Auth", "Club-Token"])
def test_a_credential_must_come_from_the_environment_and_is_not_repeated(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: looks like a secret; expected env:") as refused:
        with_source(headers={name: "Bearer abc123"})

    assert "abc123" not in str(refused.value)


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"fans\.url.*fans\.items"):
        with_source(url="x", items="..")


def test_a_configuration_error_names_file_and_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tiercel\.toml: club\.sources: fans\.url: expected http"):
        decode(GOOD.replace("https:", "gopher:"), tmp_path)


@pytest.mark.parametrize("line", ['dataset = "others"', "timeout = 5"])
def test_unknown_keys_and_datasets_are_refused(line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"club\.sources"):
        decode(GOOD.replace('dataset = "most-present"', line), tmp_path)
