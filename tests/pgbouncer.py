"""PgBouncer in front of a server of a test: few sessions of the server, of which each transaction gets another one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from kernel.embedded.privileges import unprivileged_runner
from kernel.embedded.server import ROLE
from tests.processes import eventually

# Debian installs it where only root looks.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
_PORT = 6432
# For each database. Fewer than the connections of a service, so that they share them; one more than a job and its
# heartbeat need at once.
_SESSIONS = 3
_CONFIGURATION = """
[databases]
* = host={host} port={port}
[pgbouncer]
listen_port = {own_port}
unix_socket_dir = {directory}
auth_type = trust
auth_file = {directory}/users
pool_mode = transaction
default_pool_size = {sessions}
max_client_conn = 1000
max_db_connections = 0
server_round_robin = 1
"""


@contextmanager
def pgbouncer(conninfo: str, sessions: int = _SESSIONS) -> Iterator[str]:
    """Run PgBouncer in transaction mode before a server on a Unix socket that trusts its clients.

    Args:
        conninfo: Connection string of the server.
        sessions: How many sessions of the server it uses for each database.

    Yields:
        The connection string, through PgBouncer.
    """
    program = shutil.which("pgbouncer", path=_PATH)
    if program is None:
        assert not os.environ.get("CI"), "pgbouncer is not installed"
        pytest.skip("pgbouncer is not installed")
    server = conninfo_to_dict(conninfo)
    # PgBouncer does not run as root.
    runner = unprivileged_runner(ROLE, [Path(str(server["host"])) / "socket"])
    with tempfile.TemporaryDirectory(prefix="tiercel-pgb-") as name:
        directory = Path(name)
        (directory / "users").write_text(f'"{server["user"]}" ""\n')
        configuration = directory / "pgbouncer.ini"
        configuration.write_text(
            _CONFIGURATION.format(
                host=server["host"],
                port=server.get("port", 5432),
                own_port=_PORT,
                directory=directory,
                sessions=sessions,
            )
        )
        runner.make_private_directory(directory)
        configuration.chmod(0o644)
        (directory / "users").chmod(0o644)
        command = runner.command([program, "--quiet", str(configuration)])
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        pooled = make_conninfo(conninfo, host=name, port=_PORT)
        try:
            assert eventually(lambda: _answers(pooled))
            yield pooled
        finally:
            process.kill()
            process.wait()


def _answers(conninfo: str) -> bool:
    try:
        psycopg.connect(conninfo).close()
    except psycopg.OperationalError:
        return False
    return True
