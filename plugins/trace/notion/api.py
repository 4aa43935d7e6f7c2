"""What we ask Notion for: paced by the budget, tried again while that may help."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from notion_client import Client

from kernel import backoff_s
from plugins.trace.notion.budget import RequestBudget
from plugins.trace.notion.client import CountingClient, attempt, make_client
from plugins.trace.notion.errors import NotionError
from plugins.trace.settings import TraceSettings

PAGE_SIZE = 100


class NotionApi:
    """Asks Notion. Close it.

    Args:
        settings: Address, token, patience.
        budget: Paces requests.
        wait: Sleeps between attempts; may raise to give up.
        on_retry: Told why something is tried again.
    """

    def __init__(
        self,
        settings: TraceSettings,
        budget: RequestBudget,
        wait: Callable[[float], None],
        on_retry: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._budget = budget
        self._wait = wait
        self._on_retry = on_retry
        self._http = CountingClient()
        self._client: Client = make_client(settings, self._http)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @property
    def requests(self) -> int:
        """How many were sent, the failed ones included."""
        return self._http.requests

    @property
    def received_bytes(self) -> int:
        """How much came, as it came over the wire."""
        return self._http.received_bytes

    def now(self) -> datetime:
        """Return the time by Notion's clock, as of its latest answer; by ours before the first."""
        return self._http.date or datetime.now(UTC)

    def is_trashed(self, page_id: str) -> bool:
        """Tell whether a page is in the trash; one that is not there at all is not.

        Raises:
            NotionError: As ``database``.
        """
        try:
            page = self.page(page_id)
        except NotionError as ex:
            if ex.kind == "missing":
                return False
            raise
        return bool(page.get("in_trash") or page.get("archived"))

    def database(self, database_id: str) -> dict[str, Any]:
        """Return a database: which data sources it has.

        Raises:
            NotionError: It is not there, is not shared with the token's connection, or Notion does not answer.
        """
        return self._ask(f"database {database_id}", lambda: self._client.databases.retrieve(database_id))

    def data_source(self, data_source_id: str) -> dict[str, Any]:
        """Return a data source: its schema.

        Raises:
            NotionError: As ``database``.
        """
        return self._ask(f"data source {data_source_id}", lambda: self._client.data_sources.retrieve(data_source_id))

    def query(self, data_source_id: str, **asked: Any) -> dict[str, Any]:
        """Return a page of the rows of a data source.

        Args:
            data_source_id: Which one.
            **asked: ``filter``, ``sorts``, ``start_cursor``, ``filter_properties``, ``in_trash``.

        Raises:
            NotionError: As ``database``.
        """
        return self._ask(
            f"rows of data source {data_source_id}",
            lambda: self._client.data_sources.query(data_source_id, page_size=PAGE_SIZE, **asked),
        )

    def page(self, page_id: str) -> dict[str, Any]:
        """Return a page.

        Raises:
            NotionError: As ``database``.
        """
        return self._ask(f"page {page_id}", lambda: self._client.pages.retrieve(page_id))

    def property_items(self, page_id: str, property_id: str) -> Iterator[Sequence[dict[str, Any]]]:
        """Return the whole value of a property that is too long for its page, part by part.

        Raises:
            NotionError: As ``database``.
        """
        cursor: str | None = None
        while True:
            part = self._ask(
                f"property {property_id} of page {page_id}",
                lambda cursor=cursor: self._client.pages.properties.retrieve(  # type: ignore[misc]
                    page_id, property_id, start_cursor=cursor, page_size=PAGE_SIZE
                ),
            )
            yield part.get("results", ())
            cursor = part.get("next_cursor")
            if not part.get("has_more") or cursor is None:
                return

    def _ask(self, what: str, call: Callable[[], Any]) -> dict[str, Any]:
        failed = 0
        while True:
            self._budget.take()
            try:
                return attempt(call)
            except NotionError as ex:
                failed += 1
                reason = f"{what}: {ex.reason}"
                if not ex.retry:
                    raise NotionError(ex.kind, reason) from ex
                if failed > self._settings.retries:
                    raise NotionError(ex.kind, f"{reason}; tried {failed} times", retry=True) from ex
                self._again(ex, failed, reason)

    def _again(self, error: NotionError, failed: int, reason: str) -> None:
        settings = self._settings
        own_s = backoff_s(failed, settings.retry_wait_s, settings.retry_wait_max_s, random.random())  # noqa: S311 - no secret depends on it
        asked_s = error.retry_after_s
        if asked_s is not None and asked_s > settings.retry_wait_max_s:
            raise NotionError(error.kind, f"{reason}; asks to wait {asked_s:.0f} s", retry=True) from error
        self._on_retry(reason)
        if asked_s is None:
            self._wait(own_s)
        else:
            # Whoever else has this token would only be told the same.
            self._budget.pause(asked_s)
