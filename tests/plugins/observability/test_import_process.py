"""``tiercel observability import`` as a separate process."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import msgspec
import psycopg
import pytest

from tests.plugins.observability.accesslogs import combined_log
from tests.processes import TIERCEL, eventually, make_environment

pytestmark = pytest.mark.process

DEADLINE_S = 30.0
BATCH_SIZE = 500


def start_import(database: str, home: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start the command with pipes."""
    limits = {"TIERCEL_OBSERVABILITY__INGEST_BATCH_SIZE": str(BATCH_SIZE)}
    return subprocess.Popen(
        [TIERCEL, "observability", "import", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=make_environment(home / "home", TIERCEL_DATABASE_URL=database, **limits),
        cwd=home,
    )


def count_events(database: str) -> int:
    """Count what is committed."""
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT count(*) FROM observability.event").fetchone()
    assert row is not None
    return int(row[0])


def test_a_log_is_imported_from_a_pipe(database: str, tmp_path: Path) -> None:
    with start_import(database, tmp_path, "-", "--service", "shop", "--json") as process:
        output, _ = process.communicate(combined_log(1200), timeout=DEADLINE_S)

    assert process.returncode == 0
    assert msgspec.json.decode(output)["inserted"] == 1200
    assert count_events(database) == 1200


def test_an_interrupted_import_has_stored_whole_batches(database: str, tmp_path: Path) -> None:
    with start_import(database, tmp_path, "-") as process:
        assert process.stdin is not None
        # More than is read at a time; the pipe stays open, so that the command waits for the rest.
        process.stdin.write(combined_log(4000))
        process.stdin.flush()
        assert eventually(lambda: count_events(database) >= BATCH_SIZE, DEADLINE_S)
        process.send_signal(signal.SIGINT)
        process.wait(DEADLINE_S)

    assert process.returncode == 130
    assert count_events(database) % BATCH_SIZE == 0
