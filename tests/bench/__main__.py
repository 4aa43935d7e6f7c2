"""Run the benches: ``python -m tests.bench [NAME ...]``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import ingest, lists, routes, startup
from tests.bench.figures import Figure, show

BENCHES: dict[str, Callable[[], Iterator[Figure]]] = {
    "startup": startup.figures,
    "routes": routes.figures,
    "ingest": ingest.figures,
    "lists": lists.figures,
}
RESULTS = Path(".bench.json")


def main(names: list[str]) -> int:
    """Run some benches, or all; exit code 1 if a target is missed."""
    unknown = set(names) - BENCHES.keys()
    if unknown:
        print(f"no such bench: {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
        return 2
    found: list[Figure] = []
    for name, run in BENCHES.items():
        if not names or name in names:
            print(f"{name} ...", file=sys.stderr)
            for figure in run():
                print(f"  {figure.name}: {figure.value:.2f} ({figure.detail})", file=sys.stderr)
                found.append(figure)
    show(found, RESULTS)
    print(f"written to {RESULTS}")
    return 0 if all(figure.ok for figure in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
