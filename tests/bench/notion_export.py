"""An export in a separate process: ``python -m tests.bench.notion_export CONNINFO TABLE full|changes``.

Prints what it took as a line of JSON. TABLE is ``[trace]`` of the configuration, as JSON.
"""

from __future__ import annotations

import sys
import time
import tracemalloc

import msgspec
import psutil

from kernel.app import Tiercel
from kernel.datasets.models import decode_items
from kernel.testing import make_configuration
from plugins.trace import run_full_export
from plugins.trace.datasets import FEATURES
from plugins.trace.jobs import run_export
from tests.bench.memory import peak_bytes


class Took(msgspec.Struct, frozen=True):
    """What an export took.

    Args:
        wall_s: From the call to its return.
        cpu_s: Of this process, in the system included.
        requests: To Notion.
        received_bytes: From it.
        rows: That were read, of features.
        peak_bytes: Resident at most.
        snapshot_bytes: Of the features that serve, as objects.
    """

    wall_s: float
    cpu_s: float
    requests: int
    received_bytes: int
    rows: int
    peak_bytes: int
    snapshot_bytes: int


def main(conninfo: str, table: str, mode: str) -> None:
    """Export once."""
    given = {"plugins": ["system", "trace"], "required": ["trace"], "db": {"url": conninfo}, "log": {"level": "error"}}
    service = Tiercel(make_configuration(**given, trace=msgspec.json.decode(table)))
    service.prepare()
    with service.database_open():
        took = _measure(service, mode)
    service.close()
    print(msgspec.json.encode(took).decode(), flush=True)


def _measure(service: Tiercel, mode: str) -> Took:
    services = service.registry.services["trace"]
    started_s, cpu_s = time.monotonic(), time.process_time()
    certificate = run_full_export(services) if mode == "full" else run_export(services)
    wall_s, cpu_s = time.monotonic() - started_s, time.process_time() - cpu_s
    peak = peak_bytes(psutil.Process())
    (features,) = (each for each in certificate.sources if each.source == "features")
    read = sum(each.read for each in features.data_sources)
    snapshot_bytes = _snapshot_bytes(service)
    return Took(wall_s, cpu_s, certificate.requests, certificate.received_bytes, read, peak, snapshot_bytes)


def _snapshot_bytes(service: Tiercel) -> int:
    data = msgspec.json.encode(service.shared.datasets.read(FEATURES.name).items)
    tracemalloc.start()
    items = decode_items(FEATURES, data)
    size_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size_bytes if items else 0


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
