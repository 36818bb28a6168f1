# SPDX-License-Identifier: MIT
"""What every reader of connectome files gives: rows by participant, read some at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: Reads rows of an input: increasing positions -> (len(positions), n_columns), float32.
ReadRows = Callable[[Sequence[int]], NDArray[np.float32]]
#: Reads a whole matrix of an input: position -> (n_regions, n_regions), float64.
ReadSquare = Callable[[int], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class FlavorInput:
    """Connectomes of one flavor, or latents, that lie in files.

    Opening reads no more than the ids and sizes; `read` may be called again and again, and holds
    no more than the rows asked for (and what a format needs to get at them).

    Parameters
    ----------
    name
        Flavor, or the name of latents (``encoded``, ``fusion…``).
    where
        File or folder, for messages.
    participants
        (n,) ids without the prefix ``sub-``, in the order of the rows, each once; None if the
        file has none.
    n
        Number of rows.
    n_columns
        Number of edges, or of values of a latent.
    read
        Increasing positions among the rows -> (len(positions), n_columns), float32, edges in the
        order of `kraken_bids.connectome.edges`, NaN where an edge is missing. Raises `InputError`
        with participant, flavor and file for what cannot be read as a connectome.
    files
        (n,) file of each row; empty where all rows lie in `where`.
    read_square
        Reads a row as the matrix that its file holds, with the diagonal, in the atlas's order;
        checked as rows are. None where there are rows only.
    """

    name: str
    where: str
    participants: tuple[str, ...] | None
    n: int
    n_columns: int
    read: ReadRows
    files: tuple[str, ...] = ()
    read_square: ReadSquare | None = None


@dataclass(frozen=True)
class Wanted:
    """What a reader is asked for.

    Parameters
    ----------
    n_edges
        Number of edges by flavor, of the flavors that the model has. Empty where there is no
        model: then any flavor of any size is wanted.
    latent_size
        Number of values of a latent; 0 where latents are not wanted.
    name
        The one flavor (or name of latents) that the file was given for, as in ``FLAVOR=FILE``;
        empty if the file itself says which flavors it holds.
    """

    n_edges: Mapping[str, int]
    latent_size: int = 0
    name: str = ""


#: Opens a file or folder: its inputs by name. Flavors that the model lacks are left out, with a
#: line in the log; a file without any is an error.
Opener = Callable[[Path, Wanted], dict[str, FlavorInput]]


@dataclass(frozen=True, eq=False)
class MatchedInputs:
    """Inputs whose rows are brought to the same participants, by id.

    Parameters
    ----------
    participants
        Ids that any input has, in the order in which they are first met.
    inputs
        By flavor.
    positions
        By flavor, (n,) row of each participant in the input, -1 for those that it lacks.
    """

    participants: tuple[str, ...]
    inputs: Mapping[str, FlavorInput]
    positions: Mapping[str, NDArray[np.int64]]

    def has(self, name: str) -> NDArray[np.bool_]:
        """(n,), which participants an input has a row of."""
        return self.positions[name] >= 0

    def read(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Read some participants: (stop - start, n_columns), rows of NaN for those it lacks."""
        positions = self.positions[name][start:stop]
        rows = np.full((len(positions), self.inputs[name].n_columns), np.nan, dtype=np.float32)
        present = np.flatnonzero(positions >= 0)
        order = present[np.argsort(positions[present], kind="stable")]
        if order.size:
            rows[order] = self.inputs[name].read(positions[order].tolist())
        return rows

    def batches(self, name: str, size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Read all participants in order, `size` at a time: (first participant, rows)."""
        for start in range(0, len(self.participants), size):
            yield start, self.read(name, start, min(start + size, len(self.participants)))
