"""Spans of the service's own requests: which there are, how they are nested, and what happens without a collector."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import WSGIWarning

import httpx
import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from kernel.contracts import Job, Route
from kernel.errors import NotFoundError, UnavailableError
from kernel.http.response import StreamingResponse
from kernel.jobs.models import JobError
from kernel.jobs.worker import Worker
from kernel.services import Services
from kernel.testing import Client
from kernel.tracing import ENDPOINTS, make_tracing
from kernel.tracking import STATEMENTS_MAX, outgoing_request
from tests.conftest import Serve, service_starter
from tests.kernel.fakes import CapturedLog, MakePlugin
from tests.listening import listening
from tests.processes import eventually, free_port, serving

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SERVER, CLIENT, CONSUMER = 2, 3, 5


class Query(msgspec.Struct, frozen=True):
    """Parameters of a request, which no span has."""

    token: str = ""


class ReceivedSpan(msgspec.Struct):
    """A span that a collector received."""

    name: str
    kind: int
    trace_id: str
    id: str
    parent_id: str
    attributes: dict[str, Any]
    is_error: bool
    description: str
    service: str


class Collector:
    """A WSGI application that records spans, and the headers of everything else that it is sent."""

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        self.calls: list[dict[str, Any]] = []
        self.url = ""
        # Set to let exporters wait.
        self.hold: threading.Event | None = None

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/v1/traces":
            if self.hold is not None:
                self.hold.wait(30)
            content = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            self._record(ExportTraceServiceRequest.FromString(content))
        else:
            self.calls.append(environ)
        is_missing = environ["PATH_INFO"] == "/missing"
        start_response("404 Not Found" if is_missing else "200 OK", [("Content-Length", "0")])
        return [b""]

    def _record(self, request: ExportTraceServiceRequest) -> None:
        for group in request.resource_spans:
            resource = {each.key: each.value.string_value for each in group.resource.attributes}
            for span in (span for scope in group.scope_spans for span in scope.spans):
                values = {
                    each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in span.attributes
                }
                self.spans.append(
                    ReceivedSpan(
                        name=span.name,
                        kind=span.kind,
                        trace_id=span.trace_id.hex(),
                        id=span.span_id.hex(),
                        parent_id=span.parent_span_id.hex(),
                        attributes=values,
                        is_error=span.status.code == 2,
                        description=span.status.message,
                        service=resource["service.name"],
                    )
                )

    def named(self, name: str) -> ReceivedSpan:
        """Return the only span of a name."""
        [span] = [span for span in self.spans if span.name == name]
        return span


def make_routes(services: Services) -> list[Route]:
    """Make routes that use the database, and start a job."""

    def start(query: Query) -> int:
        with services.db.transaction() as connection:
            connection.execute("SELECT %(secret)s::text", {"secret": f"hunter2 {query.token}"})
        return services.jobs.start("alpha.fetch").id

    def stream() -> StreamingResponse:
        def rows() -> Iterator[bytes]:
            with services.db.connection() as connection:
                yield str(connection.execute("SELECT 7").fetchone()).encode()

        return StreamingResponse(rows(), "text/plain")

    def many() -> None:
        with services.db.connection() as connection:
            for _ in range(STATEMENTS_MAX + 5):
                connection.execute("SELECT 1")

    def fail(status: int) -> None:
        with services.db.connection() as connection:
            if status == 503:
                raise UnavailableError("the shop is closed")
            if status == 404:
                raise NotFoundError
            connection.execute("SELECT %(secret)s::text::integer", {"secret": "hunter3"})

    handlers = {"start/": start, "stream/": stream, "many/": many, "fail/{status}/": fail}
    return [Route(path=f"/{path}", handler=handler, policy="public") for path, handler in handlers.items()]


def make_job(services: Services, collector: Collector) -> Job:
    """Make a job that uses the database and other services, and fails."""

    def fetch() -> None:
        with services.db.connection() as connection:
            connection.execute("SELECT 2")
        for path in ("there?token=hunter4", "missing"):
            url = f"{collector.url}/{path}".replace("http://", "http://me:hunter5@")
            with outgoing_request("GET", url) as outgoing:
                outgoing.status = httpx.get(url, headers=dict(outgoing.headers)).status_code
        with outgoing_request("GET", "http://127.0.0.1:1/"):
            raise JobError("token=hunter6 is refused")

    return Job(name="alpha.fetch", run=fetch)


def make_hooks(collector: Collector) -> dict[str, Callable[..., Any]]:
    """Make the hooks of a plugin that does everything that has spans."""
    return {"register_routes": make_routes, "register_jobs": lambda services: [make_job(services, collector)]}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that services send their spans to, without delay."""
    made = Collector()
    with listening(made) as url:
        made.url = url
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield made


