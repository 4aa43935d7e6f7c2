"""What each field accepts and rejects, in single events and in batches, with the messages of Django REST Framework."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kernel.testing import Client
from tests.conftest import Serve
from tests.plugins.observability.engines import every_engine, every_server, one_engine
from tests.plugins.observability.events import (
    ROOT,
    UNSTORABLE_TAGS,
    listed,
    make_event,
    post_bytes,
    post_ingest,
    raw_event,
    short_id,
    stored_count,
)

pytestmark = every_engine

TEXTS = {"service": 100, "endpoint": 255, "method": 20, "trace_id": 128, "user_ref": 128}
REQUIRED = ("service", "endpoint", "method", "time", "status_code", "latency_ms")
NUMBERS = {"status_code": "A valid integer is required.", "latency_ms": "A valid number is required."}

NULL = "This field may not be null."
BLANK = "This field may not be blank."
NOT_TEXT = "Not a valid string."
NEGATIVE = "Ensure this value is greater than or equal to 0."
TOO_LONG_MS = f"Ensure this value is less than or equal to {2**31 - 1}."
BAD_STATUS = "status_code must be a valid HTTP status (100..599)."
BAD_TIME = (
    "Datetime has wrong format. Use one of these formats instead: YYYY-MM-DDThh:mm[:ss[.uuuuuu]][+HH:MM|-HH:MM|Z]."
)
NO_NUL = "Null characters are not allowed."
OUT_OF_RANGE = "A number is out of range."
LONE = "\\ud800"


def too_long(length_max: int) -> str:
    return f"Ensure this field has no more than {length_max} characters."


def out_of_double(number: str) -> str:
    return f"Numbers must be in the range of a double, at most 1.8e308, got {number}."


def stored(client: Client, content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Store an event alone and in a batch; return both as they are read back, ids aside."""
    alone = client.post(ROOT, content=content)
    assert alone.status == 201, alone.content
    one = json.loads(client.get(f"{ROOT}{json.loads(alone.content)['id']}/").content)
    batch = post_bytes(client, b"[" + content + b"]")
    assert (batch.json()["inserted"], batch.json()["rejected"]) == (1, 0)
    same = json.loads(client.get(f"{ROOT}?ordering=-time&time_after={one['time']}&time_before={one['time']}").content)
    (other,) = [event for event in same["results"] if event["id"] != one["id"]]
    for url in (one.pop("id"), other.pop("id")):
        client.request("DELETE", f"{ROOT}{url}/")
    return one, other


def messages(client: Client, content: bytes) -> dict[str, list[str]]:
    """Return what is said of a wrong event; the same alone and in a batch, where it costs no other."""
    alone = client.post(ROOT, content=content)
    batch = post_bytes(client, b"[" + raw_event(time='"2020-01-01T00:00:00Z"') + b"," + content + b"]")
    assert (alone.status, batch.status) == (400, 200)
    (error,) = batch.json()["errors"]
    assert (batch.json()["inserted"], error["index"], error["errors"]) == (1, 1, alone.json()["errors"])
    found: dict[str, list[str]] = error["errors"]
    return found


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        *((name, f'"{"X" * length}"', "X" * length) for name, length in TEXTS.items()),
        *((name, f'"  {"X" * length}\\t\\n"', "X" * length) for name, length in TEXTS.items()),
        *((name, f'"{"é" * length}"', "é" * length) for name, length in TEXTS.items()),
        *((name, '"\\u3000A B\\u00a0"', "A B") for name in TEXTS),
        *((name, "12", "12") for name in TEXTS),
        *((name, "1.5", "1.5") for name in TEXTS),
        *((name, '"\\ud83d\\ude00"', "\U0001f600") for name in TEXTS),
        *((name, "null", None) for name in ("latency_ms", "trace_id", "user_ref")),
        *((name, '" "', "") for name in ("trace_id", "user_ref")),
        *(("latency_ms", text, 100) for text in ("100", '"100"', '" 100 "', "1e2", "100.0", '"100.0"')),
        *(("latency_ms", text, 0) for text in ("0", "-0", "0.0", '"-0"')),
        ("latency_ms", '"2_147_483_647.00"', 2147483647),
        # Rounded, halves up.
        *(("latency_ms", text, 13) for text in ("12.7", '"12.7"', "12.5", '" 12.50 "', "1.25e1", "13.4999")),
        *(("latency_ms", text, 0) for text in ("0.49999999999999994", "0.1", '"4e-1"', "-0.0")),
        *(("latency_ms", text, 2147483647) for text in ("2147483647.4", '"2147483647.4"', "2147483646.5")),
        *(("status_code", text, int(float(text.strip('"')))) for text in ("100", "599", '"404"', "204.0", '"204.000"')),
        ("tags", '{"a": "\\\\u0000"}', {"a": "\\u0000"}),
        ("tags", '{"twice": 1, "twice": 2}', {"twice": 2}),
        (
            "tags",
            '{"a": "1e400", "1e400": 1.7e308, "b": 1e-300, "c": 0e-99}',
            {"a": "1e400", "1e400": 17 * 10**307, "b": 1e-300, "c": 0},
        ),
        *(("method", text, "GET") for text in ('"get"', '" Get "', '"GET"')),
        *(("method", f'"{text}"', text) for text in ("NOPE", "M-SEARCH", "__other__", "größe")),
        ("tags", '{"n": 1180591620717411303424}', {"n": 2**70}),
        ("tags", '{"deep": ' + "[" * 300 + "]" * 300 + "}", {"deep": json.loads("[" * 300 + "]" * 300)}),
    ],
    ids=short_id,
)
def test_valid_values_are_accepted(shared: Client, field: str, text: str, value: object) -> None:
    alone, in_batch = stored(shared, raw_event(**{field: text}))

    assert alone[field] == value
    assert alone == in_batch


