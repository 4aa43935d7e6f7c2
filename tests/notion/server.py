"""A fake of Notion's API on real sockets: its objects, two of its versions, its limits, and injected faults.

Sources: https://developers.notion.com/reference
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.notion.properties import property_item, shown_property
from tests.notion.queries import InvalidQueryError, QueryEngine
from tests.notion.workspace import DataSource, Page, Workspace, shown_time

VERSIONS = ("2025-09-03", "2026-03-11")
_DELAY_MAX_S = 60.0


class ResponseError(Exception):
    """Respond with an error instead."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"object": "error", "status": status, "code": code, "message": message, **more}
        self.headers = dict(headers or {})


class Call:
    """A request, and how to tamper with its response."""

    def __init__(self, method: str, target: str, headers: Mapping[str, str], body: Any, number: int) -> None:
        url = urlsplit(target)
        self.method = method
        self.path = [unquote(part) for part in url.path.split("/")[2:]]
        self.query = parse_qs(url.query)
        self.headers = headers
        self.body = body
        self.number = number
        # Close the connection after so many bytes of the response.
        self.truncate_after_bytes: int | None = None
        # Close the connection without a response.
        self.disconnect = False
        # Respond only when this is set.
        self.delay_until: threading.Event | None = None
        # Wait so long before each byte.
        self.byte_interval_s = 0.0
        # Status and body of the response of a proxy, to send instead.
        self.proxy_response: tuple[int, bytes] | None = None
        # Change the response before it is sent.
        self.alter: Callable[[dict[str, Any]], None] = lambda answer: None

    @property
    def is_query(self) -> bool:
        """Whether it queries the rows of a data source."""
        return self.path[0] == "data_sources" and self.path[-1] == "query"


# Called first with each request: raises a ResponseError, tampers with the call, changes the workspace, or does nothing.
Fault = Callable[[Call], None]


