"""Run the benches: ``python -m tests.bench [--full] [NAME ...]``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import (
    accounts,
    analytics,
    audit,
    auth,
    client,
    datasets,
    decade,
    direct_compress,
    ingest,
    jobs,
    lists,
    memory,
    metrics,
    notion,
    otel,
    overview,
    pages,
    plugins,
    rest_framework,
    routes,
    slow_clients,
    startup,
    timescale,
    upkeep,
)
from tests.bench.figures import Figure, show

Bench = Callable[[bool], Iterator[Figure]]

BENCHES: dict[str, Bench] = {
    "startup": startup.figures,
    "routes": routes.figures,
    "audit": audit.figures,
    "metrics": metrics.figures,
    "auth": auth.figures,
    "datasets": datasets.figures,
    "plugins": plugins.figures,
    "ingest": ingest.figures,
    "drf": rest_framework.figures,
    "lists": lists.figures,
    "analytics": analytics.figures,
    "overview": overview.figures,
    "accounts": accounts.figures,
    "upkeep": upkeep.figures,
    "timescale": timescale.figures,
    "decade": decade.figures,
    "direct_compress": direct_compress.figures,
    "jobs": jobs.figures,
    "notion": notion.figures,
    "otel": otel.figures,
    "memory": memory.figures,
    "slow_clients": slow_clients.figures,
    "client": client.figures,
    "pages": pages.figures,
}
RESULTS = Path(".bench.json")
# More events, where the usual number only keeps the run short.
FULL = "--full"


def main(arguments: list[str]) -> int:
    """Run some benches, or all; exit code 1 if a target is missed."""
    names = set(arguments) - {FULL}
    unknown = names - BENCHES.keys()
    if unknown:
        print(f"no such bench: {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
        return 2
    found: list[Figure] = []
    for name, run in BENCHES.items():
        if not names or name in names:
            print(f"{name} ...", file=sys.stderr)
            for figure in run(FULL in arguments):
                print(f"  {figure.name}: {figure.value:.2f} ({figure.detail})", file=sys.stderr)
                found.append(figure)
    show(found, RESULTS)
    print(f"written to {RESULTS}")
    return 0 if all(figure.ok for figure in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
