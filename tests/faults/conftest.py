"""Services in real processes whose database a test may damage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.database import ask
from tests.processes import Service, copy_home, serving

# Short timeouts, so that tests can wait for them. The log of the service's own requests would change the counts.
VARIABLES = {
    "TIERCEL_WORKERS": "2",
    "TIERCEL_THREADS": "4",
    "TIERCEL_DB__POOL_TIMEOUT_S": "1",
    "TIERCEL_DB__STATEMENT_TIMEOUT_S": "2",
    "TIERCEL_DB__CONNECT_TIMEOUT_S": "2",
    "TIERCEL_HEALTH__TIMEOUT_S": "1",
    "TIERCEL_OBSERVABILITY__LOG_OWN_REQUESTS": "false",
    "TIERCEL_DB__EMBEDDED_OPTIONS": '{"shared_preload_libraries": "pg_stat_statements"}',
}
# Statement timeout, the grace period of the client, and a reserve for a busy machine.
ANSWER_S = 2 + 2 + 6


@pytest.fixture
def home(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_home(initialised, tmp_path_factory.mktemp("faults"))


@pytest.fixture
def service(home: Path) -> Iterator[Service]:
    """A service on a separate embedded database."""
    with serving(home, **VARIABLES) as started:
        yield started


@pytest.fixture(scope="module")
def shared(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that the tests of a module share; each leaves it as it was."""
    with serving(copy_home(initialised, tmp_path_factory.mktemp("faults")), **VARIABLES) as started:
        yield started


def stored_batches(home: Path) -> dict[int, int]:
    """Count the stored events of each batch of ``Senders``."""
    query = (
        "SELECT jsonb_object_agg(batch, events) FROM (SELECT split_part(trace_id, '-', 1) AS batch, count(*) AS events"
        " FROM observability.event GROUP BY batch) AS counted"
    )
    return {int(batch): int(events) for batch, events in (ask(home, query) or {}).items()}
