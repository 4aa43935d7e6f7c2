"""What we ask Notion for: paced by the budget, tried again while that may help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

from notion_client import Client

from kernel import backoff_s
from plugins.trace.notion.budget import RequestBudget
from plugins.trace.notion.client import CountingClient, attempt, make_client
from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.paging import Cursors
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
        self._token = "" if settings.token is None else settings.token.reveal()
        self._http = CountingClient(settings.timeout_s, lambda: wait(0.0))
        self._client: Client = make_client(settings, self._http)
        self.retries = 0

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

    def database(self, database_id: str) -> dict[str, Any]:
        """Return a database: which data sources it has.

        Raises:
            NotionError: It is not there, is not shared with the token's connection, or Notion does not answer.
        """
        return self._ask(f"database {database_id}", "database", lambda: self._client.databases.retrieve(database_id))

    def data_source(self, data_source_id: str) -> dict[str, Any]:
        """Return a data source: its schema.

        Raises:
            NotionError: As ``database``.
        """
        return self._ask(
            f"data source {data_source_id}",
            "data_source",
            lambda: self._client.data_sources.retrieve(data_source_id),
        )

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
            "list",
            lambda: self._client.data_sources.query(data_source_id, page_size=PAGE_SIZE, **asked),
        )

    def page(self, page_id: str) -> dict[str, Any]:
        """Return a page.

        Raises:
            NotionError: As ``database``.
        """
        return self._ask(f"page {page_id}", "page", lambda: self._client.pages.retrieve(page_id))

    def property_items(self, page_id: str, property_id: str) -> Iterator[dict[str, Any]]:
        """Return the whole value of a property that is too long for its page: one answer, or a list page by page.

        Raises:
            NotionError: As ``database``.
        """
        what = f"property {property_id} of page {page_id}"
        cursors, cursor = Cursors(), None
        while True:
            part = self._ask(
                what,
                "list",
                partial(
                    self._client.pages.properties.retrieve,
                    page_id,
                    property_id,
                    start_cursor=cursor,
                    page_size=PAGE_SIZE,
                ),
            )
            yield part
            try:
                cursor = cursors.follow(part, is_new=bool(part.get("results")))
            except NotionError as ex:
                raise NotionError(ex.kind, f"{what}: {ex.reason}", retry=ex.retry) from None
            if cursor is None:
                return

    def _ask(self, what: str, expected: str, call: Callable[[], Any]) -> dict[str, Any]:
        failed = 0
        while True:
            self._budget.take()
            try:
                return attempt(call, expected)
            except NotionError as ex:
                failed += 1
                error = self._explain(ex, what, failed)
            # Outside of the handler: what is raised now must not carry along what it was made of.
            self._wait_or_raise(error, failed)

    def _explain(self, error: NotionError, what: str, failed: int) -> NotionError:
        tried = f"; tried {failed} times" if error.retry and failed > self._settings.retries else ""
        # Nobody answers with the token of whoever asked; should it be done, it ends here.
        reason = f"{what}: {error.reason}{tried}".replace(self._token, "***")
        return NotionError(error.kind, reason, retry=error.retry, retry_after_s=error.retry_after_s)

    def _wait_or_raise(self, error: NotionError, failed: int) -> None:
        settings = self._settings
        if not error.retry or failed > settings.retries:
            raise error
        self.retries += 1
        self._on_retry(error.reason)
        own_s = backoff_s(failed, settings.retry_wait_s, settings.retry_wait_max_s)
        if error.kind == "limited" or error.retry_after_s is not None:
            # Whoever else has this token would only be told the same.
            self._budget.pause(max(own_s, error.retry_after_s or 0.0))
        else:
            self._wait(own_s)
