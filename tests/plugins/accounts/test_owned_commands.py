"""Commands on what belongs to accounts."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.commands import RunCommand, make_runner
from tests.plugins.accounts.callers import OWNED


@pytest.fixture
def tiercel(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunCommand:
    """Run commands on the test's database."""
    run = make_runner(database, tmp_path, monkeypatch, capsys)
    monkeypatch.setenv("TIERCEL_PLUGINS", ",".join(OWNED))
    monkeypatch.setenv("TIERCEL_LOG__LEVEL", "error")
    return run


def test_jobs_start_for_an_account(tiercel: RunCommand) -> None:
    mine, systems = (tiercel("jobs", "start", "owned.who", "--json", *given) for given in (("--account", "5"), ()))
    wrong = tiercel("jobs", "start", "owned.service", "--account", "5")
    listed = {each["id"]: each["account"] for each in tiercel("jobs", "list", "--json").json()}

    assert (mine.json()["account"], mine.json()["started_by"]) == (5, "tiercel jobs start")
    assert (systems.json()["account"], systems.json()["started_by"]) == (0, None)
    assert (wrong.code, "owned.service runs for no account" in wrong.errors) == (2, True)
    assert listed == {mine.json()["id"]: 5, systems.json()["id"]: 0}


def test_files_are_imported_and_exported_for_an_account(tiercel: RunCommand, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "notes.json").write_text('[{"slug": "a", "text": "mine"}]')
    (files / "colors.json").write_text('[{"slug": "red"}]')

    imported = tiercel("data", "import", str(files), "--account", "5", "--json")
    again = tiercel("data", "import", str(files), "--account", "5", "--if-empty", "--json")
    exported = [tiercel("data", "export", str(tmp_path / number), "--account", number) for number in ("5", "6")]

    assert {name: each["version"] for name, each in imported.json()["published"].items()} == {"notes": 1, "colors": 1}
    assert again.json()["published"] == {}
    assert [ran.code for ran in exported] == [0, 0]
    read = [msgspec.json.decode((tmp_path / number / "notes.json").read_bytes()) for number in ("5", "6")]
    assert [[note["text"] for note in notes] for notes in read] == [["mine"], []]
    listed = {each["name"]: each["version"] for each in tiercel("data", "list", "--account", "6", "--json").json()}
    assert (listed["notes"], listed["colors"]) == (None, 1)
