# SPDX-License-Identifier: MIT
"""The pages as they are written, and the modules that fill them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))  # as docs/conf.py does


@pytest.fixture(scope="session")
def pages() -> dict[str, str]:
    """Text of every page by name."""
    return {file.stem: file.read_text("utf-8") for file in sorted((ROOT / "docs").glob("*.md"))}


@pytest.fixture(scope="session")
def parts(pages: dict[str, str]) -> list[str]:
    """What the pages take from the code."""
    return [
        words
        for text in pages.values()
        for words in re.findall(r"^```\{from-code\} (.+)$", text, re.MULTILINE)
    ]
