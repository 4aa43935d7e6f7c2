"""Detect what the database server is and can do. Where TimescaleDB differs is decided by ``Engine.name``."""

from __future__ import annotations

from typing import Literal

import msgspec
from psycopg import Connection

from kernel.db.queries import load_queries

EngineName = Literal["postgresql", "timescaledb-apache", "timescaledb"]

# The oldest PostgreSQL that is supported, as ``server_version_num`` has it.
MIN_VERSION_NUMBER = 150000

_QUERIES = load_queries(__package__)


class Engine(msgspec.Struct, frozen=True):
    """A database server and its capabilities.

    Args:
        name: ``timescaledb`` has the community licence, ``timescaledb-apache`` only the features under Apache 2.
        vendor: Always ``postgresql``.
        version: As the server prints it, such as ``18.6``.
        version_number: As an integer that compares, such as ``180006``.
        timescaledb_version: Version of the extension in this database; None if it is not installed.
        database: Name of the database.
        embedded: Whether Tiercel started the server itself.
        pooled: Whether there is a pooler, such as PgBouncer, between Tiercel and the server.
    """

    name: EngineName
    vendor: str
    version: str
    version_number: int
    timescaledb_version: str | None
    database: str
    embedded: bool
    pooled: bool = False


def detect_engine(connection: Connection[tuple[object, ...]], *, embedded: bool) -> Engine:
    """Query a server for its version and extensions.

    Args:
        connection: To the database in question.
        embedded: Whether Tiercel started the server itself; the server cannot tell.
    """
    row = connection.execute(_QUERIES["detect_engine"]).fetchone()
    if row is None:
        raise RuntimeError("the query for the server's version returned no row")
    version, number, database, timescaledb, licence = row
    name: EngineName = "postgresql"
    if timescaledb is not None:
        name = "timescaledb" if licence == "timescale" else "timescaledb-apache"
    return Engine(
        name=name,
        vendor="postgresql",
        version=str(version),
        version_number=int(str(number)),
        timescaledb_version=None if timescaledb is None else str(timescaledb),
        database=str(database),
        embedded=embedded,
        pooled=is_pooled(connection),
    )


def is_pooled(connection: Connection[tuple[object, ...]]) -> bool:
    """Tell whether there is a pooler between the client and the server.

    A server tells each client the number of the process that serves it, for requests to cancel statements. Poolers
    cannot pass that number on, as the process changes: they make one up.
    """
    row = connection.execute(_QUERIES["identify_session"]).fetchone()
    return row is not None and row[0] != connection.info.backend_pid
