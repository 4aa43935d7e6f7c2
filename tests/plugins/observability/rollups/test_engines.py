"""Answers are the same on every engine, whoever keeps the rollups."""

from __future__ import annotations

from kernel.testing import Client
from tests.plugins.observability.engines import TestedEngine
from tests.plugins.observability.events import make_events, post_ingest


def test_the_service_says_which_engine_it_is_on(engine: TestedEngine, engine_client: Client) -> None:
    assert engine_client.get("/stats/").json()["engine"]["name"] == engine.name


def test_a_batch_is_stored_once(engine_client: Client) -> None:
    answer = post_ingest(engine_client, make_events(3))

    assert (answer.status, answer.json()["inserted"]) == (200, 3)
