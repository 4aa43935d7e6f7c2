"""Turn rows into items: replace ids of pages by keys of items, reject invalid rows and broken relations.

A row whose values do not fit, or whose key is missing or taken, is rejected: it is left out, with its reason. A
relation to a page in the trash is left out and counted. Any other relation without a target refuses the export.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from kernel import Dataset
from kernel.datasets import Rejected, find_key_problem
from plugins.trace.notion.errors import NotionError
from plugins.trace.sync.mapping import Row, slugify

_NAMED_MAX = 5
# Each may have cost a request, and one is enough to refuse the export.
_BROKEN_MAX = 50


class ResolvedItems(msgspec.Struct, frozen=True):
    """The items of a dataset.

    Args:
        items: As mappings, with keys of other items in the fields of relations.
        rejected: Rows that make no item, each with its reason.
        links: Relations to other rows.
        unlinked: Relations to pages in the trash, left out.
    """

    items: Sequence[Mapping[str, Any]]
    rejected: Sequence[Rejected]
    links: int
    unlinked: int


class DatasetRows:
    """The rows of a dataset: those that make items, by their key, and those that are rejected.

    Args:
        dataset: Whose.
        rows: All of them.
    """

    def __init__(self, dataset: Dataset, rows: Sequence[Row]) -> None:
        self._key = dataset.key
        self.by_key: dict[str, Row] = {}
        self.rejected: list[Rejected] = []
        self.keys_by_page: dict[str, str] = {}
        self.rejections_by_page: dict[str, str] = {}
        # Of two rows with the same key the older one has it, in whatever order they were read.
        for index, row in enumerate(sorted(rows, key=lambda row: (row.created_time, row.id))):
            self._add(index, row)
        # A select or a text may name an item by its key or by its name; a key takes precedence over a name.
        self.keys_by_name: dict[str, str] = {}
        for key in self.by_key:
            self.keys_by_name.setdefault(slugify(key), key)
        for key, row in self.by_key.items():
            self.keys_by_name.setdefault(slugify(row.fields["name"]), key)

    def _add(self, index: int, row: Row) -> None:
        key: str = row.fields[self._key]
        reason = self._rejection(key, row)
        if reason is None:
            self.by_key[key] = row
            self.keys_by_page[row.id] = key
        else:
            self.rejections_by_page[row.id] = reason
            self.rejected.append(Rejected(index, f"{_describe(row)}: {reason}", row.fields))

    def _rejection(self, key: str, row: Row) -> str | None:
        if row.errors:
            return "; ".join(row.errors)
        if not key:
            return f"it has no {self._key}, and its name has no letter or digit to make one from"
        if problem := find_key_problem(key):
            return f"its {self._key} {key!r:.80} {problem}"
        if key in self.by_key:
            return f"the {self._key} {key!r:.80} is that of {_describe(self.by_key[key])}"
        return None


class RelationResolver:
    """Makes items of the rows of all datasets.

    Args:
        rows: By dataset.
        is_trashed: Returns whether a page that is in no source is in the trash.
    """

    def __init__(self, rows: Mapping[Dataset, Sequence[Row]], is_trashed: Callable[[str], bool]) -> None:
        self._is_trashed = is_trashed
        self._rows = {dataset.name: DatasetRows(dataset, each) for dataset, each in rows.items()}

    def resolve(self, dataset: Dataset) -> ResolvedItems:
        """Return the items of a dataset.

        Raises:
            NotionError: A relation points to a row that is not exported.
        """
        resolution = _Resolution(dataset, self._rows, self._is_trashed)
        items: list[Mapping[str, Any]] = []
        for row in self._rows[dataset.name].by_key.values():
            items.append(resolution.make_item(row))
            if len(resolution.broken) > _BROKEN_MAX:
                break
        if broken := resolution.broken:
            more = f"; and at least {len(broken) - _NAMED_MAX} more" if len(broken) > _NAMED_MAX else ""
            raise NotionError(
                "incomplete", f"broken relations of {dataset.name}: {'; '.join(broken[:_NAMED_MAX])}{more}"
            )
        return ResolvedItems(items, self._rows[dataset.name].rejected, resolution.links, resolution.unlinked)


class _Resolution:
    """Resolves the relations of one dataset, and counts them."""

    def __init__(self, dataset: Dataset, rows: Mapping[str, DatasetRows], is_trashed: Callable[[str], bool]) -> None:
        self._dataset = dataset
        self._rows = rows
        self._is_trashed = is_trashed
        self._list_fields = {
            field.name for field in msgspec.structs.fields(dataset.item) if isinstance(field.default, tuple)
        }
        self.links = 0
        self.unlinked = 0
        self.broken: list[str] = []

    def make_item(self, row: Row) -> Mapping[str, Any]:
        item = {**row.fields}
        if row.properties:
            item["properties"] = row.properties
        for field, target in self._dataset.relations.items():
            if field not in item:
                continue
            resolve = self._resolve_page if field in row.page_fields else self._resolve_name
            origin = f"{item[self._dataset.key]}.{field}"
            # A rollup may show the same page several times.
            keys = list(dict.fromkeys(key for each in item[field] for key in resolve(origin, target, each)))
            self.links += len(keys)
            if field in self._list_fields:
                item[field] = keys
            else:
                item[field] = keys[0] if keys else None
                if len(keys) > 1:
                    self.broken.append(f"{origin} points to {len(keys)} {target}, expected one")
        return item

    def _resolve_page(self, origin: str, target: str, page_id: str) -> Iterator[str]:
        rows = self._rows.get(target)
        if rows is not None and page_id in rows.keys_by_page:
            yield rows.keys_by_page[page_id]
        elif (reason := self._explain_page(page_id)) is not None:
            self.broken.append(f"{origin} points to page {page_id}, {reason}")
        elif self._is_trashed(page_id):
            self.unlinked += 1
        else:
            self.broken.append(f"{origin} points to page {page_id}, which is none of the {target}")

    def _explain_page(self, page_id: str) -> str | None:
        """Say why a page that was read is not an item of the target; None if it was not read."""
        for name, rows in self._rows.items():
            if page_id in rows.rejections_by_page:
                return f"which is rejected: {rows.rejections_by_page[page_id]}"
            if page_id in rows.keys_by_page:
                return f"which is one of the {name}"
        return None

    def _resolve_name(self, origin: str, target: str, name: str) -> Iterator[str]:
        key = slugify(name)
        # The items of a dataset that is not exported from Notion are not known here.
        if target in self._rows:
            known = self._rows[target].keys_by_name.get(key) if key else None
            if known is None:
                self.broken.append(f"{origin} names {name!r:.80}, which is none of the {target}")
                return
            key = known
        yield key or name


def _describe(row: Row) -> str:
    return f"page {row.id} {row.fields['name']!r:.80}"
