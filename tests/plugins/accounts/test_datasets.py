"""Datasets of accounts: each account has its own versions, in the database and in every cache."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kernel import (
    Application,
    Dataset,
    Identity,
    Route,
    Services,
)
from kernel.errors import ForbiddenError, TiercelError, UnavailableError
from kernel.identity import ALL_SCOPES, SYSTEM_ACCOUNT, acting_as
from kernel.testing import Client
from tests.conftest import Serve, service_starter
from tests.kernel.fakes import install_plugin
from tests.outage import outage
from tests.owned import COLORS, NOTES, Color, Note
from tests.plugins.accounts.callers import NOTES as PATH
from tests.plugins.accounts.callers import OWNED, Caller
from tests.plugins.accounts.factories import create_account
from tests.processes import eventually

DATASETS = "/api/v1/datasets/"


@pytest.fixture(scope="module")
def client(module_database: str) -> Iterator[Client]:
    """A service in mode ``required``, whose plugin has datasets of accounts."""
    with service_starter({"url": module_database}) as start:
        yield start(auth="required", plugins=[*OWNED, "nexus", "skyflow"])


@pytest.fixture
def one(client: Client) -> Caller:
    return Caller(client, create_account(client))


@pytest.fixture
def other(client: Client) -> Caller:
    return Caller(client, create_account(client))


def as_account(account: int) -> Identity:
    """Return an identity of an account."""
    return Identity(scheme="job", name="test", account=account, scopes=ALL_SCOPES)


def test_an_account_sees_its_own_publication(one: Caller, other: Caller) -> None:
    assert (one.publish(a="mine"), other.publish(a="theirs", b="too")) == ("published", "published")

    assert (one.texts(), other.texts()) == ({"a": "mine"}, {"a": "theirs", "b": "too"})
    assert one.get(f"{PATH}b/").status == 404
    assert other.get(f"{PATH}b/").json()["data"]["text"] == "too"


def test_an_account_without_a_publication_has_an_empty_list(one: Caller, other: Caller) -> None:
    other.publish(a="theirs")

    listed, single, past = one.get(PATH), one.get(f"{PATH}a/"), one.get(f"{PATH}?as_of=1")

    assert (listed.status, listed.json()["data"], listed.headers["x-data-version"]) == (200, [], "0")
    assert (single.status, past.status) == (404, 404)


def test_versions_of_accounts_count_apart(one: Caller, other: Caller) -> None:
    for text in ("first", "second", "third"):
        one.publish(a=text)
    other.publish(a="theirs")

    versions = [
        [each["version"] for each in caller.get(f"{DATASETS}notes/versions/").json()["data"]["versions"]]
        for caller in (one, other)
    ]

    assert versions == [[3, 2, 1], [1]]
    assert [one.texts(f"?as_of={version}")["a"] for version in (1, 2, 3)] == ["first", "second", "third"]
    assert other.get(f"{PATH}?as_of=2").status == 404
    assert other.get(f"{DATASETS}notes/diff/?from=1&to=2").status == 404


def test_summary_history_difference_and_index_are_of_the_account(one: Caller, other: Caller) -> None:
    one.publish(a="1")
    one.publish(a="2", b="new")
    other.publish(a="theirs")

    summary = one.get(f"{DATASETS}notes/").json()["data"]
    difference = one.get(f"{DATASETS}notes/diff/").json()["data"]
    index = {each["dataset"]: each for each in one.get("/owned/public/index/").json()["data"]}
    changes = {each["slug"]: each["text"] for each in one.get("/owned/public/changes/").json()["data"]}

    assert (summary["per_account"], summary["version"], summary["items"]) == (True, 2, 2)
    assert ([each["slug"] for each in difference["added"]], len(difference["changed"])) == (["b"], 1)
    assert (index["notes"]["version"], index["notes"]["items"], len(index["notes"]["history"])) == (2, 2, 2)
    assert changes == {"a": "1>2", "b": ">new"}
    assert other.get(f"{DATASETS}notes/").json()["data"]["version"] == 1


def test_rejected_items_are_of_the_account(client: Client, one: Caller, other: Caller) -> None:
    with acting_as(as_account(one.account)):
        client.service.shared.datasets.publish({NOTES: [{"slug": 7}]}, source="test")

    assert [each["item"] for each in one.get(f"{DATASETS}notes/rejected/").json()["data"]] == [{"slug": 7}]
    assert other.get(f"{DATASETS}notes/rejected/").json()["data"] == []


def test_staff_roll_back_what_an_account_published(client: Client, one: Caller) -> None:
    staff = Caller(client, SYSTEM_ACCOUNT, "read", "staff")
    one.publish(a="1")
    one.publish(a="2")

    answer = staff.post(f"{DATASETS}notes/rollback/", {"version": 1}, **{"X-Account": str(one.account)})

    assert (answer.status, answer.json()["data"]["version"]) == (200, 3)
    assert eventually(lambda: one.texts() == {"a": "1"})
    assert staff.texts() == {}


def test_a_refusal_warns_its_account(client: Client, one: Caller, other: Caller) -> None:
    for caller in (one, other):
        caller.publish(a="good")
    client.service.shared.datasets.refuse("notes", "the source is away", source="test", account=one.account)

    def warning(caller: Caller) -> str | None:
        found: str | None = caller.get(PATH).json()["meta"].get("warning")
        return found

    assert eventually(lambda: warning(one) == "the source is away")
    assert warning(other) is None


def test_what_all_share_is_seen_by_all(client: Client, one: Caller, other: Caller) -> None:
    client.service.shared.datasets.publish({COLORS: [Color("red")]}, source="test")
    with acting_as(as_account(one.account)):
        client.service.shared.datasets.publish({NOTES: [Note("a", "x", "red")]}, source="test")

    assert eventually(lambda: client.get("/owned/public/colors/").json().get("data") == [{"slug": "red"}])
    assert one.get(f"{PATH}?include=color").json()["data"][0]["color"] == {"slug": "red"}
    assert other.get(f"{PATH}?include=color").json()["data"] == []
    assert other.get(f"{DATASETS}colors/").json()["data"]["version"] == 1


def test_a_request_publishes_what_all_share_and_a_job_of_an_account_does_not(client: Client, one: Caller) -> None:
    datasets = client.service.shared.datasets
    with acting_as(as_account(one.account)):
        outcomes = datasets.publish({COLORS: [Color("blue")], NOTES: [Note("a")]}, source="test")
        record = client.service.shared.jobs.run_inline("owned.publish_shared")

    assert {name: each.outcome for name, each in outcomes.items()} == {"colors": "published", "notes": "published"}
    assert (record.state, "cannot publish what all accounts share" in str(record.error)) == ("failed", True)


def test_a_job_publishes_for_the_account_that_started_it(client: Client, one: Caller, other: Caller) -> None:
    with acting_as(as_account(one.account)):
        record = client.service.shared.jobs.run_inline("owned.publish", {"texts": {"a": "by a job"}})

    assert (record.state, one.texts(), other.texts()) == ("succeeded", {"a": "by a job"}, {})


def test_outside_of_requests_the_account_must_be_said(client: Client, one: Caller) -> None:
    datasets = client.service.shared.datasets

    published = datasets.publish({NOTES: [Note("a", "said")]}, source="test", account=one.account)

    assert (published["notes"].version, one.texts()) == (1, {"a": "said"})
    assert [note.text for note in datasets.read("notes", account=one.account).items] == ["said"]
    with pytest.raises(ValueError, match="say of which"):
        datasets.publish({NOTES: []}, source="test")
    with pytest.raises(ValueError, match="say of which"):
        datasets.read("notes")


def test_a_request_cannot_name_another_account(client: Client, one: Caller, other: Caller) -> None:
    other.publish(a="theirs")
    assert other.texts() == {"a": "theirs"}  # now it is in memory

    assert one.get(f"/owned/of/{other.account}/").status == 403
    assert one.get(f"/owned/of/{one.account}/").json() == []
    with acting_as(as_account(one.account)), pytest.raises(ForbiddenError):
        client.service.shared.datasets.publish({NOTES: []}, source="test", account=other.account)


def test_accounts_with_equal_content_share_nothing(client: Client, one: Caller, other: Caller) -> None:
    for caller in (one, other):
        assert caller.publish(a="equal") == "published"

    with client.service.db.connection() as connection:
        rows = connection.execute(
            "SELECT account, sha256 FROM tiercel.dataset_content WHERE account IN (%s, %s)",
            [one.account, other.account],
        ).fetchall()

    assert len({sha256 for _, sha256 in rows}) == 1
    assert sorted(account for account, _ in rows) == sorted([one.account, other.account])


def test_responses_are_for_their_clients_only(one: Caller, other: Caller) -> None:
    one.publish(a="mine")
    other.publish(a="theirs")
    answer = one.get(PATH)
    etag = answer.headers["etag"]

    again, foreign = one.get(PATH, **{"If-None-Match": etag}), other.get(PATH, **{"If-None-Match": etag})

    assert answer.headers["cache-control"].startswith("private")
    assert {"Authorization", "X-API-Key", "X-Account", "Cookie"} <= set(answer.headers["vary"].split(", "))
    assert (again.status, foreign.status) == (304, 200)
    assert foreign.json()["data"][0]["text"] == "theirs"


class Reader:
    """Reads as random accounts, with validators of whatever account, and notes what is wrong.

    Args:
        callers: The accounts. Every text that one of them publishes begins with its number.
        seed: Of what it draws.
    """

    PATHS = (PATH, f"{PATH}?search=a", f"{PATH}a/", "/owned/public/changes/", f"{PATH}?include=color")

    def __init__(self, callers: list[Caller], seed: int) -> None:
        self._callers = callers
        self._draw = random.Random(seed)
        self._owners: dict[str, int] = {}
        self.statuses: list[int] = []
        self.wrong: list[object] = []

    def read(self, count: int = 60) -> None:
        """Send so many requests."""
        for _ in range(count):
            caller, path = self._draw.choice(self._callers), self._draw.choice(self.PATHS)
            sent = self._draw.choice(list(self._owners)) if self._owners else '"none"'
            answer = caller.get(path, **{"If-None-Match": sent})
            self.statuses.append(answer.status)
            if answer.status == 503:  # on a machine that is too busy, no connection becomes free in time
                continue
            if answer.status == 304:
                owners = {self._owners[sent]}
            else:
                owners = {int(part.partition(":")[0]) for part in _texts_in(answer.json()["data"])}
                self._owners[answer.headers["etag"]] = caller.account
            if owners != {caller.account}:
                self.wrong.append((path, answer.status, caller.account, owners))


def test_many_threads_never_get_what_is_another_accounts(client: Client) -> None:
    callers = [Caller(client, create_account(client)) for _ in range(4)]
    for caller in callers:
        caller.publish(a=f"{caller.account}:0")
    readers = [Reader(callers, seed) for seed in range(6)]

    def write() -> None:
        for number in range(1, 12):
            for caller in callers:
                caller.publish(a=f"{caller.account}:{number}")

    threads = [threading.Thread(target=each) for each in (write, *(reader.read for reader in readers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [reader.wrong for reader in readers] == [[]] * 6
    assert {200, 304} <= {status for reader in readers for status in reader.statuses} <= {200, 304, 503}
    for caller in callers:
        assert eventually(partial(has_text, caller, f"{caller.account}:11"))


def has_text(caller: Caller, text: str) -> bool:
    """Tell whether the note of an account has this text."""
    return caller.texts() == {"a": text}


def _texts_in(data: Any) -> list[str]:
    notes = data if isinstance(data, list) else [data]
    return [part for note in notes for part in note["text"].split(">") if part]


def test_other_processes_serve_a_new_version_to_its_account(serve: Serve) -> None:
    first, second = (serve(auth="required", plugins=OWNED) for _ in range(2))
    account, stranger = create_account(first), create_account(first)
    here, there = Caller(first, account), Caller(second, account)
    others_there = Caller(second, stranger)
    assert (there.texts(), others_there.texts()) == ({}, {})

    here.publish(a="1")
    assert eventually(lambda: there.texts() == {"a": "1"}, 3)
    here.publish(a="2")

    assert eventually(lambda: there.texts() == {"a": "2"}, 3)
    assert others_there.texts() == {}


def test_polling_finds_what_a_lost_notification_would_have_told(serve: Serve) -> None:
    client = serve(auth="required", plugins=OWNED)
    client.service.shared.listener._poll_interval_s = 0.3
    caller = Caller(client, create_account(client))
    for text in ("1", "2"):
        caller.publish(a=text)
    assert eventually(lambda: caller.texts() == {"a": "2"})
    with client.service.db.connection() as connection:
        connection.execute(
            "INSERT INTO tiercel.dataset_version (account, dataset, version, sha256, published_at) "
            "SELECT account, dataset, 3, sha256, now() FROM tiercel.dataset_version WHERE account = %s AND version = 1",
            [caller.account],
        )

    assert eventually(lambda: caller.texts() == {"a": "1"}, 5)


def test_what_was_read_is_served_while_the_database_is_away(serve: Serve, database: str) -> None:
    client = serve(auth="required", plugins=OWNED, db={"pool_timeout_s": 0.2, "connect_timeout_s": 1})
    known, unknown = (Caller(client, create_account(client)) for _ in range(2))
    known.publish(a="1")
    assert eventually(lambda: known.texts() == {"a": "1"})
    # The notification of the publication may come after the first read, and makes the process forget it.
    time.sleep(0.5)
    assert known.texts() == {"a": "1"}
    datasets = client.service.shared.datasets

    with outage(database):
        datasets._accounts.expire()
        with acting_as(as_account(known.account)):
            assert [note.text for note in datasets.read("notes").items] == ["1"]
        with acting_as(as_account(unknown.account)), pytest.raises(UnavailableError):
            datasets.read("notes")


def test_an_identity_that_is_limited_to_applications_reads_their_views_only(client: Client, one: Caller) -> None:
    one.publish(a="x")
    limited = Caller(client, one.account, applications=("skyflow",))

    statuses = {
        path: limited.get(path).status
        for path in (
            "/owned/public/skyflow/notes/",
            "/owned/public/nexus/notes/",
            PATH,
            "/owned/public/index/",
            f"{DATASETS}notes/",
            f"{DATASETS}notes/versions/",
            f"{DATASETS}notes/rejected/",
            f"{DATASETS}notes/diff/?from=1",
            f"{DATASETS}notes/diff/?from=1&application=nexus",
            f"{DATASETS}notes/diff/?from=1&application=skyflow",
        )
    }

    assert list(statuses.values()) == [200, 403, 403, 403, 200, 403, 403, 403, 403, 200]
    applications = limited.get("/api/v1/applications/").json()["data"]["results"]
    assert [each["slug"] for each in applications] == ["skyflow"]
    assert limited.post("/owned/publish/", {"a": "y"}).status == 200


def _leaky_view(services: Services) -> list[Route]:
    return [services.dataset_route("/leaky/public/notes/", NOTES)]


def _leaky_index(services: Services) -> list[Route]:
    return [services.index_route("/leaky/public/index/", [COLORS, NOTES])]


@pytest.mark.parametrize("register", [_leaky_view, _leaky_index])
def test_a_public_route_cannot_show_what_is_an_accounts(
    monkeypatch: pytest.MonkeyPatch, serve: Serve, register: Callable[[Services], list[Route]]
) -> None:
    hooks = {"register_datasets": lambda services: [NOTES, COLORS], "register_routes": register}
    plugin = install_plugin(monkeypatch, "leaky", hooks)

    with pytest.raises(TiercelError, match="dataset of accounts, but the route is public"):
        serve(plugins=["system", plugin], required=["leaky"])


def test_what_all_share_cannot_refer_to_what_is_an_accounts(monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    shared = Dataset(name="pages", item=Note, key="slug", relations={"color": "notes"})
    plugin = install_plugin(monkeypatch, "leaky", {"register_datasets": lambda services: [NOTES, COLORS, shared]})

    with pytest.raises(TiercelError, match="cannot refer to it"):
        serve(plugins=["system", plugin], required=["leaky"])


def test_files_for_all_to_read_have_no_data_of_accounts(serve: Serve, tmp_path: Path) -> None:
    client = serve(auth="required", plugins=OWNED, datasets={"files_dir": str(tmp_path)})
    Caller(client, create_account(client)).publish(a="private")
    client.service.shared.datasets.publish({COLORS: [Color("red")]}, source="test")

    assert eventually(lambda: (tmp_path / "colors.json").exists())
    assert [path.name for path in tmp_path.glob("*.json") if not path.name.startswith(".")] == ["colors.json"]


def test_the_time_of_a_version_is_of_the_account(one: Caller, other: Caller) -> None:
    one.publish(a="1")
    between = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    other.publish(a="theirs")
    one.publish(a="2")

    assert one.texts(f"?as_of={between}") == {"a": "1"}
    assert other.get(f"{PATH}?as_of={between}").status == 404


def test_applications_filter_what_the_account_has(monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    def only_b(items: list[Note]) -> list[Note]:
        return [note for note in items if note.slug == "b"]

    orbit = Application(slug="orbit", name="Orbit", filters={"notes": only_b})
    plugin = install_plugin(monkeypatch, "orbit", {"register_applications": lambda services: [orbit]})
    client = serve(auth="required", plugins=[*OWNED, plugin])
    callers = [Caller(client, create_account(client)) for _ in range(2)]
    for caller, text in zip(callers, ("mine", "theirs"), strict=True):
        caller.publish(a=text, b=text)

    seen = [caller.get("/owned/public/orbit/notes/").json()["data"] for caller in callers]

    assert [[(note["slug"], note["text"]) for note in notes] for notes in seen] == [
        [("b", "mine")],
        [("b", "theirs")],
    ]