class FakeNotion:
    """A server of one workspace.

    Args:
        workspace: What it serves.
        token: The only one that it accepts.
        rows_max: After how many rows a query ends.
    """

    def __init__(self, workspace: Workspace, token: str = "ntn_test", rows_max: int = 10_000) -> None:
        self.workspace = workspace
        self.token = token
        self.query_engine = QueryEngine(workspace, rows_max)
        self.faults: list[Fault] = []
        self.calls: list[Call] = []
        # How long each response takes.
        self.latency_s = 0.0
        self._lock = threading.Lock()
        self.url = ""

    def answer(self, call: Call) -> dict[str, Any]:
        """Return the body of the response.

        Raises:
            ResponseError: Respond with an error.
        """
        with self._lock:
            self.calls.append(call)
            self._admit(call)
            for fault in tuple(self.faults):
                fault(call)
            answer = self._answer(call)
            call.alter(answer)
            return answer

    def _answer(self, call: Call) -> dict[str, Any]:
        match call.path:
            case ["databases", database_id]:
                return self._database(database_id)
            case ["data_sources", source_id]:
                return self._data_source(self._source(source_id))
            case ["data_sources", source_id, "query"]:
                return self._query(self._source(source_id), call)
            case ["pages", page_id]:
                return self._page(self._find(page_id), call)
            case ["pages", page_id, "properties", property_id]:
                return self._property(self._find(page_id), property_id, call)
        raise ResponseError(400, "invalid_request_url", "Invalid request URL.")

    def _admit(self, call: Call) -> None:
        if call.headers.get("authorization") != f"Bearer {self.token}":
            raise ResponseError(401, "unauthorized", "API token is invalid.")
        if call.headers.get("notion-version") not in VERSIONS:
            raise ResponseError(400, "missing_version", "Notion-Version header should be defined.")

    def _source(self, source_id: str) -> DataSource:
        if source_id not in self.workspace.data_sources:
            raise ResponseError(404, "object_not_found", f"Could not find data source with ID: {source_id}.")
        return self.workspace.data_sources[source_id]

    def _find(self, page_id: str) -> Page:
        page = self.workspace.find(page_id)
        if page is None:
            raise ResponseError(404, "object_not_found", f"Could not find page with ID: {page_id}.")
        return page

    def _database(self, database_id: str) -> dict[str, Any]:
        if database_id not in self.workspace.databases:
            raise ResponseError(404, "object_not_found", f"Could not find database with ID: {database_id}.")
        ids = self.workspace.databases[database_id]
        listed = [{"id": each, "name": self.workspace.data_sources[each].title} for each in ids]
        return {"object": "database", "id": database_id, "title": [], "data_sources": listed}

    def _data_source(self, source: DataSource) -> dict[str, Any]:
        return {
            "object": "data_source",
            "id": source.id,
            "title": [{"type": "text", "plain_text": source.title}],
            "parent": {"type": "database_id", "database_id": source.database_id},
            "properties": {column.name: column.shown() for column in source.columns},
        }

    def _query(self, source: DataSource, call: Call) -> dict[str, Any]:
        try:
            found = self.query_engine.query(source, call.body)
        except InvalidQueryError as ex:
            raise ResponseError(400, "validation_error", str(ex)) from ex
        complete = {"type": "complete"}
        incomplete = {"type": "incomplete", "incomplete_reason": "query_result_limit_reached"}
        return {
            "object": "list",
            "results": [self._page(page, call) for page in found.pages],
            "next_cursor": found.next_cursor,
            "has_more": found.next_cursor is not None,
            "type": "page_or_data_source",
            "page_or_data_source": {},
            "request_status": incomplete if found.is_incomplete else complete,
        }

    def _page(self, page: Page, call: Call) -> dict[str, Any]:
        source = self.workspace.data_sources[page.data_source_id]
        wanted = call.query.get("filter_properties")
        shown = {
            "object": page.object,
            "id": page.id,
            "created_time": shown_time(page.created_time),
            "last_edited_time": shown_time(page.last_edited_time),
            "parent": {
                "type": "data_source_id",
                "data_source_id": source.id,
                "database_id": source.database_id,
            },
            "in_trash": page.in_trash,
            "is_archived": page.is_archived,
            "properties": {
                column.name: shown_property(self.workspace, page, column)
                for column in source.columns
                if wanted is None or column.id in wanted
            },
            "url": f"https://www.notion.so/{page.id.replace('-', '')}",
        }
        if call.headers["notion-version"] == "2025-09-03":
            shown["archived"] = page.in_trash
        return shown

    def _property(self, page: Page, property_id: str, call: Call) -> dict[str, Any]:
        columns = self.workspace.data_sources[page.data_source_id].columns
        # The path was decoded.
        column = next((each for each in columns if unquote(each.id) == property_id), None)
        if column is None:
            raise ResponseError(404, "object_not_found", f"Could not find property with ID: {property_id}.")
        return property_item(self.workspace, page, column, call.query)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Send head and body together: with Nagle's algorithm and delayed ACKs, a separate body would wait for 40 ms.
    wbufsize = 65536
    disable_nagle_algorithm = True
    notion: FakeNotion

    def do_GET(self) -> None:
        self._handle(None)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self._handle(json.loads(self.rfile.read(length) or b"{}"))

    def _handle(self, body: Any) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = Call(self.command, self.path, headers, body, len(self.notion.calls) + 1)
        time.sleep(self.notion.latency_s)
        try:
            status, answer, extra = 200, self.notion.answer(call), {}
        except ResponseError as ex:
            status, answer, extra = ex.status, ex.body, ex.headers
        content = json.dumps({**answer, "request_id": str(uuid.uuid4())}).encode()
        extra.setdefault("Content-Type", "application/json; charset=utf-8")
        if call.proxy_response is not None:
            (status, content), extra = call.proxy_response, {"Content-Type": "text/html"}
        if call.delay_until is not None:
            call.delay_until.wait(_DELAY_MAX_S)
        # The client may have closed the connection.
        with suppress(OSError):
            self._send(call, status, content, extra)

    def _send(self, call: Call, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.close_connection = self.close_connection or call.disconnect or call.truncate_after_bytes is not None
        if call.disconnect:
            return
        self.send_response_only(status)
        self.send_header("Date", format_datetime(self.notion.workspace.now.astimezone(UTC), usegmt=True))
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if call.byte_interval_s:
            for byte in content:
                time.sleep(call.byte_interval_s)
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
        else:
            self.wfile.write(content[: call.truncate_after_bytes])

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def running_notion(notion: FakeNotion) -> Iterator[FakeNotion]:
    """Serve on a free port."""
    handler = type("Handler", (_Handler,), {"notion": notion})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    notion.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield notion
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
