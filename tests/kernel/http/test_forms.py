"""Forms: what they ask for follows from a Struct, and only the service's own pages may send them."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from enum import Enum
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import msgspec
import pytest

from kernel.contracts import Route
from kernel.errors import ConflictError, InvalidError, PluginError
from kernel.http.forms import (
    VALUES_MAX,
    Choice,
    FormResponse,
    NoFields,
    Submitted,
    UploadedFile,
    label_of,
    make_form,
    redirect,
)
from kernel.http.notices import Notice
from kernel.http.response import Response, TemplateResponse
from kernel.services import Services
from kernel.testing import Client, Result
from tests.kernel.fakes import Boot, KeyAuthenticator, make_identity

OWN = {"Sec-Fetch-Site": "same-origin", "Accept": "text/html"}
URLENCODED = {"Content-Type": "application/x-www-form-urlencoded"}
HOSTILE = "<script>alert(1)</script>\"'&\u202egnp.exe\x1b[2J"
CREATED = Notice("Order <created>.")
PAGE = b"""{% extends "kernel/base.html" %}
{% import "kernel/forms.html" as forms %}
{% block title %}Order{% endblock %}
{% block content %}
{{ forms.form(form, "Create", cancel="/orders/") }}
{% call forms.confirm("Delete", "/gone/") %}<p>Sure?</p>{% endcall %}
{% endblock %}
"""


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Size(msgspec.Struct, frozen=True):
    """A size."""

    width: int


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An order.

    Args:
        title: What is ordered, in `words` & "signs".
        amount: How many.
    """

    title: Annotated[str, msgspec.Meta(min_length=2, max_length=20, pattern=r"^[^\x00-\x1f]*\Z")]
    amount: Annotated[int, msgspec.Meta(gt=0, le=10)] = 1
    price: Annotated[float, msgspec.Meta(ge=0)] | None = None
    is_paid: bool = True
    is_gift: bool | None = None
    colour: Colour
    speed: Literal["slow", "very_fast"] = "slow"
    note: Annotated[str, msgspec.Meta(extra_json_schema={"format": "multiline"})] = "none"
    nickname: str | None = "Nick"
    due_on: date | None = None
    placed_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    tags: tuple[str, ...] = ()
    sizes: Annotated[tuple[Literal["s", "m"], ...], msgspec.Meta(min_length=1)] | None = None
    size: Size | None = None
    password: Annotated[str, msgspec.Meta(extra_json_schema={"format": "password"})] = ""
    file: UploadedFile | None = None

    def __post_init__(self) -> None:
        if self.title == "nothing" and self.amount:
            raise ValueError("nothing has no amount")


class Orders:
    """Handlers, which keep what was ordered."""

    def __init__(self) -> None:
        self.placed: list[Order] = []

    def new(self) -> TemplateResponse:
        """Show the form."""
        return TemplateResponse("shop/order.html", {"form": make_form(Order)})

    def create(self, form: Submitted[Order]) -> FormResponse:
        """Take the form."""
        try:
            order = form.value()
            self._place(order)
        except (InvalidError, ConflictError) as ex:
            return Response(TemplateResponse("shop/order.html", {"form": form.again(ex)}), ex.status)
        return redirect("/orders/", CREATED)

    def _place(self, order: Order) -> None:
        if order.title == "taken":
            raise ConflictError("There is one.", errors={"title": ["Taken."], "non_field_errors": ["Sorry."]})
        self.placed.append(order)


@pytest.fixture
def orders() -> Orders:
    """What was ordered."""
    return Orders()


@pytest.fixture
def client(make_package: Callable[..., str], boot: Boot, orders: Orders) -> Client:
    """A service with a form, in mode ``open``."""
    return boot(make_shop(make_package, orders))


def make_shop(make_package: Callable[..., str], orders: Orders) -> str:
    """Make a plugin with a form, and somebody who may use it."""

    def register_routes(services: Services) -> list[Route]:
        people = {name: make_identity("read", "write", scheme=name) for name in ("basic", "session", "api_key")}
        services.authenticate_with(KeyAuthenticator(people))
        return [
            Route(path="/orders/", handler=orders.new, policy="read"),
            Route(path="/orders/", handler=orders.create, policy="read", method="POST", body_max_bytes=200_000),
        ]

    return make_package("shop", files={"templates/order.html": PAGE}, register_routes=register_routes)


def send(client: Client, fields: Any, headers: dict[str, str] | None = None) -> Result:
    """Send a form as a browser does."""
    return client.post(
        "/orders/", content=urlencode(fields, doseq=True).encode(), headers={**URLENCODED, **OWN, **(headers or {})}
    )


def elements(page: str) -> dict[str, str]:
    """Return the tag of each field by name, the first if there are several."""
    found: dict[str, str] = {}
    for tag, name in re.findall(r'(<(?:input|select|textarea)[^>]* name="([^"]*)"[^>]*>)', page):
        found.setdefault(name, html.unescape(tag))
    return found


