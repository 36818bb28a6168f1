# SPDX-License-Identifier: MIT
from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from kraken_bids.connectome.adaptation import ADAPTATIONS, fit_adaptation
from kraken_bids.errors import ResourceError
from kraken_bids.model.adaptation_file import (
    load_adaptations,
    load_provenance,
    save_adaptations,
)


@pytest.fixture
def adaptations(rng):
    """One adaptation a mode, with an edge that nobody has."""
    fitted = {}
    for number, mode in enumerate(ADAPTATIONS):
        source, target = rng.normal(size=(2, 6))
        source[3] = np.nan
        fitted[f"flavor{number}"] = fit_adaptation(mode, source, target, n_participants=30)
    return fitted


def test_adaptations_come_back_as_they_were(tmp_path, adaptations, rng):
    file = tmp_path / "group" / "desc-x_adaptation.safetensors"
    save_adaptations(file, adaptations, provenance={"model_sha256": "abc"})
    found = load_adaptations(file)
    x = rng.normal(size=(4, 6))
    assert list(found) == list(adaptations)
    for flavor, adaptation in adaptations.items():
        np.testing.assert_array_equal(found[flavor].forward(x), adaptation.forward(x))
        assert found[flavor].n_participants == 30
        np.testing.assert_equal(found[flavor].r_squared, adaptation.r_squared)
    assert load_provenance(file) == {"model_sha256": "abc"}


def test_the_numbers_are_also_there_for_people(tmp_path, adaptations):
    file = tmp_path / "a.safetensors"
    save_adaptations(file, adaptations)
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["flavors"]["flavor0"]["r_squared"] is None
    assert content["flavors"]["flavor2"]["slope"] == adaptations["flavor2"].slope
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.safetensors", "a.json"}


def test_the_same_adaptations_give_the_same_bytes(tmp_path, adaptations):
    for name in ("a", "b"):
        save_adaptations(tmp_path / f"{name}.safetensors", adaptations)
    a, b = ((tmp_path / f"{name}.safetensors").read_bytes() for name in "ab")
    assert a == b


def test_other_files_are_told(tmp_path):
    with pytest.raises(ResourceError, match=r"is no fitted adaptation .*run the group level"):
        load_adaptations(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 50)
    with pytest.raises(ResourceError, match="is no fitted adaptation"):
        load_adaptations(tmp_path / "bad.safetensors")


def test_a_mode_of_a_later_version_is_told(tmp_path, adaptations):
    odd = {"flavor0": replace(adaptations["flavor0"], mode="combat")}
    save_adaptations(tmp_path / "a.safetensors", odd)
    with pytest.raises(ResourceError, match="'combat' is unknown"):
        load_adaptations(tmp_path / "a.safetensors")


def test_a_model_is_no_adaptation(tiny_bundle):
    with pytest.raises(ResourceError, match="is no fitted adaptation"):
        load_adaptations(tiny_bundle.weights_file)


def test_a_folder_that_cannot_be_made_is_told(tmp_path, adaptations):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be written"):
        save_adaptations(tmp_path / "file" / "a.safetensors", adaptations)
