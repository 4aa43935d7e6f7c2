"""OpenTelemetry: spans that come in, against the same events as JSON; and what spans of the service itself cost."""

from __future__ import annotations

import json
import timeit
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from kernel.tracking import current_tracker
from tests.bench.figures import Figure, in_turn
from tests.bench.load import INGEST, make_events, post, wrk
from tests.bench.routes import SMALL_PLUGIN
from tests.bench.service import Service, service
from tests.listening import listening
from tests.plugins.observability.spans import PATH, PROTOBUF, make_request, make_span, to_protobuf

BATCHES, BATCH = 20, 1_000
ROUNDS = 5
CONNECTIONS = 4
_CALLS = 1_000_000
_SPAN_ID_DIGITS = 16


def figures(full: bool) -> Iterator[Figure]:
    """Measure spans."""
    events = [make_events(BATCH) for _ in range(BATCHES)]
    for number, batch in enumerate(events):
        for at, event in enumerate(batch):
            event["event_id"] = f"{number * BATCH + at + 1:0{_SPAN_ID_DIGITS}x}"
    requests = [_as_spans(batch) for batch in events]
    usual = [json.dumps(batch).encode() for batch in events]
    with service() as running:
        for name, target, content, kind in (
            ("protobuf", 0.2, [to_protobuf(each) for each in requests], PROTOBUF),
            ("JSON", 0.2, [json.dumps(each).encode() for each in requests], "application/json"),
        ):
            ratio, spans, plain = in_turn(
                partial(_post, running, content, PATH, kind),
                lambda: _post(running, usual, INGEST, "application/json"),
                ROUNDS,
            )
            detail = f"{spans:,.0f} spans/s, {plain:,.0f} events/s"
            yield Figure(f"spans as {name}, against the same events with ids", ratio, target, detail=detail)
    yield from _own_spans()


def _as_spans(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make a request of the spans of events, of one service, as a collector sends them."""
    return make_request(
        *(
            make_span(
                {
                    "http.route": event["endpoint"],
                    "user.id": event["user_ref"],
                    "url.path": event["endpoint"],
                    "url.scheme": "https",
                    "server.address": "shop.example",
                    "client.address": "192.0.2.7",
                },
                traceId=event["trace_id"],
                spanId=event["event_id"],
                startTimeUnixNano=str(_unix_ns(event["time"])),
                endTimeUnixNano=str(_unix_ns(event["time"]) + event["latency_ms"] * 1_000_000),
            )
            for event in events
        ),
        service="shop",
    )


def _unix_ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1_000) * 1_000_000


def _post(running: Service, content: Sequence[bytes], path: str, kind: str) -> float:
    running.empty()
    return post(
        running.port,
        content,
        BATCH,
        connections=CONNECTIONS,
        # Each once: what is stored already takes another way.
        events=BATCHES * BATCH,
        headers=lambda _: {"Content-Type": kind},
        path=path,
    )


def _own_spans() -> Iterator[Figure]:
    """Measure a small route with spans, and what looking for a tracker costs without."""
    plugins = {"TIERCEL_PLUGINS": f"system,{SMALL_PLUGIN}"}

    def collector(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        start_response("200 OK", [("Content-Length", "0")])
        return [b""]

    with (
        listening(collector) as url,
        service(**plugins, OTEL_EXPORTER_OTLP_ENDPOINT=url) as traced,
        service(**plugins) as untraced,
    ):
        for each in (traced, untraced):
            wrk(each.port, "/small", seconds=1)
        ratio, with_spans, without = in_turn(
            lambda: wrk(traced.port, "/small"), lambda: wrk(untraced.port, "/small"), ROUNDS
        )
    detail = f"{with_spans:,.0f} requests/s, {without:,.0f} without spans"
    yield Figure("a small route with spans, against without", ratio, 0.3, detail=detail)
    look_up_us = timeit.timeit(current_tracker, number=_CALLS) / _CALLS * 1e6
    request_us = 1e6 / without
    detail = f"{look_up_us:.3f} us of {request_us:.0f} us"
    yield Figure(
        "looking for a tracker without spans, of a small request",
        look_up_us / request_us,
        0.01,
        "at most",
        detail=detail,
    )
