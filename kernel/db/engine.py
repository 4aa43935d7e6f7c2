"""What the database server can do, found out by asking it."""

from __future__ import annotations

from typing import Literal

import msgspec
from psycopg import Connection

from kernel.db.queries import load_queries

EngineName = Literal["postgresql", "timescaledb-apache", "timescaledb"]

OLDEST_POSTGRESQL = 150000

_QUERIES = load_queries(__package__)


class Engine(msgspec.Struct, frozen=True):
    """A database server and its capabilities.

    Args:
        name: ``timescaledb`` has the community licence, ``timescaledb-apache`` only what Apache 2 covers.
        vendor: Always ``postgresql``; so that nobody is silently on another database.
        version: As the server prints it, ``18.6``.
        version_number: As an integer that compares, ``180006``.
        timescaledb_version: Version of the extension in this database, if it is there.
        database: Name of the database.
        embedded: Whether Tiercel started the server itself.
    """

    name: EngineName
    vendor: str
    version: str
    version_number: int
    timescaledb_version: str | None
    database: str
    embedded: bool

    @property
    def has_hypertables(self) -> bool:
        """Tell whether raw events can live in a hypertable."""
        return self.timescaledb_version is not None


def detect(connection: Connection[tuple[object, ...]], *, embedded: bool) -> Engine:
    """Ask a server what it is and can do."""
    row = connection.execute(_QUERIES["detect_engine"]).fetchone()
    if row is None:
        raise RuntimeError("the server did not describe itself")
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
    )
