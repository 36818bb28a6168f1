# SPDX-License-Identifier: MIT
from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import re
import sys
from pathlib import Path

import pytest

from kraken_bids.bids.inputs import input_uris, pairing_table, plan_sessions, wanted_atlases
from kraken_bids.errors import InputError, Problems, ResourceError, UsageError
from kraken_bids.settings import FunctionalOptions

MNI6 = "MNI152NLin6Asym"
MNI2009C = "MNI152NLin2009cAsym"


@pytest.fixture(autouse=True)
def no_templateflow(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "templateflow"))


@pytest.fixture
def plan(study, tmp_path):
    """Plan with published images that lie in a folder of their own."""

    def atlas_file(atlas, role):
        path = tmp_path / "resources" / atlas.file(role).name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        return path

    def run(**changes):
        return plan_sessions(study.settings(**changes), atlas_file=atlas_file)

    return run


def only(items):
    assert len(items) == 1, items
    return items[0]


def texts(session):
    return "\n".join(str(problem) for problem in session.problems)


# ------------------------------------------------------------------ functional


def test_a_run_is_planned_with_all_that_lies_beside_it(study, plan):
    anat = study.add_anatomy()
    func = study.add_bold()
    session = only(plan())
    run = only(session.functional)
    stem = "sub-01_task-rest"
    assert (session.participant, session.session, session.problems) == ("01", None, ())
    assert run.entities == (("sub", "01"), ("task", "rest"))
    assert (run.space, run.resolution, run.repetition_time_s) == ("T1w", "", 2.0)
    assert run.bold_file == func / f"{stem}_space-T1w_desc-preproc_bold.nii.gz"
    assert run.mask_file == func / f"{stem}_space-T1w_desc-brain_mask.nii.gz"
    assert run.confounds_file == func / f"{stem}_desc-confounds_timeseries.tsv"
    assert run.confounds_sidecar == func / f"{stem}_desc-confounds_timeseries.json"
    labels = only(run.labels)
    assert (labels.atlas, labels.codes, labels.space) == ("fs86", "freesurfer", "T1w")
    assert labels.file == anat / "sub-01_desc-aparcaseg_dseg.nii.gz"
    assert labels.transforms == ()
    assert run.tissues is not None
    assert run.tissues.file == labels.file
    assert session.t1w_file == anat / "sub-01_desc-preproc_T1w.nii.gz"


@pytest.mark.parametrize(
    ("spaces", "chosen"),
    [
        (["space-T1w", f"space-{MNI6}_res-2"], (MNI6, "2")),
        ([f"space-{MNI6}_res-1", f"space-{MNI6}_res-2", f"space-{MNI6}"], (MNI6, "2")),
        ([f"space-{MNI6}_res-1", f"space-{MNI6}"], (MNI6, "")),
        ([f"space-{MNI2009C}", "space-T1w", ""], ("T1w", "")),
        ([f"space-{MNI2009C}", ""], (MNI2009C, "")),
        ([""], ("boldref", "")),
    ],
    ids=["MNI6 before T1w", "res-2 first", "native grid second", "T1w", "2009c", "native"],
)
def test_one_space_is_chosen_a_run(study, plan, spaces, chosen):
    study.add_anatomy(templates=(MNI6, MNI2009C))
    study.add_bold(spaces=spaces)
    run = only(only(plan()).functional)
    assert (run.space, run.resolution) == chosen
    assert re.search(chosen[0], run.mask_file.name) or chosen[0] == "boldref"


def test_template_atlases_need_no_transform_in_their_own_space(study, plan):
    study.add_anatomy()
    study.add_bold(spaces=[f"space-{MNI6}_res-2"])
    run = only(only(plan(atlases=("fs86", "shen268", "coco439"))).functional)
    steps = {source.atlas: source.transforms for source in run.labels}
    assert list(steps) == ["fs86", "shen268", "coco439"]
    assert steps["shen268"] == steps["coco439"] == ()
    step = only(steps["fs86"])
    assert step.file.name == f"sub-01_from-T1w_to-{MNI6}_mode-image_xfm.h5"
    assert (step.source, step.target, step.inverted) == ("T1w", MNI6, False)


