# SPDX-License-Identifier: MIT
"""The functional workflow on a run of a few voxels, with all three atlases."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from kraken_bids.plan import FunctionalRun, LabelSource
from kraken_bids.settings import FunctionalOptions
from kraken_bids.workflows.functional import (
    atlas_regions,
    init_combine_runs_wf,
    init_functional_wf,
    lambda_by_atlas,
)

SHAPE = (14, 14, 14)
AFFINE = np.array([[-4.0, 0, 0, 26], [0, 4, 0, -26], [0, 0, 4, -26], [0, 0, 0, 1]])
N_VOLUMES = 110
SIZES = {"fs86": 86, "shen268": 268, "coco439": 439}


def save(values, file):
    nib.Nifti1Image(values, AFFINE).to_filename(file)
    return file


@pytest.fixture
def run(tmp_path):
    """One run with noise in every region, shen268 without its last region."""
    rng = np.random.default_rng(8)
    labels = []
    for atlas, size in SIZES.items():
        flat = np.arange(np.prod(SHAPE)) * size // np.prod(SHAPE) + 1
        if atlas == "shen268":
            flat[flat == 268] = 0
        file = save(flat.reshape(SHAPE).astype(np.int16), tmp_path / f"{atlas}.nii.gz")
        labels.append(LabelSource(atlas, file, "MNI152NLin6Asym"))
    codes = np.zeros(SHAPE, dtype=np.int16)
    codes[:5], codes[5:10], codes[10:] = 2, 1005, 4
    bold = rng.normal(800, 10, (*SHAPE, N_VOLUMES)).astype(np.float32)
    motion = np.cumsum(rng.normal(0, 0.01, (N_VOLUMES, 6)) * [1, 1, 1, 0.01, 0.01, 0.01], axis=0)
    names = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]
    confounds_file = tmp_path / "confounds.tsv"
    np.savetxt(confounds_file, motion, delimiter="\t", header="\t".join(names), comments="")
    return FunctionalRun(
        entities=(("sub", "01"), ("task", "rest")),
        space="MNI152NLin6Asym",
        resolution="2",
        bold_file=save(bold, tmp_path / "bold.nii.gz"),
        mask_file=save(np.ones(SHAPE, dtype=np.uint8), tmp_path / "mask.nii.gz"),
        confounds_file=confounds_file,
        confounds_sidecar=None,
        repetition_time_s=2.0,
        labels=tuple(labels),
        tissues=LabelSource(
            "tissues", save(codes, tmp_path / "aseg.nii.gz"), "MNI152NLin6Asym", codes="freesurfer"
        ),
    )


def collect(workflow, folder):
    """Run a workflow and give its outputs by name."""
    fields = workflow.get_node("outputnode").interface._fields
    keep = pe.Node(niu.Merge(len(fields), no_flatten=True), name="keep")
    whole = pe.Workflow(name="whole", base_dir=str(folder))
    whole.connect([
        (workflow, keep, [(f"outputnode.{field}", f"in{number}")])
        for number, field in enumerate(fields, start=1)
    ])
    graph = whole.run(plugin="Linear")
    (node,) = [node for node in graph.nodes() if node.name == "keep"]
    return SimpleNamespace(**dict(zip(fields, node.result.outputs.out, strict=True)))


def load(file):
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def test_run_gives_nine_connectomes(run, tmp_path):
    options = FunctionalOptions(pcorr_given=tuple(SIZES))
    outputs = collect(init_functional_wf(run, options=options), tmp_path / "work")
    connectomes = load(outputs.connectomes_file)
    assert {name: matrix.shape for name, matrix in connectomes.items()} == {
        f"{kind}_{atlas}_{variant}": (size, size)
        for atlas, size in SIZES.items()
        for kind, variant in (("FCcorr", "hpf"), ("FCcorr", "hpfgsr"), ("FCpcorr", "hpf"))
    }
    assert [Path(file).name for file in outputs.labels_files] == [
        f"{atlas}_dseg.nii.gz" for atlas in SIZES
    ]
    for name, matrix in connectomes.items():
        missing = [267] if "shen268" in name else []
        assert np.flatnonzero(np.isnan(matrix).all(axis=0)).tolist() == missing
    qc = json.loads(Path(outputs.qc_file).read_text())
    assert qc["regions"]["shen268"]["missing"] == [atlas_regions(["shen268"])["shen268"][-1][0]]
    assert load(outputs.timeseries_file)["coco439_hpfgsr"].shape == (N_VOLUMES, 439)
    assert load(outputs.traces_file)["series"].shape == (N_VOLUMES, 86)


def test_options_reach_the_nodes(run):
    options = FunctionalOptions(
        compcor="columns",
        gsr_source="global_signal",
        outliers="fmriprep",
        edge_rule="fmriclean",
        high_pass_hz=0.02,
        high_pass_edge_hz=0.001,
        skip_s=3.0,
        pcorr_lambda=(("fs86", 0.5),),
        pcorr_given=("fs86",),
        min_coverage=0.25,
        force=True,
    )
    workflow = init_functional_wf(run, options=options)
    assert workflow.get_node("resample_labels").inputs.force is True
    inputs = workflow.get_node("denoise").inputs
    for field in dataclasses.fields(FunctionalOptions):
        if not field.name.startswith("pcorr_") and field.name != "force":
            assert getattr(inputs, field.name) == getattr(options, field.name)
    assert inputs.min_coverage == 0.25
    assert inputs.pcorr_lambda == {"fs86": 0.5, "shen268": 0.06, "coco439": 0.06}
    sources = {"fs86": "given", "shen268": "default", "coco439": "default"}
    assert inputs.lambda_sources == sources
    assert workflow.get_node("parcellate").inputs.with_components is False


def test_strategy_leaves_tissues_alone(run):
    workflow = init_functional_wf(run, options=FunctionalOptions(denoising="simple"))
    assert workflow.get_node("denoise").inputs.denoising == "simple"
    assert workflow.get_node("parcellate").inputs.with_components is False
    assert len(workflow.get_node("resample_labels").inputs.label_sources) == len(SIZES)


def test_runs_are_combined(run, tmp_path):
    work = tmp_path / "work"
    outputs = collect(init_functional_wf(run, options=FunctionalOptions()), work)
    combine = init_combine_runs_wf(list(SIZES), options=FunctionalOptions())
    combine.inputs.inputnode.connectomes_files = [outputs.connectomes_file] * 2
    combine.inputs.inputnode.qc_files = [outputs.qc_file] * 2
    combined = collect(combine, tmp_path / "again")
    once, twice = load(outputs.connectomes_file), load(combined.connectomes_file)
    # one run has fewer degrees of freedom than regions, two have more than fs86
    assert set(twice) - set(once) == {"FCpcorr_fs86_hpf"}
    qc, both = (json.loads(Path(one.qc_file).read_text()) for one in (outputs, combined))
    assert [name for name in qc if name.startswith("pcorr_withheld")] == [
        f"pcorr_withheld_{atlas}" for atlas in SIZES
    ]
    assert qc["dof_hpf"] < 86 <= both["dof_hpf"] == 2 * qc["dof_hpf"] < 267
    assert "pcorr_withheld_fs86" not in both
    assert "pcorr_lambda_fs86" not in qc
    assert both["pcorr_lambda_source_fs86"] == "training value"
    for name, matrix in once.items():
        np.testing.assert_allclose(twice[name], matrix, atol=1e-9)


def test_lambda_of_an_unnamed_atlas_is_that_of_the_model():
    assert lambda_by_atlas(["toy"], options=FunctionalOptions()) == {"toy": 0.06}
