"""The client's key is one of the service's: it opens what it may, and what it may not pauses the delivery."""

from __future__ import annotations

from kernel.testing import Client
from tests.conftest import Serve
from tests.contrib.client.conftest import FAST
from tests.contrib.client.front import Front
from tests.plugins.accounts.factories import create_account, create_key, create_site
from tests.processes import eventually
from tiercel_client import Counters, Reporter


def report(front: Front, key: str, endpoint: str, site: str = "") -> Counters:
    """Report a request with a key; return what has become of it after an attempt."""
    reporter = Reporter(front.url, key, "shop", site=site, **FAST)
    reporter.report(endpoint=endpoint, method="GET", status_code=200, latency_ms=1)
    assert eventually(lambda: bool(reporter.counters().stored or reporter.counters().failures))
    reporter.close(0)
    return reporter.counters()


def endpoints_of(client: Client, key: str) -> set[str]:
    """Return the endpoints of the events that a key sees."""
    answer = client.get("/api/requests/?service=shop", headers={"X-API-Key": key})
    return {event["endpoint"] for event in answer.json()["results"]}


def test_a_key_sends_what_it_may(module_serve: Serve) -> None:
    service = module_serve(auth="required", observability={"log_own_requests": False})
    account = create_account(service)
    site = create_site(service, account)
    sender = create_key(service, "ingest", account=account).secret
    reader = create_key(service, "read", account=account).secret

    with Front(service).serving() as front:
        found = [
            report(front, sender, "/account"),
            report(front, sender, "/site", site=str(site)),
            report(front, reader, "/forbidden"),
            report(front, "tk_nobody", "/wrong"),
        ]

    assert [counters.stored for counters in found] == [1, 1, 0, 0]
    assert [list(counters.failures) for counters in found[2:]] == [["403 forbidden"], ["401 unauthorized"]]
    assert endpoints_of(service, reader) == {"/account", "/site"}
    of_site = create_key(service, "read", account=account, site=site).secret
    assert endpoints_of(service, of_site) == {"/site"}
