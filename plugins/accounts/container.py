"""The objects of this plugin, constructed and wired together once for a process."""

from __future__ import annotations

from typing import Any

import msgspec
from psycopg import Connection

from kernel import Cache, InvalidError, Services, notify
from kernel.audit import AuditChains
from kernel.http import CsvFiles
from plugins.accounts.authentication import Authentication
from plugins.accounts.keys import ALL_KEYS, CHANNEL, ApiKeys, StoredKeys
from plugins.accounts.models import Account, NewAccount, Sector, Site
from plugins.accounts.purge import Purge
from plugins.accounts.resources import Accounts, Plans, Sectors, SiteAccesses, Sites, Subscriptions, Users
from plugins.accounts.settings import AccountsSettings
from plugins.accounts.sign_in import users
from plugins.accounts.sign_in.container import SignIn, make_sign_in
from plugins.accounts.usage import AccountUsage


class Container(msgspec.Struct, frozen=True):
    """What routes, commands and jobs share."""

    settings: AccountsSettings
    keys: ApiKeys
    stored_keys: StoredKeys
    sign_in: SignIn
    authentication: Authentication
    audit: AuditChains
    accounts: Accounts
    plans: Plans
    subscriptions: Subscriptions
    sites: Sites
    sectors: Sectors
    users: Users
    site_accesses: SiteAccesses
    site_files: CsvFiles[Site]
    sector_files: CsvFiles[Sector]
    purge: Purge
    usage: AccountUsage

    def create_account(self, new: NewAccount, plan: str) -> Account:
        """Create an account with a plan, for the service itself.

        Args:
            new: The account.
            plan: Slug of the plan.

        Raises:
            InvalidError: There is no such plan.
            ConflictError: Another account has the slug.
        """
        with self.accounts.transaction(None) as connection:
            found = [each for each in self.plans.select(connection, None) if each.slug == plan]
            if not found:
                raise InvalidError(errors={"plan": [f"There is no plan {plan!r:.80}."]})
            account = self.accounts.insert(connection, msgspec.structs.asdict(new), None)
            self.subscriptions.insert(connection, {"account": account.id, "plan": found[0].id}, None)
        return account


def make_container(services: Services) -> Container:
    """Construct the objects. Called through ``services.once``."""
    settings = services.settings(AccountsSettings)
    cache: Cache[str, Any] = services.cache.create("accounts.keys", settings.keys_cached)
    stored_keys = StoredKeys(services)
    keys = ApiKeys(services.db, cache, services.clock.now, stored_keys)
    services.listen(CHANNEL, keys.forget, poll=cache.clear)

    def forget_keys(connection: Connection[Any]) -> None:
        notify(connection, CHANNEL, ALL_KEYS)
        notify(connection, users.CHANNEL, users.ALL_USERS)
        # Here, what another request reads again before the transaction ends is forgotten with the notification.
        cache.clear()

    sign_in = make_sign_in(services)
    sites, sectors = Sites(services, forget_keys), Sectors(services)
    return Container(
        settings=settings,
        keys=keys,
        stored_keys=stored_keys,
        sign_in=sign_in,
        authentication=Authentication(
            services.db,
            keys,
            sign_in,
            services.metrics.counter("credentials_refused_total", "Requests whose credentials were wrong."),
        ),
        audit=AuditChains(services.db, services.audit),
        accounts=Accounts(services, forget_keys),
        plans=Plans(services, forget_keys),
        subscriptions=Subscriptions(services, forget_keys),
        sites=sites,
        sectors=sectors,
        users=Users(services),
        site_accesses=SiteAccesses(services),
        site_files=CsvFiles(sites),
        sector_files=CsvFiles(sectors, key=("site", "slug")),
        purge=Purge(services.db, services.clock.now, services.account_purges),
        usage=AccountUsage(services.db, services.usage),
    )
