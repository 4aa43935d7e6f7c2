"""A fake Notion in a separate process: ``python -m tests.bench.notion_fake ROWS LATENCY_S``.

Edits as many features as each line of its input says, and answers each with what to export as a line of JSON.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from tests.notion.server import FakeNotion, running_notion
from tests.notion.workspace import DataSource, Page, Workspace

TIERS = 5
GATEWAYS = 20
TAGS = 200
AREAS = ("flow", "chat", "mail", "boards", "search", "billing")
STATUSES = ("planned", "beta", "live", "retired")
_WORDS = ("people", "find", "what", "others", "share", "with", "them", "and", "take", "part", "from", "every", "place")
_DESCRIPTION_CHARACTERS = 300
_MINUTE = timedelta(minutes=1)


class Features:
    """A workspace with features, and what they are related to.

    Args:
        rows: How many features.
    """

    def __init__(self, rows: int) -> None:
        self.workspace = Workspace()
        self._random = random.Random(0)
        self._others = {
            "tiers": self._add_others("Tier", TIERS),
            "gateways": self._add_others("Gateway", GATEWAYS),
            "tags": self._add_others("Tag", TAGS),
        }
        self._features = self.workspace.add_data_source("Features", self._columns())
        for number in range(rows):
            values = {"Name": f"Feature {number} of the product", **self._values()}
            self.workspace.add_page(self._features, values)
            # Made in the course of time, and the last of them before the export looks.
            self.workspace.now += _MINUTE if number % 10 == 0 else timedelta()
        self.workspace.now += timedelta(hours=1)

    @property
    def sources(self) -> dict[str, Any]:
        """Return the table of the configuration."""
        fields = {name.lower(): name for name in self._columns() if name != "Name"}
        sources: dict[str, Any] = {name: {"databases": [each.database_id]} for name, each in self._others.items()}
        return {**sources, "features": {"databases": [self._features.database_id], "fields": fields}}

    def edit(self, count: int) -> None:
        """Change some features, an hour later."""
        self.workspace.now += timedelta(hours=1)
        for page in self._random.sample(list(self._features.pages.values()), count):
            self.workspace.edit(page, self._values())

    def _add_others(self, title: str, count: int) -> DataSource:
        source = self.workspace.add_data_source(f"{title}s", {"Name": "title"})
        for number in range(count):
            self.workspace.add_page(source, {"Name": f"{title} {number}"})
        return source

    def _columns(self) -> dict[str, Any]:
        def related(name: str) -> tuple[str, dict[str, Any]]:
            return "relation", {"data_source_id": self._others[name].id}

        return {
            "Name": "title",
            "Description": "rich_text",
            "Area": "select",
            "Status": "status",
            "Tier": related("tiers"),
            "Gateways": related("gateways"),
            "Tags": related("tags"),
        }

    def _values(self) -> dict[str, Any]:
        return {
            "Description": " ".join(self._random.choices(_WORDS, k=80))[:_DESCRIPTION_CHARACTERS],
            "Area": self._random.choice(AREAS),
            "Status": self._random.choice(STATUSES),
            "Tier": self._some("tiers", 1),
            "Gateways": self._some("gateways", 3),
            "Tags": self._some("tags", 4),
        }

    def _some(self, name: str, count: int) -> Sequence[Page]:
        return self._random.sample(list(self._others[name].pages.values()), count)


def main(rows: int, latency_s: float) -> None:
    """Serve until the input ends."""
    features = Features(rows)
    notion = FakeNotion(features.workspace)
    notion.latency_s = latency_s
    with running_notion(notion):
        table = {"token": notion.token, "api_url": notion.url, "sources": features.sources}
        for line in sys.stdin:
            features.edit(int(line))
            print(json.dumps(table), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
