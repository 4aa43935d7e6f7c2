"""The files of the project."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PRODUCT = ("kernel", "plugins", "contrib")
README = ROOT / "README.md"
DOCS = ROOT / "docs"
_PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sources() -> list[Path]:
    """Return the Python files of the product, relative to the root."""
    return sorted(path.relative_to(ROOT) for package in PRODUCT for path in (ROOT / package).rglob("*.py"))


def committed() -> list[Path]:
    """Return the files that are committed, or would be with the next commit; none outside a checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def documents() -> list[Path]:
    """Return the README and every page of the documentation."""
    return [README, *sorted(DOCS.rglob("*.md"))]


def python_blocks(page: str) -> list[str]:
    """Return the Python examples of a page of the documentation, such as ``howto/jobs.md``."""
    return _PYTHON_BLOCK.findall((DOCS / page).read_text())
