"""Commands for the database itself: ``tiercel db shell``, ``url`` and ``reset``, and ``tiercel upgrade``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, urlencode

import click
import psycopg
from psycopg.conninfo import conninfo_to_dict

from kernel.app import Tiercel
from kernel.backup.programs import OWN_PARAMETERS, client_environment, with_search_path
from kernel.cli.output import echo, print_table
from kernel.config import load
from kernel.db.failures import describe
from kernel.db.migrations import remove, schemas_of
from kernel.embedded.server import find_binaries
from kernel.errors import BootError
from kernel.masking import MASK, mask_text

_DEFAULT_PORT = "5432"


@click.group()
def db() -> None:
    """Reach, reset and upgrade the database."""


# --- shell ----------------------------------------------------------------------------------------------------------


@db.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": ["--help"]}
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def shell(*, arguments: tuple[str, ...]) -> None:
    """Run psql on the database, with the schemas of the service in its search path.

    ARGUMENTS are passed to psql, such as -c 'SELECT count(*) FROM event'.
    """
    service = Tiercel(load())
    with service.database_ready():
        # A pooler does not let a client choose the search path of a session.
        schemas = [*schemas_of(service.migrations()), "public"] if service.db.is_direct() else []
        psql = find_psql()
        if psql is not None:
            sys.exit(_run_psql(psql, arguments, service.db.direct_conninfo, schemas))
        if len(arguments) != 2 or arguments[0] not in ("-c", "--command"):
            raise BootError(
                "psql is not installed; install it (Debian and Ubuntu: postgresql-client), or pass one statement:"
                " tiercel db shell -c 'SELECT ...'"
            )
        run_statement(service.db.direct_conninfo, schemas, arguments[1])


def find_psql() -> str | None:
    """Return the path of psql: of the system, which can edit lines, or else of the embedded PostgreSQL."""
    if found := shutil.which("psql"):
        return found
    try:
        return shutil.which(find_binaries() / "psql")
    except BootError:
        return None


def _run_psql(psql: str, arguments: Sequence[str], conninfo: str, schemas: Sequence[str]) -> int:
    # Ctrl-C is for psql, which ends a query with it. Unlike SIG_IGN, a handler is not inherited.
    previous = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.call([psql, *arguments], env={**os.environ, **client_environment(conninfo, schemas)})
    finally:
        signal.signal(signal.SIGINT, previous)


def run_statement(conninfo: str, schemas: Sequence[str], statement: str) -> None:
    """Run one statement without psql, and print its rows as a table, or else what it did.

    Raises:
        BootError: The statement failed.
    """
    try:
        with psycopg.connect(with_search_path(conninfo, schemas), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            if cursor.description is None:
                echo(cursor.statusmessage or "")
            else:
                print_table([column.name for column in cursor.description], cursor.fetchall())
    except psycopg.Error as ex:
        raise BootError(describe(ex)) from ex


# --- url ------------------------------------------------------------------------------------------------------------


@db.command()
@click.option("--show-password", is_flag=True, help="Print the password instead of ***.")
def url(*, show_password: bool) -> None:
    """Print the connection string of the database."""
    echo(make_url(Tiercel(load()).db.direct_conninfo, show_password=show_password))


def make_url(conninfo: str, *, show_password: bool) -> str:
    """Return a connection string as URL."""
    parts = {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if name not in OWN_PARAMETERS}
    user, password, host = (parts.pop(name, "") for name in ("user", "password", "host"))
    port, dbname = parts.pop("port", ""), parts.pop("dbname", "")
    secret = "" if not password else ":" + (quote(password, safe="") if show_password else MASK)
    if "," in host or host.startswith(("/", "@")):
        # Several hosts, or the directory of a socket.
        parts = {"host": host, **({"port": port} if port else {}), **parts}
        host = port = ""
    if ":" in host:
        host = f"[{host}]"
    place = f"{host}:{port}" if port and port != _DEFAULT_PORT else host
    query = f"?{urlencode(parts, quote_via=quote, safe='/')}" if parts else ""
    # Such as that of a key file.
    query = query if show_password else mask_text(query)
    return f"postgresql://{quote(user, safe='')}{secret}{'@' if user else ''}{place}/{quote(dbname, safe='')}{query}"


# --- reset ----------------------------------------------------------------------------------------------------------


@db.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--external", is_flag=True, help="Also on a server of your own: drop the schemas of the service.")
def reset(*, yes: bool, external: bool) -> None:
    """Remove all data; the next start begins anew. Stop the service first."""
    service = Tiercel(load())
    if service.server is None and not external:
        raise BootError("the database is not embedded; pass --external to drop the schemas of the service in it")
    place = make_url(service.db.direct_conninfo, show_password=False)
    if not yes:
        if not sys.stdin.isatty():
            raise BootError("nothing was removed: pass --yes to confirm")
        click.confirm(f"Remove all data of the service in {place}?", abort=True)
    if service.server is not None:
        service.server.remove_data()
        echo("The data was removed.")
        return
    with service.database_ready():
        schemas = remove(service.db.direct_conninfo, service.migrations())
    echo(f"Dropped the schemas {', '.join(schemas)}." if schemas else "There is no data of the service.")


# --- upgrade --------------------------------------------------------------------------------------------------------


@click.command()
@click.option(
    "--old-binaries",
    metavar="DIRECTORY",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Programs of the earlier PostgreSQL; /usr/lib/postgresql/VERSION/bin by default.",
)
def upgrade(*, old_binaries: Path | None) -> None:
    """Convert the embedded database to the installed major version of PostgreSQL. Stop the service first."""
    service = Tiercel(load())
    if service.server is None:
        raise BootError("the database is not embedded; upgrade your server with its own tools")
    kept = service.server.upgrade(old_binaries.absolute() if old_binaries is not None else None)
    if kept is None:
        echo("Nothing to do: the data has the version of the installed PostgreSQL.")
    else:
        echo(f"The database was converted. Its former data is in {kept}; remove it once everything works.")


db.add_command(upgrade)
