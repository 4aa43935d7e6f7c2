"""The objects of this plugin, constructed and wired together once for a process."""

from __future__ import annotations

from typing import Any

import msgspec

from kernel import Cache, Services
from kernel.audit import AuditChains
from plugins.accounts.authentication import Authentication
from plugins.accounts.keys import CHANNEL, ApiKeys
from plugins.accounts.settings import AccountsSettings


class Container(msgspec.Struct, frozen=True):
    """What routes, commands and jobs share."""

    settings: AccountsSettings
    keys: ApiKeys
    authentication: Authentication
    audit: AuditChains


def make_container(services: Services) -> Container:
    """Construct the objects. Called through ``services.once``."""
    settings = services.settings(AccountsSettings)
    cache: Cache[str, Any] = services.cache.create("accounts.keys", settings.keys_cached)
    keys = ApiKeys(services.db, cache, services.audit, services.clock.now)
    services.listen(CHANNEL, keys.forget, poll=cache.clear)
    return Container(
        settings=settings,
        keys=keys,
        authentication=Authentication(services.db, keys),
        audit=AuditChains(services.db, services.audit),
    )
