"""What a source calls an item becomes one of ours, or is refused with a reason."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.club.mapping import BadItemError, Mapper
from plugins.club.model import DatasetName, HeroMetric, MostPresent

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
any_metrics = st.fixed_dictionaries({}, optional=dict.fromkeys(HeroMetric.__struct_fields__, json_values))
any_members = st.fixed_dictionaries({}, optional=dict.fromkeys(MostPresent.__struct_fields__, json_values))


def metric_of(raw: Any, **mapping: str) -> Any:
    return Mapper("hero-metrics", mapping).make(raw)


def member_of(raw: Any, **mapping: str) -> Any:
    return Mapper("most-present", mapping, "flow").make(raw)


def test_fields_are_taken_from_their_paths() -> None:
    raw = {"slug": "joined", "labels": ["Joined"], "stats": {"total": 7}, "kinds": ["a", "b"]}

    made = metric_of(raw, metric="slug", name="labels[0]", value="stats.total", tags="kinds")

    assert made == HeroMetric(metric="joined", name="Joined", value=7.0, tags=("a", "b"))


def test_a_field_that_is_not_mapped_is_looked_for_under_its_own_name() -> None:
    made = metric_of({"metric": "joined", "value": 7, "unit": "members", "feature": "flow"})

    assert made == HeroMetric(metric="joined", name="joined", value=7.0, unit="members", feature="flow")


def test_constants_stand_in_every_item() -> None:
    made = metric_of({"metric": "joined"}, value="=2.5", unit="==", tags="=a, b")

    assert (made.value, made.unit, made.tags) == (2.5, "=", ("a", "b"))


def test_a_member_is_identified_by_feature_and_member() -> None:
    made = member_of({"member": 42, "count": 3})

    assert made == MostPresent(id="flow/42", feature="flow", member="42", name="42", count=3)


def test_a_member_says_its_feature_where_the_source_does_not() -> None:
    made = Mapper("most-present", {"feature": "team"}).make({"member": "ada", "count": 3, "team": "clout"})

    assert made.key == "clout/ada"


@pytest.mark.parametrize("field", ["name", "unit", "feature", "tags"])
def test_null_is_as_good_as_nothing_where_nothing_is_needed(field: str) -> None:
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
def test_a_bad_metric_is_refused_with_the_field_and_the_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadItemError) as refused:
        metric_of({"metric": "m", "value": 1, **changes})

    assert str(refused.value).lower().startswith(reason) or reason in str(refused.value).lower()


@pytest.mark.parametrize("count", [-1, 1.5, "1.5", 2**63, None, [], "x"])
def test_a_bad_count_is_refused(count: Any) -> None:
    with pytest.raises(BadItemError, match="count"):
        member_of({"member": "ada", "count": count})


@pytest.mark.parametrize("raw", [None, 5, "text", [], [{"metric": "m", "value": 1}]])
def test_what_is_no_object_is_refused(raw: Any) -> None:
    with pytest.raises(BadItemError):
        metric_of(raw)


def test_items_may_be_lists() -> None:
    assert member_of(["ada", 3], member="[0]", count="[1]").key == "flow/ada"


@pytest.mark.parametrize(
    ("mapping", "problem"),
    [
        ({"valu": "x"}, "valu: no such field; there are metric, name, value"),
        ({"value": "a..b"}, "value: 'a..b' is no path"),
        ({"feature": "x"}, "feature: is given twice"),
    ],
)
def test_a_mapping_that_cannot_work_is_refused(mapping: dict[str, str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Mapper("hero-metrics", mapping, "flow")


def test_an_id_is_computed_and_cannot_be_mapped() -> None:
    with pytest.raises(ValueError, match="id: no such field"):
        Mapper("most-present", {"id": "x"})


@pytest.mark.parametrize(("dataset", "raws"), [("hero-metrics", any_metrics), ("most-present", any_members)])
def test_whatever_comes_is_a_valid_item_or_refused(dataset: DatasetName, raws: st.SearchStrategy[Any]) -> None:
    @given(raws)
    def check(raw: Any) -> None:
        try:
            item = Mapper(dataset, {}).make(raw)
        except BadItemError:
            return
        assert msgspec.json.decode(msgspec.json.encode(item), type=type(item)) == item

    check()
