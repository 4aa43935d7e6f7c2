"""The settings of gunicorn: what config/gunicorn.conf.py makes of ours."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.processes import ROOT


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("TIERCEL_BIND", "127.0.0.1:9000", "bind", "127.0.0.1:9000"),
        ("TIERCEL_WORKERS", "5", "workers", 5),
        ("TIERCEL_THREADS", "3", "threads", 3),
        ("TIERCEL_SERVER__TIMEOUT_S", "17", "timeout", 17),
        ("TIERCEL_SERVER__GRACEFUL_TIMEOUT_S", "4", "graceful_timeout", 4),
        ("TIERCEL_SERVER__KEEPALIVE_S", "21", "keepalive", 21),
        ("TIERCEL_HOME", "elsewhere", "worker_tmp_dir", "elsewhere"),
    ],
)
def test_a_setting_reaches_gunicorn(
    variable: str, text: str, name: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, text)

    assert runpy.run_path(str(ROOT / "config" / "gunicorn.conf.py"))[name] == value


def test_the_service_boots_once_before_the_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert runpy.run_path(str(ROOT / "config" / "gunicorn.conf.py"))["preload_app"] is True
