"""A small OpenAPI document, where the service has none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kernel import Route, Services, collect_routes, hookimpl, route


@route("/api/schema/", policy="public")
def schema() -> dict[str, Any]:
    """Return the document."""
    event = {"type": "object", "properties": {"service": {"type": "string"}, "tags": {"type": "object"}}}
    content = {"application/json": {"schema": {"type": "array", "items": event}}}
    listed = {
        "tags": ["requests"],
        "summary": "List request logs",
        "parameters": [{"name": "page", "in": "query", "schema": {"type": "integer"}}],
        "responses": {"200": {"description": "A page of them.", "content": content}, "400": {"description": "Wrong."}},
    }
    sent = {
        "tags": ["requests"],
        "summary": "Ingest request logs",
        "requestBody": {"content": content},
        "responses": {"200": {"description": "Stored."}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tiercel", "version": "1", "description": "Request **logs**."},
        "tags": [{"name": "requests"}],
        "paths": {"/api/requests/": {"get": listed, "post": sent}},
    }


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    """Return the route."""
    return collect_routes(schema)
