# SPDX-License-Identifier: MIT
"""Series of XCP-D: found, judged by what it wrote of them, and refused or marked."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from kraken_bids.bids.inputs import plan_sessions
from kraken_bids.bids.xcp_d import cutoffs, processing, read_left_out, read_motion
from kraken_bids.errors import InputError, UsageError
from kraken_bids.settings import FunctionalOptions
from tests.conftest import write_image, write_json

MNI6 = "MNI152NLin6Asym"
HIGH = {"High-pass filter": {"cutoff (Hz)": 0.01, "Filter order": 2}}
LOW = {"Low-pass filter": {"cutoff (Hz)": 0.08, "Filter order": 2}}
BAND = {
    "Bandpass filter": {
        "Low-pass cutoff (Hz)": 0.08,
        "High-pass cutoff (Hz)": 0.01,
        "Filter order": 2,
    }
}
ENDINGS = ("", "_derivative1", "_power2", "_derivative1_power2")
MOTION = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]


@pytest.fixture(autouse=True)
def no_templateflow(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "templateflow"))


def only(items):
    assert len(items) == 1, items
    return items[0]


def texts(session):
    return "\n".join(str(problem) for problem in session.problems)


def write_table(path, columns, rows):
    lines = ["\t".join(columns), *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def denoised(study):
    """Add a series of XCP-D, with fMRIPrep's outputs behind it."""

    def add(
        source="task-rest",
        *,
        space=f"space-{MNI6}_res-2",
        filters=HIGH,
        confounds="acompcor",
        design=("trans_x", "w_comp_cor_00", "intercept"),
        flags=(0,) * 10,
    ):
        study.add_anatomy()
        study.add_bold(source=source, spaces=[space])
        root = study.derivative("xcp_d", "XCP-D", "26.1.1")
        func = root / "sub-01" / "func"
        stem = func / f"sub-01_{source}"
        write_image(func / f"{stem.name}_{space}_desc-denoised_bold.nii.gz", 10)
        sidecar = {"RepetitionTime": 2.0, "SoftwareFilters": filters}
        sidecar["NuisanceParameters"] = confounds
        write_json(func / f"{stem.name}_{space}_desc-denoised_bold.json", sidecar)
        if design:
            path = func / f"{stem.name}_desc-preproc_design.tsv"
            write_table(path, design, [[0.5] * len(design)] * 10)
        write_table(
            func / f"{stem.name}_outliers.tsv", ["framewise_displacement"], [[f] for f in flags]
        )
        write_table(func / f"{stem.name}_motion.tsv", MOTION, [[0.1] * 6] * 10)
        return root

    return add


@pytest.fixture
def plan(study):
    def run(root, **changes):
        settings = study.settings(derivatives=(("xcp_d", root),), modalities=("func",), **changes)
        return plan_sessions(settings, atlas_file=lambda atlas, role: None)

    return run


@pytest.mark.parametrize(
    "space", [f"space-{MNI6}_res-2", f"space-{MNI6}", "space-MNI152NLin2009cAsym_res-2"]
)
def test_a_series_that_fits_is_taken_with_masks_and_labels_of_fmriprep(
    study, denoised, plan, space
):
    root = denoised(space=space)
    if "2009c" in space:
        study.add_anatomy(templates=["MNI152NLin2009cAsym"])
    session = only(plan(root))
    run = only(session.functional)
    assert not session.problems
    assert run.bold_file.name == f"sub-01_task-rest_{space}_desc-denoised_bold.nii.gz"
    assert run.bold_file.parent == root / "sub-01" / "func"
    assert run.mask_file.name == f"sub-01_task-rest_{space}_desc-brain_mask.nii.gz"
    assert "fmriprep" in str(run.mask_file)
    assert (run.variant, run.mark, run.n_regressors) == ("hpf", "", 2)
    assert (run.high_pass_hz, run.repetition_time_s) == (0.01, 2.0)
    assert run.denoised_by == "XCP-D: confounds acompcor, high-pass 0.01 Hz"
    assert run.outliers_file == root / "sub-01" / "func" / "sub-01_task-rest_outliers.tsv"
    assert [source.atlas for source in run.labels] == ["fs86"]


MISFITS = {
    "low-pass": ({"filters": BAND}, "low-pass filtered at 0.08 Hz"),
    "no high-pass": ({"filters": None}, "not high-pass filtered"),
    "other high-pass": (
        {"filters": {"High-pass filter": {"cutoff (Hz)": 0.1}}},
        "high-pass filtered at 0.1 Hz, not at 0.01 Hz",
    ),
    "censored": (
        {"flags": (0, 1, 1, *[0] * 9)},
        "2 of its volumes were censored or interpolated",
    ),
    "no confounds": ({"confounds": "none"}, "no confounds were regressed"),
}


@pytest.mark.parametrize(("changes", "told"), MISFITS.values(), ids=MISFITS)
def test_a_series_that_does_not_fit_is_refused_unless_forced(denoised, plan, changes, told):
    root = denoised(**changes)
    session = only(plan(root))
    assert session.functional == ()
    problem = str(only(session.problems))
    assert told in problem
    assert "--lower-bpf 0.01 --upper-bpf 0" in problem
    assert "--force" in problem
    session = only(plan(root, force=True))
    assert only(session.functional).mark == "xcpd"
    assert not session.problems


def test_a_series_without_sidecar_is_refused(denoised, plan):
    root = denoised()
    next(root.rglob("*_desc-denoised_bold.json")).unlink()
    assert "does not say how it was filtered" in texts(only(plan(root)))


