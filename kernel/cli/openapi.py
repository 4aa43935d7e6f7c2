"""``tiercel openapi``: write the OpenAPI document; ``tiercel smoke``: send its requests to a running service."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import click
import httpx
import msgspec

from kernel.app import Tiercel
from kernel.cli.output import echo, print_json, print_table
from kernel.config import load
from kernel.errors import TiercelError
from kernel.http.documented import EVENT_STREAM, DocumentedRequest, documented_requests
from kernel.http.openapi import JSON, encode_json, encode_yaml, make_document

_YAML_SUFFIXES = (".yaml", ".yml")
Verdict = Literal["ok", "skipped", "FAILED"]


# --- the document -----------------------------------------------------------------------------------------------------


@click.command()
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="The file; standard output by default.")
@click.option("--format", "file_format", type=click.Choice(["json", "yaml"]), help="By default as FILE ends, or json.")
def openapi(*, out: Path | None, file_format: str | None) -> None:
    """Write the OpenAPI document of the configured plugins, without a database."""
    document = encode_json(make_document(Tiercel(load()).describe()))
    is_yaml = file_format == "yaml" or (file_format is None and out is not None and out.suffix in _YAML_SUFFIXES)
    content = encode_yaml(document) if is_yaml else msgspec.json.format(document, indent=2) + b"\n"
    if out is None:
        echo(content.decode().removesuffix("\n"))
    else:
        out.write_bytes(content)


# --- smoke ------------------------------------------------------------------------------------------------------------


class Outcome(msgspec.Struct, frozen=True):
    """What became of a request.

    Args:
        step: Of the list of requests.
        request: Method and path.
        verdict: ``skipped`` where something that it needs is not there, or the key may not use it.
        status: Of the response; None without one.
        duration_ms: Until the response was complete.
        detail: What is wrong.
    """

    step: str
    request: str
    verdict: Verdict
    status: int | None = None
    duration_ms: float | None = None
    detail: str = ""


@click.command()
@click.argument("url")
@click.option(
    "--key", envvar="TIERCEL_KEY", metavar="KEY", help="An API key. Also TIERCEL_KEY, which no list of processes shows."
)
@click.option("--read-only", is_flag=True, help="Send no request that changes something.")
@click.option("--tag", "tags", multiple=True, metavar="PLUGIN", help="Requests of this plugin only; may be repeated.")
@click.option("--report", metavar="DIR", type=click.Path(path_type=Path), help="Write DIR/smoke.html as well.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def smoke(
    *, url: str, key: str | None, read_only: bool, tags: Sequence[str], report: Path | None, as_json: bool
) -> None:
    """Send every request that the OpenAPI document of the service at URL shows, and verify the responses by it.

    What is created is deleted again; nothing else is changed. Exits with 1 if a response is not as documented.
    """
    with httpx.Client(base_url=url.rstrip("/"), headers={"X-API-Key": key} if key else {}, timeout=30.0) as client:
        try:
            run = SmokeRun(client)
            outcomes = list(run.outcomes(read_only=read_only, tags=tags))
        except (httpx.HTTPError, httpx.InvalidURL) as ex:
            raise TiercelError(f"{url} does not answer: {ex}") from ex
    failed = sum(each.verdict == "FAILED" for each in outcomes)
    if as_json:
        print_json({"ok": not failed, "outcomes": outcomes})
    else:
        rows = [(each.step, each.request, each.verdict, _shown(each.status), each.detail) for each in outcomes]
        print_table(("step", "request", "result", "status", "detail"), rows)
        echo(f"\n{len(outcomes)} requests, {failed} failed")
    if report is not None:
        report.mkdir(parents=True, exist_ok=True)
        (report / "smoke.html").write_text(_as_html(url, outcomes))
    if failed:
        sys.exit(1)


class SmokeRun:
    """Sends the documented requests of a service.

    Args:
        client: Has the address and the credentials.

    Raises:
        TiercelError: The service has no document.
    """

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        response = client.get("/api/schema/")
        if response.status_code != httpx.codes.OK:
            raise TiercelError(f"GET {response.url}: {response.status_code}, no OpenAPI document")
        self._document: dict[str, Any] = response.json()
        self._values: dict[str, Any] = {}

    def outcomes(self, *, read_only: bool = False, tags: Sequence[str] = ()) -> Iterator[Outcome]:
        """Send the requests one after the other.

        Args:
            read_only: Leave out what changes something.
            tags: Leave out other plugins; empty for all.
        """
        for request in documented_requests(self._document):
            if (request.method == "GET" or not read_only) and (not tags or request.tag in tags):
                yield self._send(request)

    def _send(self, request: DocumentedRequest) -> Outcome:
        title = f"{request.method} {request.path}"
        try:
            target = request.target(self._values)
        except KeyError as ex:
            return Outcome(request.step, title, "skipped", detail=f"there is no {ex.args[0]}")
        title = f"{request.method} {target}"
        started = time.monotonic()
        content = request.content(datetime.now(UTC).isoformat())
        headers = {"Content-Type": request.media_type} if request.media_type is not None else {}
        with self._client.stream(request.method, target, content=content, headers=headers) as response:
            if not response.headers.get("Content-Type", "").startswith(EVENT_STREAM):
                # An event stream may last as long as its job.
                response.read()
            duration_ms = round((time.monotonic() - started) * 1000, 1)
            if response.status_code == httpx.codes.FORBIDDEN:
                return Outcome(request.step, title, "skipped", 403, duration_ms, "the key may not do this")
            problem = self._find_problem(request, response)
        verdict: Verdict = "FAILED" if problem else "ok"
        return Outcome(request.step, title, verdict, response.status_code, duration_ms, problem)

    def _find_problem(self, request: DocumentedRequest, response: httpx.Response) -> str:
        """Return how a response differs from what is documented; empty if it does not."""
        if response.status_code not in request.responses:
            return f"expected {' or '.join(map(str, request.responses))}{_describe_error(response)}"
        if "X-Request-ID" not in response.headers:
            return "X-Request-ID is missing"
        schemas = request.responses[response.status_code]
        kind = response.headers.get("Content-Type", "").partition(";")[0]
        if not schemas:
            return "expected no body" if response.is_stream_consumed and response.content else ""
        if kind not in schemas and "*/*" not in schemas:
            return f"expected Content-Type {' or '.join(schemas)}, got {kind}"
        if kind != JSON:
            return ""
        body = response.json()
        for capture in request.captures:
            if (value := capture.read(body)) is not None:
                self._values[capture.variable] = value
        return find_mismatch(body, schemas[kind], self._document)


def find_mismatch(body: Any, schema: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """Return the first place where a body does not fit a schema of a document, and why; empty if it fits.

    Raises:
        TiercelError: The library that validates is not installed.
    """
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import best_match
    except ImportError as ex:
        raise TiercelError("JSON is validated with jsonschema: install tiercel[smoke]") from ex
    validator = Draft202012Validator({**schema, "components": document["components"]})
    error = best_match(validator.iter_errors(body))
    return "" if error is None else f"{error.json_path}: {error.message:.200}"


def _describe_error(response: httpx.Response) -> str:
    try:
        body = response.json()
        return f": {body['error']} {body['detail'] or ''} {body.get('errors', '')}".rstrip()
    except (ValueError, KeyError, TypeError, httpx.StreamError):
        return ""


def _shown(value: float | None) -> str:
    return "" if value is None else str(value)


def _as_html(url: str, outcomes: Sequence[Outcome]) -> str:
    """Return a page with a row for each request."""
    failed = sum(each.verdict == "FAILED" for each in outcomes)
    rows = "\n".join(
        f'<tr class="{each.verdict}">'
        + "".join(
            f"<td>{html.escape(cell)}</td>"
            for cell in (
                each.step,
                each.request,
                each.verdict,
                _shown(each.status),
                _shown(each.duration_ms),
                each.detail,
            )
        )
        + "</tr>"
        for each in outcomes
    )
    return f"""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Smoke test of {html.escape(url)}</title>
<style>
body {{ font: 14px system-ui, sans-serif; margin: 2em; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: 0.2em 0.8em; text-align: left; border-bottom: 1px solid #ddd; }}
.FAILED {{ background: #fdd; }}
.skipped {{ color: #777; }}
</style>
<h1>Smoke test</h1>
<p>{html.escape(url)}, {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: {len(outcomes)} requests, {failed} failed.</p>
<table>
<tr><th>step</th><th>request</th><th>result</th><th>status</th><th>ms</th><th>detail</th></tr>
{rows}
</table>
</html>
"""