def errors_of(page: str) -> dict[str, str]:
    """Return what is said at each field."""
    return {
        name: html.unescape(re.sub("<.*?>", "", text))
        for name, text in re.findall(r'id="form-(\w+)-error">(.*?)</p>', page)
    }


def test_each_type_has_its_element(client: Client) -> None:
    page = client.get("/orders/").content.decode()
    found = elements(page)

    assert list(found) == [field.name for field in msgspec.structs.fields(Order)]
    for name, attributes in {
        "title": [
            'type="text"',
            'minlength="2"',
            'maxlength="20"',
            r'pattern="[^\x00-\x1f]*"',
            " required",
            'value=""',
        ],
        "amount": ['type="number"', 'min="1"', 'max="10"', 'step="1"', 'value="1"'],
        "price": ['type="number"', 'min="0"', 'step="any"', 'value=""'],
        "is_paid": ['type="checkbox"', " checked"],
        "is_gift": ["<select"],
        "colour": ["<select", " required"],
        "note": ["<textarea"],
        "nickname": ['value="Nick"'],
        "due_on": ['type="date"'],
        "placed_at": ['type="datetime-local"', 'step="1"'],
        "tags": ["<textarea"],
        "sizes": ['type="checkbox"', 'value="s"'],
        "size": ["<textarea"],
        "password": ['type="password"'],
        "file": ['type="file"'],
    }.items():
        assert [each for each in attributes if each not in found[name]] == [], found[name]
    assert " required" not in found["amount"]
    assert 'enctype="multipart/form-data"' in page
    assert re.findall(r'<option value="(\w*)"( selected)?>([^<]*)', page) == [
        ("", " selected", "\u2014"), ("true", "", "Yes"), ("false", "", "No"),
        ("", " selected", "Choose \u2026"), ("red", "", "Red"), ("blue", "", "Blue"),
        ("", "", "\u2014"), ("slow", " selected", "Slow"), ("very_fast", "", "Very fast"),
    ]  # fmt: skip
    # Labels, and what the docstring says.
    assert '<label for="form-due_on">Due on' in page
    assert 'id="form-title-help">What is ordered, in words &amp; &#34;signs&#34;.' in page
    assert 'aria-describedby="form-title-help"' in found["title"]


def test_a_form_becomes_the_struct(client: Client, orders: Orders) -> None:
    fields = {
        "title": "Screws", "amount": "3", "price": "2.5", "is_gift": "false", "colour": "blue", "speed": "very_fast",
        "note": "two\r\nlines", "nickname": "", "due_on": "2030-01-02", "placed_at": "2030-01-02T03:04",
        "tags": "a\r\n\r\n b,c ",
        "sizes": ["s", "m"], "size": '{"width": 3}', "password": " p ", "file": "",
    }  # fmt: skip
    answer = send(client, {name: value for name, value in fields.items() if name != "file"})

    assert (answer.status, answer.headers["location"], answer.headers["cache-control"]) == (303, "/orders/", "no-store")
    assert orders.placed == [
        Order(
            title="Screws", amount=3, price=2.5, is_paid=False, is_gift=False, colour=Colour.BLUE, speed="very_fast",
            note="two\nlines", nickname=None, due_on=date(2030, 1, 2), placed_at=datetime(2030, 1, 2, 3, 4, tzinfo=UTC),
            tags=("a", "b,c"), sizes=("s", "m"), size=Size(3), password=" p ", file=None,
        )
    ]  # fmt: skip


def test_what_is_left_empty_has_its_default_or_none(client: Client, orders: Orders) -> None:
    empty = dict.fromkeys(
        ("amount", "price", "is_gift", "speed", "note", "nickname", "due_on", "placed_at", "tags", "size"), ""
    )
    assert send(client, {**empty, "title": "ab", "colour": "red"}).status == 303
    assert send(client, {"title": "ab", "colour": "red", "is_paid": "true"}).status == 303

    assert orders.placed == [
        Order(title="ab", colour=Colour.RED, is_paid=False, note="", nickname=None),
        # What was not sent at all cannot have been emptied, as far as that can be told.
        Order(title="ab", colour=Colour.RED, is_paid=True, nickname=None),
    ]


