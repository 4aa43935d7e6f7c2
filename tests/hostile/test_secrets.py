"""Secrets of settings do not appear in anything that commands print, or a service logs, whether it starts or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.processes import copy_home, run_tiercel

pytestmark = pytest.mark.process

SECRET = "hunter2"
SOURCE = {
    "url": f"https://api.example/metrics?api_key={SECRET}&limit=5&key={SECRET}",
    "dataset": "hero-metrics",
    "headers": {"Authorization": "env:CLUB_TOKEN", "X-Signature": f"token={SECRET}"},
}
WRONG = [
    {"TIERCEL_CLUB__SOURCES": json.dumps({"heroes": {**SOURCE, "url": f"https://user:{SECRET}@api.example/"}})},
    {"TIERCEL_CLUB__SOURCES": json.dumps({"heroes": {**SOURCE, "headers": {"Authorization": f"Bearer {SECRET}"}}})},
    {"TIERCEL_CLUB__SOURCES": json.dumps({"heroes": {**SOURCE, "unknown": f"https://user:{SECRET}@api.example/"}})},
    {"TIERCEL_CLUB__SOURCES": f'{{"heroes": {{"Authorization": "{SECRET}"'},
    {"TIERCEL_TRACE__API_URL": f"https://user:{SECRET}@api.example/"},
    {"TIERCEL_BIND": f"http://user:{SECRET}@127.0.0.1/"},
    {"TIERCEL_HTTP__TRUSTED_PROXIES": f"http://user:{SECRET}@10.0.0.1/"},
    {"TIERCEL_DATABASE_URL": f"mysql://user:{SECRET}@db/x"},
    {"TIERCEL_DATABASE_URL": f"postgresql://user:{SECRET}@127.0.0.1:1/x", "TIERCEL_DB__STARTUP_TIMEOUT_S": "0"},
]


@pytest.fixture(scope="module")
def home(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_home(initialised, tmp_path_factory.mktemp("secrets"))


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_check_shows_settings_without_their_secrets(home: Path, options: tuple[str, ...]) -> None:
    ran = run_tiercel(home, "check", *options, TIERCEL_CLUB__SOURCES=json.dumps({"heroes": SOURCE}), CLUB_TOKEN=SECRET)

    assert ran.returncode == 0
    assert "https://api.example/metrics?api_key=***&limit=5&key=***" in ran.stdout
    assert SECRET not in ran.stdout + ran.stderr


@pytest.mark.parametrize("variables", WRONG)
def test_a_wrong_setting_is_reported_without_its_secrets(home: Path, variables: dict[str, str]) -> None:
    ran = run_tiercel(home, "check", **variables)

    assert ran.returncode == 1
    assert "PROBLEM" in ran.stdout
    assert SECRET not in ran.stdout + ran.stderr
