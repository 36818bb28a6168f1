# SPDX-License-Identifier: MIT
"""What QSIPrep would have written for a simulated participant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..bids.writers import write_json, write_table, write_text
from .bold import draw_motion
from .confounds import framewise_displacement
from .diffusion import Acquisition, plan_acquisition, simulate_diffusion
from .fmriprep import Participant, tissue_labels, without_parcellation, write_transforms
from .geometry import Geometry, Grid, grid_around
from .images import write_image, write_share
from .population import Population
from .regions import segment_template
from .template import apply_affine, load_template, sample
from .transform_files import write_affine_mat

VERSION = "26.0.0"
TEMPLATE = "MNI152NLin2009cAsym"

#: QSIPrep stores images towards left, posterior and superior.
_AXES = np.diag([-1.0, -1.0, 1.0])


def write_dataset_files(root: Path) -> None:
    """Write what stands at the root of QSIPrep's output."""
    write_json(
        root / "dataset_description.json",
        {
            "Name": "qsiprep output",
            "BIDSVersion": "1.9.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "QSIPrep", "Version": VERSION}],
            "HowToAcknowledge": "The images are simulated.",
            "DatasetLinks": {"raw": "../.."},
        },
    )


def acpc_grid(geometry: Geometry, *, voxel_mm: float, margin_mm: float = 8.0) -> Grid:
    """Lay a grid along the axes of ACPC space around the brain."""
    template = load_template()
    points = geometry.mni_to_t1w(template.positions(template.brain))
    points = apply_affine(geometry.t1w_to_acpc, points)
    return grid_around(points, _AXES, voxel_mm=voxel_mm, margin_mm=margin_mm)


def write_anatomy(root: Path, participant: Participant, *, voxel_mm: float) -> None:
    """Write the folder ``anat``: the T1w image turned into ACPC space, masks, transforms.

    Parameters
    ----------
    root
        Of QSIPrep's output.
    participant
        Whose.
    voxel_mm
        Voxel size of the T1w image.
    """
    geometry, template = participant.geometry, load_template()
    grid = acpc_grid(geometry, voxel_mm=voxel_mm)
    points = geometry.acpc_to_mni(grid.positions)
    stem = str(participant.folder(root, "anat") / f"sub-{participant.label}_")

    def save(name: str, data: NDArray, **sidecar: object) -> None:
        path = Path(f"{stem}space-ACPC_{name}.nii.gz")
        write_image(path, data, grid.affine, sidecar=sidecar or None)

    brain = sample(template.brain.astype(np.float32), points) > 0.5
    t1w = 1000 * sample(template.t1w, points) + participant.rng(3).normal(0, 8, grid.shape)
    save("desc-preproc_T1w", np.rint(np.clip(t1w, 0, None)).astype(np.int16), SkullStripped=False)
    save("desc-brain_mask", brain.astype(np.uint8), Type="Brain")
    shares = {}
    for label, map_ in (("GM", template.grey), ("WM", template.white), ("CSF", template.csf)):
        shares[label] = np.where(brain, sample(map_, points), 0)
        write_share(Path(f"{stem}space-ACPC_label-{label}_probseg.nii.gz"), shares[label],
                    grid.affine)  # fmt: skip
    save("dseg", tissue_labels(shares, brain))
    save("desc-aseg_dseg", without_parcellation(sample(segment_template(), points, order=0)))
    write_transforms(stem, geometry.shape_to_acpc, geometry, space="ACPC", template=TEMPLATE)
    to_anat = np.linalg.inv(geometry.t1w_to_acpc)
    write_affine_mat(Path(f"{stem}from-anat_to-ACPC_mode-image_xfm.mat"), to_anat)
    write_affine_mat(Path(f"{stem}from-ACPC_to-anat_mode-image_xfm.mat"), geometry.t1w_to_acpc)