@one_engine
@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        *((name, "null", NULL) for name in (*REQUIRED, "tags") if name != "latency_ms"),
        *((name, '""', BLANK) for name in ("service", "endpoint", "method")),
        *((name, '" \\t "', BLANK) for name in ("service", "endpoint", "method")),
        *((name, f'"{"x" * (length + 1)}"', too_long(length)) for name, length in TEXTS.items()),
        *((name, text, NOT_TEXT) for name in TEXTS for text in ("true", "[]", "{}")),
        *((name, '"a\\u0000b"', NO_NUL) for name in TEXTS),
        *((name, f'"a{LONE}"', "Surrogate characters are not allowed: U+D800.") for name in TEXTS),
        *((name, "1e400", OUT_OF_RANGE) for name in (*TEXTS, *NUMBERS)),
        *((name, "1" * 5000, OUT_OF_RANGE) for name in (*TEXTS, *NUMBERS)),
        *((name, text, message) for name, message in NUMBERS.items() for text in ("true", '""', '"x"', "[]", "{}")),
        *((name, '"' + "1" * 1001 + '"', message) for name, message in NUMBERS.items()),
        *(("status_code", text, NUMBERS["status_code"]) for text in ("200.5", '"200.5"', "1e20")),
        *(("latency_ms", text, NUMBERS["latency_ms"]) for text in ('"NaN"', '"-Infinity"', '"1e400"', '"1.2.3"')),
        *(("status_code", text, BAD_STATUS) for text in ("99", "600", "0", "-200", '"600"', str(2**70))),
        *(("latency_ms", text, NEGATIVE) for text in ("-1", "-0.4", '"-0.4"', "-1e300")),
        *(("latency_ms", text, TOO_LONG_MS) for text in (str(2**31), "2147483647.5", '"2147483647.5"', "1e20")),
        ("tags", "[]", 'Expected a dictionary of items but got type "list".'),
        ("tags", '"{}"', 'Expected a dictionary of items but got type "str".'),
        ("tags", "1", 'Expected a dictionary of items but got type "int".'),
        *(("tags", text, NO_NUL) for text in ('{"a": ["\\u0000"]}', '{"\\u0000": 1}', '{"a": {"b": "\\\\\\u0000"}}')),
        *(
            ("tags", text, "Surrogate characters and endless nesting are not allowed.")
            for text in (f'{{"a": "{LONE}"}}', f'{{"{LONE}": 1}}', f'{{"a": [{{"b": "{LONE}{LONE}"}}]}}')
        ),
        ("tags", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "The value is nested too deeply."),
        *(
            ("tags", f'{{"a": [{number}]}}', out_of_double(number))
            for number in ("1e400", "-1E+400000", "1e-400", "0e-400")
        ),
        ("tags", UNSTORABLE_TAGS, "The database cannot store this: value overflows numeric format"),
        ("tags", '{"a": {"b": 1' + "0" * 400 + "}}", out_of_double("1" + "0" * 39)),
    ],
    ids=short_id,
)
def test_invalid_values_are_rejected(shared: Client, field: str, text: str, message: str) -> None:
    assert messages(shared, raw_event(**{field: text})) == {field: [message]}


@one_engine
@pytest.mark.parametrize("field", REQUIRED)
def test_required_fields_may_not_be_omitted(shared: Client, field: str) -> None:
    content = json.dumps(make_event(**{field: ...})).encode()

    assert messages(shared, content) == {field: ["This field is required."]}


@one_engine
@pytest.mark.parametrize("field", [*TEXTS, "tags"])
def test_invalid_utf8_affects_only_its_field(shared: Client, field: str) -> None:
    text = '{"a": "BYTE"}' if field == "tags" else '"BYTE"'
    content = raw_event(**{field: text}).replace(b"BYTE", b"\xff\xfe")

    assert messages(shared, content) == {field: ["The text is not UTF-8."]}