def test_region_volumes_have_an_image_of_their_own_in_structural_plans_only(study, plan):
    study.add_anatomy()
    study.add_bold()
    study.add_dwi()
    session = only(plan(atlases=("coco439",)))
    assert only(only(session.functional).labels).volume_file is None
    assert only(only(session.diffusion).labels).volume_file is not None
    own = study.root / "own.nii.gz"
    session = only(plan(atlases=("coco439",), atlas_files=(("coco439", own),)))
    labels = only(only(session.diffusion).labels)
    assert (labels.file, labels.volume_file) == (own, None)


def test_native_bold_is_reached_over_the_inverse_of_its_coregistration(study, plan):
    study.add_anatomy()
    study.add_bold(spaces=[""])
    run = only(only(plan(atlases=("shen268",))).functional)
    first, second = only(run.labels).transforms
    assert (first.source, first.target) == (MNI6, "T1w")
    assert (second.source, second.target, second.inverted) == ("T1w", "boldref", True)


def test_coregistration_of_another_run_is_not_used(study, plan):
    study.add_anatomy()
    func = study.add_bold(source="task-rest_run-1", spaces=[""])
    study.add_bold(source="task-rest_run-2", spaces=[""])
    for file in func.glob("*run-2*xfm.txt"):
        file.unlink()
    session = only(plan())
    assert [dict(run.entities)["run"] for run in session.functional] == ["1"]
    assert "from-boldref_to-T1w" in texts(session)


def test_names_of_fmriprep_20_are_understood(study, plan):
    study.add_anatomy()
    func = study.add_bold(spaces=[""], coreg="scanner")
    (func / "sub-01_task-rest_desc-confounds_timeseries.tsv").rename(
        func / "sub-01_task-rest_desc-confounds_regressors.tsv"
    )
    session = only(plan())
    assert only(session.functional).confounds_file.name.endswith("confounds_regressors.tsv")
    assert not session.problems


def test_a_space_without_way_for_an_atlas_gives_way_to_one_with(study, plan):
    study.add_anatomy(templates=())
    study.add_bold(spaces=["space-T1w", f"space-{MNI6}_res-2"])
    run = only(only(plan(atlases=("shen268",), functional=COLUMNS)).functional)
    assert run.space == MNI6
    session = only(plan(atlases=("fs86",)))
    assert only(session.functional).space == "T1w"
    assert not session.problems


COLUMNS = FunctionalOptions(compcor="columns", gsr_source="global_signal")


def test_a_missing_transform_is_told_with_its_name_and_place(study, plan):
    study.add_anatomy(templates=())
    study.add_bold()
    session = only(plan(atlases=("fs86", "shen268")))
    assert [source.atlas for source in only(session.functional).labels] == ["fs86"]
    message = texts(session)
    assert f"sub-01_from-{MNI6}_to-T1w_mode-image_xfm.h5 (fMRIPrep) not found" in message
    assert str(study.root / "derivatives" / "fmriprep" / "sub-01") in message
    assert f"--output-spaces {MNI6}:res-2" in message


def test_transforms_between_templates_are_taken_from_templateflow(study, plan, tmp_path):
    study.add_anatomy(templates=(MNI2009C,))
    study.add_bold(spaces=[f"space-{MNI2009C}"])
    folder = tmp_path / "templateflow" / f"tpl-{MNI2009C}"
    folder.mkdir(parents=True)
    bridge = folder / f"tpl-{MNI2009C}_from-{MNI6}_mode-image_xfm.h5"
    bridge.touch()
    assert "no transform leads" in texts(only(plan(atlases=("shen268",))))
    bridge.write_bytes(b"x")
    run = only(only(plan(atlases=("shen268",))).functional)
    assert [step.file for step in only(run.labels).transforms] == [bridge]


def test_confounds_are_matched_by_all_entities(study, plan):
    study.add_anatomy()
    func = study.add_bold(source="task-rest_acq-mb_dir-AP")
    study.add_bold(source="task-rest_acq-mb_dir-PA")
    (func / "sub-01_task-rest_acq-mb_dir-AP_desc-confounds_timeseries.tsv").unlink()
    session = only(plan())
    assert dict(only(session.functional).entities)["dir"] == "PA"
    assert re.search(
        r"sub-01_task-rest_acq-mb_dir-AP_desc-confounds_timeseries.tsv not found .*"
        r"there is sub-01_task-rest_acq-mb_dir-PA_desc-confounds_timeseries.tsv",
        texts(session),
    )


