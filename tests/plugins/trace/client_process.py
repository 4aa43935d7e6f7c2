"""A process that sends requests to Notion as fast as the rate limiter allows, and prints how many were retried.

Run as ``python -m tests.plugins.trace.client_process CONNINFO URL TOKEN DATA_SOURCE_ID COUNT``.
"""

from __future__ import annotations

import sys
import time

from kernel.db.pool import Database
from kernel.settings import DatabaseSettings
from tests.notion.server import FakeNotion
from tests.notion.workspace import Workspace
from tests.plugins.trace.factories import notion_client

# At most 15 in any second: a burst of five, and ten more.
RATE = {"per_minute": 604, "burst": 5}


def main(conninfo: str, url: str, token: str, data_source_id: str, count: int) -> None:
    """Send so many requests."""
    notion = FakeNotion(Workspace(), token)
    notion.url = url
    db = Database(DatabaseSettings(), conninfo, embedded=False)
    db.open()
    try:
        with notion_client(db, notion, time.sleep, RATE) as client:
            for _ in range(count):
                client.retrieve_data_source(data_source_id)
        print(client.retry_count)
    finally:
        db.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
