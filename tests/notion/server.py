"""Notion's API on real sockets: its shapes, its two versions, its limits, and whatever faults it is given.

Sources: https://developers.notion.com/reference
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from tests.notion.calls import AnswerError, Call, Fault
from tests.notion.filters import RefusedError
from tests.notion.properties import property_item, shown_property
from tests.notion.querying import Querying
from tests.notion.workspace import DataSource, Page, Workspace, shown_time

VERSIONS = ("2025-09-03", "2026-03-11")
_HELD_MAX_S = 60.0


class FakeNotion:
    """A server with one workspace.

    Args:
        workspace: What it has.
        token: Who may ask.
        rows_max: Where a query ends.
    """

    def __init__(self, workspace: Workspace, token: str = "ntn_test", rows_max: int = 10_000) -> None:
        self.workspace = workspace
        self.token = token
        self.querying = Querying(workspace, rows_max)
        self.faults: list[Fault] = []
        self.calls: list[Call] = []
        # How long each answer takes.
        self.latency_s = 0.0
        self._lock = threading.Lock()
        self.url = ""

    def answer(self, call: Call) -> dict[str, Any]:
        """Answer a request.

        Raises:
            Answer: With an error.
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
        raise AnswerError(400, "invalid_request_url", "Invalid request URL.")

    def _admit(self, call: Call) -> None:
        if call.headers.get("authorization") != f"Bearer {self.token}":
            raise AnswerError(401, "unauthorized", "API token is invalid.")
        if call.headers.get("notion-version") not in VERSIONS:
            raise AnswerError(400, "missing_version", "Notion-Version header should be defined.")

    def _source(self, source_id: str) -> DataSource:
        if source_id not in self.workspace.data_sources:
            raise AnswerError(404, "object_not_found", f"Could not find data source with ID: {source_id}.")
        return self.workspace.data_sources[source_id]

    def _find(self, page_id: str) -> Page:
        page = self.workspace.find(page_id)
        if page is None:
            raise AnswerError(404, "object_not_found", f"Could not find page with ID: {page_id}.")
        return page

    def _database(self, database_id: str) -> dict[str, Any]:
        if database_id not in self.workspace.databases:
            raise AnswerError(404, "object_not_found", f"Could not find database with ID: {database_id}.")
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
            found = self.querying.query(source, call.body)
        except RefusedError as ex:
            raise AnswerError(400, "validation_error", str(ex)) from ex
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
            raise AnswerError(404, "object_not_found", f"Could not find property with ID: {property_id}.")
        return property_item(self.workspace, page, column, call.query)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave together: sent apart, the second waits 40 ms for word that the first arrived.
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
        except AnswerError as ex:
            status, answer, extra = ex.status, ex.body, ex.headers
        content = json.dumps({**answer, "request_id": str(uuid.uuid4())}).encode()
        extra.setdefault("Content-Type", "application/json; charset=utf-8")
        if call.foreign is not None:
            (status, content), extra = call.foreign, {"Content-Type": "text/html"}
        if call.held_until is not None:
            call.held_until.wait(_HELD_MAX_S)
        # Whoever asked may be gone by now.
        with suppress(OSError):
            self._send(call, status, content, extra)

    def _send(self, call: Call, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.close_connection = self.close_connection or call.is_dropped or call.cut_after_bytes is not None
        if call.is_dropped:
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
            self.wfile.write(content[: call.cut_after_bytes])

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