def test_a_missing_mask_is_told(study, plan):
    study.add_anatomy()
    func = study.add_bold()
    (func / "sub-01_task-rest_space-T1w_desc-brain_mask.nii.gz").unlink()
    session = only(plan())
    assert session.functional == ()
    assert "sub-01_task-rest_space-T1w_desc-brain_mask.nii.gz not found" in texts(session)
    assert "run fMRIPrep again" in texts(session)


def test_single_echoes_are_left_out_where_their_combination_is(study, plan):
    study.add_anatomy()
    study.add_bold()
    study.add_bold(source="task-rest_echo-1")
    run = only(only(plan()).functional)
    assert "echo" not in dict(run.entities)


def test_repetition_time_is_inherited(study, plan):
    study.add_anatomy()
    func = study.add_bold()
    (func / "sub-01_task-rest_space-T1w_desc-preproc_bold.json").unlink()
    root = study.root / "derivatives" / "fmriprep"
    (root / "task-rest_bold.json").write_text(
        json.dumps({"RepetitionTime": 0.8, "NumberOfVolumesDiscardedByScanner": 3})
    )
    run = only(only(plan()).functional)
    assert (run.repetition_time_s, run.n_dummy_discarded) == (0.8, 3)


def test_repetition_time_comes_from_the_header_without_a_sidecar(study, plan):
    study.add_anatomy()
    func = study.add_bold()
    (func / "sub-01_task-rest_space-T1w_desc-preproc_bold.json").unlink()
    assert only(only(plan()).functional).repetition_time_s == 2.0


def test_a_repetition_time_in_milliseconds_is_refused(study, plan):
    study.add_anatomy()
    func = study.add_bold()
    sidecar = func / "sub-01_task-rest_space-T1w_desc-preproc_bold.json"
    sidecar.write_text(json.dumps({"RepetitionTime": 2000}))
    assert re.search(r"RepetitionTime says 2000 where seconds", texts(only(plan())))


def test_a_broken_sidecar_is_told(study, plan):
    study.add_anatomy()
    func = study.add_bold()
    (func / "sub-01_task-rest_space-T1w_desc-preproc_bold.json").write_text("{")
    assert "the sidecar cannot be read" in texts(only(plan()))


def test_links_to_content_elsewhere_and_empty_files_are_told(study, plan):
    study.add_anatomy()
    func = study.add_bold()
    bold = func / "sub-01_task-rest_space-T1w_desc-preproc_bold.nii.gz"
    bold.write_bytes(b"")
    assert "the file is empty" in texts(only(plan()))
    bold.unlink()
    bold.symlink_to(func / "annex" / "objects")
    assert "a link to content that is not here" in texts(only(plan()))


def test_cifti_only_outputs_are_told_as_such(study, plan):
    study.add_anatomy()
    func = study.add_bold(spaces=[])
    (func / "sub-01_task-rest_space-fsLR_den-91k_bold.dtseries.nii").write_bytes(b"x")
    assert "on surfaces only" in texts(only(plan()))


def test_minimal_outputs_are_told_as_such(study, plan):
    study.add_anatomy()
    study.add_bold(spaces=[])
    assert "--level minimal or resampling" in texts(only(plan()))


def test_tissue_masks_need_a_segmentation_unless_columns_are_used(study, plan):
    study.add_anatomy(segmented=False)
    study.add_bold()
    session = only(plan(atlases=("shen268",)))
    assert session.functional == ()
    assert "--compcor columns --gsr-source global_signal" in texts(session)
    assert only(plan(atlases=("shen268",), functional=COLUMNS)).functional


def test_no_segmentation_is_told(study, plan):
    study.add_anatomy(segmented=False)
    study.add_bold()
    session = only(plan(functional=COLUMNS))
    assert "no FreeSurfer segmentation for atlas 'fs86'" in texts(session)
    assert "--fs-subjects-dir" in texts(session)


def test_freesurfer_is_the_fall_back_of_the_segmentation(study, plan):
    anat = study.add_anatomy()
    study.add_bold()
    (anat / "sub-01_desc-aparcaseg_dseg.nii.gz").unlink()
    subject = study.add_freesurfer("sub-01")
    labels = only(only(only(plan()).functional).labels)
    assert labels.file == subject / "mri" / "aparc+aseg.mgz"
    assert only(labels.transforms).file.name.endswith("from-fsnative_to-T1w_mode-image_xfm.txt")


