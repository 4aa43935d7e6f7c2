"""Locks of a database."""

from __future__ import annotations

import psycopg


def waits_for_lock(database: str) -> bool:
    """Tell whether a session of a database waits for a lock."""
    waiting = (
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')"
    )
    with psycopg.connect(database) as connection:
        return connection.execute(waiting).fetchone() == (True,)
