"""Pages for people: key figures with their course, features and their members by rank; see also ``source_pages``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import quote

from kernel import Application, Identity, NotFoundError, Route, Services, collect_routes, route
from kernel.datasets import DatasetPage, DatasetPages, ViewQuery
from kernel.http import JOB_PAGE, Panel, Sparkline, TemplateResponse, Tile, page_link
from plugins.club.datasets import HERO_METRICS, MOST_PRESENT
from plugins.club.health import NO_SOURCES
from plugins.club.models import Feature, FeatureSummary, HeroMetric, RankedMember, RankedMetric
from plugins.club.ranking import rank_members, rank_metrics, summarize_features, total_members
from plugins.club.settings import ClubSettings
from plugins.club.source_pages import SOURCES_PATH, SourcePages

OVERVIEW = "/club/"
_PAGES = (
    DatasetPage(
        dataset=HERO_METRICS,
        title="Key figures",
        columns=("name", "value", "unit", "feature", "tags"),
        filters=("unit", "feature", "tags"),
        name="name",
        api="/club/public/hero-metrics/",
    ),
    DatasetPage(
        dataset=MOST_PRESENT,
        title="Members",
        columns=("name", "feature", "count", "tags"),
        filters=("feature", "tags"),
        labels={"count": "Times present"},
        name="name",
    ),
)
# A table has the rest.
_METRICS_MAX = 24
_NAME_MAX = 80
_MEMBERS_MAX = 100
# How far back the course of figures is read.
_TREND_VERSIONS = 30
_TREND_MAX_BYTES = 4 * 1024 * 1024
# Larger numbers are shown as powers of ten.
_WHOLE_MAX = 1e15


class FeatureRow(NamedTuple):
    """A feature in the ranking.

    Args:
        rank: From 1, by the sum of all counts.
        climbed: By how many ranks it rose since the version before; None if it is new, or there is none.
        summary: Its figures.
        share: Of the sum of all features.
        href: Of its page.
        top: Link to its first member.
    """

    rank: int
    climbed: int | None
    summary: FeatureSummary
    share: float
    href: str
    top: str


class MemberRow(NamedTuple):
    """A member in the ranking of a feature.

    Args:
        member: Its figures.
        climbed: As for ``FeatureRow``.
        href: Of its page.
    """

    member: RankedMember
    climbed: int | None
    href: str


class ClubPages:
    """The handlers of ``/club/`` and ``/club/features/``.

    Args:
        services: Of this plugin.
    """

    def __init__(self, services: Services) -> None:
        self._datasets = services.datasets
        self._pages = services.once(make_dataset_pages)
        self._settings = services.settings(ClubSettings)

    @route(OVERVIEW, policy="read", menu="Overview")
    def overview(self, query: ViewQuery, identity: Identity) -> TemplateResponse:
        """Show the key figures with their course, and which features members are most present in."""
        application = self._pages.application(query.application, identity)
        context = {
            "application": application,
            "sources": SOURCES_PATH if identity.is_staff else None,
            "hidden": f"{OVERVIEW}hidden/",
            "apis": [
                ("Key figures", _api("hero-metrics/", application)),
                ("features", _api("features/", application)),
            ],
        }
        panels = {
            "metrics": Panel(lambda: self._metrics(application), "club/metrics.html", "Key figures", framed=False),
            "features": Panel(lambda: self._features(application), "club/features.html", "Features by presence"),
        }
        return TemplateResponse("club/overview.html", context, panels=panels)

    @route("/club/features/{feature}/", policy="read")
    def feature(self, feature: Feature, query: ViewQuery, identity: Identity) -> TemplateResponse:
        """Show who is most present in a feature, and who rose and fell.

        Raises:
            NotFoundError: The application sees nobody there.
            UnavailableError: Nothing was published yet.
        """
        application = self._pages.application(query.application, identity)
        if all(item.feature != feature for item in self._datasets.read(MOST_PRESENT.name, application).items):
            raise NotFoundError(f"{MOST_PRESENT.name} has no feature {feature!r:.80}.")
        context = {
            "feature": feature,
            "application": application,
            "overview": page_link(OVERVIEW, application=query.application),
            "api": _api(f"features/{quote(feature, safe='')}/", application),
        }
        members = Panel(lambda: self._members(feature, application), "club/members.html", "Most present")
        return TemplateResponse("club/feature.html", context, panels={"members": members})

    def _metrics(self, application: Application | None) -> Mapping[str, Any]:
        common, history = self._read(HERO_METRICS.name, application, _TREND_VERSIONS)
        if not history:
            return common
        previous: Sequence[HeroMetric] = history[1][1] if len(history) > 1 else ()
        ranked = rank_metrics(history[0][1], previous)
        points: dict[tuple[str, str | None], list[tuple[datetime, float]]] = defaultdict(list)
        for published_at, items in reversed(history):
            for item in items:
                # Values of different units have no course in common.
                points[item.metric, item.unit].append((published_at, item.value))
        link = self._pages.presentation.item_link
        return {
            **common,
            "tiles": [
                _make_tile(
                    each,
                    link(HERO_METRICS.name, each.metric, application),
                    points[each.metric, each.unit],
                    is_new=bool(previous) and each.previous_value is None,
                )
                for each in ranked[:_METRICS_MAX]
            ],
            "count": len(ranked),
        }

    def _features(self, application: Application | None) -> Mapping[str, Any]:
        common, history = self._read(MOST_PRESENT.name, application, 2)
        if not history:
            return common
        items, previous = history[0][1], history[1][1] if len(history) > 1 else ()
        summaries = _by_total(summarize_features(items, previous))
        before = {each.feature: number for number, each in enumerate(_by_total(summarize_features(previous)), 1)}
        total = total_members(items, previous)
        rows = [
            FeatureRow(
                rank=number,
                climbed=before[each.feature] - number if each.feature in before else None,
                summary=each,
                share=each.total / total.count if total.count else 0.0,
                href=_feature_link(each.feature, application),
                top=self._pages.presentation.item_link(MOST_PRESENT.name, each.top_member.id, application),
            )
            for number, each in enumerate(summaries, 1)
        ]
        return {**common, "rows": rows, "total": total}

    def _members(self, feature: str, application: Application | None) -> Mapping[str, Any]:
        common, history = self._read(MOST_PRESENT.name, application, 2)
        versions = [[item for item in items if item.feature == feature] for _, items in history]
        if not versions:
            return common
        ranked = rank_members(versions[0], versions[1] if len(versions) > 1 else ())
        rows = [
            MemberRow(
                member=each,
                climbed=each.previous_rank - each.rank if each.previous_rank is not None else None,
                href=self._pages.presentation.item_link(MOST_PRESENT.name, each.id, application),
            )
            for each in ranked[:_MEMBERS_MAX]
        ]
        total = total_members(versions[0], versions[1] if len(versions) > 1 else ())
        table = self._pages.presentation.table_link(MOST_PRESENT.name, application, feature=feature, ordering="-count")
        return {**common, "rows": rows, "count": len(ranked), "total": total, "table": table}

    def _read(
        self, name: str, application: Application | None, versions: int
    ) -> tuple[Mapping[str, Any], Sequence[tuple[datetime, Sequence[Any]]]]:
        """Return what panels say of a dataset, and the items of its versions, newest first, with their times."""
        view = self._pages.find_view(name, application)
        if view is None:
            return {"snapshot": None, "setup": describe_setup(self._settings)}, ()
        found = [
            (version, each)
            for version, each in self._datasets.read_back(
                name, application, versions=versions, max_bytes=_TREND_MAX_BYTES
            )
            # Another may have been published meanwhile.
            if version.version < view.snapshot.version
        ]
        common = {
            "snapshot": view.snapshot,
            "application": application,
            "before": f"version {found[0][0].version}" if found else "",
            "hidden": len(view.snapshot.items) - len(view.items),
            "why": self._pages.hidden_link(application, name),
            "table": self._pages.presentation.table_link(name, application),
            "sources": SOURCES_PATH,
        }
        return common, [
            (view.snapshot.published_at, view.items),
            *((version.published_at, each.items) for version, each in found),
        ]


def describe_setup(settings: ClubSettings) -> str:
    """Say what to do while nothing was published."""
    if settings.sources:
        return "The sources are fetched by a worker, or by: tiercel club refresh"
    return f"{NO_SOURCES}. Import files with: tiercel data import"


def _api(path: str, application: Application | None) -> str:
    return f"/club/public/{path}" if application is None else f"/club/public/{application.slug}/{path}"


def _feature_link(feature: str, application: Application | None) -> str:
    return page_link(f"/club/features/{quote(feature, safe='')}/", application=application and application.slug)


def _by_total(summaries: Sequence[FeatureSummary]) -> Sequence[FeatureSummary]:
    return sorted(summaries, key=lambda each: -each.total)


def _make_tile(item: RankedMetric, href: str, points: Sequence[tuple[datetime, float]], *, is_new: bool) -> Tile:
    tile = Tile(
        label=item.name if len(item.name) <= _NAME_MAX else f"{item.name[:_NAME_MAX]}\N{HORIZONTAL ELLIPSIS}",
        value=_format(item.value),
        unit=item.unit or "",
        href=href,
        trend=Sparkline(points) if len(points) > 1 else None,
    )
    if is_new:
        return tile._replace(change="new")
    if item.change is None:
        # Of another unit, which cannot be compared.
        was = None if item.previous_value is None else f"was {_format(item.previous_value)}"
        return tile._replace(change=was)
    if not item.change:
        return tile._replace(change="unchanged")
    text = _format(abs(item.change))
    if item.previous_value and item.unit != "%":
        text += f" ({abs(item.change / item.previous_value) * 100:,.1f} %)"
    return tile._replace(change=text, direction="up" if item.change > 0 else "down")


def _format(value: float) -> str:
    """Return a figure as people read it: to the unit if it is whole, with six digits otherwise."""
    return f"{value:,.0f}" if value == int(value) and abs(value) < _WHOLE_MAX else f"{value:,.6g}"


def make_dataset_pages(services: Services) -> DatasetPages:
    """Return the pages of the datasets; ``services.once`` makes them."""
    settings = services.settings(ClubSettings)
    return DatasetPages(services, OVERVIEW, _PAGES, setup=lambda: describe_setup(settings), job_page=JOB_PAGE)


def make_pages(services: Services) -> list[Route]:
    """Return the routes of the pages."""
    pages, sources = ClubPages(services), SourcePages(services)
    return [
        *collect_routes(pages.overview),
        *services.once(make_dataset_pages).routes(),
        *collect_routes(pages.feature, sources.show, sources.fetch),
    ]