def test_freesurfer_subjects_that_are_not_done_are_left_out(study, plan, caplog):
    anat = study.add_anatomy()
    study.add_bold()
    (anat / "sub-01_desc-aparcaseg_dseg.nii.gz").unlink()
    scripts = study.add_freesurfer("sub-01") / "scripts"
    scripts.mkdir()
    (scripts / "IsRunning.lh+rh").touch()
    assert "no FreeSurfer segmentation" in texts(only(plan()))
    assert "FreeSurfer is not done" in caplog.text


def test_one_conformed_image_lies_in_native_space(study, plan):
    anat = study.add_anatomy(segmented=False)
    study.add_bold()
    study.add_freesurfer("01", n_inputs=1)
    labels = only(only(only(plan()).functional).labels)
    assert (labels.space, labels.transforms) == ("T1w", ())
    assert not list(anat.glob("*fsnative*"))


# ------------------------------------------------------------------- selection


def test_tasks_and_runs_are_selected(study, plan):
    study.add_anatomy()
    for source in ("task-rest_run-01", "task-rest_run-02", "task-nback"):
        study.add_bold(source=source)
    assert len(only(plan()).functional) == 3
    assert len(only(plan(tasks=("rest",))).functional) == 2
    assert dict(only(only(plan(tasks=("rest",), runs=("2",))).functional).entities)["run"] == "02"
    message = texts(only(plan(tasks=("movie",))))
    assert "task-nback, task-rest_run-01" in message
    assert "--task-id" in message


@pytest.mark.parametrize(
    ("filters", "n_runs"),
    [
        ({"task": ("rest",)}, 1),
        ({"acquisition": (None,)}, 1),
        ({"acquisition": ("*",)}, 1),
        ({"acq": ("mb", None)}, 2),
        ({"space": ("MNI152NLin6Asym",)}, 0),
    ],
    ids=["value", "absent", "present", "short name", "space"],
)
def test_filter_files_narrow_the_choice(study, plan, filters, n_runs):
    study.add_anatomy()
    study.add_bold(source="task-rest")
    study.add_bold(source="task-movie_acq-mb")
    found = only(plan(filters=(("bold", tuple(filters.items())),)))
    assert len(found.functional) == n_runs


def test_unknown_entities_of_a_filter_file_are_refused(study, plan):
    study.add_anatomy()
    study.add_bold()
    with pytest.raises(UsageError, match=r"'taks' of query 'bold'.*Did you mean 'task'"):
        plan(filters=(("bold", (("taks", ("rest",)),)),))


def test_unknown_participants_are_told_with_the_near_ones(study, plan):
    for label in ("control01", "control02"):
        study.add_bold(label)
    with pytest.raises(Problems, match=r"'contrl01'.*Did you mean control01"):
        plan(participants=("contrl01", "control02"))


def test_only_participants_asked_for_are_looked_at(study, plan):
    for label in ("01", "011", "02"):
        study.add_anatomy(label)
        study.add_bold(label)
    assert [session.participant for session in plan(participants=("01",))] == ["01"]
    assert [session.participant for session in plan()] == ["01", "011", "02"]


def test_folders_of_other_participants_are_not_listed(study, plan):
    for label in ("01", "02"):
        study.add_anatomy(label)
        study.add_bold(label)
        study.add_dwi(label)
    with listed_folders() as listed:
        assert only(plan(participants=("01",))).functional
    assert any("sub-01" in folder for folder in listed)
    assert not any("sub-02" in folder for folder in listed)


@contextlib.contextmanager
def listed_folders():
    """Folders that are listed meanwhile, as the interpreter's audit events tell."""
    listed, is_on = [], True

    def take_note(event, arguments):
        if is_on and event in {"os.scandir", "os.listdir"}:
            listed.append(str(arguments[0]))

    sys.addaudithook(take_note)
    yield listed
    is_on = False


def test_sessions_are_planned_one_by_one(study, plan):
    study.add_anatomy()
    for session in ("a", "b"):
        study.add_bold("01", session)
    sessions = plan()
    assert [session.label for session in sessions] == ["sub-01_ses-a", "sub-01_ses-b"]
    assert [session.session for session in plan(sessions=("b",))] == ["b"]
    message = texts(only(plan(sessions=("c",))))
    assert "has none of the sessions c; it has: a, b" in message


