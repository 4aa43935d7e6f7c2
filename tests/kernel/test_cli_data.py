"""``tiercel data``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kernel.cli.serve import DEMO_FOLDER
from tests.applications import DATASETS
from tests.commands import RunCommand, make_runner

INDEX = "fsm_index.json"


@pytest.fixture
def tiercel(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunCommand:
    """Run commands on the test's database."""
    run = make_runner(database, tmp_path, monkeypatch, capsys)
    monkeypatch.setenv("TIERCEL_PLUGINS", "system,trace,skyflow")
    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for files."""
    made = tmp_path / "files"
    made.mkdir()
    return made


def write(folder: Path, file: str, *items: object) -> None:
    """Write a file of items."""
    (folder / file).write_text(json.dumps(items))


def served(tiercel: RunCommand) -> dict[str, Any]:
    """Return the current versions, by dataset."""
    found = tiercel("data", "list", "--json").json()
    return {each["name"]: each for each in found}


def published(tiercel: RunCommand, folder: Path, *options: str) -> Any:
    """Import a folder, which must work, and return what became of each dataset."""
    ran = tiercel("data", "import", str(folder), *options, "--json")
    assert ran.code == 0, ran.errors
    found = ran.json()
    return {name: (each["outcome"], each["version"]) for name, each in found["published"].items()}


@pytest.mark.slow
def test_import_publishes_the_files_it_finds_and_leaves_other_datasets(tiercel: RunCommand, folder: Path) -> None:
    write(folder, "tiers.json", {"slug": "a"}, {"slug": "b"})
    write(folder, "tags.json", {"slug": "c"})

    assert published(tiercel, folder) == {"tiers": ("published", 1), "tags": ("published", 1)}
    assert {name: each["items"] for name, each in served(tiercel).items()} == {
        "features": None,
        "gateways": None,
        "tiers": 2,
        "tags": 1,
    }


def test_importing_the_same_again_changes_nothing(tiercel: RunCommand, folder: Path) -> None:
    write(folder, "tiers.json", {"slug": "a"}, {"slug": "b"})
    published(tiercel, folder)
    write(folder, "tiers.json", {"slug": "b"}, {"slug": "a"})

    assert published(tiercel, folder) == {"tiers": ("unchanged", 1)}


def test_an_empty_folder_is_nothing_to_import_and_no_error(tiercel: RunCommand, folder: Path) -> None:
    ran = tiercel("data", "import", str(folder))

    assert (ran.code, ran.output) == (0, f"{folder} has nothing to import.\n")


def test_list_shows_how_old_the_confirmation_is_and_not_only_the_version(
    tiercel: RunCommand, folder: Path, database: str
) -> None:
    write(folder, "tiers.json", {"slug": "a"})
    published(tiercel, folder)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE tiercel.dataset_version SET published_at = '2026-01-02 03:04:05+00'")
        connection.execute("UPDATE tiercel.dataset_publication SET at = now() - interval '90 minutes'")

    def row() -> str:
        return next(line for line in tiercel("data", "list").output.splitlines() if line.startswith("tiers "))

    published_before = row()
    published(tiercel, folder)

    assert published_before.split() == ["tiers", "1", "1", "2026-01-02", "03:04:05", "1", "h", "ago", "tiers.json"]
    assert row().split()[3:5] == ["2026-01-02", "03:04:05"]
    assert row().split()[6:8] == ["s", "ago"]


def test_responses_of_routes_can_be_imported(tiercel: RunCommand, folder: Path) -> None:
    (folder / "tiers.json").write_text(json.dumps({"data": [{"slug": "a"}], "meta": {}}))

    assert published(tiercel, folder) == {"tiers": ("published", 1)}


def test_a_byte_order_mark_before_a_file_is_skipped(tiercel: RunCommand, folder: Path) -> None:
    (folder / "tiers.json").write_text(json.dumps([{"slug": "a"}]), encoding="utf-8-sig")

    assert published(tiercel, folder) == {"tiers": ("published", 1)}


def test_import_names_rejected_items_with_their_reasons(tiercel: RunCommand, folder: Path) -> None:
    write(folder, "tiers.json", {"slug": "a"}, {"slug": "b", "level": "high"}, {"slug": "a"})

    ran = tiercel("data", "import", str(folder))

    assert ran.code == 0
    assert ["tiers", "published", "1", "1", "2", "tiers.json"] in map(str.split, ran.output.splitlines())
    assert "tiers: item 1 was rejected: level: Expected int" in ran.errors
    assert "tiers: item 2 was rejected: " in ran.errors


def test_a_file_without_a_valid_item_publishes_nothing_at_all(tiercel: RunCommand, folder: Path) -> None:
    write(folder, "tags.json", {"slug": "fine"})
    write(folder, "tiers.json", {"id": 1}, {"id": 2})

    ran = tiercel("data", "import", str(folder))

    assert ran.code == 1
    assert ran.errors.startswith("tiercel: nothing was published: no item of tiers.json fits tiers; the first: slug")
    assert {each["version"] for each in served(tiercel).values()} == {None}


@pytest.mark.parametrize("content", ['{"slug": "a"}', "[", "7"])
def test_a_file_that_is_no_list_publishes_nothing_at_all(tiercel: RunCommand, folder: Path, content: str) -> None:
    write(folder, "tags.json", {"slug": "fine"})
    (folder / "tiers.json").write_text(content)

    ran = tiercel("data", "import", str(folder))

    assert (ran.code, "tiers.json: " in ran.errors) == (1, True)
    assert {each["version"] for each in served(tiercel).values()} == {None}


def test_a_missing_folder_is_named(tiercel: RunCommand, folder: Path) -> None:
    ran = tiercel("data", "import", str(folder / "no"))

    assert (ran.code, "there is no such folder" in ran.errors) == (1, True)


def test_an_index_and_other_files_are_skipped_and_named(tiercel: RunCommand, folder: Path) -> None:
    write(folder, "tiers.json", {"slug": "a"})
    write(folder, INDEX, {"slug": "a"})
    write(folder, "notes.json", {"slug": "a"})

    ran = tiercel("data", "import", str(folder))

    assert ran.code == 0
    assert f"{INDEX}: is generated, not imported" in ran.errors
    assert "notes.json: no such dataset is imported" in ran.errors


def test_one_dataset_can_be_imported_alone(tiercel: RunCommand, folder: Path) -> None:
    write(folder, "tiers.json", {"slug": "a"})
    write(folder, "tags.json", {"slug": "c"})

    assert published(tiercel, folder, "--dataset", "tags") == {"tags": ("published", 1)}


def test_an_unknown_dataset_is_named_with_the_known_ones(tiercel: RunCommand, folder: Path) -> None:
    ran = tiercel("data", "import", str(folder), "--dataset", "nothing")

    assert ran.code == 1
    assert "Unknown dataset: nothing" in ran.errors
    assert "tiers" in ran.errors


def test_a_dry_run_shows_the_difference_and_changes_nothing(tiercel: RunCommand, folder: Path) -> None:
    write(folder, "tiers.json", {"slug": "a"}, {"slug": "b"})
    published(tiercel, folder)
    write(folder, "tiers.json", {"slug": "a", "level": 2}, {"slug": "c"}, {"slug": "d", "level": "x"})

    ran = tiercel("data", "import", str(folder), "--dry-run")

    assert ran.output.splitlines() == [
        "tiers, version 1 to 2: 1 added, 1 removed, 1 changed, 0 unchanged",
        "  + c",
        "  - b",
        "  ~ a: level 0 -> 2",
    ]
    assert "tiers: item 2 was rejected" in ran.errors
    assert served(tiercel)["tiers"]["version"] == 1


def test_if_empty_leaves_what_was_published(tiercel: RunCommand, folder: Path) -> None:
    write(folder, "tiers.json", {"slug": "a"})
    published(tiercel, folder)

    found = published(tiercel, DEMO_FOLDER, "--if-empty")

    assert sorted(found) == ["features", "gateways", "tags"]
    assert served(tiercel)["tiers"]["items"] == 1


def test_export_writes_a_file_for_each_dataset_and_index(tiercel: RunCommand, folder: Path) -> None:
    published(tiercel, DEMO_FOLDER)

    ran = tiercel("data", "export", str(folder / "new"))

    assert (ran.code, ran.errors) == (0, "")
    files = {path.name: path.read_bytes() for path in (folder / "new").iterdir()}
    assert set(files) == {*(f"{name}.json" for name in DATASETS), INDEX}
    for name in DATASETS:
        assert files[f"{name}.json"] == (DEMO_FOLDER / f"{name}.json").read_bytes()
    entries = json.loads(files[INDEX])
    assert [(entry["dataset"], entry["version"]) for entry in entries] == [(name, 1) for name in DATASETS]


def test_an_export_can_be_imported_and_changes_nothing(tiercel: RunCommand, folder: Path) -> None:
    published(tiercel, DEMO_FOLDER)
    tiercel("data", "export", str(folder))

    assert set(published(tiercel, folder).values()) == {("unchanged", 1)}


def test_export_names_datasets_that_were_never_published(tiercel: RunCommand, folder: Path) -> None:
    ran = tiercel("data", "export", str(folder))

    assert ran.code == 0
    assert "the dataset 'tiers' has not been published yet" in ran.errors
    assert not (folder / "tiers.json").exists()


def test_export_to_a_folder_that_cannot_be_made_names_it(tiercel: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    ran = tiercel("data", "export", str(tmp_path / "file" / "folder"))

    assert (ran.code, ran.errors.startswith(f"tiercel: {tmp_path / 'file' / 'folder'}: ")) == (1, True)


@pytest.fixture
def two_versions(tiercel: RunCommand, folder: Path) -> None:
    """Publish tiers twice."""
    flow = {"slug": "a", "features": ["flow"]}
    for second in ({"slug": "b"}, {"slug": "c", "features": ["kudos"]}):
        write(folder, "tiers.json", flow, second)
        published(tiercel, folder)


@pytest.mark.usefixtures("two_versions")
def test_versions_shows_versions_and_attempts(tiercel: RunCommand) -> None:
    found = tiercel("data", "versions", "tiers", "--json").json()
    ran = tiercel("data", "versions", "tiers")

    assert [each["version"] for each in found["versions"]] == [2, 1]
    assert [each["outcome"] for each in found["attempts"]] == ["published", "published"]
    assert "tiercel data import" in ran.output


@pytest.mark.usefixtures("two_versions")
@pytest.mark.parametrize(
    ("options", "first"),
    [
        (("1",), "1 to 2: 1 added, 1 removed, 0 changed, 1 unchanged"),
        (("1", "1"), "1 to 1: 0 added, 0 removed, 0 changed, 2 unchanged"),
        (("1", "--application", "skyflow"), "1 to 2: 1 added, 0 removed, 0 changed, 1 unchanged"),
    ],
)
def test_diff_counts_what_differs(tiercel: RunCommand, options: tuple[str, ...], first: str) -> None:
    ran = tiercel("data", "diff", "tiers", *options)

    assert (ran.code, ran.output.splitlines()[0]) == (0, f"tiers, version {first}")


@pytest.mark.usefixtures("two_versions")
def test_diff_as_json_has_the_items(tiercel: RunCommand) -> None:
    found = tiercel("data", "diff", "tiers", "1", "--json").json()

    assert ([item["slug"] for item in found["added"]], [item["slug"] for item in found["removed"]]) == (["c"], ["b"])


@pytest.mark.usefixtures("two_versions")
def test_rollback_serves_an_older_version_again(tiercel: RunCommand) -> None:
    back, again = (tiercel("data", "rollback", "tiers", "1") for _ in range(2))

    assert back.output == "tiers: version 3 serves the content of version 1.\n"
    assert again.output == "tiers: version 3 serves the content of version 1 already.\n"
    assert served(tiercel)["tiers"]["version"] == 3


@pytest.mark.usefixtures("two_versions")
@pytest.mark.parametrize(
    "command", [("rollback", "tiers", "9"), ("diff", "tiers", "9"), ("diff", "tiers", "soon"), ("versions", "nothing")]
)
def test_an_unknown_dataset_or_version_exits_1_with_one_line(tiercel: RunCommand, command: tuple[str, ...]) -> None:
    ran = tiercel("data", *command)

    assert (ran.code, len(ran.errors.splitlines())) == (1, 1)


def test_list_shows_current_versions_and_why_there_are_none(tiercel: RunCommand, folder: Path) -> None:
    write(folder, "tiers.json", {"slug": "a"})
    published(tiercel, folder)

    lines = {line.split()[0]: line for line in tiercel("data", "list").output.splitlines()}

    assert lines["tiers"].split()[:3] == ["tiers", "1", "1"]
    assert "has not been published yet" in lines["tags"]
