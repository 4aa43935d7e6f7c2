"""Who may see what, in plain words: predicts the response to a request from who sends it, and what it is for.

The model shares no code with the service. It knows accounts, plans, scopes, roles, sites and applications, but nothing
of what single routes do, beyond who is let in to the routes of accounts.
"""

from __future__ import annotations

from functools import cache

import msgspec

SYSTEM = 0
ROLE_SCOPES = {
    "owner": frozenset({"ingest", "read", "write"}),
    "admin": frozenset({"ingest", "read", "write"}),
    "developer": frozenset({"ingest", "read", "write"}),
    "viewer": frozenset({"read"}),
    "ingest": frozenset({"ingest"}),
}
STAFF_ROLES = frozenset({"owner", "admin", "developer"})
READING = frozenset({"GET", "HEAD"})
SUCCESS = frozenset({200, 201, 202, 204, 303, 304})
# What is wrong with a request may be noticed before who may do what it asks for.
MALFORMED = frozenset({400, 413, 415})
NO_SUCH = frozenset({404})
FORBIDDEN = frozenset({403})
# Routes on which staff that names no account sees the rows of all.
OF_ALL_ACCOUNTS = (
    "/api/v1/accounts", "/api/v1/subscriptions", "/api/v1/plans", "/admin/usage", "/stats", "/account", "/search"
)  # fmt: skip
# Pages about what routes of the API are about as well, by the beginning of their path.
_PAGES = {
    # The API shows the usage of the own account only.
    "/admin/usage": "/admin/usage",
    "/admin": "/api/v1",
    "/planner": "/api/v1/planner",
    "/requests/events": "/api/v1/requests",
    "/system/jobs": "/api/v1/jobs",
}


