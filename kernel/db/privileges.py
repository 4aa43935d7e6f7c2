"""What a role lacks to apply migrations or to run the service, and the statements that give it."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import psycopg
from psycopg import Connection

from kernel.db.queries import load_queries

_QUERIES = load_queries(__package__)
_SCHEMA_DENIED = re.compile(r'permission denied for schema "?([^"]+?)"?$')
_EXTENSION_DENIED = re.compile(r'permission denied to create extension "([^"]+)"')


def find_missing_to_migrate(connection: Connection[Any], schemas: Collection[str]) -> tuple[str, ...]:
    """List what the current role lacks to apply migrations, each with the statement that gives it.

    Args:
        connection: To the database, as that role.
        schemas: The schemas that the migrations create or change.
    """
    role, database = _names(connection)
    found = []
    for kind, name, owner in connection.execute(_QUERIES["find_missing_privileges"], {"schemas": list(schemas)}):
        if kind == "database":
            found.append(
                f"role {role} may not create schemas in database {name}; run: GRANT CREATE ON DATABASE {name}"
                f" TO {role};"
            )
        elif kind == "schema":
            found.append(
                f"role {role} may not create objects in schema {name}, which belongs to {owner}; run: ALTER SCHEMA"
                f" {name} OWNER TO {role};"
            )
        else:
            found.append(
                f"role {role} may not change objects of {owner} in schema {name}; run: GRANT {owner} TO {role}; or, in"
                f" database {database}: REASSIGN OWNED BY {owner} TO {role};"
            )
    return tuple(found)


def find_missing_to_run(connection: Connection[Any], schemas: Collection[str]) -> tuple[str, ...]:
    """List the tables that the current role may not read or write, and whether it may not create temporary ones.

    Args:
        connection: To the database, as that role.
        schemas: The schemas of the service.
    """
    role, database = _names(connection)
    found = []
    for kind, name in connection.execute(_QUERIES["find_unusable"], {"schemas": list(schemas)}):
        if kind == "temporary":
            found.append(
                f"role {role} may not create temporary tables; run: GRANT TEMPORARY ON DATABASE {database} TO {role};"
            )
        else:
            found.append(
                f"role {role} may not use every table of schema {name}; run: GRANT USAGE ON SCHEMA {name} TO {role};"
                f" GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {name} TO {role};"
            )
    return tuple(found)


def explain(connection: Connection[Any], error: psycopg.errors.InsufficientPrivilege) -> str:
    """Return the message of an error of a migration, with the statement that gives what the role lacks."""
    role, database = _names(connection)
    message = error.diag.message_primary or str(error)
    cure = f"ALTER DATABASE {database} OWNER TO {role};"
    if found := _SCHEMA_DENIED.search(message):
        # Since PostgreSQL 15 only the owner of a database may create objects in its schema public.
        cure = f"GRANT USAGE, CREATE ON SCHEMA {found[1]} TO {role};"
    elif found := _EXTENSION_DENIED.search(message):
        cure = f'as a superuser: CREATE EXTENSION "{found[1]}";'
    elif message.startswith("permission denied for database"):
        cure = f"GRANT CREATE ON DATABASE {database} TO {role};"
    elif message.startswith("must be owner of"):
        cure = f"GRANT <its owner> TO {role};"
    return f"{message} (role {role}); run: {cure}"


def _names(connection: Connection[Any]) -> tuple[str, str]:
    ((role, database),) = connection.execute(_QUERIES["find_role"])
    return role, database
