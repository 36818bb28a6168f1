# SPDX-License-Identifier: MIT
"""A session of two runs whose coco439 is the participant's own, from files to sidecars."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.bids.writers import read_connectome
from kraken_bids.errors import InputError
from kraken_bids.interfaces.atlases import ResampleLabels, plain_label_source
from kraken_bids.plan import FunctionalRun, LabelSource, OwnLabels, SessionPlan
from kraken_bids.workflows.base import init_session_wf

NAMES = load_atlas("coco439").region_names
AREAS = [*(name[2:-4] for name in NAMES[81:200]), "H", *(name[2:-4] for name in NAMES[200:260])]
N_VERTICES, N_VOLUMES = 1500, 30


@pytest.fixture(scope="module")
def subject(made_up_freesurfer, tmp_path_factory, sphere):
    made_up = made_up_freesurfer(tmp_path_factory.mktemp("freesurfer") / "sub-01")
    made_up.write(n_vertices=N_VERTICES)
    for side in ("lh", "rh"):
        made_up.save_annotation(side, made_up.areas(side, sphere(N_VERTICES)), AREAS)
    return made_up


@pytest.fixture
def source(subject, tmp_path):
    group = np.zeros((40, 40, 40), np.int16)
    group[:20], group[20:] = NAMES.index("Cbm_Right_V") + 1, NAMES.index("Cbm_Left_V") + 1
    affine = np.diag([-3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = [60 + subject.CENTRE[0], -60, -60]
    nib.save(nib.Nifti1Image(group, affine), tmp_path / "group.nii.gz")
    files = {
        "grid": "mri/ribbon.mgz",
        "aseg": "mri/aseg.mgz",
        "thalamus": "mri/ThalamicNuclei.v13.T1.FSvoxelSpace.mgz",
    }
    for side in ("lh", "rh"):
        files |= {f"{side}.{name}": f"surf/{side}.{name}" for name in ("white", "pial")}
        files[f"{side}.annot"] = f"label/{side}.HCP-MMP1.annot"
    paths = tuple((role, subject.folder / name) for role, name in files.items())
    own = OwnLabels("annotation", paths, tmp_path / "group.nii.gz")
    return LabelSource("coco439", dict(paths)["grid"], "T1w", own=own)


@pytest.fixture
def plan(subject, source, tmp_path, rng):
    shape, affine = (50, 48, 24), subject.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = subject.affine[:3, 3] + subject.affine[:3, :3] @ np.full(3, 0.5)

    def save(values, name):
        nib.save(nib.Nifti1Image(values.astype(np.float32), affine), tmp_path / name)
        return tmp_path / name

    runs = [
        FunctionalRun(
            entities=(("sub", "01"), ("task", "rest"), ("run", str(number))),
            space="T1w",
            resolution="",
            bold_file=save(rng.normal(100, 1, (*shape, N_VOLUMES)), f"bold{number}.nii.gz"),
            mask_file=save(np.ones(shape), f"mask{number}.nii.gz"),
            confounds_file=None,
            confounds_sidecar=None,
            repetition_time_s=2.0,
            labels=(source,),
            tissues=None,
            denoised_by="another program",
            variant="hpf",
        )
        for number in (1, 2)
    ]
    return SessionPlan("01", None, functional=tuple(runs))


def test_labels_are_built_once_a_session_and_told_in_sidecars(plan, study, subject):
    settings = study.settings(atlases=("coco439",))
    workflow = init_session_wf(plan, settings=settings, key="key", sources={})
    workflow.base_dir = str(settings.work_dir)
    builders = [name for name in workflow.list_node_names() if "own_labels" in name]
    assert builders == ["own_labels_1"]
    workflow.run(plugin="Linear")

    func = settings.output_dir / "sub-01" / "func"
    images = sorted(func.glob("*_atlas-coco439_dseg.nii.gz"))
    assert [image.name.split("_")[2] for image in images] == ["run-1", "run-2"]
    labels = np.asarray(nib.load(images[0]).dataobj)
    aseg = np.asarray(nib.load(subject.folder / "mri" / "aseg.mgz").dataobj)
    # A voxel of 2 mm takes the label of the voxel of 1 mm whose centre is next above its own.
    for code, name in ((11, "Caudate_L"), (50, "Caudate_R"), (8, "Cbm_Left_V")):
        expected = aseg[1::2, 1::2, 1::2] == code
        assert expected.any()
        assert np.array_equal(labels == NAMES.index(name) + 1, expected)

    sidecar = json.loads(images[0].with_name(images[0].name[:-7] + ".json").read_text())
    assert sidecar["LabelOrigin"] == "participant"
    assert "FSL FIRST" in sidecar["LabelIngredients"]["Subcortex"]
    facts = sidecar["LabelFacts"]
    assert "VTA_L" in facts["MissingRegions"]
    assert "Caudate_L" not in facts["MissingRegions"]
    tables = sorted(func.glob("*_meas-*_relmat.tsv"))
    assert {"run" in table.name for table in tables} == {True, False}
    for table in tables:
        content = json.loads(table.with_suffix(".json").read_text())
        assert content["LabelOrigin"] == "participant"
        matrix = read_connectome(table, NAMES)[0]
        absent = [name for name, row in zip(NAMES, matrix, strict=True) if np.isnan(row).all()]
        assert set(facts["MissingRegions"]) <= set(absent)
        assert "Caudate_L" not in absent


def test_labels_that_were_not_built_are_not_taken_from_elsewhere(source, tmp_path):
    """Codes of the image on the same grid would pass for region indices."""
    plain = plain_label_source(source)
    assert plain["file"] == ""
    resample = ResampleLabels(label_sources=[plain], reference_file=str(source.file))
    with pytest.raises(InputError, match="cannot be opened"):
        resample._run_interface(type("Runtime", (), {"cwd": str(tmp_path)}))
