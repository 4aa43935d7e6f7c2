"""Accounts with all kinds of data, whose texts carry a marker of their account and site; and who has access to them."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import falcon.testing
import msgspec

from kernel.cli.serve import publish_demo_files
from kernel.testing import Client
from plugins.accounts.keys import NewKey
from plugins.accounts.sign_in.users import NewUser
from tests.hostile.isolation_model import ROLE_SCOPES, STAFF_ROLES, SYSTEM, Model, Row, Who
from tests.kernel.jobs.conftest import make_worker
from tests.owned import COLORS, Color
from tests.plugins.accounts.factories import PASSWORD, TestUser, accounts_of, basic
from tests.processes import eventually

# Names that are no part of any word, nor of one another.
NAMES = ("qzadaq", "qzbobq", "qzevaq", "qzlenq", "qzmaxq")
SYSTEM_NAME = NAMES[0]
# Whose requests only read: nothing of this account may change.
BYSTANDER = "qzmaxq"
WITHOUT_PLAN = "qzlenq"
ENDLESS = ("/events", "/live")
_READ_MAX_BYTES = 4 * 1024 * 1024
_RECENT = 60

Headers = dict[str, str]


class Answer(msgspec.Struct, frozen=True):
    """A response, or the beginning of one that does not end."""

    status: int
    headers: str
    content: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.content)

    def data(self) -> Any:
        """Return the body without its envelope."""
        body = self.json()
        return body["data"] if isinstance(body, dict) and "data" in body else body


class Caller(msgspec.Struct, frozen=True):
    """Somebody with credentials.

    Args:
        who: As the model knows them.
        headers: Returns those that authenticate a request.
        user: Number of the user; None for others.
        address: Where the requests come from.
    """

    who: Who
    headers: Callable[[], Headers]
    user: int | None = None
    address: str = "10.0.0.1"


class Account(msgspec.Struct, frozen=True):
    """An account, its sites, and everybody in it."""

    number: int
    name: str
    sites: tuple[int, int]
    callers: list[Caller] = []

    def site_name(self, site: int) -> str:
        """Return the marker of a site."""
        return f"{self.name}s{self.sites.index(site)}x"


class World:
    """What there is, in a service that has been seeded.

    Args:
        client: Of a service with a new database.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._sign_in = accounts_of(client).sign_in
        self._hash = self._sign_in.passwords.hash(PASSWORD)
        self._credentials: dict[int, dict[str, Headers]] = {}
        self.accounts: list[Account] = []
        # Rows by the path of their list; of the last ones that requests made, some are changed and deleted.
        self.rows: dict[str, list[Row]] = defaultdict(list)
        self.made: dict[tuple[str, int], deque[Row]] = defaultdict(lambda: deque(maxlen=_RECENT))
        self.owner_of: dict[str, int] = {}
        for index, name in enumerate(NAMES):
            self._add_account(name, is_system=index == 0)
        self._run_jobs()
        publish_demo_files(client.service)
        client.service.shared.datasets.publish({COLORS: [Color("red"), Color("blue")]}, source="test")
        self._end_plan()
        self.by_number = {account.number: account for account in self.accounts}
        site_accounts = {site: account.number for account in self.accounts for site in account.sites}
        plans = {account.number for account in self.accounts if account.name != WITHOUT_PLAN}
        self.model = Model(site_accounts, plans, {"skyflow", "nexus"})
        self.strangers = _strangers()

    # --- requests -----------------------------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        path: str,
        headers: Headers,
        body: bytes = b"",
        address: str = "10.0.0.1",
        *,
        first: bool = False,
    ) -> Answer:
        """Send a request; with ``first``, read only the first part of the body."""
        path, _, query = path.partition("?")
        environ = falcon.testing.create_environ(
            path=path,
            query_string=query,
            method=method,
            headers={"X-Forwarded-For": address, **headers},
            body=body,
            host="127.0.0.1",
        )
        started: list[Any] = []
        parts = self.client.service(environ, lambda *given: started.extend(given[:2]))
        content = bytearray()
        try:
            for part in parts:
                content += part
                if first or len(content) > _READ_MAX_BYTES:
                    break
        finally:
            if hasattr(parts, "close"):
                parts.close()
        status, sent = started
        return Answer(int(status[:3]), "\n".join(f"{name}: {value}" for name, value in sent), bytes(content))

    def send(self, caller: Caller, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request of somebody who may."""
        content = b"" if body is None else msgspec.json.encode(body)
        sent = {**caller.headers(), "Content-Type": "application/json", **headers}
        answer = self.call(method, path, sent, content, caller.address)
        assert answer.status < 300, (caller.who.name, method, path, answer)
        return answer

    def renew(self, user: int) -> None:
        """Sign a user in anew."""
        found = self._sign_in.users.find(user)
        assert found is not None
        sessions = self._sign_in.sessions
        token = self._sign_in.access_tokens.issue(sessions.begin(found, "token")[0])[0]
        cookie = sessions.begin(found, "cookie")[1]
        self._credentials[user] = {
            "jwt": {"Authorization": f"Bearer {token}"},
            "session": {"Cookie": f"tiercel_session={cookie}", "Sec-Fetch-Site": "same-origin"},
            "basic": basic(TestUser(user, found.email, PASSWORD)),
        }

    # --- data ---------------------------------------------------------------------------------------------------------

    def _add_account(self, name: str, *, is_system: bool) -> None:
        with self.client.service.db.transaction() as connection:
            if is_system:
                number = SYSTEM
                connection.execute("UPDATE accounts.account SET slug = %s WHERE id = %s", [name, number])
            else:
                made = connection.execute(
                    "INSERT INTO accounts.account (slug, name) VALUES (%(name)s, %(name)s) RETURNING id", {"name": name}
                ).fetchone()
                assert made is not None
                number = made[0]
                connection.execute(
                    "INSERT INTO accounts.subscription (account, plan) SELECT %s, id FROM accounts.plan"
                    " WHERE slug = 'unlimited'",
                    [number],
                )
            sites: list[int] = []
            for index in range(2):
                row = connection.execute(
                    "INSERT INTO accounts.site (account, slug, name, url) VALUES (%s, %s, %s, %s) RETURNING id",
                    [number, f"{name}s{index}x", f"{name}s{index}x", f"https://{name}s{index}x.example"],
                ).fetchone()
                assert row is not None
                sites.append(row[0])
        account = Account(number, name, (sites[0], sites[1]), [])
        self.accounts.append(account)
        self._add_users(account)
        self._add_keys(account)
        self._add_data(account)

    def _add_users(self, account: Account) -> None:
        one, two = account.sites
        roles: list[tuple[str | None, dict[int, str]]] = [(role, {}) for role in ROLE_SCOPES]
        roles += [(None, {one: "viewer"}), (None, {one: "admin", two: "viewer"}), (None, {two: "ingest"})]
        for index, (role, site_roles) in enumerate(roles):
            email = f"{role or 'site'}{index}.{account.name}@example.com"
            new = NewUser(account=account.number, email=email, name=f"{account.name} {role}", role=role)  # type: ignore[arg-type]
            user = self._sign_in.users.create(new, self._hash)
            with self.client.service.db.connection() as connection:
                for site, site_role in site_roles.items():
                    connection.execute(
                        "INSERT INTO accounts.site_user_access (account, site, user_id, role) VALUES (%s, %s, %s, %s)",
                        [account.number, site, user, site_role],
                    )
            self._sign_in.users.forget([str(user)])
            if role is not None:
                scopes = ROLE_SCOPES[role]
                if account.number == SYSTEM and role in STAFF_ROLES:
                    scopes |= {"staff"}
            else:
                scopes = frozenset.intersection(*(ROLE_SCOPES[each] for each in site_roles.values()))
            self.renew(user)
            for scheme in ("jwt", "session", "basic"):
                who = Who(
                    name=f"{scheme} of {email}",
                    account=account.number,
                    scopes=scopes,
                    role=role,
                    site_roles=site_roles,
                    sites=None if role is not None else frozenset(site_roles),
                    has_plan=account.name != WITHOUT_PLAN,
                )
                headers = _credentials_of(self._credentials, user, scheme)
                account.callers.append(Caller(who, headers, user, f"10.1.{user // 250}.{user % 250 + 1}"))

    def _add_keys(self, account: Account) -> None:
        one, two = account.sites
        everything: tuple[str, ...] = ("ingest", "read", "write")
        limits: list[tuple[tuple[str, ...], dict[str, Any]]] = [
            (("ingest",), {}), (("read",), {}), (("write",), {}), (("read", "write"), {}), (everything, {}),
            (everything, {"site": one}), (everything, {"site": two}),
            (everything, {"services": (f"{account.site_name(one)}svc",)}),
            (("read",), {"applications": ("skyflow",)}),
        ]  # fmt: skip
        if account.number == SYSTEM:
            limits += [(("read", "staff"), {}), ((*everything, "staff"), {})]
        for scopes, fields in limits:
            issued = accounts_of(self.client).keys.create(
                NewKey(account=account.number, name=f"{account.name} key", scopes=scopes, **fields)  # type: ignore[arg-type]
            )
            who = Who(
                name=f"key {scopes} {fields} of {account.name}",
                account=account.number,
                scopes=frozenset(scopes),
                sites=frozenset({fields["site"]}) if "site" in fields else None,
                services=frozenset(fields["services"]) if "services" in fields else None,
                applications=frozenset(fields["applications"]) if "applications" in fields else None,
                has_plan=account.name != WITHOUT_PLAN,
            )
            ways = {"X-API-Key": issued.secret}, {"Authorization": f"Api-Key {issued.secret}"}
            headers = ways[len(account.callers) % 2]
            account.callers.append(Caller(who, headers.copy))

    def _add_data(self, account: Account) -> None:
        owner = account.callers[0]
        for site in account.sites:
            name = account.site_name(site)
            sector = self.send(owner, "POST", "/api/v1/sectors/", {"site": site, "slug": name, "name": name}).data()
            for index in range(3):
                task = {"site": site, "sector": sector["id"], "title": f"{name} task {index}"}
                self.send(owner, "POST", "/api/v1/planner/tasks/", task)
        self.send(owner, "POST", "/owned/publish/", {f"{account.name}-{index}": account.name for index in range(3)})
        self.send(owner, "POST", "/owned/publish/", {f"{account.name}-{index}": account.name * 2 for index in range(2)})
        parameters = {"texts": {f"{account.name}-{index}": account.name for index in range(3)}}
        self.send(owner, "POST", "/api/v1/jobs/", {"name": "owned.publish", "parameters": parameters})
        self.send(owner, "POST", "/api/v1/jobs/", {"name": "owned.who"})
        self.ingest(account)
        answer = self.send(owner, "GET", "/api/v1/sites/", **{"X-Debug-Resource-Tracking": "true"})
        tracked = answer.headers.lower().partition("x-resource-tracking-id: ")[2].partition("\n")[0]
        assert tracked
        self.rows["/api/v1/resource-tracking"].append(Row(tracked, account.number))

    def ingest(self, account: Account) -> None:
        """Send request logs of each site."""
        for site in account.sites:
            name = account.site_name(site)
            events = [
                {
                    "time": (datetime.now(UTC) - timedelta(minutes=7 * index + 1)).isoformat(),
                    "service": f"{name}svc" if index % 2 else f"{name}web",
                    "endpoint": f"/{name}/{index % 5}",
                    "method": "GET",
                    "status_code": 200 + 100 * (index % 4),
                    "latency_ms": index,
                    "trace_id": f"{name}-trace-{index % 4}",
                    "user_ref": f"{name}-user",
                    "tags": {"of": name},
                }
                for index in range(40)
            ]
            caller = next(each for each in account.callers if each.user is None and each.who.sites == frozenset({site}))
            self.send(caller, "POST", "/api/requests/ingest/", events)

    def _run_jobs(self) -> None:
        """Run the jobs that wait: those of requests to come will wait for ever."""
        jobs = self.client.service.shared.jobs
        worker = make_worker(self.client.service)
        worker.start()
        assert eventually(lambda: jobs.figures().waiting_count + jobs.figures().running_count == 0)
        worker.stop()
        assert worker.join(10)

    def _end_plan(self) -> None:
        with self.client.service.db.connection() as connection:
            connection.execute(
                "UPDATE accounts.subscription SET status = 'cancelled' FROM accounts.account"
                " WHERE account.id = account AND account.slug = %s",
                [WITHOUT_PLAN],
            )
        # Tell every cache.
        self._sign_in.users.forget(["*"])
        accounts_of(self.client).keys.forget(["*"])

    def discover(self, lists: Sequence[tuple[str, str]]) -> None:
        """Learn the ids of rows from lists, as the owner of each account sees them.

        Args:
            lists: Path of the list, and name of the field with the id.
        """
        for path, field in lists:
            for account in self.accounts:
                if account.name == WITHOUT_PLAN:
                    continue
                answer = self.call("GET", f"{path}/", account.callers[0].headers())
                if answer.status != 200:
                    continue
                body = answer.data()
                items = body.get("results", []) if isinstance(body, dict) else body
                for item in items:
                    if isinstance(item, dict) and field in item:
                        number = item["id"] if path == "/api/v1/accounts" else item.get("account", account.number)
                        site = item["id"] if path == "/api/v1/sites" else item.get("site")
                        self.add(path, Row(str(item[field]), number, site, is_kept="/requests" not in path))

    def add(self, path: str, row: Row) -> None:
        """Remember a row."""
        self.rows[path].append(row)
        if len(row.id) == 36 and row.account is not None:
            self.owner_of[row.id] = row.account

    def foreign_texts(self, number: int | None) -> Iterator[str]:
        """List texts of other accounts, as requests may name them."""
        for account in self.accounts:
            if account.number != number:
                for site in account.sites:
                    name = account.site_name(site)
                    yield from (account.name, name, f"{name}svc", f"/{name}/1", f"{name}-trace-1", f"{account.name}-1")

    def markers(self, seer: Who | None, who: Who, template: str) -> list[str]:
        """Return the texts that a response may not contain.

        Args:
            seer: Whose data it may show.
            who: Who sent the request, whose own name may be in an error.
            template: Of the route.
        """
        own = {who.account, None if seer is None else seer.account}
        forbidden = [account.name for account in self.accounts if account.number not in own]
        for account in self.accounts:
            if (
                seer is not None
                and account.number == seer.account
                and seer.sites is not None
                and "audit" not in template
            ):
                forbidden += [account.site_name(site) for site in account.sites if site not in seer.sites]
            if (
                seer is not None
                and account.number == seer.account
                and seer.services is not None
                and "requests" in template
            ):
                names = [f"{account.site_name(site)}{kind}" for site in account.sites for kind in ("svc", "web")]
                forbidden += [name for name in names if name not in seer.services]
        return forbidden


def _credentials_of(all_credentials: dict[int, dict[str, Headers]], user: int, scheme: str) -> Callable[[], Headers]:
    return lambda: all_credentials[user][scheme]


def _strangers() -> list[Caller]:
    """Return those who are nobody: without credentials, or with wrong ones."""
    wrong: dict[str, Headers] = {
        "nobody": {},
        "malformed key": {"X-API-Key": "tk_x"},
        "unknown key": {"Authorization": f"Api-Key tk_{'a' * 8}_{'b' * 43}"},
        "malformed token": {"Authorization": "Bearer a.b.c"},
        "unsigned token": {"Authorization": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0."},
        "wrong cookie": {"Cookie": "tiercel_session=abc", "Sec-Fetch-Site": "same-origin"},
        "malformed Basic": {"Authorization": "Basic ???"},
        "unknown scheme": {"Authorization": "Digest x"},
    }
    return [Caller(Who(name=name), headers.copy) for name, headers in wrong.items()]
