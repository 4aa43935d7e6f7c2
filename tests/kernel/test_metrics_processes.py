"""``/metrics`` of real processes: two that serve and one that runs jobs; when one is killed; with a frozen database.

One service for the whole file, because starting it takes seconds. And that it exposes whatever alerts and dashboard ask
for.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.faults.database import frozen
from tests.processes import GUNICORN, TIERCEL, Service, copy_home, eventually, find_program, serving

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("metrics_processes")]

Labels = Mapping[str, str]
VARIABLES = {
    "TIERCEL_WORKERS": "2",
    "TIERCEL_JOBS__PROCESSES": "1",
    "TIERCEL_DB__STATEMENT_TIMEOUT_S": "2",
    "TIERCEL_METRICS__SOURCE_TIMEOUT_S": "1",
    "TIERCEL_METRICS__SOURCE_MAX_AGE_S": "0",
    "TIERCEL_THROTTLE__OPEN": "true",
    # Its own requests would be counted among the events.
    "TIERCEL_OBSERVABILITY__LOG_OWN_REQUESTS": "false",
}
ROUTE = {"plugin": "system", "method": "GET", "route": "/api"}


class Scrape:
    """The samples of a scrape."""

    def __init__(self, answer: httpx.Response) -> None:
        assert answer.status_code == 200, answer.text
        parse = parse_openmetrics if "openmetrics" in answer.headers["content-type"] else parse_text
        self.samples = [sample for family in parse(answer.text) for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples with these labels, whatever others they have."""
        found = [each for each in self.samples if each.name == name and labels.items() <= each.labels.items()]
        return sum(each.value for each in found)

    def labels(self, name: str, label: str) -> set[str]:
        """Return the values of a label."""
        return {each.labels[label] for each in self.samples if each.name == name}


def scrape(service: Service) -> Scrape:
    """Scrape whichever process answers."""
    return Scrape(service.get("/metrics"))


