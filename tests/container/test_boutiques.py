# SPDX-License-Identifier: MIT
"""The descriptor for Boutiques: valid by its own program, and true of our parser."""

from __future__ import annotations

import json
import runpy
import shlex
from pathlib import Path

import pytest
from boutiques.bosh import bosh
from boutiques.validator import validate_descriptor

from kraken_bids.cli import make_parser

SCRIPT = Path(__file__).resolve().parents[2] / "containers" / "boutiques.py"
#: What a value of each type may be.
SAMPLES = {"String": "a=b", "File": "folder", "Number": 3}


@pytest.fixture
def describe(tmp_path, capsys):
    """Write a descriptor with these options; give its file."""

    def write(*options):
        assert runpy.run_path(str(SCRIPT))["main"](options) == 0
        file = tmp_path / "boutiques.json"
        file.write_text(capsys.readouterr().out)
        return file

    return write


@pytest.mark.parametrize(
    "options", [[], ["--image", "kraken-bids"], ["--image", "k.sif", "--type", "singularity"]]
)
def test_descriptor_is_valid(describe, options):
    validate_descriptor(json.loads(describe(*options).read_text()))  # raises where it is not


def test_descriptor_names_the_image_given(describe):
    descriptor = json.loads(describe("--image", "lab/kraken-bids:1").read_text())
    assert descriptor["container-image"]["image"] == "lab/kraken-bids:1"


def test_every_argument_arrives_as_it_was_given(describe, tmp_path):
    """Boutiques makes a command line of a value for each input, and our parser reads it."""
    file = describe()
    inputs = json.loads(file.read_text())["inputs"]
    values = {row["id"]: sample(row) for row in inputs}
    (tmp_path / "values.json").write_text(json.dumps(values))
    made = bosh(["exec", "simulate", str(file), "-i", str(tmp_path / "values.json")])
    program, *words = shlex.split(made.shell_command)
    assert program == "kraken-bids"
    assert vars(make_parser().parse_args(words)) == values | {"verbose": 1}


def sample(row):
    """A value that the input may have."""
    if row["type"] == "Flag":
        return True
    value = row.get("value-choices", [SAMPLES[row["type"]]])[-1]
    return [value, value] if row.get("list") else value


def test_exit_codes_are_those_that_help_tells(describe):
    codes = [row["code"] for row in json.loads(describe().read_text())["error-codes"]]
    assert codes == [1, 2, 3, 70]
