"""``tiercel apps``: list the applications, and test whether the endpoints per application answer as documented."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import click
import httpx
import msgspec

from kernel.app import Tiercel
from kernel.applications import DEFAULT
from kernel.cli.output import echo, print_json, print_table
from kernel.config import load
from kernel.datasets.service import ApplicationSummary, FilterSummary, ItemCount, summarize_application
from kernel.http.access_log import StartResponse
from kernel.http.routing import APPLICATION, MountedRoute, methods_of
from kernel.logging import make_logger

REQUEST_TIMEOUT_S = 30.0
_UNKNOWN_APPLICATION = "no-such-application"
_IN_PROCESS_URL = "http://127.0.0.1"


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def apps(context: click.Context, *, as_json: bool) -> None:
    """List applications: features, filters, and how many items each sees."""
    if context.invoked_subcommand is None:
        _list(as_json=as_json)


@click.command("list_apps", hidden=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_apps(*, as_json: bool) -> None:
    """List applications, as `tiercel apps` does."""
    _list(as_json=as_json)


@apps.command("test")
@click.option("--url", metavar="URL", help="A running service; by default one in this process.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def run_test(*, url: str | None, as_json: bool) -> None:
    """Request every endpoint of every application; exit with 1 if one does not answer as documented.

    Routes and applications are those of the local configuration, so a running service should have the same.
    """
    _test(url, as_json=as_json)


@click.command("test_multi_app", hidden=True)
@click.option("--url", metavar="URL", help="A running service; by default one in this process.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def test_multi_app(*, url: str | None, as_json: bool) -> None:
    """Request every endpoint of every application, as `tiercel apps test` does."""
    _test(url, as_json=as_json)


# --- list -----------------------------------------------------------------------------------------------------------


def _list(*, as_json: bool) -> None:
    service = Tiercel(load())
    shared = service.shared
    with service.database_open():
        summaries = [summarize_application(shared.datasets, each) for each in shared.applications.all]
    if as_json:
        print_json(summaries)
        return
    print_table(("application", "name", "features", "filters", "items"), [_row(each) for each in summaries])
    for each in summaries:
        for reason in sorted({count.reason for count in each.datasets if count.reason is not None}):
            echo(f"{each.slug}: {reason}")


def _row(application: ApplicationSummary) -> tuple[str, ...]:
    return (
        application.slug,
        application.name,
        ", ".join(application.features),
        ", ".join(map(_format_filter, application.filters)),
        ", ".join(map(_format_count, application.datasets)),
    )


def _format_filter(summary: FilterSummary) -> str:
    return summary.key if summary.datasets else f"{summary.key} (of no dataset)"


def _format_count(count: ItemCount) -> str:
    return f"{count.dataset} {'?' if count.items is None else f'{count.items:,}'}"


# --- test -----------------------------------------------------------------------------------------------------------


def _test(url: str | None, *, as_json: bool) -> None:
    configuration = load()
    # The table has a line for each request already.
    quiet = make_logger(msgspec.structs.replace(configuration.settings.log, level="warning"))
    service = Tiercel(configuration, log=quiet)
    with make_client(url, service) as client:
        smoke_test = SmokeTest(client, service.shared.routes, service.shared.applications.slugs)
        if url is None:
            with service.database_open():
                outcomes = list(smoke_test.run())
        else:
            outcomes = list(smoke_test.run())
    counts = Counter(outcome.result for outcome in outcomes)
    if as_json:
        print_json(outcomes)
    else:
        titles = ("application", "path", "status", "items", "result", "reason")
        print_table(titles, [[getattr(outcome, title) for title in titles] for outcome in outcomes])
        echo(", ".join(f"{counts[result]} {result}" for result in ("passed", "failed", "skipped")))
    if counts["failed"]:
        sys.exit(1)


def make_client(url: str | None, service: Tiercel) -> httpx.Client:
    """Make a client of a running service; without a URL, of a service in this process, whose database must be open."""
    if url is not None:
        return httpx.Client(base_url=url, timeout=REQUEST_TIMEOUT_S)

    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        # PEP 3333 requires the bytes of the path as Latin-1 characters; httpx passes decoded UTF-8.
        environ["PATH_INFO"] = environ["PATH_INFO"].encode().decode("latin-1")
        return service(environ, start_response)

    return httpx.Client(transport=httpx.WSGITransport(app=application), base_url=_IN_PROCESS_URL)


class Outcome(msgspec.Struct, frozen=True):
    """Outcome of one request of the smoke test.

    Args:
        application: Slug of the application in the path, or ``default``.
        path: The path that was requested.
        result: ``passed``, ``failed`` or ``skipped``.
        status: Status of the response; None if there was none.
        items: Number of items according to the response.
        reason: Why the request failed or was skipped.
    """

    application: str
    path: str
    result: str
    status: int | None = None
    items: int | None = None
    reason: str | None = None


class _ContractViolationError(Exception):
    """A response is not as documented; the message says how."""


class SmokeTest:
    """Requests every route per application: unfiltered, for each application, and for one that does not exist.

    Args:
        client: Client of the service.
        routes: Mounted routes; those that are not per application are left out.
        slugs: Slugs of the applications.
    """

    def __init__(self, client: httpx.Client, routes: Sequence[MountedRoute], slugs: Sequence[str]) -> None:
        self._client = client
        self._routes = [each for each in routes if each.route.per_application and "GET" in methods_of(each.route)]
        self._templates = {each.template for each in self._routes}
        self._slugs = slugs
        # Items of the lists that were requested, by path.
        self._lists: dict[str, Any] = {}

    def run(self) -> Iterator[Outcome]:
        """Send the requests, and return the outcome of each."""
        for each in self._routes:
            for slug in self._slugs if each.is_filtered else (DEFAULT,):
                yield self._request(each.template, slug)
            if each.is_filtered:
                yield self._request_unknown_application(each.template)

    def _request(self, template: str, slug: str) -> Outcome:
        path = f"{_fill(template, {APPLICATION: slug})}/"
        if "{" in path:
            values = self._find_path_values(template, slug)
            if isinstance(values, str):
                return Outcome(slug, path, "skipped", reason=values)
            path = _fill(path, values)
        status = None
        try:
            response = self._client.get(path)
            status = response.status_code
            body = _check_envelope(response, slug)
        except (_ContractViolationError, httpx.HTTPError) as ex:
            return Outcome(slug, path, "failed", status, reason=str(ex))
        if isinstance(body["data"], list):
            self._lists[path] = body["data"]
        return Outcome(slug, path, "passed", status, body["meta"]["total_items"])

    def _request_unknown_application(self, template: str) -> Outcome:
        path = _fill(template, {APPLICATION: _UNKNOWN_APPLICATION})
        path = f"{_fill(path, dict.fromkeys(_segments(path), 'x'))}/"
        status = None
        try:
            response = self._client.get(path)
            status = response.status_code
            self._check_not_found(response)
        except (_ContractViolationError, httpx.HTTPError) as ex:
            return Outcome(_UNKNOWN_APPLICATION, path, "failed", status, reason=str(ex))
        return Outcome(_UNKNOWN_APPLICATION, path, "passed", status)

    def _find_path_values(self, template: str, slug: str) -> Mapping[str, Any] | str:
        """Find values for the segments of a path in the list whose path it extends; or return why there are none."""
        segments = _segments(template.replace(f"{{{APPLICATION}}}", ""))
        list_template = template.partition(f"/{{{segments[0]}}}")[0]
        if list_template not in self._templates:
            return f"no list at {list_template}/ to take {', '.join(segments)} from"
        path = f"{_fill(list_template, {APPLICATION: slug})}/"
        if path not in self._lists:
            self._request(list_template, slug)
        for item in self._lists.get(path) or ():
            if all(item.get(name) is not None for name in segments):
                found: Mapping[str, Any] = item
                return found
        return f"no item at {path} to take {', '.join(segments)} from"

    def _check_not_found(self, response: httpx.Response) -> None:
        body = _decode(response, HTTPStatus.NOT_FOUND)
        if "Unknown application" not in str(body.get("error")):
            raise _ContractViolationError(f"error is {body.get('error')!r}, without 'Unknown application'")
        if body.get("available_apps") != list(self._slugs):
            raise _ContractViolationError(
                f"available_apps is {body.get('available_apps')!r}, not {list(self._slugs)!r}"
            )


def _check_envelope(response: httpx.Response, slug: str) -> dict[str, Any]:
    body = _decode(response, HTTPStatus.OK)
    data, meta = body.get("data"), body.get("meta")
    if not isinstance(data, list | dict) or not isinstance(meta, dict):
        raise _ContractViolationError("no data, or no meta")
    expected: dict[str, Any] = {"application": slug, "endpoint": response.request.url.path}
    if "pages" not in meta:
        expected["total_items"] = len(data) if isinstance(data, list) else 1
    for name, value in expected.items():
        if meta.get(name) != value:
            raise _ContractViolationError(f"meta.{name} is {meta.get(name)!r}, not {value!r}")
    return body


def _decode(response: httpx.Response, status: HTTPStatus) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(response.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = None
    body = body if isinstance(body, dict) else {}
    if response.status_code != status:
        message = " ".join(str(body[name]) for name in ("error", "detail") if body.get(name))
        raise _ContractViolationError(
            f"status {response.status_code}, not {status.value}{f': {message}' if message else ''}"
        )
    return body


def _segments(template: str) -> list[str]:
    return [part[1:-1] for part in template.split("/") if part.startswith("{")]


def _fill(template: str, values: Mapping[str, Any]) -> str:
    """Put values in the place of segments; segments without a value stay."""
    for name in _segments(template):
        if name in values:
            template = template.replace(f"{{{name}}}", quote(str(values[name]), safe=""))
    return template
