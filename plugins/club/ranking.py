"""Rank members and key figures, and compare them with the previous snapshot. Pure functions.

Ranks are competition ranks (1, 2, 2, 4): equal values share a rank, and are listed by name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from plugins.club.models import (
    FeatureSummary,
    HeroMetric,
    MemberTotal,
    MostPresent,
    RankedMember,
    RankedMetric,
    UnitTotal,
)

T = TypeVar("T")


def rank_metrics(items: Iterable[HeroMetric], previous: Iterable[HeroMetric] = ()) -> list[RankedMetric]:
    """Rank key figures among those of the same unit, the largest first.

    Args:
        items: Figures of the snapshot; each metric at most once.
        previous: Figures of the previous snapshot.

    Returns:
        Sorted by unit, then by rank. Figures that only the previous snapshot had are left out.
    """
    before = {item.metric: (item, rank) for group in _rank_by_unit(previous) for item, rank in group}
    return [_compare_metric(item, rank, before) for group in _rank_by_unit(items) for item, rank in group]


def rank_members(items: Iterable[MostPresent], previous: Iterable[MostPresent] = ()) -> list[RankedMember]:
    """Rank members within each feature, the most present first.

    Args:
        items: Members of the snapshot; each id at most once.
        previous: Members of the previous snapshot.

    Returns:
        Sorted by feature, then by rank. Members that only the previous snapshot had are left out.
    """
    before = {item.id: (item, rank) for group in _rank_by_feature(previous) for item, rank in group}
    ranked: list[RankedMember] = []
    for group in _rank_by_feature(items):
        total = sum(item.count for item, _ in group)
        ranked += [_compare_member(item, rank, total, before) for item, rank in group]
    return ranked


def summarize_features(items: Iterable[MostPresent], previous: Iterable[MostPresent] = ()) -> list[FeatureSummary]:
    """Summarise each feature that has members in the snapshot, sorted by feature.

    Args:
        items: Members of the snapshot; each id at most once.
        previous: Members of the previous snapshot.
    """
    before = _group_by(previous, _feature)
    ranked = _group_by(rank_members(items, (item for group in before.values() for item in group)), _feature)
    return [_summarize(feature, members, before.get(feature)) for feature, members in ranked.items()]


def total_units(items: Sequence[HeroMetric], previous: Sequence[HeroMetric]) -> list[UnitTotal]:
    """Sum key figures by unit, in the order in which the units first occur."""
    totals: list[UnitTotal] = []
    for unit in dict.fromkeys(item.unit for item in items):
        now = [item.value for item in items if item.unit == unit]
        then = [item.value for item in previous if item.unit == unit]
        change = sum(now) - sum(then) if then else None
        totals.append(UnitTotal(unit=unit, metrics=len(now), value=sum(now), change=change))
    return totals


def total_members(items: Sequence[MostPresent], previous: Sequence[MostPresent]) -> MemberTotal:
    """Sum the counts of all members."""
    count = sum(item.count for item in items)
    change = count - sum(item.count for item in previous) if previous else None
    return MemberTotal(members=len(items), count=count, change=change)


def _summarize(feature: str, ranked: Sequence[RankedMember], before: Sequence[MostPresent] | None) -> FeatureSummary:
    total = sum(item.count for item in ranked)
    now = {item.id for item in ranked}
    then = {item.id for item in before or ()}
    known = before is not None
    return FeatureSummary(
        feature=feature,
        members=len(ranked),
        total=total,
        change=total - sum(item.count for item in before or ()) if known else None,
        new_members=len(now - then) if known else None,
        gone_members=len(then - now) if known else None,
        top_member=ranked[0],
    )


def _compare_metric(item: HeroMetric, rank: int, before: Mapping[str, tuple[HeroMetric, int]]) -> RankedMetric:
    ranked = RankedMetric(**msgspec.structs.asdict(item), rank=rank)
    if item.metric not in before:
        return ranked
    old, old_rank = before[item.metric]
    if old.unit != item.unit:
        # Values of different units cannot be subtracted, nor ranks among different figures compared.
        return msgspec.structs.replace(ranked, previous_value=old.value)
    return msgspec.structs.replace(
        ranked, previous_value=old.value, change=item.value - old.value, previous_rank=old_rank
    )


def _compare_member(
    item: MostPresent, rank: int, total: int, before: Mapping[str, tuple[MostPresent, int]]
) -> RankedMember:
    share = item.count / total if total else 0.0
    ranked = RankedMember(**msgspec.structs.asdict(item), rank=rank, share=share)
    if item.id not in before:
        return ranked
    old, old_rank = before[item.id]
    return msgspec.structs.replace(
        ranked, previous_count=old.count, change=item.count - old.count, previous_rank=old_rank
    )


def _rank_by_unit(items: Iterable[HeroMetric]) -> list[list[tuple[HeroMetric, int]]]:
    return [
        _rank(group, lambda item: item.value, lambda item: (item.name, item.metric))
        for group in _group_by(items, lambda item: item.unit or "").values()
    ]


def _rank_by_feature(items: Iterable[MostPresent]) -> list[list[tuple[MostPresent, int]]]:
    return [
        _rank(group, lambda item: item.count, lambda item: (item.name, item.member))
        for group in _group_by(items, _feature).values()
    ]


def _feature(item: MostPresent) -> str:
    return item.feature


def _group_by(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(sorted(groups.items()))


def _rank(items: Iterable[T], value: Callable[[T], float], name: Callable[[T], tuple[str, str]]) -> list[tuple[T, int]]:
    """Pair items with their ranks: by value descending, equal values by name."""
    ordered = sorted(items, key=lambda item: (-value(item), *name(item)))
    ranked: list[tuple[T, int]] = []
    for position, item in enumerate(ordered, 1):
        tied = bool(ranked) and value(ranked[-1][0]) == value(item)
        ranked.append((item, ranked[-1][1] if tied else position))
    return ranked
