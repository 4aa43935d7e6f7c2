"""Find the template of the route that answered, such as ``/orders/{id}``, so that there are few endpoints.

Frameworks leave it in what a middleware has in its hands; none of them is imported. Where there is none, identifiers in
the path are replaced by rules, and the number of different paths is limited.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, MutableMapping
from typing import Any

# In a WSGI environ or an ASGI scope: where an application may say which endpoint a request is of.
ENDPOINT_KEY = "tiercel.endpoint"
# Requests that no route answers share one endpoint: whoever probes for paths must not make many.
NO_ROUTE = "(no route)"
OTHER = "(other)"
_NOT_FOUND = 404
# The rules of the service; see "Group paths into endpoints" in docs/howto/ingest.md.
_RULES = [
    (re.compile("[0-9]+"), "{id}"),
    (re.compile("(?i:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})"), "{uuid}"),
    (re.compile("(?i:(?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{16,})"), "{hash}"),
]
# A longer path is cut before the rules see it.
_PATH_MAX = 1024


def template_path(path: str) -> str:
    """Return a path with the identifiers in it replaced: numbers, UUIDs, and long hexadecimal texts."""
    return "/".join(map(_template_segment, path[:_PATH_MAX].split("/")))


def _template_segment(segment: str) -> str:
    # Most segments are words: without a digit, no rule applies.
    if segment and not segment.isalpha():
        for pattern, name in _RULES:
            if pattern.fullmatch(segment):
                return name
    return segment


class Endpoints:
    """Returns the endpoints of requests.

    Args:
        paths_max: How many endpoints may come from paths, in place of templates; further ones are ``(other)``.
    """

    def __init__(self, paths_max: int = 500) -> None:
        self._paths_max = paths_max
        self._lock = threading.Lock()
        self._paths: set[str] = set()

    def of_environ(self, environ: Mapping[str, Any], status_code: int) -> str:
        """Return the endpoint of a WSGI request that was answered.

        Args:
            environ: What the application leaves of it.
            status_code: Of the answer.
        """
        prefix: str = environ.get("SCRIPT_NAME", "")
        template = environ.get(ENDPOINT_KEY)
        if isinstance(template, str):
            return template if template == NO_ROUTE else prefix + template
        # Bytes as Latin-1 (PEP 3333), which are UTF-8.
        path: str = prefix + environ.get("PATH_INFO", "")
        return self.of_path(path.encode("latin-1", "replace").decode("utf-8", "replace"), status_code)

    def of_scope(self, scope: Mapping[str, Any], path: str, status_code: int) -> str:
        """Return the endpoint of an ASGI request that was answered.

        Args:
            scope: What the application leaves of it.
            path: As it was before the application had it.
            status_code: Of the answer.
        """
        template = scope.get(ENDPOINT_KEY)
        if isinstance(template, str):
            return template
        # Starlette, FastAPI and Litestar keep the route that answers; ``router`` says that Starlette looked for one.
        template = getattr(scope.get("route"), "path", None)
        if isinstance(template, str):
            return self._bounded(_with_prefix(template, path, scope.get("path_params") or {}), template)
        if "router" in scope and status_code == _NOT_FOUND:
            return NO_ROUTE
        return self.of_path(path, status_code)

    def of_path(self, path: str, status_code: int) -> str:
        """Return the endpoint of a request that no template is known of."""
        if status_code == _NOT_FOUND:
            return NO_ROUTE
        return self._bounded(template_path(path) or "/", OTHER)

    def _bounded(self, endpoint: str, instead: str) -> str:
        if endpoint in self._paths:
            return endpoint
        with self._lock:
            if len(self._paths) >= self._paths_max:
                return instead
            self._paths.add(endpoint)
            return endpoint


def _with_prefix(template: str, path: str, parameters: Mapping[str, Any]) -> str:
    """Return the template of a route below the prefixes under which its router is mounted or included.

    A route knows its own path only; the prefix is what stands before that in the path of the request.
    """
    own, whole = _segments(template), _segments(path)
    # A parameter ``{name:path}`` stands for any number of segments.
    fixed = own[: next((at for at, segment in enumerate(own) if ":path}" in segment), len(own))]
    # At the end, unless the route is a mount or has such a parameter.
    for start in (len(whole) - len(own), *range(len(whole) - len(fixed) + 1)):
        part = whole[start : start + len(fixed)] if start >= 0 else []
        if len(part) == len(fixed) and all("{" in one or one == other for one, other in zip(fixed, part)):
            names = {str(value): "{" + name + "}" for name, value in parameters.items()}
            prefix = [names.get(segment) or _template_segment(segment) for segment in whole[:start]]
            return "/".join(["", *prefix]) + template
    return template


def _segments(path: str) -> list[str]:
    return [segment for segment in path[:_PATH_MAX].split("/") if segment]


class FalconEndpoints:
    """A middleware of Falcon that leaves the template of the route where ``Endpoints`` finds it."""

    def process_resource(self, req: Any, _resp: Any, _resource: Any, _params: Any) -> None:
        """Keep the template, in an application of WSGI."""
        req.env[ENDPOINT_KEY] = req.uri_template

    async def process_resource_async(self, req: Any, _resp: Any, _resource: Any, _params: Any) -> None:
        """Keep the template, in an application of ASGI."""
        req.scope[ENDPOINT_KEY] = req.uri_template


def keep_flask_endpoint(environ: MutableMapping[str, Any]) -> None:
    """Keep the template of a request that Flask is about to answer; once it has, Flask forgets the request."""
    request = environ.get("werkzeug.request")
    if request is not None and hasattr(request, "url_rule") and ENDPOINT_KEY not in environ:
        rule = request.url_rule
        environ[ENDPOINT_KEY] = NO_ROUTE if rule is None else rule.rule


def install(app: Any) -> None:
    """Have an application leave its templates, if it is one of Falcon; all others leave them by themselves."""
    if any(kind.__module__.partition(".")[0] == "falcon" for kind in type(app).__mro__):
        app.add_middleware(FalconEndpoints())
