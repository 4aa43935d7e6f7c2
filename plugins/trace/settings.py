"""The table ``[trace]`` of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from kernel import Secret, Table, env

DatasetName = Literal["features", "gateways", "tiers", "tags"]
ApiVersion = Literal["2025-09-03", "2026-03-11"]
Positive = Annotated[float, msgspec.Meta(gt=0)]


class Source(Table, frozen=True):
    """Databases of Notion that are alike, and what to take out of them. See the configuration file for each key."""

    databases: tuple[str, ...] = ()
    data_sources: tuple[str, ...] = ()
    fields: dict[str, str] = msgspec.field(default_factory=dict)
    properties: dict[str, str] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.databases and not self.data_sources:
            raise ValueError("expected databases or data_sources, to read from")


class TraceSettings(Table, frozen=True):
    """Where specifications come from, and how patient to be."""

    token: Annotated[Secret | None, env("NOTION_TOKEN")] = None
    webhook_token: Annotated[Secret | None, env("NOTION_WEBHOOK_TOKEN")] = None
    sources: dict[DatasetName, Source] = msgspec.field(default_factory=dict)
    schedule: str = "every 15m"
    full_schedule: str = "0 3 * * *"
    webhook_wait_s: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    api_url: str = "https://api.notion.com"
    api_version: ApiVersion = "2026-03-11"
    requests_per_minute: Annotated[int, msgspec.Meta(ge=1)] = 180
    burst: Annotated[int, msgspec.Meta(ge=1)] = 10
    timeout_s: Positive = 60.0
    total_timeout_s: Positive = 3600.0
    retries: Annotated[int, msgspec.Meta(ge=0, le=50)] = 8
    retry_wait_s: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    retry_wait_max_s: Positive = 300.0

    @property
    def is_active(self) -> bool:
        """Whether there is something to read, and a token to read it with."""
        return self.token is not None and bool(self.sources)
