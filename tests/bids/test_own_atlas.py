# SPDX-License-Identifier: MIT
from __future__ import annotations

import json
import logging

import pytest

from kraken_bids.bids.inputs import input_uris, plan_sessions
from kraken_bids.bids.own_atlas import (
    describe_origin,
    find_thalamus,
    tell_mixed_origins,
)
from kraken_bids.errors import Problems, ResourceError
from kraken_bids.plan import CohortSession

MNI6 = "MNI152NLin6Asym"
THALAMUS = "ThalamicNuclei.v13.T1.FSvoxelSpace.mgz"


@pytest.fixture(autouse=True)
def no_templateflow(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "templateflow"))


@pytest.fixture
def asked():
    """Roles of published images asked for."""
    return []


@pytest.fixture
def plan(study, tmp_path, asked):
    def atlas_file(atlas, role):
        asked.append(role)
        path = tmp_path / "resources" / f"{role}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"published")
        return path

    def run(modalities=("func",), **changes):
        settings = study.settings(atlases=("coco439",), modalities=modalities, **changes)
        return plan_sessions(settings, atlas_file=atlas_file)

    return run


def add_subject(study, participant="01", *, annotation="HCP-MMP1", n_inputs=1, without=()):
    """A FreeSurfer subject with all that is needed; files without content that matters."""
    folder = study.add_freesurfer(f"sub-{participant}", n_inputs=n_inputs)
    names = ["mri/aseg.mgz", "mri/ribbon.mgz", f"mri/{THALAMUS}"]
    for side in ("lh", "rh"):
        names += [f"surf/{side}.white", f"surf/{side}.pial", f"surf/{side}.sphere.reg"]
        names += [f"label/{side}.{annotation}.annot"] if annotation else []
    for name in names:
        if name not in without:
            write(folder / name)
    return folder


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not read by the planner")


def add_fsaverage(folder):
    for side in ("lh", "rh"):
        write(folder.parent / "fsaverage" / "label" / f"{side}.HCP-MMP1.annot")
        write(folder.parent / "fsaverage" / "surf" / f"{side}.sphere.reg")


def add_scans(study, participant="01", *, spaces=("space-T1w",)):
    study.add_anatomy(participant)
    study.add_bold(participant, spaces=spaces)


def ways(steps):
    return [(step.source, step.target) for step in steps]


def source(plans, participant=0):
    (run,) = plans[participant].functional
    (labels,) = run.labels
    return labels


# ------------------------------------------------------------------ whose labels


@pytest.mark.parametrize("choice", ["auto", "subject"])
def test_own_labels_are_taken_where_freesurfer_allows_it(study, plan, choice):
    add_scans(study)
    folder = add_subject(study)
    labels = source(plan(coco439=choice))
    files = dict(labels.own.files)
    assert labels.own.cortex == "annotation"
    assert labels.file == files["grid"] == folder / "mri" / "ribbon.mgz"
    assert files["aseg"] == folder / "mri" / "aseg.mgz"
    assert files["thalamus"].name == THALAMUS
    assert files["lh.annot"] == folder / "label" / "lh.HCP-MMP1.annot"
    assert files["rh.pial"] == folder / "surf" / "rh.pial"
    assert not any("sphere" in role for role in files)
    assert (labels.space, labels.codes, labels.volume_file) == ("fsnative", "index", None)
    assert ways(labels.transforms) == [("fsnative", "T1w")]
    assert ways(labels.own.group_steps) == [(MNI6, "T1w"), ("T1w", "fsnative")]
    assert labels.own.group_file.name == "volumes.nii.gz"


def test_own_labels_travel_to_the_template_as_fs86_does(study, plan):
    add_scans(study, spaces=(f"space-{MNI6}_res-2",))
    add_subject(study)
    labels = source(plan())
    assert ways(labels.transforms) == [("fsnative", "T1w"), ("T1w", MNI6)]
    assert labels.own is not None


def test_functional_and_structural_series_share_the_ingredients(study, plan):
    add_scans(study)
    study.add_dwi()
    add_subject(study)
    (session,) = plan(modalities=("func", "dwi"))
    sources = [run.labels[0] for run in (*session.functional, *session.diffusion)]
    assert sources[0].own == sources[1].own is not None
    assert sources[1].volume_file is None
    assert [target for _, target in ways(sources[1].transforms)] == ["T1w", "ACPC"]


def test_the_groups_image_is_taken_if_asked_for(study, plan, asked):
    add_scans(study)
    add_subject(study)
    labels = source(plan(coco439="group"))
    assert labels.own is None
    assert labels.file.name == "labels.nii.gz"
    assert labels.group_reason == "as asked for by --coco439 group"
    assert asked == ["labels"]


def test_without_freesurfer_nothing_more_is_fetched_than_before(study, plan, asked):
    add_scans(study)
    labels = source(plan())
    assert asked == ["labels"]
    assert labels.own is None
    assert "a finished FreeSurfer subject" in labels.group_reason