def write_diffusion(
    root: Path,
    participant: Participant,
    population: Population,
    *,
    shells: dict[int, int],
    voxel_mm: float,
) -> None:
    """Write the folder ``dwi``: series, gradients in three forms, mask, reference, confounds.

    Parameters
    ----------
    root
        Of QSIPrep's output.
    participant, population
        Whose, and from where.
    shells
        Number of volumes by b-value.
    voxel_mm
        Voxel size.
    """
    rng = participant.rng(200)
    grid = acpc_grid(participant.geometry, voxel_mm=voxel_mm)
    acquisition = plan_acquisition(shells, rng)
    data, brain = simulate_diffusion(
        grid, participant.geometry, acquisition, population=population,
        factors=participant.factors, rng=rng,
    )  # fmt: skip
    stem = str(participant.folder(root, "dwi") / f"sub-{participant.label}_")
    sidecar = {
        "EchoTime": 0.09,
        "PhaseEncodingDirection": "j",
        "RepetitionTime": 3.0,
        "TotalReadoutTime": 0.05,
    }
    write_image(Path(f"{stem}space-ACPC_desc-preproc_dwi.nii.gz"), data, grid.affine,
                sidecar=sidecar)  # fmt: skip
    write_image(Path(f"{stem}space-ACPC_desc-brain_mask.nii.gz"), brain.astype(np.uint8),
                grid.affine, sidecar={"Type": "Brain"})  # fmt: skip
    reference = data[..., acquisition.bvals == 0].mean(axis=-1)
    write_image(Path(f"{stem}space-ACPC_dwiref.nii.gz"), np.rint(reference).astype(np.int16),
                grid.affine)  # fmt: skip
    write_gradients(f"{stem}space-ACPC_desc-preproc_dwi", acquisition, grid.affine)
    motion = draw_motion(len(acquisition.bvals), participant.rng(201))
    _write_confounds(stem, motion, acquisition)


def write_gradients(stem: str, acquisition: Acquisition, affine: NDArray[np.floating]) -> None:
    """Write ``.bval``, ``.bvec`` (FSL), ``.b`` (MRtrix3) and ``.b_table.txt`` (DSI Studio)."""
    bvals = [f"{value:.0f}" for value in acquisition.bvals]
    bvecs = acquisition.bvecs(affine)

    def rows(vectors: NDArray[np.floating]) -> list[str]:
        return [" ".join(f"{value:.6f}" for value in vector) for vector in vectors]

    write_text(Path(f"{stem}.bval"), " ".join(bvals) + "\n")
    write_text(Path(f"{stem}.bvec"), "\n".join(rows(bvecs.T)) + "\n")
    pairs = zip(rows(acquisition.directions), bvals, strict=True)
    write_text(Path(f"{stem}.b"), "".join(f"{row} {bval}\n" for row, bval in pairs))
    pairs = zip(bvals, rows(bvecs * [1, -1, 1]), strict=True)
    write_text(Path(f"{stem}.b_table.txt"), "".join(f"{bval} {row}\n" for bval, row in pairs))


def _write_confounds(stem: str, motion: NDArray[np.floating], acquisition: Acquisition) -> None:
    """Write head motion and b-values of the volumes, and a line of quality measures."""
    columns = ["framewise_displacement", "trans_x", "trans_y", "trans_z", "rot_x", "rot_y",
               "rot_z", "bval", "bvec_x", "bvec_y", "bvec_z"]  # fmt: skip
    displacement = framewise_displacement(motion)
    rows = np.column_stack([displacement, motion, acquisition.bvals, acquisition.directions])
    write_table(Path(f"{stem}desc-confounds_timeseries.tsv"), columns, rows.tolist())
    quality = {
        "mean_fd": float(np.nanmean(displacement)),
        "max_fd": float(np.nanmax(displacement)),
        "raw_num_directions": int(np.count_nonzero(acquisition.bvals)),
    }
    write_table(Path(f"{stem}space-ACPC_desc-image_qc.tsv"), list(quality), [[*quality.values()]])
