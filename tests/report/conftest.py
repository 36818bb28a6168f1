# SPDX-License-Identifier: MIT
"""Small finished data sets, as the participant and group level leave them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.bids.names import output_path
from kraken_bids.bids.writers import write_connectome, write_json, write_table
from kraken_bids.flavors import Flavor
from kraken_bids.report.canvas import save_png
from kraken_bids.report.functional_figure import draw_functional_qc
from kraken_bids.report.quality_figures import draw_structural_qc

MEASURED = (
    "FCcorr_fs86_hpf",
    "FCcorr_fs86_hpfgsr",
    "FCpcorr_fs86_hpf",
    "SCifod2act_fs86_count",
    "SCifod2act_fs86_volnorm",
    "SCsdstream_fs86_volnorm",
)
MISSING = 7  # position of the region that is missing from every functional connectome


def smooth(rng, shape, width):
    """White noise, averaged over a window along the last axis."""
    noise = rng.normal(size=(*shape[:-1], shape[-1] + width - 1))
    return np.lib.stride_tricks.sliding_window_view(noise, width, axis=-1).mean(axis=-1)


def make_matrix(rng, name):
    """A connectome of a flavor that looks like one."""
    flavor = Flavor.parse(name)
    n_regions = load_atlas(flavor.atlas).n_regions
    if flavor.group == "FC":
        series = smooth(rng, (60, n_regions), 9) * 3 + rng.normal(size=(60, n_regions))
        return np.corrcoef(series.T)
    distance = np.abs(np.subtract.outer(np.arange(n_regions), np.arange(n_regions)))
    matrix = np.exp(-8 * distance / n_regions + rng.normal(size=distance.shape))
    matrix = (matrix + matrix.T) / 2
    matrix[matrix < 0.1] = 0
    np.fill_diagonal(matrix, 0)
    return matrix


def save_matrix(root, name, matrix, row, entities, **labels):
    flavor = Flavor.parse(name)
    path = root / output_path(row, entities, datatype=flavor.datatype, atlas=flavor.atlas,
                              meas=flavor.meas, **labels)  # fmt: skip
    write_connectome(path, matrix, load_atlas(flavor.atlas).region_names)
    return path


def make_traces(rng, n_volumes=120, n_regions=86):
    displacement = np.abs(rng.normal(0.12, 0.08, n_volumes))
    displacement[0] = np.nan
    return {
        "repetition_time_s": np.array(2.0),
        "framewise_displacement_mm": displacement,
        "dvars": rng.normal(20, 2, n_volumes),
        "global_signal": rng.normal(500, 2, n_volumes),
        "is_outlier": rng.random(n_volumes) < 0.08,
        "series": smooth(rng, (n_regions, n_volumes), 5).T * 2,
    }


def make_overview(rng, shape=(20, 24, 18)):
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij"))
    radius = np.linalg.norm(grid, axis=0)
    tissue = np.zeros((*shape, 5), dtype=np.float32)
    tissue[..., 2] = radius < 0.6
    tissue[..., 0] = (radius >= 0.6) & (radius < 0.8)
    tissue[..., 3] = (radius >= 0.8) & (radius < 0.9)
    return {
        "background": np.clip(1 - radius, 0, None).astype(np.float32),
        "affine": np.diag([-5.0, 5.0, 5.0, 1.0]),
        "five_tissue": tissue,
        "density": (rng.poisson(20, shape) * tissue[..., 2]).astype(np.float32),
        "lengths_ifod2act": rng.gamma(3, 25, 500),
        "lengths_sdstream": rng.gamma(2, 20, 500),
    }


def make_participant(root, participant, rng, *, flavors=MEASURED):
    """Write what the participant level writes, without label images and series."""
    sub = [("sub", participant)]
    matrices = {}
    for name in flavors:
        matrix = make_matrix(rng, name)
        if name.startswith("FC"):
            matrix[MISSING, :] = matrix[:, MISSING] = np.nan
        task = [("task", "rest")] if name.startswith("FC") else []
        path = save_matrix(root, name, matrix, "connectome", [*sub, *task], space="T1w")
        write_json(
            path.with_suffix(".json"),
            {
                "Sources": [f"bids:fmriprep:sub-{participant}/func/x_bold.nii.gz"],
                "KrakencoderFlavor": name,
            },
        )
        matrices[name] = matrix
    names = load_atlas("fs86").region_names
    entities = [*sub, ("task", "rest")]
    coverage = np.full(86, 0.98)
    coverage[MISSING], coverage[20] = 0, 0.3
    functional = {"n_volumes": 120, "fd_mean_mm": 0.731, "kept_minutes": 3.61}
    _quality(root, "functional_qc", entities, "func", "fc", functional,
             {"fs86": {"coverage": coverage, "missing": [names[MISSING]]}})  # fmt: skip
    if participant == "01":
        save_png(draw_functional_qc(make_traces(rng)), _figure(root, entities, "bold"))
        save_png(draw_structural_qc(make_overview(rng)), _figure(root, sub, "dwi"))
    structural = {"ifod2act_n_streamlines": 20000, "ifod2act_fs86_density": 0.41, "n_b0": 3}
    _quality(root, "structural_qc", sub, "dwi", "sc", structural,
             {"fs86": {"coverage": np.ones(86), "missing": []}})  # fmt: skip
    return matrices


def _figure(root, entities, suffix):
    path = root / output_path("figure", entities, suffix=suffix, desc="qc")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _quality(root, row, entities, datatype, desc, values, regions):
    path = root / output_path(row, entities, datatype=datatype, desc=desc)
    write_table(path, tuple(values), [tuple(values.values())])
    meanings = {column: {"Description": f"meaning of {column}"} for column in values}
    write_json(path.with_suffix(".json"), {**meanings, "Regions": regions})


def make_predictions(root, measured, rng):
    """Write what the group level writes: predictions, latents, quality."""
    group = root / "group"
    for participant, matrices in measured.items():
        for name, matrix in matrices.items():
            if name.endswith("count"):
                continue
            for source in ("fusion", "fusionSC", "fusionFC"):
                noise = rng.normal(0, 0.1, matrix.shape)
                guess = np.nan_to_num(matrix) + (noise + noise.T) / 2
                path = save_matrix(
                    root, name, guess, "prediction", [("sub", participant)], desc=source
                )
                write_json(path.with_suffix(".json"), {"Model": {"Name": "demo"}, "CohortSize": 3})
    flavors = [name for name in MEASURED if not name.endswith("count")]
    columns = ("source", "target", "direction", "n_participants", "correlation",
               "residual_correlation", "top1", "top1_chance", "average_rank",
               "average_rank_chance", "p_permutation")  # fmt: skip
    rows = [
        (
            source,
            name,
            "x->y",
            len(measured),
            0.83,
            0.123456,
            0.6667,
            1 / 3,
            0.812345,
            0.6667,
            0.01,
        )
        for source in ("fusion", "fusionSC", "fusionFC")
        for name in flavors
    ]
    write_table(group / "desc-kraken_qc.tsv", columns, rows)
    write_table(group / "desc-participant_qc.tsv",
                ("participant_id", "session_id", "n_flavors", "n_filled_edges"),
                [(f"sub-{label}", None, 5, 255) for label in measured])  # fmt: skip
    latents = [(f"sub-{label}", None, *rng.normal(size=8)) for label in measured]
    write_table(group / "desc-fusion_latent.tsv",
                ("participant_id", "session_id", *(f"z{i:03d}" for i in range(8))),
                latents)  # fmt: skip
    fit = {name: {"slope": 0.9371, "intercept": 0.002, "r_squared": 0.98} for name in flavors}
    write_json(group / "desc-meanfit+meanshift_adaptation.json", {"flavors": fit})


def describe(root, name):
    root.mkdir(parents=True, exist_ok=True)
    content = {"Name": name, "BIDSVersion": "1.11.1",
               "GeneratedBy": [{"Name": "kraken-bids", "Version": "0.1.0"}]}  # fmt: skip
    (root / "dataset_description.json").write_text(json.dumps(content))


@pytest.fixture
def rng():
    return np.random.default_rng(20)


@pytest.fixture(scope="session")
def fake():
    """The functions above, for tests that build their own data set."""
    return SimpleNamespace(
        describe=describe,
        make_overview=make_overview,
        make_participant=make_participant,
        make_predictions=make_predictions,
        make_traces=make_traces,
        save_matrix=save_matrix,
    )


@pytest.fixture(scope="session")
def cohort(tmp_path_factory):
    """Root of measured connectomes of three participants, and root of their predictions."""
    rng = np.random.default_rng(7)
    output_dir = tmp_path_factory.mktemp("derivatives") / "measured"
    describe(output_dir, "Measured connectomes")
    dataset_dir = output_dir / "derivatives" / "krakencoder-default"
    describe(dataset_dir, "Predicted connectomes")
    measured = {label: make_participant(output_dir, label, rng) for label in ("01", "02")}
    measured["03"] = make_participant(output_dir, "03", rng, flavors=MEASURED[:3])
    make_predictions(dataset_dir, measured, rng)
    return output_dir, dataset_dir
