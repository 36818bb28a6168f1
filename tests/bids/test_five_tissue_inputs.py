# SPDX-License-Identifier: MIT
"""``--five-tissue``: from the files to the plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kraken_bids.bids.five_tissue_inputs import HSVS_FILES
from kraken_bids.bids.inputs import plan_sessions
from kraken_bids.errors import InputError, UsageError
from kraken_bids.settings import StructuralOptions


@pytest.fixture
def plan(study):
    """Plan a participant-level run of the diffusion data, tissues from a source."""

    def plan(source, **changes):
        settings = study.settings(modalities=("dwi",), **changes)
        return plan_sessions(
            replace(settings, structural=StructuralOptions(five_tissue=str(source))),
            atlas_file=lambda atlas, role: Path(f"{atlas.name}-{role}.nii.gz"),
        )

    return plan


def only(items):
    (item,) = items
    return item


def told(run) -> str:
    return dict(run.notes)["ifod2act_five_tissue"]


def add_subject(study, *, surfaces: bool) -> Path:
    """A FreeSurfer subject, with surfaces or without."""
    subject = study.root / "derivatives" / "freesurfer" / "sub-01"
    for name in HSVS_FILES if surfaces else HSVS_FILES[:1]:
        (subject / name).parent.mkdir(parents=True, exist_ok=True)
        (subject / name).write_bytes(b"not read by the planner")
    return subject


def add_t1w_mask(study) -> Path:
    anat = study.root / "derivatives" / "qsiprep" / "sub-01" / "anat"
    file = anat / "sub-01_space-ACPC_desc-brain_mask.nii.gz"
    file.write_bytes((anat / "sub-01_space-ACPC_desc-preproc_T1w.nii.gz").read_bytes())
    return file


def test_auto_takes_labels_before_maps_and_maps_can_be_asked_for(study, plan):
    study.add_anatomy()
    study.add_dwi()
    auto, labels, maps = (
        only(only(plan(source)).diffusion) for source in ("auto", "freesurfer", "maps")
    )
    assert told(auto) == told(labels) == "FreeSurfer labels"
    assert told(maps) == "tissue maps of QSIPrep"
    assert maps.tissues is None
    assert maps.segmentation == auto.segmentation == auto.tissues


def test_image_of_qsirecon_is_taken_unless_labels_are_asked_for(study, plan):
    study.add_anatomy()
    study.add_dwi()
    study.add_tractogram(model="sdstream")
    auto, hsvs, labels = (
        only(only(plan(source)).diffusion) for source in ("auto", "hsvs", "freesurfer")
    )
    assert told(auto) == told(hsvs) == "hsvs, made by QSIRecon"
    assert auto.five_tissue_file == hsvs.five_tissue_file
    assert labels.five_tissue_file is None
    assert told(labels) == "FreeSurfer labels"


def test_hsvs_is_made_from_surfaces_and_carried_to_acpc(study, plan):
    study.add_anatomy()
    study.add_dwi()
    subject = add_subject(study, surfaces=True)
    made = only(only(plan("hsvs")).diffusion).five_tissue_made
    assert made.algorithm == "hsvs"
    assert made.file == subject / "mri" / "aparc+aseg.mgz"
    assert [(step.source, step.target) for step in made.transforms] == [
        ("fsnative", "T1w"),
        ("T1w", "ACPC"),
    ]


def test_fsl_is_run_on_the_t1w_image_within_its_mask(study, plan):
    study.add_anatomy()
    study.add_dwi()
    mask = add_t1w_mask(study)
    run = only(only(plan("fsl")).diffusion)
    assert told(run) == "5ttgen fsl"
    assert run.five_tissue_made.file.name == "sub-01_space-ACPC_desc-preproc_T1w.nii.gz"
    assert run.five_tissue_made.mask_file == mask
    assert run.five_tissue_made.transforms == ()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hsvs", r"neither surfaces of FreeSurfer.*--five-tissue hsvs.*--fs-subjects-dir"),
        ("fsl", r"no T1w image and brain mask of QSIPrep.*--five-tissue fsl"),
        ("maps", r"no tissue maps of QSIPrep.*--five-tissue maps"),
    ],
)
def test_source_that_is_not_there_is_told_and_no_other_is_taken(study, plan, source, message):
    study.add_anatomy()
    study.add_dwi(probabilities=False)
    add_subject(study, surfaces=False)
    session = only(plan(source))
    assert session.diffusion == ()
    with pytest.raises(InputError, match=message):
        raise only(session.problems)


def test_given_image_is_that_of_the_participant(study, plan, tmp_path):
    for participant in ("01", "02"):
        study.add_anatomy(participant)
        study.add_dwi(participant)
    (tmp_path / "01_5tt.mif").write_bytes(b"not read by the planner")
    first, second = plan(tmp_path / "{participant}_5tt.mif")
    assert only(first.diffusion).five_tissue_file == tmp_path / "01_5tt.mif"
    assert told(only(first.diffusion)) == "given: 01_5tt.mif"
    assert second.diffusion == ()
    assert "sub-02 has no five-tissue image 02_5tt.mif" in str(only(second.problems))


def test_one_image_is_refused_for_two_participants(study, plan, tmp_path):
    for participant in ("01", "02"):
        study.add_anatomy(participant)
        study.add_dwi(participant)
    file = tmp_path / "5tt.nii.gz"
    file.write_bytes(b"not read by the planner")
    with pytest.raises(UsageError, match=r"one five-tissue image for 2 participants.*\{partici"):
        plan(file)
    session = only(plan(file, participants=("01",)))
    assert only(session.diffusion).five_tissue_file == file


def test_ready_ifod2_needs_no_tissues(study, plan):
    study.add_anatomy()
    study.add_dwi(probabilities=False)
    study.add_tractogram(model="ifod2")
    run = only(only(plan("fsl")).diffusion)
    assert run.notes == ()
    assert "ifod2act" in dict(run.tractograms)