@pytest.mark.parametrize(
    ("confounds", "design", "variant"),
    [
        ("acompcor_gsr", (), "hpfgsr"),
        ("mine", ("trans_x", "global_signal"), "hpfgsr"),
        ("mine", ("trans_x", "csf"), "hpf"),
        ("24P", (), "hpf"),
    ],
)
def test_the_global_signal_decides_the_flavor(denoised, plan, confounds, design, variant):
    root = denoised(confounds=confounds, design=design)
    assert only(only(plan(root)).functional).variant == variant


def test_unknown_confounds_without_design_are_refused(denoised, plan):
    message = texts(only(plan(denoised(confounds="mine", design=()), force=True)))
    assert "nothing tells whether the global signal was regressed" in message


def test_runs_are_averaged_not_their_concatenation(denoised, plan):
    for source in ("task-rest_run-1", "task-rest_run-2", "task-rest"):
        root = denoised(source)
    session = only(plan(root))
    assert [dict(run.entities).get("run") for run in session.functional] == ["1", "2"]
    assert not session.problems


def test_cifti_of_xcp_d_is_told_with_its_own_remedy(denoised, plan):
    root = denoised()
    for path in sorted(root.rglob("*_desc-denoised_bold.nii.gz")):
        path.rename(path.with_name(path.name.replace(".nii.gz", ".dtseries.nii")))
    assert "--file-format nifti" in texts(only(plan(root)))


def test_xcp_d_that_was_not_named_changes_nothing(study, denoised):
    root = denoised()
    write_image(root / "sub-01" / "anat" / f"sub-01_space-{MNI6}_desc-preproc_T1w.nii.gz")
    xfm = root / "sub-01" / "anat" / f"sub-01_from-T1w_to-{MNI6}_mode-image_xfm.h5"
    xfm.write_bytes(b"x")
    sessions = plan_sessions(study.settings(), atlas_file=lambda atlas, role: None)
    run = only(only(sessions).functional)
    assert (run.denoised_by, run.bold_file.name.endswith("preproc_bold.nii.gz")) == ("", True)


def test_another_denoising_cannot_be_asked_for(denoised, plan):
    with pytest.raises(UsageError, match="XCP-D's series are denoised already"):
        plan(denoised(), functional=FunctionalOptions(denoising="simple"))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [(HIGH, (0.0, 0.01)), (LOW, (0.08, 0.0)), (BAND, (0.08, 0.01)), (None, (0.0, 0.0))],
)
def test_cutoffs_are_read(filters, expected):
    assert cutoffs(filters) == expected


@pytest.mark.parametrize(
    ("filters", "confounds", "expected"),
    [(HIGH, "acompcor", "hpf"), (BAND, "36P", "bpfgsr"), (LOW, "24P", ""), (HIGH, "mine", "")],
)
def test_flavors_are_told_by_filters_and_confounds(filters, confounds, expected):
    assert processing({"SoftwareFilters": filters, "NuisanceParameters": confounds}) == expected


@pytest.mark.parametrize(
    ("name", "n_columns", "variant"),
    [("xcp_d_confounds", 34, "hpf"), ("xcp_d_confounds_gsr", 36, "hpfgsr")],
)
def test_confounds_that_are_shipped_fit(denoised, plan, name, n_columns, variant):
    text = (Path(__file__).parents[2] / "containers" / f"{name}.yml").read_text()
    asked = re.findall(r"^ +- (\S+)$", text, re.MULTILINE)
    columns = [f"{name}{ending}" for name in MOTION for ending in ENDINGS]
    columns += [f"{tissue}_comp_cor_{number:02d}" for tissue in "wc" for number in range(8)]
    columns += ["global_signal", "global_signal_derivative1", "csf", "cosine00"]
    taken = [name for name in columns if any(re.fullmatch(item, name) for item in asked)]
    assert len(taken) == n_columns
    session = only(plan(denoised(confounds=f"{name}.yml", design=(*taken, "intercept"))))
    run = only(session.functional)
    assert (run.variant, run.mark, run.n_regressors) == (variant, "", n_columns)


class TestTables:
    @pytest.fixture
    def outliers(self, tmp_path):
        path = tmp_path / "sub-01_outliers.tsv"
        write_table(path, ["framewise_displacement"], [[0], [1], [0], [0]])
        return path

    def test_flagged_volumes_of_an_interpolated_series_are_left_out(self, outliers):
        flags = read_left_out(outliers, n_volumes=4, bold_file=outliers)
        assert flags.tolist() == [False, True, False, False]

    def test_a_censored_series_has_lost_them(self, outliers):
        assert not read_left_out(outliers, n_volumes=3, bold_file=outliers).any()

    def test_a_table_of_another_run_is_refused(self, outliers):
        with pytest.raises(InputError, match="4 rows, 3 of them kept, the image has 9 volumes"):
            read_left_out(outliers, n_volumes=9, bold_file=outliers)

    def test_without_table_all_are_kept(self, tmp_path):
        assert not read_left_out(None, n_volumes=5, bold_file=tmp_path).any()

    def test_motion_is_read_where_it_is_whole(self, tmp_path):
        path = tmp_path / "sub-01_motion.tsv"
        write_table(path, ["framewise_displacement", *MOTION], [[0, 1, 2, 3, 4, 5, 6]] * 3)
        motion = read_motion(path, n_volumes=3)
        assert motion is not None
        np.testing.assert_array_equal(motion, [[1, 2, 3, 4, 5, 6]] * 3)
        assert read_motion(path, n_volumes=4) is None
        write_table(path, ["framewise_displacement"], [[0]] * 3)
        assert read_motion(path, n_volumes=3) is None