def test_a_wrong_form_is_shown_again_with_an_error_at_each_field(client: Client, orders: Orders) -> None:
    wrong = {
        "title": HOSTILE, "amount": "11", "price": "x", "is_paid": "maybe", "colour": "green", "due_on": "2030-02-30",
        "placed_at": "soon", "sizes": "xl", "size": "{", "password": "secret", "speed": ["slow", "slow"],
    }  # fmt: skip
    answer = send(client, wrong)
    page = answer.content.decode()
    found, errors = elements(page), errors_of(page)

    assert (answer.status, orders.placed) == (400, [])
    assert set(errors) == set(wrong) - {"password"}
    assert errors["amount"] == "Expected int <= 10, got '11'."
    assert errors["speed"] == "This field is given more than once."
    assert 'aria-invalid="true"' in found["amount"]
    assert 'aria-describedby="form-amount-error form-amount-help"' in found["amount"]
    assert '<a href="#form-amount">Amount</a>' in page
    # What was entered is kept, and does nothing; what is secret is not.
    assert 'value="11"' in found["amount"]
    assert "<script>alert" not in page
    assert html.escape(HOSTILE).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page
    assert "secret" not in page


def test_errors_of_what_is_done_with_it_are_shown_as_well(client: Client) -> None:
    taken = send(client, {"title": "taken", "colour": "red"})
    contradiction = send(client, {"title": "nothing", "colour": "red"})

    page = taken.content.decode()
    assert (taken.status, errors_of(page)) == (409, {"title": "Taken."})
    assert "There is one." in page
    assert "non_field_errors: Sorry." in page
    assert contradiction.status == 400
    assert "nothing has no amount" in contradiction.content.decode()


def test_nobody_sets_what_the_form_does_not_ask_for(client: Client, orders: Orders) -> None:
    answer = send(client, {"title": "ab", "colour": "red", "id": "7", "account": "0"})

    assert (answer.status, orders.placed) == (400, [])
    assert "id: Unknown field." in answer.content.decode()
    assert "account: Unknown field." in answer.content.decode()


@pytest.mark.parametrize("scheme", ["open", "basic", "session", "api_key"])
def test_only_own_pages_send_forms(scheme: str, make_package: Callable[..., str], boot: Boot, orders: Orders) -> None:
    allowed = {"http": {"cors_origins": ["https://friend.example"]}}
    values: dict[str, Any] = allowed if scheme == "open" else {**allowed, "auth": "required"}
    client = boot(make_shop(make_package, orders), **values)
    body = urlencode({"title": "ab", "colour": "red"}).encode()
    tried: list[tuple[dict[str, str], int]] = [
        ({}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "https://127.0.0.1.evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "https://friend.example"}, 403),
        ({"Origin": "https://friend.example", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, 403),
        ({"Origin": "http://127.0.0.1"}, 303),
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1"}, 303),
    ]
    got = [
        client.post("/orders/", content=body, headers={**URLENCODED, "X-Key": scheme, **each}).status
        for each, _ in tried
    ]

    assert got == [status for _, status in tried]
    assert len(orders.placed) == 3


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/json", "", "application/x-www-form-urlencoded; charset=latin-1"]
)
def test_other_bodies_are_refused(client: Client, media_type: str) -> None:
    answer = client.post("/orders/", content=b"title=ab", headers={**OWN, "Content-Type": media_type, "Accept": "*/*"})

    assert (answer.status, answer.json()["code"]) == (415, "unsupported_media_type")


def test_the_error_of_a_form_is_a_page(client: Client) -> None:
    answer = client.post("/orders/", content=b"title=ab", headers={**URLENCODED, "Accept": "text/html"})

    assert (answer.status, answer.headers["content-type"]) == (403, "text/html; charset=utf-8")
    assert "a form needs Sec-Fetch-Site or Origin" in answer.content.decode()


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"&".join([b"tags=a"] * (VALUES_MAX + 1)), 413),
        (b"title=" + b"a" * 200_000, 413),
        (b"title=%ff", 400),
        ("title=\u00e4".encode(), 400),
    ],
)
def test_what_is_too_large_or_broken_is_refused(client: Client, content: bytes, status: int) -> None:
    assert client.post("/orders/", content=content, headers={**URLENCODED, **OWN}).status == status


def multipart(*parts: tuple[str, bytes], end: bytes = b"--x--\r\n") -> tuple[bytes, dict[str, str]]:
    """Return a body of parts, each with the parameters of its Content-Disposition, and the headers to send it with."""
    body = b"".join(
        b"--x\r\nContent-Disposition: form-data; " + disposition.encode() + b"\r\n\r\n" + content + b"\r\n"
        for disposition, content in parts
    )
    return body + end, {**OWN, "Content-Type": "multipart/form-data; boundary=x"}


