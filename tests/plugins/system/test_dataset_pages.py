"""Pages of all datasets and of applications: they show what the API says, and staff roll datasets back."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from kernel.contracts import Application, Dataset
from kernel.testing import Client
from tests.applications import publish
from tests.conftest import Serve
from tests.kernel.fakes import install_plugin
from tests.plugins.accounts.factories import create_account, create_key, with_key
from tests.plugins.system.test_datasets import publish_two_versions
from tests.plugins.trace.test_pages import HOSTILE, HTML, links, page, words
from tests.processes import eventually

VERSIONS = "/system/datasets/versions/"
FORM = {**HTML, "Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}


class Note(msgspec.Struct, frozen=True):
    """An item of a plugin that has no pages for it."""

    id: str
    text: str = ""


NOTES = Dataset(name="acme-notes", item=Note, key="id", per_account=True)


@pytest.fixture
def acme(monkeypatch: pytest.MonkeyPatch) -> str:
    """A plugin with a dataset of accounts, without pages, and an application whose filter for tiers fails."""
    filters = {"tiers_filter": lambda items: [1 / 0], "no-such-data": lambda items: items}
    made = Application(slug="acme", name=HOSTILE[:60], features=("<b>",), filters=filters, services=("shop",))
    hooks = {"register_applications": lambda: [made], "register_datasets": lambda: [NOTES]}
    return install_plugin(monkeypatch, "acme", hooks)


def rows(shown: str) -> dict[str, str]:
    """Return the texts of the rows of tables by their first word."""
    found = [words(row) for row in re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", shown, re.DOTALL)]
    return {row.partition(" ")[0]: row for row in found}


def roll_back(client: Client, path: str, content: str, key: dict[str, str] | None = None) -> Any:
    """Send the form that rolls back."""
    return client.request("POST", path, content=content.encode(), headers={**FORM, **(key or {})})


def test_all_datasets_are_listed_with_their_state(serve: Serve) -> None:
    client = publish_two_versions(serve)
    client.service.shared.datasets.refuse("tiers", HOSTILE, source="test")
    assert eventually(lambda: client.service.shared.datasets.read("tiers").snapshot.warning is not None)

    shown = page(client, "/system/datasets/")

    found = rows(shown)
    assert list(found) == ["Features", "Gateways", "Tiers", "Tags"]
    assert found["Tiers"].startswith("Tiers tiers trace 2 3 ")
    assert "refused &lt;script" in shown.replace("</span> <small><bdi>", " ")
    assert not re.search("<script>|\u202e|\x1b", shown)
    assert "not published" in found["Tags"]
    assert "3 of 4 have not been published yet" in words(shown)
    assert {
        "/trace/tiers/",
        f"{VERSIONS}?dataset=tiers",
        f"{VERSIONS}compare/?dataset=tiers",
    } <= links(shown)


def test_versions_of_any_dataset_are_compared(serve: Serve, acme: str) -> None:
    client = serve(plugins=["system", "trace", acme])
    datasets = client.service.shared.datasets
    for text in ("one", "two"):
        datasets.publish({NOTES: [Note("a", text)]}, source="test", account=0)

    listed = page(client, "/system/datasets/")
    versions = page(client, f"{VERSIONS}?dataset=acme-notes")
    compared = page(client, f"{VERSIONS}compare/?dataset=acme-notes")

    assert rows(listed)["Acme"].startswith("Acme notes acme-notes per account acme 2 1 ")
    assert f"{VERSIONS}?dataset=acme-notes" in links(listed)
    assert f"{VERSIONS}compare/?dataset=acme-notes&from=1&to=2#difference" in links(versions)
    # Nothing shows its items.
    assert "changed a Text one two" in words(compared)
    assert page(client, f"{VERSIONS}?dataset=nothing", status=404)


def test_a_dataset_is_rolled_back_by_a_form(serve: Serve) -> None:
    client = publish_two_versions(serve)
    compared = page(client, f"{VERSIONS}compare/?dataset=tiers&from=1&to=2")
    assert "Roll back to version 1" in compared
    assert f'action="{VERSIONS}"' in compared
    # Where it would undo something else than what is shown.
    for query in ("from=1&to=1", "from=1&to=2&application=skyflow"):
        assert "Roll back" not in page(client, f"{VERSIONS}compare/?dataset=tiers&{query}")

    answer = roll_back(client, VERSIONS, "dataset=tiers&version=1")

    assert (answer.status, answer.headers["location"]) == (303, f"{VERSIONS}?dataset=tiers")
    versions = client.service.shared.datasets.versions("tiers")
    assert [each.version for each in versions] == [3, 2, 1]
    assert versions[0].sha256 == versions[2].sha256
    assert "rollback on a page, request" in page(client, f"{VERSIONS}?dataset=tiers")
    # The pages of the plugin do the same.
    assert "Roll back" in page(client, "/trace/versions/compare/?dataset=tiers&from=2&to=3")
    there = roll_back(client, "/trace/versions/", "dataset=tiers&version=2")
    assert (there.status, urlsplit(there.headers["location"]).path) == (303, "/trace/versions/")
    assert roll_back(client, VERSIONS, "dataset=tiers&version=9").status == 404
    assert roll_back(client, VERSIONS, "dataset=nothing&version=1").status == 404
    assert roll_back(client, VERSIONS, "dataset=tiers&version=0").status == 400
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert roll_back(client, VERSIONS, "dataset=tiers&version=1", foreign).status == 403


def test_only_staff_roll_back_and_accounts_see_their_own(serve: Serve, acme: str) -> None:
    client = serve(plugins=["accounts", "system", "trace", "skyflow", acme], auth="required")
    publish(client, "tiers", {"slug": "a"})
    publish(client, "tiers", {"slug": "b"})
    account = create_account(client)
    client.service.shared.datasets.publish({NOTES: [Note("secret-of-shop")]}, source="test", account=account)
    writer, limited = (
        with_key(create_key(client, "read", "write")),
        with_key(create_key(client, "read", applications=("skyflow",))),
    )

    assert roll_back(client, VERSIONS, "dataset=tiers&version=1", writer).status == 403
    assert "Roll back" not in page(client, f"{VERSIONS}compare/?dataset=tiers", writer)
    assert "Roll" not in page(client, f"{VERSIONS}?dataset=tiers", writer)
    # Of another account, there is nothing.
    assert "not published" in rows(page(client, "/system/datasets/", writer))["Acme"]
    assert "Nothing was published yet" in page(client, f"{VERSIONS}?dataset=acme-notes", writer)
    assert client.get(f"{VERSIONS}?dataset=tiers", headers={**HTML, **limited}).status == 403
    assert f"{VERSIONS}?dataset=tiers" not in links(page(client, "/system/datasets/", limited))
    shown = page(client, "/system/applications/", limited)
    assert "Skyflow" in shown
    assert "alert(1)" not in shown
    assert client.get("/system/datasets/hidden/?application=acme", headers={**HTML, **limited}).status == 403


def test_applications_say_what_they_see_and_why(serve: Serve, acme: str) -> None:
    client = serve(plugins=["system", "trace", "skyflow", "nexus", acme])
    publish_demo_of_trace(client)
    listed = client.get("/api/v1/applications/").json()["data"]["results"]
    skyflow = {each["dataset"]: each["items"] for each in listed[0]["datasets"]}

    shown = page(client, "/system/applications/")

    panels = dict(re.findall(r'id="application-(\w+)"(.*?)</section>', shown, re.DOTALL))
    assert list(panels) == ["skyflow", "nexus", "acme"]
    found = rows(panels["skyflow"])
    for title, name in (("Features", "features"), ("Tiers", "tiers"), ("Tags", "tags")):
        total = len(client.service.shared.datasets.read(name).items)
        assert re.search(rf"\b{skyflow[name]} {total}\b", found[title]), found[title]
    assert "/system/datasets/hidden/?application=skyflow#tiers" in links(panels["skyflow"])
    assert "/trace/tiers/?application=skyflow" in links(panels["skyflow"])
    assert "flow clout kudos" in words(panels["skyflow"])
    # One whose filter fails leaves the rest.
    assert "ZeroDivisionError" in rows(panels["acme"])["Tiers"]
    assert "no-such-data matches no dataset" in words(panels["acme"])
    assert "&lt;b&gt;" in panels["acme"]
    assert not re.search("<script>|<b>|\u202e", shown)
    explained = words(page(client, "/system/datasets/hidden/?application=skyflow"))
    assert "Filter tiers hides 2" in explained


def publish_demo_of_trace(client: Client) -> None:
    """Publish demo data where there are datasets that have none."""
    publish(client, "features", {"slug": "boards", "area": "flow"}, {"slug": "maps", "area": "grid"})
    publish(client, "tiers", {"slug": "a", "features": ["flow"]}, {"slug": "b"}, {"slug": "c", "features": ["grid"]})
    publish(client, "tags", {"slug": "open"})


def test_a_service_without_datasets_says_so(serve: Serve) -> None:
    client = serve(plugins=["system"])

    assert "No plugin has a dataset." in page(client, "/system/datasets/")
    assert "No plugin has an application." in page(client, "/system/applications/")
    assert page(client, VERSIONS, status=404)
