"""Marks: times that charts show, of an account."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.testing import Client
from tests.commands import make_runner
from tests.conftest import Serve
from tests.plugins.accounts.factories import create_account, create_key, with_key
from tests.plugins.observability.conftest import QUIET
from tests.plugins.observability.engines import every_engine, one_engine
from tests.plugins.observability.events import ROOT

pytestmark = one_engine

MARKS = f"{ROOT}marks/"
HTML = {"Accept": "text/html"}


@every_engine
def test_a_mark_is_stored_changed_and_removed(client: Client) -> None:
    made = client.post(MARKS, {"title": "shop 1.5.0", "service": "shop", "time": "2025-12-14T12:00:00Z"})
    path = f"{MARKS}{made.json()['id']}/"
    changed = client.request("PATCH", path, json={"url": "https://example.org/1"})

    assert made.status == 201, made.content
    assert changed.json()["url"] == "https://example.org/1"
    assert client.get("/api/v1/requests/marks/?service=shop").json()["count"] == 1
    assert client.request("DELETE", path).status == 204
    assert client.get(MARKS).json()["count"] == 0


def test_a_mark_is_of_now_unless_it_says_when(client: Client) -> None:
    assert client.post(MARKS, {"title": "now"}).json()["time"] is not None


@pytest.mark.parametrize(
    "wrong", [{"url": "javascript:alert(1)"}, {"title": ""}, {"title": "x" * 201}, {"service": ""}]
)
def test_wrong_fields_are_named(client: Client, wrong: dict[str, str]) -> None:
    answer = client.post(MARKS, {"title": "a mark", **wrong})

    assert answer.status == 400
    assert list(answer.json()["errors"]) == list(wrong)


def test_marks_are_seen_by_their_account_and_by_who_may_see_their_service(serve: Serve) -> None:
    client = serve(auth="required", **QUIET)
    first, second = create_account(client), create_account(client)
    own, others = (create_key(client, "read", "write", account=account) for account in (first, second))
    limited = create_key(client, "read", "write", account=first, services=["till"])
    for key, title, service in ((own, "shop secret", "shop"), (limited, "till 2.0", "till")):
        sent = client.request("POST", MARKS, json={"title": title, "service": service}, headers=with_key(key))
        assert sent.status == 201, sent.content
    refused = client.request("POST", MARKS, json={"title": "x", "service": "shop"}, headers=with_key(limited))

    shown = {
        name: client.get("/requests/", headers={**HTML, **with_key(key)}).content.decode()
        for name, key in (("own", own), ("others", others), ("limited", limited))
    }

    assert refused.status == 400
    assert client.get(MARKS, headers=with_key(limited)).status == 403
    assert client.get(MARKS, headers=with_key(others)).json()["count"] == 0
    assert ("shop secret" in shown["own"], "till 2.0" in shown["own"]) == (True, True)
    assert ("shop secret" in shown["limited"], "till 2.0" in shown["limited"]) == (False, True)
    assert "secret" not in shown["others"]
    assert "till 2.0" not in shown["others"]


def test_people_add_marks_on_a_page(client: Client) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin", **HTML}
    body = b"title=shop+1.7.0&service=shop&time=&url=https%3A%2F%2Fexample.org%2F7"

    made = client.request("POST", "/requests/marks/new/", content=body, headers=form)
    listed = client.get("/requests/marks/", headers=HTML).content.decode()
    shown = client.get("/requests/", headers=HTML).content.decode()

    assert made.status == 303, made.content
    assert "shop 1.7.0" in listed
    assert "https://example.org/7" in shown


def test_the_mark_of_a_job_leads_to_its_run(client: Client) -> None:
    job = client.service.shared.jobs.run_inline("observability.retention", {}).id

    assert f'href="/system/jobs/{job}/"' in client.get("/requests/", headers=HTML).content.decode()


def test_a_command_makes_marks(
    client: Client,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = make_runner(database, tmp_path, monkeypatch, capsys)
    done = run("observability", "mark", "shop 1.6.0", "--service", "shop", TIERCEL_LOG__LEVEL="error")
    wrong = run("observability", "mark", "shop", "--url", "ftp://example.org", TIERCEL_LOG__LEVEL="error")

    assert done.code == 0, done
    assert wrong.code != 0
    assert [mark["title"] for mark in client.get(MARKS).json()["results"]] == ["shop 1.6.0"]
