# SPDX-License-Identifier: MIT
"""The demo's model: trained on a simulated cohort, none of whom is in the data set."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ..atlases import load_atlas
from ..errors import InputError
from .cohort import fs86_labels, simulate_functional, simulate_structural
from .population import draw_factors, make_population
from .template import SHAPE
from .tractography import track_template

#: Streamlines of the template's tractograms, and of the participants' that noise is like.
_N_STREAMLINES = 30_000
_N_PARTICIPANT_STREAMLINES = 20_000
_N_COMPONENTS = 48
#: Half of the default: the simulated cohort is learned by then. Of 80 people of fs86 who did not
#: train, 0.71, 0.72 and 0.72 are told apart at first by predictions from one flavor after 120, 240
#: and 480 epochs, and 0.88, 0.91 and 0.92 by those from fused latents.
_N_EPOCHS = 240


def make_model(
    out_dir: Path,
    data_dir: Path,
    *,
    n_participants: int = 150,
    seed: int = 1,
    n_threads: int = 1,
    progress: Callable[[str], None],
) -> None:
    """Simulate a cohort and train a model on it.

    Parameters
    ----------
    out_dir
        Folder of the bundle.
    data_dir
        The simulated data set: the cohort has its atlases and its length of runs.
    n_participants
        Size of the cohort.
    seed
        Of the cohort's factors and noise, and of the training.
    n_threads
        Threads.
    progress
        Called with a line for each step.

    Raises
    ------
    InputError
        If `data_dir` is not a simulated data set.
    ResourceError
        If MRtrix3 is missing or fails.
    """
    from ..model.training import train_krakencoder

    labels, n_volumes = _read_dataset(data_dir)
    population = make_population()
    factors = draw_factors(n_participants, np.random.default_rng([seed, 10]))
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(1) as pool,
        threadpool_limits(1),
    ):
        progress("track the template, simulate functional connectomes")
        tracking = pool.submit(
            track_template, Path(folder), population,
            n_streamlines=_N_STREAMLINES, n_threads=n_threads,
        )  # fmt: skip
        cohort = simulate_functional(
            labels, population, factors, n_volumes=n_volumes,
            rng=np.random.default_rng([seed, 11]),
        )  # fmt: skip
        tractograms = tracking.result()
    progress("simulate structural connectomes")
    cohort |= simulate_structural(
        tractograms, labels, population, factors, n_streamlines=_N_PARTICIPANT_STREAMLINES,
        rng=np.random.default_rng([seed, 12]),
    )  # fmt: skip
    progress(f"train on {n_participants} simulated participants")
    train_krakencoder(
        dict(sorted(cohort.items())), out_dir,
        n_components=min(_N_COMPONENTS, n_participants - 1), epochs=_N_EPOCHS, seed=seed,
    )  # fmt: skip


def _read_dataset(data_dir: Path) -> tuple[dict[str, NDArray[np.integer]], int]:
    """Label images by atlas, and the number of volumes of a run."""
    runs = sorted(data_dir.glob("derivatives/fmriprep/sub-*/func/*_desc-preproc_bold.nii.gz"))
    images = sorted(data_dir.glob("atlases/*_dseg.nii.gz"))
    labels: dict[str, NDArray[np.integer]] = {"fs86": fs86_labels()}
    for image in images:
        labels[image.name.split("_")[0]] = np.asarray(nib.Nifti1Image.from_filename(image).dataobj)
    if not runs or not images or any(array.shape != SHAPE for array in labels.values()):
        raise InputError(
            "is not a simulated data set", where=str(data_dir), fix="Make one: kraken-demo data."
        )
    for name, array in labels.items():
        if array.max() != load_atlas(name).n_regions:
            raise InputError(
                f"label image of {name} ends at {array.max()}",
                where=str(data_dir),
                fix="Make the data set again: kraken-demo data.",
            )
    return labels, int(nib.Nifti1Image.from_filename(runs[0]).shape[3])
