"""Which runs a client reads: those of its account, and staff those of other accounts as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import msgspec

from kernel import ForbiddenError, Identity
from kernel.identity import acting_as

ID_MAX = 2**63 - 1
JobId = Annotated[int, msgspec.Meta(ge=1, le=ID_MAX)]
LineId = Annotated[int, msgspec.Meta(ge=0, le=ID_MAX)]


class RunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of routes that read runs.

    Args:
        all_accounts: Also runs of other accounts, for staff.
    """

    all_accounts: bool = False


@contextmanager
def reading_runs(identity: Identity, query: RunQuery) -> Iterator[None]:
    """Read the runs that a request asks for in a block.

    Raises:
        ForbiddenError: It asks for those of other accounts, and is not staff's.
    """
    if not query.all_accounts:
        yield
        return
    if not identity.is_staff:
        raise ForbiddenError(detail="only staff see the jobs of all accounts")
    with acting_as(None):
        yield
