"""The token goes to Notion and shows nowhere, whatever fails."""

from __future__ import annotations

import logging

import psycopg
import pytest

from kernel.testing import Client
from plugins.trace.export.refresh import ExportError
from tests.conftest import Serve
from tests.notion.calls import Fault
from tests.notion.faults import failing, foreign, limited, silently_short
from tests.notion.server import FakeNotion, running_notion
from tests.notion.workspace import Workspace
from tests.plugins.trace.exports import PATIENCE, PLUGINS, Specifications, refresh, serve_trace
from tests.plugins.trace.test_faults import FINAL, TRANSIENT

TOKEN = "ntn_f3a9c1d7e5"
FAULTS: dict[str, Fault] = {
    **TRANSIENT,
    **{name: fault for name, (fault, _) in FINAL.items()},
    "says it in an error": failing(401, "unauthorized", f"Token {TOKEN} is invalid."),
    "says it in an error that passes": failing(503, "service_unavailable", f"Bearer {TOKEN}"),
    "says it in a page of a proxy": foreign(403, f"Authorization: Bearer {TOKEN}".encode()),
    "says it in no JSON": foreign(200, f"Bearer {TOKEN}".encode()),
    "lies": silently_short(),
    # Last: it pauses everybody.
    "a long pause": limited(7200),
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


def everything_told(client: Client, database: str) -> str:
    """Return what the service answers and what its tables hold."""
    shown = "".join(client.get(path).content.decode() for path in PATHS)
    with psycopg.connect(database) as connection:
        for name in ("tiercel.job_run", "tiercel.job_log", "tiercel.dataset_publication", "trace.source"):
            shown += str(connection.execute(f"SELECT * FROM {name}").fetchall())
        shown += str(connection.execute("SELECT convert_from(rows, 'UTF8') FROM trace.source_rows").fetchall())
    return shown


def test_whatever_fails_the_token_shows_nowhere(
    serve: Serve, database: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    specifications = Specifications(Workspace())
    specifications.fill()
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "notion_client", "plugins.trace.notion.sdk"):
        caplog.set_level(logging.DEBUG, name)
    shown = ""
    with running_notion(FakeNotion(specifications.workspace, TOKEN)) as notion:
        table = {**PATIENCE, "token": TOKEN, "api_url": notion.url, "sources": specifications.sources()}
        table |= {"retries": 1, "retry_wait_s": 0.001}
        client = serve(plugins=PLUGINS, trace=table, log={"level": "debug", "requests": True})
        certificate = refresh(client)
        for name, fault in FAULTS.items():
            notion.faults = [fault]
            try:
                shown += str(refresh(client, full=True))
            except ExportError as ex:
                shown += f"{name}: {ex!r} {ex.__cause__!r} {ex.__context__!r}\n"

        assert all(call.headers["authorization"] == f"Bearer {TOKEN}" for call in notion.calls)
    shown += str(certificate) + everything_told(client, database) + "".join(capfd.readouterr()) + caplog.text

    assert "HTTP Request: POST" in shown
    assert "Notion wants no requests for another" in shown
    assert "***" in shown
    assert TOKEN not in shown


@pytest.mark.parametrize(
    "token", [f"{TOKEN}\n", f"{TOKEN}\r\nX-Other: 1", f"{TOKEN}\u2026", f"{TOKEN} ", f"\x00{TOKEN}"]
)
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(
    serve: Serve,
    database: str,
    notion: FakeNotion,
    specifications: Specifications,
    capfd: pytest.CaptureFixture[str],
    token: str,
) -> None:
    client = serve_trace(serve, notion, specifications.sources(), token=token)

    with pytest.raises(ExportError, match="NOTION_TOKEN is no token") as caught:
        refresh(client)

    shown = f"{caught.value!r} {caught.value.__context__!r}"
    assert notion.calls == []
    assert TOKEN not in shown + everything_told(client, database) + "".join(capfd.readouterr())


def test_a_token_is_not_sent_to_where_an_answer_points(
    serve: Serve, notion: FakeNotion, specifications: Specifications
) -> None:
    client = serve_trace(serve, notion, specifications.sources())
    with running_notion(FakeNotion(Workspace())) as elsewhere:
        notion.faults.append(failing(302, "moved", Location=f"{elsewhere.url}/v1/pages/1"))

        with pytest.raises(ExportError, match="answered 302"):
            refresh(client)

        assert elsewhere.calls == []