def test_spans_of_a_request_its_statements_its_job_and_what_that_requests_are_one_tree(
    collector: Collector, serve: Serve, make_plugin: MakePlugin
) -> None:
    client = serve(plugins=[make_plugin("alpha", **make_hooks(collector))], required=[])
    service = client.service
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1", "User-Agent": "probe"}

    answer = client.get("/start/?token=hunter7", headers=headers)
    assert answer.status == 200, answer.content
    jobs = service.shared.jobs
    worker = Worker(
        7, jobs.registry, service.db, service.settings.jobs, service.clock.now, service.log, tracing=jobs.tracing
    )
    worker.start()
    try:
        jobs.wait(answer.json(), 20)
    finally:
        worker.stop()
        worker.join(20)
    service.stop()

    assert {span.service for span in collector.spans} == {"tiercel"}
    assert {span.trace_id for span in collector.spans} == {TRACE}
    request, job = collector.named("GET /start"), collector.named("job alpha.fetch")
    assert (request.kind, request.parent_id, request.is_error) == (SERVER, PARENT, False)
    assert answer.headers["traceparent"] == f"00-{TRACE}-{request.id}-01"
    phases = {name: each for name, each in request.attributes.items() if name.endswith("_ms")}
    assert {"tiercel.sql_ms", "tiercel.pool_ms", "tiercel.admission_ms"} <= phases.keys()
    assert {name: request.attributes[name] for name in request.attributes.keys() - phases.keys()} == {
        "http.request.method": "GET",
        "http.route": "/start",
        "http.response.status_code": 200,
        "url.path": "/start/",
        "url.scheme": "http",
        "server.address": "127.0.0.1",
        "network.protocol.version": "1.1",
        "user_agent.original": "probe",
        "tiercel.request_id": answer.headers["x-request-id"],
        "tiercel.statement_count": request.attributes["tiercel.statement_count"],
    }
    statements = [span for span in collector.spans if "db.query.text" in span.attributes]
    [first] = [span for span in statements if span.attributes["db.query.text"] == "SELECT %(secret)s::text"]
    assert (first.name, first.kind, first.parent_id) == ("SELECT", CLIENT, request.id)
    assert first.attributes["db.system.name"] == "postgresql"
    [in_job] = [span for span in statements if span.attributes["db.query.text"] == "SELECT 2"]
    assert in_job.parent_id == job.id
    assert (job.kind, job.parent_id, job.is_error) == (CONSUMER, request.id, True)
    assert job.attributes["tiercel.job.id"] == answer.json()
    found, missing, refused = [span for span in collector.spans if span.name == "GET"]
    assert {span.parent_id for span in (found, missing, refused)} == {job.id}
    assert found.attributes == {
        "http.request.method": "GET",
        "url.full": f"{collector.url}/there",
        "server.address": "127.0.0.1",
        "server.port": int(collector.url.rpartition(":")[2]),
        "http.response.status_code": 200,
    }
    assert (missing.is_error, missing.attributes["error.type"]) == (True, "404")
    assert (refused.is_error, refused.attributes["error.type"]) == (True, "JobError")
    # The other service continues the trace.
    assert [call["HTTP_TRACEPARENT"] for call in collector.calls] == [
        f"00-{TRACE}-{span.id}-01" for span in (found, missing)
    ]
    assert "hunter" not in str(collector.spans)


