"""A workspace that changes while it is exported, with a record of its changes; and what an export of it may publish.

A row that did not change during a run has to be published exactly as it is. One that changed is published in a state
that it had during the run, and may be missing only if it did not exist at some moment of the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from plugins.trace.sync.mapping import slugify
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


class RowState(msgspec.Struct, frozen=True):
    """The values of a row at a point in time.

    Args:
        name: Its title.
        value: Of its one other column.
        tags: Ids of the pages that it points to.
    """

    name: str
    value: str
    tags: frozenset[str] = frozenset()


# In order; None where the row does not exist or is in the trash.
History = Sequence[RowState | None]


class RecordedWorkspace:
    """A workspace with features and tags that records the states of every row. Each row has its own id in a column.

    Args:
        minutes: For each feature, the minute of its creation, counted from the first.
        tags: How many tags there are.
        more: How many data sources with features there are besides the first.
    """

    def __init__(self, minutes: Sequence[int], tags: int, more: int = 0) -> None:
        self.workspace = Workspace()
        self.elsewhere = self.workspace.add_data_source("Elsewhere", self._feature_columns())
        self.tags = self.workspace.add_data_source(
            "Tags", {"Name": "title", "Ref": "rich_text", "Color": "rich_text"}, TAGS_ID
        )
        self.features = self.workspace.add_data_source("Features", self._feature_columns(), FEATURES_ID)
        self.added: list[DataSource] = []
        # Ids of pages that disappeared without a trace since the recording was started.
        self.vanished: set[str] = set()
        # Ids of pages that came to another data source since then.
        self.moved: set[str] = set()
        self._names_used = 0
        self._histories: dict[str, list[RowState | None]] = {}
        for number in range(tags):
            self._add_page(self.tags, {"Name": f"First tag {number}", "Color": COLORS[number % 3]})
        for minute in minutes:
            self.add_feature(minute)
        for number in range(more):
            self.add_source(4 * number)
        self.workspace.wait(minutes=30)
        self.start_recording()

    # --- changes: each takes a number that chooses what is changed, and how ------------------------------------------

    def add_feature(self, minute: int, source: DataSource | None = None) -> None:
        """Add a feature."""
        self._names_used += 1
        created = self.workspace.now + timedelta(minutes=minute)
        source = source or self.features
        area = _area_column(source)
        values = {area.name: AREAS[minute % 3]} if area.type == "select" else {}
        named = {"Name": f"Feature {self._names_used}", "Tags": self._choose_tags(minute)}
        self._add_page(source, {**values, **named}, created)

    def edit_feature(self, number: int) -> None:
        """Change the area and the tags of a feature."""
        if (page := self._choose_feature(number)) is not None:
            area = _area_column(self.workspace.data_sources[page.data_source_id])
            values = {area.name: AREAS[number % 3]} if area.type == "select" else {}
            self.workspace.edit(page, {**values, "Tags": self._choose_tags(number // 3)})

    def rename_feature(self, number: int) -> None:
        """Change the title of a feature, and so its key."""
        if (page := self._choose_feature(number)) is not None:
            self._names_used += 1
            self.workspace.edit(page, {"Name": f"Feature {self._names_used}"})

    def trash_feature(self, number: int) -> None:
        """Move a feature to the trash."""
        if (page := self._choose_feature(number)) is not None:
            self.workspace.trash(page)

    def restore(self, number: int) -> None:
        """Restore a feature or a tag from the trash."""
        trashed = [page for page in self._pages() if page.in_trash]
        if trashed:
            self.workspace.restore(trashed[number % len(trashed)])

    def remove_feature(self, number: int) -> None:
        """Delete a feature without a trace."""
        if (page := self._choose_feature(number)) is not None:
            self.workspace.remove(page)
            self.vanished.add(page.id)

    def move_feature(self, number: int) -> None:
        """Move a feature to another data source of the database, or out of it."""
        page = self._choose_feature(number)
        targets = [self.features, *self.added, self.elsewhere]
        if page is not None and (target := targets[number % len(targets)]).id != page.data_source_id:
            self.workspace.move(page, target)
            self.moved.add(page.id)
            self.vanished |= {page.id} if target is self.elsewhere else set()

    def edit_tag(self, number: int) -> None:
        """Change the title of a tag, and so its key, or its color."""
        tags = [page for page in self.tags.pages.values() if not page.in_trash]
        if tags:
            self._names_used += 1
            values = {"Name": f"Tag {self._names_used}"} if number % 2 else {"Color": COLORS[number % 3]}
            self.workspace.edit(tags[number % len(tags)], values)

    def trash_tag(self, number: int) -> None:
        """Move a tag to the trash."""
        tags = [page for page in self.tags.pages.values() if not page.in_trash]
        if tags:
            self.workspace.trash(tags[number % len(tags)])

    def rename_column(self, _number: int) -> None:
        """Rename a column that is exported, or give it its first name again."""
        name = _area_column(self.features).name
        self.workspace.rename(self.features, name, "Zone" if name == "Area" else "Area")

    def change_column_type(self, _number: int) -> None:
        """Change the type of a column that is exported."""
        self.workspace.change_type(self.features, _area_column(self.features).name, "checkbox")

    def restore_columns(self) -> bool:
        """Undo changes of columns; tell whether rows have other values now without counting as edited."""
        area = _area_column(self.features)
        is_retyped = area.type != "select"
        area.name = "Area"
        if is_retyped:
            self.workspace.change_type(self.features, "Area", "select")
        return is_retyped

    def add_source(self, number: int) -> None:
        """Add a data source with rows to the database, or remove the last one that was added."""
        if len(self.added) < 2:
            self.added.append(self.workspace.add_data_source(f"More {number}", self._feature_columns(), FEATURES_ID))
            for minute in range(number % 4):
                self.add_feature(minute, self.added[-1])
        else:
            self.workspace.remove_data_source(self.added.pop())

    def wait(self, number: int) -> None:
        """Let some seconds or minutes pass."""
        self.workspace.wait(seconds=20 * (number % 12))

    # --- the record --------------------------------------------------------------------------------------------------

    def start_recording(self) -> None:
        """Forget all earlier states."""
        self.vanished, self.moved = set(), set()
        self._histories = {page_id: [state] for page_id, state in self._current_states().items()}

    def record(self) -> None:
        """Record the states of all rows after a change."""
        current = self._current_states()
        for page_id in self._histories.keys() | current.keys():
            history = self._histories.setdefault(page_id, [None])
            if history[-1] != (state := current.get(page_id)):
                history.append(state)

    @property
    def histories(self) -> Mapping[str, History]:
        """The states of each page since the recording was started."""
        return self._histories

    def is_tag(self, page_id: str) -> bool:
        """Tell whether a page is a tag."""
        return page_id in self.tags.pages

    def _feature_columns(self) -> dict[str, Any]:
        tags = getattr(self, "tags", None)
        return {
            "Name": "title",
            "Ref": "rich_text",
            "Area": "select",
            "Tags": ("relation", {"data_source_id": "" if tags is None else tags.id}),
        }

    def _add_page(self, source: DataSource, values: Mapping[str, Any], created: Any = None) -> None:
        page = self.workspace.add_page(source, values, created)
        page.values[source.column("Ref").id] = rich_text(page.id)

    def _choose_tags(self, number: int) -> list[Page]:
        tags = [page for page in self.tags.pages.values() if not page.in_trash]
        return [page for index, page in enumerate(tags) if (number >> index) & 1]

    def _choose_feature(self, number: int) -> Page | None:
        pages = [page for each in (self.features, *self.added) for page in each.pages.values() if not page.in_trash]
        return pages[number % len(pages)] if pages else None

    def _pages(self) -> Iterator[Page]:
        for source in (self.tags, self.features, *self.added):
            yield from source.pages.values()

    def _current_states(self) -> dict[str, RowState | None]:
        return {page.id: None if page.in_trash else self._state_of(page) for page in self._pages()}

    def _state_of(self, page: Page) -> RowState:
        source = self.workspace.data_sources[page.data_source_id]
        values = {column.name: page.values.get(column.id) for column in source.columns}
        name = "".join(part["plain_text"] for part in values["Name"] or ())
        if source is self.tags:
            return RowState(name, "".join(part["plain_text"] for part in values["Color"] or ()))
        area = page.values.get(_area_column(source).id) if _area_column(source).type == "select" else None
        return RowState(name, area["name"] if area else "", frozenset(each["id"] for each in values["Tags"] or ()))


def _area_column(source: DataSource) -> Column:
    return next(each for each in source.columns if each.name in ("Area", "Zone"))


# --- the oracle ------------------------------------------------------------------------------------------------------


def assert_published_matches(
    recorded: RecordedWorkspace, tags: Sequence[Any], features: Sequence[Any], vanished: Iterable[str] = ()
) -> None:
    """Fail if the published items are not what the workspace held during the run.

    Args:
        recorded: Since the beginning of the run.
        tags: Published items.
        features: Published items.
        vanished: Ids of pages that disappeared without a trace: may still be published.
    """
    items = {item.description: item for item in (*tags, *features)}
    assert len(items) == len(tags) + len(features), "a row is published twice"
    slugs = {page_id: _slugs(history) for page_id, history in recorded.histories.items()}
    for page_id, history in recorded.histories.items():
        item = items.pop(page_id, None)
        if item is None:
            assert None in history, f"{history} is missing"
        elif recorded.is_tag(page_id):
            assert any(state and _is_tag(item, state) for state in history), f"{item} never was: {history}"
        elif page_id not in vanished:
            matching = [state for state in history if state and _is_feature(item, state, recorded.histories, slugs)]
            assert matching, f"{item} never was: {history}"
    assert items.keys() <= set(vanished), f"{items} do not exist"
    assert {key for item in features for key in item.tags} <= {item.slug for item in tags}


def _slugs(history: History) -> set[str]:
    return {slugify(state.name) for state in history if state is not None}


def _is_tag(item: Any, state: RowState) -> bool:
    return (item.slug, item.name, item.color) == (slugify(state.name), state.name, state.value)


def _is_feature(item: Any, state: RowState, histories: Mapping[str, History], slugs: Mapping[str, set[str]]) -> bool:
    if (item.slug, item.name, item.area) != (slugify(state.name), state.name, state.value):
        return False
    published = set(item.tags)
    allowed = {slug for tag in state.tags for slug in slugs.get(tag, ())}
    # Tags that existed during the whole run, each under one of its names.
    required = [slugs[tag] for tag in state.tags if None not in histories.get(tag, (None,))]
    return published <= allowed and all(published & each for each in required)
