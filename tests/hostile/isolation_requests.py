"""Makes requests of everybody to every route at random, and compares the responses with the model."""

from __future__ import annotations

import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any
from urllib.parse import quote, unquote_plus, urlencode

import msgspec
from msgspec import inspect

from kernel.http.forms import form_type, texts_of
from kernel.http.request import RawBody, StreamBody
from kernel.http.routing import MountedRoute, methods_of
from tests.hostile.fuzz import argument_types, make_query, make_value, type_info
from tests.hostile.isolation_model import SYSTEM, Asked, Prediction, Row, Who, as_api, may, sees_all
from tests.hostile.isolation_world import BYSTANDER, ENDLESS, SYSTEM_NAME, Account, Answer, Caller, Headers, World

# No request takes a second by itself; machines that run tests are busy.
TIME_LIMIT_S = 20.0
INGEST_EVERY = 4000
_PARAMETER = re.compile(r"\{([a-z_]+)\}")
_UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
# How often routes are drawn that take long, by a pattern in their path; others have 1. Of 25,000 requests, ten and more
# should be let in on each route.
_WEIGHTS = {
    "^/requests$": 0.15, "^/requests/list$": 0.2, "^/metrics$": 0.2, "^/api/schema$": 0.2, "^/api/redoc$": 0.2,
    "/sign-in": 0.15, "/auth/reset": 0.1, "/auth/change": 0.6, "/auth/sign-out": 0.3, "/requests/export": 0.15,
    "export": 0.3, "timeseries": 0.15, "hourly": 0.15, "daily": 0.2, "kpis": 0.2, "top-endpoints": 0.2,
    "/services": 0.2, "/endpoints": 0.15, "/events": 0.2, "import": 0.2, "public": 0.3,
    "readyz": 0.1, "/health": 0.1, "/stats": 0.3,
    "/club/sources": 0.6, "/trace/freshness": 0.6, "/account/switch": 0.4,
    "/admin/(accounts|site-access|subscriptions|users)": 0.3, "/system/datasets/versions": 0.3, "/jobs/start": 0.3,
    "/catalog": 0.2, "/poke": 0.2, "/publish": 0.3,
}  # fmt: skip
_PAGE_WEIGHT = 0.15
# Names of parameters and fields that are numbers of something, with the list of these.
_LISTS = {
    "site": "/api/v1/sites", "account": "/api/v1/accounts", "plan": "/api/v1/plans", "user_id": "/api/v1/users",
    "sector": "/api/v1/sectors", "id": "", "created_by": "/api/v1/users",
}  # fmt: skip
# Fields that decide on what others may do, by the list.
_DECISIVE = {"/api/v1/subscriptions": {"account"}, "/api/v1/site-access": {"user_id"}}
# These may name the members of staff that acted for an account, and what its members asked for in vain.
_JOURNALS = ("/api/v1/audit", "/admin/audit", "/api/v1/jobs", "/api/v1/datasets", "/system/jobs", "/system/schedules")
_STAFF = re.compile(
    rb'"query":\[[^\]]*\]|path,/[^,]*,|"id":"/[^"]*"|'
    rb'target_id=%%2F[^"]*"|<bdi>path /[^<]*<|<dt><bdi>query</bdi></dt>\s*<dd><del>[^\n]*|'
    rb"user \d+ \(\w+\.%b@example\.com\)|key tk_\w+ \(%b key\)" % ((SYSTEM_NAME.encode(),) * 2)
)
_STARTED_BY = re.compile(rb'"started_by":"[^"]*"|<span class="starter">.*?</span>')
_ASKED_ACCOUNT = re.compile(r"[?&]account=([^&]+)")
_ALL_ACCOUNTS = re.compile(r"[?&]all_accounts=(?:1|true|t|yes|y|on)(?:&|$)", re.IGNORECASE)
# What is made here is everybody's, or nobody's.
_SHARED = ("/api/v1/plans", "/api/v1/auth")
# What comes from where passwords are guessed is slowed down.
_PASSWORD_PATHS = ("/api/v1/auth/", "/sign-in", "/reset-password", "/account")
# Schemes with which a cookie may name the account to act for.
_BROWSERS = ("session", "basic")
# Whoever may not act for the account of the cookie any more goes back to the own one, or signs out.
_WAYS_BACK = ("/account/switch", "/sign-out")
_NAMED = frozenset({"name", "slug", "title", "service", "endpoint", "user_ref", "trace_id", "text"})
_JOBS = ("owned.who", "owned.publish", "owned.publish", "owned.service", "trace.refresh", "nothing")


