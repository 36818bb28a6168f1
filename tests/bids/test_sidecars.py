# SPDX-License-Identifier: MIT
from __future__ import annotations

import json
from pathlib import Path

import pytest

from kraken_bids.bids.names import OFF_RECIPE
from kraken_bids.bids.sidecars import (
    bids_uri,
    connectome_sidecar,
    labels_sidecar,
    latent_sidecar,
    prediction_sidecar,
    quality_sidecar,
    timeseries_sidecar,
)
from kraken_bids.flavors import CORE_FLAVORS, Flavor

#: Keys that BIDS extension proposal 17 requires of a matrix.
REQUIRED = {"Directed", "RelationshipMeasure", "Software", "ValidDiagonal", "Weighted"}


@pytest.mark.parametrize("flavor", CORE_FLAVORS, ids=str)
def test_matrices_have_the_required_keys(flavor):
    for sidecar in (connectome_sidecar(flavor), prediction_sidecar(flavor, source="fusion")):
        assert set(sidecar) >= REQUIRED
        assert sidecar["NonNegative"] is (flavor.group == "SC")
        assert sidecar["NodeFiles"] == [f"bids::atlas-{flavor.atlas}_dseg.tsv"]
        assert sidecar["KrakencoderFlavor"] == str(flavor)
        json.dumps(sidecar)


def test_a_measured_connectome_tells_what_it_depends_on():
    quality = {
        "n_volumes": 200, "n_kept": 180, "kept_minutes": 6.0, "repetition_time_s": 2.0,
        "pcorr_lambda_fs86": 0.06, "regions": {},
    }  # fmt: skip
    sidecar = connectome_sidecar(
        Flavor.parse("FCpcorr_fs86_hpf"),
        sources=["bids:fmriprep:a"],
        quality=quality,
        missing=["Left-Amygdala"],
    )
    assert sidecar["Sources"] == ["bids:fmriprep:a"]
    assert (sidecar["NumberOfVolumes"], sidecar["NumberOfRetainedVolumes"]) == (200, 180)
    assert sidecar["RetainedSeconds"] == 360
    assert sidecar["Regularization"] == 0.06
    assert sidecar["MissingNodes"] == ["Left-Amygdala"]
    plain = connectome_sidecar(Flavor.parse("FCcorr_fs86_hpf"), quality=quality)
    assert "Regularization" not in plain


RECIPE = {
    "denoising": "recipe", "compcor": "exact", "gsr_source": "grey_matter", "outliers": "fmriprep",
    "high_pass_hz": 0.01, "high_pass_edge_hz": 0.0015, "min_coverage": 0.5, "dof_hpf": 150.12345,
    "dof_hpfgsr": 148.0,
}  # fmt: skip


def test_a_measured_connectome_tells_the_options_of_its_recipe():
    sidecar = connectome_sidecar(Flavor.parse("FCcorr_fs86_hpf"), quality=RECIPE)
    assert sidecar["Denoising"] == {
        "Strategy": "recipe", "Components": "exact", "GlobalSignal": "grey_matter",
        "Outliers": "fmriprep", "HighPassCutoff": 0.01, "HighPassEdge": 0.0015,
        "MinimumCoverage": 0.5,
    }  # fmt: skip
    assert sidecar["DegreesOfFreedom"] == 150.123
    assert "OffRecipe" not in sidecar
    gsr = connectome_sidecar(Flavor.parse("FCcorr_fs86_hpfgsr"), quality=RECIPE)
    assert gsr["DegreesOfFreedom"] == 148.0
    assert "grey-matter signal" in gsr["MeasureDescription"]


def test_sidecars_say_which_global_signal_was_regressed():
    quality = {**RECIPE, "gsr_source": "global_signal"}
    gsr = connectome_sidecar(Flavor.parse("FCcorr_fs86_hpfgsr"), quality=quality)
    series = timeseries_sidecar("fs86", "hpfgsr", quality=quality)
    for text in (gsr["MeasureDescription"], series["Description"]):
        assert "global signal of the brain mask" in text
        assert "grey-matter" not in text


