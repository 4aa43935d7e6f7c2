"""One dataset out of what several sources say."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from kernel.datasets import Rejected
from plugins.club.model import Item
from plugins.club.store import Content


class Union(msgspec.Struct, frozen=True):
    """What is to be published.

    Args:
        items: Of all sources, no key twice.
        rejected: What is kept aside, each with its source and a reason.
    """

    items: list[Item]
    rejected: list[Rejected]


def unite(contents: Mapping[str, Content[Item]]) -> Union:
    """Put together what sources gave. Where two have one key, the first source counts.

    Args:
        contents: By name of the source, the most trusted first.
    """
    owners: dict[str, str] = {}
    items: list[Item] = []
    rejected: list[Rejected] = []
    for name, content in contents.items():
        rejected += (Rejected(bad.index, f"{name}: {bad.reason}", bad.raw) for bad in content.rejected)
        for index, item in enumerate(content.items):
            owner = owners.setdefault(item.key, name)
            if owner == name:
                items.append(item)
            else:
                reason = f"{name}: {owner}, which stands further up, has {item.key!r:.80} already"
                rejected.append(Rejected(index, reason, item))
    return Union(items, rejected)
