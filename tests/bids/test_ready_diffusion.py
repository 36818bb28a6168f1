# SPDX-License-Identifier: MIT
"""FODs of QSIRecon and tractograms of other programs, from the files to the plan."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from kraken_bids.bids.inputs import plan_sessions
from kraken_bids.bids.ready_diffusion import NORMALISED, SINGLE_SHELL
from kraken_bids.errors import InputError

IFOD2_ACT = b"mrtrix tracks\nmethod: iFOD2\nact: 5tt.mif\ndatatype: Float32LE\nfile: . 99\nEND\n"
IFOD2 = IFOD2_ACT.replace(b"act: 5tt.mif\n", b"")
SDSTREAM = IFOD2.replace(b"iFOD2", b"SDStream")


@pytest.fixture
def plan(study):
    """Plan a participant-level run of the diffusion data."""

    def plan(**changes):
        return plan_sessions(
            study.settings(modalities=("dwi",), **changes),
            atlas_file=lambda atlas, role: Path(f"{atlas.name}-{role}.nii.gz"),
        )

    return plan


def add(folder: Path, name: str, content: bytes = b"not read by the planner") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def fod_folder(study, workflow="MRtrix3_act-HSVS") -> Path:
    study.derivative("qsirecon", "QSIRecon", "26.0.0")
    name = f"qsirecon/derivatives/qsirecon-{workflow}"
    return study.derivative(name, "QSIRecon", "26.0.0") / "sub-01" / "dwi"


def add_fod(study, model="msmtcsd", *, workflow="MRtrix3_act-HSVS", normalised=True) -> Path:
    folder, stem = fod_folder(study, workflow), "sub-01_space-ACPC"
    if normalised:
        add(folder, f"{stem}_model-mtnorm_param-norm_dwimap.nii.gz")
    for label in ("GM", "CSF"):
        add(folder, f"{stem}_model-{model}_param-fod_label-{label}_dwimap.mif.gz")
    return add(folder, f"{stem}_model-{model}_param-fod_label-WM_dwimap.mif.gz")


def without_series(study) -> None:
    """Leave of QSIPrep's outputs the anatomy and the mask."""
    for file in study.add_dwi().glob("*_dwi.*"):
        file.unlink()


def only(items):
    (item,) = items
    return item


def test_fods_are_taken_where_there_is_no_series(study, plan):
    study.add_anatomy()
    without_series(study)
    fod = add_fod(study)
    run = only(only(plan()).diffusion)
    assert (run.fod_file, run.dwi_file) == (fod, None)
    assert run.mask_file is not None
    assert NORMALISED in dict(run.notes)["fods_bias"]


def test_series_is_taken_before_fods(study, plan):
    study.add_anatomy()
    study.add_dwi()
    add_fod(study)
    run = only(only(plan()).diffusion)
    assert run.fod_file is None
    assert run.dwi_file is not None
    assert dict(run.notes) == {"ifod2act_five_tissue": "FreeSurfer labels"}


def test_bias_of_fods_is_that_of_their_making(study, plan):
    study.add_anatomy()
    without_series(study)
    add_fod(study, "ss3t", normalised=False)
    bias = dict(only(only(plan()).diffusion).notes)["fods_bias"]
    assert SINGLE_SHELL in bias
    assert NORMALISED not in bias


def test_fods_of_our_own_spec_are_preferred(study, plan):
    study.add_anatomy()
    without_series(study)
    add_fod(study)
    own = add_fod(study, workflow="Kraken_act-HSVS")
    assert only(only(plan()).diffusion).fod_file == own


def test_fods_without_a_mask_are_told(study, plan):
    study.add_anatomy()
    without_series(study)
    add_fod(study)
    only(study.root.rglob("dwi/*_desc-brain_mask.nii.gz")).unlink()
    session = only(plan())
    assert session.diffusion == ()
    assert "no brain mask for sub-01_space-ACPC_model-msmtcsd" in str(session.problems[0])


def given(study, tmp_path, *files: tuple[str, bytes], sidecar: dict | None = None):
    """Settings with a folder of tractograms."""
    root = tmp_path / "tracts"
    for name, content in files:
        add(root / Path(name).parent, Path(name).name, content)
    if sidecar:
        (root / "streamlines.json").write_text(json.dumps(sidecar))
    return {"derivatives": (("tractograms", root),)}


