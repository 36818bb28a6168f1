# SPDX-License-Identifier: MIT
"""The vocabulary of the tests: random numbers, and studies of a few voxels.

A `Study` writes derivatives with the names, sidecars and spaces of the real programs; its images
are valid and tiny, its transforms are identities.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
import scipy.io

from kraken_bids.settings import Selection, Settings

SHAPE = (4, 4, 4)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


@pytest.fixture(autouse=True)
def log() -> Iterator[logging.Logger]:
    """Our log, as the tests before left it: the command line turns it to the terminal."""
    ours = logging.getLogger("kraken_bids")
    before = ours.handlers, ours.level, ours.propagate
    yield ours
    ours.handlers, ours.level, ours.propagate = before


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """An empty study: add participants with its methods."""
    return Study(tmp_path / "study")


def write_image(path: Path, n_volumes: int = 0, *, tr_s: float = 2.0) -> Path:
    """A tiny image; 4-D with that many volumes, else 3-D of labels."""
    shape = (*SHAPE, n_volumes) if n_volumes else SHAPE
    values = np.arange(np.prod(shape)).reshape(shape) % 7 + 1
    image = nib.Nifti1Image(values.astype(np.int16), AFFINE)
    if n_volumes:
        image.header.set_zooms((2.0, 2.0, 2.0, tr_s))
        image.header.set_xyzt_units("mm", "sec")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def write_transform(path: Path, *, shift_mm: float = 0.0) -> Path:
    """A shift along x (LPS) as ITK would have written it: text, ANTs' binary, or composite."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = np.array([1.0, 0, 0, 0, 1, 0, 0, 0, 1, shift_mm, 0, 0])
    if path.suffix == ".txt":
        parameters = " ".join(f"{number:g}" for number in numbers)
        path.write_text(
            "#Insight Transform File V1.0\n#Transform 0\n"
            "Transform: AffineTransform_double_3_3\n"
            f"Parameters: {parameters}\nFixedParameters: 0 0 0\n"
        )
    elif path.suffix == ".mat":
        columns = {
            "AffineTransform_double_3_3": numbers[:, None],
            "fixed": np.zeros((3, 1)),
        }
        scipy.io.savemat(path, columns, format="4")
    else:
        with h5py.File(path, "w") as file:
            file["TransformGroup/0/TransformType"] = np.array([b"CompositeTransform_double_3_3"])
            file["TransformGroup/1/TransformType"] = np.array([b"AffineTransform_double_3_3"])
            file["TransformGroup/1/TransformParameters"] = numbers
            file["TransformGroup/1/TransformFixedParameters"] = np.zeros(3)
    return path


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@dataclass(frozen=True)
class Study:
    """A BIDS folder with derivatives of fMRIPrep, QSIPrep, QSIRecon and FreeSurfer."""

    root: Path

    def settings(self, **changes: Any) -> Settings:
        """Settings of a participant-level run; fs86 only, unless changed."""
        self.root.mkdir(parents=True, exist_ok=True)
        selection = {
            key: changes.pop(key)
            for key in ("participants", "sessions", "tasks", "runs", "filters")
            if key in changes
        }
        settings = Settings(
            bids_dir=self.root,
            output_dir=self.root / "derivatives" / "kraken-bids",
            work_dir=self.root.parent / "work",
            level="participant",
            selection=Selection(**selection),
            atlases=("fs86",),
        )
        return replace(settings, **changes)

    def derivative(self, name: str, program: str = "", version: str = "1.0") -> Path:
        """Root of a derivative data set, described."""
        root = self.root / "derivatives" / name
        description = {
            "Name": name,
            "BIDSVersion": "1.4.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": program or name, "Version": version}],
        }
        if not (root / "dataset_description.json").exists():
            write_json(root / "dataset_description.json", description)
        return root

    def add_anatomy(
        self,
        participant: str = "01",
        session: str | None = None,
        *,
        templates: Iterable[str] = ("MNI152NLin6Asym",),
        segmented: bool = True,
        name: str = "fmriprep",
    ) -> Path:
        """Anatomical outputs of fMRIPrep; gives the ``anat`` folder."""
        root = self.derivative(name, "fMRIPrep", "25.2.4")
        folder, stem = _place(root, participant, session, "anat")
        write_image(folder / f"{stem}_desc-preproc_T1w.nii.gz")
        write_image(folder / f"{stem}_desc-brain_mask.nii.gz")
        if segmented:
            write_image(folder / f"{stem}_desc-aseg_dseg.nii.gz")
            write_image(folder / f"{stem}_desc-aparcaseg_dseg.nii.gz")
            write_transform(folder / f"{stem}_from-fsnative_to-T1w_mode-image_xfm.txt")
        for template in templates:
            for way in (("T1w", template), (template, "T1w")):
                write_transform(folder / f"{stem}_from-{way[0]}_to-{way[1]}_mode-image_xfm.h5")
        return folder

    def add_bold(
        self,
        participant: str = "01",
        session: str | None = None,
        *,
        source: str = "task-rest",
        spaces: Sequence[str] = ("space-T1w",),
        n_volumes: int = 10,
        coreg: str = "boldref",
        name: str = "fmriprep",
    ) -> Path:
        """Functional outputs of fMRIPrep for one run; gives the ``func`` folder.

        ``spaces`` are parts of names (``space-MNI152NLin6Asym_res-2``; empty: native).
        """
        root = self.derivative(name, "fMRIPrep", "25.2.4")
        folder, stem = _place(root, participant, session, "func")
        stem = f"{stem}_{source}"
        for space in spaces:
            grid = "_".join(part for part in (stem, space) if part)
            write_image(folder / f"{grid}_desc-preproc_bold.nii.gz", n_volumes)
            write_json(folder / f"{grid}_desc-preproc_bold.json", {"RepetitionTime": 2.0})
            write_image(folder / f"{grid}_desc-brain_mask.nii.gz")
        motion = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]
        rows = ["\t".join(["0.0"] * len(motion))] * n_volumes
        table = folder / f"{stem}_desc-confounds_timeseries.tsv"
        table.write_text("\n".join(["\t".join(motion), *rows]) + "\n")
        write_json(table.with_suffix(".json"), {})
        write_transform(folder / f"{stem}_from-{coreg}_to-T1w_mode-image_desc-coreg_xfm.txt")
        return folder

    def add_dwi(
        self,
        participant: str = "01",
        session: str | None = None,
        *,
        space: str = "ACPC",
        source: str = "",
        native: str = "from-anat_to-ACPC_mode-image_xfm.mat",
        probabilities: bool = True,
        name: str = "qsiprep",
    ) -> Path:
        """Outputs of QSIPrep for one series; gives the ``dwi`` folder."""
        root = self.derivative(name, "QSIPrep", "26.0.0")
        folder, stem = _place(root, participant, session, "dwi")
        stem = "_".join(part for part in (stem, source, f"space-{space}") if part)
        write_image(folder / f"{stem}_desc-preproc_dwi.nii.gz", 4)
        (folder / f"{stem}_desc-preproc_dwi.bval").write_text("0 1000 1000 1000\n")
        (folder / f"{stem}_desc-preproc_dwi.bvec").write_text("0 1 0 0\n0 0 1 0\n0 0 0 1\n")
        write_image(folder / f"{stem}_desc-brain_mask.nii.gz")
        anat, stem = _place(root, participant, None, "anat")
        grid = f"{stem}_space-ACPC" if space == "ACPC" else stem
        write_image(anat / f"{grid}_desc-preproc_T1w.nii.gz")
        for label in ("GM", "WM", "CSF") if probabilities else ():
            write_image(anat / f"{grid}_label-{label}_probseg.nii.gz")
        if native:
            write_transform(anat / f"{stem}_{native}")
        return folder

    def add_tractogram(
        self,
        participant: str = "01",
        session: str | None = None,
        *,
        model: str = "ifod2",
        workflow: str = "MRtrix3_act-HSVS",
        space: str = "ACPC",
        source: str = "",
    ) -> Path:
        """Tractogram and five-tissue image of a QSIRecon workflow; gives the tractogram."""
        parent = self.derivative("qsirecon", "QSIRecon", "26.0.0")
        anat, stem = _place(parent, participant, None, "anat")
        write_image(anat / f"{stem}_space-{space}_seg-hsvs_probseg.nii.gz", 5)
        root = self.derivative(f"qsirecon/derivatives/qsirecon-{workflow}", "QSIRecon", "26.0.0")
        folder, stem = _place(root, participant, session, "dwi")
        stem = "_".join(part for part in (stem, source, f"space-{space}") if part)
        tractogram = folder / f"{stem}_model-{model}_streamlines.tck.gz"
        tractogram.parent.mkdir(parents=True, exist_ok=True)
        tractogram.write_bytes(b"not read by the planner")
        return tractogram

    def add_freesurfer(
        self, subject: str, *, folder: str = "freesurfer", n_inputs: int = 2
    ) -> Path:
        """FreeSurfer subject under ``derivatives``; gives its folder."""
        root = self.root / "derivatives" / folder / subject
        image = nib.MGHImage(np.ones(SHAPE, dtype=np.int32), AFFINE)
        for name in ("aparc+aseg", *(f"orig/{number:03d}" for number in range(1, n_inputs + 1))):
            path = root / "mri" / f"{name}.mgz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(image, path)
        return root


def _place(root: Path, participant: str, session: str | None, datatype: str) -> tuple[Path, str]:
    """Folder of a datatype and the beginning of names in it."""
    parts = [f"sub-{participant}", *([f"ses-{session}"] if session else [])]
    folder = root.joinpath(*parts, datatype)
    folder.mkdir(parents=True, exist_ok=True)
    return folder, "_".join(parts)
