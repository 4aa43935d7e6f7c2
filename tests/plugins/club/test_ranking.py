"""Ranks, shares, totals and changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.club.models import HeroMetric, MostPresent
from plugins.club.ranking import rank_members, rank_metrics, summarize_features


def make_member(member: str, count: int, feature: str = "flow", name: str | None = None) -> MostPresent:
    return MostPresent(
        id=f"{feature}/{member}", feature=feature, member=member, name=name or member, count=count, tags=("t",)
    )


def make_metric(metric: str, value: float, unit: str | None = None) -> HeroMetric:
    return HeroMetric(metric=metric, name=metric, value=value, unit=unit)


def unique(items: list[MostPresent]) -> list[MostPresent]:
    return list({item.id: item for item in items}.values())


snapshots = st.lists(
    st.builds(make_member, st.sampled_from("abcdef"), st.integers(0, 4), st.sampled_from(["flow", "clout"])),
    max_size=12,
).map(unique)
values = st.floats(-1e300, 1e300)
metric_lists = st.lists(
    st.builds(make_metric, st.sampled_from("abcdef"), st.integers(0, 3) | values, st.sampled_from([None, "a", "b"])),
    max_size=8,
    unique_by=lambda item: item.metric,
)


def test_equal_values_share_a_rank() -> None:
    ranked = rank_members([make_member("d", 1), make_member("c", 5), make_member("b", 5), make_member("a", 9)])

    assert [(item.member, item.rank) for item in ranked] == [("a", 1), ("b", 2), ("c", 2), ("d", 4)]


def test_equal_values_are_listed_by_name() -> None:
    ranked = rank_members([make_member("a", 5, name="Zoe"), make_member("z", 5, name="Ada")])

    assert [item.name for item in ranked] == ["Ada", "Zoe"]


def test_ranks_and_shares_are_computed_per_feature() -> None:
    ranked = rank_members([make_member("a", 1), make_member("b", 3), make_member("c", 2, "clout")])

    assert [(item.id, item.rank, item.share) for item in ranked] == [
        ("clout/c", 1, 1.0),
        ("flow/b", 1, 0.75),
        ("flow/a", 2, 0.25),
    ]


def test_shares_of_a_total_of_zero_are_zero() -> None:
    assert [item.share for item in rank_members([make_member("a", 0), make_member("b", 0)])] == [0.0, 0.0]


def test_members_are_compared_with_the_previous_snapshot() -> None:
    before = [make_member("a", 5), make_member("b", 3), make_member("gone", 9)]

    ranked = rank_members([make_member("a", 4), make_member("b", 6), make_member("new", 1)], before)

    assert [(item.member, item.previous_count, item.change, item.previous_rank) for item in ranked] == [
        ("b", 3, 3, 3),
        ("a", 5, -1, 2),
        ("new", None, None, None),
    ]


def test_metrics_are_ranked_among_those_of_their_unit() -> None:
    ranked = rank_metrics([make_metric("a", 4, "%"), make_metric("b", 900, "members"), make_metric("c", 50, "%")])

    assert [(item.metric, item.rank) for item in ranked] == [("c", 1), ("a", 2), ("b", 1)]


def test_metrics_are_compared_with_the_previous_snapshot() -> None:
    before = [make_metric("a", 4), make_metric("b", 9)]

    ranked = rank_metrics([make_metric("a", 10), make_metric("new", 1)], before)

    assert [(item.metric, item.previous_value, item.change, item.previous_rank) for item in ranked] == [
        ("a", 4, 6, 2),
        ("new", None, None, None),
    ]


def test_a_metric_whose_unit_changed_has_no_change() -> None:
    (ranked,) = rank_metrics([make_metric("a", 10, "h")], [make_metric("a", 600, "min")])

    assert (ranked.previous_value, ranked.change, ranked.previous_rank) == (600, None, None)


def test_a_summary_counts_new_and_gone_members() -> None:
    before = [make_member("a", 5), make_member("x", 1), make_member("y", 1)]

    (summary,) = summarize_features([make_member("a", 6), make_member("new", 10)], before)

    assert (summary.feature, summary.members, summary.total, summary.change) == ("flow", 2, 16, 9)
    assert (summary.new_members, summary.gone_members) == (1, 2)
    assert (summary.top_member.member, summary.top_member.rank) == ("new", 1)


@pytest.mark.parametrize("before", [[], [make_member("a", 5, "clout")]])
def test_a_new_feature_has_no_changes(before: list[MostPresent]) -> None:
    (summary,) = summarize_features([make_member("a", 6)], before)

    assert (summary.change, summary.new_members, summary.gone_members) == (None, None, None)


@given(snapshots, snapshots)
def test_ranking_keeps_the_fields_of_every_item(items: list[MostPresent], before: list[MostPresent]) -> None:
    ranked = rank_members(items, before)

    assert sorted((item.id, item.name, item.count, item.tags) for item in ranked) == sorted(
        (item.id, item.name, item.count, item.tags) for item in items
    )


@given(snapshots)
def test_a_rank_is_one_plus_the_number_of_larger_counts(items: list[MostPresent]) -> None:
    for item in rank_members(items):
        rivals = [other for other in items if other.feature == item.feature]
        assert item.rank == 1 + sum(other.count > item.count for other in rivals)


@given(snapshots)
def test_shares_of_a_feature_add_up_to_one(items: list[MostPresent]) -> None:
    ranked = rank_members(items)

    for feature in {item.feature for item in items}:
        shares = [item.share for item in ranked if item.feature == feature]
        assert sum(shares) == pytest.approx(1.0) or shares == [0.0] * len(shares)


@given(snapshots, snapshots)
def test_changes_are_differences_from_the_previous_snapshot(
    items: list[MostPresent], before: list[MostPresent]
) -> None:
    then = {item.id: item for item in rank_members(before)}

    for item in rank_members(items, before):
        if item.id in then:
            expected = (then[item.id].count, item.count - then[item.id].count, then[item.id].rank)
            assert (item.previous_count, item.change, item.previous_rank) == expected
        else:
            assert (item.previous_count, item.change, item.previous_rank) == (None, None, None)


@given(snapshots, snapshots)
def test_a_summary_agrees_with_the_ranking(items: list[MostPresent], before: list[MostPresent]) -> None:
    ranked = rank_members(items, before)

    for summary in summarize_features(items, before):
        own = [item for item in ranked if item.feature == summary.feature]
        assert (summary.members, summary.total) == (len(own), sum(item.count for item in own))
        assert summary.top_member == own[0]
        if summary.change is not None and summary.new_members is not None and summary.gone_members is not None:
            then = [item for item in before if item.feature == summary.feature]
            assert summary.change == summary.total - sum(item.count for item in then)
            assert len(then) - summary.gone_members == summary.members - summary.new_members


@given(metric_lists, st.randoms())
def test_the_order_of_items_does_not_affect_ranks(items: list[HeroMetric], random: object) -> None:
    shuffled = list(items)
    random.shuffle(shuffled)  # type: ignore[attr-defined] # hypothesis types its Random as object

    assert rank_metrics(shuffled) == rank_metrics(items)


@given(metric_lists)
def test_a_rank_is_one_plus_the_number_of_larger_values_of_the_unit(items: list[HeroMetric]) -> None:
    for item in rank_metrics(items):
        assert item.rank == 1 + sum(other.value > item.value for other in items if other.unit == item.unit)