@pytest.mark.parametrize(
    ("name", "content", "sidecar", "algorithm"),
    [
        ("sub-01_model-ifod2_streamlines.trk", b"x", None, "ifod2act"),
        ("sub-01/dwi/sub-01_space-ACPC_desc-ifod2act_streamlines.tck", IFOD2_ACT, None,
         "ifod2act"),
        ("sub-01/sub-01_model-SDSTREAM_tractogram.trx", b"x", None, "sdstream"),
        ("sub-01_streamlines.tck", SDSTREAM, None, "sdstream"),
        ("sub-01_streamlines.tck.gz", gzip.compress(IFOD2_ACT, mtime=0), None, "ifod2act"),
        ("sub-01_streamlines.trk", b"x", {"Algorithm": "SD_STREAM"}, "sdstream"),
    ],
)  # fmt: skip
def test_algorithm_of_a_given_tractogram_is_found(
    study, plan, tmp_path, name, content, sidecar, algorithm
):
    study.add_anatomy()
    study.add_dwi()
    run = only(only(plan(**given(study, tmp_path, (name, content), sidecar=sidecar))).diffusion)
    assert dict(run.tractograms) == {algorithm: tmp_path / "tracts" / name}
    assert run.dwi_file is not None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("sub-01_streamlines.trk", b"x")], r"not iFOD2 or SD_STREAM for sure \(neither name"),
        ([("sub-01_model-probtrackx_streamlines.trk", b"x")], "for sure (probtrackx)"),
        ([("sub-01_model-ifod2_streamlines.tck", SDSTREAM)], "for sure (ifod2, SDStream)"),
        ([("sub-01_streamlines.tck", IFOD2)], "without anatomical constraints"),
        ([("sub-01_model-ifod2_streamlines.trk", b"x"),
          ("sub-01_model-ifod2_streamlines.trx", b"x")], "two tractograms of one scan"),
    ],
)  # fmt: skip
def test_tractogram_that_is_not_clear_is_told(study, plan, tmp_path, files, message):
    study.add_anatomy()
    study.add_dwi()
    session = only(plan(**given(study, tmp_path, *files)))
    text = " ".join(str(problem) for problem in session.problems)
    assert message.replace(r"\(", "(") in text


def test_streamlines_by_other_names_are_told(study, plan, tmp_path, caplog):
    study.add_anatomy()
    study.add_dwi()
    taken = ("sub-01_model-ifod2_streamlines.trk", b"x")
    plan(**given(study, tmp_path, taken))
    assert "left out" not in caplog.text
    run = only(only(plan(**given(
        study, tmp_path, ("sub-01/tracks_ifod2.tck", IFOD2_ACT), ("all.trx", b"x")
    ))).diffusion)  # fmt: skip
    assert dict(run.tractograms) == {"ifod2act": tmp_path / "tracts" / taken[0]}
    assert "2 file(s) of streamlines" in caplog.text
    assert "such as all.trx: names must be sub-X" in caplog.text


def test_given_tractogram_is_taken_before_that_of_qsirecon(study, plan, tmp_path):
    study.add_anatomy()
    study.add_dwi(source="dir-AP")
    study.add_tractogram(source="dir-AP")
    sdstream = study.add_tractogram(source="dir-AP", workflow="Kraken_act-None", model="sdstream")
    files = given(study, tmp_path, ("sub-01_streamlines.tck", IFOD2_ACT))
    run = only(only(plan(**files)).diffusion)
    assert dict(run.tractograms) == {
        "ifod2act": tmp_path / "tracts" / "sub-01_streamlines.tck",
        "sdstream": sdstream,
    }


def test_tractograms_without_qsiprep_are_in_native_space(study, plan, tmp_path):
    study.add_anatomy()
    files = given(study, tmp_path, ("sub-01_streamlines.tck", IFOD2_ACT))
    run = only(only(plan(**files)).diffusion)
    assert run.space == "T1w"
    assert run.mask_file.name == "sub-01_desc-brain_mask.nii.gz"
    assert only(run.labels).transforms == ()


def test_tractogram_in_another_space_than_its_series_is_told(study, plan, tmp_path):
    study.add_anatomy()
    study.add_dwi()
    files = given(study, tmp_path, ("sub-01_space-T1w_streamlines.tck", IFOD2_ACT))
    assert "in several spaces: ACPC, T1w" in str(only(plan(**files)).problems[0])


def test_folder_without_tractograms_is_told(study, plan, tmp_path):
    (tmp_path / "tracts").mkdir()
    with pytest.raises(InputError, match="there is no participant"):
        plan(derivatives=(("tractograms", tmp_path / "tracts"),))
