"""The token is sent to Notion and appears nowhere else, whatever fails."""

from __future__ import annotations

import logging

import psycopg
import pytest

from kernel.testing import Client
from plugins.trace.jobs import ExportError
from tests.conftest import Serve
from tests.notion.faults import error_response, proxy_response, rate_limited, silently_truncated
from tests.notion.server import FakeNotion, Fault, running_notion
from tests.notion.workspace import Workspace
from tests.plugins.trace.factories import FAST, PLUGINS, Specifications, export, serve_trace
from tests.plugins.trace.test_notion_errors import FINAL, TRANSIENT

TOKEN = "ntn_f3a9c1d7e5"
FAULTS: dict[str, Fault] = {
    **TRANSIENT,
    **{name: fault for name, (fault, _) in FINAL.items()},
    "the token in an error": error_response(401, "unauthorized", f"Token {TOKEN} is invalid."),
    "the token in a transient error": error_response(503, "service_unavailable", f"Bearer {TOKEN}"),
    "the token in a page of a proxy": proxy_response(403, f"Authorization: Bearer {TOKEN}".encode()),
    "the token in a body that is not JSON": proxy_response(200, f"Bearer {TOKEN}".encode()),
    "silently truncated": silently_truncated(),
    # Last, because it pauses all further requests.
    "a long pause": rate_limited(7200),
}
PATHS = [
    "/trace/public/features/",
    "/trace/public/index/",
    "/api/v1/datasets/features/publications/",
    "/api/v1/datasets/features/versions/",
    "/readyz?verbose",
    "/stats/",
    "/system/plugins/",
]


def everything_shown(client: Client, database: str) -> str:
    """Return the responses of the service and the contents of its tables."""
    shown = "".join(client.get(path).content.decode() for path in PATHS)
    with psycopg.connect(database) as connection:
        for name in ("tiercel.job_run", "tiercel.job_log", "tiercel.dataset_publication", "trace.source"):
            shown += str(connection.execute(f"SELECT * FROM {name}").fetchall())
        shown += str(connection.execute("SELECT convert_from(rows, 'UTF8') FROM trace.source_rows").fetchall())
    return shown


@pytest.mark.slow
def test_the_token_appears_nowhere_whatever_fails(
    serve: Serve, database: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    specifications = Specifications(Workspace())
    specifications.fill()
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "notion_client", "plugins.trace.notion.sdk"):
        caplog.set_level(logging.DEBUG, name)
    shown = ""
    with running_notion(FakeNotion(specifications.workspace, TOKEN)) as notion:
        table = {**FAST, "token": TOKEN, "api_url": notion.url, "sources": specifications.sources()}
        table |= {"retries": 1, "retry_wait_s": 0.001}
        client = serve(plugins=PLUGINS, trace=table, log={"level": "debug", "requests": True})
        report = export(client)
        for name, fault in FAULTS.items():
            notion.faults = [fault]
            try:
                shown += str(export(client, full=True))
            except ExportError as ex:
                shown += f"{name}: {ex!r} {ex.__cause__!r} {ex.__context__!r}\n"

        assert all(call.headers["authorization"] == f"Bearer {TOKEN}" for call in notion.calls)
    shown += str(report) + everything_shown(client, database) + "".join(capfd.readouterr()) + caplog.text

    assert "HTTP Request: POST" in shown
    assert "rate limited by Notion for another" in shown
    assert "***" in shown
    assert TOKEN not in shown


@pytest.mark.parametrize(
    "token", [f"{TOKEN}\n", f"{TOKEN}\r\nX-Other: 1", f"{TOKEN}\u2026", f"{TOKEN} ", f"\x00{TOKEN}"]
)
def test_a_token_that_cannot_be_sent_is_refused_without_showing_it(
    serve: Serve,
    database: str,
    notion: FakeNotion,
    specifications: Specifications,
    capfd: pytest.CaptureFixture[str],
    token: str,
) -> None:
    client = serve_trace(serve, notion, specifications.sources(), token=token)

    with pytest.raises(ExportError, match="NOTION_TOKEN is not a token") as caught:
        export(client)

    shown = f"{caught.value!r} {caught.value.__context__!r}"
    assert notion.calls == []
    assert TOKEN not in shown + everything_shown(client, database) + "".join(capfd.readouterr())


def test_the_token_does_not_follow_redirects(serve: Serve, notion: FakeNotion, specifications: Specifications) -> None:
    client = serve_trace(serve, notion, specifications.sources())
    with running_notion(FakeNotion(Workspace())) as elsewhere:
        notion.faults.append(error_response(302, "moved", Location=f"{elsewhere.url}/v1/pages/1"))

        with pytest.raises(ExportError, match="answered 302"):
            export(client)

        assert elsewhere.calls == []
