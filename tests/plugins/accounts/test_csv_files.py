"""CSV files of sites and sectors: stored whole or not at all, and harmless in spreadsheets."""

from __future__ import annotations

from typing import Any

import pytest

from kernel.testing import Client, Result
from tests.plugins.accounts.factories import create_account, create_site
from tests.plugins.accounts.members import member
from tests.plugins.accounts.test_resources import API, data_of


@pytest.fixture
def owner(client: Client) -> dict[str, str]:
    """Headers of the owner of a new account."""
    return member(client, create_account(client), "owner")


def load(client: Client, headers: dict[str, str], content: bytes, name: str = "sites", query: str = "") -> Result:
    """Import a file."""
    return client.post(f"{API}/{name}/import/{query}", content=content, headers={**headers, "Content-Type": "text/csv"})


def slugs_of(client: Client, headers: dict[str, str], name: str = "sites") -> list[str]:
    """Return the slugs of all sites, or sectors."""
    return [row["slug"] for row in data_of(client.get(f"{API}/{name}/", headers=headers))["results"]]


def test_what_is_exported_is_imported_again(client: Client, owner: dict[str, str]) -> None:
    template = client.get(f"{API}/sites/template.csv", headers=owner)
    assert template.content == b"slug,name,url\r\n"
    assert template.headers["content-type"] == "text/csv; charset=utf-8"
    assert template.headers["content-disposition"] == 'attachment; filename="sites.csv"'

    first = load(client, owner, template.content + 'shop,"Shöp, main",https://shop.example\nblog,Blog,\n'.encode())
    exported = client.get(f"{API}/sites/export.csv", headers=owner).content
    again = load(client, owner, exported)
    changed = load(client, owner, exported.replace(b"Blog", b"Weblog") + b"new,New,\r\n")

    assert data_of(first) == {"created": 2, "updated": 0, "unchanged": 0}
    assert exported.decode().splitlines() == [
        "slug,name,url",
        'shop,"Shöp, main",https://shop.example',
        "blog,Blog,",
    ]
    assert data_of(again) == {"created": 0, "updated": 0, "unchanged": 2}
    assert data_of(changed) == {"created": 1, "updated": 1, "unchanged": 1}


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfslug,name\r\nshop,Shop\r\n",
        b"slug;name\nshop;Shop",
        b"NAME\tSlug\nShop\tshop\n\n\t\n",
        b'"slug","name"\r\n"shop","Shop"\r\n',
    ],
)
def test_files_of_spreadsheets_are_read(client: Client, owner: dict[str, str], content: bytes) -> None:
    assert data_of(load(client, owner, content))["created"] == 1
    assert slugs_of(client, owner) == ["shop"]


def test_every_wrong_line_is_named_and_nothing_is_stored(client: Client, owner: dict[str, str]) -> None:
    file = b'slug,name,url\ngood,Good,\nBAD,Bad,ftp://x\n"multi",\n"two\nlines",B,\ngood,Twice,\n7,,\nfine,Fine,\n'
    short = load(client, owner, file)
    file = file.replace(b'"multi",\n', b"")
    wrong = load(client, owner, file)

    assert short.json()["errors"] == {"line 4": ["It has 2 cells, the header 3."]}
    errors = wrong.json()["errors"]
    assert (wrong.status, list(errors)) == (400, ["line 3", "line 4", "line 6", "line 7"])
    assert errors["line 6"] == ["slug: Line 2 has the same."]
    assert [message.partition(":")[0] for message in errors["line 7"]] == ["slug", "name"]
    assert slugs_of(client, owner) == []


@pytest.mark.parametrize(
    ("content", "status", "detail"),
    [
        (b"", 400, "missing"),
        (b"slug\nshop\n", 400, "name is missing"),
        (b"slug,name,account\nshop,Shop,0\n", 400, "Unknown column 'account'"),
        (b"slug,name,slug\nshop,Shop,0\n", 400, "twice"),
        (b"slug,name\nshop,Sh\xf6p\n", 400, "line 2: byte 0xf6"),
        ("slug,name\nshop,Shop\n".encode("utf-16"), 400, "UTF-8"),
        (b'slug,name\nshop,"Shop\n', 400, "line 2"),
        (b"slug,name\n" + b"".join(b"s%d-a,S\n" % number for number in range(5_001)), 413, "5000"),
        (b"slug,name\n" + b"a" * 3_000_000, 413, "bytes"),
        (b"slug,name\nshop," + b"a" * 200_000, 400, "field"),
        (b"slug,name\nshop,a\x00b\n", 400, "name"),
    ],
    # The name of a test is in the environment of what it starts.
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else str(value),
)
def test_what_is_no_such_file_is_refused(
    client: Client, owner: dict[str, str], content: bytes, status: int, detail: str
) -> None:
    answer = load(client, owner, content)

    assert answer.status == status
    assert detail in answer.content.decode()
    assert slugs_of(client, owner) == []


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(1)", "'=1", "''-", "\uff1d1", "'quoted", "plain"])
def test_no_cell_is_a_formula(client: Client, owner: dict[str, str], name: str) -> None:
    site = data_of(client.post(f"{API}/sites/", {"slug": "shop", "name": name}, headers=owner), 201)

    exported = client.get(f"{API}/sites/export.csv", headers=owner).content
    cell = exported.decode().splitlines()[1].split(",")[1]

    assert not cell.startswith(("=", "+", "-", "@", "\uff1d"))
    assert data_of(load(client, owner, exported)) == {"created": 0, "updated": 0, "unchanged": 1}
    assert data_of(client.get(f"{API}/sites/{site['id']}/", headers=owner))["name"] == name


def test_sectors_name_their_site_by_slug_or_number(client: Client, owner: dict[str, str]) -> None:
    foreign = create_site(client, create_account(client))
    for slug in ("shop", "blog"):
        client.post(f"{API}/sites/", {"slug": slug, "name": slug}, headers=owner)
    number = data_of(client.get(f"{API}/sites/?slug=blog", headers=owner))["results"][0]["id"]

    file = f"site,slug,name\nshop,a,A\n{number},a,A\n"
    assert data_of(load(client, owner, file.encode(), "sectors"))["created"] == 2
    wrong = load(client, owner, f"site,slug,name\n{foreign},b,B\nno-site,b,B\n,b,B\n".encode(), "sectors")
    one_site = load(client, owner | {"X-Site": "blog"}, b"slug,name\na,Other\nb,B\n", "sectors")

    assert {line: messages[0].partition(".")[0] for line, messages in wrong.json()["errors"].items()} == {
        "line 2": f"site: There is no site {foreign}",
        "line 3": "site: There is no site 'no-site'",
        "line 4": "site: This field is required",
    }
    assert data_of(one_site) == {"created": 1, "updated": 1, "unchanged": 0}
    exported = client.get(f"{API}/sectors/export.csv", headers=owner).content.decode().splitlines()
    assert exported == ["site,slug,name", "shop,a,A", "blog,a,Other", "blog,b,B"]


def test_a_dry_run_stores_nothing(client: Client, owner: dict[str, str]) -> None:
    answer = load(client, owner, b"slug,name\nshop,Shop\n", query="?dry_run=true")

    assert data_of(answer) == {"created": 1, "updated": 0, "unchanged": 0}
    assert slugs_of(client, owner) == []


def test_readers_export_and_import_nothing(client: Client) -> None:
    reader: Any = member(client, create_account(client), "viewer")

    assert client.get(f"{API}/sites/export.csv", headers=reader).status == 200
    assert load(client, reader, b"slug,name\nshop,Shop\n").status == 403
