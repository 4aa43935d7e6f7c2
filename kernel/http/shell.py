"""The shell of pages: what ``kernel/base.html`` shows around the content, which depends on who asks for it.

The menu has the pages that the requester may open, grouped by plugin. A page whose query string has a parameter
``application`` gets a switch for it, and the menu keeps what is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import groupby
from urllib.parse import parse_qsl

import msgspec

from kernel.applications import Applications
from kernel.contracts import Application, Policy
from kernel.errors import ForbiddenError
from kernel.http.auth import Authorizer, SignInPages, may_use, named_account
from kernel.http.pages import page_link
from kernel.http.request import Request
from kernel.identity import Identity

SEARCH = "/search/"
# What the switch of applications does not keep: those pages are of another list.
_PAGING = ("page", "cursor")


class PageRoute(msgspec.Struct, frozen=True):
    """A page.

    Args:
        owner: The plugin.
        label: For people; None if it is not in the menu.
        path: Where it is.
        policy: Who may open it.
        template: As the access log has it.
        takes_application: Whether its query string has a parameter ``application``.
        in_menu: Whether it is listed for somebody; for all who may open it by default.
    """

    owner: str
    label: str | None
    path: str
    policy: Policy
    template: str
    takes_application: bool
    in_menu: Callable[[Identity], bool] | None = None

    def is_listed_for(self, requester: Identity | None) -> bool:
        """Tell whether the menu of somebody has it."""
        if not may_use(requester, self.policy):
            return False
        return self.in_menu is None or (requester is not None and self.in_menu(requester))


# A longer menu shows the pages of the plugin that one looks at, and folds the others.
_MENU_OPEN_MAX = 16


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
        is_open: Whether they are seen before somebody unfolds them.
    """

    title: str
    items: Sequence[MenuItem]
    is_open: bool = True

    @property
    def is_current(self) -> bool:
        """Whether the page that is shown is one of them."""
        return any(item.current for item in self.items)


class ApplicationLink(msgspec.Struct, frozen=True):
    """The page that is shown, as an application sees it.

    Args:
        name: Of the application.
        path: With the other parameters of the page.
        is_current: Whether it is that which is shown.
    """

    name: str
    path: str
    is_current: bool


class Shell:
    """What templates show of the requester, as the variable ``shell``. Each part is computed when it is used.

    Args:
        request: The request that a page answers.
        pages: All pages.
        authorizer: Knows who sends the request.
        applications: Those of the service.
    """

    def __init__(
        self, request: Request, pages: Sequence[PageRoute], authorizer: Authorizer, applications: Applications
    ) -> None:
        self._request = request
        self._pages = pages
        self._authorizer = authorizer
        self._applications = applications

    @cached_property
    def requester(self) -> Identity | None:
        """Who sends the request; None if that is nobody who is known."""
        return self._authorizer.requester(self._request)

    @property
    def pages(self) -> SignInPages | None:
        """Where people sign in and out; None if they cannot."""
        return self._authorizer.pages

    @property
    def sign_in_link(self) -> str | None:
        """A link to the page for signing in, which leads back to this one; None without one."""
        return self._authorizer.sign_in_link(self._request)

    @property
    def here(self) -> str:
        """The path of this page with its query string."""
        return self._request.link

    @cached_property
    def acting_for(self) -> str | None:
        """The account that the requester acts for, if that is not the own one."""
        requester = self.requester
        if requester is None:
            return None
        if requester.account != requester.own_account:
            return requester.account_name or f"account {requester.account}"
        # One that is refused: it is named all the same, so that it can be left.
        try:
            return named_account(self._request, requester)
        except ForbiddenError:
            return "several accounts"

    @cached_property
    def menu(self) -> Sequence[MenuGroup]:
        """The menu, by plugin in configured order."""
        pages = self._labelled
        current = _current_path(self._request.path_as_sent, [page.path for _, page in pages])
        # A page that the menu does not list belongs to its plugin all the same.
        template = self._request.log_context.template
        shown = (
            each.owner
            for each in self._pages
            if each.path == current or (current is None and each.template == template)
        )
        unfolded = next(shown, None)
        exact = _bare(self._request.path_as_sent)

        def make_item(label: str, page: PageRoute) -> MenuItem:
            path = page_link(page.path, application=self.application) if page.takes_application else page.path
            if page.path != current:
                return MenuItem(label, path)
            return MenuItem(label, path, "page" if _bare(page.path) == exact else "true")

        is_short = len(pages) <= _MENU_OPEN_MAX
        return [
            MenuGroup(
                _title_of(owner), [make_item(label, page) for label, page in group], is_short or owner == unfolded
            )
            for owner, group in groupby(pages, lambda each: each[1].owner)
        ]

    @cached_property
    def _labelled(self) -> Sequence[tuple[str, PageRoute]]:
        """The pages of the menu, with their labels."""
        return [
            (page.label, page) for page in self._pages if page.label is not None and page.is_listed_for(self.requester)
        ]

    @property
    def pages_of_applications(self) -> Sequence[MenuItem]:
        """The pages of the menu that show what one application sees."""
        return [MenuItem(label, page.path) for label, page in self._labelled if page.takes_application]

    @cached_property
    def applications(self) -> Sequence[Application]:
        """The applications whose views the requester may read."""
        requester = self.requester
        if requester is None:
            return ()
        return [each for each in self._applications.all if requester.may_read(each.slug)]

    @cached_property
    def application(self) -> str | None:
        """Slug of the application that is chosen, if there is one of that slug."""
        chosen = dict(parse_qsl(self._request.query_string)).get("application")
        return chosen if chosen in {each.slug for each in self.applications} else None

    @property
    def application_name(self) -> str:
        """The name of what the switch of applications has chosen."""
        return next((each.name for each in self.application_links if each.is_current), "none that may be read")

    @cached_property
    def application_links(self) -> Sequence[ApplicationLink]:
        """The switch of applications: this page for all data, and for each application; empty on other pages."""
        template = self._request.log_context.template
        if not any(page.template == template and page.takes_application for page in self._pages):
            return ()
        requester = self.requester
        choices = [(None, "All data")] if requester is None or requester.may_read(None) else []
        return [
            ApplicationLink(name, self._link_to(slug), slug == self.application)
            for slug, name in [*choices, *((each.slug, each.name) for each in self.applications)]
        ]

    def _link_to(self, application: str | None) -> str:
        without_pages = dict.fromkeys(_PAGING)
        return page_link(self._request.url_path, self._request, **without_pages, application=application)


class Shells:
    """Makes the shell of each page.

    Args:
        list_pages: Returns all pages, those of a plugin one after the other. Called when the first page is rendered:
            all routes are known then.
        authorizer: Knows who sends a request.
        applications: Those of the service.
    """

    def __init__(
        self, list_pages: Callable[[], Sequence[PageRoute]], authorizer: Authorizer, applications: Applications
    ) -> None:
        self._list_pages = list_pages
        self._authorizer = authorizer
        self._applications = applications

    def make(self, request: Request) -> Shell:
        """Return the shell of the page that answers a request."""
        return Shell(request, self._pages, self._authorizer, self._applications)

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
