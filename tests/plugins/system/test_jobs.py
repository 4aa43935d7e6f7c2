"""``/api/v1/jobs/``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from kernel.testing import Client, Result
from tests.conftest import Serve
from tests.outage import outage
from tests.workers import SAMPLE

JOBS = "/api/v1/jobs/"
PLUGINS = ["system", SAMPLE]
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


class FixedClock:
    """A fake clock that returns a fixed time."""

    def now(self) -> datetime:
        """Return it."""
        return NOW


@pytest.fixture(scope="module")
def client(module_serve: Serve) -> Client:
    """A service without a worker. Tests share it, and start jobs under labels of their own."""
    return module_serve(plugins=PLUGINS, clock=FixedClock())


@pytest.fixture
def own_client(serve: Serve) -> Client:
    """As ``client``, for a test that needs a list without the jobs of others."""
    return serve(plugins=PLUGINS, clock=FixedClock())


def start(client: Client, name: str, **parameters: Any) -> Result:
    """Start a job over REST."""
    return client.post(JOBS, json={"name": name, "parameters": parameters})


def started(client: Client, label: str) -> int:
    """Start a job that must be new; return its id."""
    answer = start(client, "sample.add", numbers=[1], label=label)
    assert answer.status == 202, answer.content
    return int(answer.json()["data"]["id"])


def data_of(client: Client, path: str = "") -> Any:
    """Return the data of an answer that must be a success."""
    answer = client.get(JOBS + path)
    assert answer.status == 200, answer.content
    return answer.json()["data"]


def ids(page: Any) -> list[int]:
    """Return the ids on a page."""
    return [each["id"] for each in page["results"]]


def linked(client: Client, url: str) -> Any:
    """Return the page that a link leads to."""
    return data_of(client, url.partition(JOBS)[2])


def test_a_start_answers_202_with_the_location_of_the_job(client: Client) -> None:
    answer = start(client, "sample.add", numbers=[1, 2], label="located")

    data = answer.json()["data"]
    assert (answer.status, answer.headers["location"]) == (202, f"{JOBS}{data['id']}/")
    assert client.get(answer.headers["location"]).json()["data"]["parameters"] == data["parameters"]
    assert (data["state"], data["parameters"]) == ("waiting", {"numbers": [1, 2], "scale": 1.0, "label": "located"})


def test_starting_a_job_that_already_waits_answers_200(client: Client) -> None:
    body = {"name": "sample.add", "parameters": {"numbers": [1], "label": "repeated"}}

    # A client that tries again may well send the same id of the request.
    answer, again = (client.post(JOBS, json=body, headers={"X-Request-ID": "same"}) for _ in range(2))

    first = answer.json()["data"]["id"]
    assert (again.status, again.json()["data"]["id"], again.headers["location"]) == (200, first, f"{JOBS}{first}/")


def test_starting_a_job_that_waits_with_other_parameters_is_a_conflict(client: Client) -> None:
    first = started(client, "conflict")

    answer = start(client, "sample.add", numbers=[2], label="conflict")

    assert (answer.status, str(first) in answer.json()["error"]) == (409, True)


def test_the_job_carries_the_id_of_the_request_that_started_it(client: Client) -> None:
    body = {"name": "sample.add", "parameters": {"numbers": [], "label": "request id"}}

    data = client.post(JOBS, json=body, headers={"X-Request-ID": "from-here"}).json()["data"]

    assert data["request_id"] == "from-here"


def test_all_invalid_parameters_are_named_and_nothing_is_started(client: Client) -> None:
    before = ids(data_of(client))

    answer = start(client, "sample.add", numbers="1", scale="big", colour="red")

    assert (answer.status, sorted(answer.json()["errors"])) == (400, ["colour", "numbers", "scale"])
    assert ids(data_of(client)) == before


def test_a_parameter_that_makes_the_lock_too_long_is_named(client: Client) -> None:
    answer = start(client, "sample.add", numbers=[1], label="x" * 100_000)

    assert (answer.status, list(answer.json()["errors"])) == (400, ["label"])


def test_an_unknown_job_is_a_404_that_lists_the_known_ones(client: Client) -> None:
    answer = start(client, "sample.nothing")

    assert (answer.status, answer.json()["error"]) == (404, "Unknown job 'sample.nothing'.")
    assert answer.json()["available_jobs"] == ["sample.add", "sample.fail", "sample.walk"]


@pytest.mark.parametrize("body", [{}, {"name": 7}, {"name": "sample.fail", "parameter": {}}, {"name": "a\x00b"}])
def test_an_invalid_body_is_a_client_error(client: Client, body: dict[str, Any]) -> None:
    assert client.post(JOBS, json=body).status in {400, 404}


def test_a_null_character_in_a_parameter_of_the_lock_is_harmless(client: Client) -> None:
    assert start(client, "sample.add", numbers=[1], label="a\x00b").status == 202


def test_one_job_is_shown_with_result_and_log(client: Client) -> None:
    job_id = client.service.shared.jobs.run_inline("sample.add", {"numbers": [1, 2], "scale": 2}, request_id="r").id

    data = data_of(client, f"{job_id}/")

    assert (data["state"], data["result"], data["request_id"]) == ("succeeded", 6.0, "r")
    assert data["progress"] == {"done": 2.0, "total": 2.0, "message": "number 2"}
    assert [(line["event"], line["fields"]) for line in data["log"]] == [("added", {"numbers": 2, "label": ""})]


def test_the_log_can_begin_after_a_line(client: Client) -> None:
    job_id = client.service.shared.jobs.run_inline("sample.fail").id
    first, second = data_of(client, f"{job_id}/")["log"]

    assert data_of(client, f"{job_id}/?log={first['id']}")["log"] == [second]
    assert data_of(client, f"{job_id}/?log={second['id']}")["log"] == []


@pytest.mark.parametrize("path", ["99/", "soon/", "0/", "99999999999999999999/", "99/events/", "99/cancel/"])
def test_an_unknown_job_id_is_a_404(client: Client, path: str) -> None:
    method = "POST" if path.endswith("cancel/") else "GET"

    assert client.request(method, JOBS + path).status == 404


def test_jobs_are_listed_newest_first(own_client: Client) -> None:
    made = [started(own_client, label) for label in "abc"]

    page = data_of(own_client)

    assert (ids(page), page["next"], page["previous"]) == (made[::-1], None, None)


def test_pages_link_forwards_and_backwards(own_client: Client) -> None:
    made = [started(own_client, label) for label in "abcde"][::-1]

    first = data_of(own_client, "?page_size=2")
    second = linked(own_client, first["next"])
    third = linked(own_client, second["next"])

    assert [ids(first), ids(second), ids(third)] == [made[:2], made[2:4], made[4:]]
    assert (first["previous"], third["next"]) == (None, None)
    back = linked(own_client, third["previous"])
    assert (ids(back), ids(linked(own_client, back["previous"])), linked(own_client, back["previous"])["previous"]) == (
        made[2:4],
        made[:2],
        None,
    )


def test_pages_of_large_jobs_are_shorter(own_client: Client) -> None:
    numbers = [10**17] * 19_000  # 361,000 bytes
    made = [
        start(own_client, "sample.add", numbers=numbers, label=each).json()["data"]["id"] for each in "abcdefghijklm"
    ]
    made.reverse()

    page, pages = data_of(own_client, "?page_size=1000"), []
    while True:
        pages.append(ids(page))
        if page["next"] is None:
            break
        page = linked(own_client, page["next"])
    backwards = ids(linked(own_client, page["previous"]))

    assert pages == [made[:11], made[11:]]
    assert backwards == made[:11]


def test_a_job_larger_than_a_page_is_on_one_of_its_own(own_client: Client, database: str) -> None:
    made = [started(own_client, label) for label in "abc"][::-1]
    with psycopg.connect(database, autocommit=True) as connection:
        result = Jsonb("x" * 5_000_000)
        connection.execute("UPDATE tiercel.job_run SET result = %s WHERE id = %s", [result, made[1]])

    first = data_of(own_client)
    second = linked(own_client, first["next"])
    third = linked(own_client, second["next"])

    assert [ids(first), ids(second), ids(third)] == [made[:1], made[1:2], made[2:]]
    assert third["next"] is None


def test_a_new_job_does_not_shift_the_next_page(own_client: Client) -> None:
    made = [started(own_client, label) for label in "abc"][::-1]
    first = data_of(own_client, "?page_size=2")

    started(own_client, "d")

    assert ids(linked(own_client, first["next"])) == made[2:]


def test_the_list_can_be_filtered(own_client: Client) -> None:
    own_client.service.shared.jobs.run_inline("sample.add", {"numbers": []})
    own_client.service.shared.jobs.run_inline("sample.fail")
    expected = {
        "?name=sample.fail": ["sample.fail"],
        "?state=succeeded": ["sample.add"],
        "?state=failed&name=sample.fail": ["sample.fail"],
        "?state=failed&name=sample.add": [],
        "?name=nothing": [],
        "?search=FAIL": ["sample.fail"],
        "?search=numbers": ["sample.add"],
        "?search=%25": [],
        "?search=&ordering=": ["sample.fail", "sample.add"],
        "?ordering=name": ["sample.add", "sample.fail"],
        "?ordering=-state": ["sample.add", "sample.fail"],
        "?ordering=finished_at": ["sample.add", "sample.fail"],
    }

    found = {query: [each["name"] for each in data_of(own_client, query)["results"]] for query in expected}

    assert found == expected


def test_searches_and_orders_are_of_the_latest_runs_of_those_that_match(own_client: Client, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO tiercel.job_run (name, state, parameters, lock, finished_at)"
            " SELECT CASE WHEN number = 1 THEN 'oldest' ELSE 'later' END, 'succeeded', '{}', 'x', now()"
            " FROM generate_series(1, 10001) AS number"
        )

    assert [data_of(own_client, query)["results"] for query in ("?search=oldest", "?name=later&search=oldest")] == [
        [],
        [],
    ]
    assert data_of(own_client, "?ordering=-name&page_size=1")["results"][0]["name"] == "later"
    for query in ("?search=oldest&name=oldest", "?ordering=-name&name=oldest", "?ordering=id&page_size=1"):
        assert [each["name"] for each in data_of(own_client, query)["results"]] == ["oldest"]


def test_what_is_too_long_is_not_searched(own_client: Client, database: str) -> None:
    short, long = (started(own_client, label) for label in ("needle", "another"))
    with psycopg.connect(database, autocommit=True) as connection:
        numbers = Jsonb({"label": "needle", "text": [f"{number:x}" for number in range(2000)]})
        connection.execute("UPDATE tiercel.job_run SET parameters = %s WHERE id = %s", [numbers, long])

    assert ids(data_of(own_client, "?search=needle")) == [short]


@pytest.mark.parametrize("ordering", ["name", "-name", "state", "-created_at", "started_at", "-finished_at"])
def test_every_ordering_can_be_paged_in_both_directions(own_client: Client, ordering: str) -> None:
    jobs = own_client.service.shared.jobs
    for _ in range(2):
        jobs.run_inline("sample.fail")
        jobs.run_inline("sample.add", {"numbers": []})
    started(own_client, "waits")
    whole = ids(data_of(own_client, f"?ordering={ordering}"))
    field = ordering.removeprefix("-")

    page, forwards = data_of(own_client, f"?ordering={ordering}&page_size=2"), []
    while True:
        forwards += ids(page)
        if page["next"] is None:
            break
        page = linked(own_client, page["next"])
    backwards = ids(page)
    while page["previous"] is not None:
        page = linked(own_client, page["previous"])
        backwards = ids(page) + backwards

    keys = {each["id"]: (each[field] or "9999", each["id"]) for each in data_of(own_client)["results"]}
    assert whole == sorted(keys, key=keys.__getitem__, reverse=ordering.startswith("-"))
    assert (forwards, backwards) == (whole, whole)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("?state=asleep", "state"),
        ("?page_size=0", "page_size"),
        ("?page_size=1001", "page_size"),
        ("?cursor=none", "cursor"),
        ("?cursor=WyJpZCIsWzFdXQ", "cursor"),
        ("?cursor=WyItaWQiLFsieCJdXQ", "cursor"),
        ("?page=2", "page"),
        ("?name=%00", "name"),
        ("?search=%00", "search"),
        ("?ordering=lock", "ordering"),
    ],
)
def test_an_invalid_parameter_of_the_list_is_named(client: Client, query: str, named: str) -> None:
    answer = client.get(JOBS + query)

    assert (answer.status, list(answer.json()["errors"])) == (400, [named])


def test_a_waiting_job_is_cancelled_at_once(client: Client) -> None:
    job_id = started(client, "cancelled")

    answer = client.post(f"{JOBS}{job_id}/cancel/")

    assert (answer.status, answer.json()["data"]["state"]) == (200, "cancelled")


def test_a_finished_job_cannot_be_cancelled(client: Client) -> None:
    job_id = client.service.shared.jobs.run_inline("sample.add", {"numbers": []}).id

    answer = client.post(f"{JOBS}{job_id}/cancel/")

    assert (answer.status, "succeeded" in answer.json()["error"]) == (409, True)


def test_the_catalog_lists_jobs_with_schedule_and_last_run(client: Client) -> None:
    client.service.shared.jobs.run_inline("sample.fail")

    found = {each["name"]: each for each in data_of(client, "catalog/")["results"]}

    assert list(found) == ["sample.add", "sample.fail", "sample.walk"]
    scheduled, on_demand = found["sample.fail"], found["sample.walk"]
    assert (scheduled["schedule"], scheduled["plugin"]) == ("30 4 * * *", "sample_jobs")
    assert datetime.fromisoformat(scheduled["next_due"]) == datetime(2026, 11, 22, 4, 30, tzinfo=UTC)
    assert (scheduled["last_run"]["state"], scheduled["parameters"]) == ("failed", None)
    assert [on_demand[name] for name in ("schedule", "next_due", "last_run")] == [None, None, None]
    assert (on_demand["lock"], on_demand["timeout_s"], on_demand["retries"]) == ("sample.walk-{folder}", 120, 0)


def test_the_catalog_is_a_list_like_others(client: Client) -> None:
    expected = {
        "?search=walk": ["sample.walk"],
        "?name=sample.add&plugin=sample_jobs": ["sample.add"],
        "?plugin=other": [],
        "?ordering=-name&page_size=2": ["sample.walk", "sample.fail"],
    }

    found = {query: data_of(client, f"catalog/{query}")["results"] for query in expected}

    assert {query: [each["name"] for each in results] for query, results in found.items()} == expected


def test_the_catalog_has_the_json_schema_of_parameters(client: Client) -> None:
    (schema,) = [each["parameters"] for each in data_of(client, "catalog/")["results"] if each["name"] == "sample.add"]

    definition = schema["$defs"]["Sum"]
    assert (definition["required"], definition["properties"]["scale"]) == (
        ["numbers"],
        {"type": "number", "default": 1.0},
    )


def test_the_catalog_shows_the_schedule_of_the_configuration(serve: Serve) -> None:
    client = serve(plugins=PLUGINS, clock=FixedClock(), jobs={"schedules": {"sample.fail": "every 2h"}})

    (found,) = [each for each in data_of(client, "catalog/")["results"] if each["schedule"] is not None]

    assert (found["name"], found["schedule"]) == ("sample.fail", "every 2h")
    assert datetime.fromisoformat(found["next_due"]) == NOW + timedelta(hours=2)


def test_the_only_thread_serves_no_stream(serve: Serve) -> None:
    client = serve(plugins=PLUGINS, server={"threads": 1})
    job_id = started(client, "a")

    answer = client.get(f"{JOBS}{job_id}/events/")

    assert (answer.status, "retry-after" in answer.headers) == (503, True)


def test_reading_has_policy_read_and_changing_write(client: Client) -> None:
    routes = [mounted.route for mounted in client.service.shared.routes]
    policies = {(route.method, route.policy) for route in routes if route.path.startswith(JOBS)}

    assert policies == {("GET", "read"), ("POST", "write")}


def test_stats_count_jobs_and_measure_the_oldest_wait(own_client: Client) -> None:
    jobs = own_client.service.shared.jobs
    jobs.run_inline("sample.fail")
    jobs.run_inline("sample.add", {"numbers": []})
    started(own_client, "a")

    figures = own_client.get("/stats/").json()["jobs"]

    assert (figures["waiting_count"], figures["running_count"], figures["failed_last_day_count"]) == (1, 0, 1)
    assert 0 < figures["oldest_waiting_s"] < 60


def test_stats_have_no_jobs_while_the_database_is_unavailable(serve: Serve, database: str) -> None:
    client = serve(plugins=PLUGINS, db={"pool_timeout_s": 0.2, "connect_timeout_s": 1})

    with outage(database):
        assert client.get("/stats/").json()["jobs"] is None
