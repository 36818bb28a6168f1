# SPDX-License-Identifier: MIT
"""HDF5 files of predictions, as inputs; `kraken_bids.bids.prediction_file` has the layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ...bids.prediction_file import ENCODED, PARTICIPANTS, damaged, list_predictions
from ...connectome.edges import n_edges
from ...errors import InputError, UsageError, suggest
from ...hdf5_loading import UNREADABLE, plain_dataset
from ..inputs import FlavorInput, ReadRows, Wanted
from .checks import check_rows, matrix_rows


def open_hdf5(path: Path, wanted: Wanted) -> dict[str, FlavorInput]:
    """Open a file of predictions as input; rows are read when they are asked for.

    Parameters
    ----------
    path
        File that `write_hdf5` made, or that of a session of kraken-bids.
    wanted
        What is asked for; without a model (no `n_edges`) all flavors are. A flavor that the
        file has from several sources is refused: nothing says which of them is meant.

    Returns
    -------
    dict
        Connectomes by flavor; latents, where no flavor is asked for by name, by their source if
        that is a fusion, else as ``encoded``.

    Raises
    ------
    InputError
        If the file is damaged, has no participants, or nothing that is wanted.
    UsageError
        If it has what is wanted from several sources.
    """
    try:
        with h5py.File(path) as file:
            pairs = tuple(list_predictions(file))
            if PARTICIPANTS not in file or not pairs:
                raise InputError(
                    "is no HDF5 file of predictions: it has no sources or no participants",
                    where=str(path),
                    fix="Give connectomes in a .mat, .npy or .npz file, or a folder of tables.",
                )
            ids = plain_dataset(file, PARTICIPANTS, file=path).asstr()[:]
            participants = tuple(item.removeprefix("sub-") for item in ids)
            shapes = {
                (source, target): plain_dataset(file[source], target, file=path).shape
                for source, target in pairs
            }
    except UNREADABLE as error:
        raise damaged(path, error) from error
    _refuse_twice(participants, path)
    return {
        name: _input(name, pair, path, participants, shapes[pair], wanted)
        for name, pair in _choose(pairs, wanted, path).items()
    }


def _refuse_twice(participants: Sequence[str], path: Path) -> None:
    twice = sorted(one for one, count in Counter(participants).items() if count > 1)
    if twice:
        raise InputError(
            f"has participants twice: {', '.join(twice[:5])}",
            where=str(path),
            fix="Leave one of each.",
        )


def _choose(
    pairs: Sequence[tuple[str, str]], wanted: Wanted, path: Path
) -> dict[str, tuple[str, str]]:
    """Source and target to read by the name of the input."""
    connectomes: dict[str, list[tuple[str, str]]] = {}
    latents: dict[str, list[tuple[str, str]]] = {}
    for pair in pairs:
        source, target = pair
        if target == ENCODED:
            name = source if source.startswith("fusion") else ENCODED
            latents.setdefault(name, []).append(pair)
        elif target in wanted.n_edges or not wanted.n_edges:
            connectomes.setdefault(target, []).append(pair)
    known = {**connectomes, **latents}
    if wanted.name == ENCODED and ENCODED not in latents:
        # Latents of a fusion are latents; asked for as such, they are meant.
        known[ENCODED] = [pair for found in latents.values() for pair in found]
    if wanted.name:
        if not known.get(wanted.name):
            raise InputError(
                f"has no {wanted.name}", where=str(path), fix=suggest(wanted.name, known) + "."
            )
        chosen = {wanted.name: known[wanted.name]}
    else:
        chosen = connectomes or (latents if wanted.latent_size else {})
    if not chosen:
        raise InputError(
            "has no flavor that the model has",
            where=str(path),
            fix=f"It has {', '.join(sorted({target for _, target in pairs}))}.",
        )
    return {name: _only(name, found, path) for name, found in chosen.items()}


def _only(name: str, found: Sequence[tuple[str, str]], path: Path) -> tuple[str, str]:
    if len(found) > 1:
        raise UsageError(
            f"has {name} from {len(found)} sources: {', '.join(source for source, _ in found)}",
            where=str(path),
            fix="Make a file of one source, with '--predict-from SOURCE'.",
        )
    return found[0]


def _input(
    name: str,
    pair: tuple[str, str],
    path: Path,
    participants: tuple[str, ...],
    shape: tuple[int, ...],
    wanted: Wanted,
) -> FlavorInput:
    """Make the input of one data set, once its size is that of the model."""
    is_latent = pair[1] == ENCODED
    found = n_edges(shape[1]) if len(shape) == 3 else (0, *shape)[-1]
    expected = wanted.latent_size if is_latent else wanted.n_edges.get(name, found)
    if shape[:1] != (len(participants),) or len(shape) not in {2, 3} or found != expected:
        raise InputError(
            f"has {' x '.join(map(str, shape))} values of {name} for {len(participants)} "
            f"participants, not {len(participants)} x {expected}",
            where=str(path),
            fix="Give predictions of the flavors and the atlas that the model has.",
        )
    read = _reader(path, "/".join(pair), participants, name)
    return FlavorInput(name, str(path), participants, len(participants), found, read)


def _reader(path: Path, dataset: str, participants: Sequence[str], name: str) -> ReadRows:
    """Make the function that reads rows of a data set."""

    def read(positions: Sequence[int]) -> NDArray[np.float32]:
        try:
            with h5py.File(path) as file:
                stored = file[dataset]
                dense = slice(positions[0], positions[-1] + 1)
                block = stored[dense if _is_dense(positions) else list(positions)]
            rows = np.asarray(block, dtype=np.float32)
        except UNREADABLE as error:
            raise damaged(path, error) from error
        ids = [participants[position] for position in positions]
        if rows.ndim == 3:
            rows = matrix_rows(rows, ids, name=name, where=str(path))
        check_rows(rows, ids, name=name, where=str(path))
        return rows

    return read


def _is_dense(positions: Sequence[int]) -> bool:
    """Say whether increasing positions have no gaps: those are read some ten times faster."""
    return positions[-1] - positions[0] + 1 == len(positions)
