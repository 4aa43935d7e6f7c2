"""Pages of jobs: they show what the API says, to whom it says it, and start and cancel what it would."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest
from psycopg.types.json import Jsonb

from kernel.testing import Client, Result
from tests.conftest import Serve
from tests.outage import outage
from tests.plugins.accounts.factories import create_account, create_key, with_key
from tests.plugins.system.test_jobs import start
from tests.processes import eventually
from tests.workers import SAMPLE

JOBS = "/system/jobs/"
HTML = {"Accept": "text/html"}
FORM = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
PLUGINS = ["system", SAMPLE]
# Markup, a text that turns the direction of writing round, a control character, and no place to break the line.
HOSTILE = "<script>alert(1)</script>\"'&\u202egnp.exe\x1b[2J" + "x" * 10_000


@pytest.fixture(scope="module")
def client(module_serve: Serve) -> Client:
    """A service without a worker, which tests share."""
    return module_serve(plugins=PLUGINS)


@pytest.fixture
def own_client(serve: Serve) -> Client:
    """As ``client``, for a test that needs pages without the jobs of others."""
    return serve(plugins=PLUGINS)


def page(client: Client, path: str, headers: dict[str, str] | None = None, status: int = 200) -> str:
    """Return a page."""
    answer = client.get(path, headers={**HTML, **(headers or {})})
    assert answer.status == status, answer.content
    assert answer.headers["content-type"].startswith("text/html")
    return answer.content.decode()


def panels(text: str) -> dict[str, str]:
    """Return the panels of a page by name."""
    found = re.findall(r'<section class="panel"[^>]* data-panel="(\w+)".*?</section>', text, re.DOTALL)
    return dict(
        zip(found, re.findall(r'<section class="panel"[^>]* data-panel=.*?</section>', text, re.DOTALL), strict=True)
    )


def send(client: Client, path: str, headers: dict[str, str] | None = None, **fields: Any) -> Result:
    """Send a form of a page."""
    content = urlencode(fields, doseq=True).encode()
    return client.post(path, content=content, headers={**HTML, **FORM, **(headers or {})})


def started(client: Client, label: str, **parameters: Any) -> int:
    """Start a job over REST; return its id."""
    answer = start(client, "sample.add", **{"numbers": [1], "label": label, **parameters})
    assert answer.status == 202, answer.content
    return int(answer.json()["data"]["id"])


def test_a_service_without_jobs_says_so(own_client: Client) -> None:
    shown = panels(page(own_client, JOBS))

    assert ["Nothing runs" in shown["running"], "Nothing waits" in shown["waiting"]] == [True, True]
    assert "No run matches" in shown["runs"]


def test_what_runs_waits_and_has_run_is_shown(own_client: Client, database: str) -> None:
    jobs = own_client.service.shared.jobs
    jobs.run_inline("sample.add", {"numbers": []})
    waiting, running = started(own_client, "a"), started(own_client, "b")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "UPDATE tiercel.job_run SET state = 'running', attempt = 1, started_at = now() - interval '90 s'"
            " WHERE id = %s",
            [running],
        )
        connection.execute(
            "INSERT INTO tiercel.job_progress (job_id, attempt, done, total, message) VALUES (%s, 1, 1, 4, 'here')",
            [running],
        )

    shown = panels(page(own_client, JOBS))

    assert f'href="{JOBS}{running}/"' in shown["running"]
    assert 'aria-label="25 % done"' in shown["running"]
    assert '<rect class="fill" width="25.0"' in shown["running"]
    assert re.search(r"1 min 3\d s", shown["running"])
    assert "here" in shown["running"]
    assert "everybody" in shown["running"]
    assert f'href="{JOBS}{waiting}/"' in shown["waiting"]
    assert f"{JOBS}{running}/cancel/" in shown["running"]
    assert shown["runs"].count("<tr>") == 1 + 3


def test_runs_are_filtered_as_over_the_api(own_client: Client, database: str) -> None:
    jobs = own_client.service.shared.jobs
    ids = [
        jobs.run_inline(name, {"numbers": []} if name == "sample.add" else None).id
        for name in ("sample.add", "sample.fail")
    ]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "UPDATE tiercel.job_run SET created_at = now() - interval '2 days', is_scheduled = true WHERE id = %s",
            [ids[0]],
        )
    yesterday = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%dT%H:%M}"
    expected = {
        # Routine is left out unless it is asked for, in one way or another.
        "": [ids[1]],
        "?with_routine=1": [ids[1], ids[0]],
        "?name=sample.add": [ids[0]],
        "?state=succeeded": [ids[0]],
        f"?with_routine=1&start={yesterday}": [ids[1]],
        f"?with_routine=1&end={yesterday}&name=&search=": [ids[0]],
        "?search=nothing+works": [ids[1]],
        "?account=7": [],
    }

    found = {}
    for query in expected:
        text = panels(page(own_client, JOBS + query))["runs"]
        found[query] = [int(each) for each in re.findall(rf'href="{JOBS}(\d+)/"', text)]

    assert found == expected
    assert [run["id"] for run in own_client.get(f"/api/v1/jobs/?end={yesterday}").json()["data"]["results"]] == [ids[0]]
    assert "with_routine=1" in panels(page(own_client, JOBS))["runs"]


def test_pages_of_runs_keep_the_filters(own_client: Client) -> None:
    for label in "abc":
        started(own_client, label)

    first = panels(page(own_client, f"{JOBS}?page_size=2&state=waiting"))["runs"]
    [following] = [html.unescape(each) for each in re.findall(r'rel="next" href="([^"]*)"', first)]
    second = panels(page(own_client, following))["runs"]

    assert (first.count("<tr>"), second.count("<tr>")) == (1 + 2, 1 + 1)
    assert "state=waiting" in following


def test_a_run_has_its_outcome_and_its_log(client: Client) -> None:
    run = client.service.shared.jobs.run_inline("sample.add", {"numbers": [1, 2], "scale": 2, "label": "shown"})

    text = page(client, f"{JOBS}{run.id}/")
    shown = panels(text)

    assert "succeeded" in shown["run"]
    assert "<code>6.0</code>" in shown["run"]
    assert "&#34;label&#34;: &#34;shown&#34;" in shown["run"]
    assert "<bdi>added</bdi>" in shown["log"]
    # Nothing changes any more: no events, and no refreshing.
    assert "data-job-events" not in text
    assert "data-refresh-s" not in text
    assert "cancel/" not in shown["run"]


def test_a_run_that_is_not_finished_is_followed(client: Client) -> None:
    job_id = started(client, "followed")

    text = page(client, f"{JOBS}{job_id}/")

    assert f'data-job-events="/api/v1/jobs/{job_id}/events/"' in text
    assert '<noscript><meta http-equiv="refresh"' in text
    assert text.count("data-refresh-s") == 2


def test_the_log_can_be_taken_whole_and_goes_on_after_a_line(client: Client, module_database: str) -> None:
    run = client.service.shared.jobs.run_inline("sample.fail")
    with psycopg.connect(module_database, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO tiercel.job_log (job_id, attempt, level, event, fields)"
            " SELECT %s, 1, 'info', 'line', jsonb_build_object('number', number)"
            " FROM generate_series(1, 1200) AS number",
            [run.id],
        )

    shown = panels(page(client, f"{JOBS}{run.id}/"))["log"]
    lines = [int(each) for each in re.findall(r'data-line="(\d+)"', shown)]
    downloaded = client.get(f"/api/v1/jobs/{run.id}/log/")
    after = page(client, f"{JOBS}{run.id}/?log={lines[-3]}", {"X-Panel": "log"})

    # The last ones are of interest.
    assert (len(lines), "the whole log" in shown) == (500, True)
    assert "<bdi>number</bdi>=</span><bdi>1200</bdi>" in shown
    assert re.findall(r'data-line="(\d+)"', after) == [str(each) for each in lines[-2:]]
    assert downloaded.headers["content-disposition"] == f'attachment; filename="job-{run.id}-sample.fail.log"'
    text = downloaded.content.decode().splitlines()
    assert len(text) == 1202
    assert re.fullmatch(r"[\dT:.-]+Z warning attempt=1 about to fail", text[0])
    assert text[-1].endswith('info attempt=1 line {"number":1200}')


def test_hostile_texts_are_harmless(client: Client, module_database: str) -> None:
    job_id = started(client, "hostile")
    with psycopg.connect(module_database, autocommit=True) as connection:
        connection.execute(
            "UPDATE tiercel.job_run SET state = 'failed', attempt = 1, finished_at = now(), started_at = now(),"
            " error = %(text)s, parameters = %(json)s, result = %(json)s, lock = %(text)s, request_id = 'x',"
            " started_by = %(by)s WHERE id = %(id)s",
            {"text": HOSTILE[:5000], "json": Jsonb({"k": HOSTILE}), "by": Jsonb({"name": HOSTILE}), "id": job_id},
        )
        connection.execute(
            "INSERT INTO tiercel.job_log (job_id, attempt, level, event, fields) VALUES (%s, 1, 'error', %s, %s)",
            [job_id, HOSTILE, Jsonb({"field": HOSTILE, "several": f"lines\n{HOSTILE}", "token": "secret"})],
        )

    for path in (
        f"{JOBS}{job_id}/",
        f"{JOBS}?state=failed",
        f"{JOBS}start/sample.add/?run={job_id}",
        "/system/schedules/?unscheduled=1",
    ):
        shown = page(client, path)
        assert not re.search("<script>alert|\u202e|\x1b", shown), path
    shown = page(client, f"{JOBS}{job_id}/")
    assert "&lt;script&gt;alert(1)" in shown
    assert "\\u202egnp.exe\\x1b[2J" in shown
    assert "secret" not in shown
    assert "\u202e" not in client.get(f"/api/v1/jobs/{job_id}/log/").content.decode()


def test_parameters_are_masked(client: Client, module_database: str) -> None:
    job_id = started(client, "masked")
    with psycopg.connect(module_database, autocommit=True) as connection:
        parameters = Jsonb({"api_key": "hunter2", "numbers": [7], "label": "https://me:hunter2@shop.example/"})
        connection.execute("UPDATE tiercel.job_run SET parameters = %s WHERE id = %s", [parameters, job_id])

    shown, form = page(client, f"{JOBS}{job_id}/"), page(client, f"{JOBS}start/sample.add/?run={job_id}")

    assert "hunter2" not in shown + form
    assert "***" in shown
    # What is no secret is entered.
    assert re.search(r"<textarea[^>]*name=\"numbers\"[^>]*>\s*7</textarea>", form)


def test_a_form_starts_a_job(client: Client) -> None:
    form = page(client, f"{JOBS}start/sample.add/")
    answer = send(client, f"{JOBS}start/sample.add/", numbers="1\n2", scale="2.5", label="by form")

    assert re.findall(r'id="form-(\w+)" name=', form) == ["numbers", "scale", "label"]
    assert (answer.status, "set-cookie" in answer.headers) == (303, True)
    found = client.get(answer.headers["location"].replace("/system/", "/api/v1/")).json()["data"]
    assert (found["name"], found["state"]) == ("sample.add", "waiting")
    assert found["parameters"] == {"numbers": [1, 2], "scale": 2.5, "label": "by form"}
    # The same once more is the run that waits.
    again = send(client, f"{JOBS}start/sample.add/", numbers="1\n2", scale="2.5", label="by form")
    assert (again.status, again.headers["location"]) == (303, answer.headers["location"])


def test_what_is_wrong_is_said_at_the_fields(client: Client) -> None:
    wrong = send(client, f"{JOBS}start/sample.add/", numbers="one", scale="big", label="x" * 100_000)
    long = send(client, f"{JOBS}start/sample.add/", numbers="1", scale="1", label="x" * 10_000)
    started(client, "conflict")
    conflict = send(client, f"{JOBS}start/sample.add/", numbers="2", scale="1", label="conflict")

    assert [each.status for each in (wrong, long, conflict)] == [400, 400, 409]
    assert re.findall(r'id="form-(\w+)-error"', wrong.content.decode()) == ["numbers", "scale"]
    assert re.findall(r'id="form-(\w+)-error"', long.content.decode()) == ["label"]
    assert 'role="alert"' in conflict.content.decode()
    assert page(client, f"{JOBS}start/nothing/", status=404)


def test_a_run_is_started_again_with_its_parameters(client: Client) -> None:
    run = client.service.shared.jobs.run_inline("sample.add", {"numbers": [5], "label": "again"})
    assert f'action="{JOBS}{run.id}/again/"' in page(client, f"{JOBS}{run.id}/")

    answer = send(client, f"{JOBS}{run.id}/again/")

    found = client.get(answer.headers["location"].replace("/system/", "/api/v1/")).json()["data"]
    assert (answer.status, found["id"] > run.id, found["parameters"]) == (303, True, run.parameters)


def test_runs_are_cancelled(client: Client, module_database: str) -> None:
    waiting, running = started(client, "cancel waiting"), started(client, "cancel running")
    with psycopg.connect(module_database, autocommit=True) as connection:
        connection.execute("UPDATE tiercel.job_run SET state = 'running', attempt = 1 WHERE id = %s", [running])

    answers = [send(client, f"{JOBS}{each}/cancel/") for each in (waiting, running, waiting)]

    assert [each.status for each in answers] == [303, 303, 303]
    assert len({each.headers["set-cookie"] for each in answers}) == 3
    shown = [panels(page(client, f"{JOBS}{each}/"))["run"] for each in (waiting, running)]
    assert "cancelled" in shown[0]
    assert "asked to stop" in shown[1]
    # It is asked once.
    assert "cancel/" not in shown[1]


def test_pages_of_others_change_nothing(client: Client) -> None:
    job_id = started(client, "foreign")

    answers = [
        send(client, path, {"Sec-Fetch-Site": "cross-site"})
        for path in (f"{JOBS}{job_id}/cancel/", f"{JOBS}{job_id}/again/", f"{JOBS}start/sample.fail/")
    ]

    assert [each.status for each in answers] == [403, 403, 403]
    assert client.get(f"/api/v1/jobs/{job_id}/").json()["data"]["state"] == "waiting"


def test_who_may_see_start_and_cancel(serve: Serve) -> None:
    client = serve(plugins=["system", "accounts", "club", "tests.owned"], auth="required")
    account, other = create_account(client), create_account(client)
    writer, viewer, stranger = (
        with_key(create_key(client, *scopes, account=of))
        for scopes, of in ((("read", "write"), account), (("read",), account), (("read", "write"), other))
    )
    staff = with_key(create_key(client, "read", "write", "staff"))
    location = send(client, f"{JOBS}start/owned.who/", writer).headers["location"]

    assert client.get(JOBS).status == 401
    assert location in page(client, JOBS, viewer)
    assert [f"{location}cancel/" in page(client, location, each) for each in (writer, viewer)] == [True, False]
    assert "Start a job" not in page(client, JOBS, viewer)
    # Neither a reader nor another account.
    assert send(client, f"{location}cancel/", viewer).status == 403
    assert send(client, f"{JOBS}start/owned.who/", viewer).status == 403
    assert location not in page(client, JOBS, stranger)
    assert page(client, location, stranger, status=404)
    assert [send(client, f"{location}{each}/", stranger).status for each in ("cancel", "again")] == [404, 404]
    # The service's own jobs are for staff.
    assert send(client, f"{JOBS}start/club.refresh/", writer).status == 403
    assert page(client, f"{JOBS}start/club.refresh/", writer, status=403)
    assert "club.refresh" not in page(client, JOBS, writer) + page(client, "/system/schedules/?unscheduled=1", writer)
    assert send(client, f"{JOBS}start/club.refresh/", staff).status == 303
    # Staff see other accounts where they ask for them, and act for them elsewhere.
    assert location not in page(client, JOBS, staff)
    assert f"{location}?all_accounts=1" in page(client, f"{JOBS}?all_accounts=1&account={account}", staff)
    assert page(client, location, staff, status=404)
    seen = page(client, f"{location}?all_accounts=1", staff)
    assert "run of another account" in seen
    assert "cancel/" not in seen
    assert client.get(f"{location}?all_accounts=1".replace("/system/", "/api/v1/"), headers=staff).status == 200
    run, events = location.replace("/system/", "/api/v1/"), "events/"
    for path in (JOBS, location, "/api/v1/jobs/", run, f"{run}log/", f"{run}{events}"):
        assert client.get(f"{path}?all_accounts=1", headers=stranger).status in {200, 403}, path


def test_schedules_show_when_they_start_jobs_next(own_client: Client, database: str) -> None:
    own_client.service.shared.jobs.run_inline("sample.fail")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO tiercel.job_schedule (name, schedule, last_due)"
            " VALUES ('sample.fail', '30 4 * * *', now() - interval '9 days')"
        )

    shown = page(own_client, "/system/schedules/")
    [catalogued] = [
        each for each in own_client.get("/api/v1/jobs/catalog/").json()["data"]["results"] if each["schedule"]
    ]
    times = re.findall(r'<time datetime="([^"]*)"', panels(shown)["schedules"])

    assert [each[11:16] for each in times[:3]] == ["04:30"] * 3
    assert datetime.fromisoformat(times[0]) == datetime.fromisoformat(catalogued["next_due"])
    assert datetime.fromisoformat(times[2]) - datetime.fromisoformat(times[0]) == timedelta(days=2)
    assert (catalogued["is_late"], "overdue" in shown) == (True, True)
    assert "nothing works" in shown
    # Others only if they are asked for.
    assert ["sample.add" in page(own_client, f"/system/schedules/{query}") for query in ("", "?unscheduled=1")] == [
        False,
        True,
    ]


def test_without_the_database_panels_say_so(serve: Serve, database: str) -> None:
    client = serve(plugins=PLUGINS, db={"pool_timeout_s": 0.2, "connect_timeout_s": 1})
    job_id = started(client, "a")

    with outage(database):
        found = {path: page(client, path) for path in (JOBS, f"{JOBS}{job_id}/", "/system/schedules/")}

    assert [text.count('role="alert"') for text in found.values()] == [3, 2, 1]
    assert all("data-panel-retry" in text for text in found.values())
    assert eventually(lambda: 'role="alert"' not in page(client, f"{JOBS}{job_id}/"))