def test_files_are_uploaded(client: Client, orders: Orders) -> None:
    name = '../../<b>"\u00e4'
    content, headers = multipart(
        ('name="title"', b"ab"),
        ('name="colour"', b"red"),
        (f'name="file"; filename="{name.replace(chr(34), "%22")}"', b"\x00\xff\r\n--y"),
    )
    assert client.post("/orders/", content=content, headers=headers).status == 303
    [order] = orders.placed
    assert order.file is not None
    assert (order.title, order.file.content, order.file.name) == ("ab", b"\x00\xff\r\n--y", "../../<b>%22\u00e4")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        # A form of a browser in which no file was chosen.
        (multipart(('name="title"', b"ab"), ('name="colour"', b"red"), ('name="file"; filename=""', b"")), 303),
        (multipart(('name="title"; filename="a"', b"ab"), ('name="colour"', b"red")), 400),
        (multipart(*[('name="file"; filename="a"', b"")] * 2, ('name="title"', b"ab"), ('name="colour"', b"red")), 400),
        (multipart(*[('name="tags"', b"a")] * (VALUES_MAX + 1)), 413),
        (multipart(('name="title"', b"a" * 200_000)), 413),
        (multipart(('name="title"; ' + "x" * 5_000, b"ab")), 400),
        (multipart(('name="title"', b"\xff")), 400),
        (multipart(('name="title"', b"ab"), end=b""), 400),
        ((b"", {**OWN, "Content-Type": "multipart/form-data"}), 400),
        ((b"", {**OWN, "Content-Type": "multipart/form-data; boundary=x"}), 400),
    ],
)
def test_wrong_uploads_are_refused(client: Client, sent: tuple[bytes, dict[str, str]], status: int) -> None:
    assert client.post("/orders/", content=sent[0], headers=sent[1]).status == status


def test_a_notice_is_shown_once(client: Client) -> None:
    sent = send(client, {"title": "ab", "colour": "red"})
    cookie = sent.headers["set-cookie"]
    first = client.get("/orders/", headers={"Cookie": cookie.partition(";")[0]})
    forged = client.get("/orders/", headers={"Cookie": "tiercel_notice=Call+0800"})

    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "created" not in cookie
    assert '<p class="notice" role="status">Order &lt;created&gt;.</p>' in first.content.decode()
    assert "tiercel_notice=;" in first.headers["set-cookie"]
    assert "Max-Age=0" in first.headers["set-cookie"]
    assert 'role="status"' not in client.get("/orders/").content.decode()
    assert "0800" not in forged.content.decode()


@pytest.mark.parametrize("path", ["//evil.example/", "https://evil.example/", "/\\evil.example", "orders/", ""])
def test_a_redirect_stays_here(path: str) -> None:
    with pytest.raises(ValueError, match="is no path of this service"):
        redirect(path)


def test_forms_are_not_in_the_document(client: Client) -> None:
    paths = client.get("/api/schema/").json()["paths"]

    assert "/api/schema/" in paths
    assert "/orders/" not in paths


def take_both(form: Submitted[Order], body: Order) -> None:
    """Take too much."""


def take_form(form: Submitted[Order]) -> None:
    """Take a form."""


def take_struct(form: Order) -> None:
    """Take no form."""


@pytest.mark.parametrize(
    ("handler", "method", "expected"),
    [
        (take_both, "POST", "takes no body"),
        (take_form, "GET", "one of POST"),
        (take_struct, "POST", r"no Submitted\[\.\.\.\] of a Struct"),
    ],
)
def test_a_handler_that_does_not_fit_is_quarantined(
    handler: Callable[..., Any], method: Any, expected: str, boot: Boot, make_package: Callable[..., str]
) -> None:
    def register_routes(services: Services) -> list[Route]:
        return [Route(path="/x/", handler=handler, policy="write", method=method)]

    package = make_package("shop", files={}, register_routes=register_routes)
    with pytest.raises(PluginError, match=expected):
        boot(package, required=["shop"])


def test_a_form_can_be_for_a_struct_that_is_known_later() -> None:
    form = Submitted(NoFields, {"width": ["3"]}, {})

    assert form.of(Size).value() == Size(3)
    with pytest.raises(InvalidError):
        form.value()


def test_names_are_for_people() -> None:
    names = ("is_active", "latency_ms", "user_id", "id", "requests_per_day", "url", "has_active_plan", "retention_days")

    assert [label_of(name) for name in names] == [
        "Active", "Latency (ms)", "User", "ID", "Requests per day", "URL", "Active plan", "Retention days",
    ]  # fmt: skip


def test_choices_and_values_fill_a_form() -> None:
    row = {"title": "T", "amount": 7, "due_on": date(2030, 1, 2), "tags": ("a", "b"), "size": Size(3), "other": 1}
    form = make_form(Order, values=row, choices={"amount": [Choice("7", "Seven")]})
    fields = {field.name: field for field in form.fields}

    assert fields["amount"].control == "select"
    assert [choice.value for choice in fields["amount"].choices] == ["", "7"]
    assert {name: fields[name].values for name in ("title", "amount", "due_on", "tags")} == {
        "title": ("T",), "amount": ("7",), "due_on": ("2030-01-02",), "tags": ("a", "b"),
    }  # fmt: skip
    assert msgspec.json.decode(fields["size"].values[0]) == {"width": 3}
