"""The objects of this plugin, constructed and wired together once for a process."""

from __future__ import annotations

from typing import Any

import msgspec
from psycopg import Connection

from kernel import Cache, Services, notify
from plugins.accounts.authentication import Authentication
from plugins.accounts.keys import ALL_KEYS, CHANNEL, ApiKeys, StoredKeys
from plugins.accounts.resources import Accounts, Plans, Sectors, SiteAccesses, Sites, Subscriptions, Users
from plugins.accounts.settings import AccountsSettings


class Container(msgspec.Struct, frozen=True):
    """What routes, commands and jobs share."""

    settings: AccountsSettings
    keys: ApiKeys
    stored_keys: StoredKeys
    authentication: Authentication
    accounts: Accounts
    plans: Plans
    subscriptions: Subscriptions
    sites: Sites
    sectors: Sectors
    users: Users
    site_accesses: SiteAccesses


def make_container(services: Services) -> Container:
    """Construct the objects. Called through ``services.once``."""
    settings = services.settings(AccountsSettings)
    cache: Cache[str, Any] = services.cache.create("accounts.keys", settings.keys_cached)
    pages = services.kernel_settings.http
    stored_keys = StoredKeys(services.db, pages)
    keys = ApiKeys(services.db, cache, services.clock.now, stored_keys)
    services.listen(CHANNEL, keys.forget, poll=cache.clear)

    def forget_keys(connection: Connection[Any]) -> None:
        notify(connection, CHANNEL, ALL_KEYS)
        # Here, what another request reads again before the transaction ends is forgotten with the notification.
        cache.clear()

    return Container(
        settings=settings,
        keys=keys,
        stored_keys=stored_keys,
        authentication=Authentication(services.db, keys),
        accounts=Accounts(services.db, pages, forget_keys),
        plans=Plans(services.db, pages, forget_keys),
        subscriptions=Subscriptions(services.db, pages, forget_keys),
        sites=Sites(services.db, pages, forget_keys),
        sectors=Sectors(services.db, pages),
        users=Users(services.db, pages),
        site_accesses=SiteAccesses(services.db, pages),
    )
