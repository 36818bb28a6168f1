# SPDX-License-Identifier: MIT
"""What cannot be trained on, refused before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from ...errors import KrakenBIDSError, ModelError, Problems, UsageError
from ..connectome_rows import batch_rows
from ..transforms import Transform
from .options import TrainingOptions
from .splits import Split


def check_precision(options: TrainingOptions, device: str) -> None:
    """Refuse a precision that a GPU does not compute in.

    Raises
    ------
    UsageError
        If it does not.
    """
    if options.precision == "float32" or device == "cpu":
        return
    import torch

    # of NVIDIA's, those since Ampere; older ones only imitate it
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        raise UsageError(
            f"{options.precision} cannot be computed in by {torch.cuda.get_device_name(device)}",
            where="--precision",
            fix="Leave it out.",
        )


def check_target_options(options: TrainingOptions) -> None:
    """Refuse latent spaces of groups where flavors are trained to latents of one space.

    Raises
    ------
    UsageError
        If they are asked for.
    """
    if options.intergroup:
        raise UsageError(
            "does not go with latents that are there already, which are of one space",
            where="--intergroup",
            fix="Leave it out.",
        )


def check_target(
    latents: NDArray[np.floating] | None, options: TrainingOptions, n: int
) -> NDArray[np.float32] | None:
    """Refuse latents that flavors cannot be trained to.

    Raises
    ------
    ModelError
        If they are of other participants or another size, or not finite.
    UsageError
        If the options do not go with them.
    """
    if latents is None:
        return None
    check_target_options(options)
    if latents.shape != (n, options.latent_size):
        raise ModelError(
            f"target latents are of shape {latents.shape}, {n} participants with latents of "
            f"{options.latent_size} values are trained",
            fix="Give a latent of each participant, and their length as latent_size.",
        )
    if not np.isfinite(latents).all():
        raise ModelError(
            "target latents hold NaN or infinity", fix="Leave out these participants."
        )
    return np.ascontiguousarray(latents, dtype=np.float32)


def check_cohort(
    connectomes: Mapping[str, NDArray[np.floating]],
    options: TrainingOptions,
    split: Split,
    transforms: Mapping[str, Transform],
) -> None:
    """Refuse a cohort that cannot be trained on; all that is wrong is told.

    Raises
    ------
    ModelError
        See `train_krakencoder`; `Problems` if several.
    """
    problems = list(_cohort_problems(connectomes, options, split, transforms))
    if problems:
        raise problems[0] if len(problems) == 1 else Problems(problems)


def _cohort_problems(
    connectomes: Mapping[str, NDArray[np.floating]],
    options: TrainingOptions,
    split: Split,
    transforms: Mapping[str, Transform],
) -> Iterator[KrakenBIDSError]:
    if not connectomes:
        yield ModelError("no flavor to train on", fix="Give the connectomes of a flavor or more.")
        return
    counts = {name: len(array) for name, array in connectomes.items()}
    if len(set(counts.values())) > 1:
        yield ModelError(
            f"flavors differ in their number of participants: {counts}",
            fix="Give the same participants, in the same order, for each flavor.",
        )
        return
    n = split.train.size
    fitted = [name for name in connectomes if name not in transforms]
    if fitted and not 0 < options.n_components < n:
        yield ModelError(
            f"{options.n_components} components cannot be fitted to {n} participants",
            fix=(f"Ask for 1 to {n - 1} components, or train" if n > 1 else "Train")
            + " on more participants.",
        )
    least = options.batch_size if options.schedule == "reference" else 2
    if n < least:
        yield ModelError(
            f"{n} training participants do not fill a batch of {least}",
            fix=("Ask for smaller batches, or train" if least > 2 else "Train")
            + " on more participants.",
        )
    if split.validation.size == 1 or (options.early_stopping and not split.validation.size):
        yield ModelError(
            f"{split.validation.size} validation participants cannot be told from each other",
            fix="Set more participants aside for validation, or none and no early stopping.",
        )
    for name, array in connectomes.items():
        rows = _broken_rows(array)
        if rows:
            yield ModelError(
                f"{len(rows)} of {len(array)} connectomes hold NaN or infinity, the first in row "
                f"{rows[0]}",
                where=name,
                fix="Leave these participants out, or fill the edges of missing regions.",
            )
        known = transforms[name].n_edges if name in transforms else None
        if known not in {None, array.shape[1]}:
            yield ModelError(
                f"has {array.shape[1]} edges, its transform takes {known}",
                where=name,
                fix="Give the transform of this flavor and atlas.",
            )


def _broken_rows(array: NDArray[np.floating]) -> list[int]:
    """Find rows that hold NaN or infinity, a block at a time."""
    size = batch_rows(array.shape[1])
    found: list[int] = []
    for start in range(0, len(array), size):
        is_whole = np.isfinite(array[start : start + size]).all(axis=1)
        found += (start + np.flatnonzero(~is_whole)).tolist()
    return found