class Who(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody, as the model knows them.

    Args:
        name: For messages.
        account: Their account; None for credentials that are no good, or none.
        scopes: What they may do.
        role: Of a user in the account.
        site_roles: Of a user without one, by site.
        sites: The sites they see; None for all.
        services: The services they see; None for all.
        applications: The applications they see; None for all.
        has_plan: Whether the account has a plan.
    """

    name: str
    account: int | None = None
    scopes: frozenset[str] = frozenset()
    role: str | None = None
    site_roles: dict[int, str] = {}
    sites: frozenset[int] | None = None
    services: frozenset[str] | None = None
    applications: frozenset[str] | None = None
    has_plan: bool = True

    @property
    def is_staff(self) -> bool:
        return "staff" in self.scopes

    @property
    def is_manager(self) -> bool:
        return self.is_staff or self.role in {"owner", "admin"}


class Row(msgspec.Struct, frozen=True):
    """Something stored that has an id.

    Args:
        id: As it is in paths.
        account: Whose it is; None if nobody's: there is no such row.
        site: Of which site; None if unknown, or of none.
        is_kept: Whether it is there until the end, so that whoever may see it must.
    """

    id: str
    account: int | None
    site: int | None = None
    is_kept: bool = False


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks for.

    Args:
        method: HTTP method.
        template: The path with its parameters.
        policy: Of the route.
        named_account: The account that ``X-Account`` names; -1 for one that there is not, None for no header.
        named_site: As for ``named_account``.
        application: The application in the path, if the route has one.
        row: What the path's only parameter names, if that is an id.
        asked_account: The account that the query names, if it does.
        is_proper: Whether nothing in it was made wrong on purpose, or at random.
        is_of_all: Whether it asks for the rows of all accounts by its query.
    """

    method: str
    template: str
    policy: str
    named_account: int | None = None
    named_site: int | None = None
    application: str | None = None
    row: Row | None = None
    asked_account: str | None = None
    is_proper: bool = True
    is_of_all: bool = False

    @property
    def is_reading(self) -> bool:
        return self.method in READING


class Prediction(msgspec.Struct, frozen=True):
    """What a response may be.

    Args:
        statuses: The status is one of these.
        seer: Whose data it may show; None for nobody's.
        is_let_in: Whether the request gets as far as the handler.
    """

    statuses: frozenset[int]
    seer: Who | None = None
    is_let_in: bool = False


class Model:
    """Predicts responses.

    Args:
        site_accounts: The account of each site.
        plans: The accounts that have a plan.
        applications: Those that there are.
    """

    def __init__(self, site_accounts: dict[int, int], plans: set[int], applications: set[str]) -> None:
        self._site_accounts = site_accounts
        self._plans = plans
        self._applications = applications

    def has_plan(self, account: int) -> bool:
        """Tell whether an account has a plan."""
        return account in self._plans

    def predict(self, who: Who, asked: Asked) -> Prediction:
        """Return what the response may be."""
        is_signing_in = asked.template.startswith("/api/v1/auth/")
        if asked.policy == "public":
            refused = {401, 403, 429} if is_signing_in else set()
            # Every page tells whoever asks for which account they act.
            seer = None if who.account is None else self._select(who, asked)
            return Prediction(SUCCESS | MALFORMED | NO_SUCH | refused | {401, 409}, seer, is_let_in=True)
        if who.account is None:
            return Prediction(frozenset({401}))
        seer = self._select(who, asked)
        if seer is None:
            return Prediction(FORBIDDEN)
        if asked.policy == "authenticated":
            return Prediction(SUCCESS | MALFORMED | {401, 403, 429}, seer, is_let_in=True)
        if not seer.has_plan:
            return Prediction(frozenset({402}))
        if asked.policy not in seer.scopes:
            return Prediction(FORBIDDEN)
        if asked.application is not None and asked.application not in self._applications:
            return Prediction(NO_SUCH)
        if asked.application is not None and not _includes(seer.applications, asked.application):
            return Prediction(FORBIDDEN)
        return Prediction(_of_handler(seer, asked), seer, is_let_in=True)

    def _select(self, who: Who, asked: Asked) -> Who | None:
        """Return who acts once an account and a site are selected; None if they may not be."""
        if (account := asked.named_account) is not None:
            if not who.is_staff or account < 0:
                return None
            who = msgspec.structs.replace(who, account=account, sites=None, has_plan=account in self._plans)
        if (site := asked.named_site) is not None:
            if self._site_accounts.get(site) != who.account or not _includes(who.sites, site):
                return None
            scopes = who.scopes | ROLE_SCOPES.get(who.site_roles.get(site, ""), frozenset())
            who = msgspec.structs.replace(who, sites=frozenset({site}), scopes=scopes)
        return who


@cache
def as_api(method: str, template: str) -> tuple[str, str]:
    """Return the route of the API that does what a page does: the route itself, if it is none of a page.

    A form is for whoever may do what it is for.
    """
    start = next((each for each in _PAGES if f"{template}/".startswith(f"{each}/")), None)
    if start is None:
        return method, template
    path = _PAGES[start] + template.removeprefix(start)
    parent, _, last = path.rpartition("/")
    match last:
        case "new":
            return "POST", parent
        case "import":
            return "POST", path
        case "delete":
            return "DELETE", parent
        case "{id}" if method == "POST":
            return "PATCH", path
        case _:
            return method, path


def sees_all(seer: Who | None, asked: Asked) -> bool:
    """Tell whether somebody sees the rows of all accounts."""
    is_staff = seer is not None and seer.is_staff and seer.account == SYSTEM
    _, template = as_api(asked.method, asked.template)
    return is_staff and (asked.is_of_all or template.startswith(OF_ALL_ACCOUNTS))


def is_visible(seer: Who, row: Row, template: str) -> bool | None:
    """Tell whether somebody sees a row; None if the model does not know."""
    if row.account is None:
        return False
    if seer.is_staff and seer.account == SYSTEM and template.startswith(OF_ALL_ACCOUNTS):
        return True
    if template.startswith("/api/v1/plans"):
        return True
    if row.account != seer.account:
        return False
    if seer.sites is not None and row.site is not None:
        return row.site in seer.sites or None
    return True if seer.sites is None and seer.services is None and seer.applications is None else None


def _includes(allowed: frozenset[int] | frozenset[str] | None, wanted: int | str) -> bool:
    return allowed is None or wanted in allowed


def _of_handler(seer: Who, asked: Asked) -> frozenset[int]:
    """Return the statuses of a request that is let in."""
    method, template = as_api(asked.method, asked.template)
    asked = msgspec.structs.replace(asked, method=method, template=template)
    improper = MALFORMED | NO_SUCH if not asked.is_proper else frozenset[int]()
    if asked.is_of_all:
        return (SUCCESS if sees_all(seer, asked) else FORBIDDEN | SUCCESS) | improper
    if not may(seer, asked.method, asked.template):
        return FORBIDDEN | improper
    limited = seer.sites is not None or seer.services is not None or seer.applications is not None
    # Naming an account, other than one's own, is refused whether there is such an account or not.
    limited = limited or "{account}" in asked.template
    if asked.template == "/admin/usage" and asked.asked_account not in {None, str(seer.account)}:
        return SUCCESS | improper if sees_all(seer, asked) else FORBIDDEN | improper
    # The service's own jobs are started by staff.
    limited = limited or "{job}" in asked.template
    # Rules on values, such as that an administrator makes no owner.
    maybe_forbidden = FORBIDDEN if limited or not asked.is_reading else frozenset[int]()
    if asked.row is not None:
        visible = is_visible(seer, asked.row, asked.template)
        if visible is False:
            return NO_SUCH | MALFORMED | maybe_forbidden if not asked.is_reading else NO_SUCH | improper
        if visible and asked.row.is_kept and asked.is_reading and asked.is_proper:
            return frozenset({200})
    return SUCCESS | MALFORMED | NO_SUCH | {409} | maybe_forbidden


def may(seer: Who, method: str, template: str) -> bool:  # noqa: C901 - a case for each list
    """Tell whether somebody may use a route of accounts, or its page, at all."""
    method, template = as_api(method, template)
    manages_all = seer.is_manager and seer.sites is None
    reads = method in READING
    match template.removeprefix("/api/v1/").split("/")[0]:
        case "accounts":
            return manages_all and (reads or method == "PATCH" or seer.is_staff)
        case "subscriptions":
            return manages_all and (reads or seer.is_staff)
        case "plans":
            return reads or seer.is_staff
        case "sites":
            return reads or seer.is_manager
        case "users":
            return manages_all or (reads and (seer.sites is None or seer.is_manager))
        case "keys":
            return seer.is_manager or (reads and seer.sites is None)
        case "site-access":
            return seer.is_manager
        case "sectors":
            return reads or seer.is_manager
        case "audit":
            return seer.is_manager
        case "resource-tracking":
            return seer.is_manager or seer.role == "developer"
        case _:
            return True
