"""Rank figures, and compare them with those before. Pure functions.

Ranks are those of competitions: 1, 2, 2, 4. Equals are listed by name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from plugins.club.model import FeatureSummary, HeroMetric, MostPresent, RankedMember, RankedMetric

T = TypeVar("T")


def rank_metrics(items: Iterable[HeroMetric], previous: Iterable[HeroMetric] = ()) -> list[RankedMetric]:
    """Rank key figures, each among those of its unit, the largest first.

    Args:
        items: Those of now; no metric twice.
        previous: Those of the snapshot before.

    Returns:
        By unit, then by rank. What is gone is not among them.
    """
    before = {item.metric: (item, rank) for group in _metric_groups(previous) for item, rank in group}
    return [_ranked_metric(item, rank, before) for group in _metric_groups(items) for item, rank in group]


def rank_members(items: Iterable[MostPresent], previous: Iterable[MostPresent] = ()) -> list[RankedMember]:
    """Rank members, each within the feature, the most present first.

    Args:
        items: Those of now; no id twice.
        previous: Those of the snapshot before.

    Returns:
        By feature, then by rank. Who is gone is not among them.
    """
    before = {item.id: (item, rank) for group in _member_groups(previous) for item, rank in group}
    ranked: list[RankedMember] = []
    for group in _member_groups(items):
        total = sum(item.count for item, _ in group)
        ranked += [_ranked_member(item, rank, total, before) for item, rank in group]
    return ranked


def summarize(items: Iterable[MostPresent], previous: Iterable[MostPresent] = ()) -> list[FeatureSummary]:
    """Sum up each feature that has members now, by name.

    Args:
        items: Those of now; no id twice.
        previous: Those of the snapshot before.
    """
    before = _grouped(previous, _feature)
    now = _grouped(rank_members(items, (item for group in before.values() for item in group)), _feature)
    return [_summary(feature, ranked, before.get(feature)) for feature, ranked in now.items()]


def _summary(feature: str, ranked: Sequence[RankedMember], before: Sequence[MostPresent] | None) -> FeatureSummary:
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


def _ranked_metric(item: HeroMetric, rank: int, before: Mapping[str, tuple[HeroMetric, int]]) -> RankedMetric:
    ranked = RankedMetric(**msgspec.structs.asdict(item), rank=rank)
    if item.metric not in before:
        return ranked
    old, old_rank = before[item.metric]
    if old.unit != item.unit:
        # Metres cannot be taken from feet.
        return msgspec.structs.replace(ranked, previous_value=old.value)
    return msgspec.structs.replace(
        ranked, previous_value=old.value, change=item.value - old.value, previous_rank=old_rank
    )


def _ranked_member(
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


def _metric_groups(items: Iterable[HeroMetric]) -> list[list[tuple[HeroMetric, int]]]:
    groups = _grouped(items, lambda item: item.unit or "")
    return [_ranks(group, lambda item: item.value, lambda item: (item.name, item.metric)) for group in groups.values()]


def _member_groups(items: Iterable[MostPresent]) -> list[list[tuple[MostPresent, int]]]:
    groups = _grouped(items, _feature)
    return [_ranks(group, lambda item: item.count, lambda item: (item.name, item.member)) for group in groups.values()]


def _feature(item: MostPresent) -> str:
    return item.feature


def _grouped(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(sorted(groups.items()))


def _ranks(items: Iterable[T], size: Callable[[T], float], name: Callable[[T], tuple[str, str]]) -> list[tuple[T, int]]:
    ordered = sorted(items, key=lambda item: (-size(item), *name(item)))
    ranked: list[tuple[T, int]] = []
    for position, item in enumerate(ordered, 1):
        tied = bool(ranked) and size(ranked[-1][0]) == size(item)
        ranked.append((item, ranked[-1][1] if tied else position))
    return ranked