@one_engine
@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "nul", "01", "'a'", ""])
@pytest.mark.parametrize("field", ["latency_ms", "tags", "service"])
def test_invalid_json_is_malformed(shared: Client, field: str, text: str) -> None:
    content = raw_event(**{field: text})
    before = stored_count(shared)

    answers = [shared.post(ROOT, content=content), post_bytes(shared, b"[" + raw_event() + b"," + content + b"]")]

    assert [(answer.status, answer.json()["code"]) for answer in answers] == [(400, "malformed")] * 2
    assert stored_count(shared) == before


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2025-12-14T12:00:00Z", "2025-12-14T12:00:00Z"),
        ("2025-12-14t12:00:00Z", "2025-12-14T12:00:00Z"),
        ("2025-12-14 12:00", "2025-12-14T12:00:00Z"),
        ("2025-12-14T12:00:00", "2025-12-14T12:00:00Z"),
        (" 2025-12-14T12:00:00Z ", "2025-12-14T12:00:00Z"),
        ("2025-12-14", "2025-12-14T00:00:00Z"),
        ("2025-12-14T12:00:00+05:30", "2025-12-14T06:30:00Z"),
        ("2025-12-14T12:00:00-23:59", "2025-12-15T11:59:00Z"),
        ("2025-12-14T12:00:00.123456+00:00", "2025-12-14T12:00:00.123456Z"),
        ("2025-12-14T12:00:00.5Z", "2025-12-14T12:00:00.500000Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
        ("1970-01-01T01:00:00+01:00", "1970-01-01T00:00:00Z"),
        ("2024-02-29T23:59:59.999999Z", "2024-02-29T23:59:59.999999Z"),
    ],
)
def test_valid_times_are_accepted(shared: Client, text: str, time: str) -> None:
    alone, in_batch = stored(shared, raw_event(time=f'"{text}"'))

    assert (alone["time"], in_batch["time"]) == (time, time)


@one_engine
@pytest.mark.parametrize(
    ("text", "message"),
    [
        *(
            (text, BAD_TIME)
            for text in (
                '""',
                '"now"',
                "1765713600",
                "true",
                "{}",
                '"2025-02-29T00:00:00Z"',
                '"2025-12-14T24:00:00Z"',
                '"2025-12-14T12:00:60Z"',
                '"2025-12-14T12:00:00+24:00"',
                # An offset is not a time of day.
                '"2025-12-14-05:00"',
                '"2025-12-14+02:00"',
                '"2025-12-14x05:00"',
                '"2025-12-14T12:00:00\\u0000"',
                f'"2025-12-14T12:00:00{LONE}"',
                '"0001-01-01T00:00:00+10:00"',
                '"9999-12-31T23:59:59-10:00"',
                '"12025-12-14T12:00:00Z"',
            )
        ),
        ('"1969-12-31T23:59:59.999999Z"', "Times before 1970 are not supported."),
        ('"1970-01-01T00:59:59+01:00"', "Times before 1970 are not supported."),
        ('"0001-01-01T00:00:00"', "Times before 1970 are not supported."),
        ('"9999-12-31T23:59:59Z"', "Ensure this time is at most a day ahead."),
    ],
)
def test_invalid_times_are_rejected(shared: Client, text: str, message: str) -> None:
    assert messages(shared, raw_event(time=text)) == {"time": [message]}


@pytest.mark.parametrize(
    ("event_id", "stored"), [(None, 1), ("", 0), ("  ", 0), ("x" * 255, 1), ("x" * 256, 0), (7, 1)], ids=short_id
)
def test_event_ids_are_validated(shared: Client, event_id: object, stored: int) -> None:
    answer = post_ingest(shared, [make_event(event_id=event_id)]).json()

    assert (answer["inserted"], answer["duplicates"], answer["rejected"]) == (stored, 0, 1 - stored)


@one_engine
@pytest.mark.parametrize("key", ["", "   ", '""', "x" * 256, "caf\xe9"], ids=short_id)
def test_an_invalid_key_is_rejected(shared: Client, key: str) -> None:
    answer = shared.post(f"{ROOT}ingest/", [make_event()], headers={"Idempotency-Key": key})

    assert (answer.status, list(answer.json()["errors"])) == (400, ["Idempotency-Key"])


class FixedClock:
    def now(self) -> datetime:
        return datetime(2026, 3, 1, 12, tzinfo=UTC)


@every_server
@pytest.mark.parametrize(("ahead", "taken"), [(timedelta(days=1), True), (timedelta(days=1, microseconds=1), False)])
def test_events_may_be_a_day_ahead(serve: Serve, ahead: timedelta, taken: bool) -> None:
    client = serve(clock=FixedClock())
    event = make_event(time=(FixedClock().now() + ahead).isoformat())

    alone, batch = client.post(ROOT, event), client.post(f"{ROOT}ingest/", [event])

    assert (alone.status, batch.json()["inserted"]) == ((201, 1) if taken else (400, 0))
    assert len(listed(client)) == (2 if taken else 0)
