"""Paths into JSON, and the mapping of a source's items; invalid items are rejected with a reason."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.club.mapping import InvalidItemError, Mapper, look_up, parse_path
from plugins.club.models import DatasetName, HeroMetric, MostPresent

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
any_metrics = st.fixed_dictionaries({}, optional=dict.fromkeys(HeroMetric.__struct_fields__, json_values))
any_members = st.fixed_dictionaries({}, optional=dict.fromkeys(MostPresent.__struct_fields__, json_values))


def metric_of(raw: Any, **mapping: str) -> Any:
    return Mapper("hero-metrics", mapping).convert(raw)


def member_of(raw: Any, **mapping: str) -> Any:
    return Mapper("most-present", mapping, "flow").convert(raw)


def test_fields_are_read_from_their_paths() -> None:
    raw = {"slug": "joined", "labels": ["Joined"], "stats": {"total": 7}, "kinds": ["a", "b"]}

    made = metric_of(raw, metric="slug", name="labels[0]", value="stats.total", tags="kinds")

    assert made == HeroMetric(metric="joined", name="Joined", value=7.0, tags=("a", "b"))


def test_an_unmapped_field_is_read_from_its_own_name() -> None:
    made = metric_of({"metric": "joined", "value": 7, "unit": "members", "feature": "flow"})

    assert made == HeroMetric(metric="joined", name="joined", value=7.0, unit="members", feature="flow")


def test_constants_are_set_in_every_item() -> None:
    made = metric_of({"metric": "joined"}, value="=2.5", unit="==", tags="=a, b")

    assert (made.value, made.unit, made.tags) == (2.5, "=", ("a", "b"))


def test_a_member_is_identified_by_feature_and_member() -> None:
    made = member_of({"member": 42, "count": 3})

    assert made == MostPresent(id="flow/42", feature="flow", member="42", name="42", count=3)


@pytest.mark.parametrize("team", ["clout", "Голосовой чат", "R&D #1"])
def test_the_feature_of_a_member_can_be_mapped(team: str) -> None:
    made = Mapper("most-present", {"feature": "team"}).convert({"member": "ada", "count": 3, "team": team})

    assert made.key == f"{team}/ada"


@pytest.mark.parametrize("field", ["name", "unit", "feature", "tags"])
def test_null_is_ignored_in_optional_fields(field: str) -> None:
    assert metric_of({"metric": "m", "value": 1, field: None}) == metric_of({"metric": "m", "value": 1})


@pytest.mark.parametrize("count", [3, "3"])
def test_numbers_may_be_text(count: Any) -> None:
    assert member_of({"member": "ada", "count": count}).count == 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metric": None}, "missing required field metric"),
        ({"metric": ""}, "metric: expected str of length >= 1"),
        ({"metric": True}, "metric: expected str, got bool"),
        ({"metric": "m" * 201}, "metric: expected str of length <= 200"),
        ({"value": None}, "missing required field value"),
        ({"value": "many"}, "value: expected float, got str"),
        ({"value": {"n": 1}}, "value: expected float, got object"),
        ({"value": True}, "value: expected float, got bool"),
        ({"value": "nan"}, "value: expected float"),
        ({"value": 1e301}, "value: expected float <="),
        ({"unit": 5}, "unit: expected str"),
        ({"feature": "../x"}, "feature: expected str matching"),
        ({"feature": "x\n"}, "feature: expected str matching"),
        ({"tags": "a"}, "tags: expected array, got str"),
        ({"tags": ["a", 1]}, "tags[1]: expected str, got int"),
    ],
)
def test_an_invalid_metric_is_rejected_with_field_and_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidItemError) as refused:
        metric_of({"metric": "m", "value": 1, **changes})

    assert str(refused.value).lower().startswith(reason) or reason in str(refused.value).lower()


@pytest.mark.parametrize("count", [-1, 1.5, "1.5", 2**63, None, [], "x"])
def test_an_invalid_count_is_rejected(count: Any) -> None:
    with pytest.raises(InvalidItemError, match="count"):
        member_of({"member": "ada", "count": count})


@pytest.mark.parametrize("raw", [None, 5, "text", [], [{"metric": "m", "value": 1}]])
def test_a_value_that_is_not_an_object_is_rejected(raw: Any) -> None:
    with pytest.raises(InvalidItemError):
        metric_of(raw)


def test_items_may_be_lists() -> None:
    assert member_of(["ada", 3], member="[0]", count="[1]").key == "flow/ada"


@pytest.mark.parametrize(
    ("mapping", "problem"),
    [
        ({"valu": "x"}, "valu: no such field; there are metric, name, value"),
        ({"value": "a..b"}, "value: 'a..b' is not a path"),
        ({"feature": "x"}, "feature: set both by"),
    ],
)
def test_an_invalid_mapping_is_refused(mapping: dict[str, str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Mapper("hero-metrics", mapping, "flow")


def test_an_id_is_computed_and_cannot_be_mapped() -> None:
    with pytest.raises(ValueError, match="id: no such field"):
        Mapper("most-present", {"id": "x"})


@pytest.mark.parametrize(("dataset", "raws"), [("hero-metrics", any_metrics), ("most-present", any_members)])
def test_any_json_becomes_a_valid_item_or_is_rejected(dataset: DatasetName, raws: st.SearchStrategy[Any]) -> None:
    @given(raws)
    def check(raw: Any) -> None:
        try:
            item = Mapper(dataset, {}).convert(raw)
        except InvalidItemError:
            return
        assert msgspec.json.decode(msgspec.json.encode(item), type=type(item)) == item

    check()


DOCUMENT = {"data": {"pages": [{"name": "first"}, {"name": None}], "a b": 1}, "list": [[1, 2]]}

path_names = st.text(st.characters(exclude_characters=".[]", exclude_categories=["Cs"]), min_size=1, max_size=5)
paths = st.lists(path_names | st.integers(0, 3), max_size=4).map(tuple)


def format_path(path: tuple[str | int, ...]) -> str:
    """Format a path as ``parse_path`` reads it."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("", DOCUMENT),
        ("data.pages[0].name", "first"),
        ("data.pages[1].name", None),
        ("data.a b", 1),
        ("list[0][1]", 2),
    ],
)
def test_a_path_finds_its_value(path: str, found: Any) -> None:
    assert look_up(DOCUMENT, parse_path(path)) == found


@pytest.mark.parametrize("path", ["x", "data.x", "data.pages[2]", "data.pages.name", "data[0]", "data.a b.c", "[0]"])
def test_a_path_without_a_value_finds_nothing(path: str) -> None:
    assert look_up(DOCUMENT, parse_path(path)) is msgspec.UNSET


@pytest.mark.parametrize("text", [".", ".a", "a.", "a..b", "a[", "a]", "a[b]", "a[-1]", "a.[0]", "[0]a", "a[]"])
def test_an_invalid_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a path"):
        parse_path(text)


@given(paths)
def test_a_formatted_path_parses_to_the_same_path(path: tuple[str | int, ...]) -> None:
    assert parse_path(format_path(path)) == path


@given(st.text(".[]0a", max_size=8))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        path = parse_path(text)
    except ValueError:
        return
    assert format_path(path) == text.replace("[00", "[0") or "[0" in text
