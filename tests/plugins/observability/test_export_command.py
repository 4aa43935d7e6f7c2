"""``tiercel observability export``: the file of ``export/``, written completely or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from kernel.testing import Client
from tests.plugins.observability.events import ROOT, make_events, post_ingest
from tests.plugins.observability.rollups.factories import run_command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(shared: Client) -> Client:
    """A service with events of two services."""
    post_ingest(shared, [*make_events(1500, service="shop"), *make_events(20, service="till")])
    return shared


@pytest.mark.parametrize("name", ["csv", "ndjson", "parquet"])
def test_the_file_is_the_one_of_the_route(client: Client, tmp_path: Path, name: str) -> None:
    file = tmp_path / f"requests.{name}"
    file.write_bytes(b"old")

    ran = run_command(
        client, "export", "--format", name, "--service", "shop", "--ordering", "time", "--output", str(file)
    )

    assert (ran.exit_code, ran.stderr) == (0, "1,500 request logs exported\n")
    assert file.read_bytes() == client.get(f"{ROOT}export/?format={name}&service=shop&ordering=time").content
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_standard_output_is_the_default_and_ends_with_the_trailer(client: Client) -> None:
    ran = CliRunner().invoke(client.command("observability", "export"), ["--format", "ndjson", "--service", "till"])

    *lines, last = ran.stdout_bytes.splitlines(keepends=True)
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    assert last == f'{{"rows":20,"sha256":"{digest}"}}\n'.encode()


def test_a_file_that_cannot_be_completed_does_not_appear(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "requests.csv"
    file.write_bytes(b"old")

    wrong = run_command(client, "export", "--ordering", "colour", "--output", str(file))
    missing = run_command(client, "export", "--output", str(tmp_path / "missing" / "requests.csv"))

    assert wrong.exit_code != 0
    assert (missing.exit_code, "cannot be written" in missing.stderr) == (1, True)
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
