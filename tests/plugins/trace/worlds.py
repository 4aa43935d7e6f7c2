"""A workspace that changes while it is exported, and what an export of it may say.

A row that nobody touched during a run has to be there exactly as it is. One that was touched is there in a state that
it had during the run, and may be missing only if there was a moment in the run at which it was not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from tests.notion.values import rich_text
from tests.notion.workspace import Column, DataSource, Page, Workspace

TAGS_ID = "7a000000-0000-4000-8000-000000000001"
FEATURES_ID = "7a000000-0000-4000-8000-000000000002"
SOURCES = {
    "tags": {"databases": [TAGS_ID], "fields": {"description": "Ref", "color": "Color"}},
    "features": {"databases": [FEATURES_ID], "fields": {"description": "Ref", "area": "Area", "tags": "Tags"}},
}
AREAS = ("flow", "chat", "mail")
COLORS = ("red", "green", "blue")


class State(msgspec.Struct, frozen=True):
    """What a row says at a moment.

    Args:
        name: Its title.
        value: Of its one other column.
        tags: Ids of the pages it leads to.
    """

    name: str
    value: str
    tags: frozenset[str] = frozenset()


States = Sequence[State | None]


class World:
    """A workspace with features and tags; every row has its own id in a column.

    Args:
        minutes: For each feature, when it was made, counted from the first.
        tags: How many tags there are.
        more: How many data sources with features there are besides the first.
    """

    def __init__(self, minutes: Sequence[int], tags: int, more: int = 0) -> None:
        self.workspace = Workspace()
        self.elsewhere = self.workspace.add_data_source("Elsewhere", self._columns())
        self.tags = self.workspace.add_data_source(
            "Tags", {"Name": "title", "Ref": "rich_text", "Color": "rich_text"}, TAGS_ID
        )
        self.features = self.workspace.add_data_source("Features", self._columns(), FEATURES_ID)
        self.added: list[DataSource] = []
        # Pages that left without a trace since the run began.
        self.left: set[str] = set()
        self._made = 0
        self._states: dict[str, list[State | None]] = {}
        for number in range(tags):
            self._add(self.tags, {"Name": f"First tag {number}", "Color": COLORS[number % 3]})
        for minute in minutes:
            self.make(minute)
        for number in range(more):
            self.add_source(4 * number)
        self.workspace.wait(minutes=30)
        self.begin()

    # --- what happens -----------------------------------------------------------------------------------------------

    def make(self, minute: int, source: DataSource | None = None) -> None:
        """Add a feature."""
        self._made += 1
        created = self.workspace.now + timedelta(minutes=minute)
        source = source or self.features
        area = _area_of(source)
        values = {area.name: AREAS[minute % 3]} if area.type == "select" else {}
        named = {"Name": f"Feature {self._made}", "Tags": self._pick_tags(minute)}
        self._add(source, {**values, **named}, created)

    def edit(self, number: int) -> None:
        """Change the area of a feature and what it leads to."""
        if (page := self._feature(number)) is not None:
            area = _area_of(self.workspace.data_sources[page.data_source_id])
            values = {area.name: AREAS[number % 3]} if area.type == "select" else {}
            self.workspace.edit(page, {**values, "Tags": self._pick_tags(number // 3)})

    def retitle(self, number: int) -> None:
        """Change the title of a feature, and so its key."""
        if (page := self._feature(number)) is not None:
            self._made += 1
            self.workspace.edit(page, {"Name": f"Feature {self._made}"})

    def trash(self, number: int) -> None:
        """Put a feature into the trash."""
        if (page := self._feature(number)) is not None:
            self.workspace.trash(page)

    def restore(self, number: int) -> None:
        """Take a feature or a tag out of the trash."""
        thrown = [page for page in self._pages() if page.in_trash]
        if thrown:
            self.workspace.restore(thrown[number % len(thrown)])

    def remove(self, number: int) -> None:
        """Delete a feature without a trace."""
        if (page := self._feature(number)) is not None:
            self.workspace.remove(page)
            self.left.add(page.id)

    def move(self, number: int) -> None:
        """Move a feature to another data source of the database, or out of it."""
        page = self._feature(number)
        places = [self.features, *self.added, self.elsewhere]
        if page is not None and (target := places[number % len(places)]).id != page.data_source_id:
            self.workspace.move(page, target)
            self.left |= {page.id} if target is self.elsewhere else set()

    def recolor(self, number: int) -> None:
        """Change a tag: its title, and so its key, or its color."""
        tags = [page for page in self.tags.pages.values() if not page.in_trash]
        if tags:
            self._made += 1
            values = {"Name": f"Tag {self._made}"} if number % 2 else {"Color": COLORS[number % 3]}
            self.workspace.edit(tags[number % len(tags)], values)

    def trash_tag(self, number: int) -> None:
        """Put a tag into the trash."""
        tags = [page for page in self.tags.pages.values() if not page.in_trash]
        if tags:
            self.workspace.trash(tags[number % len(tags)])

    def rename(self, _number: int) -> None:
        """Rename a column that is exported, or name it as it was."""
        name = _area_of(self.features).name
        self.workspace.rename(self.features, name, "Zone" if name == "Area" else "Area")

    def retype(self, _number: int) -> None:
        """Make another type of a column that is exported."""
        self.workspace.change_type(self.features, _area_of(self.features).name, "checkbox")

    def settle(self) -> bool:
        """Put the columns back into order; tell whether rows have other values now that do not count as edited."""
        area = _area_of(self.features)
        is_retyped = area.type != "select"
        area.name = "Area"
        if is_retyped:
            self.workspace.change_type(self.features, "Area", "select")
        return is_retyped

    def add_source(self, number: int) -> None:
        """Add a data source with rows to the database, or remove the last."""
        if len(self.added) < 2:
            self.added.append(self.workspace.add_data_source(f"More {number}", self._columns(), FEATURES_ID))
            for minute in range(number % 4):
                self.make(minute, self.added[-1])
        else:
            self.workspace.remove_data_source(self.added.pop())

    def wait(self, number: int) -> None:
        """Let some seconds or minutes pass."""
        self.workspace.wait(seconds=20 * (number % 12))

    # --- what may be said of it -------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin a run: what was before does not count."""
        self.left = set()
        self._states = {page_id: [state] for page_id, state in self._now().items()}

    def record(self) -> None:
        """Take down how things are, after something happened."""
        now = self._now()
        for page_id in self._states.keys() | now.keys():
            states = self._states.setdefault(page_id, [None])
            if states[-1] != (state := now.get(page_id)):
                states.append(state)

    @property
    def states(self) -> Mapping[str, States]:
        """Of each page, the states it had since the run began, in order."""
        return self._states

    def is_tag(self, page_id: str) -> bool:
        """Tell whether a page was made as a tag."""
        return page_id in self.tags.pages

    # --- inside -----------------------------------------------------------------------------------------------------

    def _columns(self) -> dict[str, Any]:
        tags = getattr(self, "tags", None)
        return {
            "Name": "title",
            "Ref": "rich_text",
            "Area": "select",
            "Tags": ("relation", {"data_source_id": "" if tags is None else tags.id}),
        }

    def _add(self, source: DataSource, values: Mapping[str, Any], created: Any = None) -> None:
        page = self.workspace.add_page(source, values, created)
        page.values[source.column("Ref").id] = rich_text(page.id)

    def _pick_tags(self, number: int) -> list[Page]:
        tags = [page for page in self.tags.pages.values() if not page.in_trash]
        return [page for index, page in enumerate(tags) if (number >> index) & 1]

    def _pages(self) -> Iterator[Page]:
        for source in (self.tags, self.features, *self.added):
            yield from source.pages.values()

    def _feature(self, number: int) -> Page | None:
        pages = [page for each in (self.features, *self.added) for page in each.pages.values() if not page.in_trash]
        return pages[number % len(pages)] if pages else None

    def _now(self) -> dict[str, State | None]:
        return {page.id: None if page.in_trash else self._state(page) for page in self._pages()}

    def _state(self, page: Page) -> State:
        source = self.workspace.data_sources[page.data_source_id]
        shown = {column.name: page.values.get(column.id) for column in source.columns}
        name = "".join(part["plain_text"] for part in shown["Name"] or ())
        if source is self.tags:
            return State(name, "".join(part["plain_text"] for part in shown["Color"] or ()))
        area = page.values.get(_area_of(source).id) if _area_of(source).type == "select" else None
        return State(name, area["name"] if area else "", frozenset(each["id"] for each in shown["Tags"] or ()))


def _area_of(source: DataSource) -> Column:
    return next(each for each in source.columns if each.name in ("Area", "Zone"))
