"""Connect to Notion with the settings of the service and everybody's budget."""

from __future__ import annotations

from collections.abc import Callable

from kernel import Services
from plugins.trace.notion.api import NotionApi
from plugins.trace.notion.budget import RequestBudget
from plugins.trace.notion.errors import NotionError
from plugins.trace.settings import TraceSettings


def connect(services: Services, wait: Callable[[float], None], on_retry: Callable[[str], None]) -> NotionApi:
    """Make what asks Notion. Close it.

    Args:
        services: Of this plugin.
        wait: Sleeps; may raise to give up.
        on_retry: Told why something is tried again.

    Raises:
        NotionError: There is no token.
    """
    settings = services.settings(TraceSettings)
    if settings.token is None:
        raise NotionError("refused", "NOTION_TOKEN is not set")
    budget = RequestBudget(
        services.db,
        settings.token,
        per_minute=settings.requests_per_minute,
        burst=settings.burst,
        wait=wait,
        wait_max_s=settings.retry_wait_max_s,
    )
    return NotionApi(settings, budget, wait, on_retry)
