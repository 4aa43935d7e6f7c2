"""The pages ``/api/docs`` and ``/api/redoc``: two views of the OpenAPI document, shipped with this plugin."""

from __future__ import annotations

import secrets

from kernel import Response, route
from kernel.http import TemplateResponse, page_policy

SCHEMA_PATH = "/api/schema/"


@route("/api/docs", policy="public", menu="API documentation")
def swagger_ui() -> TemplateResponse:
    """Show the API in Swagger UI, which can also send requests."""
    return TemplateResponse("system/swagger_ui.html", {"schema_path": SCHEMA_PATH})


@route("/api/redoc", policy="public", menu="API reference")
def redoc() -> Response[TemplateResponse]:
    """Show the API in Redoc, which is made for reading."""
    # Its script makes styles, and marks them with a nonce that nobody can guess. Its search runs in a worker, which it
    # makes of a part of itself.
    nonce = secrets.token_urlsafe(16)
    policy = page_policy({"style-src": f"'self' 'nonce-{nonce}'", "worker-src": "blob:"})
    page = TemplateResponse("system/redoc.html", {"schema_path": SCHEMA_PATH, "nonce": nonce})
    return Response(page, headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"})
