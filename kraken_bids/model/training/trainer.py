# SPDX-License-Identifier: MIT
"""From a cohort with all flavors to a model: transforms, epochs, and the bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..connectome_rows import batch_rows
from ..transforms import Transform
from .cohort_checks import check_cohort, check_precision, check_target
from .options import TrainingOptions
from .pca import fit_pca
from .run import Records, TrainingRun
from .scratch import Scratch
from .splits import Split
from .trained_bundle import write_trained


def train_krakencoder(
    connectomes: Mapping[str, NDArray[np.floating]],
    out_dir: Path,
    *,
    options: TrainingOptions | None = None,
    split: Split | None = None,
    transforms: Mapping[str, Transform] | None = None,
    target_latents: NDArray[np.floating] | None = None,
    records: Records | None = None,
    scratch: Scratch | None = None,
    device: str = "cpu",
    n_threads: int = 1,
    progress: Callable[[int, float], None] | None = None,
    provenance: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Bundle:
    """Train a model and write it as a bundle.

    Parameters
    ----------
    connectomes
        (n_participants, n_edges) by flavor, the same participants in the same order; no NaN. Of
        arrays that are mapped from files a block at a time is read.
    out_dir
        Folder of the bundle.
    options
        See `TrainingOptions`.
    split
        Who trains and who is watched; all train if it is not given. Transforms are fitted on
        those who train.
    transforms
        Transforms to use by flavor; of the others a PCA is fitted.
    target_latents
        (n_participants, latent_size), what latents are to become, in place of each other: the
        flavors are then added to the model whose latents these are (`merging.merge_bundles`).
    records
        Where to leave records; none if not given.
    scratch
        Room for components; memory if not given.
    device
        As torch names it: ``cpu``, ``cuda``, ``cuda:1``.
    n_threads
        A step of the joint schedule uses up to two. The model is the same, bit by bit, with any
        number.
    progress
        Called after each epoch with its number, from 1, and the mean loss.
    provenance
        More to say in the bundle.
    changes
        Fields of `options` to change.

    Returns
    -------
    Bundle

    Raises
    ------
    ModelError
        If flavors differ in their number of participants, there are too few for the components
        or the batch asked for, a connectome holds NaN, or the loss stops being a number.
    ResourceError
        If there is no checkpoint to go on from, or the folder cannot be written.
    UsageError
        If an option cannot be.
    """
    options = replace(options or TrainingOptions(), **changes).resolved()
    transforms = dict(transforms or {})
    n = len(next(iter(connectomes.values()), ()))
    split = split or Split.everyone(n)
    target = check_target(target_latents, options, n)
    check_cohort(connectomes, options, split, transforms)
    check_precision(options, device)
    with _one_thread():
        features = {}
        for name, values in connectomes.items():
            features[name] = _features(
                name, values, options, split, transforms, device, scratch or Scratch()
            )
        run = TrainingRun(features, split, options, records, device, target, n_threads=n_threads)
        run.train(progress)
    return write_trained(run, out_dir, connectomes, transforms, dict(provenance or {}))


def _features(
    name: str,
    values: NDArray[np.floating],
    options: TrainingOptions,
    split: Split,
    transforms: dict[str, Transform],
    device: str,
    scratch: Scratch,
) -> NDArray[np.float32]:
    """Transform a flavor, by a PCA of those who train if no transform is at hand."""
    if name in transforms:
        people = np.concatenate([split.train, split.validation])
        return _transformed(values, people, transforms[name])
    everyone = np.array_equal(split.train, np.arange(len(values)))
    fit = fit_pca(
        values, options.n_components, rows=None if everyone else split.train, device=device,
        where=name, empty=scratch.zeros,
    )  # fmt: skip
    transforms[name] = fit.transform
    found = _transformed(values, split.validation, fit.transform)
    found[split.train] = fit.scores
    return found


def _transformed(
    values: NDArray[np.floating], people: NDArray[np.intp], transform: Transform
) -> NDArray[np.float32]:
    """Transform some participants, a block at a time: (n, n_features), zeros for others."""
    found = np.zeros((len(values), transform.n_features or values.shape[1]), dtype=np.float32)
    size = batch_rows(values.shape[1])
    for start in range(0, len(people), size):
        rows = people[start : start + size]
        found[rows] = transform.forward(values[rows].astype(np.float32))
    return found


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute on one thread: sums are then made in the same order each time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
