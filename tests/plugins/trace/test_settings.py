"""Invalid settings stop the service at startup and are named, as far as that is possible without Notion."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kernel.config import load
from kernel.errors import ConfigError
from plugins.trace.settings import Source, TraceSettings
from tests.contract.tree import ROOT

PLAIN = "3c1f0a52b7de4d1f9a0e6f0f5b1c2d3e"
DASHED = "3c1f0a52-b7de-4d1f-9a0e-6f0f5b1c2d3e"
VIEW = "11112222333344445555666677778888"
GOOD = f"""
[trace.sources.features]
databases = ["{PLAIN}"]
fields = {{ area = "Area" }}
"""


def decode(toml: str, directory: Path) -> TraceSettings:
    (directory / "tiercel.toml").write_text(toml)
    return load({"TIERCEL_CONFIG": str(directory / "tiercel.toml")}, directory).table("trace", TraceSettings)


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        DASHED,
        DASHED.upper(),
        f"  {PLAIN} ",
        f"https://www.notion.so/{PLAIN}",
        f"https://www.notion.so/acme/{PLAIN}?v={VIEW}",
        f"https://www.notion.so/acme/All-features-{PLAIN}?v={VIEW}&p={VIEW}",
        f"https://app.notion.com/p/acme/{PLAIN}?v={VIEW}#{VIEW}",
        f"https://acme.notion.site/{DASHED}/",
    ],
)
def test_an_id_is_parsed_in_every_form_that_notion_copies(text: str) -> None:
    assert Source(databases=(text,)).databases == (DASHED,)


def test_the_same_id_in_two_forms_counts_once() -> None:
    assert Source(data_sources=(PLAIN, DASHED)).data_sources == (DASHED,)


def test_the_example_in_the_configuration_file_is_valid(tmp_path: Path) -> None:
    example = re.findall(r"^#   (\S.*)$", (ROOT / "config/tiercel.toml").read_text(), re.MULTILINE)

    settings = decode("\n".join(example), tmp_path)

    assert settings.sources["features"].databases == (DASHED,)
    assert settings.sources["features"].fields["area"] == "Area"
    assert settings.sources["features"].properties == {"owner": "Owner"}


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("featres", {}, "featres: no such dataset; there are features, gateways, tiers, tags"),
        ("features", {"databases": []}, "features: expected databases or data_sources"),
        ("features", {"databases": [""]}, "features.databases: '' is neither an id"),
        ("features", {"databases": [f"{PLAIN}0"]}, f"features.databases: '{PLAIN}0' is neither an id"),
        ("features", {"databases": [f"https://www.notion.so/?v={VIEW}"]}, "features.databases: 'https://"),
        ("tags", {"data_sources": ["https://[x"]}, "tags.data_sources: 'https://"),
        ("tags", {"fields": {"level": "L"}}, "tags.fields.level: no such field; there are slug, name, description"),
        ("tags", {"fields": {"properties": "P"}}, "tags.fields.properties: no such field"),
        ("tags", {"fields": {"color": " "}}, "tags.fields: 'color' = ' ': expected a name"),
        ("tags", {"properties": {"": "Owner"}}, "tags.properties: '' = 'Owner': expected a name"),
    ],
)
def test_an_invalid_source_is_named_with_its_key(name: str, changes: dict[str, Any], problem: str) -> None:
    source = Source(**{"databases": [DASHED], **changes})

    with pytest.raises(ValueError, match=f"^sources: {re.escape(problem)}"):
        TraceSettings(sources={name: source})


def test_every_problem_is_reported_at_once_with_the_file(tmp_path: Path) -> None:
    toml = f"{GOOD}{GOOD.replace('features', 'things')}".replace("area =", "aera =")

    with pytest.raises(
        ConfigError, match=r"tiercel\.toml: trace\.sources: features\.fields\.aera: .*; things: no such"
    ):
        decode(toml, tmp_path)


@pytest.mark.parametrize("line", ["rows = 5", 'databases = "x"', "fields = { area = 1 }"])
def test_unknown_keys_and_wrong_types_in_a_source_are_refused(line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trace\.sources"):
        decode(f"[trace.sources.features]\ndata_sources = ['{PLAIN}']\n{line}", tmp_path)


@pytest.mark.parametrize(
    "url", ["", "api.notion.com", "ftp://a.example", "https://", "https://u:p@a.example", "https://a:99999"]
)
def test_an_invalid_url_of_the_api_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^api_url: expected http:// or https://"):
        TraceSettings(api_url=url)


def test_an_unsupported_version_of_the_api_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trace\.api_version.*2025-09-03.*2026-03-11"):
        decode('[trace]\napi_version = "2022-06-28"', tmp_path)


def test_a_token_in_the_file_is_reported_without_its_value(tmp_path: Path) -> None:
    (tmp_path / "tiercel.toml").write_text('[trace]\ntoken = "ntn_word"')
    configuration = load({"TIERCEL_CONFIG": "tiercel.toml", "NOTION_WEBHOOK_TOKEN": "secret_word"}, tmp_path)
    configuration.table("trace", TraceSettings)

    assert configuration.written_secrets() == ("trace.token in tiercel.toml",)
    assert "word" not in str(configuration.entries())
