"""The objects of this plugin, constructed and wired together once for a process."""

from __future__ import annotations

from typing import Any

import msgspec

from kernel import Cache, Services
from plugins.accounts.authentication import Authentication
from plugins.accounts.keys import CHANNEL, ApiKeys
from plugins.accounts.settings import AccountsSettings
from plugins.accounts.sign_in.container import SignIn, make_sign_in


class Container(msgspec.Struct, frozen=True):
    """What routes, commands and jobs share."""

    settings: AccountsSettings
    keys: ApiKeys
    sign_in: SignIn
    authentication: Authentication


def make_container(services: Services) -> Container:
    """Construct the objects. Called through ``services.once``."""
    settings = services.settings(AccountsSettings)
    cache: Cache[str, Any] = services.cache.create("accounts.keys", settings.keys_cached)
    keys = ApiKeys(services.db, cache, services.clock.now)
    services.listen(CHANNEL, keys.forget, poll=cache.clear)
    sign_in = make_sign_in(services)
    return Container(
        settings=settings, keys=keys, sign_in=sign_in, authentication=Authentication(services.db, keys, sign_in)
    )
