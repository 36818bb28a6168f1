# SPDX-License-Identifier: MIT
"""The two specs that are shipped for QSIRecon hold our own parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kraken_bids.bids.derivatives import Derivative
from kraken_bids.bids.files import parse_name
from kraken_bids.bids.ready_diffusion import qsirecon_tractograms
from kraken_bids.settings import StructuralOptions
from kraken_bids.workflows.structural import CUTOFF, MAX_LENGTH_MM, TRACKINGS

FOLDER = Path(__file__).parents[1] / "containers"


@pytest.fixture(params=sorted(TRACKINGS))
def algorithm(request) -> str:
    return request.param


@pytest.fixture
def spec(algorithm) -> dict:
    return yaml.safe_load((FOLDER / f"qsirecon_{algorithm}.yml").read_text("utf-8"))


def test_streamlines_are_made_as_by_ourselves(algorithm, spec):
    tracking = TRACKINGS[algorithm]
    _, track = spec["nodes"]
    # names of Nipype's Tractography, which QSIRecon hands them to
    assert track["parameters"]["tckgen"] == {
        "algorithm": tracking.algorithm,
        "select": StructuralOptions().n_streamlines,
        "cutoff": CUTOFF,
        "max_length": MAX_LENGTH_MM,
        "min_length": tracking.min_length_mm,
        "step_size": tracking.step_mm,
        "angle": tracking.angle_degrees,
        "quiet": True,
    }
    assert track["parameters"]["use_5tt"] is tracking.with_tissues
    assert ("mrtrix_5tt_hsvs" in spec["anatomical"]) is tracking.with_tissues


def test_orientation_distributions_are_those_of_the_recipe(spec):
    csd, track = spec["nodes"]
    assert (csd["action"], track["action"], track["input"]) == (
        "csd", "tractography", csd["name"],
    )  # fmt: skip
    assert csd["parameters"] == {
        "response": {"algorithm": "dhollander"},
        "fod": {"algorithm": "msmt_csd", "max_sh": [8, 0, 0]},
        "mtnormalize": False,
    }


def test_what_the_spec_writes_is_found_and_preferred(algorithm, spec, tmp_path):
    suffix = spec["nodes"][1]["qsirecon_suffix"]
    model = TRACKINGS[algorithm].algorithm.lower().replace("_", "")
    name = f"sub-01/dwi/sub-01_space-ACPC_model-{model}_streamlines.tck.gz"
    found = [
        (Derivative("qsirecon", folder, tmp_path / folder), parse_name(tmp_path / folder / name))
        for folder in ("qsirecon-MRtrix3_act-HSVS", f"qsirecon-{suffix}")
    ]
    (named,) = qsirecon_tractograms(found).values()
    assert {key: file.path for key, file in named.items()} == {
        algorithm: tmp_path / f"qsirecon-{suffix}" / name
    }
