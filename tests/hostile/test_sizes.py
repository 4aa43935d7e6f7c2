"""Events that are small as they are sent, or as they are stored, and large as they are answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.faults.conftest import VARIABLES
from tests.faults.database import connect
from tests.processes import TLS, Service, copy_home, serving

pytestmark = pytest.mark.process

ROOT = "/api/requests/"
INGEST = f"{ROOT}ingest/"
KIB = 1024
MIB = 1024 * KIB
TAGS_MAX_BYTES = 64 * KIB
PAGE_MAX_BYTES = 16 * MIB
# All other fields of the events of a page, and commas.
PAGE_REST_BYTES = MIB
OMITTED = "_omitted"


@pytest.fixture(scope="module")
def service(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    own = {"TIERCEL_WORKERS": "1", "TIERCEL_DB__STATEMENT_TIMEOUT_S": "20"}
    with serving(copy_home(initialised, tmp_path_factory.mktemp("sizes")), **{**VARIABLES, **own}) as started:
        yield started


def event(name: str, tags: str, **fields: object) -> str:
    """Return an event as JSON."""
    event = {"time": "2026-01-05T00:00:00Z", "service": name, "endpoint": "/", "method": "GET", "status_code": 200}
    return json.dumps({**event, "latency_ms": 1, **fields})[:-1] + f',"tags":{tags}}}'


def post(service: Service, path: str, content: str, media_type: str = "application/json") -> httpx.Response:
    headers = {"Content-Type": media_type}
    return httpx.post(service.url + path, content=content.encode(), headers=headers, timeout=60, verify=TLS)


TOO_LARGE = {
    "numbers": '{"a":[' + ",".join(["1e308"] * 300) + "]}",
    "small numbers": '{"a":[' + ",".join(["1E-300"] * 300) + "]}",
    "numbers of two digits of exponent": '{"a":[' + ",".join(["1e99"] * 900) + "]}",
    "a text": '{"a":"' + "x" * TAGS_MAX_BYTES + '"}',
    "spaces": '{"a":' + " " * TAGS_MAX_BYTES + "1}",
    "spaces that the server adds": '{"a":[' + ",".join(['"xxxxxxxxx"'] * 4990) + "]," + f'"b":"{"x" * 4000}"}}',
    "values": '{"a":[' + ",".join("0" * 5000) + "]}",
    "levels": '{"a":' + "[" * 500 + "]" * 500 + "}",
}


@pytest.mark.parametrize("tags", TOO_LARGE.values(), ids=TOO_LARGE.keys())
def test_tags_are_limited_as_they_are_answered(service: Service, tags: str) -> None:
    bad, good = event("limited", tags), event("limited", '{"a":[1e20,"1e308"]}')
    stored = post(service, ROOT, good)
    url = f"{ROOT}{stored.json()['id']}/"
    headers = {"Content-Type": "application/json"}

    answers = [
        post(service, INGEST, f"[{good},{bad}]"),
        post(service, INGEST, f"{good}\n{bad}\n", "application/x-ndjson"),
    ]
    assert [answer.json()["rejected"] for answer in answers] == [1, 1]
    assert all(answer.json()["errors"][0]["errors"].keys() == {"tags"} for answer in answers)
    assert post(service, INGEST + "?strict=true", f"[{good},{bad}]").status_code == 400
    assert post(service, ROOT, bad).status_code == 400
    for method, content in (("PATCH", f'{{"tags":{tags}}}'), ("PUT", bad)):
        answer = httpx.request(method, service.url + url, content=content, headers=headers, timeout=60, verify=TLS)
        assert (answer.status_code, answer.json()["errors"].keys()) == (400, {"tags"})
    assert service.get(url).json()["tags"] == {"a": [1e20, "1e308"]}


def test_tags_at_their_limit_are_answered_as_they_were_sent(service: Service) -> None:
    largest = [
        {"a": "x" * (TAGS_MAX_BYTES - 20)},
        {"a": [0] * 4000},
        {"a": [1e20] * 2000},
        {"é": "é,:[" * 10_000},
        {"a": ['1e308,"1e308",{'] * 2500},
    ]
    contents = [event(f"largest-{number}", json.dumps(tags)) for number, tags in enumerate(largest)]
    contents[3] = event("largest-3", json.dumps(largest[3], ensure_ascii=False))

    assert post(service, INGEST, f"[{','.join(contents)}]").json()["inserted"] == len(largest)
    for number, tags in enumerate(largest):
        (found,) = service.get(f"{ROOT}?service=largest-{number}").json()["results"]
        assert found["tags"] == tags


def insert(service: Service, name: str, tags: str, count: int) -> None:
    """Insert events as an earlier version stored them; their tags are an expression of SQL."""
    with connect(service.home) as connection:
        assert post(service, ROOT, event(name, "{}")).status_code == 201
        statement = f"""
            INSERT INTO observability.event (id, time, series, status_code, latency_ms, tags)
            SELECT gen_random_uuid(), time + n * interval '1 second', series, status_code, latency_ms, ({tags})::jsonb
            FROM observability.event, generate_series(1, {count}) AS n
            WHERE series = (SELECT id FROM observability.series WHERE service = '{name}')"""
        connection.execute(statement.encode())


STORED = {
    "many digits": """'{"a":[' || repeat('1e131000,', 80) || '0]}'""",
    "more digits than a text can have": """'{"a":[' || repeat('1e131000,', 20000) || '0]}'""",
    "many digits after the point": """'{"a":[' || repeat('1e-16000,', 2000) || '0]}'""",
    "a long text": """'{"a":"' || repeat('x', 20000000) || '"}'""",
    "a text beyond the limit": """'{"a":"' || repeat('x', 80000) || '"}'""",
}


@pytest.mark.parametrize("name", STORED)
def test_stored_tags_that_are_too_long_are_left_out(service: Service, name: str) -> None:
    insert(service, name, STORED[name], 3)
    query = f"service={name}&ordering=-time"

    page = service.get(f"{ROOT}?{query}", timeout_s=30).json()
    by_cursor = service.get(f"{ROOT}?{query}&cursor=&page_size=2", timeout_s=30)
    exported = service.get(f"{ROOT}export/?format=ndjson&{query}", timeout_s=30)
    assert page["count"] == 4
    assert [list(found["tags"]) for found in page["results"]] == [[OMITTED]] * 3 + [[]]
    assert [list(found["tags"]) for found in by_cursor.json()["results"]] == [[OMITTED]] * 2
    assert [list(json.loads(line)["tags"]) for line in exported.text.splitlines()[:-1]] == [[OMITTED]] * 3 + [[]]
    assert len(exported.content) < 10_000
    assert "Traceback" not in service.errors


def test_an_edit_does_not_replace_stored_tags_by_what_is_answered(service: Service) -> None:
    insert(service, "edited", STORED["a text beyond the limit"], 1)
    is_large = "series = (SELECT id FROM observability.series WHERE service = 'edited') AND pg_column_size(tags) > 500"
    with connect(service.home) as connection:
        # An id is found by the time in it.
        statement = f"""
            UPDATE observability.event SET id = (lpad(to_hex((extract(epoch FROM time) * 1000)::bigint), 12, '0')
                || '70008000000000000000')::uuid WHERE {is_large}"""
        connection.execute(statement.encode())
    found = service.get(f"{ROOT}?service=edited&ordering=-time").json()["results"][0]
    url = f"{service.url}{ROOT}{found['id']}/"

    kept = httpx.patch(url, json={"status_code": 500}, verify=TLS)
    assert (kept.status_code, kept.json()["errors"].keys()) == (400, {"tags"})
    with connect(service.home) as connection:
        rows = connection.execute(f"SELECT octet_length(tags->>'a') FROM observability.event WHERE {is_large}".encode())
        assert rows.fetchall() == [(80_000,)]
    assert httpx.patch(url, json={"tags": {"a": 1}}, verify=TLS).json()["tags"] == {"a": 1}
    assert httpx.delete(url, verify=TLS).status_code == 204


@pytest.fixture(scope="module")
def large(service: Service) -> list[int]:
    """The latencies of events that do not fit on a page together."""
    insert(service, "large", """'{"a":"' || repeat('x', 60000) || '","n":' || n || '}'""", 599)
    return list(range(599, 0, -1))


def walk(service: Service, url: str, direction: str) -> list[list[int]]:
    """Return the numbers of the events on each page, from one to the last in a direction."""
    pages: list[list[int]] = []
    while url:
        parts = urlsplit(url)
        answer = service.get(f"{parts.path}?{parts.query}", timeout_s=30)
        assert len(answer.content) < PAGE_MAX_BYTES + PAGE_REST_BYTES
        page = answer.json()
        pages.append([found["tags"].get("n", 0) for found in page["results"]])
        url = page[direction]
    return pages


def test_a_page_by_cursor_ends_early(service: Service, large: list[int]) -> None:
    query = "service=large&page_size=600&count=none&cursor="

    pages = walk(service, f"{ROOT}?{query}&ordering=-time", "next")
    assert [number for page in pages for number in page] == [*large, 0]
    assert len(pages) == 3

    last = service.get(f"{ROOT}?service=large&page_size=1&cursor=&ordering=time").json()["next"]
    reversed_pages = walk(service, last.replace("page_size=1", "page_size=600"), "next")
    assert [number for page in reversed_pages for number in page] == large[::-1]


def test_pages_by_cursor_lead_back_too(service: Service, large: list[int]) -> None:
    parts = urlsplit(f"{ROOT}?service=large&page_size=300&count=none&cursor=&ordering=-time")
    url = f"{parts.path}?{parts.query}"
    while (page := service.get(url, timeout_s=30).json())["next"]:
        found = urlsplit(page["next"])
        url = f"{found.path}?{found.query}"

    pages = walk(service, page["previous"], "previous")
    numbers = [*(number for page in reversed(pages) for number in page)]
    assert [*numbers, *(found["tags"].get("n", 0) for found in page["results"])] == [*large, 0]


def test_a_page_by_number_and_a_trace_leave_tags_out(service: Service, large: list[int]) -> None:
    answer = service.get(f"{ROOT}?service=large&page_size=500&ordering=-time", timeout_s=30)
    page = answer.json()
    numbers = [found["tags"].get("n") for found in page["results"]]
    complete = numbers.index(None)

    assert len(answer.content) < PAGE_MAX_BYTES + PAGE_REST_BYTES
    assert (page["count"], len(page["results"])) == (600, 500)
    assert numbers[:complete] == large[:complete]
    assert all(list(found["tags"]) == [OMITTED] for found in page["results"][complete:])
    following = walk(service, page["next"], "next")
    assert following == [[*large[500:], 0]]


@pytest.mark.parametrize("file_format", ["csv", "ndjson"])
def test_an_export_has_every_event(service: Service, large: list[int], file_format: str) -> None:
    exported = service.get(f"{ROOT}export/?service=large&format={file_format}", timeout_s=60)

    assert exported.status_code == 200
    assert len(exported.content) > 599 * 60_000
    assert exported.content.count(b"xxxx" * 15_000) == 599
