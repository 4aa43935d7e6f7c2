"""The page of the audit log: who changed what, when and from where, and whether the log is as it was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec

from kernel import Identity, Request, Services, route
from kernel.audit import AuditChains, AuditEntry, AuditFilter, ChainReport
from kernel.http import Panel, TemplateResponse, local_link, page_link
from kernel.identity import SYSTEM_ACCOUNT
from plugins.accounts.routes_audit import AuditQuery, AuditRoutes

PATH = "/admin/audit/"
_EXPORT = "/api/v1/audit/export/"
# Of a value that changed; all of it is in an export.
_VALUE_MAX = 300


class AuditPageQuery(AuditQuery, frozen=True, kw_only=True):
    """Parameters of the page: those of the list, and what else is shown.

    Args:
        page_size: Entries per page.
        verify: Whether to verify the log.
    """

    page_size: Annotated[int, msgspec.Meta(ge=1)] | None = 25
    verify: bool = False


class ChangedField(NamedTuple):
    """A field that changed; None where there was, or is, no value."""

    name: str
    before: str | None
    after: str | None


class ShownEntry(NamedTuple):
    """An entry, and where it leads.

    Args:
        entry: The entry.
        changes: What changed.
        link: The page of what was changed, if there is one.
        of_target: The entries about the same thing.
        of_request: The entries of the same request.
    """

    entry: AuditEntry
    changes: Sequence[ChangedField]
    link: str | None
    of_target: str
    of_request: str


class AuditPages:
    """The handler.

    Args:
        routes: The list of the API.
        chains: Verifies the log.
        services: Those of the plugin.
    """

    def __init__(self, routes: AuditRoutes, chains: AuditChains, services: Services) -> None:
        self._routes = routes
        self._chains = chains
        self._row_links = services.row_links

    @route(PATH, policy="read", menu="Audit log", in_menu=lambda identity: identity.is_manager)
    def show(self, request: Request, query: AuditPageQuery, identity: Identity) -> TemplateResponse:
        """Show who changed what in the account, the latest first."""
        identity.ensure_manager()
        links = {table.rpartition(".")[2]: link for table, link in self._row_links.items()}

        def describe(entry: AuditEntry) -> ShownEntry:
            find, number = links.get(entry.target.kind), entry.target.id
            is_gone = entry.action.endswith(".delete")
            is_row = find is not None and number is not None and number.isdecimal() and not is_gone
            return ShownEntry(
                entry=entry,
                changes=_changes_of(entry),
                link=find(int(number), identity) if is_row and find is not None and number is not None else None,
                of_target=page_link(PATH, None, target_kind=entry.target.kind, target_id=number),
                of_request=page_link(PATH, None, request_id=entry.request_id),
            )

        def load() -> Mapping[str, Any]:
            found = self._routes.list(request, identity, query)
            return {
                "entries": [describe(entry) for entry in found.results],
                "previous": local_link(found.previous, request),
                "next": local_link(found.next, request),
            }

        def verify() -> Mapping[str, Any]:
            account = SYSTEM_ACCOUNT if identity.account is None else identity.account
            reports = self._chains.verify(account) if query.verify else ()
            return {
                "reports": [each for each in reports if isinstance(each, ChainReport)],
                "was_verified": query.verify,
                "verify_link": page_link(PATH, request, verify="true"),
            }

        values = msgspec.structs.asdict(query)
        chosen = [(name, values[name]) for name in AuditFilter.__struct_fields__ if values[name] not in (None, "")]
        of_page = set(AuditPageQuery.__struct_fields__) - set(AuditFilter.__struct_fields__)
        context = {
            "query": query,
            "chosen": chosen,
            "path": PATH,
            "exports": [
                (name, page_link(_EXPORT, request, **{**dict.fromkeys(of_page), "format": name}))
                for name in ("csv", "ndjson")
            ],
        }
        panels = {
            "entries": Panel(load, "accounts/audit_entries.html", "Entries"),
            "verification": Panel(verify, "accounts/audit_verification.html", "Verification"),
        }
        return TemplateResponse("accounts/audit.html", context, panels=panels)


def _changes_of(entry: AuditEntry) -> Sequence[ChangedField]:
    changes: Mapping[str, tuple[Any, Any]] = msgspec.json.decode(entry.changes)
    return [ChangedField(name, _text_of(before), _text_of(after)) for name, (before, after) in changes.items()]


def _text_of(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= _VALUE_MAX else f"{text[:_VALUE_MAX]}\N{HORIZONTAL ELLIPSIS}"
