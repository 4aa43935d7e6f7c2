"""Which runs a client reads: those of its account, and staff those of other accounts as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import msgspec

from kernel import ForbiddenError, Identity
from kernel.identity import SYSTEM_ACCOUNT, acting_as

ID_MAX = 2**63 - 1
JobId = Annotated[int, msgspec.Meta(ge=1, le=ID_MAX)]
LineId = Annotated[int, msgspec.Meta(ge=0, le=ID_MAX)]


class RunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of routes that read runs.

    Args:
        all_accounts: Also runs of other accounts, for staff that acts for none.
    """

    all_accounts: bool = False


def may_read_all(identity: Identity) -> bool:
    """Tell whether a client may read the runs of all accounts: staff, unless it acts for one of them."""
    return identity.is_staff and identity.account == SYSTEM_ACCOUNT


@contextmanager
def reading_runs(identity: Identity, query: RunQuery) -> Iterator[None]:
    """Read the runs that a request asks for in a block.

    Raises:
        ForbiddenError: It asks for those of other accounts, and may not.
    """
    if not query.all_accounts:
        yield
        return
    if not may_read_all(identity):
        raise ForbiddenError(detail="only staff that acts for no account sees the jobs of all")
    with acting_as(None):
        yield