def test_an_image_that_was_given_is_taken(study, plan, tmp_path):
    add_scans(study)
    add_subject(study)
    labels = source(plan(atlas_files=(("coco439", tmp_path / "given.nii.gz"),)))
    assert (labels.own, labels.file.name, labels.group_reason) == (None, "given.nii.gz", "")
    assert describe_origin(labels) == {}


def test_another_atlas_is_not_touched(study, tmp_path):
    add_scans(study)
    add_subject(study)
    plans = plan_sessions(
        study.settings(atlases=("shen268",)), atlas_file=lambda atlas, role: tmp_path / role
    )
    assert (source(plans).own, source(plans).group_reason) == (None, "")


# ------------------------------------------------------------------ what is missing


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        (f"mri/{THALAMUS}", "mri/ThalamicNuclei"),
        ("label/rh.HCP-MMP1.annot", "label/{lh,rh}.HCP-MMP1.annot"),
        ("surf/lh.white", "surf/lh.white"),
        ("surf/rh.pial", "surf/rh.pial"),
    ],
)
def test_what_is_missing_is_told(study, plan, missing, told):
    add_scans(study)
    add_subject(study, without=(missing,))
    labels = source(plan())
    assert labels.own is None
    assert labels.group_reason.startswith("own labels cannot be built without ")
    assert told in labels.group_reason
    (session,) = plan(coco439="subject")
    assert not session.functional
    text = "\n".join(map(str, session.problems))
    assert "sub-01's own coco439 cannot be built; not found: " in text
    assert told in text
    assert "--coco439 auto" in text


def test_all_that_is_missing_is_told_at_once(study, plan):
    add_scans(study)
    add_subject(study, annotation="", without=(f"mri/{THALAMUS}",))
    reason = source(plan()).group_reason
    assert "HCP-MMP1.annot" in reason
    assert "ThalamicNuclei" in reason


def test_a_link_without_content_is_told(study, plan):
    add_scans(study)
    folder = add_subject(study)
    (folder / "surf" / "lh.white").unlink()
    (folder / "surf" / "lh.white").symlink_to("nowhere")
    assert "lh.white (the file is a link to content" in source(plan()).group_reason


def test_missing_ribbon_and_aseg_are_replaced_by_the_segmentation(study, plan):
    add_scans(study)
    add_subject(study, without=("mri/ribbon.mgz", "mri/aseg.mgz"))
    files = dict(source(plan()).own.files)
    assert files["grid"].name == files["aseg"].name == "aparc+aseg.mgz"


def test_the_way_between_freesurfers_space_and_the_data_must_be_known(study, plan):
    add_scans(study)
    add_subject(study, n_inputs=2)  # more than one T1w image: conforming may have moved them
    for file in study.root.rglob("*fsnative*"):
        file.unlink()
    assert f"a transform from {MNI6} to fsnative" in source(plan()).group_reason


def test_one_t1w_image_keeps_its_space_where_no_transform_says_otherwise(study, plan):
    add_scans(study)
    add_subject(study, n_inputs=1)
    for file in study.root.rglob("*fsnative*"):
        file.unlink()
    labels = source(plan())
    assert (labels.space, labels.transforms) == ("T1w", ())
    assert ways(labels.own.group_steps) == [(MNI6, "T1w")]


# ------------------------------------------------------------------ other names


def test_the_annotation_of_fsaverage_is_carried_over(study, plan):
    add_scans(study)
    add_fsaverage(add_subject(study, annotation=""))
    own = source(plan()).own
    files = dict(own.files)
    assert own.cortex == "fsaverage"
    assert files["lh.annot"].parts[-3] == "fsaverage"
    assert files["lh.sphere"].parts[-3:] == ("sub-01", "surf", "lh.sphere.reg")
    assert files["fsaverage.rh.sphere"].parts[-3:] == ("fsaverage", "surf", "rh.sphere.reg")


def test_the_participants_annotation_is_preferred(study, plan):
    add_scans(study)
    folder = add_subject(study)
    add_fsaverage(folder)
    write(folder / "mri" / "HCP-MMP1+aseg.mgz")
    assert source(plan()).own.cortex == "annotation"


@pytest.mark.parametrize("name", ["HCPMMP1", "HCP_MMP1", "hcpmmp1"])
def test_spellings_of_annotations_are_understood(study, plan, name):
    add_scans(study)
    add_subject(study, annotation=name)
    assert dict(source(plan()).own.files)["rh.annot"].name == f"rh.{name}.annot"


def test_a_ready_volume_is_the_last_choice(study, plan):
    add_scans(study)
    folder = add_subject(study, annotation="", without=("surf/lh.white",))
    write(folder / "mri" / "HCPMMP1+aseg.mgz")
    own = source(plan()).own
    assert own.cortex == "volume"
    files = dict(own.files)
    assert files["cortex"] == files["grid"] == folder / "mri" / "HCPMMP1+aseg.mgz"


