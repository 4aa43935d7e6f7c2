"""What ``tiercel up`` fills an empty service with."""

from __future__ import annotations

from pathlib import Path

from kernel.app import Tiercel
from kernel.cli.data_files import never_published
from kernel.datasets.importing import publish_folder, read_folder

# Beside the kernel in a checkout and in a wheel.
DEMO_FOLDER = Path(__file__).parent.parent.parent / "contrib" / "demo"


def fill_with_demo_data(service: Tiercel) -> None:
    """Run the plugins' commands that make demo data, and publish demo files of datasets that were never published.

    Args:
        service: Prepared, and not started.
    """
    service.shared.db.open()
    try:
        for _, item in service.registry.commands:
            if item.demo is not None:
                item.command.main(list(item.demo), standalone_mode=False)
        publish_demo_files(service)
    finally:
        # Its threads must be gone before gunicorn forks.
        service.shared.db.close()


def publish_demo_files(service: Tiercel) -> None:
    """Publish the demo files of datasets that were never published. The pool must be open."""
    datasets = service.shared.datasets
    empty = never_published(datasets, list(datasets.all.values()))
    if empty and DEMO_FOLDER.is_dir():
        publish_folder(datasets, read_folder(DEMO_FOLDER, empty), source="demo")
