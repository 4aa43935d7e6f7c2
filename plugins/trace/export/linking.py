"""Make items of rows: ids of pages become keys, and every relation has to lead somewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from kernel import Dataset
from kernel.datasets import Rejected
from plugins.trace.export.model import Row
from plugins.trace.export.texts import slugify
from plugins.trace.notion.errors import NotionError

_NAMED_MAX = 5
# Each may have cost a request, and one is enough to refuse.
_BROKEN_MAX = 50


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
        self._is_trashed = is_trashed
        self._sorted = {dataset.name: SortedRows(dataset, given) for dataset, given in rows.items()}

    def link(self, dataset: Dataset) -> Linked:
        """Make the items of a dataset.

        Raises:
            NotionError: A relation leads to a row that is not exported.
        """
        linking = _Linking(dataset, self._sorted, self._is_trashed)
        items: list[Mapping[str, Any]] = []
        for row in self._sorted[dataset.name].good.values():
            items.append(linking.item(row))
            if len(linking.broken) > _BROKEN_MAX:
                break
        if broken := linking.broken:
            more = f"; and at least {len(broken) - _NAMED_MAX} more" if len(broken) > _NAMED_MAX else ""
            raise NotionError(
                "incomplete", f"relations of {dataset.name} lead nowhere: {'; '.join(broken[:_NAMED_MAX])}{more}"
            )
        return Linked(items, self._sorted[dataset.name].rejected, linking.links, linking.unlinked)


class SortedRows:
    """The rows of a dataset: those that make items, and those that are kept aside.

    Args:
        dataset: Whose.
        rows: All of them.
    """

    def __init__(self, dataset: Dataset, rows: Sequence[Row]) -> None:
        self._key = dataset.key
        self.good: dict[str, Row] = {}
        self.rejected: list[Rejected] = []
        self.keys: dict[str, str] = {}
        self.aside: dict[str, str] = {}
        # Of two rows with one key the older has it, in whatever order they were read.
        for index, row in enumerate(sorted(rows, key=lambda row: (row.created_time, row.id))):
            self._sort(index, row)
        # Whoever names a row may do so by its key or by its name; a key counts before a name.
        self.names: dict[str, str] = {}
        for key in self.good:
            self.names.setdefault(slugify(key), key)
        for key, row in self.good.items():
            self.names.setdefault(slugify(row.fields["name"]), key)

    def _sort(self, index: int, row: Row) -> None:
        key: str = row.fields[self._key]
        problem = self._problem(key, row)
        if problem is None:
            self.good[key] = row
            self.keys[row.id] = key
        else:
            self.aside[row.id] = problem
            self.rejected.append(Rejected(index, f"{_label(row)}: {problem}", row.fields))

    def _problem(self, key: str, row: Row) -> str | None:
        if row.misfits:
            return "; ".join(row.misfits)
        if not key:
            return f"it has no {self._key}, and its name nothing to make one of"
        if key in self.good:
            return f"the {self._key} {key!r:.80} is that of {_label(self.good[key])}"
        return None


class _Linking:
    """Links the rows of one dataset."""

    def __init__(self, dataset: Dataset, rows: Mapping[str, SortedRows], is_trashed: Callable[[str], bool]) -> None:
        self._dataset = dataset
        self._sorted = rows
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
            # A rollup may show one page several times.
            keys = list(dict.fromkeys(key for each in item[field] for key in follow(where, target, each)))
            self.links += len(keys)
            if field in self._many:
                item[field] = keys
            else:
                item[field] = keys[0] if keys else None
                if len(keys) > 1:
                    self.broken.append(f"{where} leads to {len(keys)} {target}, expected one")
        return item

    def _follow_page(self, where: str, target: str, page_id: str) -> Iterator[str]:
        there = self._sorted.get(target)
        if there is not None and page_id in there.keys:
            yield there.keys[page_id]
        elif (found := self._find(page_id)) is not None:
            self.broken.append(f"{where} leads to page {page_id}, {found}")
        elif self._is_trashed(page_id):
            self.unlinked += 1
        else:
            self.broken.append(f"{where} leads to page {page_id}, which is none of the {target}")

    def _find(self, page_id: str) -> str | None:
        """Say what a page is that was read, but is no item to lead to."""
        for name, rows in self._sorted.items():
            if page_id in rows.aside:
                return f"which is kept aside: {rows.aside[page_id]}"
            if page_id in rows.keys:
                return f"which is one of the {name}"
        return None

    def _follow_name(self, where: str, target: str, name: str) -> Iterator[str]:
        key = slugify(name)
        # Where the other dataset does not come from Notion, what it has is not ours to say.
        if target in self._sorted:
            known = self._sorted[target].names.get(key) if key else None
            if known is None:
                self.broken.append(f"{where} names {name!r:.80}, which is none of the {target}")
                return
            key = known
        yield key or name


def _label(row: Row) -> str:
    return f"page {row.id} {row.fields['name']!r:.80}"
