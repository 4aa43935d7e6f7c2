"""Notion's API on real sockets: its shapes, its two versions, its limits, and whatever faults it is given.

Sources: https://developers.notion.com/reference
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.notion.querying import Querying, RefusedError
from tests.notion.workspace import EMPTY, DataSource, Page, Workspace

VERSIONS = ("2025-09-03", "2026-03-11")
REFERENCES_MAX = 25
_PAGED = frozenset({"title", "rich_text", "relation", "people"})


class AnswerError(Exception):
    """What leaves at once, instead of what would have."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"object": "error", "status": status, "code": code, "message": message}
        self.headers = dict(headers or {})


class Call:
    """One request."""

    def __init__(self, method: str, target: str, headers: Mapping[str, str], body: Any, number: int) -> None:
        url = urlsplit(target)
        self.method = method
        self.path = [unquote(part) for part in url.path.split("/")[2:]]
        self.query = parse_qs(url.query)
        self.headers = headers
        self.body = body
        self.number = number
        # Send so many bytes of the answer, and hang up.
        self.cut_after_bytes: int | None = None

    @property
    def is_query(self) -> bool:
        """Whether rows are asked for."""
        return self.path[0] == "data_sources" and self.path[-1] == "query"


# Looks at a request first: raises an AnswerError, changes the workspace, or does nothing.
Fault = Callable[[Call], None]


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
            "request_status": incomplete if found.incomplete else complete,
        }

    def _page(self, page: Page, call: Call) -> dict[str, Any]:
        source = self.workspace.data_sources[page.data_source_id]
        wanted = call.query.get("filter_properties")
        shown = {
            "object": "page",
            "id": page.id,
            "created_time": _shown(page.created_time),
            "last_edited_time": _shown(page.last_edited_time),
            "parent": {
                "type": "data_source_id",
                "data_source_id": source.id,
                "database_id": source.database_id,
            },
            "in_trash": page.in_trash,
            "properties": {
                column.name: _property(column.id, column.type, page)
                for column in source.columns
                if wanted is None or column.id in wanted
            },
            "url": f"https://www.notion.so/{page.id.replace('-', '')}",
        }
        if call.headers["notion-version"] == "2025-09-03":
            shown["archived"] = page.in_trash
        return shown

    def _property(self, page: Page, property_id: str, call: Call) -> dict[str, Any]:
        source = self.workspace.data_sources[page.data_source_id]
        column = next((each for each in source.columns if each.id == property_id), None)
        if column is None:
            raise AnswerError(404, "object_not_found", f"Could not find property with ID: {property_id}.")
        value = page.values.get(column.id, EMPTY.get(column.type))
        if column.type not in _PAGED:
            return {"object": "property_item", "id": column.id, "type": column.type, column.type: value}
        size = int(call.query.get("page_size", ["100"])[0])
        start = int(call.query.get("start_cursor", ["0"])[0])
        end = start + size
        items = [
            {"object": "property_item", "id": column.id, "type": column.type, column.type: each}
            for each in (value or ())[start:end]
        ]
        more = end < len(value or ())
        return {
            "object": "list",
            "results": items,
            "next_cursor": str(end) if more else None,
            "has_more": more,
            "type": "property_item",
            "property_item": {"id": column.id, "next_url": None, "type": column.type, column.type: {}},
        }


def _property(column_id: str, kind: str, page: Page) -> dict[str, Any]:
    value = page.values.get(column_id, EMPTY.get(kind))
    shown: dict[str, Any] = {"id": column_id, "type": kind, kind: value}
    if kind in ("relation", "people"):
        shown[kind] = list(value or ())[:REFERENCES_MAX]
    if kind == "relation":
        shown["has_more"] = len(value or ()) > REFERENCES_MAX
    return shown


def _shown(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    notion: FakeNotion

    def do_GET(self) -> None:
        self._handle(None)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self._handle(json.loads(self.rfile.read(length) or b"{}"))

    def _handle(self, body: Any) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = Call(self.command, self.path, headers, body, len(self.notion.calls) + 1)
        try:
            status, answer, extra = 200, self.notion.answer(call), {}
        except AnswerError as ex:
            status, answer, extra = ex.status, ex.body, ex.headers
        content = json.dumps({**answer, "request_id": str(uuid.uuid4())}).encode()
        self.send_response_only(status)
        self.send_header("Date", format_datetime(self.notion.workspace.now.astimezone(UTC), usegmt=True))
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        for name, value in extra.items():
            self.send_header(name, value)
        self.end_headers()
        if call.cut_after_bytes is not None:
            self.wfile.write(content[: call.cut_after_bytes])
            self.close_connection = True
        else:
            self.wfile.write(content)

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