def test_anatomy_of_the_own_session_is_preferred(study, plan):
    for session in ("a", "b"):
        study.add_anatomy("01", session)
        study.add_bold("01", session)
    for session in plan():
        file = only(only(session.functional).labels).file
        assert f"ses-{session.session}_" in file.name


def test_the_one_anatomy_of_another_session_serves_all(study, plan):
    study.add_anatomy("01", "a")
    for session in ("a", "b"):
        study.add_bold("01", session)
    files = {only(only(session.functional).labels).file.name for session in plan()}
    assert files == {"sub-01_ses-a_desc-aparcaseg_dseg.nii.gz"}


def test_flavors_narrow_atlases_and_modalities(study):
    settings = study.settings(
        atlases=("fs86", "shen268"), flavors=("FCcorr_fs86_hpf", "FCpcorr_fs86_hpf")
    )
    assert wanted_atlases(settings) == {"func": ("fs86",)}


def test_nothing_left_to_compute_is_refused(study, plan):
    study.add_bold()
    with pytest.raises(UsageError, match="no connectome is left"):
        plan(modalities=("dwi",), flavors=("FCcorr_fs86_hpf",))


# ------------------------------------------------------------------- diffusion


def test_a_diffusion_series_is_planned_with_all_that_lies_beside_it(study, plan):
    study.add_anatomy()
    dwi = study.add_dwi()
    session = only(plan(modalities=("dwi",), atlases=("fs86", "shen268")))
    run = only(session.diffusion)
    stem = "sub-01_space-ACPC_desc"
    assert session.problems == ()
    assert run.entities == (("sub", "01"),)
    assert run.space == "ACPC"
    assert run.dwi_file == dwi / f"{stem}-preproc_dwi.nii.gz"
    assert run.bval_file == dwi / f"{stem}-preproc_dwi.bval"
    assert run.bvec_file == dwi / f"{stem}-preproc_dwi.bvec"
    assert run.mask_file == dwi / f"{stem}-brain_mask.nii.gz"
    assert [label for label, _ in run.probability_files] == ["GM", "WM", "CSF"]
    fs86, shen268 = run.labels
    assert [step.target for step in fs86.transforms] == ["ACPC"]
    assert [step.target for step in shen268.transforms] == ["T1w", "ACPC"]
    assert not any(step.inverted for step in (*fs86.transforms, *shen268.transforms))


@pytest.mark.parametrize(
    ("space", "native"),
    [
        ("T1w", "from-orig_to-T1w_mode-image_xfm.txt"),
        ("T1w", "from-T1wNative_to-T1wACPC_mode-image_xfm.mat"),
        ("ACPC", "from-anat_to-ACPC_mode-image_xfm.mat"),
        ("ACPC", "from-ACPC_to-anat_mode-image_xfm.mat"),
    ],
    ids=["0.21", "0.23", "26", "inverse only"],
)
def test_names_of_all_eras_of_qsiprep_are_understood(study, plan, space, native):
    study.add_anatomy()
    study.add_dwi(space=space, native=native)
    run = only(only(plan(modalities=("dwi",))).diffusion)
    step = only(only(run.labels).transforms)
    assert run.space == space
    assert (step.source, step.target) == ("T1w", "ACPC")
    assert step.inverted == native.startswith("from-ACPC")


def test_the_t1w_of_qsiprep_is_not_that_of_fmriprep(study, plan):
    study.add_anatomy()
    study.add_dwi(space="T1w", native="")
    session = only(plan(modalities=("dwi",)))
    assert session.diffusion == ()
    assert "from-anat_to-ACPC_mode-image_xfm.mat (QSIPrep) not found" in texts(session)


@pytest.mark.parametrize("ending", ["preproc_dwi.bval", "preproc_dwi.bvec", "brain_mask.nii.gz"])
def test_files_missing_beside_a_diffusion_series_are_told(study, plan, ending):
    study.add_anatomy()
    dwi = study.add_dwi()
    (dwi / f"sub-01_space-ACPC_desc-{ending}").unlink()
    session = only(plan(modalities=("dwi",)))
    assert session.diffusion == ()
    assert f"sub-01_space-ACPC_desc-{ending} not found" in texts(session)
    assert "run QSIPrep again" in texts(session)


