"""Merge the items of several sources into one dataset."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from kernel.datasets import Rejected
from plugins.club.models import Item
from plugins.club.store import SourceContent


class MergedItems(msgspec.Struct, frozen=True):
    """The items of a dataset, ready to be published.

    Args:
        items: Those of all sources; each key once.
        rejected: Items that are not published; each reason begins with the source's name.
    """

    items: list[Item]
    rejected: list[Rejected]


def merge_sources(contents: Mapping[str, SourceContent[Item]]) -> MergedItems:
    """Merge the items of several sources. Of items with the same key, that of the first source is published.

    Args:
        contents: By name of the source, in order of precedence.
    """
    owners: dict[str, str] = {}
    items: list[Item] = []
    rejected: list[Rejected] = []
    for name, content in contents.items():
        rejected += (Rejected(each.index, f"{name}: {each.reason}", each.raw) for each in content.rejected)
        for index, item in enumerate(content.items):
            owner = owners.setdefault(item.key, name)
            if owner == name:
                items.append(item)
            else:
                reason = f"{name}: duplicate of {item.key!r:.80} from {owner}, which takes precedence"
                rejected.append(Rejected(index, reason, item))
    return MergedItems(items, rejected)
