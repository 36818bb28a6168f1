# SPDX-License-Identifier: MIT
"""CITATION.cff says what its format asks for, and what the code says of paper and version."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from kraken_bids import __version__
from kraken_bids.published import publication

FILE = Path(__file__).resolve().parents[2] / "CITATION.cff"


@pytest.fixture
def citation():
    return yaml.safe_load(FILE.read_text("utf-8"))


def test_keys_are_those_of_the_format(citation):
    """Of the Citation File Format, 1.2.0: what it requires, and no other than what it knows."""
    assert citation["cff-version"] == "1.2.0"
    required = {"cff-version", "message", "title", "authors"}
    optional = {"abstract", "type", "version", "license", "keywords", "preferred-citation"}
    assert required <= set(citation) <= required | optional
    assert citation["type"] == "software"
    assert all(set(author) == {"name"} for author in citation["authors"])
    assert len(set(citation["keywords"])) == len(citation["keywords"])


def test_version_and_licence_are_the_programs(citation):
    project = (FILE.parent / "pyproject.toml").read_text("utf-8")
    assert citation["version"] == __version__
    assert f'license = "{citation["license"]}"' in project


def test_the_paper_is_that_of_the_published_model(citation):
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors", "year", "doi", "journal"} == set(paper)
    names = [f"{author['given-names']} {author['family-names']}" for author in paper["authors"]]
    assert names == list(publication().authors)
    told = publication().citation
    assert paper["title"] in told
    assert f"{paper['journal']} ({paper['year']})" in told
    assert told.endswith(paper["doi"])
    assert re.fullmatch(r"10\.\d{4,}/\S+", paper["doi"])
