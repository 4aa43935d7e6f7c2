"""Templates and static files of the tree: complete, and such as the Content-Security-Policy of pages allows."""

from __future__ import annotations

import re

import pytest
from jinja2 import Environment

from kernel.app import Tiercel
from kernel.testing import make_configuration
from tests.contract.tree import ROOT

TEMPLATES = sorted(path for package in ("kernel", "plugins", "contrib") for path in (ROOT / package).rglob("*.html"))
# What is neither loaded nor run under the policy.
_INLINE = re.compile(r"<script(?![^>]*\ssrc=)|<style|\s(?:style|on[a-z]+)=|javascript:", re.IGNORECASE)
_ASSET = re.compile(r"""asset\(["']([^"']*)["']\)""")


@pytest.fixture(scope="module")
def service() -> Tiercel:
    """A service with the plugins of the tree, not started."""
    return Tiercel(make_configuration(db={"url": "host=127.0.0.1 port=1"}, log={"level": "error"}))


def test_templates_are_valid_and_link_to_files_that_are_there(service: Tiercel) -> None:
    assert len(TEMPLATES) >= 5
    for template in TEMPLATES:
        text = template.read_text()
        Environment(autoescape=True).parse(text, filename=str(template))
        for name in _ASSET.findall(text):
            assert service.assets.url(name).startswith("/static/"), template


def test_no_template_has_scripts_or_styles_within() -> None:
    assert [str(path) for path in TEMPLATES if _INLINE.search(path.read_text())] == []


def test_no_template_marks_text_as_safe() -> None:
    assert [str(path) for path in TEMPLATES if re.search(r"\|\s*safe\b|autoescape", path.read_text())] == []
