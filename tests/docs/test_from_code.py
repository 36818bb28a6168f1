# SPDX-License-Identifier: MIT
"""What the pages take from the code, without building them."""

from __future__ import annotations

import re

import pytest
from builder import from_code
from builder.from_code import format_value, make_part, options, programs, read_value

from kraken_bids.atlases import atlas_names
from kraken_bids.bids.names import OUTPUTS
from kraken_bids.flavors import RECIPES
from kraken_bids.model.metrics import METRICS
from kraken_bids.model_commands.cli import SUBCOMMANDS


def test_every_part_that_pages_ask_for_can_be_made(parts):
    assert all(make_part(words).strip() for words in parts)


def test_every_kind_of_part_is_used(parts):
    assert {words.split()[0] for words in parts} == set(from_code.PARTS)


def test_every_program_has_its_options_on_the_page(pages):
    assert programs() == tuple(
        re.findall(r"^```\{from-code\} options (.+)$", pages["options"], re.MULTILINE)
    )
    for program in programs():
        assert f"\n## {program}\n" in pages["options"]


@pytest.mark.parametrize("program", programs())
def test_every_option_is_told_with_its_meaning(program):
    parser = from_code.find_parser(program)
    text = options(program)
    shared = set()
    if program == "kraken-submit":
        bids = from_code.find_parser("kraken-bids")
        shared = {name for action in bids._actions for name in action.option_strings}
    names = {name for action in parser._actions for name in action.option_strings}
    for name in names - shared - {"-h", "--help"}:
        (entry,) = re.findall(rf"^.*`{re.escape(name)}`.*\n: (.+)$", text, re.MULTILINE)
        assert entry != "see the page.", f"{program} {name} has no help"


def test_defaults_and_choices_are_told():
    text = options("kraken-bids")
    assert "`--compcor` `{exact,columns}`" in text
    assert "(default: `exact`)" in text
    assert "`--nprocs`, `--nthreads`, `--n-cpus` `N`" in text


def test_every_output_has_a_section_with_its_name(pages):
    headings = re.findall(r"^### (\w+)$", pages["outputs"], re.MULTILINE)
    assert set(OUTPUTS) == {name for name in headings if name in OUTPUTS}
    for name in OUTPUTS:
        assert f"### {name}\n\n```{{from-code}} output {name}\n```\n" in pages["outputs"]


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_name_of_an_output_is_that_of_its_row(name):
    row = OUTPUTS[name]
    (path,) = re.findall(r"`(.+?)`", make_part(f"output {name}"))
    assert path.endswith(row.extension)
    named = re.findall(r"([a-z]+)-…", path.rsplit("/", 1)[-1])
    assert {entity for entity in named if entity not in {"sub", "ses"}} == set(row.entities)


def test_tables_have_a_row_for_each_row_of_the_code():
    assert all(f"`{recipe.meas}`" in make_part("flavors") for recipe in RECIPES.values())
    assert all(f"| `{name}` |" in make_part("atlases") for name in atlas_names())
    assert all(f"| `{metric.name}` |" in make_part("metrics") for metric in METRICS)
    assert all(f"| `{row.name}` |" in make_part("subcommands") for row in SUBCOMMANDS)
    assert [row.split(" | ")[0] for row in make_part("exit-codes").splitlines()[2:]] == [
        "| 0", "| 1", "| 2", "| 3", "| 70"
    ]  # fmt: skip


def test_every_value_in_the_text_is_there(pages):
    places = [
        place for text in pages.values() for place in re.findall(r"\{value\}`([^`]+)`(?!`)", text)
    ]
    assert len(places) > 20
    assert all(format_value(read_value(place)) for place in places)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("connectome.structural:TRAINING_STREAMLINES", "5\u2009000\u2009000"),
        ("connectome.structural:TRAINING_VOXEL_MM3", "1.953125"),
        ("settings:FunctionalOptions.pcorr_lambda[coco439]", "0.06"),
        ("workflows.structural:TRACKINGS[ifod2act].step_mm", "0.625"),
        ("flavors:CORE_ATLASES[1]", "shen268"),
    ],
)
def test_values_are_read_from_the_code(place, text):
    assert format_value(read_value(place)) == text


def test_unknown_parts_and_values_are_told():
    with pytest.raises(LookupError, match="no part is called 'outpust'; there are: options"):
        make_part("outpust connectome")
    with pytest.raises(LookupError, match="0 tables that begin with 'nothing'"):
        make_part("readme-table nothing")
    with pytest.raises(AttributeError, match="NONE"):
        read_value("connectome.motion:NONE")


def test_text_is_shown_as_it_is():
    assert from_code.escape("a_b <c> {d} *e*") == r"a\_b \<c\> \{d\} \*e\*"
