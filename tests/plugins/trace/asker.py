"""A process that asks Notion as often as the budget lets it, and prints how often it was refused."""

from __future__ import annotations

import sys
import time

from kernel.db.pool import Database
from kernel.settings import DatabaseSettings
from tests.notion.server import FakeNotion
from tests.notion.workspace import Workspace
from tests.plugins.trace.asking import asking

# In any second 15 at most: five at once, and ten more.
PACE = {"per_minute": 604, "burst": 5}


def main(database: str, url: str, source_id: str, count: int) -> None:
    """Ask so often, as fast as it goes."""
    notion = FakeNotion(Workspace())
    notion.url = url
    db = Database(DatabaseSettings(), database, embedded=False)
    db.open()
    try:
        with asking(db, notion, time.sleep, PACE) as api:
            for _ in range(count):
                api.data_source(source_id)
        print(api.retries)
    finally:
        db.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
