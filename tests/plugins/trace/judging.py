"""Whether what was published is what a world held at some moment of the run, row by row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from plugins.trace.export.texts import slugify
from tests.plugins.trace.worlds import State, States, World


def judge(world: World, tags: Sequence[Any], features: Sequence[Any], gone: Iterable[str] = ()) -> None:
    """Fail if what was published is not what was there.

    Args:
        world: As it was from the beginning of the run.
        tags: Published.
        features: Published.
        gone: Pages that left without a trace earlier: may still be there.
    """
    found = {item.description: item for item in (*tags, *features)}
    assert len(found) == len(tags) + len(features), "a row is there twice"
    slugs = {page_id: _slugs(states) for page_id, states in world.states.items()}
    for page_id, states in world.states.items():
        item = found.pop(page_id, None)
        if item is None:
            assert None in states, f"{states} is missing"
        elif world.is_tag(page_id):
            assert any(state and _is_tag(item, state) for state in states), f"{item} never was: {states}"
        elif page_id not in gone:
            able = [state for state in states if state and _is_feature(item, state, world.states, slugs)]
            assert able, f"{item} never was: {states}"
    assert found.keys() <= set(gone), f"{found} are not there"
    assert {key for item in features for key in item.tags} <= {item.slug for item in tags}


def _slugs(states: States) -> set[str]:
    return {slugify(state.name) for state in states if state is not None}


def _is_tag(item: Any, state: State) -> bool:
    return (item.slug, item.name, item.color) == (slugify(state.name), state.name, state.value)


def _is_feature(item: Any, state: State, states: Mapping[str, States], slugs: Mapping[str, set[str]]) -> bool:
    if (item.slug, item.name, item.area) != (slugify(state.name), state.name, state.value):
        return False
    led_to = set(item.tags)
    may = {slug for tag in state.tags for slug in slugs.get(tag, ())}
    # Those that were there all the time, under one of their names.
    must = [slugs[tag] for tag in state.tags if None not in states.get(tag, (None,))]
    return led_to <= may and all(led_to & each for each in must)
