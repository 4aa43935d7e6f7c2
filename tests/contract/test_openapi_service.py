"""What is made of the OpenAPI document is run against real services: clients, the Postman collection, fuzzing."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from kernel.cli.openapi import SmokeRun
from tests.contract.tree import ROOT
from tests.processes import TIERCEL, Service, copy_home, run_tiercel, serving, slowdown

pytestmark = [pytest.mark.process, pytest.mark.slow]

POSTMAN = ROOT / "contrib" / "postman"
FUZZING = Path(__file__).parent / "schemathesis"
FUZZING_S = 30
# Each kind of route once: the others are as these.
FUZZED = (
    r"^/(livez|health/|api/health/|api/schema/|api/requests/(.id./|ingest/|kpis/|traces/.*)?|api/v1/auth/(sign-in|reset)/"
    r"|api/v1/(jobs|sites|keys|datasets/.name.)/.*|trace/public/features/.*|club/public/features/)$"
)


@pytest.fixture(scope="module")
def secured(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, str]]:
    """A service that authenticates, with demo data, and its first key."""
    home = copy_home(initialised, tmp_path_factory.mktemp("secured"))
    with serving(home, (TIERCEL, "up"), TIERCEL_AUTH="required") as service:
        found = re.search(r"tk_\w+_[\w-]+", service.output)
        assert found is not None, service.output
        yield service, found[0]


def test_smoke_runs_every_documented_request_and_leaves_nothing(secured: tuple[Service, str], tmp_path: Path) -> None:
    service, key = secured
    with httpx.Client(base_url=service.url, headers={"X-API-Key": key}) as client:
        outcomes = list(SmokeRun(client).outcomes())
        sites, plans = (client.get(f"/api/v1/{each}/?slug=tiercel-example").json() for each in ("sites", "plans"))
        events = client.get("/api/requests/?service=tiercel-example").json()

    assert [each for each in outcomes if each.verdict == "FAILED"] == []
    assert sum(each.verdict == "ok" for each in outcomes) > 100
    assert (sites["data"]["count"], plans["data"]["count"], events["count"]) == (0, 0, 0)


def test_the_command_writes_a_report_without_the_key(secured: tuple[Service, str], tmp_path: Path) -> None:
    service, key = secured
    arguments = ("smoke", service.url, "--read-only", "--tag", "system", "--report", str(tmp_path / "reports"))
    done = run_tiercel(service.home, *arguments, TIERCEL_KEY=key)
    report = (tmp_path / "reports" / "smoke.html").read_text()
    refused = run_tiercel(service.home, *arguments, TIERCEL_KEY="tk_unknown_unknown")

    assert (done.returncode, done.stderr) == (0, "")
    assert "GET /api/v1/datasets/" in done.stdout
    assert "<td>GET /stats/</td><td>ok</td><td>200</td>" in report
    assert key not in report + done.stdout
    assert refused.returncode == 1
    assert "expected 200: Authentication is needed." in refused.stdout


def test_the_postman_collection_runs(secured: tuple[Service, str]) -> None:
    folder = os.environ.get("TIERCEL_TEST_PGLITE")
    newman = Path(folder or "") / "node_modules" / ".bin" / "newman"
    if not newman.exists():
        pytest.skip("TIERCEL_TEST_PGLITE names no directory with newman")
    service, key = secured
    collection, environment = (next(POSTMAN.glob(f"*_{each}.json")) for each in ("collection", "environment"))
    values = ["--env-var", f"url={service.url}", "--env-var", f"key={key}"]

    done = subprocess.run(
        [str(newman), "run", str(collection), "-e", str(environment), *values],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 0, done.stdout[-4000:]
    executed = re.search(r"assertions │\s+(\d+) │\s+(\d+)", done.stdout)
    assert executed is not None
    assert (int(executed[1]) > 400, int(executed[2])) == (True, 0)


@pytest.fixture
def generated(secured: tuple[Service, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a package that openapi-python-client made."""
    service, _ = secured
    document, options = tmp_path / "openapi.json", tmp_path / "options.yaml"
    document.write_bytes(service.get("/api/schema/").content)
    options.write_text(
        "post_hooks: []\ncontent_type_overrides: {text/csv: application/octet-stream}\n"
        "package_name_override: tiercel_api\n"
    )
    name = "tiercel_api"
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", str(document), "--meta", "none"]
    subprocess.run(
        [*command, "--output-path", str(tmp_path / name), "--config", str(options)], check=True, capture_output=True
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for each in [each for each in sys.modules if each.partition(".")[0] == name]:
        del sys.modules[each]


def test_a_generated_client_works(secured: tuple[Service, str], generated: str) -> None:
    service, key = secured
    package = importlib.import_module(generated)
    models = importlib.import_module(f"{generated}.models")
    event = models.EventIn(
        time=datetime.now(UTC), service="generated", endpoint="/", method="GET", status_code=200, latency_ms=1
    )
    with package.AuthenticatedClient(service.url, token=key, prefix="", auth_header_name="X-API-Key") as client:

        def call(operation: str, *values: Any, **arguments: Any) -> Any:
            module = importlib.import_module(f"{generated}.api.{operation}")
            return module.sync(*values, client=client, **arguments)

        stored = call("observability.requests_create", body=event)
        listed = call("observability.requests_list", service="generated", status_code_in=[200, 204])
        shown = call("observability.requests_show", stored.id)
        kpis = call("observability.requests_kpis", service="generated", start=datetime(2026, 1, 1, tzinfo=UTC))
        removed = call("observability.requests_remove", service="generated")
        site = call("accounts.sites_create", body=models.NewSite(slug="generated", name="Generated"))
        changed = call("accounts.sites_update", site.data.id, body=models.NewSiteChanges(name="Changed"))
        features = call("trace.trace_features_for_application", models.TraceFeaturesForApplicationApplication.SKYFLOW)
        jobs = call("system.jobs_catalog")
        missing = call("accounts.sites_show", 10**6)

    assert stored == shown
    assert [each.id for each in listed.results] == [stored.id]
    assert kpis.to_dict()["hits"] == 1
    assert removed.deleted == 1
    assert changed.data.name == "Changed"
    assert features.data[0].slug
    assert jobs.data.results[0].name
    assert missing.code == "not_found"


def test_fuzzing_by_the_document_finds_nothing(initialised: Path, tmp_path: Path) -> None:
    # A started job takes the time of what follows.
    excluded = "events/$|^/api/v1/jobs/$"
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", "schemathesis.toml", "run"]
    # Longer where others use the processors as well: how much is tried should not depend on that.
    options = ["--phases", "examples,stateful,coverage", "--max-time", str(round(FUZZING_S * slowdown()))]
    options += ["--include-path-regex", FUZZED, "--exclude-path-regex", excluded]
    with serving(copy_home(initialised, tmp_path), (TIERCEL, "up")) as service:
        command += [f"{service.url}/api/schema/", *options]
        done = subprocess.run(command, cwd=FUZZING, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-8000:]
    tried = re.search(r"(\d+) generated", done.stdout)
    assert tried is not None
    assert int(tried[1]) > 50
