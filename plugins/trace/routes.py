"""The routes of the plugin: each dataset as a list and by slug, the feature matrix, the index, the webhook; pages."""

from __future__ import annotations

from kernel import Route, Services, collect_routes
from plugins.trace.datasets import DATASETS, FEATURES
from plugins.trace.matrix import MATRIX
from plugins.trace.pages import make_pages
from plugins.trace.webhook import Webhook

# ``trace_matrix_data`` for the unfiltered view, ``trace_matrix_skyflow_data`` for that of an application.
CACHE_NAME = ("trace_matrix", "data")


def make_routes(services: Services) -> list[Route]:
    """Return the routes."""
    routes: list[Route] = []
    for dataset in DATASETS:
        path = f"/trace/public/{dataset.name}/"
        routes += (
            services.dataset_route(path, dataset, menu=dataset.name, cache_name=CACHE_NAME),
            services.dataset_route(f"{path}{{slug}}/", dataset, one=True, cache_name=CACHE_NAME),
        )
    matrix = services.dataset_route(
        "/trace/public/matrix/", FEATURES, derivation=MATRIX, menu="features by tiers", cache_name=CACHE_NAME
    )
    index = services.index_route(
        "/trace/public/index/", DATASETS, file="fsm_index.json", menu="index of specifications", cache_name=CACHE_NAME
    )
    return [*routes, matrix, index, *collect_routes(Webhook(services).receive), *make_pages(services)]
