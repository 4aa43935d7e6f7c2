"""The table ``[accounts]`` of the configuration."""

from __future__ import annotations

from typing import Annotated

import msgspec

from kernel import Table


class AccountsSettings(Table, frozen=True):
    """Keys.

    Args:
        keys_cached: How many API keys a process remembers.
    """

    keys_cached: Annotated[int, msgspec.Meta(ge=1)] = 10_000
