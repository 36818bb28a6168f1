# SPDX-License-Identifier: MIT
"""The README says what the code does."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from kraken_bids.bids.names import OUTPUTS
from kraken_bids.flavors import CORE_ATLASES, CORE_FLAVORS
from kraken_bids.model_commands.cli import SUBCOMMANDS
from kraken_bids.model_commands.cli import make_parser as make_model_parser
from kraken_bids.submit.options import make_submit_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_output_is_in_the_table(name):
    assert re.search(rf"^\| .*`{name}`", README, re.MULTILINE)


def test_every_option_named_exists():
    known = {text for action in make_submit_parser()._actions for text in action.option_strings}
    known |= {text for row in SUBCOMMANDS for text in model_options(row.name)}
    # Options of other programs, each named with its program beside it.
    others = {"--output-spaces", "--lower-bpf", "--upper-bpf"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", README))
    assert not named - known - others


def model_options(name):
    """Options of a subcommand of kraken-model."""
    parser = make_model_parser([name])
    (commands,) = (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return {text for action in commands[name]._actions for text in action.option_strings}


def model_commands():
    """Every line of the README that calls kraken-model, in words."""
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("kraken-model "):
                yield shlex.split(line)[1:]


@pytest.mark.parametrize("words", model_commands(), ids=lambda words: words[0])
def test_every_model_command_is_understood(words):
    assert make_model_parser(words).parse_args(words).command == words[0]


def test_the_commonest_uses_are_there():
    assert {"predict", "evaluate", "train", "convert", "describe", "pcorr"} <= {
        words[0] for words in model_commands()
    }


def test_every_kind_of_connectome_and_atlas_is_named():
    assert all(f"`{flavor.meas}`" in README for flavor in CORE_FLAVORS)
    assert all(f"`{atlas}`" in README for atlas in CORE_ATLASES)


def test_every_script_named_is_there():
    for script in set(re.findall(r"scripts/\w+", README)):
        assert (ROOT / script).is_file()
