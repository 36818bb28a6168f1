# SPDX-License-Identifier: MIT
"""The README says what the code does."""

import re
from pathlib import Path

import pytest

from kraken_bids.bids.names import OUTPUTS
from kraken_bids.cli import make_parser
from kraken_bids.flavors import CORE_ATLASES, CORE_FLAVORS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_output_is_in_the_table(name):
    assert re.search(rf"^\| .*`{name}`", README, re.MULTILINE)


def test_every_option_named_exists():
    known = {text for action in make_parser()._actions for text in action.option_strings}
    # Options of other programs, each named with its program beside it.
    others = {"--output-spaces", "--help"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README))
    model = {"--input", "--output", "--checkpoint", "--transforms"}
    assert not named - known - others - model


def test_every_kind_of_connectome_and_atlas_is_named():
    assert all(f"`{flavor.meas}`" in README for flavor in CORE_FLAVORS)
    assert all(f"`{atlas}`" in README for atlas in CORE_ATLASES)


def test_every_script_named_is_there():
    for script in set(re.findall(r"scripts/\w+", README)):
        assert (ROOT / script).is_file()
