"""Backups as the documentation makes them: tables with row-level security are in them, whole."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg

from kernel.embedded.server import find_binaries
from tests.conftest import Serve
from tests.plugins.accounts.factories import create_account, create_key, with_key
from tests.plugins.observability.events import make_event

BIN = find_binaries()
COUNTS = "SELECT (SELECT count(*) FROM observability.series), (SELECT count(*) FROM accounts.api_key)"


def test_a_backup_has_the_rows_of_every_account(
    serve: Serve, database: str, empty_database: str, tmp_path: Path
) -> None:
    client = serve(auth="required")
    for account in (0, create_account(client)):
        key = with_key(create_key(client, "ingest", account=account))
        assert client.post("/api/requests/ingest/", [make_event()], headers=key).status == 200
    file = str(tmp_path / "tiercel.dump")

    subprocess.run(
        [BIN / "pg_dump", database, "--format=custom", "--enable-row-security", f"--file={file}"], check=True
    )
    subprocess.run([BIN / "pg_restore", f"--dbname={empty_database}", "--no-owner", file], check=True)

    with psycopg.connect(database) as before, psycopg.connect(empty_database) as after:
        assert before.execute(COUNTS).fetchone() == after.execute(COUNTS).fetchone() == (2, 2)
        assert after.execute("SELECT relforcerowsecurity FROM pg_class WHERE relname = 'api_key'").fetchone() == (True,)
