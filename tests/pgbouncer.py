"""PgBouncer in front of a server of a test: few sessions of the server, of which each transaction gets another one."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from kernel.embedded.privileges import unprivileged_runner
from kernel.embedded.server import ROLE
from tests.processes import ROOT, eventually, find_program

_PAGE = ROOT / "docs" / "operations" / "databases.md"
# Of the server, for each database: fewer than a service has connections, so that they share them.
SESSIONS = 3
_LEFT = """
SELECT pg_backend_pid(), nullif(current_setting('tiercel.account', true), ''), current_setting('statement_timeout'),
       (SELECT count(*) FROM pg_prepared_statements),
       (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
       (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema())
"""
NOTHING = (None, "0", 0, 0, 0)


@contextmanager
def pgbouncer(conninfo: str) -> Iterator[str]:
    """Run PgBouncer before a server on a Unix socket that trusts its clients, as the documentation configures it.

    Args:
        conninfo: Connection string of the server.

    Yields:
        The connection string, through PgBouncer.
    """
    program = find_program("pgbouncer")
    server = conninfo_to_dict(conninfo)
    # PgBouncer does not run as root.
    runner = unprivileged_runner(ROLE, [Path(str(server["host"])) / "socket"])
    with tempfile.TemporaryDirectory(prefix="tiercel-pgb-") as name:
        directory = Path(name)
        (directory / "users").write_text(f'"{server["user"]}" ""\n')
        configuration, port = directory / "pgbouncer.ini", server.get("port", 5432)
        settings = _documented()
        settings["databases"] = {"*": f"host={server['host']} port={port}"}
        settings["pgbouncer"].update(
            {
                "listen_addr": "",
                "unix_socket_dir": name,
                "auth_type": "trust",
                "auth_file": str(directory / "users"),
                "default_pool_size": str(SESSIONS),
            }
        )
        with configuration.open("w") as file:
            settings.write(file)
        runner.make_private_directory(directory)
        configuration.chmod(0o644)
        (directory / "users").chmod(0o644)
        command = runner.command([program, "--quiet", str(configuration)])
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        pooled = make_conninfo(conninfo, host=name, port=settings["pgbouncer"]["listen_port"])
        try:
            assert eventually(lambda: _answers(pooled))
            yield pooled
        finally:
            process.kill()
            process.wait()


def left_in_sessions(pooled: str) -> list[tuple[object, ...]]:
    """Return what is left in each session that the pooler has for a database; ``NOTHING`` is the least."""
    with ExitStack() as stack:
        found = []
        for _ in range(SESSIONS):
            connection = stack.enter_context(psycopg.connect(pooled, prepare_threshold=None))
            row = connection.execute(_LEFT).fetchone()
            assert row is not None
            found.append(row)
    # All transactions were open at once.
    assert len({row[0] for row in found}) == SESSIONS
    return [row[1:] for row in found]


def _documented() -> ConfigParser:
    found = ConfigParser(interpolation=None)
    block = re.search(r"^```ini\n(\[databases\]\n.*?)^```$", _PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    found.read_string(block[1])
    return found


def _answers(conninfo: str) -> bool:
    try:
        psycopg.connect(conninfo).close()
    except psycopg.OperationalError:
        return False
    return True
