"""Ingest on a machine whose clock is wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.conftest import Serve
from tests.plugins.observability.events import ROOT, id_time_ms, listed, make_event, post_ingest, unix_ms

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


class FixedClock:
    """A fake clock that returns a fixed time."""

    def __init__(self, time: datetime) -> None:
        self._time = time

    def now(self) -> datetime:
        return self._time


@pytest.mark.parametrize("back", [timedelta(hours=23), timedelta(days=1)])
def test_events_are_accepted_by_a_server_whose_clock_is_a_day_behind(serve: Serve, back: timedelta) -> None:
    client = serve(FixedClock(NOON - back), observability={"log_own_requests": False})
    time = NOON.isoformat()

    answer = post_ingest(client, [make_event(time=time)])

    assert answer.json()["inserted"] == 1, answer.content
    (event,) = listed(client)
    assert id_time_ms(event["id"]) == unix_ms(time)
    assert client.get(f"{ROOT}{event['id']}/").json() == event


def test_events_are_rejected_by_a_server_whose_clock_is_more_than_a_day_behind(serve: Serve) -> None:
    client = serve(FixedClock(NOON - timedelta(days=1, seconds=1)))

    answer = post_ingest(client, [make_event(time=NOON.isoformat())])

    assert (answer.status, answer.json()["inserted"], answer.json()["rejected"]) == (200, 0, 1)
    assert list(answer.json()["errors"][0]["errors"]) == ["time"]
    assert listed(client) == []


def test_a_clock_that_jumps_back_a_day_causes_no_loss_and_no_duplicates(serve: Serve) -> None:
    key = {"Idempotency-Key": "a batch"}
    batch = [make_event(time=NOON.isoformat(), trace_id=str(at)) for at in range(5)]
    quiet = {"log_own_requests": False}
    serve(FixedClock(NOON), observability=quiet).post(f"{ROOT}ingest/", batch, headers=key)
    back = serve(FixedClock(NOON - timedelta(days=1)), observability=quiet)

    replay = back.post(f"{ROOT}ingest/", batch, headers=key)

    assert (replay.json()["inserted"], replay.json()["duplicates"]) == (0, 5)
    assert sorted(event["trace_id"] for event in listed(back)) == list("01234")
