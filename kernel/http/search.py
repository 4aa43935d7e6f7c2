"""The search over everything: what plugins find for a text, at ``/search/``, and in the palette of every page.

Plugins return a ``Search`` for each kind of thing from ``register_searches``. The kernel itself finds pages, and the
views that applications have of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec

from kernel.contracts import Contract, Policy, Route, collect_routes, route
from kernel.deadline import Deadline, current_deadline
from kernel.errors import ApiError, ClientGoneError
from kernel.http.auth import may_use
from kernel.http.pages import page_link
from kernel.http.request import Request
from kernel.http.response import TemplateResponse
from kernel.http.shell import SEARCH, Shell
from kernel.identity import Identity
from kernel.logging import Logger

# What a search finds at most, and how long it may take: somebody is typing.
RESULTS_MAX = 8
TIMEOUT_S = 1.0
_TEXT_MAX = 200


class SearchResult(msgspec.Struct, frozen=True):
    """Something that was found.

    Args:
        title: For people. It may be text of any origin.
        path: Its page.
        detail: What tells it from others of the same title.
    """

    title: str
    path: str
    detail: str = ""


class Search(Contract, frozen=True):
    """A kind of thing that can be found.

    Args:
        name: Of the kind, for people: ``Orders``.
        find: Takes what was entered, who asks, and how many results are shown; returns the best ones first. It finds
            only what the identity may see. It has a second, within which the statements that it sends are cancelled.
        policy: Who may use it, as of a route.
    """

    name: str
    find: Callable[[str, Identity, int], Sequence[SearchResult]]
    policy: Policy = "read"


class SearchGroup(msgspec.Struct, frozen=True):
    """What was found of a kind.

    Args:
        name: Of the kind.
        results: The best ones first.
        error: Why it could not be searched; None if it could.
    """

    name: str
    results: Sequence[SearchResult]
    error: str | None = None


class Found(msgspec.Struct, frozen=True):
    """What was found.

    Args:
        text: What was entered.
        groups: By kind, those without results left out.
    """

    text: str
    groups: Sequence[SearchGroup]


class SearchQuery(msgspec.Struct, frozen=True):
    """Parameters of the search.

    Args:
        q: What is looked for.
    """

    q: Annotated[str, msgspec.Meta(max_length=_TEXT_MAX)] = ""


class SearchRoutes:
    """The handler of the search.

    Args:
        list_searches: Returns those of the plugins, with their owners.
        make_shell: Knows the pages.
        log: Gets what fails.
    """

    def __init__(
        self,
        list_searches: Callable[[], Sequence[tuple[str, Search]]],
        make_shell: Callable[[Request], Shell],
        log: Logger,
    ) -> None:
        self._list_searches = list_searches
        self._make_shell = make_shell
        self._log = log

    def routes(self) -> Sequence[Route]:
        """Return the route."""
        return collect_routes(self.search)

    @route(SEARCH, policy="authenticated")
    def search(self, request: Request, query: SearchQuery, identity: Identity) -> TemplateResponse:
        """Find pages, and whatever plugins find for a text."""
        # PostgreSQL stores no text with a NUL, and rejects a statement that has one.
        text = query.q.replace("\x00", "").strip()
        found = Found(text, self._find(request, text, identity) if text else ())
        return TemplateResponse("kernel/search.html", {"found": found}, data=found)

    def _find(self, request: Request, text: str, identity: Identity) -> Sequence[SearchGroup]:
        shell = self._make_shell(request)
        searches = [
            ("kernel", Search(name="Pages", find=lambda *_: _find_pages(shell, text), policy="authenticated")),
            ("kernel", Search(name="Applications", find=lambda *_: _find_views(shell, text), policy="read")),
            *self._list_searches(),
        ]
        groups = [
            self._find_of(request, plugin, search, text, identity)
            for plugin, search in searches
            if may_use(identity, search.policy)
        ]
        return [group for group in groups if group.results or group.error is not None]

    def _find_of(self, request: Request, plugin: str, search: Search, text: str, identity: Identity) -> SearchGroup:
        current_deadline().check()
        try:
            with Deadline(TIMEOUT_S, request.client):
                results = search.find(text, identity, RESULTS_MAX)
        except (ClientGoneError, MemoryError):
            # These concern the request, or the process, as a whole.
            raise
        except Exception as failure:
            # Whatever a search raises, the others find something.
            is_known = isinstance(failure, ApiError)
            self._log.warning(
                "search_failed", plugin=plugin, search=search.name, exc_info=None if is_known else failure
            )
            return SearchGroup(search.name, (), failure.message if isinstance(failure, ApiError) else "It failed.")
        return SearchGroup(search.name, results[:RESULTS_MAX])


def _find_pages(shell: Shell, text: str) -> Sequence[SearchResult]:
    words = text.lower().split()
    found = [
        (not item.label.lower().startswith(words[0]), SearchResult(item.label, item.path, group.title))
        for group in shell.menu
        for item in group.items
        if all(word in f"{item.label} {group.title}".lower() for word in words)
    ]
    # Stable: in the order of the menu.
    return [result for _, result in sorted(found, key=lambda each: each[0])][:RESULTS_MAX]


def _find_views(shell: Shell, text: str) -> Sequence[SearchResult]:
    words = text.lower().split()
    return [
        SearchResult(application.name, page_link(page.path, application=application.slug), page.label)
        for application in shell.applications
        if all(word in f"{application.name} {application.slug}".lower() for word in words)
        for page in shell.pages_of_applications
    ][:RESULTS_MAX]