def test_tracking_needs_tissues(study, plan):
    study.add_anatomy(segmented=False)
    study.add_dwi(probabilities=False)
    session = only(plan(modalities=("dwi",), atlases=("shen268",)))
    assert session.diffusion == ()
    assert "tracking with anatomical constraints needs tissues" in texts(session)


def test_tractograms_and_tissues_of_qsirecon_are_taken(study, plan):
    study.add_anatomy()
    study.add_dwi(source="dir-AP")
    fast = study.add_tractogram(source="dir-AP", workflow="MRtrix3_act-FAST")
    hsvs = study.add_tractogram(source="dir-AP", workflow="MRtrix3_act-HSVS")
    sdstream = study.add_tractogram(source="dir-AP", workflow="custom", model="sdstream")
    run = only(only(plan(modalities=("dwi",))).diffusion)
    assert dict(run.tractograms) == {"ifod2act": hsvs, "sdstream": sdstream}
    assert fast not in dict(run.tractograms).values()
    assert run.dwi_file is not None
    assert run.five_tissue_file is not None


def test_tractograms_without_constraints_are_left_out(study, plan, caplog):
    study.add_anatomy()
    study.add_dwi()
    study.add_tractogram(workflow="MRtrix3_act-None")
    assert only(only(plan(modalities=("dwi",))).diffusion).tractograms == ()
    assert "without anatomical constraints" in caplog.text


def test_a_tractogram_without_its_series_is_a_run(study, plan):
    study.add_anatomy()
    study.add_dwi()
    for file in (study.root / "derivatives/qsiprep/sub-01/dwi").iterdir():
        file.unlink()
    tractogram = study.add_tractogram()
    run = only(only(plan(modalities=("dwi",))).diffusion)
    assert run.dwi_file is None
    assert run.entities == (("sub", "01"),)
    assert dict(run.tractograms) == {"ifod2act": tractogram}


# ---------------------------------------------------------- absences, data sets


def test_a_lacking_modality_is_told_for_that_participant_only(study, plan):
    for label in ("01", "02"):
        study.add_anatomy(label)
        study.add_bold(label)
    study.add_dwi("01")
    first, second = plan()
    assert not first.problems
    assert second.functional
    message = texts(second)
    assert "sub-02 has no diffusion data: dwi/*_desc-preproc_dwi.nii.gz not found" in message
    assert "--modality func" in message
    assert "qsiprep/sub-02" in message


def test_a_lacking_modality_that_was_not_asked_for_is_none(study, plan):
    for label in ("01", "02"):
        study.add_anatomy(label)
        study.add_bold(label)
    study.add_dwi("01")
    assert not any(session.problems for session in plan(modalities=("func",)))


def test_modalities_scanned_in_different_sessions_are_no_problem(study, plan):
    study.add_anatomy()
    study.add_bold("01", "a")
    study.add_dwi("01", "b")
    sessions = plan()
    assert [bool(session.functional) for session in sessions] == [True, False]
    assert [bool(session.diffusion) for session in sessions] == [False, True]
    assert not any(session.problems for session in sessions)


def test_a_modality_without_data_set_is_a_note(study, plan, caplog):
    study.add_anatomy()
    study.add_bold()
    with caplog.at_level(logging.WARNING):
        assert not only(plan()).problems
    assert "no output of QSIPrep: no diffusion connectomes are computed" in caplog.text


def test_no_data_set_at_all_is_an_error(study, plan):
    with pytest.raises(InputError, match=r"no output of fMRIPrep or QSIPrep.*--derivatives"):
        plan()


def test_an_atlas_that_cannot_be_had_concerns_all(study):
    study.add_anatomy()
    study.add_bold()

    def unavailable(atlas, role):
        raise ResourceError(f"atlas '{atlas.name}' is not here", fix="Fetch it.")

    settings = study.settings(atlases=("fs86", "shen268", "coco439"))
    with pytest.raises(Problems, match=r"(?s)'shen268' is not here.*'coco439' is not here"):
        plan_sessions(settings, atlas_file=unavailable)
    settings = study.settings(atlases=("fs86",))
    assert only(plan_sessions(settings, atlas_file=unavailable)).functional


