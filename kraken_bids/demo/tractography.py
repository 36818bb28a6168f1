# SPDX-License-Identifier: MIT
"""Tractograms of the template, by MRtrix3, for the simulated cohort to start from."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np

from ..errors import ResourceError
from ..images.five_tissue import tissues_from_labels
from .cohort import Tractogram
from .diffusion import plan_acquisition, simulate_diffusion
from .geometry import template_geometry
from .images import write_image
from .population import N_FACTORS, Population
from .qsiprep import acpc_grid, write_gradients
from .regions import segment_template
from .template import AFFINE

_SHELLS = {0: 4, 1000: 12, 2000: 24}
_VOXEL_MM = 5.0
_LMAX = 4
_TISSUES = "dwi.mif wm.txt fod.mif gm.txt gm.mif csf.txt csf.mif"
#: Places kept along each streamline.
_N_SAMPLES = 8
_SEED = 1

#: Options of ``tckgen`` by kind of connectome, as the quick structural workflow has them.
_TRACKING = {
    "SCifod2act": "-algorithm iFOD2 -act tissues.nii.gz -minlength 2.5 -step 1.25 -angle 45",
    "SCsdstream": "-algorithm SD_STREAM -minlength 6.25 -step 0.4 -angle 60 -downsample 3",
}


def track_template(
    work_dir: Path, population: Population, *, n_streamlines: int, n_threads: int = 1
) -> dict[str, Tractogram]:
    """Simulate the template's diffusion series and track it.

    Parameters
    ----------
    work_dir
        Folder for intermediate files.
    population
        Its mean fibre density is tracked.
    n_streamlines
        Of each tractogram.
    n_threads
        Of the steps that give the same result with any number.

    Returns
    -------
    dict
        By kind, ``SCifod2act`` and ``SCsdstream``.

    Raises
    ------
    ResourceError
        If MRtrix3 is missing or fails.
    """
    _write_series(work_dir, population)
    threads = f"-nthreads {n_threads if n_threads > 1 else 0}"
    for command in (
        "mrconvert dwi.nii.gz dwi.mif -fslgrad dwi.bvec dwi.bval -strides 0,0,0,1",
        f"dwi2response dhollander dwi.mif wm.txt gm.txt csf.txt -mask mask.nii.gz {threads}",
        f"dwi2fod msmt_csd {_TISSUES} -mask mask.nii.gz -lmax {_LMAX},0,0 {threads}",
        "mrconvert fod.mif -coord 3 0 -axes 0,1,2 density.mif",
        "mrcalc density.mif 0 -max seeds.mif",
    ):
        _run(command, work_dir)

    def track(kind: str) -> Tractogram:
        # Without worker threads MRtrix3 repeats its random numbers, so each kind has a process.
        _run(
            f"tckgen fod.mif {kind}.tck {_TRACKING[kind]} -seed_rejection seeds.mif "
            f"-cutoff 0.06 -maxlength 300 -select {n_streamlines} -nthreads 0",
            work_dir,
        )
        return read_tractogram(work_dir / f"{kind}.tck")

    with ThreadPoolExecutor(min(n_threads, len(_TRACKING))) as pool:
        return dict(zip(_TRACKING, pool.map(track, _TRACKING), strict=True))


def _write_series(work_dir: Path, population: Population) -> None:
    """Write series, gradients, mask and tissues of the template; MNI space is its ACPC space."""
    geometry = template_geometry()
    rng = np.random.default_rng(_SEED)
    acquisition = plan_acquisition(_SHELLS, rng)
    grid = acpc_grid(geometry, voxel_mm=_VOXEL_MM)
    data, brain = simulate_diffusion(
        grid, geometry, acquisition, population=population, factors=np.zeros(N_FACTORS), rng=rng
    )
    write_image(work_dir / "dwi.nii.gz", data, grid.affine)
    write_image(work_dir / "mask.nii.gz", brain.astype(np.uint8), grid.affine)
    write_gradients(str(work_dir / "dwi"), acquisition, grid.affine)
    tissues = tissues_from_labels(segment_template()).astype(np.uint8)
    write_image(work_dir / "tissues.nii.gz", tissues, AFFINE)


def read_tractogram(path: Path) -> Tractogram:
    """Read ends of streamlines and places along them from a ``.tck`` file."""
    streamlines = nib.streamlines.load(path).streamlines
    starts = np.asarray(streamlines._offsets)  # noqa: SLF001 - the only way without a loop
    lengths = np.asarray(streamlines._lengths)  # noqa: SLF001 - likewise
    shares = np.linspace(0, 1, _N_SAMPLES)
    picked = starts[:, None] + np.rint(shares * (lengths[:, None] - 1)).astype(int)
    samples = np.asarray(streamlines.get_data()[picked], dtype=np.float64)
    return Tractogram(ends=samples[:, [0, -1]], samples=samples)


def _run(command: str, work_dir: Path) -> None:
    """Run one MRtrix3 program; its complaint becomes ours."""
    words = command.split()
    program = shutil.which(words[0])
    if program is None:
        raise ResourceError(
            f"program '{words[0]}' is not there", fix="Install MRtrix3: apt-get install mrtrix3."
        )
    environment = {**os.environ, "MRTRIX_QUIET": "1", "MRTRIX_RNG_SEED": str(_SEED)}
    done = subprocess.run(
        [program, *words[1:]], cwd=work_dir, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ResourceError(
            f"{words[0]} failed: {last[0]}", where=str(work_dir), fix="Look at MRtrix3's set-up."
        )