@pytest.fixture(scope="module")
def service(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = copy_home(initialised, tmp_path_factory.mktemp("metrics"))
    last = {"finished_at": "2026-11-28T02:00:00Z", "directory": "/backups", "kind": "base"}
    (home / "last_backup.json").write_bytes(msgspec.json.encode(last))
    with serving(home, (TIERCEL, "up"), **VARIABLES) as started:
        assert eventually(lambda: scrape(started).value("tiercel_process_threads", process="jobs-0") > 0)
        yield started


def test_the_processes_of_an_instance_are_added_up(service: Service) -> None:
    for _ in range(60):
        service.get("/api/")
    service.post("/api/requests/ingest/", [{"service": "shop"}, {}])
    assert service.post("/api/v1/jobs/", {"name": "observability.rollups"}).status_code in {200, 201, 202}

    assert eventually(lambda: scrape(service).value("tiercel_http_requests_total", **ROUTE, status="2xx") == 60)
    found = scrape(service)
    assert found.value("tiercel_http_request_duration_seconds_count", **ROUTE) == 60
    assert found.value("tiercel_observability_events_total", outcome="rejected") == 2
    assert found.labels("tiercel_process_threads", "process") == {"web-0", "web-1", "jobs-0"}
    assert found.value("tiercel_http_threads_max") == 16
    assert found.value("tiercel_job_workers") == 1
    assert eventually(lambda: scrape(service).value("tiercel_job_runs_total", outcome="succeeded") >= 1)
    # Scrapes and probes are neither counted nor logged.
    assert scrape(service).value("tiercel_http_requests_total", route="/metrics") == 0
    assert "/metrics" not in service.errors
    openmetrics = service.get_with("/metrics", Accept="application/openmetrics-text")
    assert {each.name for each in Scrape(openmetrics).samples} >= {each.name for each in scrape(service).samples}


def test_a_client_cannot_make_labels(service: Service) -> None:
    before = len(scrape(service).samples)
    with httpx.Client(base_url=service.url) as client:
        for number in range(200):
            client.request(f"ATTACK{number}", f"/attack/{number}", headers={"X-Request-ID": f"attack-{number}"})
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        assert b" 400 " in connection.recv(4096)

    others = {"method": "__other__", "route": "(no route)"}
    assert eventually(lambda: scrape(service).value("tiercel_http_requests_total", **others) == 200)
    assert eventually(lambda: scrape(service).value("tiercel_http_rejected_requests_total", status="4xx") == 1)
    assert len(scrape(service).samples) - before < 60


def test_a_killed_worker_leaves_its_counts_and_nothing_else(service: Service) -> None:
    service.get("/api/")
    assert eventually(lambda: scrape(service).value("tiercel_http_requests_total", **ROUTE) >= 1)
    time.sleep(1.5)  # until both have written what they have counted
    before = scrape(service)
    started = before.value("tiercel_process_start_time_seconds", process="web-0")
    victim = min(service.workers(), key=lambda each: abs(each.create_time() - started))
    victim.send_signal(signal.SIGKILL)
    victim.wait(10)

    def is_replaced() -> bool:
        found = scrape(service)
        return found.value("tiercel_process_start_time_seconds", process="web-0") not in {0, started}

    assert eventually(is_replaced)
    after = scrape(service)
    assert after.value("tiercel_http_requests_total") == before.value("tiercel_http_requests_total") > 0
    assert after.labels("tiercel_process_threads", "process") == {"web-0", "web-1", "jobs-0"}
    files = sorted(path.name for path in (service.home / "metrics").glob("counter_*"))
    assert files == ["counter_jobs-0.db", "counter_web-0.db", "counter_web-1.db"]


def test_a_frozen_database_is_left_out_of_a_scrape(service: Service) -> None:
    with frozen(service.home):
        for _ in range(3):
            started = time.monotonic()
            found = scrape(service)
            assert time.monotonic() - started < 5
            assert found.value("tiercel_source_up", source="database") == 0
            assert found.value("tiercel_http_threads_max") == 16
            assert found.value("tiercel_database_connections") == 0
            assert found.value("tiercel_source_up", source="instance") == 1
    assert scrape(service).value("tiercel_scrape_errors_total", source="database") >= 3
    assert eventually(lambda: scrape(service).value("tiercel_source_up", source="database") == 1, 30)


ROOT = Path(__file__).parent.parent.parent
RULES = ROOT / "contrib" / "prometheus" / "tiercel.rules.yml"
DASHBOARD = ROOT / "contrib" / "grafana" / "dashboards" / "tiercel.json"
_METRIC = re.compile(r"(tiercel_[a-z0-9_]+)(\{[^}]*\})?")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_BY = re.compile(r"\bby \(([^)]*)\)")
# What Prometheus adds to what it scrapes.
_OF_PROMETHEUS = {"job", "instance"}


def expressions() -> list[str]:
    """Return all expressions of rules and dashboard."""
    text = RULES.read_text()
    rules = [
        " ".join(match.split()) for match in re.findall(r"expr: (?:\|\n)?((?:.|\n)*?)(?=\n +(?:for|labels):)", text)
    ]
    assert len(rules) == text.count("- alert:")
    dashboard = msgspec.json.decode(DASHBOARD.read_bytes())
    targets = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    queries = [each["query"]["query"] for each in dashboard["templating"]["list"] if isinstance(each["query"], dict)]
    return [*rules, *targets, *queries]


def test_the_time_of_the_latest_backup_is_told_if_one_is_recorded(service: Service) -> None:
    record = service.home / "last_backup.json"
    recorded = record.read_bytes()

    assert scrape_all(service).value("tiercel_backup_finished_time_seconds") == 1795831200
    record.write_bytes(b"{}")
    try:
        wrong = scrape_all(service)
    finally:
        record.write_bytes(recorded)

    # What can be read of the instance is told all the same.
    names = {sample.name for sample in wrong.samples}
    assert "tiercel_backup_finished_time_seconds" not in names
    assert "tiercel_home_filesystem_free_bytes" in names


def test_alerts_and_dashboard_ask_for_what_there_is(service: Service) -> None:
    # One request of each kind that is counted only once it happens.
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        connection.recv(4096)
    assert eventually(lambda: scrape(service).value("tiercel_http_rejected_requests_total") > 0)
    by_name: dict[str, set[str]] = {}
    for sample in scrape_all(service).samples:
        by_name.setdefault(sample.name, set()).update(sample.labels)

    wrong = []
    for expression in expressions():
        for name, selector in _METRIC.findall(expression):
            if name not in by_name:
                wrong.append(f"{name}: {expression}")
            labels = {*_LABEL.findall(selector), *_grouped(expression)} if selector else _grouped(expression)
            if unknown := labels - by_name.get(name, set()) - _OF_PROMETHEUS:
                wrong.append(f"{name}: {sorted(unknown)}: {expression}")
    assert wrong == []


def scrape_all(service: Service) -> Scrape:
    """Scrape until no source is left out: a busy machine may take longer than their time limit."""
    found: list[Scrape] = []

    def is_complete() -> bool:
        found.append(scrape(service))
        return all(sample.value == 1 for sample in found[-1].samples if sample.name == "tiercel_source_up")

    assert eventually(is_complete)
    return found[-1]


def _grouped(expression: str) -> set[str]:
    return {label.strip() for group in _BY.findall(expression) for label in group.split(",")}


def test_what_is_exposed_is_documented_and_named_as_prometheus_wants(service: Service) -> None:
    page = (ROOT / "docs" / "operations" / "monitoring.md").read_text()
    text = service.get("/metrics").text
    families: dict[str, str] = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))

    assert [name for name in families if f"`{name}`" not in page] == []
    assert [name for name, kind in families.items() if name.endswith("_total") != (kind == "counter")] == []
    assert [name for name in families if re.search(r"_(ms|milliseconds|kb|mb|percent)(_|$)", name)] == []


def test_the_rules_do_what_their_tests_say() -> None:
    promtool = find_program("promtool")

    for arguments in (["check", "rules", RULES.name], ["test", "rules", "tiercel.test.yml"]):
        ran = subprocess.run([promtool, *arguments], cwd=RULES.parent, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr


# Last: it stops the service.
def test_a_restart_begins_at_zero_and_workers_that_take_turns_do_not(service: Service) -> None:
    service.stop()
    command = (GUNICORN, "-c", str(ROOT / "config" / "gunicorn.conf.py"), "--max-requests", "20")
    with serving(service.home, command, **VARIABLES) as restarted:
        found = scrape(restarted)
        assert found.value("tiercel_http_requests_total", **ROUTE) == 0
        assert found.labels("tiercel_process_threads", "process") <= {"web-0", "web-1"}
        first = {worker.pid for worker in restarted.workers()}
        for _ in range(60):
            restarted.get("/api/")

        assert eventually(lambda: scrape(restarted).value("tiercel_http_requests_total", **ROUTE) == 60)
        assert first.isdisjoint(worker.pid for worker in restarted.workers())
        assert len(list((restarted.home / "metrics").glob("counter_*"))) <= 3