def test_pial_surfaces_of_freesurfer_7_are_found_without_their_link(study, plan):
    add_scans(study)
    folder = add_subject(study)
    (folder / "surf" / "lh.pial").rename(folder / "surf" / "lh.pial.T1")
    assert dict(source(plan()).own.files)["lh.pial"].name == "lh.pial.T1"


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["v10.T1", "v10.T1.FSvoxelSpace"], "v10.T1.FSvoxelSpace"),
        (["v10.T1.FSvoxelSpace", "v12.T1.FSvoxelSpace", "v13.T1"], "v12.T1.FSvoxelSpace"),
        (["v13.T1.FSvoxelSpace", "FSvoxelSpace"], "FSvoxelSpace"),
        (["v12.T2.FSvoxelSpace", "v12.T1.FSvoxelSpace"], "v12.T1.FSvoxelSpace"),
        (["v10.T1", "v9.T1"], "v10.T1"),
        (["v13.long.FSvoxelSpace", "v10.T1"], "v10.T1"),
    ],
)
def test_the_best_segmentation_of_nuclei_is_chosen(tmp_path, names, chosen):
    for name in names:
        write(tmp_path / f"ThalamicNuclei.{name}.mgz")
    write(tmp_path / "ThalamicNuclei.v13.T1.volumes.txt")
    assert find_thalamus(tmp_path).name == f"ThalamicNuclei.{chosen}.mgz"


def test_nuclei_by_their_plain_name_are_found(tmp_path):
    assert find_thalamus(tmp_path) is None
    write(tmp_path / "ThalamicNuclei.mgz")
    assert find_thalamus(tmp_path).name == "ThalamicNuclei.mgz"


# ------------------------------------------------------------------ what is told


def test_a_cohort_of_both_kinds_is_warned_of(study, plan, caplog):
    for participant in ("01", "02"):
        add_scans(study, participant)
    add_subject(study, "01")
    with caplog.at_level(logging.INFO):
        plans = plan()
    assert [source(plans, number).own is not None for number in (0, 1)] == [True, False]
    assert "coco439: own labels for 1 session (sub-01)" in caplog.text
    assert "the group's image for 1 session (sub-02): own labels cannot be built" in caplog.text
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "own labels in 1 session (sub-01) and the group's in 1 session (sub-02)" in warning


def test_a_cohort_of_one_kind_is_not_warned_of(study, plan, caplog):
    add_scans(study)
    plan()
    plan(coco439="group")
    add_subject(study)
    plan()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_sidecars_say_from_what_own_labels_were_built(study, plan):
    add_scans(study)
    add_fsaverage(add_subject(study, annotation=""))
    keys = describe_origin(source(plan()))
    assert keys["LabelOrigin"] == "participant"
    ingredients = keys["LabelIngredients"]
    assert "fsaverage" in ingredients["Cortex"]
    assert "without the correction by FSL FIRST" in ingredients["Subcortex"]
    assert THALAMUS in ingredients["Thalamus"]
    assert "volumes.nii.gz" in ingredients["Cerebellum"]


def test_all_files_are_among_the_sources(study, plan):
    add_scans(study)
    add_subject(study)
    plans = plan()
    settings = study.settings(atlases=("coco439",))
    own = source(plans).own
    uris = input_uris(plans, settings)
    assert {path for path in own.paths if study.root / "derivatives" / "fmriprep" in path.parents}
    assert all(path in uris for path in own.paths if "fmriprep" in path.parts)


def test_the_group_level_warns_of_both_kinds(tmp_path, caplog):
    sessions = []
    for participant, origin in (("01", "participant"), ("02", "group"), ("03", None)):
        table = tmp_path / f"sub-{participant}_atlas-coco439_relmat.tsv"
        keys = {} if origin is None else {"LabelOrigin": origin}
        table.with_suffix(".json").write_text(json.dumps(keys))
        connectomes = (("FCcorr_coco439_hpf", table),)
        sessions.append(CohortSession(participant, None, connectomes))
    tell_mixed_origins(sessions[1:])
    tell_mixed_origins([sessions[0], sessions[2]])
    assert not caplog.records
    tell_mixed_origins(sessions)
    assert "own labels in 1 session (sub-01) and the group's in 1 session (sub-02)" in caplog.text


def test_an_image_that_cannot_be_fetched_is_an_error_where_it_is_needed(study):
    add_scans(study)
    add_subject(study)

    def atlas_file(atlas, role):
        if role == "volumes":
            raise ResourceError("cannot be fetched", fix="Go online.")
        return study.root / "labels.nii.gz"

    with pytest.raises(Problems, match="cannot be fetched"):
        plan_sessions(study.settings(atlases=("coco439",)), atlas_file=atlas_file)
