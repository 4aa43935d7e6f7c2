"""Freeze the wheel of a release, for the tests of the upgrade to the next one: ``python -m tests.upgrade.freeze``.

What the tests do not need is left out: programs of other projects that pages use make up a third of the wheel.
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

from tests.contract.tree import ROOT

FOLDER = Path(__file__).parent
_LEFT_OUT = ("plugins/system/static/swagger-ui", "plugins/system/static/redoc", "contrib/postman/", "contrib/grafana/")


def freeze() -> Path:
    """Build the wheel of this source tree without what the tests do not need; return where it is.

    The files that are left out are not in its RECORD either, so that it can be installed.
    """
    with tempfile.TemporaryDirectory() as built_in:
        (built,) = WheelBuilder(str(ROOT)).build(directory=built_in, versions=["standard"])
        frozen = FOLDER / Path(built).name
        with (
            zipfile.ZipFile(built) as source,
            zipfile.ZipFile(frozen, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target,
        ):
            for entry in source.infolist():
                if entry.filename.startswith(_LEFT_OUT):
                    continue
                content = source.read(entry)
                if entry.filename.endswith(".dist-info/RECORD"):
                    lines = content.decode().splitlines(keepends=True)
                    content = "".join(line for line in lines if not line.startswith(_LEFT_OUT)).encode()
                target.writestr(entry, content, compresslevel=9)
    return frozen


if __name__ == "__main__":
    path = freeze()
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes")
