"""Static files: kept by browsers for ever under names that change with them, compressed, and nothing else is served."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel.testing import Client
from tests.kernel.fakes import Boot, CapturedLog

STYLE = b"p { color: teal }\n" * 200
SCRIPT = b"console.log('hello');\n"
FOR_EVER = "public, max-age=31536000, immutable"
GZIP = {"Accept-Encoding": "gzip, br, zstd"}


@pytest.fixture
def client(make_package: Callable[..., str], boot: Boot) -> Client:
    """A service with a plugin that ships static files, one of them compressed."""
    files = {
        "static/shop.css": STYLE,
        "static/shop.js": SCRIPT,
        "static/lib.min.js.gz": gzip.compress(SCRIPT),
        "static/secret.py": b"",
        "static/.hidden.js": b"",
        "templates/page.html": b"",
    }
    return boot(make_package("shop", files=files))


def path_of(client: Client, name: str) -> str:
    """Return the path that pages link to."""
    return client.service.assets.url(name)


def test_a_name_with_the_digest_is_kept_for_ever(client: Client) -> None:
    path = path_of(client, "shop/shop.css")

    answer = client.get(path)

    assert path.startswith("/static/shop/shop.")
    assert (answer.status, answer.content) == (200, STYLE)
    assert answer.headers["cache-control"] == FOR_EVER
    assert answer.headers["content-type"] == "text/css; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "Accept-Encoding" in answer.headers["vary"]


def test_the_plain_name_is_revalidated_and_a_wrong_digest_is_not_found(client: Client) -> None:
    plain = client.get("/static/shop/shop.css")

    assert (plain.status, plain.content, plain.headers["cache-control"]) == (200, STYLE, "public, no-cache")
    assert client.get("/static/shop/shop.0123456789abcdef.css").status == 404


def test_a_file_is_sent_compressed_unless_that_makes_it_no_smaller(client: Client) -> None:
    style = client.get(path_of(client, "shop/shop.css"), headers=GZIP)
    script = client.get(path_of(client, "shop/shop.js"), headers=GZIP)

    assert style.headers["content-encoding"] == "gzip"
    assert gzip.decompress(style.content) == STYLE
    assert "content-encoding" not in script.headers
    assert script.content == SCRIPT


def test_what_is_shipped_compressed_reaches_clients_that_do_not_decompress(client: Client) -> None:
    path = path_of(client, "shop/lib.min.js")

    packed, plain = client.get(path, headers=GZIP), client.get(path)

    assert gzip.decompress(packed.content) == plain.content == SCRIPT
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.headers["etag"] != plain.headers["etag"]


def test_a_file_that_the_client_has_is_not_sent_again(client: Client) -> None:
    path = path_of(client, "shop/shop.css")
    first = client.get(path, headers=GZIP)

    again = client.get(path, headers={**GZIP, "If-None-Match": first.headers["etag"]})
    plain = client.get(path, headers={"If-None-Match": first.headers["etag"]})
    head = client.request("HEAD", path, headers=GZIP)

    assert (again.status, again.content, again.headers["cache-control"]) == (304, b"", FOR_EVER)
    assert "content-encoding" not in again.headers
    assert plain.status == 200
    assert (head.status, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(first.content))


@pytest.mark.parametrize(
    "path",
    [
        "/static/shop/nothing.css",
        "/static/nobody/shop.css",
        "/static/shop/",
        "/static/shop/..%2f__init__.py",
        "/static/shop/..%2ftemplates%2fpage.html",
        "/static/shop/%2e%2e/templates/page.html",
        "/static/..%2fshop/shop.css",
        "/static/kernel/..%2fassets.py",
        "/static/shop/.hidden.js",
        "/static/shop/secret.py",
        "/static/shop/lib.min.js.gz",
        "/static/shop/shop.css%00.js",
    ],
)
def test_nothing_else_is_served(client: Client, path: str) -> None:
    assert client.get(path).status == 404


def test_requests_for_static_files_are_not_logged(client: Client, captured: CapturedLog) -> None:
    client.get(path_of(client, "shop/shop.css"))
    client.get("/static/shop/nothing.css")
    client.get("/favicon.ico")

    assert captured.events("request") == []


def test_there_are_an_icon_and_a_robots_file(client: Client) -> None:
    icon, robots = client.get("/favicon.ico"), client.get("/robots.txt")

    assert (icon.status, icon.headers["content-type"]) == (200, "image/vnd.microsoft.icon")
    # A count of images that is not zero, as https://en.wikipedia.org/wiki/ICO_(file_format) describes it.
    assert icon.content[:4] == b"\0\0\1\0"
    assert (robots.content, robots.headers["content-type"]) == (
        b"User-agent: *\nDisallow: /\n",
        "text/plain; charset=utf-8",
    )


def test_a_page_cannot_link_to_a_file_that_is_not_there(client: Client) -> None:
    for name in ("shop/nothing.css", "shop/../__init__.py", "nobody/shop.css", "shop"):
        with pytest.raises(LookupError, match="no static file"):
            client.service.assets.url(name)


def test_a_file_is_read_once(client: Client, tmp_path: Path) -> None:
    path = path_of(client, "shop/shop.js")
    (file,) = tmp_path.rglob("shop.js")
    file.write_bytes(b"changed")

    assert client.get(path).content == SCRIPT