@pytest.mark.parametrize("mark", OFF_RECIPE)
def test_connectomes_of_other_pipelines_say_so(mark):
    quality = {"denoising": mark, "min_coverage": 0.0}
    for name in ("FCcorr_fs86_hpf", "FCcorr_fs86_hpfgsr"):
        sidecar = connectome_sidecar(Flavor.parse(name), quality=quality, mark=mark)
        assert sidecar["OffRecipe"].startswith(OFF_RECIPE[mark])
        assert OFF_RECIPE[mark] in sidecar["MeasureDescription"]
        assert "grey-matter" not in sidecar["MeasureDescription"]
        assert sidecar["Predicted"] is False
    series = timeseries_sidecar("fs86", "hpf", quality=quality, mark=mark)
    assert OFF_RECIPE[mark] in series["Description"]
    assert "Cutoff (Hz)" not in series["SoftwareFilters"]["High-pass"]


def test_a_structural_connectome_tells_its_own_streamlines():
    quality = {"ifod2act_n_streamlines": 5, "sdstream_n_streamlines": 7}
    for kind, count in (("SCifod2act", 5), ("SCsdstream", 7)):
        sidecar = connectome_sidecar(Flavor(kind, "fs86", "count"), quality=quality)
        assert sidecar["StreamlineCount"] == count


def test_a_prediction_tells_model_adaptation_and_inputs():
    sidecar = prediction_sidecar(
        Flavor.parse("FCcorr_fs86_hpf"),
        source="fusionSC",
        predicted_from=["SCsdstream_fs86_volnorm"],
        model_name="m",
        model_sha256="0" * 64,
        adaptation="meanshift",
        adaptation_file="bids::group/desc-meanshift_adaptation.safetensors",
        cohort_size=6,
        missing_regions={"fs86": ["Left-Amygdala"]},
        filled_edges={"SCsdstream_fs86_volnorm": 85},
    )
    assert sidecar["Predicted"] is True
    assert sidecar["PredictedFrom"] == ["SCsdstream_fs86_volnorm"]
    assert sidecar["Model"] == {"Name": "m", "SHA256": "0" * 64}
    assert sidecar["AdaptationFile"].startswith("bids::group/")
    assert sidecar["CohortSize"] == 6
    assert sidecar["FilledEdges"] == {"SCsdstream_fs86_volnorm": 85}


def test_latents_describe_their_columns():
    assert "source" in latent_sidecar()
    assert "participant_id" in latent_sidecar(cohort=True)


def test_series_tell_their_repetition_time_and_missing_regions():
    quality = {"repetition_time_s": 0.8, "regions": {"fs86": {"missing": ["x"]}}}
    sidecar = timeseries_sidecar("fs86", "hpf", quality=quality)
    assert (sidecar["RepetitionTime"], sidecar["MissingNodes"]) == (0.8, ["x"])
    assert sidecar["SamplingFrequency"] == pytest.approx(1.25)


def test_labels_tell_their_spatial_reference():
    assert "AC-PC" in labels_sidecar("fs86", space="ACPC")["SpatialReference"]
    assert labels_sidecar("fs86", space="MNI152NLin6Asym")["SpatialReference"] == (
        "MNI152NLin6Asym"
    )


@pytest.mark.parametrize(
    ("column", "description"),
    [
        ("fd_mean_mm", {"Description": "Mean framewise displacement (Power)", "Units": "mm"}),
        ("min_eigenvalue_fs86", "Smallest eigenvalue of the correlation matrix, fs86"),
        ("min_FCcorr_fs86_hpf", "Smallest edge of FCcorr_fs86_hpf"),
        ("ifod2act_fs86_density", "Share of pairs of regions that a streamline joins, ifod2act_fs86"),  # noqa: E501
        ("something_new", "something new"),
    ],
)  # fmt: skip
def test_quality_measures_are_described(column, description):
    if isinstance(description, str):
        description = {"Description": description}
    sidecar = quality_sidecar([column], regions={"fs86": {"coverage": [1.0]}})
    assert sidecar[column] == description
    assert sidecar["Regions"] == {"fs86": {"coverage": [1.0]}}


def test_addresses_are_quoted():
    root = Path("/data/my study")
    assert bids_uri(root / "sub-01" / "a+b c.txt", "x", root) == "bids:x:sub-01/a%2Bb%20c.txt"
