"""The folder of ``datasets.files_dir``: up to date after each publication, whoever writes it."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kernel.contracts import Dataset, Route
from kernel.datasets.published_files import write_json
from kernel.services import Services
from tests.kernel.datasets.conftest import MEMBERS, DatasetClient, MakeClient, Member, Tier
from tests.processes import eventually

BY_LEVEL = Dataset(name="tiers", item=Tier, key="slug", file="{level}-tiers.json")
INDEX = "test_index.json"


def routes(services: Services) -> Iterable[Route]:
    return [services.index_route("/trace/public/index/", [BY_LEVEL, MEMBERS], file=INDEX)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that does not exist yet."""
    return tmp_path / "static" / "data"


def start(make_client: MakeClient, folder: Path) -> DatasetClient:
    return make_client(datasets=(BY_LEVEL, MEMBERS), routes=routes, dataset_settings={"files_dir": str(folder)})


def names(folder: Path) -> set[str]:
    """Return the names of the files that are not hidden."""
    return {path.name for path in folder.glob("*.json") if not path.name.startswith(".")}


def read(path: Path) -> Any:
    """Return what a file holds, once it exists."""
    assert eventually(path.exists)
    return msgspec.json.decode(path.read_bytes())


def publish(client: DatasetClient, *items: Tier) -> None:
    client.publish(*items, dataset=BY_LEVEL)


def readiness(client: DatasetClient) -> tuple[int, str]:
    answer = client.get("/readyz?exclude=jobs")
    return answer.status, answer.json()["status"]


def test_each_publication_writes_files_and_removes_those_that_went(make_client: MakeClient, folder: Path) -> None:
    client = start(make_client, folder)
    publish(client, Tier("a", 1), Tier("b", 2))
    client.publish(Member(1), dataset=MEMBERS)
    files = {"1-tiers.json", "2-tiers.json", "members.json", INDEX}
    assert eventually(lambda: names(folder) == files)
    (folder / "9-tiers.json").write_text("of the user")

    publish(client, Tier("a", 1, "A"), Tier("c", 3))

    assert eventually(lambda: names(folder) == {"1-tiers.json", "3-tiers.json", "9-tiers.json", "members.json", INDEX})
    assert eventually(lambda: [each["version"] for each in read(folder / INDEX)] == [2, 1])
    assert [each["name"] for each in read(folder / "1-tiers.json")] == ["A"]


def test_an_attempt_that_changes_nothing_is_in_the_history_of_the_index(make_client: MakeClient, folder: Path) -> None:
    client = start(make_client, folder)
    publish(client, Tier("a", 1))
    publish(client, Tier("a", 1))
    client.datasets.refuse("tiers", "nobody answers", source="test")

    def outcomes() -> list[str]:
        return [each["outcome"] for each in read(folder / INDEX)[0]["history"]]

    assert eventually(lambda: outcomes() == ["refused", "unchanged", "published"])


def test_a_file_that_cannot_be_written_degrades_readiness_and_fails_no_publication(
    make_client: MakeClient, folder: Path
) -> None:
    in_the_way = folder / ".members.json.part"
    in_the_way.mkdir(parents=True)
    client = start(make_client, folder)

    published = client.publish(Member(1), dataset=MEMBERS)

    assert published.outcome == "published"
    assert eventually(lambda: readiness(client) == (200, "degraded"))
    (check,) = (each for each in client.get("/readyz").json()["checks"] if each["name"] == "datasets")
    assert check["detail"].startswith(f"files of datasets cannot be written to {folder}: [Errno ")

    in_the_way.rmdir()
    client.publish(Member(2), dataset=MEMBERS)

    assert eventually(lambda: readiness(client) == (200, "ok"))
    assert [each["id"] for each in read(folder / "members.json")] == [2]


def test_a_disk_that_is_full_leaves_neither_a_part_of_a_file_nor_the_old_one_broken(tmp_path: Path) -> None:
    path = tmp_path / "members.json"
    write_json(path, [1])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_json(path, ["x" * 200])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert (read(path), list(tmp_path.iterdir())) == ([1], [path])


def test_a_process_that_only_publishes_writes_files_too(make_client: MakeClient, folder: Path) -> None:
    client = start(make_client, folder)
    client.service.stop()
    client.service.db.open()

    client.datasets.publish({MEMBERS: [Member(1)]}, source="test")

    assert names(folder) == {"members.json", INDEX}


def test_several_processes_leave_the_last_version_and_whole_files(make_client: MakeClient, folder: Path) -> None:
    clients = [start(make_client, folder) for _ in range(2)]
    stop = threading.Event()
    broken: list[Exception] = []

    def watch() -> None:
        while not stop.is_set():
            try:
                for path in folder.glob("[!.]*.json"):
                    read(path)
            except Exception as ex:
                broken.append(ex)

    watching = threading.Thread(target=watch)
    watching.start()
    for number in range(10):
        clients[number % 2].datasets.publish({MEMBERS: map(Member, range(number + 1))}, source="test")
    written = eventually(lambda: len(read(folder / "members.json")) == 10)
    stop.set()
    watching.join()

    assert written
    assert broken == []
    assert eventually(lambda: all(readiness(client) == (200, "ok") for client in clients))


def test_a_file_that_was_deleted_is_written_again(make_client: MakeClient, folder: Path) -> None:
    client = start(make_client, folder)
    client.publish(Member(1), dataset=MEMBERS)
    assert eventually(lambda: names(folder) == {"members.json", INDEX})
    (folder / "members.json").unlink()

    publish(client, Tier("a", 1))

    assert eventually(lambda: names(folder) == {"1-tiers.json", "members.json", INDEX})
