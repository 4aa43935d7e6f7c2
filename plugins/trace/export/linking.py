"""Make items of rows: ids of pages become keys, and every relation has to lead somewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from kernel import Dataset, Rejected
from plugins.trace.export.model import Row
from plugins.trace.notion.errors import NotionError

_NAMED_MAX = 5


class Linked(msgspec.Struct, frozen=True):
    """The items of a dataset.

    Args:
        items: As mappings.
        rejected: Rows that make no item, each with its reason.
        links: Relations to other rows.
        unlinked: Relations to pages in the trash, left out.
    """

    items: Sequence[Mapping[str, Any]]
    rejected: Sequence[Rejected]
    links: int
    unlinked: int


class Linker:
    """Links the rows of all sources.

    Args:
        rows: By dataset.
        is_trashed: Tells of a page that is in no source whether it is in the trash.
    """

    def __init__(self, rows: Mapping[Dataset, Sequence[Row]], is_trashed: Callable[[str], bool]) -> None:
        self._rows = rows
        self._is_trashed = is_trashed
        # By dataset, the rows that have a key of their own, by that key; and by page, that key.
        self._good: dict[str, dict[str, Row]] = {}
        self._rejected: dict[str, list[Rejected]] = {}
        self._keys: dict[str, dict[str, str]] = {}
        for dataset, given in rows.items():
            self._sort_out(dataset, given)

    def link(self, dataset: Dataset) -> Linked:
        """Make the items of a dataset.

        Raises:
            NotionError: A relation leads to a row that is not exported.
        """
        linking = _Linking(dataset, self._keys, self._is_trashed)
        items = [linking.item(row) for row in self._good[dataset.name].values()]
        if broken := linking.broken:
            more = f"; and {len(broken) - _NAMED_MAX:,} more" if len(broken) > _NAMED_MAX else ""
            raise NotionError("incomplete", f"relations lead nowhere: {'; '.join(broken[:_NAMED_MAX])}{more}")
        return Linked(items, self._rejected[dataset.name], linking.links, linking.unlinked)

    def _sort_out(self, dataset: Dataset, rows: Sequence[Row]) -> None:
        good: dict[str, Row] = {}
        rejected: list[Rejected] = []
        for index, row in enumerate(rows):
            key = row.fields.get(dataset.key)
            if key and key not in good:
                good[key] = row
                continue
            reason = f"another row has the {dataset.key} {key!r:.80}" if key else f"it has no {dataset.key}"
            rejected.append(Rejected(index, f"page {row.id}: {reason}", row.fields))
        self._good[dataset.name] = good
        self._rejected[dataset.name] = rejected
        self._keys[dataset.name] = {row.id: key for key, row in good.items()}


class _Linking:
    """Links the rows of one dataset."""

    def __init__(
        self, dataset: Dataset, keys: Mapping[str, Mapping[str, str]], is_trashed: Callable[[str], bool]
    ) -> None:
        self._dataset = dataset
        self._keys = keys
        self._names = {name: frozenset(pages.values()) for name, pages in keys.items()}
        self._is_trashed = is_trashed
        self._many = {field.name for field in msgspec.structs.fields(dataset.item) if isinstance(field.default, tuple)}
        self.links = 0
        self.unlinked = 0
        self.broken: list[str] = []

    def item(self, row: Row) -> Mapping[str, Any]:
        item = {**row.fields}
        if row.properties:
            item["properties"] = row.properties
        for field, target in self._dataset.relations.items():
            if field not in item:
                continue
            follow = self._follow_page if field in row.pages else self._follow_name
            where = f"{item[self._dataset.key]}.{field}"
            keys = [key for each in item[field] for key in follow(where, target, each)]
            self.links += len(keys)
            if field in self._many:
                item[field] = keys
            else:
                item[field] = keys[0] if keys else None
                if len(keys) > 1:
                    self.broken.append(f"{where} leads to {len(keys)} {target}, expected one")
        return item

    def _follow_page(self, where: str, target: str, page_id: str) -> Iterator[str]:
        key = self._keys.get(target, {}).get(page_id)
        if key is not None:
            yield key
        elif self._is_trashed(page_id):
            self.unlinked += 1
        else:
            self.broken.append(f"{where} leads to page {page_id}, which is none of the {target}")

    def _follow_name(self, where: str, target: str, name: str) -> Iterator[str]:
        # Where the other dataset does not come from Notion, what it has is not ours to say.
        if target in self._names and name not in self._names[target]:
            self.broken.append(f"{where} names {name!r}, which is none of the {target}")
        yield name
