"""A client of Notion's API that returns complete results or raises. Knows nothing of datasets.

===============  =======================================================================================
``client``       one method for each endpoint: send a request, retry it, validate the response
``rate_limit``   the request budget that all processes with one token share; pauses that Notion asks for
``errors``       what an error response means, and whether to retry it
``pagination``   follow cursors; reject pages that never end
``query``        read every row of a data source; split queries beyond 10,000 rows
``schema``       the columns of a data source
``values``       property values as plain data; values longer than a page object shows
===============  =======================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kernel import Services
from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.rate_limit import RateLimiter
from plugins.trace.settings import TraceSettings

if TYPE_CHECKING:
    from plugins.trace.notion.client import NotionClient


def make_limiter(services: Services, sleep: Callable[[float], None]) -> RateLimiter:
    """Return the rate limiter of the token.

    Args:
        services: Of this plugin.
        sleep: Called with the seconds to wait between requests; may raise to give up.

    Raises:
        NotionError: There is no token.
    """
    settings = services.settings(TraceSettings)
    if settings.token is None:
        raise NotionError("refused", "NOTION_TOKEN is not set")
    return RateLimiter(
        services.db,
        settings.token,
        per_minute=settings.requests_per_minute,
        burst=settings.burst,
        sleep=sleep,
        wait_max_s=settings.retry_wait_max_s,
    )


def connect(services: Services, sleep: Callable[[float], None], on_retry: Callable[[str], None]) -> NotionClient:
    """Make a client with the settings of the service and the shared request budget. Close it.

    Args:
        services: Of this plugin.
        sleep: Called with the seconds to wait between requests; may raise to give up.
        on_retry: Called with the reason when a request is retried.

    Raises:
        NotionError: There is no token, or it cannot be sent.
    """
    # Notion's SDK takes a tenth of a second to import, which processes that do not read from Notion need not pay.
    from plugins.trace.notion.client import NotionClient

    return NotionClient(services.settings(TraceSettings), make_limiter(services, sleep), sleep, on_retry)
