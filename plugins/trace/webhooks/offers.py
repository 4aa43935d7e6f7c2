"""Verification tokens that came for a new subscription, until somebody puts one into the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from kernel import Database, load_queries

QUERIES = load_queries(__package__)
# Anybody can send one: the latest few are enough to find one's own among them.
KEPT_MAX = 5


class Offer(msgspec.Struct, frozen=True):
    """A verification token.

    Args:
        token: The secret.
        offered_at: When it came last.
    """

    token: str
    offered_at: datetime


def save_offer(db: Database, token: str) -> None:
    """Keep a token, and of all only the latest."""
    with db.transaction() as connection:
        connection.execute(QUERIES["save_offer"], {"token": token})
        connection.execute(QUERIES["delete_old_offers"], {"keep": KEPT_MAX})


def list_offers(db: Database) -> Sequence[Offer]:
    """Return the tokens that came within a day, latest first."""
    with db.connection() as connection:
        return [Offer(*row) for row in connection.execute(QUERIES["list_offers"])]


def delete_offers(db: Database) -> None:
    """Forget them all."""
    with db.connection() as connection:
        connection.execute(QUERIES["delete_offers"])
