# SPDX-License-Identifier: MIT
"""What fMRIPrep would have written for a simulated participant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import atlases
from ..bids.writers import write_json, write_table
from .bold import REPETITION_TIME_S, Scan, echo_planar, sample_tissue, simulate_scan
from .confounds import erode_tissue, make_confounds
from .geometry import FIELD_AFFINE, Geometry, Grid, grid_around
from .images import SCANNER, write_image, write_share
from .population import Population
from .regions import CSF_CODES, WHITE_CODES, segment_template
from .template import apply_affine, load_template, sample
from .transform_files import write_affine_text, write_composite

VERSION = "25.2.3"
SPACE = "MNI152NLin6Asym"
_TASK = "rest"
#: Names of FreeSurfer's labels beyond the regions of fs86.
_OTHER_LABELS = {
    2: "Left-Cerebral-White-Matter", 3: "Left-Cerebral-Cortex", 4: "Left-Lateral-Ventricle",
    7: "Left-Cerebellum-White-Matter", 14: "3rd-Ventricle", 15: "4th-Ventricle",
    16: "Brain-Stem", 24: "CSF", 41: "Right-Cerebral-White-Matter", 42: "Right-Cerebral-Cortex",
    43: "Right-Lateral-Ventricle", 46: "Right-Cerebellum-White-Matter",
}  # fmt: skip


@dataclass(frozen=True)
class Participant:
    """One simulated participant.

    Parameters
    ----------
    label
        Without ``sub-``.
    factors
        (N_FACTORS,), how the participant differs from the population.
    geometry
        The head's shape and position.
    seed
        Sequence of numbers that noise is drawn from.
    """

    label: str
    factors: NDArray[np.float64]
    geometry: Geometry
    seed: tuple[int, ...]

    def rng(self, purpose: int) -> np.random.Generator:
        """Random numbers of one purpose, whatever else is drawn."""
        return np.random.default_rng([*self.seed, purpose])

    def folder(self, root: Path, datatype: str) -> Path:
        """Folder of a datatype in a data set."""
        folder = root / f"sub-{self.label}" / datatype
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def write_dataset_files(root: Path) -> None:
    """Write what stands at the root of fMRIPrep's output."""
    write_json(
        root / "dataset_description.json",
        {
            "Name": "fMRIPrep - fMRI PREProcessing workflow",
            "BIDSVersion": "1.10.1",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "fMRIPrep", "Version": VERSION}],
            "HowToAcknowledge": "The images are simulated.",
            "DatasetLinks": {"raw": "../.."},
        },
    )
    rows = {region.code: region.name for region in atlases.load_atlas("fs86").regions}
    rows |= _OTHER_LABELS
    for name in ("aseg", "aparcaseg"):
        kept = sorted(code for code in rows if name == "aparcaseg" or code < 1000)
        colours = [f"#{(code * 2654435761) % 2**24:06x}" for code in kept]
        table = [[code, rows[code], colour] for code, colour in zip(kept, colours, strict=True)]
        write_table(root / f"desc-{name}_dseg.tsv", ["index", "name", "color"], table)


def write_anatomy(root: Path, participant: Participant, *, voxel_mm: float) -> None:
    """Write the folder ``anat``: image, masks, tissue, segmentations, transforms.

    The image itself also goes into the data set above, as the scan that it all came from.

    Parameters
    ----------
    root
        Of fMRIPrep's output, two folders below the data set's root.
    participant
        Whose.
    voxel_mm
        Voxel size of the T1w image.
    """
    geometry, template = participant.geometry, load_template()
    grid = t1w_grid(geometry, voxel_mm=voxel_mm)
    points = geometry.t1w_to_mni(grid.positions)
    stem = str(participant.folder(root, "anat") / f"sub-{participant.label}_")

    def save(name: str, data: NDArray, **sidecar: object) -> None:
        write_image(
            Path(f"{stem}{name}.nii.gz"), data, grid.affine, code=SCANNER, sidecar=sidecar or None
        )

    brain = sample(template.brain.astype(np.float32), points) > 0.5
    t1w = 1000 * sample(template.t1w, points) + participant.rng(1).normal(0, 8, grid.shape)
    scan = np.rint(np.clip(t1w, 0, None)).astype(np.int16)
    save("desc-preproc_T1w", scan, SkullStripped=False)
    raw = participant.folder(root.parents[1], "anat") / f"sub-{participant.label}_T1w.nii.gz"
    write_image(raw, scan, grid.affine, code=SCANNER, sidecar={"Modality": "MR"})
    save("desc-brain_mask", brain.astype(np.uint8), Type="Brain")
    shares = {}
    for label, map_ in (("GM", template.grey), ("WM", template.white), ("CSF", template.csf)):
        shares[label] = np.where(brain, sample(map_, points), 0)
        write_share(Path(f"{stem}label-{label}_probseg.nii.gz"), shares[label], grid.affine,
                    code=SCANNER)  # fmt: skip
    save("dseg", tissue_labels(shares, brain))
    codes = sample(segment_template(), points, order=0)
    save("desc-aparcaseg_dseg", codes)
    save("desc-aseg_dseg", without_parcellation(codes))
    write_transforms(stem, geometry.shape_to_t1w, geometry, space="T1w", template=SPACE)
    for pair in ("from-T1w_to-fsnative", "from-fsnative_to-T1w"):
        write_affine_text(Path(f"{stem}{pair}_mode-image_xfm.txt"), np.eye(4))


