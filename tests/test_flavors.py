# SPDX-License-Identifier: MIT
from __future__ import annotations

import re

import pytest

from kraken_bids.errors import UsageError
from kraken_bids.flavors import CORE_RECIPES, MEASURED_RECIPES, RECIPES, Flavor

#: The reference program's grammar of names, spelled out.
FUNCTIONAL = [
    f"{kind}_fs86_{filtered}{gsr}"
    for kind, gsrs in (("FCcorr", ("", "gsr")), ("FCpcorr", ("",)))
    for filtered in ("hpf", "bpf", "nofilt")
    for gsr in gsrs
]
STRUCTURAL = [
    f"{kind}_fs86_{processing}"
    for kind in ("SCifod2act", "SCsdstream")
    for processing in (
        "volnorm",
        "count",
        "sift2",
        "sift2volnorm",
        "volnormicv",
        "sift2volnormicv",
    )
]


@pytest.mark.parametrize("name", [*FUNCTIONAL, *STRUCTURAL])
def test_every_name_of_the_grammar_is_read_and_written(name):
    flavor = Flavor.parse(name)
    assert str(flavor) == name
    assert flavor.group == name[:2]
    assert flavor.datatype == {"FC": "func", "SC": "dwi"}[flavor.group]
    assert re.fullmatch("[A-Za-z0-9]+", flavor.label)
    assert Flavor.from_bids("fs86", flavor.meas) == flavor


def test_recipes_are_those_of_the_grammar():
    assert {f"{kind}_fs86_{processing}" for kind, processing in RECIPES} == {
        *FUNCTIONAL, *STRUCTURAL
    }  # fmt: skip


def test_labels_are_unique_whatever_their_case():
    labels = [recipe.meas.lower() for recipe in RECIPES.values()]
    labels += [recipe.other_meas.lower() for recipe in RECIPES.values() if recipe.other_meas]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ("SCifod2act_fs86_sift2count", "SCifod2act_fs86_sift2"),
        ("FCcov_cocommpsuit439_hpf", "FCcorr_coco439_hpf"),
        ("FCcorr_cocoyeo243_hpf", "FCcorr_cocoyeo243_hpf"),
    ],
)
def test_other_spellings_are_read(other, name):
    assert str(Flavor.parse(other)) == name


@pytest.mark.parametrize(
    ("meas", "name"),
    [
        ("FCcorrHPF", "FCcorr_fs86_hpf"),
        ("FCcorrNFGSR", "FCcorr_fs86_nofiltgsr"),
        ("FCpcorrBPF", "FCpcorr_fs86_bpf"),
        ("SCifod2actSiftCount", "SCifod2act_fs86_sift2"),
        ("SCsdstreamSiftVN", "SCsdstream_fs86_sift2volnorm"),
        ("SCsdstreamSIFT2VN", "SCsdstream_fs86_sift2volnorm"),
        ("SCsdstreamVN", "SCsdstream_fs86_volnorm"),
    ],
)
def test_labels_of_files_are_read(meas, name):
    assert str(Flavor.from_bids("fs86", meas)) == name


@pytest.mark.parametrize(
    "name", ["FCpcorr_fs86_hpfgsr", "FCcorr_fs86", "SCifod2act__count", "SCifod2act_fs86_hpf", ""]
)
def test_names_outside_the_grammar_are_refused(name):
    with pytest.raises(UsageError, match=re.escape(f"flavor '{name}' is unknown")):
        Flavor.parse(name)


def test_only_what_the_workflows_compute_counts_as_measured():
    kinds, processings = ("SCifod2act", "SCsdstream"), ("count", "sift2", "sift2volnorm")
    counts = {(kind, processing) for kind in kinds for processing in processings}
    assert set(MEASURED_RECIPES) == {*CORE_RECIPES, *counts}


def test_an_unpublished_formula_is_said_to_be_so():
    assert "not published" in Flavor.parse("SCifod2act_fs86_volnormicv").recipe.description
