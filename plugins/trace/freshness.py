"""Whether the specifications are what Notion has."""

from __future__ import annotations

from kernel import Services, UnavailableError
from plugins.trace.settings import TraceSettings

NO_TOKEN = "NOTION_TOKEN is not set: what was imported is served"  # noqa: S105 - says that there is none
NO_SOURCES = "no sources are configured: what was imported is served"


class Freshness:
    """Looks at exports.

    Args:
        services: Settings, datasets.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.settings(TraceSettings)

    def check(self) -> str:
        """Say how the exports are, for readiness.

        Raises:
            UnavailableError: The latest export of a dataset was refused; says why.
        """
        settings = self._settings
        if not settings.sources:
            return NO_SOURCES
        if settings.token is None:
            return NO_TOKEN
        latest = {name: self._services.datasets.publications(name, 1) for name in settings.sources}
        refused = [f"{name}: {each.reason}" for name, found in latest.items() for each in found if each.reason]
        if refused:
            raise UnavailableError("; ".join(refused))
        if waiting := [name for name, found in latest.items() if not found]:
            raise UnavailableError(f"not exported yet: {', '.join(waiting)}")
        return f"sources: {len(latest)} are exported"