def t1w_grid(geometry: Geometry, *, voxel_mm: float, margin_mm: float = 10.0) -> Grid:
    """Lay a grid with the T1w image's axes around the brain."""
    template = load_template()
    points = geometry.mni_to_t1w(template.positions(template.brain))
    return grid_around(points, geometry.t1w_turn, voxel_mm=voxel_mm, margin_mm=margin_mm)


def tissue_labels(shares: dict[str, NDArray], brain: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Most likely tissue, 1 grey matter, 2 white matter, 3 fluid."""
    best = np.stack([shares[label] for label in ("GM", "WM", "CSF")]).argmax(axis=0) + 1
    return np.where(brain, best, 0).astype(np.uint8)


def without_parcellation(codes: NDArray[np.integer]) -> NDArray[np.int16]:
    """Replace the cortical regions by one code a hemisphere, as in ``aseg``."""
    cortex = np.where(codes >= 2000, 42, 3)
    return np.where(codes >= 1000, cortex, codes).astype(np.int16)


def write_transforms(
    stem: str, affine: NDArray[np.floating], geometry: Geometry, *, space: str, template: str
) -> None:
    """Write composite transforms between a template and a space, both ways.

    Parameters
    ----------
    stem
        Start of the path.
    affine
        (4, 4), from the shaped MNI frame to the space.
    geometry
        With the displacement fields.
    space, template
        Labels.
    """
    write_composite(
        Path(f"{stem}from-{space}_to-{template}_mode-image_xfm.h5"),
        ((geometry.forward, FIELD_AFFINE), affine),
    )
    write_composite(
        Path(f"{stem}from-{template}_to-{space}_mode-image_xfm.h5"),
        (np.linalg.inv(affine), (geometry.inverse, FIELD_AFFINE)),
    )


def write_run(
    root: Path,
    participant: Participant,
    population: Population,
    *,
    n_volumes: int,
    voxel_mm: float,
    run: int | None,
) -> None:
    """Write the folder ``func``: a resting-state run with masks, confounds and transforms.

    Parameters
    ----------
    root
        Of fMRIPrep's output.
    participant, population
        Whose, and from where.
    n_volumes, voxel_mm
        Length and resolution of the series.
    run
        Number of the run, or None where there is only one.
    """
    geometry = participant.geometry
    grid = t1w_grid(geometry, voxel_mm=voxel_mm)
    points = geometry.t1w_to_mni(grid.positions)
    rng = participant.rng(100 + (run or 0))
    scan = simulate_scan(
        points, grid, population=population, factors=participant.factors, n_volumes=n_volumes,
        rng=rng,
    )  # fmt: skip
    entities = f"sub-{participant.label}_task-{_TASK}" + (f"_run-{run}" if run else "")
    stem = str(participant.folder(root, "func") / f"{entities}_")
    sidecar = {
        "EchoTime": 0.03,
        "RepetitionTime": REPETITION_TIME_S,
        "SkullStripped": False,
        "SliceTimingCorrected": True,
        "StartTime": REPETITION_TIME_S / 2,
        "TaskName": _TASK,
    }
    write_image(Path(f"{stem}space-T1w_desc-preproc_bold.nii.gz"), scan.data, grid.affine,
                slope=scan.slope, sidecar=sidecar)  # fmt: skip
    write_image(Path(f"{stem}space-T1w_desc-brain_mask.nii.gz"), scan.brain.astype(np.uint8),
                grid.affine, sidecar={"Type": "Brain"})  # fmt: skip
    write_image(Path(f"{stem}space-T1w_boldref.nii.gz"),
                np.rint(scan.reference).astype(np.int16), grid.affine)  # fmt: skip
    _write_confounds(stem, scan, sample(segment_template(), points, order=0))
    _write_native_reference(stem, participant, voxel_mm=voxel_mm)


def _write_confounds(stem: str, scan: Scan, codes: NDArray[np.integer]) -> None:
    """Write the table of confounds and its sidecar."""
    columns, described = make_confounds(
        scan,
        white=erode_tissue(np.isin(codes, WHITE_CODES) & scan.brain),
        csf=np.isin(codes, CSF_CODES) & scan.brain,
    )
    rows = np.stack(list(columns.values()), axis=1).tolist()
    write_table(Path(f"{stem}desc-confounds_timeseries.tsv"), list(columns), rows, digits=10)
    write_json(Path(f"{stem}desc-confounds_timeseries.json"), described)


def _write_native_reference(stem: str, participant: Participant, *, voxel_mm: float) -> None:
    """Write the reference image on the scanner's own grid and its way to the T1w image."""
    geometry = participant.geometry
    to_t1w = np.eye(4)
    to_t1w[:3, 3] = participant.rng(2).uniform(-3, 3, 3)  # the head moved between the scans
    template = load_template()
    brain = geometry.mni_to_t1w(template.positions(template.brain))
    native = apply_affine(np.linalg.inv(to_t1w), brain)
    grid = grid_around(native, np.eye(3), voxel_mm=voxel_mm, margin_mm=10)
    tissue = sample_tissue(geometry.t1w_to_mni(apply_affine(to_t1w, grid.positions)), voxel_mm)
    reference = np.rint(echo_planar(tissue)).astype(np.int16)
    for name, data in (
        ("desc-coreg_boldref", reference),
        ("desc-brain_mask", tissue.brain.astype(np.uint8)),
    ):
        write_image(Path(f"{stem}{name}.nii.gz"), data, grid.affine, code=SCANNER)
    write_affine_text(
        Path(f"{stem}from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt"), np.linalg.inv(to_t1w)
    )
