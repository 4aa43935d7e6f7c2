"""Publish datasets in a service under test, and wait until it serves them."""

from __future__ import annotations

from kernel.cli.serve import publish_demo_files
from kernel.errors import UnavailableError
from kernel.testing import Client
from tests.processes import eventually

PLUGINS = ["system", "trace", "skyflow", "nexus"]
DATASETS = ["features", "gateways", "tiers", "tags"]


def publish_demo(client: Client) -> None:
    """Publish the demo files and wait until the service serves them."""
    publish_demo_files(client.service)
    assert eventually(lambda: all(is_served(client, name) for name in client.service.shared.datasets.all))


def is_served(client: Client, dataset: str, version: int = 1) -> bool:
    """Tell whether a service serves at least this version of a dataset."""
    try:
        return client.service.shared.datasets.read(dataset).snapshot.version >= version
    except UnavailableError:
        return False


def publish(client: Client, dataset: str, *items: object) -> int:
    """Publish a dataset, wait until the service serves it, and return its version."""
    datasets = client.service.shared.datasets
    version = datasets.publish({datasets.find(dataset): items}, source="test")[dataset].version
    assert version is not None
    assert eventually(lambda: is_served(client, dataset, version))
    return version


def warning_of(client: Client, dataset: str) -> str | None:
    """Return why the last attempt to publish a dataset was refused."""
    return client.service.shared.datasets.read(dataset).snapshot.warning
