"""Pages about the service: the start page, statistics, health and plugins."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from kernel.testing import Client
from tests.conftest import Serve
from tests.outage import outage
from tests.plugins.accounts.factories import create_key, with_key
from tests.plugins.system.test_job_pages import page, panels

SHORT_TIMEOUTS = {"pool_timeout_s": 0.2, "connect_timeout_s": 1}
BROKEN = '''
"""A plugin that fails, and says why in several lines, in which there is a secret and markup."""
from kernel import hookimpl


@hookimpl
def register_routes(services):
    raise RuntimeError("no <script>alert(1)</script>\\npassword=hunter2 \\u202e" + "x" * 3000 + "end")
'''


@pytest.fixture(scope="module")
def client(module_serve: Serve) -> Client:
    """A service with all plugins, which no test changes."""
    return module_serve()


@pytest.fixture
def broken(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A service with a plugin that is quarantined, and one that is disabled."""
    package = tmp_path / "acme_pages"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "broken.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    return serve(plugins=["system", "accounts", "club", "acme_pages.broken"], disabled=["club"])


def test_the_statistics_are_those_of_the_api(client: Client) -> None:
    stats = client.get("/stats/").json()

    shown = panels(page(client, "/system/stats/"))

    assert list(shown) == ["machine", "process", "service", "database", "jobs", "caches", "counters"]
    assert f"The process that answered: {stats['process']['pid']}," in shown["process"]
    assert stats["disk"]["path"] in shown["machine"]
    assert re.search(r'<rect class="fill" width="[\d.]+"', shown["machine"])
    assert re.search(r'Last update <time datetime="[^"]+">', shown["machine"])
    assert f"<dd>{stats['application']['routes']}</dd>" in shown["service"]
    assert stats["engine"]["version"] in shown["database"]
    assert all(name in shown["caches"] for name in stats["application"]["caches"])
    assert all(f"<h3>{name}</h3>" in shown["counters"] for name in stats["application"]["figures"])
    assert all('data-refresh-s="30"' in each for each in shown.values())


def test_without_the_database_the_pages_stand(serve: Serve, database: str) -> None:
    client = serve(db=SHORT_TIMEOUTS)
    page(client, "/system/stats/")

    with outage(database):
        stats, health, start = (page(client, path) for path in ("/system/stats/", "/system/health/", "/"))

    assert [name for name, text in panels(stats).items() if 'role="alert"' in text] == ["database", "jobs"]
    assert 'role="alert"' not in health + start
    assert re.search(r'<strong>database</strong></td><td><span class="badge bad">failed', health)
    assert "Requests cannot be served." in health
    assert "Requests cannot be served." in start
    assert "<strong>database</strong>: " in start


def test_health_shows_every_check_and_since_when(client: Client) -> None:
    checks = {each["name"]: each for each in client.get("/readyz?verbose").json()["checks"]}

    shown = panels(page(client, "/system/health/"))["checks"]
    again = {each["name"]: each for each in client.get("/readyz?verbose").json()["checks"]}

    assert all(f"<strong>{name}</strong>" in shown for name in checks)
    assert [each["since"] for each in again.values()] == [each["since"] for each in checks.values()]
    assert shown.count("<time datetime=") == len(checks) + 1
    # What needs attention comes first.
    states = re.findall(r'</strong></td><td><span class="badge \w+">(\w+)<', shown)
    assert states == sorted(states, key=["failed", "degraded", "ok"].index)


def test_since_when_changes_with_the_state(serve: Serve, database: str) -> None:
    client = serve(plugins=["system"], db=SHORT_TIMEOUTS)

    def read() -> dict[str, str]:
        return next(each for each in client.get("/readyz?verbose").json()["checks"] if each["name"] == "database")

    before = read()
    with outage(database):
        failed, later = read(), read()

    assert (before["status"], failed["status"]) == ("ok", "failed")
    assert before["since"] < failed["since"] == later["since"]


def test_plugins_are_shown_with_what_they_contribute(broken: Client) -> None:
    shown = page(broken, "/system/plugins/")
    rows = re.findall(r"<tr><td><strong>(\w+)</strong>.*?</tr>", shown, re.DOTALL)
    accounts = next(each for each in broken.get("/stats/").json()["plugins"] if each["name"] == "accounts")

    assert rows == ["system", "accounts", "club", "broken"]
    assert re.findall(r'class="badge \w*">(loaded|disabled|quarantined)<', shown) == [
        "loaded",
        "loaded",
        "disabled",
        "quarantined",
    ]
    assert "register_routes" in accounts["hooks"]
    assert accounts["contributions"]["routes"] > 10
    assert f'<td class="number">{accounts["contributions"]["routes"]}<' in shown
    assert re.findall(r">(\d+)<span class=\"only-narrow\"> (hooks?)<", shown)[-1] == ("1", "hook")
    # The whole reason, without what is secret in it.
    assert "no &lt;script&gt;alert(1)&lt;/script&gt;\npassword=*** \\u202e" in shown
    assert "xend" in shown
    assert "hunter2" not in shown
    assert "quarantined" in page(broken, "/")


def test_who_sees_what(serve: Serve) -> None:
    client = serve(auth="required")
    reader, staff = (with_key(create_key(client, *scopes)) for scopes in (("read",), ("read", "staff")))
    start_job = "/system/jobs/?all_accounts=1"

    for path in ("/system/stats/", "/system/plugins/"):
        assert client.get(path).status == 401
        assert page(client, path, reader, status=403)
        assert page(client, path, staff)
    assert page(client, "/system/health/")
    start = [page(client, "/", headers) for headers in ({}, reader, staff)]
    assert [start_job in each for each in start] == [False, False, True]
    assert ['href="/system/stats/"' in each for each in start] == [False, False, True]
    assert ["Version" in each for each in start] == [False, True, True]


def test_the_start_page_leads_to_every_page_and_resource(client: Client) -> None:
    shown = page(client, "/")
    resources = client.get("/api/").json()["resources"]

    main = shown.partition('id="content"')[2]
    assert all(f'href="{each}"' in main for each in ("/requests/", "/system/jobs/", "/system/health/", "/api/docs"))
    assert all(f'href="{urlsplit(each["url"]).path}"' in main for each in resources.values())
    assert len(re.findall(r"<li><a [^>]*>[^<]*</a> <code", main)) == len(resources)
    # Programs get what they got before.
    assert client.get("/").json() == client.get("/api/").json()
