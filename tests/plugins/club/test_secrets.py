"""Secrets of requests to sources do not appear in responses, logs or the database."""

from __future__ import annotations

import psycopg
import pytest

from plugins.club import run_full_export
from plugins.club.jobs import RefreshError
from tests.conftest import Serve
from tests.plugins.club.factories import serve_club
from tests.plugins.club.fakes import Exchange, FakeApi
from tests.plugins.club.fetching import source

TOKEN = "token-f3a9c1"
KEY = "key-77b2d0"
PATHS = [
    "/club/admin/service-health/",
    "/club/public/index/",
    "/club/public/hero-metrics/",
    "/api/v1/datasets/hero-metrics/versions/",
    "/readyz?verbose",
    "/stats/",
]


@pytest.mark.parametrize("fails", [False, True])
def test_a_secret_is_sent_and_appears_nowhere(
    serve: Serve,
    api: FakeApi,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fails: bool,
) -> None:
    def answer(exchange: Exchange) -> None:
        status = 500 if fails else 200
        exchange.json([{"metric": "joined", "value": 1}], status)

    api.routes["/metrics"] = answer
    monkeypatch.setenv("CLUB_TOKEN", TOKEN)
    heroes = source(api, f"/metrics?key={KEY}", headers={"Authorization": "env:CLUB_TOKEN"})
    client = serve_club(serve, {"heroes": heroes}, log={"level": "debug", "requests": True})

    try:
        run_full_export(client.service.registry.services["club"])
    except RefreshError as ex:
        shown = str(ex)
    else:
        shown = ""
    shown += "".join(client.get(path).content.decode() for path in PATHS)
    with psycopg.connect(database) as connection:
        for name in ("job_run", "job_log", "dataset_publication"):
            shown += str(connection.execute(f"SELECT * FROM tiercel.{name}").fetchall())
    shown += "".join(capfd.readouterr())

    assert api.received[0].headers["authorization"] == TOKEN
    assert KEY in api.received[0].path
    assert "heroes" in shown
    assert TOKEN not in shown
    assert KEY not in shown


def test_a_missing_environment_variable_is_named(serve: Serve, api: FakeApi) -> None:
    heroes = source(api, headers={"Authorization": "env:CLUB_TOKEN_THAT_IS_NOT_SET"})
    client = serve_club(serve, {"heroes": heroes})

    with pytest.raises(RefreshError, match="CLUB_TOKEN_THAT_IS_NOT_SET"):
        run_full_export(client.service.registry.services["club"])

    assert api.received == []