class Finding(msgspec.Struct, frozen=True):
    """What should not have happened."""

    problem: str
    number: int
    who: str
    request: str
    response: bytes


class Plan(msgspec.Struct, frozen=True):
    """A request that is about to be sent.

    Args:
        caller: Who sends it.
        asked: What the model is told of it.
        path: Path and query.
        headers: Without credentials.
        body: The body.
        address: Where it comes from.
        mentioned: Texts of other accounts in it, which errors may repeat.
    """

    caller: Caller
    asked: Asked
    path: str
    headers: Headers
    body: bytes
    address: str
    mentioned: tuple[str, ...] = ()


class Requests:
    """Makes requests and sends them, one after another.

    Args:
        world: What there is.
        routes: Those of the service.
        seed: Repeats the requests.
    """

    def __init__(self, world: World, routes: Sequence[MountedRoute], seed: int) -> None:
        self._world = world
        self._routes = [
            (route, method, argument_types(route)) for route in routes for method in methods_of(route.route)
        ]
        self._cumulative_weights = list(accumulate(map(_weight, (route for route, _, _ in self._routes))))
        self._draw = random.Random(seed)
        self._bystander = next(account for account in world.accounts if account.name == BYSTANDER)
        lists = {route.template for route in routes if "{" not in route.template and not route.is_page}
        # Whoever changes a row sends the same fields as for a new one.
        self._fields_of_rows = {
            as_api(method, route.template)[1]: form_type(types["form"])
            for route, method, types in self._routes
            if method == "POST" and route.template.endswith("/new")
        }
        found = ((route.template.partition("/{")[0], _PARAMETER.search(route.template)) for route in routes)
        self._lists = sorted({(path, name[1]) for path, name in found if name is not None and path in lists})
        self._able: dict[tuple[str, str, str], Sequence[Sequence[Caller]]] = {}
        self.statuses: dict[str, Counter[int]] = defaultdict(Counter)
        self.let_in: Counter[str] = Counter()
        self.findings: list[Finding] = []
        self.slowest: tuple[float, str] = (0.0, "")
        self.spent_s: dict[str, float] = defaultdict(float)

    def run(self, count: int) -> None:
        """Send so many requests."""
        self._world.discover(self._lists)
        self._find_requests()
        for number in range(count):
            if number % INGEST_EVERY == INGEST_EVERY - 1:
                for account in self._world.accounts:
                    if account is not self._bystander and self._world.model.has_plan(account.number):
                        self._world.ingest(account)
            self._send(number, self._make(number))

    @property
    def routes(self) -> set[str]:
        """Every route, with its method."""
        return {f"{method} {route.template}" for route, method, _ in self._routes}

    def report(self) -> str:
        """Return statuses by route."""
        lines = [
            f"{route:70} let in {self.let_in[route]:6} {self.spent_s[route] * 1000 / sum(counts.values()):6.1f} ms"
            f"  {dict(sorted(counts.items()))}"
            for route, counts in sorted(self.statuses.items())
        ]
        return "\n".join([*lines, f"slowest: {self.slowest}"])

    # --- making -------------------------------------------------------------------------------------------------------

    def _find_requests(self) -> None:
        """Learn the sites of request logs, which their lists do not show, from their texts."""
        for path in ("/api/requests", "/api/v1/requests"):
            for account in self._world.accounts:
                answer = self._world.call("GET", f"{path}/?page_size=200", account.callers[0].headers())
                for item in answer.data()["results"] if answer.status == 200 else []:
                    owner = next((each for each in self._world.accounts if each.name in item["service"]), None)
                    if owner is not None:
                        self._world.add(path, Row(item["id"], owner.number))

    def _make(self, number: int) -> Plan:
        draw = self._draw
        ((mounted, method, types),) = draw.choices(self._routes, cum_weights=self._cumulative_weights)
        route, template = mounted.route, mounted.template
        is_safe = method == "GET"
        caller = self._choose_caller(route.policy, method, template)
        who = caller.who
        headers: Headers = {}
        named_account, named_site = self._select(who, headers, is_safe=is_safe)
        account = who.account if named_account in (None, -1) else named_account
        mentioned: list[str] = []
        is_proper = draw.random() < 0.6
        path, row, application = self._fill(template, account, mentioned, is_safe=is_safe)
        is_way_back = path.rstrip("/") in _WAYS_BACK and "X-Site" not in headers
        if not is_proper:
            path += self._query(route.query or types.get("query"), account, mentioned)
        body = b""
        if "body" in types:
            body = self._body(types["body"], account, _site_of(who, named_site), template, headers, row)
        if "form" in types:
            headers |= {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
            body = self._form(template, account, row, mentioned)
        if template == "/api/v1/auth/sign-in" and draw.random() < 0.3:
            body = b'{"email":"nobody@example.com","password":"' + str(number).encode() * 5 + b'"}'
        if draw.random() < 0.02:
            headers["X-Debug-Resource-Tracking"] = "true"
        is_guessing = template.startswith(_PASSWORD_PATHS) and method == "POST"
        address = f"10.{draw.randrange(100, 250)}.{draw.randrange(250)}.7" if is_guessing else caller.address
        if row is not None and draw.random() < 0.02:
            strange = quote(draw.choice(["x", "-1", "1e3", "%", "..;"]))
            path, row = template.replace("{id}", strange).replace("{tracking_id}", strange), Row(strange, None)
        # An id of another type is noticed before who may use it.
        is_proper = is_proper and (row is None or row.account is not None)
        asked = Asked(
            method=method,
            template=template,
            policy=route.policy,
            named_account=None if is_way_back and "Cookie" in headers else named_account,
            named_site=named_site,
            application=application,
            row=row,
            asked_account=unquote_plus(found[1]) if (found := _ASKED_ACCOUNT.search(path)) else None,
            is_proper=is_proper and (is_safe or types.keys().isdisjoint({"body", "form"})),
            is_of_all=_ALL_ACCOUNTS.search(path) is not None,
        )
        return Plan(caller, asked, path, headers, body, address, tuple(mentioned))

    def _choose_caller(self, policy: str, method: str, template: str) -> Caller:
        """Choose who sends a request: mostly somebody who may."""
        draw, world = self._draw, self._world
        chance = draw.random()
        if chance < 0.03:
            return draw.choice(world.strangers)
        accounts = [each for each in world.accounts if method == "GET" or each is not self._bystander]
        if chance < 0.7 and (able := self._list_able(policy, method, template)):
            return draw.choice(draw.choice(able))
        return draw.choice(draw.choice(accounts).callers)

    def _list_able(self, policy: str, method: str, template: str) -> Sequence[Sequence[Caller]]:
        """Return who may use a route, by account."""
        key = (policy, method, template)
        if key not in self._able:
            found = [
                [
                    each
                    for each in account.callers
                    if each.who.has_plan and policy in each.who.scopes and may(each.who, method, template)
                ]
                for account in self._world.accounts
                if method == "GET" or account is not self._bystander
            ]
            self._able[key] = [callers for callers in found if callers]
        return self._able[key]

    def _select(self, who: Who, headers: Headers, *, is_safe: bool) -> tuple[int | None, int | None]:
        """Name an account and a site, or not, in the headers."""
        draw, world = self._draw, self._world
        account = site = None
        if draw.random() < (0.5 if who.is_staff else 0.02):
            named = draw.choice([each for each in world.accounts if is_safe or each is not self._bystander])
            account, text = named.number, draw.choice([str(named.number), named.name])
            if draw.random() < 0.05:
                account, text = -1, "qznobodyq"
            if who.name.startswith(_BROWSERS) and draw.random() < 0.5:
                headers["Cookie"] = f"tiercel_account={text}"
            else:
                headers["X-Account"] = text
        if draw.random() < 0.12:
            acting = account if account not in (None, -1) else who.account
            own = [each for each in world.accounts if each.number == acting]
            named = draw.choice(own) if own and draw.random() < 0.7 else draw.choice(world.accounts)
            site = draw.choice(named.sites)
            headers["X-Site"] = str(site)
            if draw.random() < 0.05:
                site, headers["X-Site"] = -1, "999999"
        return account, site

    def _fill(
        self, template: str, account: int | None, mentioned: list[str], *, is_safe: bool
    ) -> tuple[str, Row | None, str | None]:
        """Return a path with values for its parameters, and what they name."""
        draw, world = self._draw, self._world
        row: Row | None = None
        application: str | None = None
        names = _PARAMETER.findall(template)
        collection = as_api("GET", template)[1].partition("/{")[0]

        def fill(found: re.Match[str]) -> str:
            nonlocal row, application
            name = found[1]
            if name == "application":
                application = draw.choice(["skyflow", "skyflow", "nexus", "nexus", "nothing"])
                return application
            if rows := world.rows[collection]:
                row = self._choose_row(collection, rows, account, is_safe=is_safe)
                text = row.id
                mentioned.append(text)
                if name not in {"id", "tracking_id"}:
                    # A name, which several accounts may have.
                    row = None
                return text
            if name == "job":
                return draw.choice(_JOBS)
            if name == "account":
                return str(draw.choice(world.accounts).number)
            texts = list(world.foreign_texts(account)) if draw.random() < 0.4 else []
            own = world.by_number.get(account) if account is not None else None
            if not texts and own is not None:
                texts = [f"{own.name}-0", f"{own.site_name(own.sites[0])}-trace-1", "free", "beacon"]
            text = draw.choice([each for each in texts if "/" not in each] or ["free", "beacon", "x"])
            mentioned.append(text)
            return text

        path = _PARAMETER.sub(fill, template)
        if [name for name in names if name != "application"][1:]:
            row = None
        return path if path.endswith(".csv") or draw.random() < 0.3 else f"{path}/", row, application

    def _choose_row(self, collection: str, rows: list[Row], account: int | None, *, is_safe: bool) -> Row:
        draw, world = self._draw, self._world
        chance = draw.random()
        if chance < 0.05:
            return Row(draw.choice(["99999999", "01997a5e-0000-7000-8000-000000000000", "nothing"]), None)
        # What staff may change is not changed: it is what the model relies on.
        may_be_foreign = is_safe or not (account == SYSTEM or collection.startswith(_SHARED))
        if chance < 0.4 and may_be_foreign and (foreign := self._pick(rows, lambda row: row.account != account)):
            return foreign
        made = world.made[collection, account if account is not None else -1]
        if not is_safe:
            return draw.choice(made) if made else Row("99999999", None)
        if made and draw.random() < 0.3:
            return draw.choice(made)
        return self._pick(rows, lambda row: row.account == account) or draw.choice(rows)

    def _pick(self, rows: Sequence[Row], is_wanted: Callable[[Row], bool]) -> Row | None:
        """Choose one of the wanted rows; None if there is none. They become many: mostly, few are looked at."""
        for _ in range(20 if rows else 0):
            row = self._draw.choice(rows)
            if is_wanted(row):
                return row
        wanted = [row for row in rows if is_wanted(row)]
        return self._draw.choice(wanted) if wanted else None

    def _query(self, kind: Any, account: int | None, mentioned: list[str]) -> str:
        draw = self._draw
        if draw.random() < 0.4 or not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
            return make_query(draw, kind)
        fields = [field.encode_name for field in _fields(kind)]
        name = draw.choice(fields) if fields else "search"
        if name in _LISTS or name == "account":
            value = str(self._number(name, account))
        else:
            value = draw.choice(list(self._world.foreign_texts(account)))
            mentioned.append(value)
        return f"?{name}={quote(value)}"

    def _number(self, name: str, account: int | None) -> int:
        """Return the number of something: mostly of the account's own, or else of another one's."""
        rows = self._world.rows[_LISTS[name]] if _LISTS[name] else []
        if not rows:
            return self._draw.randrange(50)
        own = self._pick(rows, lambda row: row.account == account) if self._draw.random() < 0.7 else None
        return int((own or self._draw.choice(rows)).id)

    def _made_number(self, name: str, account: int | None) -> int:
        """Return the number of something that a request made, on which the model does not rely; or of another's."""
        made = self._world.made[_LISTS[name], account if account is not None else -1]
        if made:
            return int(self._draw.choice(made).id)
        foreign = self._pick(self._world.rows[_LISTS[name]], lambda row: row.account != account)
        return int(foreign.id) if foreign is not None and account != SYSTEM else 99999999

    def _body(
        self, kind: Any, account: int | None, site: int | None, template: str, headers: Headers, row: Row | None
    ) -> bytes:
        draw, world = self._draw, self._world
        own = world.by_number.get(account) if account is not None else None
        headers["Content-Type"] = "application/json"
        if template.endswith("/import"):
            headers["Content-Type"] = "text/csv"
            return self._file(template, account)
        if kind is RawBody or kind is StreamBody:
            return msgspec.json.encode([self._event(own, site) for _ in range(draw.choice([1, 1, 3]))])
        collection = template.partition("/{")[0]
        body = self._value(kind, account, collection)
        if not isinstance(body, dict) or draw.random() < 0.1:
            return msgspec.json.encode(body)
        name = own.name if own is not None and not template.startswith(_SHARED) else "nobody"
        if template == "/api/v1/jobs":
            body["name"] = draw.choice(_JOBS)
            body["parameters"] = {"texts": {f"{name}-new": name}} if body["name"] == "owned.publish" else {}
        elif template == "/owned/publish":
            body = {f"{name}-{index}": name for index in range(draw.choice([1, 3]))}
        else:
            self._mark(body, name, account, collection)
            if row is not None and draw.random() < 0.3:
                body = {field: value for field, value in body.items() if draw.random() < 0.4}
        return msgspec.json.encode(body)

    def _form(self, template: str, account: int | None, row: Row | None, mentioned: list[str]) -> bytes:
        """Fill in the form of a row, or the one that names an account to act for; leave others empty."""
        draw, world = self._draw, self._world
        if template == "/account/switch":
            other = draw.choice(world.accounts)
            mentioned.append(other.name)
            return urlencode({"account": draw.choice([other.name, str(other.number), ""])}).encode()
        collection = as_api("POST", template)[1].partition("/{")[0]
        if collection not in self._fields_of_rows or not template.endswith(("/new", "/{id}")):
            return b""
        body = self._value(self._fields_of_rows[collection], account, collection)
        if not isinstance(body, dict):
            return b"=&=;%"
        own = world.by_number.get(account) if account is not None else None
        self._mark(body, own.name if own is not None and collection not in _SHARED else "nobody", account, collection)
        if row is not None and draw.random() < 0.3:
            body = {field: value for field, value in body.items() if draw.random() < 0.4}
        return urlencode({name: texts_of(value) for name, value in body.items()}, doseq=True, errors="replace").encode()

    def _value(self, kind: Any, account: int | None, collection: str) -> Any:
        """Return a value of a type. What decides is not random: it would at times be of an account that is there."""
        value = make_value(self._draw, type_info(kind))
        if isinstance(value, dict):
            for field in sorted(value.keys() & _DECISIVE.get(collection, set())):
                value[field] = self._made_number(field, account)
        return value

    def _mark(self, body: dict[str, Any], name: str, account: int | None, collection: str) -> None:
        """Give the fields of a body values that there are, and texts with the marker of its account."""
        serial = self._draw.randrange(10**9)
        for field in list(body):
            if field in _DECISIVE.get(collection, ()):
                continue
            if field in _LISTS and body[field] is not None:
                body[field] = self._number(field, account)
            elif field in _NAMED:
                body[field] = f"{name}-{serial}"
            elif field == "email":
                body[field] = f"{name}{serial}@example.com"
            elif field in {"services", "applications", "expires_at", "url"}:
                del body[field]

    def _event(self, own: Account | None, site: int | None) -> dict[str, Any]:
        draw = self._draw
        name = own.name if own is not None else "nobody"
        if own is not None and site in own.sites:
            name = own.site_name(site)
        event = {"service": f"{name}{draw.choice(['svc', 'web'])}", "endpoint": f"/{name}/{draw.randrange(5)}"}
        return {
            "time": _now(), "method": "GET", "status_code": 200, "latency_ms": 5, "trace_id": f"{name}-trace-1", **event
        }  # fmt: skip

    def _file(self, template: str, account: int | None) -> bytes:
        own = self._world.by_number.get(account) if account is not None else None
        if own is None:
            return b"x\n"
        answer = self._world.call("GET", template.replace("import", "export.csv"), own.callers[0].headers())
        return answer.content[:20_000]

    # --- sending ------------------------------------------------------------------------------------------------------

    def _send(self, number: int, plan: Plan) -> None:
        world, asked = self._world, plan.asked
        predicted = world.model.predict(plan.caller.who, asked)
        headers = {**plan.headers, **plan.caller.headers()}
        if "Cookie" in plan.headers and headers["Cookie"] != plan.headers["Cookie"]:
            headers["Cookie"] += f"; {plan.headers['Cookie']}"
        name = f"{asked.method} {asked.template}"
        started = time.monotonic()
        try:
            answer = world.call(
                asked.method, plan.path, headers, plan.body, plan.address, first=asked.template.endswith(ENDLESS)
            )
        except Exception as ex:
            answer = Answer(599, "", repr(ex).encode())
        took_s = time.monotonic() - started
        self.slowest = max(self.slowest, (took_s, name))
        self.spent_s[name] += took_s
        self.statuses[name][answer.status] += 1
        # What it asks for need not be there; and who signs in with what is random is let in to be refused.
        is_sign_in = asked.template == "/api/v1/auth/sign-in"
        if predicted.is_let_in and (is_sign_in or answer.status not in {401, 402, 403, 429, 500, 503}):
            self.let_in[name] += 1
        for problem in self._problems(plan, predicted, answer, took_s):
            shown = f"{asked.method} {plan.path} {plan.headers} {plan.body[:400]!r}"
            self.findings.append(
                Finding(problem, number, plan.caller.who.name, shown, _excerpt(answer.content, problem))
            )
        self._learn(plan, predicted, answer)

    def _problems(self, plan: Plan, predicted: Prediction, answer: Answer, took_s: float) -> list[str]:
        asked = plan.asked
        name = f"{asked.method} {asked.template}"
        problems = []
        if answer.status >= 500:
            problems.append(f"{name}: status {answer.status}")
        elif answer.status not in predicted.statuses:
            problems.append(f"{name}: status {answer.status}, expected {sorted(predicted.statuses)}")
        if took_s > TIME_LIMIT_S:
            problems.append(f"{name}: took {took_s:.1f} s")
        return problems + [f"{name}: leaks {leak}" for leak in self._leaks(plan, predicted.seer, answer)]

    def _leaks(self, plan: Plan, seer: Who | None, answer: Answer) -> list[str]:
        """Return what a response shows of other accounts."""
        asked, who = plan.asked, plan.caller.who
        if sees_all(seer, asked):
            return []
        shown = answer.content + answer.headers.encode()
        if is_journal := asked.template.startswith(_JOURNALS):
            # As JSON, in CSV as well.
            shown = _STAFF.sub(b"", shown.replace(b'""', b'"'))
        if is_journal and SYSTEM in {who.account, None if seer is None else seer.account}:
            # A route may start a job of the service for anybody; the system account sees these.
            shown = _STARTED_BY.sub(b"", shown)
        # What a request says itself, an error may repeat, and a page in its links.
        said = (
            *plan.mentioned,
            *(who.services or ()),
            plan.headers.get("X-Account", ""),
            plan.headers.get("Cookie", "").partition("=")[2],
        )
        for text in sorted(said, key=len, reverse=True):
            if text:
                shown = shown.replace(text.encode(), b"").replace(quote(text, safe="").encode(), b"")
        leaks = [each for each in self._world.markers(seer, who, asked.template) if each.encode() in shown]
        own = {who.account, None if seer is None else seer.account}
        if not is_journal:
            for found in set(_UUID.findall(shown)):
                owner = self._world.owner_of.get(found.decode())
                if owner is not None and owner not in own and found.decode() not in plan.path:
                    leaks.append(f"an id of account {owner}")
        return leaks

    def _learn(self, plan: Plan, predicted: Prediction, answer: Answer) -> None:
        """Remember what a request made or ended."""
        asked, seer = plan.asked, predicted.seer
        if asked.template == "/sign-out" and answer.status == 303 and plan.caller.user is not None:
            self._world.renew(plan.caller.user)
        if answer.status >= 300 or seer is None or seer.account is None:
            return
        if asked.template.startswith("/api/v1/auth/") and plan.caller.user is not None and asked.method == "POST":
            self._world.renew(plan.caller.user)
        _, _, tracked = answer.headers.lower().partition("x-resource-tracking-id: ")
        if tracked:
            text = tracked.partition("\n")[0]
            self._world.owner_of[text] = seer.account
            self._world.made["/api/v1/resource-tracking", seer.account].append(Row(text, seer.account))
        # What pages make is not learnt, but for the secrets of keys they only lead there.
        is_page = asked.template != as_api(asked.method, asked.template)[1]
        if is_page or asked.method != "POST" or answer.status not in {201, 202} or "{" in asked.template:
            return
        made = answer.data()
        made = made.get("key", made) if isinstance(made, dict) else {}
        if "id" in made:
            # What staff makes for another account is that one's.
            number = made["id"] if asked.template == "/api/v1/accounts" else made.get("account", seer.account)
            row = Row(str(made["id"]), number, made.get("site"))
            self._world.made[asked.template, seer.account].append(row)
            if len(row.id) == 36:
                self._world.owner_of[row.id] = seer.account


def _weight(route: MountedRoute) -> float:
    found = (weight for pattern, weight in _WEIGHTS.items() if re.search(pattern, route.template))
    return min(found, default=_PAGE_WEIGHT if route.is_page else 1.0)


def _excerpt(content: bytes, problem: str) -> bytes:
    """Return the part of a response that shows a problem."""
    at = max(0, content.find(problem.rpartition(" ")[2].encode()))
    return content[max(0, at - 300) : at + 300]


def _site_of(who: Who, named_site: int | None) -> int | None:
    """Return the only site that somebody acts for; None for several."""
    if named_site is not None:
        return named_site
    return next(iter(who.sites)) if who.sites is not None and len(who.sites) == 1 else None


def _fields(kind: Any) -> tuple[inspect.Field, ...]:
    info = type_info(kind)
    return info.fields if isinstance(info, inspect.StructType) else ()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
