"""Pages for people: specifications with their versions, the feature matrix, how fresh they are, and the certificate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from kernel import Application, Identity, Request, Route, Services, collect_routes, route
from kernel.datasets import DatasetPage, DatasetPages, ViewQuery
from kernel.http import JOB_PAGE, Panel, TemplateResponse, page_link
from plugins.trace.datasets import FEATURES, GATEWAYS, TAGS, TIERS
from plugins.trace.export_pages import FRESHNESS_PATH, ExportPages
from plugins.trace.freshness import FreshnessCheck
from plugins.trace.matrix import make_matrix
from plugins.trace.models import Feature, Gateway

MATRIX_PATH = "/trace/matrix/"
_PAGES = (
    DatasetPage(
        dataset=FEATURES,
        title="Features",
        columns=("name", "area", "status", "tier", "gateways", "tags"),
        filters=("area", "status", "tier", "gateways", "tags"),
        name="name",
        api="/trace/public/features/",
    ),
    DatasetPage(
        dataset=GATEWAYS,
        title="Gateways",
        columns=("name", "kind", "status", "tags"),
        filters=("kind", "status", "tags"),
        name="name",
        api="/trace/public/gateways/",
    ),
    DatasetPage(
        dataset=TIERS,
        title="Tiers",
        columns=("name", "level", "features", "tags"),
        filters=("features", "tags"),
        labels={"features": "Areas"},
        name="name",
        api="/trace/public/tiers/",
    ),
    DatasetPage(
        dataset=TAGS, title="Tags", columns=("name", "description", "color"), name="name", api="/trace/public/tags/"
    ),
)


class MatrixQuery(ViewQuery, frozen=True):
    """Parameters of the matrix.

    Args:
        columns: What features are compared with.
        group: What rows are grouped by. A feature is in the group of each of its gateways.
        search: Features with this text in their name, ignoring case.
        area: Only features of this area.
        status: Only features in this stage.
        gateway: Only features that this gateway offers.
    """

    columns: Literal["tiers", "gateways"] = "tiers"
    group: Literal["area", "gateway"] = "area"
    search: Annotated[str, msgspec.Meta(max_length=300)] = ""
    area: str | None = None
    status: str | None = None
    gateway: str | None = None


class MatrixLine(NamedTuple):
    """A feature in the matrix.

    Args:
        name: For people.
        href: Of its page.
        status: Its stage.
        cells: Whether each column includes it, with the name of the column; None if that is unknown.
    """

    name: str
    href: str
    status: str
    cells: Sequence[tuple[str, bool | None]]


class MatrixPage:
    """The handler of the matrix.

    Args:
        services: Of this plugin.
    """

    def __init__(self, services: Services) -> None:
        self._datasets = services.datasets
        self._pages = services.once(make_dataset_pages)
        self._setup = FreshnessCheck(services).describe_setup

    @route(MATRIX_PATH, policy="read", menu="Matrix")
    def show(self, request: Request, query: MatrixQuery, identity: Identity) -> TemplateResponse:
        """Show which tiers, or gateways, include each feature."""
        application = self._pages.application(query.application, identity)
        slug = query.application
        context = {
            "query": query,
            "application": application,
            "links": {
                name: [(each, page_link(MATRIX_PATH, request, **{name: each})) for each in choices]
                for name, choices in (("columns", ("tiers", "gateways")), ("group", ("area", "gateway")))
            },
            "api": "/trace/public/matrix/" if slug is None else f"/trace/public/{slug}/matrix/",
            "clear": page_link(MATRIX_PATH, None, application=slug, columns=query.columns, group=query.group),
        }
        panels = {"matrix": Panel(lambda: self._matrix(query, application), "trace/matrix_panel.html", "Matrix")}
        return TemplateResponse("trace/matrix.html", context, panels=panels)

    def _matrix(self, query: MatrixQuery, application: Application | None) -> Mapping[str, Any]:
        names = (FEATURES.name, TIERS.name, GATEWAYS.name)
        if not all(self._datasets.versions(name, 1) for name in names):
            return {"groups": None, "setup": self._setup()}
        views = self._datasets.read_together(names, application)
        features, tiers, gateways = (each.items for each in views)
        chosen = [feature for feature in features if _is_chosen(feature, query)]
        if query.columns == "tiers":
            columns = [(tier.slug, tier.name or tier.slug) for tier in tiers]
            included: Sequence[Mapping[str, bool | None]] = [row.tiers for row in make_matrix(chosen, tiers).items]
        else:
            columns = [(gateway.slug, gateway.name or gateway.slug) for gateway in gateways]
            included = [{slug: slug in feature.gateways for slug, _ in columns} for feature in chosen]
        link = self._pages.presentation.item_link
        lines = [
            MatrixLine(
                name=feature.name or feature.slug,
                href=link(FEATURES.name, feature.slug, application),
                status=feature.status,
                cells=[(name, cells[slug]) for slug, name in columns],
            )
            for feature, cells in zip(chosen, included, strict=True)
        ]
        return {
            "groups": _group(chosen, lines, query, gateways),
            "columns": [(name, link(query.columns, slug, application)) for slug, name in columns],
            "unseen": ", ".join(
                f"{hidden:,} of {len(each.snapshot.items):,} {each.dataset.name}"
                for each in views
                if (hidden := len(each.snapshot.items) - len(each.items))
            ),
            "application": application,
            "why": self._pages.hidden_link(application),
            "count": len(chosen),
            "total": len(features),
            "query": query,
            "areas": _choices(feature.area for feature in features),
            "statuses": _choices(feature.status for feature in features),
            "gateways": [(gateway.slug, gateway.name or gateway.slug, None) for gateway in gateways],
        }


def _is_chosen(feature: Feature, query: MatrixQuery) -> bool:
    return (
        query.search.casefold() in feature.name.casefold()
        and query.area in (None, feature.area)
        and query.status in (None, feature.status)
        and (query.gateway is None or query.gateway in feature.gateways)
    )


def _group(
    features: Sequence[Feature], lines: Sequence[MatrixLine], query: MatrixQuery, gateways: Sequence[Gateway]
) -> Sequence[tuple[str, Sequence[MatrixLine]]]:
    """Return the lines in groups, each with its title; groups without lines are left out."""
    groups: dict[str, list[MatrixLine]] = {}
    names = {gateway.slug: gateway.name or gateway.slug for gateway in gateways}
    if query.group == "gateway":
        groups = {name: [] for name in names.values()}
    for feature, line in zip(features, lines, strict=True):
        if query.group == "area":
            titles = [feature.area or "No area"]
        else:
            titles = [names[slug] for slug in feature.gateways if slug in names] or ["No gateway"]
        for title in titles:
            groups.setdefault(title, []).append(line)
    return [(title, group) for title, group in groups.items() if group]


def _choices(values: Iterable[str]) -> Sequence[tuple[str, str, int]]:
    counter = Counter(value for value in values if value)
    return [(value, value, counter[value]) for value in sorted(counter)]


def make_dataset_pages(services: Services) -> DatasetPages:
    """Return the pages of the datasets; ``services.once`` makes them."""
    setup = FreshnessCheck(services).describe_setup
    return DatasetPages(services, "/trace/", _PAGES, setup=setup, job_page=JOB_PAGE, status_page=FRESHNESS_PATH)


def make_pages(services: Services) -> list[Route]:
    """Return the routes of the pages."""
    exports = ExportPages(services)
    return [
        *services.once(make_dataset_pages).routes(),
        *collect_routes(MatrixPage(services).show, exports.freshness, exports.refresh, exports.certificate),
    ]
