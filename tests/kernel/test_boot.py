"""The boot, whatever its steps do."""

from __future__ import annotations

import gc

import pytest

from kernel import app as boot
from kernel.app import Tiercel
from kernel.errors import BootError
from kernel.testing import make_configuration


def test_no_garbage_is_collected_while_a_service_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bool] = []
    monkeypatch.setattr(boot, "BOOT_STEPS", (lambda _service: found.append(gc.isenabled()),))

    Tiercel(make_configuration())

    assert (found, gc.isenabled()) == ([False], True)


def test_garbage_is_collected_again_after_a_boot_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_service: Tiercel) -> None:
        raise BootError("the step fails")

    monkeypatch.setattr(boot, "BOOT_STEPS", (fail,))

    with pytest.raises(BootError):
        Tiercel(make_configuration())

    assert gc.isenabled()


def test_whoever_collects_no_garbage_does_not_begin_to_by_a_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot, "BOOT_STEPS", ())
    gc.disable()
    try:
        Tiercel(make_configuration())

        assert not gc.isenabled()
    finally:
        gc.enable()