def test_spans_of_errors_streams_and_many_statements(
    collector: Collector, serve: Serve, make_plugin: MakePlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    client = serve(plugins=[make_plugin("alpha", **make_hooks(collector))], required=[])

    answers = [
        client.get(path) for path in ("/fail/404/", "/fail/503/", "/fail/500/", "/nothing", "/stream/", "/many/")
    ]
    tracked = client.get("/many/", headers={"X-Debug-Resource-Tracking": "true"})
    with pytest.warns(WSGIWarning):
        client.request("BREW", "/stream/")
    client.service.stop()

    assert [answer.status for answer in answers] == [404, 503, 500, 404, 200, 200]
    requests = [span for span in collector.spans if span.kind == SERVER]
    assert [(span.name, span.attributes["http.response.status_code"], span.is_error) for span in requests] == [
        ("GET /fail/{status}", 404, False),
        ("GET /fail/{status}", 503, True),
        ("GET /fail/{status}", 500, True),
        ("GET", 404, False),
        ("GET /stream", 200, False),
        ("GET /many", 200, False),
        ("GET /many", 200, False),
        ("HTTP", 501, True),
    ]
    assert {span.service for span in collector.spans} == {"shop"}
    assert requests[1].attributes["error.type"] == "503"
    children = {span.id: [each for each in collector.spans if each.parent_id == span.id] for span in requests}
    [wrong] = children[requests[2].id]
    assert (wrong.is_error, wrong.attributes["db.response.status_code"]) == (True, "22P02")
    assert [each.attributes["db.query.text"] for each in children[requests[4].id]] == ["SELECT 7"]
    assert len(children[requests[5].id]) == STATEMENTS_MAX
    assert requests[5].attributes["tiercel.statement_count"] == STATEMENTS_MAX + 5
    # Those who ask are told; the others are not, although all are tracked.
    assert ["server-timing" in answer.headers for answer in (*answers, tracked)] == [False] * 6 + [True]
    assert "hunter" not in str(collector.spans)


def test_what_the_client_does_not_sample_has_no_spans_here(
    collector: Collector, serve: Serve, make_plugin: MakePlugin
) -> None:
    client = serve(plugins=[make_plugin("alpha", **make_hooks(collector))], required=[])

    answer = client.get("/start/", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    client.service.shared.jobs.run_inline("alpha.fetch")
    client.service.stop()

    version, trace, _, sampled = answer.headers["traceparent"].split("-")
    assert (version, trace, sampled) == ("00", TRACE, "00")
    # The job was started by nobody's request: it is a trace of its own.
    assert TRACE not in {span.trace_id for span in collector.spans}
    assert collector.named("job alpha.fetch").parent_id == ""


@pytest.mark.parametrize(
    "variables",
    [{}, {"OTEL_SDK_DISABLED": "TRUE"}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}],
)
def test_it_is_off_unless_the_environment_turns_it_on(captured: CapturedLog, variables: dict[str, str]) -> None:
    environ = {ENDPOINTS[1]: "http://127.0.0.1:4318", **variables} if variables else {}

    assert make_tracing(environ, captured.log) is None
    assert bool(captured.events("tracing_off")) == ("OTEL_EXPORTER_OTLP_PROTOCOL" in variables)


def test_the_sampler_of_the_environment_decides(
    collector: Collector, serve: Serve, make_plugin: MakePlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    client = serve(plugins=[make_plugin("alpha", **make_hooks(collector))], required=[])

    answers = [client.get("/stream/", headers=headers) for headers in ({}, {"traceparent": f"00-{TRACE}-{PARENT}-01"})]
    client.service.stop()

    assert [answer.headers["traceparent"][-2:] for answer in answers] == ["00", "01"]
    assert [span.name for span in collector.spans] == ["SELECT", "GET /stream"]


@pytest.mark.slow
def test_a_collector_that_is_gone_or_hangs_delays_nobody(
    collector: Collector, db_settings: dict[str, Any], make_plugin: MakePlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "50")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    plugin = make_plugin("alpha", **make_hooks(collector))
    collector.hold = threading.Event()
    took_s: list[float] = []
    for endpoint in (collector.url, f"http://127.0.0.1:{free_port()}"):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        with service_starter(db_settings) as start:
            client: Client = start(plugins=[plugin], required=[])
            for _ in range(100):
                began = time.perf_counter()
                assert client.get("/stream/").status == 200
                took_s.append(time.perf_counter() - began)
            began = time.perf_counter()
        assert time.perf_counter() - began < 10
    collector.hold.set()

    assert sorted(took_s)[-5] < 1
    assert eventually(lambda: not [each for each in threading.enumerate() if each.name.startswith("Otel")])


@pytest.mark.process
def test_each_process_of_a_server_sends_its_spans_until_it_ends(
    collector: Collector, database: str, tmp_path: Path
) -> None:
    # Nothing is sent before the processes stop.
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
    with serving(tmp_path / "home", TIERCEL_DATABASE_URL=database, TIERCEL_PLUGINS="system", **variables) as service:
        answer = service.get("/api/v1/jobs/")
        assert answer.status_code == 200
        assert collector.spans == []

    span = collector.named("GET /api/v1/jobs")
    assert answer.headers["traceparent"] == f"00-{span.trace_id}-{span.id}-01"
    assert (span.attributes["server.port"], span.attributes["client.address"]) == (service.port, "127.0.0.1")
