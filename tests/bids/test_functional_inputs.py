# SPDX-License-Identifier: MIT
"""Functional inputs in the names of all eras of fMRIPrep and in all spaces."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.bids.confounds import read_confounds
from kraken_bids.bids.image_files import check_image, header_repetition_time
from kraken_bids.bids.inputs import plan_sessions
from kraken_bids.bids.names import can_average, combined_entities
from kraken_bids.errors import InputError
from kraken_bids.interfaces.atlases import ResampleLabels, plain_label_source
from tests.conftest import write_image, write_json, write_transform

MNI6 = "MNI152NLin6Asym"
MNI2009C = "MNI152NLin2009cAsym"
SHAPE = (20, 20, 20)
#: LAS: the index of a voxel grows with ITK's x coordinate, 3 mm each.
AFFINE = np.diag([-3.0, 3.0, 3.0, 1.0])


@pytest.fixture(autouse=True)
def no_templateflow(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "templateflow"))


@pytest.fixture
def plan(study):
    def no_file(atlas, role):
        raise AssertionError((atlas, role))

    def run(**changes):
        return plan_sessions(study.settings(**changes), atlas_file=no_file)

    return run


def only(items):
    assert len(items) == 1, items
    return items[0]


def texts(session):
    return "\n".join(str(problem) for problem in session.problems)


# ---------------------------------------------------------------- naming eras


@dataclass(frozen=True)
class Era:
    """How versions of fMRIPrep name what lies beside a series."""

    version: str
    coregistration: str = "from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt"
    confounds: str = "timeseries"
    compcor: tuple[str, str] = ("w_comp_cor_00", "c_comp_cor_00")
    head_motion: str = "from-orig_to-boldref_mode-image_desc-hmc_xfm.txt"
    has_functional_segmentation: bool = False


OLD = "from-scanner_to-T1w_mode-image_xfm.txt"
ERAS = (
    Era("20.1.3", OLD, "regressors", ("a_comp_cor_05", "a_comp_cor_00"), "", True),
    Era("20.2.7", OLD, "timeseries", ("a_comp_cor_05", "a_comp_cor_00"), "", True),
    Era("21.0.4", OLD, head_motion="", has_functional_segmentation=True),
    Era("23.1.4", OLD, head_motion="", has_functional_segmentation=True),
    Era("23.2.3"),
    Era("25.2.4"),
)
#: Names of a series by space; voxels that labels in T1w and in MNI6 move to reach it.
SPACES = {
    "space-T1w": (0, 1),
    "": (2, 3),
    f"space-{MNI6}": (-1, 0),
    f"space-{MNI6}_res-2": (-1, 0),
    f"space-{MNI2009C}": (-2, -1),
    f"space-{MNI2009C}_res-2": (-2, -1),
}


def save(values, path):
    nib.Nifti1Image(values, AFFINE).to_filename(path)
    return path


def in_brain(values):
    """Values, repeated, in the 10³ voxels of the brain."""
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[5:15, 5:15, 5:15] = np.resize(values, (10, 10, 10))
    return labels


def write_era(study, era, space):
    """One participant with one run, in the names of an era; transforms are shifts."""
    anat = study.add_anatomy(templates=())
    codes = [region.code for region in load_atlas("fs86").regions]
    save(in_brain(codes), anat / "sub-01_desc-aparcaseg_dseg.nii.gz")
    for template, shift_mm in ((MNI6, 3.0), (MNI2009C, 6.0)):
        for way, shift in ((("T1w", template), shift_mm), ((template, "T1w"), -shift_mm)):
            name = f"sub-01_from-{way[0]}_to-{way[1]}_mode-image_xfm.h5"
            write_transform(anat / name, shift_mm=shift)
    func = study.add_bold(spaces=[space])
    stem = "sub-01_task-rest"
    grid = "_".join(part for part in (stem, space) if part)
    save(np.ones((*SHAPE, 5), dtype=np.int16), func / f"{grid}_desc-preproc_bold.nii.gz")
    save(np.ones(SHAPE, dtype=np.uint8), func / f"{grid}_desc-brain_mask.nii.gz")
    (func / f"{stem}_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt").unlink()
    write_transform(func / f"{stem}_{era.coregistration}", shift_mm=6.0)
    if era.head_motion:
        write_transform(func / f"{stem}_{era.head_motion}", shift_mm=50.0)
        save(np.ones(SHAPE, dtype=np.uint8), func / f"{stem}_desc-brain_mask.nii.gz")
    if era.has_functional_segmentation and space:
        # on another grid than the anatomical one, cut to the functional field of view
        write_image(func / f"{grid}_desc-aparcaseg_dseg.nii.gz")
    _write_confounds(func / f"{stem}_desc-confounds_{era.confounds}.tsv", era)
    root = study.root / "derivatives" / "fmriprep"
    write_json(
        root / "dataset_description.json",
        {"Name": "fMRIPrep", "GeneratedBy": [{"Name": "fMRIPrep", "Version": era.version}]},
    )


def _write_confounds(path, era):
    for old in path.parent.glob("*_desc-confounds_timeseries.*"):
        old.unlink()
    motion = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]
    rows = [[*motion, *era.compcor], *[["0.0"] * 6 + ["1.0", "2.0"]] * 5]
    path.write_text("\n".join("\t".join(row) for row in rows) + "\n")
    masks = zip(era.compcor, ("WM", "CSF"), strict=True)
    write_json(
        path.with_suffix(".json"),
        {name: {"Method": "aCompCor", "Mask": mask, "Retained": True} for name, mask in masks},
    )


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space or "native")
@pytest.mark.parametrize("era", ERAS, ids=lambda era: era.version)
def test_labels_reach_the_series_of_every_era_and_space(
    study, plan, tmp_path, monkeypatch, era, space
):
    write_era(study, era, space)
    template = save(in_brain(np.arange(1, 269)), tmp_path / "shen.nii.gz")
    session = only(plan(atlases=("fs86", "shen268"), atlas_files=(("shen268", template),)))
    assert not session.problems
    run = only(session.functional)
    assert run.bold_file.name.startswith(f"sub-01_task-rest_{space}_".replace("__", "_"))
    assert run.mask_file.name == run.bold_file.name.replace("preproc_bold", "brain_mask")
    assert run.confounds_file.name.endswith(f"confounds_{era.confounds}.tsv")
    table = read_confounds(
        run.confounds_file, sidecar_file=run.confounds_sidecar, n_volumes=5,
        bold_file=run.bold_file,
    )  # fmt: skip
    assert [table.compcor(tissue)[0, 0] for tissue in ("WM", "CSF")] == [1.0, 2.0]

    (tmp_path / "node").mkdir()
    monkeypatch.chdir(tmp_path / "node")
    outputs = ResampleLabels(
        label_sources=[plain_label_source(source) for source in run.labels],
        reference_file=str(run.bold_file),
        mask_file=str(run.mask_file),
        reference_space=run.space,
    ).run().outputs  # fmt: skip
    expected = (in_brain(np.arange(1, 87)), in_brain(np.arange(1, 269)))
    for file, labels, moved in zip(outputs.labels_files, expected, SPACES[space], strict=True):
        found = np.asanyarray(nib.load(file).dataobj)
        np.testing.assert_array_equal(found, np.roll(labels, moved, axis=0))


# ------------------------------------------------------------------- variants


VARIANTS = (
    "task-rest_acq-mb_run-1",
    "task-rest_acq-mb_run-2",
    "task-rest_acq-sb_run-1",
    "task-rest_ce-gd",
    "task-rest_rec-moco",
    "task-rest_dir-AP_run-1",
    "task-rest_dir-PA_run-1",
    "task-nback_part-mag",
)


def test_every_entity_of_a_variant_is_kept(study, plan):
    study.add_anatomy()
    for source in VARIANTS:
        study.add_bold(source=source, spaces=[""])
    session = only(plan())
    assert not session.problems
    names = {"_".join("-".join(pair) for pair in run.entities) for run in session.functional}
    assert names == {f"sub-01_{source}" for source in VARIANTS}
    for run in session.functional:
        files = [
            run.mask_file,
            run.confounds_file,
            *(step.file for step in run.labels[0].transforms),
        ]
        stem = "_".join("-".join(pair) for pair in run.entities)
        assert all(file.name.startswith(stem) for file in files)


def test_a_run_without_label_does_not_lend_its_coregistration(study, plan):
    study.add_anatomy()
    study.add_bold(source="task-rest", spaces=[""])
    study.add_bold(source="task-rest_run-2", spaces=[""])
    for run in only(plan()).functional:
        labels = only(run.labels)
        assert ("run-2" in only(labels.transforms).file.name) == ("run" in dict(run.entities))


def test_single_echoes_without_combination_use_what_is_written_for_all(study, plan):
    study.add_anatomy()
    func = study.add_bold(spaces=["", "space-T1w"])
    for file in sorted(func.glob("*space-T1w*")):
        file.unlink()
    for ending in ("nii.gz", "json"):
        name = f"desc-preproc_bold.{ending}"
        (func / f"sub-01_task-rest_{name}").rename(func / f"sub-01_task-rest_echo-2_{name}")
    session = only(plan())
    run = only(session.functional)
    assert dict(run.entities)["echo"] == "2"
    assert run.confounds_file.name == "sub-01_task-rest_desc-confounds_timeseries.tsv"
    assert only(only(run.labels).transforms).file.name.startswith("sub-01_task-rest_from-boldref")
    assert not session.problems


def test_runs_of_a_task_are_taken_in_one_space(study, plan):
    study.add_anatomy()
    study.add_bold(source="task-rest_run-1", spaces=["space-T1w", f"space-{MNI6}_res-2"])
    study.add_bold(source="task-rest_run-2", spaces=["space-T1w"])
    session = only(plan())
    assert [run.space for run in session.functional] == ["T1w", "T1w"]
    assert not session.problems


def test_a_run_in_another_space_than_the_others_is_told(study, plan):
    study.add_anatomy()
    study.add_bold(source="task-rest_run-1", spaces=["space-T1w"])
    study.add_bold(source="task-rest_run-2", spaces=[f"space-{MNI6}_res-02"])
    session = only(plan())
    assert [run.space for run in session.functional] == [MNI6]
    assert "sub-01_task-rest_run-1 is not there in space MNI152NLin6Asym_02" in texts(session)
    assert "--bids-filter-file" in texts(session)


@pytest.mark.parametrize("resolution", ["res-2", "res-02"])
def test_two_millimetres_are_preferred_however_written(study, plan, resolution):
    study.add_anatomy()
    study.add_bold(spaces=[f"space-{MNI6}_res-1", f"space-{MNI6}_{resolution}", f"space-{MNI6}"])
    run = only(only(plan()).functional)
    assert f"res-{run.resolution}" == resolution


def test_a_run_that_has_the_name_of_the_average_is_told(study, plan):
    study.add_anatomy()
    study.add_bold(source="task-rest")
    study.add_bold(source="task-rest_run-2")
    session = only(plan())
    assert len(session.functional) == 2
    message = texts(session)
    assert "sub-01_task-rest and sub-01_task-rest_run-2 are not averaged" in message
    assert "Give every run of a task a run- label" in message
    assert not can_average([run.entities for run in session.functional])


def test_average_has_a_name_that_no_run_has():
    runs = [(("task", "rest"), ("run", label)) for label in "12"]
    assert can_average(runs)
    assert combined_entities(runs[0]) not in runs
    assert not can_average(runs[:1])
    assert not can_average([*runs, (("task", "rest"),)])


def test_series_whose_outputs_would_share_a_name_are_told(study, plan):
    study.add_anatomy()
    study.add_bold(source="task-rest")
    study.add_bold(source="task-rest_site-B")
    session = only(plan())
    assert len(session.functional) == 1
    assert re.search(
        r"task-rest_space-T1w_desc-preproc_bold.nii.gz.* is left out|"
        r"site-B_space-T1w_desc-preproc_bold.nii.gz is left out: its outputs would have the names",
        texts(session),
    )


def test_runs_on_surfaces_only_are_told_beside_others(study, plan):
    study.add_anatomy()
    func = study.add_bold(source="task-rest")
    for name in ("task-rest_space-fsLR_den-91k", "task-nback_space-fsLR_den-91k"):
        (func / f"sub-01_{name}_bold.dtseries.nii").write_bytes(b"x")
    (func / "sub-01_task-nback_hemi-L_space-fsaverage_bold.func.gii").write_bytes(b"x")
    session = only(plan())
    assert len(session.functional) == 1
    problem = str(only(session.problems))
    assert "sub-01_task-nback has BOLD series on surfaces only" in problem
    assert "--output-spaces MNI152NLin6Asym:res-2" in problem
    assert not only(plan(tasks=("rest",))).problems


# --------------------------------------------------------------- whole images


def cut(path, keep):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def noise(path, n_volumes=6):
    rng = np.random.default_rng(5)
    values = rng.integers(0, 1000, (8, 8, 8, n_volumes)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, AFFINE), path)
    return path


@pytest.mark.parametrize("name", ["bold.nii.gz", "bold.nii"])
@pytest.mark.parametrize("keep", [0.3, 0.7, 0.999])
def test_an_image_that_is_cut_short_is_told(tmp_path, name, keep):
    path = noise(tmp_path / name)
    check_image(path)
    with pytest.raises(
        InputError, match=r"cut short or damaged: its header promises 8 x 8 x 8 x 6 values"
    ):
        check_image(cut(path, keep))


@pytest.mark.parametrize("keep", [0.002, 0.01])
def test_an_image_without_whole_header_is_told(tmp_path, keep):
    with pytest.raises(InputError, match="header cannot be read"):
        check_image(cut(noise(tmp_path / "bold.nii.gz"), keep))


def test_an_image_of_several_gzip_members_is_whole(tmp_path):
    path = noise(tmp_path / "bold.nii.gz")
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]))
    check_image(path)
    with pytest.raises(InputError, match="cut short"):
        check_image(cut(path, 0.8))


def test_an_image_with_more_than_its_values_is_whole(tmp_path):
    path = noise(tmp_path / "bold.nii.gz")
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"more"))
    check_image(path)


def test_what_is_no_volume_is_told(tmp_path):
    path = tmp_path / "bold.nii.gz"
    path.write_bytes(b"no image at all")
    with pytest.raises(InputError, match="header cannot be read"):
        check_image(path)


def test_repetition_time_is_read_in_seconds(tmp_path):
    assert header_repetition_time(write_image(tmp_path / "bold.nii.gz", 3, tr_s=0.72)) == 0.72
    image = nib.load(write_image(tmp_path / "other.nii.gz", 3, tr_s=800.0))
    image.header.set_xyzt_units("mm", "msec")
    nib.save(image, tmp_path / "milliseconds.nii.gz")
    assert header_repetition_time(tmp_path / "milliseconds.nii.gz") == 0.8
    assert header_repetition_time(write_image(tmp_path / "mask.nii.gz")) == 0.0


def test_a_series_cut_short_costs_its_run_only(study, plan):
    study.add_anatomy()
    for number in (1, 2):
        func = study.add_bold(source=f"task-rest_run-{number}")
    cut(func / "sub-01_task-rest_run-2_space-T1w_desc-preproc_bold.nii.gz", 0.6)
    session = only(plan())
    assert [dict(run.entities)["run"] for run in session.functional] == ["1"]
    assert "is cut short" in str(only(session.problems))


def test_a_damaged_series_gives_way_to_another_space(study, plan, caplog):
    study.add_anatomy()
    func = study.add_bold(spaces=["space-T1w", f"space-{MNI6}_res-2"])
    cut(func / f"sub-01_task-rest_space-{MNI6}_res-2_desc-preproc_bold.nii.gz", 0.6)
    session = only(plan())
    assert (only(session.functional).space, session.problems) == ("T1w", ())
    assert "taken in another space" in caplog.text
    assert "cut short" in caplog.text
