# SPDX-License-Identifier: MIT
from __future__ import annotations

import re
from pathlib import Path

import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.flavors import CORE_FLAVORS, RECIPES
from kraken_bids.published import (
    published_extras,
    published_files,
    published_flavors,
    published_models,
)

CORE = "krakencoder-2024"


@pytest.mark.parametrize("file", published_files().values(), ids=list(published_files()))
def test_every_file_has_two_addresses_and_a_hash(file):
    assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
    # Files of before 2025 have short ids.
    assert re.fullmatch(r"https://osf\.io/download/([0-9a-z]{5}|[0-9a-f]{24})/", file.url)
    extension = re.escape(Path(file.name).suffix)
    assert re.fullmatch(rf"https://wcm\.box\.com/shared/static/[0-9a-z]{{32}}{extension}",
                        *file.mirrors)  # fmt: skip


def test_no_two_files_share_an_address_or_a_hash():
    files = published_files().values()
    for values in ([f.sha256 for f in files], [f.url for f in files], [f.mirrors for f in files]):
        assert len(set(values)) == len(values) == 64


def test_every_file_belongs_to_a_model_or_stands_for_itself():
    used = [file for model in published_models().values() for file in model.files]
    used += [file for extra in published_extras().values() for file in extra.files]
    assert len(used) == len(set(used))
    assert set(used) == set(published_files().values())


def test_flavors_are_those_of_the_core_and_its_add_ons():
    core = {str(flavor) for flavor in CORE_FLAVORS}
    structural = {
        f"{kind}_{atlas}_{processing}"
        for kind in ("SCifod2act", "SCsdstream")
        for atlas in ("fs86", "shen268", "coco439", "cocoyeo243")
        for processing in ("count", "sift2", "sift2volnorm")
    }
    cocoyeo = {name.replace("fs86", "cocoyeo243") for name in core if "fs86" in name}
    assert set(published_flavors()) == core | structural | cocoyeo
    assert len(published_flavors()) == 44


@pytest.mark.parametrize("name", published_flavors())
def test_a_row_agrees_with_the_names_of_its_files(name):
    row = published_flavors()[name]
    kind, atlas, processing = name.split("_")
    assert (row.flavor.kind, row.flavor.atlas, row.flavor.processing) == (kind, atlas, processing)
    assert (
        row.n_regions
        == int(re.sub(r"\D", "", atlas.removeprefix("fs")))
        == load_atlas(atlas).n_regions
    )
    model = published_models()[row.model]
    assert model.checkpoints == (row.checkpoint,)
    assert row.transform in model.transforms
    assert (row.shares_latents_with == "") == (row.model == CORE)
    stem = row.transform.name.removeprefix("kraken_ioxfm_").removesuffix("_pc256_710train.npy")
    assert stem == (f"SCFC_{atlas}" if row.model == CORE else name)
    part = row.checkpoint.name.removeprefix("kraken_chkpt_").split("_pc256_")[0]
    expected = {CORE: "SCFC_fs86+shen268+coco439", f"{CORE}-cocoyeo243": "SCFC_cocoyeo243"}
    assert part == expected.get(row.model, name)


def test_models_hold_each_flavor_once():
    models = published_models()
    held = [name for model in models.values() for name in model.flavors]
    assert len(models) == 26
    assert len(held) == len(set(held)) == len(published_flavors())
    assert len(models[CORE].flavors) == 15
    assert len(models[CORE].checkpoints) == 1
    assert len(models[CORE].transforms) == 3
    assert len(models[f"{CORE}-cocoyeo243"].transforms) == 5


def test_every_model_says_where_it_comes_from():
    for model in published_models().values():
        publication = model.publication
        assert len(publication.authors) == 6
        assert "Nature Methods" in publication.citation
        assert publication.address in publication.license
        assert publication.terms


def test_regularisation_targets_are_there_for_each_core_atlas():
    targets = {name for name in published_extras() if name.startswith("regtarget-")}
    assert targets == {f"regtarget-{flavor.atlas}" for flavor in CORE_FLAVORS}
    for name in targets:
        (file,) = published_extras()[name].files
        assert f"FCpcorr_{name.removeprefix('regtarget-')}_hpf" in file.name


def test_published_flavors_have_recipes():
    assert {(row.flavor.kind, row.flavor.processing) for row in published_flavors().values()} <= (
        set(RECIPES)
    )
