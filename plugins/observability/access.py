"""Whose request logs somebody reads and writes: of an account, of some of its sites, of some services.

Events have a series, and series have an account and a site. So every read has a condition on series: the fragment
``visible`` of ``queries.sql``, whose parameters are ``Access.parameters``, and ``Scope`` of the analytics.
Row-level security of the table ``series`` says the same a second time: see ``migrations/0011_accounts.sql``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import click
import msgspec

from kernel import FieldErrors, ForbiddenError, Identity, InvalidError
from kernel.identity import SYSTEM_ACCOUNT

# Who sends events over REST to a service that authenticates nobody.
LOCAL_SENDER = "local"
NO_SITE = 0


# Returns the services that an application owns, or those of each application, by slug; raises for an unknown one.
OwnedServices = Callable[[str | None], Mapping[str, tuple[str, ...]]]


class Owner(NamedTuple):
    """Who owns a series.

    Args:
        account: Its number.
        site: A site of the account, or ``NO_SITE``.
    """

    account: int = SYSTEM_ACCOUNT
    site: int = NO_SITE

    @property
    def id_part(self) -> bytes:
        """What ids that are derived for the owner are derived from, to differ from those of every other owner."""
        return (str(self.account) if self.site == NO_SITE else f"{self.account}/{self.site}").encode()


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody may read and write.

    Args:
        account: Whose request logs.
        sites: Of these sites only; None for all of the account, and for those of no site.
        services: Of these services only; None for all.
        applications: Slugs of the applications whose views may be read; None for all.
        sender: Who writes, for the ledger.
    """

    account: int = SYSTEM_ACCOUNT
    sites: tuple[int, ...] | None = None
    services: frozenset[str] | None = None
    applications: frozenset[str] | None = None
    sender: str = LOCAL_SENDER

    @classmethod
    def of(cls, identity: Identity) -> Access:
        """Return what an identity may read and write.

        Raises:
            ForbiddenError: It has no account; the kernel lets no such request in.
        """
        if identity.account is None:
            raise ForbiddenError(detail=f"{identity.name} has no account")
        sender = LOCAL_SENDER
        if identity.key is not None:
            sender = f"key-{identity.key}"
        elif identity.user is not None:
            sender = f"user-{identity.user}"
        return cls(
            account=identity.account,
            sites=identity.sites,
            services=identity.services,
            applications=identity.applications,
            sender=sender,
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the fragment ``visible``, and of the ledger: that has no services, only senders."""
        return {
            "account": self.account,
            "visible_sites": None if self.sites is None else list(self.sites),
            "visible_services": None if self.services is None else sorted(self.services),
            "only_sender": None if self.services is None else self.sender,
        }

    @property
    def owner(self) -> Owner:
        """Who owns what is written.

        Raises:
            InvalidError: It may be any of several sites.
            ForbiddenError: There is no site.
        """
        if self.sites is None:
            return Owner(self.account)
        if len(self.sites) == 1:
            return Owner(self.account, self.sites[0])
        if not self.sites:
            raise ForbiddenError(detail="there is no site whose request logs may be written")
        message = "Name the site: there are several that you may write to."
        raise InvalidError("The site is not given.", errors={"X-Site": [message]})

    def including(self, service: str) -> Access:
        """Return the access that has one more service: the one that what is written may go to for want of room."""
        return self if self.services is None else msgspec.structs.replace(self, services=self.services | {service})

    def may_read(self, application: str) -> bool:
        """Tell whether the views of an application may be read."""
        return self.applications is None or application in self.applications

    def services_of(self, application: str | None, owned_services: OwnedServices) -> tuple[str, ...] | None:
        """Return the services that an application owns; None for no application.

        Raises:
            NotFoundError: There is no such application.
            ForbiddenError: Its views may not be read.
        """
        if application is None:
            return None
        if not self.may_read(application):
            raise ForbiddenError(detail=f"the application {application} is not one that may be read")
        return owned_services(application)[application]

    def refused_services(self, services: Iterable[str]) -> dict[str, FieldErrors]:
        """Return what is wrong with services that may not be written, by service."""
        if self.services is None:
            return {}
        # Which they are, the ledger would show to others of the account.
        message = "Expected one of the services that you may write to."
        return {service: {"service": [message]} for service in services if service not in self.services}


# The service itself, and whoever uses its commands without naming an account.
SYSTEM = Access()

# The option of commands: whose request logs they are about.
account_option = click.option(
    "--account",
    type=click.IntRange(0),
    default=SYSTEM_ACCOUNT,
    show_default=True,
    help="Number of the account whose request logs these are.",
)
