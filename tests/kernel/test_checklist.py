"""The lines of ``tiercel check`` for a deployment: what each finds, and that a demonstration is not told to deploy."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from kernel.cli.checklist import Finding, check_deployment
from kernel.http.assets import Assets
from tests.commands import RunCommand, make_runner
from tests.kernel.fakes import CapturedLog, boot_service

EVERYTHING = ["static", "cache", "throttle", "tls", "monitoring", "disk", "backups", "connections"]
EXPOSED = {"TIERCEL_AUTH": "required", "TIERCEL_BIND": "0.0.0.0:8000"}


@pytest.fixture
def tiercel(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunCommand:
    """Run commands in this process, in ``tmp_path`` and on a database of their own."""
    return make_runner(database, tmp_path, monkeypatch, capsys)


def check(tiercel: RunCommand, variables: Mapping[str, str] = {}) -> dict[str, Finding]:
    """Return the items by name, the last of each."""
    ran = tiercel("check", "--json", **variables)
    assert ran.code == 0, ran.output
    return {each["check"]: msgspec.convert(each, Finding) for each in ran.json()["findings"]}


def warnings(found: Mapping[str, Finding]) -> set[str]:
    return {name for name in EVERYTHING if found[name].warning}


def write_backup(folder: Path, age: timedelta) -> None:
    last = {"finished_at": (datetime.now(UTC) - age).isoformat(), "directory": "/backups/7", "kind": "base"}
    (folder / ".tiercel").mkdir(exist_ok=True)
    (folder / ".tiercel" / "last_backup.json").write_bytes(msgspec.json.encode(last))


def test_a_demonstration_on_this_machine_is_told_what_it_has_and_not_to_deploy(tiercel: RunCommand) -> None:
    found = check(tiercel)

    assert warnings(found) - {"disk"} == set()
    assert found["tls"].detail == "not needed: only this machine can connect"
    assert found["throttle"].detail == "off: only this machine can send requests"


def test_a_service_that_others_can_reach_is_told_what_it_lacks(tiercel: RunCommand) -> None:
    found = check(tiercel, {**EXPOSED, "TIERCEL_DB__POOL_MAX": "100"})

    assert warnings(found) - {"disk"} == {"tls", "monitoring", "backups", "connections"}
    assert found["throttle"].detail == "requests are limited, and counted in the database"
    # Two processes that serve, with a connection for notifications each, and two that run jobs, with two.
    assert found["connections"].detail.startswith("up to 406 of the 300 that the server allows: 202 ")


def test_a_service_that_has_everything_is_told_so_and_no_secret(tiercel: RunCommand, tmp_path: Path) -> None:
    write_backup(tmp_path, timedelta(hours=3))
    variables = {
        **EXPOSED,
        "TIERCEL_HTTP__TRUSTED_PROXIES": "10.0.0.0/8",
        "TIERCEL_METRICS__TOKEN": "a-token-of-some-length",
        "TIERCEL_BACKUP__MAX_AGE_S": "90000",
        "TIERCEL_THROTTLE__BACKEND": "redis://:secret-word@127.0.0.1:1/0",
    }

    found = check(tiercel, variables)

    # Nothing listens there.
    assert warnings(found) - {"disk"} == {"throttle"}
    assert found["throttle"].detail == "the storage of throttles, redis, does not answer: requests are not limited"
    assert found["backups"].detail.startswith("the last one was complete 3 h ago: base in /backups/7")


def test_a_backup_that_is_too_old_or_cannot_be_read_is_a_warning(tiercel: RunCommand, tmp_path: Path) -> None:
    write_backup(tmp_path, timedelta(hours=30))
    old = check(tiercel, {"TIERCEL_BACKUP__MAX_AGE_S": "90000"})["backups"]
    (tmp_path / ".tiercel" / "last_backup.json").write_text('{"finished_at": "yesterday"}')
    broken = check(tiercel)["backups"]

    assert old.warning
    assert "complete 1 d ago" in old.detail
    assert broken.warning
    assert "cannot be read: " in broken.detail


def test_files_that_cannot_be_read_and_no_metrics_are_found_without_a_database(tmp_path: Path) -> None:
    service = boot_service(
        ["system"], CapturedLog().log, insecure=True, server={"bind": "0.0.0.0:8000"}, metrics={"enabled": False}
    )
    service.assets = Assets({"shop": tmp_path / "gone"})

    found = {each.check: each for each in check_deployment(service, datetime.now(UTC))}

    assert not found["static"].ok
    assert "gone" in found["static"].detail
    assert {"throttle", "monitoring", "tls"} <= {name for name, each in found.items() if each.warning}
