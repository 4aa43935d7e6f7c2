"""Feature specifications: features, gateways, tiers and tags, as each application sees them."""

from __future__ import annotations

from collections.abc import Iterable

from kernel import Dataset, Route, Services, hookimpl
from plugins.trace.model import Feature, Gateway, Tag, Tier

FEATURES = Dataset(name="features", item=Feature, key="slug", order=("area", "name"), filter_keys=("feature",))
GATEWAYS = Dataset(name="gateways", item=Gateway, key="slug", order=("name",), filter_keys=("gateway",))
TIERS = Dataset(name="tiers", item=Tier, key="slug", order=("level",), filter_keys=("tier",))
TAGS = Dataset(name="tags", item=Tag, key="slug", order=("name",), filter_keys=("tag",))
DATASETS = (FEATURES, GATEWAYS, TIERS, TAGS)
# ``trace_matrix_data`` for everybody, ``trace_matrix_skyflow_data`` for an application.
CACHE_NAME = ("trace_matrix", "data")


@hookimpl
def register_datasets() -> Iterable[Dataset]:
    """Return features, gateways, tiers and tags."""
    return DATASETS


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    """Return the list of each dataset, one item of each, and the index."""
    routes: list[Route] = []
    for dataset in DATASETS:
        path = f"/trace/public/{dataset.name}/"
        one = f"{path}{{slug}}/"
        routes += (
            services.dataset_route(path, dataset, menu=dataset.name, cache_name=CACHE_NAME),
            services.dataset_route(one, dataset, one=True, cache_name=CACHE_NAME),
        )
    index = services.index_route(
        "/trace/public/index/", DATASETS, file="fsm_index.json", menu="index of specifications", cache_name=CACHE_NAME
    )
    return [*routes, index]
