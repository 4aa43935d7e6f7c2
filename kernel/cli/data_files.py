"""``tiercel data export`` and ``tiercel data import``: datasets as files of JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from kernel.app import Tiercel
from kernel.cli.output import print_difference, print_json, print_table
from kernel.config import load
from kernel.contracts import Dataset
from kernel.datasets.files import find_files, write_files, write_json
from kernel.datasets.importing import Folder, publish_folder, read_folder
from kernel.datasets.model import Publication
from kernel.datasets.service import Datasets
from kernel.errors import BootError, UnavailableError

REASONS_MAX = 20
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command("export")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export_files(*, folder: Path, as_json: bool) -> None:
    """Write every dataset, and every index, to files of JSON in DIR."""
    service = Tiercel(load())
    with service.database_open():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            written, missing = _export(service.shared.datasets, folder)
        except OSError as ex:
            raise BootError(f"{folder}: {ex}") from ex
    if as_json:
        print_json({"files": [path.name for path in written], "missing": missing})
        return
    for path in written:
        click.echo(f"{path} written")
    for reason in missing.values():
        click.echo(reason, err=True)


def _export(datasets: Datasets, folder: Path) -> tuple[list[Path], dict[str, str]]:
    written: list[Path] = []
    missing: dict[str, str] = {}
    for name, dataset in datasets.all.items():
        try:
            view = datasets.read(name)
        except UnavailableError as ex:
            missing[name] = str(ex.detail)
            continue
        files = write_files(dataset, view.items, folder)
        written += files
        for stale in set(find_files(dataset, folder)) - set(files):
            # Not ours to remove; but an import would take it for a part of the dataset.
            missing[stale.name] = f"{stale} is no part of {name} any more: remove it before an import"
    for file, entries in datasets.indexes.items():
        write_json(folder / file, entries(None))
        written.append(folder / file)
    return written, missing


@click.command("import")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--dataset", "names", metavar="NAME", multiple=True, help="Only this one; may be given several times.")
@click.option("--if-empty", is_flag=True, help="Only datasets that were never published.")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def import_files(*, folder: Path, names: Sequence[str], if_empty: bool, dry_run: bool, as_json: bool) -> None:
    """Publish the files of JSON in DIR: everything at once, or nothing.

    A file holds a list, or an object with a list under `data`. Items that do not fit are kept aside with their
    reasons. A dataset without a file in DIR stays as it is.
    """
    service = Tiercel(load())
    datasets = service.shared.datasets
    wanted = [datasets.find(name) for name in names] or list(datasets.all.values())
    with service.database_open():
        if if_empty:
            wanted = never_published(datasets, wanted)
        found = read_folder(folder, wanted, datasets.indexes)
        if dry_run:
            _print_preview(datasets, found, as_json=as_json)
        else:
            published = publish_folder(datasets, found, source=f"tiercel data import {folder}")
            _print_published(found, published, as_json=as_json)


def never_published(datasets: Datasets, wanted: Sequence[Dataset]) -> list[Dataset]:
    """Return those of some datasets that have no version."""
    return [dataset for dataset in wanted if not datasets.versions(dataset.name, 1)]


def _print_preview(datasets: Datasets, folder: Folder, *, as_json: bool) -> None:
    found = [(each, datasets.preview(each.dataset, each.items)) for each in folder.found]
    if as_json:
        print_json({each.dataset.name: {"rejected": each.rejected, "difference": diff} for each, diff in found})
        return
    for each, difference in found:
        print_difference(difference, each.dataset.key)
    _print_left_out(folder)


def _print_published(folder: Folder, published: Mapping[str, Publication], *, as_json: bool) -> None:
    if as_json:
        rejected = {each.dataset.name: each.rejected for each in folder.found if each.rejected}
        print_json({"published": published, "rejected": rejected, "ignored": folder.ignored})
        return
    rows: list[tuple[object, ...]] = []
    for each in folder.found:
        one = published[each.dataset.name]
        files = ", ".join(each.files)
        rows.append((one.dataset, one.outcome, one.version, one.items, one.rejected, files))
    print_table(("dataset", "outcome", "version", "items", "rejected", "files"), rows)
    _print_left_out(folder)


def _print_left_out(folder: Folder) -> None:
    for each in folder.found:
        for one in each.rejected[:REASONS_MAX]:
            click.echo(f"{each.dataset.name}: item {one.index} is kept aside: {one.reason}", err=True)
        if len(each.rejected) > REASONS_MAX:
            click.echo(f"{each.dataset.name}: and {len(each.rejected) - REASONS_MAX:,} more", err=True)
    for name, reason in folder.ignored.items():
        click.echo(f"{name}: {reason}", err=True)
