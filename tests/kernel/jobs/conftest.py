"""Services with one plugin that has jobs, and workers in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from kernel.app import Tiercel
from kernel.contracts import Job
from kernel.jobs.store import make_worker_id
from kernel.jobs.worker import Worker
from kernel.testing import Client
from tests.conftest import Serve
from tests.kernel.fakes import MakePlugin

ServeJobs = Callable[..., Tiercel]
RunWorker = Callable[[Tiercel], AbstractContextManager[Worker]]


@pytest.fixture
def serve_jobs(serve: Serve, make_plugin: MakePlugin) -> ServeJobs:
    """Start a service of one plugin with these jobs: ``serve_jobs(Job(...), clock=...)``."""

    def start(*jobs: Job, **values: Any) -> Tiercel:
        plugin = make_plugin("alpha", register_jobs=lambda services: jobs)
        values["jobs"] = {"graceful_timeout_s": 1.0, "dead_after_s": 2.0, **values.get("jobs", {})}
        client: Client = serve(plugins=[plugin], required=[], **values)
        return client.service

    return start


def make_worker(service: Tiercel) -> Worker:
    """Make a worker of a started service."""
    shared, settings = service.shared, service.settings.jobs
    jobs = shared.jobs
    return Worker(
        make_worker_id(),
        jobs.registry,
        shared.db,
        settings,
        shared.clock.now,
        service.log,
        log_files=jobs.log_files,
    )


@contextmanager
def _run_worker(service: Tiercel) -> Iterator[Worker]:
    worker = make_worker(service)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()
        assert worker.join(10)


@pytest.fixture
def run_worker() -> RunWorker:
    """Run a worker in this process for as long as the block lasts."""
    return _run_worker
