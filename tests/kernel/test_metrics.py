"""Metrics: processes that count, one answer for all of them, and what happens as they come and go."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from kernel.contracts import Route
from kernel.errors import DuplicateError, UnavailableError
from kernel.metrics import CHILDREN_MAX, OTHER, Metrics, Reading
from kernel.settings import MetricSettings
from kernel.testing import Client
from tests.conftest import Serve
from tests.kernel.fakes import CapturedLog, MakePlugin
from tests.processes import eventually

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
Process = Callable[..., Metrics]
OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1"


def samples_of(metrics: Metrics) -> Samples:
    """Scrape; return the values by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in metrics.collect()
        for sample in family.samples
    }


def value_of(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return one value of a scrape; None if it is not there."""
    return samples_of(metrics).get((name, tuple(sorted(labels.items()))))


@pytest.fixture
def process(tmp_path: Path, captured: CapturedLog) -> Iterator[Process]:
    """Start the metrics of one more process of an instance: ``process("jobs")``."""
    with ExitStack() as stack:

        def start(role: Any = "web", **settings: Any) -> Metrics:
            metrics = Metrics(MetricSettings(**settings), tmp_path / "metrics", captured.log)
            metrics.counter("tiercel_orders_total", "Orders.", ("kind",))
            metrics.gauge("tiercel_open", "Open.")
            metrics.histogram("tiercel_wait_seconds", "Wait.", buckets=(0.1, 1.0))
            metrics.open(role)
            stack.callback(metrics.close)
            return metrics

        yield start


def count(metrics: Metrics, number: int = 1) -> None:
    """Count something with each kind of metric."""
    metrics.counter("tiercel_orders_total", "Orders.", ("kind",)).inc("gift", by=number)
    metrics.gauge("tiercel_open", "Open.").set(number)
    metrics.histogram("tiercel_wait_seconds", "Wait.", buckets=(0.1, 1.0)).observe(0.5)
    metrics.flush()


def test_a_scrape_of_any_process_adds_up_all_of_them(process: Process) -> None:
    first, second, jobs = process(), process(), process("jobs")
    for metrics, number in ((first, 1), (second, 2), (jobs, 4)):
        count(metrics, number)

    assert [each.process for each in (first, second, jobs)] == ["web-0", "web-1", "jobs-0"]
    for metrics in (first, second, jobs):
        assert value_of(metrics, "tiercel_orders_total", kind="gift") == 7
        assert value_of(metrics, "tiercel_open") == 7
        assert value_of(metrics, "tiercel_wait_seconds_bucket", le="0.1") == 0
        assert value_of(metrics, "tiercel_wait_seconds_bucket", le="1.0") == 3
        assert value_of(metrics, "tiercel_wait_seconds_count") == 3
        assert value_of(metrics, "tiercel_wait_seconds_sum") == 1.5


def test_counters_outlive_their_process_and_gauges_do_not(process: Process, tmp_path: Path) -> None:
    lasting = process()
    for _ in range(5):
        worker = process()
        assert worker.process == "web-1"
        count(worker)
        worker.close()

    assert value_of(lasting, "tiercel_orders_total", kind="gift") == 5
    assert value_of(lasting, "tiercel_wait_seconds_count") == 5
    assert value_of(lasting, "tiercel_open") is None
    # Five processes that came one after another have the files of one.
    assert [path.name for path in (tmp_path / "metrics").glob("histogram_web-[1-9]*")] == ["histogram_web-1.db"]


def test_a_reset_removes_what_is_there_once_no_process_is(process: Process, tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    running, ended = process("jobs"), process()
    count(running)
    count(ended)
    ended.close()

    Metrics(MetricSettings(), folder, CapturedLog().log).reset()
    # Counters would go back.
    assert value_of(running, "tiercel_orders_total", kind="gift") == 2

    running.close()
    Metrics(MetricSettings(), folder, CapturedLog().log).reset()
    assert [path.name for path in folder.iterdir()] == ["slots.lock"]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_file_that_cannot_be_read_hides_no_other(process: Process, tmp_path: Path) -> None:
    running, broken = process(), process()
    count(running)
    count(broken)
    broken.close()
    file = tmp_path / "metrics" / "counter_web-1.db"
    file.write_bytes(b"\xff\x00\x00\x00" + b"\xff" * 60)

    assert value_of(running, "tiercel_orders_total", kind="gift") == 1
    count(process())
    assert value_of(running, "tiercel_orders_total", kind="gift") == 2


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path, captured: CapturedLog) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "metrics").symlink_to(elsewhere)
    metrics = Metrics(MetricSettings(), tmp_path / "metrics", captured.log)

    metrics.reset()
    metrics.open("web")
    count(metrics)

    assert list(elsewhere.iterdir()) == []
    assert captured.events("metrics_unavailable") != []
    assert value_of(metrics, "tiercel_orders_total", kind="gift") is None


def test_children_are_bounded_and_the_rest_is_counted_together(process: Process) -> None:
    metrics = process()
    counter = metrics.counter("tiercel_orders_total", "Orders.", ("kind",))
    for number in range(CHILDREN_MAX + 50):
        counter.inc(f"kind {number}")

    found = [value for (name, _), value in samples_of(metrics).items() if name == "tiercel_orders_total"]
    assert len(found) == CHILDREN_MAX + 1
    assert value_of(metrics, "tiercel_orders_total", kind=OTHER) == 50
    metrics.close()
    # Nor does a later process in the same slot have room for more.
    later = process()
    later.counter("tiercel_orders_total", "Orders.", ("kind",)).inc("new")
    assert value_of(later, "tiercel_orders_total", kind=OTHER) == 51


@pytest.mark.parametrize("name", ["orders", "Orders_total", "tiercel__orders_total", "order-s_total", "_total"])
def test_a_name_that_prometheus_would_not_like_is_refused(process: Process, name: str) -> None:
    with pytest.raises(ValueError, match=r"total|metric"):
        process().counter(name, "Orders.")


def test_one_name_has_one_kind_and_the_same_labels(process: Process) -> None:
    metrics = process()

    with pytest.raises(DuplicateError):
        metrics.counter("tiercel_orders_total", "Orders.", ("size",))
    with pytest.raises(DuplicateError):
        metrics.gauge("tiercel_orders_total", "Orders.", ("kind",))
    with pytest.raises(ValueError, match="labels"):
        metrics.counter("tiercel_orders_total", "Orders.", ("kind",)).inc()
    with pytest.raises(ValueError, match="decrease"):
        metrics.counter("tiercel_orders_total", "Orders.", ("kind",)).inc("gift", by=-1)


def test_what_is_read_in_a_process_goes_on_where_the_last_one_stopped(process: Process) -> None:
    def read() -> Iterable[Reading]:
        yield Reading("hits_total", "Hits.", 10, kind="counter")
        yield Reading("entries", "Entries.", 3)

    for expected in (10, 20):
        metrics = process()
        metrics.read_in_process("tiercel_cache_", read)
        assert value_of(metrics, "tiercel_cache_hits_total") == expected
        assert value_of(metrics, "tiercel_cache_hits_total") == expected
        assert value_of(metrics, "tiercel_cache_entries") == 3
        metrics.close()


def test_what_fails_to_be_read_in_a_process_stops_nothing_else(process: Process, captured: CapturedLog) -> None:
    metrics = process()
    metrics.read_in_process("tiercel_", lambda: [Reading("one", "One.", 1 // 0)])
    count(metrics)

    assert value_of(metrics, "tiercel_orders_total", kind="gift") == 1
    assert len(captured.events("metrics_not_read")) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
def test_a_full_disk_stops_nothing(process: Process, tmp_path: Path, captured: CapturedLog) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", folder], check=True)
    try:
        metrics = process()
        count(metrics)
        (folder / "filler").write_bytes(bytes(1024 * 1024 - 3 * 64 * 1024 - 16 * 1024))
        for number in range(1500):
            metrics.counter("tiercel_orders_total", "Orders.", ("kind",)).inc(f"kind {number}")
        metrics.flush()
        metrics.flush()
        assert len(captured.events("metrics_not_written")) == 1

        (folder / "filler").unlink()
        count(metrics)

        assert value_of(metrics, "tiercel_orders_total", kind="kind 1499") == 1
        assert value_of(metrics, "tiercel_orders_total", kind="gift") == 2
        metrics.close()
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_folder_that_is_gone_stops_nothing(process: Process, tmp_path: Path, captured: CapturedLog) -> None:
    metrics = process()
    shutil.rmtree(tmp_path / "metrics")

    count(metrics)
    metrics.close()

    assert len(captured.events("metrics_not_written")) == 1


def test_a_source_that_fails_or_hangs_is_left_out_and_said_to_be(process: Process) -> None:
    metrics = process(source_timeout_s=0.2, source_max_age_s=0.0)
    released = threading.Event()
    calls = []

    def fail() -> Iterable[Reading]:
        raise UnavailableError("the database is away")

    def hang() -> Iterable[Reading]:
        calls.append(1)
        released.wait(10)
        return [Reading("rows", "Rows.", 5)]

    metrics.add_source("good", "tiercel_", lambda: [Reading("size_bytes", "Size.", 7)])
    metrics.add_source("bad", "tiercel_", fail)
    metrics.add_source("hanging", "tiercel_", hang)
    try:
        for scrape in (1, 2):
            assert value_of(metrics, "tiercel_size_bytes") == 7
            up = {name: value_of(metrics, "tiercel_source_up", source=name) for name in ("good", "bad", "hanging")}
            assert up == {"good": 1, "bad": 0, "hanging": 0}, scrape
    finally:
        released.set()

    # However often it is asked, it hangs once.
    assert len(calls) == 1
    assert value_of(metrics, "tiercel_scrape_errors_total", source="bad") is not None
    assert value_of(metrics, "tiercel_scrape_errors_total", source="good") is None
    # Its thread may need a moment, which a scrape does not wait for.
    assert eventually(lambda: value_of(metrics, "tiercel_rows") == 5)


def test_a_source_is_asked_again_only_once_its_answer_is_old(process: Process) -> None:
    calls = []

    def read() -> Iterable[Reading]:
        calls.append(1)
        return [Reading("rows", "Rows.", len(calls))]

    metrics = process(source_max_age_s=60.0)
    metrics.add_source("rows", "tiercel_", read)

    assert [value_of(metrics, "tiercel_rows") for _ in range(3)] == [1, 1, 1]


# --- of a service -----------------------------------------------------------------------------------------------------


def scrape(client: Client, **headers: str) -> Samples:
    """Return the values of ``/metrics`` by name and labels."""
    answer = client.get("/metrics", headers=headers)
    assert answer.status == 200, answer.content
    families = parse_openmetrics if "openmetrics" in answer.headers["content-type"] else parse_text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families(answer.content.decode())
        for sample in family.samples
    }


def echo(body: dict[str, str]) -> dict[str, str]:
    """Answer with what was sent."""
    return body


@pytest.fixture
def client(serve: Serve, make_plugin: MakePlugin, tmp_path: Path) -> Client:
    """A service with a plugin that has metrics of its own."""

    def routes(services: Any) -> list[Route]:
        orders = services.metrics.counter("orders_total", "Orders.", labels=("kind",))

        def order(kind: str) -> str:
            orders.inc(kind)
            return kind

        return [
            Route(path="/order/{kind}/", handler=order, policy="public"),
            Route(path="/echo/", handler=echo, policy="public", method="POST"),
        ]

    return serve(home=str(tmp_path / "home"), plugins=[make_plugin("shop", register_routes=routes)], required=[])


def test_requests_are_counted_by_route_method_status_and_plugin(client: Client) -> None:
    for kind in ("gift", "gift", "plain"):
        client.get(f"/order/{kind}/")
    answer = client.post("/echo/", {"hello": "you"})
    client.get("/echo/")

    found = scrape(client)
    route = (("method", "GET"), ("plugin", "shop"), ("route", "/order/{kind}"))
    assert found["tiercel_http_requests_total", (*route, ("status", "2xx"))] == 3
    assert found["tiercel_http_request_duration_seconds_count", route] == 3
    assert found["tiercel_shop_orders_total", (("kind", "gift"),)] == 2
    sent = (("method", "POST"), ("plugin", "shop"), ("route", "/echo"))
    assert found["tiercel_http_request_body_bytes_total", sent] == len(b'{"hello":"you"}')
    assert found["tiercel_http_response_body_bytes_total", sent] == len(answer.content)
    nowhere = (("method", "GET"), ("plugin", ""), ("route", "(no route)"), ("status", "4xx"))
    assert found["tiercel_http_requests_total", nowhere] == 1
    assert found["tiercel_http_requests_in_flight", (("process", "web-0"),)] == 0


def test_both_formats_parse_and_say_the_same(client: Client) -> None:
    client.get("/order/gift/")
    text, openmetrics = client.get("/metrics"), client.get("/metrics", headers={"Accept": OPENMETRICS})

    assert text.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert openmetrics.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert openmetrics.content.endswith(b"# EOF\n")
    assert scrape(client).keys() == scrape(client, Accept=OPENMETRICS).keys()
    for accept in ("text/html", "application/json", "nonsense;;", "application/openmetrics-text; version=9"):
        assert client.get("/metrics", headers={"Accept": accept}).headers["content-type"].startswith("text/plain")
    packed = client.get("/metrics", headers={"Accept-Encoding": "gzip"})
    assert (packed.headers["content-encoding"], packed.content[:2]) == ("gzip", b"\x1f\x8b")
    assert client.request("HEAD", "/metrics").content == b""


@pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")
def test_random_paths_and_methods_make_no_new_children(client: Client) -> None:
    before = len(scrape(client))
    for number in range(300):
        client.get(f"/{number}/of/{number}")
        client.get(f"/echo/?{number}")
        client.request(f"X{number}", f"/order/{number}")

    found = scrape(client)
    assert len(found) - before < 60
    methods = {dict(labels)["method"] for name, labels in found if name == "tiercel_http_requests_total"}
    assert methods <= {"GET", "POST", OTHER}


def test_what_stats_shows_as_well_is_the_same(serve: Serve, tmp_path: Path) -> None:
    client = serve(home=str(tmp_path / "home"), plugins=["system", "observability"])
    client.post("/api/requests/ingest/", [{"service": "s"}])
    stats = client.get("/stats/").json()["application"]
    found = scrape(client)

    assert found["tiercel_db_pool_connections_max", ()] == stats["pool"]["pool_max"]
    for cache, figures in stats["caches"].items():
        assert found["tiercel_cache_misses_total", (("cache", cache),)] == figures["misses"]
    assert found["tiercel_observability_events_capped_total", ()] == stats["figures"]["observability"]["events_capped"]
    assert found["tiercel_observability_events_total", (("outcome", "rejected"),)] == 1
    assert found["tiercel_observability_rollup_oldest_waiting_seconds", ()] == 0
    assert all(found["tiercel_source_up", labels] == 1 for name, labels in found if name == "tiercel_source_up")


def test_without_metrics_nothing_is_kept_or_served(serve: Serve, tmp_path: Path) -> None:
    home = tmp_path / "home"
    client = serve(home=str(home), plugins=["system"], metrics={"enabled": False})

    assert client.get("/metrics").status == 404
    assert client.get("/api/").status == 200
    assert not (home / "metrics").exists()
    assert "metrics" not in client.get("/stats/").json()["application"]["requests"]
