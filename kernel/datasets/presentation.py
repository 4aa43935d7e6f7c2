"""How the items of a dataset are shown to people: which fields, under which names, with links to what they refer to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import quote

import msgspec

from kernel.contracts import Application, Contract, Dataset
from kernel.datasets.text_diff import ELLIPSIS, TextPart, diff_text
from kernel.http.pages import page_link

if TYPE_CHECKING:
    from kernel.datasets.service import Datasets

_COLOR = re.compile(r"#(?:[0-9a-fA-F]{3}){1,2}")
# Of a text in a table; the page of the item has it whole.
_CELL_MAX = 160
# Of a text on the page of an item.
_TEXT_MAX = 20_000
# Of a list in a table.
_MEMBERS_MAX = 12
_ITEM_MEMBERS_MAX = 500
CellKind = Literal["none", "text", "number", "flag", "time", "color", "list", "members"]


class DatasetPage(Contract, frozen=True):
    """How a dataset is shown.

    Args:
        dataset: The dataset.
        title: Of its page, such as ``Products``.
        columns: The fields in its table. The first is the link to the item.
        filters: The fields by whose values people filter.
        labels: Names of fields for people; by default the name with a capital letter and spaces.
        name: The field that names an item for people; by default its key.
        api: The path of the route that lists it, so that people find the data for programs.
        in_menu: Whether its page is in the menu.
    """

    dataset: Dataset
    title: str
    columns: tuple[str, ...]
    filters: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    name: str | None = None
    api: str | None = None
    in_menu: bool = True

    def label(self, field: str) -> str:
        """Return the name of a field for people."""
        return self.labels.get(field) or field.replace("_", " ").capitalize()

    def name_of(self, item: Any) -> str:
        """Return the name of an item for people, which may be its key."""
        return str(getattr(item, self.name or self.dataset.key) or getattr(item, self.dataset.key))


class Link(NamedTuple):
    """A text that may lead somewhere."""

    text: str
    href: str | None = None


class Cell(NamedTuple):
    """A value as pages show it.

    Args:
        label: Name of the field.
        kind: What ``content`` is: a text, a number as text, whether it is so, a time, a colour as text, ``Link``s, or
            further cells.
        content: What is shown.
        more: How many further members a list has.
    """

    label: str
    kind: CellKind
    content: Any = None
    more: int = 0


class FieldDifference(NamedTuple):
    """A field of an item that changed.

    Args:
        label: Name of the field.
        kind: ``text`` has ``parts``; ``list`` has members that went and came; ``value`` has cells.
        parts: Of both texts.
        before: A cell, or members.
        after: A cell, or members.
        kept: How many members stayed.
    """

    label: str
    kind: Literal["text", "list", "value"]
    parts: Sequence[TextPart] = ()
    before: Any = None
    after: Any = None
    kept: int = 0


class Presentation:
    """The pages of some datasets, and the links between them.

    Args:
        path: Of the pages, such as ``/shop/``.
        pages: How each dataset is shown.
    """

    def __init__(self, path: str, pages: Iterable[DatasetPage]) -> None:
        self.path = path
        self._pages = {page.dataset.name: page for page in pages}

    @property
    def pages(self) -> Mapping[str, DatasetPage]:
        """How each dataset is shown, by its name."""
        return self._pages

    def table_link(self, name: str, application: Application | None = None, **parameters: Any) -> str:
        """Return the link to the table of a dataset."""
        slug = None if application is None else application.slug
        return page_link(f"{self.path}{name}/", application=slug, **parameters)

    def item_link(self, name: str, key: object, application: Application | None = None, **parameters: Any) -> str:
        """Return the link to an item."""
        slug = None if application is None else application.slug
        return page_link(f"{self.path}{name}/{quote(str(key), safe='')}/", application=slug, **parameters)

    def link_as(
        self, text: str, name: str, key: object, application: Application | None = None, **parameters: Any
    ) -> Link:
        """Return a text that leads to an item, if that has a page."""
        return Link(text, self.item_link(name, key, application, **parameters))

    def link(self, page: DatasetPage, item: Any, application: Application | None = None, **parameters: Any) -> Link:
        """Return the link to an item, with its name."""
        key = getattr(item, page.dataset.key)
        return self.link_as(page.name_of(item), page.dataset.name, key, application, **parameters)

    def referrers(self, name: str) -> Sequence[tuple[DatasetPage, str]]:
        """Return which datasets refer to one, and by which of their fields."""
        return [
            (page, field)
            for page in self.pages.values()
            for field, target in page.dataset.relations.items()
            if target == name
        ]

    def cell(
        self,
        page: DatasetPage,
        field: str,
        item: Any,
        related: Mapping[str, Mapping[Any, Any]],
        application: Application | None = None,
        *,
        is_whole: bool = False,
    ) -> Cell:
        """Return a field of an item as pages show it.

        Args:
            page: How the dataset is shown.
            field: The field.
            item: The item.
            related: By dataset, the items by key that the reader sees.
            application: Whose view links lead to.
            is_whole: Whether long values are shown to their end, within reason.
        """
        label, value = page.label(field), getattr(item, field)
        target = page.dataset.relations.get(field)
        if target is None or not value:
            return make_cell(label, value, is_whole=is_whole)
        keys = (value,) if isinstance(value, str) else value
        shown = keys[: _ITEM_MEMBERS_MAX if is_whole else _MEMBERS_MAX]
        links = [self._related(target, key, related.get(target, {}).get(key), application) for key in shown]
        return Cell(label, "list", links, len(keys) - len(shown))

    def _related(self, name: str, key: str, item: Any, application: Application | None) -> Link:
        page = self.pages.get(name)
        # One that is not there, or not seen, has no page.
        return Link(key) if page is None or item is None else self.link(page, item, application)


class AnyPresentation(Presentation):
    """All datasets of a service, for pages that show any of them: links lead to the pages of their plugins.

    Args:
        path: Of the pages.
        datasets: Every dataset, with the pages that plugins have for them.
    """

    def __init__(self, path: str, datasets: Datasets) -> None:
        super().__init__(path, ())
        self._datasets = datasets

    @property
    def pages(self) -> Mapping[str, DatasetPage]:
        """How each dataset is shown: as its plugin does, or by its key alone."""
        return {name: self._page(dataset) for name, dataset in self._datasets.all.items()}

    def table_link(self, name: str, application: Application | None = None, **parameters: Any) -> str:
        """Return the link to the table of a dataset, or to its versions if it has none."""
        known = self._datasets.presentations.get(name)
        if known is not None:
            return known.table_link(name, application, **parameters)
        slug = None if application is None else application.slug
        return page_link(f"{self.path}versions/", dataset=name, application=slug)

    def link_as(
        self, text: str, name: str, key: object, application: Application | None = None, **parameters: Any
    ) -> Link:
        """Return a text that leads to an item, if the plugin has pages for it."""
        known = self._datasets.presentations.get(name)
        return Link(text) if known is None else known.link_as(text, name, key, application, **parameters)

    def _page(self, dataset: Dataset) -> DatasetPage:
        known = self._datasets.presentations.get(dataset.name)
        if known is not None:
            return known.pages[dataset.name]
        title = dataset.name.replace("-", " ").replace("_", " ").capitalize()
        return DatasetPage(dataset=dataset, title=title, columns=(dataset.key,))


def make_cell(label: str, value: Any, *, is_whole: bool = False) -> Cell:
    """Return a value as pages show it; see ``Presentation.cell``."""
    if value is None or value is msgspec.UNSET or value in ("", (), [], {}):
        return Cell(label, "none")
    if isinstance(value, bool):
        return Cell(label, "flag", value)
    if isinstance(value, int):
        return Cell(label, "number", f"{value:,}")
    if isinstance(value, float):
        return Cell(label, "number", f"{value:,.6g}")
    if isinstance(value, datetime):
        return Cell(label, "time", value)
    if isinstance(value, str) and _COLOR.fullmatch(value):
        return Cell(label, "color", value)
    if isinstance(value, list | tuple | set | frozenset) and all(isinstance(each, str | int | float) for each in value):
        members = list(value)
        shown = members[: _ITEM_MEMBERS_MAX if is_whole else _MEMBERS_MAX]
        return Cell(
            label, "list", [Link(_cut(str(each), is_whole=is_whole)) for each in shown], len(members) - len(shown)
        )
    if isinstance(value, Mapping) and is_whole:
        names = list(value)[:_ITEM_MEMBERS_MAX]
        # Deeper ones are shown as JSON.
        return Cell(label, "members", [_member(str(name), value[name]) for name in names], len(value) - len(names))
    return Cell(label, "text", _cut(as_text(value), is_whole=is_whole))


def _member(name: str, value: Any) -> Cell:
    return (
        Cell(name, "text", _cut(as_text(value), is_whole=True))
        if isinstance(value, Mapping)
        else make_cell(name, value)
    )


def _cut(text: str, *, is_whole: bool) -> str:
    longest = _TEXT_MAX if is_whole else _CELL_MAX
    return text if len(text) <= longest else text[:longest] + ELLIPSIS


def as_text(value: Any) -> str:
    """Return a value as a text: as it is, or as JSON."""
    if value is None or value is msgspec.UNSET:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, date):
        return value.isoformat()
    return msgspec.json.encode(value, enc_hook=str).decode()


def diff_field(label: str, before: Any, after: Any) -> FieldDifference:
    """Return what changed in a field: parts of a text, members of a list, or the two values."""
    lists = (list, tuple)
    if isinstance(before, lists) and isinstance(after, lists) and set(map(as_text, before)) != set(map(as_text, after)):
        old, new = ([as_text(each) for each in value] for value in (before, after))
        gone = [make_cell(label, each) for each in old if each not in set(new)]
        come = [make_cell(label, each) for each in new if each not in set(old)]
        kept = len(old) - len(gone)
        return FieldDifference(label, "list", before=gone[:_MEMBERS_MAX], after=come[:_MEMBERS_MAX], kept=kept)
    is_simple = all(value is None or isinstance(value, bool | int | float | datetime) for value in (before, after))
    if is_simple or not before or not after:
        cells = [make_cell(label, value, is_whole=not isinstance(value, Mapping)) for value in (before, after)]
        return FieldDifference(label, "value", before=cells[0], after=cells[1])
    return FieldDifference(label, "text", diff_text(as_text(before), as_text(after)))


def diff_fields(page: DatasetPage, before: Any, after: Any) -> Sequence[FieldDifference]:
    """Return what changed in an item, field by field."""
    return [
        diff_field(page.label(name), getattr(before, name), getattr(after, name))
        for name in after.__struct_fields__
        if getattr(before, name) != getattr(after, name)
    ]
