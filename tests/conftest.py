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
from typing import Any, ClassVar

import h5py
import nibabel as nib
import numpy as np
import pytest
import scipy.io

from kraken_bids.settings import Selection, Settings

SHAPE = (4, 4, 4)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


#: Markers of tests that take long, the longest first.
LONG = ("container", "slow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with what takes longest first, so that those who share the work end together."""
    ranks: dict[Path, int] = {}
    for item in items:
        met = (rank for rank, name in enumerate(LONG) if item.get_closest_marker(name))
        ranks[item.path] = min(ranks.get(item.path, len(LONG)), next(met, len(LONG)))
    items.sort(key=lambda item: ranks[item.path])


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


# ------------------------------------------------------- a FreeSurfer subject with surfaces


def sphere_points(n_points: int) -> np.ndarray:
    """Directions spread evenly over a sphere, (n_points, 3)."""
    z = 1 - (2 * np.arange(n_points) + 1) / n_points
    angle = np.arange(n_points) * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(1 - z * z)
    return np.column_stack([radius * np.cos(angle), radius * np.sin(angle), z])


@dataclass(frozen=True)
class MadeUpFreeSurfer:
    """A FreeSurfer subject of simple shapes, on a grid that is oriented as FreeSurfer's.

    Hemispheres are balls whose cortex is the shell from 16 to 20 mm; below them lie two halves of
    a cerebellum about a brainstem. Surfaces are in the frame ``tkr``, which differs from the
    scanner's by `CENTRE`. Areas lie around 180 directions; a cap towards the other hemisphere is
    the medial wall.
    """

    folder: Path
    SHAPE = (100, 96, 48)
    CENTRE = np.array([5.0, -7.0, 11.0])
    MIDDLE: ClassVar = {"lh": np.array([-24.0, 0.0, 12.0]), "rh": np.array([24.0, 0.0, 12.0])}
    #: Balls of 3 mm by FreeSurfer's code: place relative to the middle of the hemisphere.
    BALLS: ClassVar = {17: (0, 6, 0), 18: (0, 12, 0), 11: (0, -8, 0), 12: (0, 0, 8),
                       13: (0, 0, -8), 26: (0, 8, 8)}  # fmt: skip
    RIGHT: ClassVar = {17: 53, 18: 54, 11: 50, 12: 51, 13: 52, 26: 58}
    NUCLEI = (3, 10, 26, 27, 28, 29, 33, 4, 5, 6, 17, 18, 16, 13, 12, 9, 15, 21, 23, 20, 22,
              8, 11, 19, 30)  # fmt: skip

    @property
    def affine(self) -> np.ndarray:
        """Voxel indices to scanner coordinates (RAS), axes to the left, down and to the front."""
        return self._affine(self.CENTRE)

    @property
    def tkr(self) -> np.ndarray:
        """Voxel indices to the surfaces' frame."""
        return self._affine(np.zeros(3))

    def _affine(self, centre: np.ndarray) -> np.ndarray:
        affine = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
        affine[:3, 3] = centre - affine[:3, :3] @ (np.array(self.SHAPE) / 2)
        return affine

    def voxel_points(self) -> np.ndarray:
        """Places of all voxels in the surfaces' frame, (X, Y, Z, 3)."""
        return np.moveaxis(np.indices(self.SHAPE), 0, -1) @ self.tkr[:3, :3].T + self.tkr[:3, 3]

    def areas(self, side: str, directions: np.ndarray) -> np.ndarray:
        """Area numbers from 1 at some directions from a hemisphere's middle; 0: medial wall."""
        mirrored = directions * ([1, 1, 1] if side == "lh" else [-1, 1, 1])
        centres = sphere_points(180)
        numbers = np.argmax(mirrored @ centres.T, axis=1) + 1
        return np.where(mirrored[:, 0] > 0.95, 0, numbers)

    def write(self, *, n_vertices: int = 4000) -> Path:
        """Images and surfaces, without annotations; gives the folder."""
        points = self.voxel_points()
        aseg, ribbon = np.zeros(self.SHAPE, np.int32), np.zeros(self.SHAPE, np.int32)
        nuclei = np.zeros(self.SHAPE, np.int32)
        for side, cortex, first in (("lh", 3, 8100), ("rh", 42, 8200)):
            radius = np.linalg.norm(points - self.MIDDLE[side], axis=-1)
            ribbon[(radius >= 16) & (radius <= 20)] = cortex
            sign = 1 if side == "lh" else -1
            for code, place in self.BALLS.items():
                at = self.MIDDLE[side] + np.array(place) * [sign, 1, 1]
                inside = np.linalg.norm(points - at, axis=-1) <= 3
                aseg[inside] = code if side == "lh" else self.RIGHT[code]
            # Nuclei are slices of 1 mm across a bar from left to right.
            bar = np.all(np.abs(points[..., 1:] - self.MIDDLE[side][1:]) <= 2, axis=-1)
            steps = np.round((points[..., 0] - self.MIDDLE[side][0]) * sign + 12).astype(int)
            for number, code in enumerate(self.NUCLEI):
                nuclei[bar & (steps == number)] = first + code
        x, y, z = np.moveaxis(points, -1, 0)
        low = (z < -12) & (z >= -34) & (np.abs(y) <= 14)
        aseg[low & (x < 0) & (x >= -20)], aseg[low & (x >= 0) & (x < 20)] = 8, 47
        aseg[low & (np.abs(x) <= 4) & (y > 6)] = 16
        mri = self.folder / "mri"
        (mri / "orig").mkdir(parents=True, exist_ok=True)
        self.save(mri / "ribbon.mgz", ribbon)
        self.save(mri / "aseg.mgz", aseg)
        self.save(mri / "orig" / "001.mgz", ribbon)
        parcels = np.where(ribbon == 3, 1001, np.where(ribbon == 42, 2001, aseg))
        self.save(mri / "aparc+aseg.mgz", parcels)
        self.save(mri / "ThalamicNuclei.v13.T1.FSvoxelSpace.mgz", nuclei)
        for side, middle in self.MIDDLE.items():
            for surface, radius in (("white", 16), ("pial", 20)):
                self.save_surface(f"{side}.{surface}", middle + radius * sphere_points(n_vertices))
        return self.folder

    def save(self, path: Path, values: np.ndarray) -> None:
        nib.save(nib.MGHImage(values.astype(np.int32), self.affine), path)

    def save_surface(self, name: str, vertices: np.ndarray) -> Path:
        path = self.folder / "surf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.freesurfer.write_geometry(path, vertices, np.array([[0, 1, 2]]))
        return path

    def save_annotation(
        self, side: str, numbers: np.ndarray, areas: Sequence[str], name: str = "HCP-MMP1"
    ) -> Path:
        """Annotation of area numbers (0: ``???``); its table is in reverse order."""
        path = self.folder / "label" / f"{side}.{name}.annot"
        path.parent.mkdir(parents=True, exist_ok=True)
        letter = {"lh": "L", "rh": "R"}[side]
        named = ["???", *(f"{letter}_{area}_ROI" for area in areas)][::-1]
        colours = np.arange(1, len(named) + 1)
        table = np.column_stack([colours, colours, colours, 0 * colours, 0 * colours])
        entries = len(named) - 1 - numbers
        nib.freesurfer.write_annot(path, entries, table, named, fill_ctab=True)
        return path


@pytest.fixture(scope="session")
def made_up_freesurfer() -> type[MadeUpFreeSurfer]:
    """Class of made-up FreeSurfer subjects: give it a folder."""
    return MadeUpFreeSurfer


@pytest.fixture(scope="session")
def sphere() -> Any:
    """Directions spread evenly over a sphere."""
    return sphere_points