def test_an_index_is_kept_and_serves_other_participants(study, plan, tmp_path):
    for label in ("01", "02"):
        study.add_anatomy(label)
        study.add_bold(label)
    database = tmp_path / "index"
    for label in ("01", "02"):
        session = only(plan(participants=(label,), bids_database_dir=database))
        assert only(session.functional)
    assert len(list(database.iterdir())) == 1


def test_an_index_older_than_the_data_set_is_told(study, plan, tmp_path, caplog):
    study.add_anatomy()
    study.add_bold()
    database = tmp_path / "index"
    plan(bids_database_dir=database)
    study.add_anatomy("02")
    study.add_bold("02")
    assert only(plan(participants=("02",), bids_database_dir=database)).functional == ()
    assert "knows no file of sub-02; delete it" in caplog.text


def test_an_index_that_is_none_is_told(study, plan, tmp_path):
    study.add_anatomy()
    study.add_bold()
    database = tmp_path / "index"
    plan(bids_database_dir=database)
    (file,) = database.glob("*/*.sqlite")
    file.write_bytes(b"no database")
    with pytest.raises(ResourceError, match=r"is not an index.*Delete it"):
        plan(bids_database_dir=database)
    with pytest.raises(ResourceError, match=r"cannot be kept.*another --bids-database-dir"):
        plan(bids_database_dir=file)


def test_plans_are_the_same_every_time(study, plan):
    for label in ("02", "01"):
        study.add_anatomy(label)
        study.add_bold(label)
        study.add_dwi(label)
    assert plan() == plan()


def test_the_pairing_table_has_a_line_a_session(study, plan):
    for label in ("01", "02"):
        study.add_anatomy(label)
        study.add_bold(label)
        study.add_bold(label, source="task-nback")
    study.add_dwi("01")
    header, first, second = pairing_table(plan()).splitlines()
    assert header.split() == [
        "participant", "session", "func", "dwi", "T1w", "FreeSurfer", "problems",
    ]  # fmt: skip
    assert re.split(r"\s{2,}", first) == ["01", "-", "2 × T1w", "1 × ACPC", "yes", "yes", "-"]
    assert re.split(r"\s{2,}", second) == ["02", "-", "2 × T1w", "-", "yes", "yes", "1"]


def test_inputs_have_addresses(study, plan):
    study.add_anatomy()
    study.add_bold()
    study.add_dwi()
    plans = plan(atlases=("fs86", "shen268"))
    uris = input_uris(plans, study.settings())
    run = only(plans[0].functional)
    assert uris[run.bold_file] == (
        "bids:fmriprep:sub-01/func/sub-01_task-rest_space-T1w_desc-preproc_bold.nii.gz"
    )
    assert uris[run.labels[1].file].startswith("https://")
    dwi_file = only(plans[0].diffusion).dwi_file
    assert isinstance(dwi_file, Path)
    assert uris[dwi_file].startswith("bids:qsiprep:sub-01/dwi/")


def test_all_files_of_a_plan_exist(study, plan):
    study.add_anatomy()
    study.add_bold(spaces=["", f"space-{MNI6}_res-2"])
    study.add_dwi()
    for session in plan():
        for run in (*session.functional, *session.diffusion):
            for field in dataclasses.fields(run):
                value = getattr(run, field.name)
                assert not isinstance(value, Path) or value.is_file()


def test_folders_reached_over_links_are_read(study, plan, tmp_path):
    study.add_anatomy()
    study.add_bold()
    root = study.root / "derivatives" / "fmriprep"
    (root / "sub-01").rename(tmp_path / "elsewhere")
    (root / "sub-01").symlink_to(tmp_path / "elsewhere")
    linked = tmp_path / "linked"
    linked.symlink_to(study.root)
    (session,) = plan(bids_dir=linked)
    run = only(session.functional)
    uris = input_uris([session], study.settings(bids_dir=linked))
    assert uris[run.bold_file].startswith("bids:fmriprep:sub-01/func/")
    assert run.repetition_time_s == 2.0


def test_spaces_in_folder_names_do_no_harm(study, plan, tmp_path):
    study.add_anatomy()
    study.add_bold()
    study.root.rename(tmp_path / "my study (1)")
    assert only(only(plan(bids_dir=tmp_path / "my study (1)")).functional)
