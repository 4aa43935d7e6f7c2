"""The programs that show the API: those of the packages that ``make vendor`` fetches, with their licences."""

from __future__ import annotations

import gzip
import hashlib

from tests.contract.tree import ROOT

STATIC = ROOT / "plugins" / "system" / "static"


def test_every_vendored_file_is_the_recorded_one() -> None:
    lines = (STATIC / "vendored.sha256").read_text().splitlines()
    recorded = {name: digest for digest, name in (line.split() for line in lines)}

    found = {}
    for name in recorded:
        shipped = STATIC / f"{name}.gz"
        content = gzip.decompress(shipped.read_bytes()) if shipped.exists() else (STATIC / name).read_bytes()
        found[name] = hashlib.sha256(content).hexdigest()

    assert found == recorded
    assert {path.name.removesuffix(".gz") for path in STATIC.glob("*.gz")} <= recorded.keys()
