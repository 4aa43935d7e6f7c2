"""Ask every route per application what its contract promises, of a running service or of one in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from kernel.app import Tiercel
from kernel.applications import DEFAULT
from kernel.http.access_log import StartResponse
from kernel.http.routing import APPLICATION, MountedRoute, methods_of

TIMEOUT_S = 30.0
_UNKNOWN = "no-such-application"
_IN_PROCESS_URL = "http://127.0.0.1"


class Outcome(msgspec.Struct, frozen=True):
    """What became of one request.

    Args:
        application: The slug it named, or ``default``.
        path: What was asked for.
        result: ``passed``, ``failed`` or ``skipped``.
        status: Of the answer; None without one.
        items: How many items it says there are.
        reason: Why it failed or was skipped.
    """

    application: str
    path: str
    result: str
    status: int | None = None
    items: int | None = None
    reason: str | None = None


class _BrokenError(Exception):
    """An answer is not what the contract promises; says how."""


def make_client(url: str | None, service: Tiercel) -> httpx.Client:
    """Make a client of a running service, or without a URL of one in this process, whose database must be open."""
    if url is not None:
        return httpx.Client(base_url=url, timeout=TIMEOUT_S)

    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        # PEP 3333 wants the bytes of the path one to a character; httpx gives text.
        environ["PATH_INFO"] = environ["PATH_INFO"].encode().decode("latin-1")
        return service(environ, start_response)

    return httpx.Client(transport=httpx.WSGITransport(app=application), base_url=_IN_PROCESS_URL)


class Smoke:
    """Requests every route per application, for everybody and as every application.

    Args:
        client: Of the service.
        routes: Those that are mounted; the others are left alone.
        slugs: Of the applications.
    """

    def __init__(self, client: httpx.Client, routes: Sequence[MountedRoute], slugs: Sequence[str]) -> None:
        self._client = client
        self._routes = [each for each in routes if each.route.per_application and "GET" in methods_of(each.route)]
        self._templates = {each.template for each in self._routes}
        self._slugs = slugs
        self._lists: dict[str, Any] = {}

    def run(self) -> Iterator[Outcome]:
        """Make the requests, one outcome each."""
        for each in self._routes:
            for slug in self._slugs if each.is_filtered else (DEFAULT,):
                yield self._ask(each.template, slug)
            if each.is_filtered:
                yield self._ask_unknown(each.template)

    def _ask(self, template: str, slug: str) -> Outcome:
        path = f"{_filled(template, {APPLICATION: slug})}/"
        if "{" in path:
            example = self._example(template, slug)
            if isinstance(example, str):
                return Outcome(slug, path, "skipped", reason=example)
            path = _filled(path, example)
        status = None
        try:
            response = self._client.get(path)
            status = response.status_code
            body = _check_listing(response, slug)
        except (_BrokenError, httpx.HTTPError) as ex:
            return Outcome(slug, path, "failed", status, reason=str(ex))
        if isinstance(body["data"], list):
            self._lists[path] = body["data"]
        return Outcome(slug, path, "passed", status, body["meta"]["total_items"])

    def _ask_unknown(self, template: str) -> Outcome:
        path = _filled(template, {APPLICATION: _UNKNOWN})
        path = f"{_filled(path, dict.fromkeys(_segments(path), 'x'))}/"
        status = None
        try:
            response = self._client.get(path)
            status = response.status_code
            self._check_refusal(response)
        except (_BrokenError, httpx.HTTPError) as ex:
            return Outcome(_UNKNOWN, path, "failed", status, reason=str(ex))
        return Outcome(_UNKNOWN, path, "passed", status)

    def _example(self, template: str, slug: str) -> Mapping[str, Any] | str:
        """Take values for the further segments of a path from the list above it; or say why that cannot be done."""
        further = _segments(template.replace(f"{{{APPLICATION}}}", ""))
        above = template.partition(f"/{{{further[0]}}}")[0]
        if above not in self._templates:
            return f"no list at {above}/ to take {', '.join(further)} from"
        path = f"{_filled(above, {APPLICATION: slug})}/"
        if path not in self._lists:
            self._ask(above, slug)
        items = self._lists.get(path)
        found = next((item for item in items or () if all(item.get(name) is not None for name in further)), None)
        return found or f"no item at {path} to take {', '.join(further)} from"

    def _check_refusal(self, response: httpx.Response) -> None:
        body = _decoded(response, 404)
        if "Unknown application" not in str(body.get("error")):
            raise _BrokenError(f"error is {body.get('error')!r}, without 'Unknown application'")
        if body.get("available_apps") != list(self._slugs):
            raise _BrokenError(f"available_apps is {body.get('available_apps')!r}, not {list(self._slugs)!r}")


def _check_listing(response: httpx.Response, slug: str) -> dict[str, Any]:
    body = _decoded(response, 200)
    data, meta = body.get("data"), body.get("meta")
    if not isinstance(data, list | dict) or not isinstance(meta, dict):
        raise _BrokenError("no data, or no meta")
    wanted: dict[str, Any] = {"application": slug, "endpoint": response.request.url.path}
    if "pages" not in meta:
        wanted["total_items"] = len(data) if isinstance(data, list) else 1
    for name, value in wanted.items():
        if meta.get(name) != value:
            raise _BrokenError(f"meta.{name} is {meta.get(name)!r}, not {value!r}")
    return body


def _decoded(response: httpx.Response, status: int) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(response.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = None
    body = body if isinstance(body, dict) else {}
    if response.status_code != status:
        said = " ".join(str(body[name]) for name in ("error", "detail") if body.get(name))
        raise _BrokenError(f"status {response.status_code}, not {status}{f': {said}' if said else ''}")
    return body


def _segments(template: str) -> list[str]:
    return [part[1:-1] for part in template.split("/") if part.startswith("{")]


def _filled(template: str, values: Mapping[str, Any]) -> str:
    for name in _segments(template):
        if name in values:
            template = template.replace(f"{{{name}}}", quote(str(values[name]), safe=""))
    return template
