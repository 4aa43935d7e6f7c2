"""The shell of pages: what ``kernel/base.html`` shows around the content, which depends on who asks for it.

The menu has the pages that the requester may open, grouped by plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import groupby

import msgspec

from kernel.contracts import Policy
from kernel.http.auth import Authorizer, may_use
from kernel.http.request import Request
from kernel.identity import Identity


class PageRoute(msgspec.Struct, frozen=True):
    """A page that has a label.

    Args:
        owner: The plugin.
        label: For people.
        path: Where it is.
        policy: Who may open it.
    """

    owner: str
    label: str
    path: str
    policy: Policy


class MenuItem(msgspec.Struct, frozen=True):
    """A page in the menu.

    Args:
        label: For people.
        path: Where it is.
        current: As the attribute ``aria-current``: ``page`` for the page that is shown, ``true`` for the one that it
            belongs to, by its path; None for others.
    """

    label: str
    path: str
    current: str | None = None


class MenuGroup(msgspec.Struct, frozen=True):
    """The pages of a plugin in the menu.

    Args:
        title: The name of the plugin, for people.
        items: In the order in which it registered them.
    """

    title: str
    items: Sequence[MenuItem]

    @property
    def is_current(self) -> bool:
        """Whether the page that is shown is one of them."""
        return any(item.current for item in self.items)


class Shell:
    """What templates show of the requester, as the variable ``shell``. Each part is computed when it is used.

    Args:
        request: The request that a page answers.
        pages: All pages that have a label.
        authorizer: Knows who sends the request.
    """

    def __init__(self, request: Request, pages: Sequence[PageRoute], authorizer: Authorizer) -> None:
        self._request = request
        self._pages = pages
        self._authorizer = authorizer

    @cached_property
    def requester(self) -> Identity | None:
        """Who sends the request; None if that is nobody who is known."""
        return self._authorizer.requester(self._request)

    @cached_property
    def menu(self) -> Sequence[MenuGroup]:
        """The menu, by plugin in configured order."""
        pages = [page for page in self._pages if may_use(self.requester, page.policy)]
        current = _current_path(self._request.path_as_sent, [page.path for page in pages])
        exact = _bare(self._request.path_as_sent)

        def make_item(page: PageRoute) -> MenuItem:
            if page.path != current:
                return MenuItem(page.label, page.path)
            return MenuItem(page.label, page.path, "page" if _bare(page.path) == exact else "true")

        return [
            MenuGroup(_title_of(owner), [make_item(page) for page in group])
            for owner, group in groupby(pages, lambda page: page.owner)
        ]


class Shells:
    """Makes the shell of each page.

    Args:
        list_pages: Returns all pages that have a label, those of a plugin one after the other. Called when the first
            page is rendered: all routes are known then.
        authorizer: Knows who sends a request.
    """

    def __init__(self, list_pages: Callable[[], Sequence[PageRoute]], authorizer: Authorizer) -> None:
        self._list_pages = list_pages
        self._authorizer = authorizer

    def make(self, request: Request) -> Shell:
        """Return the shell of the page that answers a request."""
        return Shell(request, self._pages, self._authorizer)

    @cached_property
    def _pages(self) -> Sequence[PageRoute]:
        return self._list_pages()


def _title_of(plugin: str) -> str:
    return plugin.replace("_", " ").replace("-", " ").capitalize()


def _bare(path: str) -> str:
    return path.rstrip("/")


def _current_path(path: str, listed: Sequence[str]) -> str | None:
    """Return the listed path that a path is, or else the longest that it is below; nothing is below the root."""
    path = _bare(path)
    above = [each for each in listed if path == _bare(each) or (_bare(each) and path.startswith(f"{_bare(each)}/"))]
    return max(above, key=len, default=None)
