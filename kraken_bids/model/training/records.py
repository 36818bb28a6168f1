# SPDX-License-Identifier: MIT
"""What a training leaves behind while it runs: a table of its epochs, and checkpoints."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import ResourceError
from ...storage import atomic_path, parse_json
from .options import TrainingOptions

#: Names in the folder of records.
LOG_NAME, SPLIT_NAME, CHECKPOINT_NAME = "training.tsv", "split.tsv", "checkpoint.npz"
PAIRS_NAME = "validation.tsv"

#: What latents that are there already are called as a source.
TARGET_LATENTS = "target latents"

#: Columns of the table. Metrics are empty in epochs without a look at them.
COLUMNS = (
    "epoch", "seconds", "loss", "latent_distance_loss", "validation_loss", "validation_top1",
    "validation_average_rank", "validation_correlation",
)  # fmt: skip


class TrainingLog:
    """A table with a line an epoch, complete on disk at any time.

    Parameters
    ----------
    file
        TSV file.
    n_epochs
        Epochs that are kept of a table that exists: what a checkpoint has seen.
    """

    def __init__(self, file: Path, *, n_epochs: int = 0) -> None:
        self._file = file
        lines = ["\t".join(COLUMNS)]
        if n_epochs and file.exists():
            lines += file.read_text("utf-8").splitlines()[1 : n_epochs + 1]
        with atomic_path(file) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def add(self, values: Mapping[str, float]) -> None:
        """Add the line of an epoch."""
        cells = [_cell(values.get(name)) for name in COLUMNS]
        try:
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write("\t".join(cells) + "\n")
        except OSError as error:
            raise ResourceError(
                f"cannot be written: {error.strerror or error}",
                where=str(self._file),
                fix="Give a folder that you may write to, on a disk with room.",
            ) from error


def _cell(value: float | None) -> str:
    return "n/a" if value is None or math.isnan(value) else f"{value:.6g}"


def write_split(file: Path, participants: Sequence[str], labels: Sequence[str]) -> None:
    """Write who trained, as a table that `kraken-model train --split` reads.

    Parameters
    ----------
    file
        TSV file with columns ``participant_id`` and ``split``.
    participants, labels
        Ids without ``sub-``, and names of parts.
    """
    pairs = zip(participants, labels, strict=True)
    rows = ["participant_id\tsplit", *(f"sub-{name}\t{label}" for name, label in pairs)]
    with atomic_path(file) as temporary:
        temporary.write_text("\n".join(rows) + "\n", encoding="utf-8")


def read_log(file: Path) -> dict[str, NDArray[np.float64]]:
    """Read the table of the epochs: (n_epochs,) by column, NaN where it says nothing."""
    with _told(file):
        lines = file.read_text("utf-8").splitlines()
        rows = [line.split("\t") for line in lines[1:]]
        numbers = [[math.nan if cell == "n/a" else float(cell) for cell in row] for row in rows]
        table = np.array(numbers, dtype=np.float64).reshape(len(rows), -1)
        return {name: table[:, place] for place, name in enumerate(lines[0].split("\t"))}


@contextlib.contextmanager
def _told(file: Path) -> Iterator[None]:
    """Turn what a damaged table gives into words."""
    try:
        yield
    except (OSError, ValueError, IndexError) as error:
        raise ResourceError(
            f"is no table of a training ({error})", where=str(file), fix="Train again."
        ) from error


@dataclass(frozen=True, eq=False)
class Pairs:
    """Metrics of all pairs on those who watched, with the weights of the bundle.

    Parameters
    ----------
    n
        Participants.
    sources, targets
        Flavors; the last source is `TARGET_LATENTS` where flavors were trained to latents.
    values
        (n_sources, n_targets) by name, see `validation.PairMetrics`.
    """

    n: int
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    values: Mapping[str, NDArray[np.floating]]

    def write(self, file: Path) -> None:
        """Write a table with a row a pair."""
        rows = ["\t".join(["source", "target", "n", *self.values])]
        for i, source in enumerate(self.sources):
            for k, target in enumerate(self.targets):
                cells = [_cell(float(array[i, k])) for array in self.values.values()]
                rows.append("\t".join([source, target, str(self.n), *cells]))
        with atomic_path(file) as temporary:
            temporary.write_text("\n".join(rows) + "\n", encoding="utf-8")


def read_pairs(file: Path) -> Pairs | None:
    """Read what `Pairs.write` wrote; None if there is no file."""
    if not file.is_file():
        return None
    with _told(file):
        head, *rows = (line.split("\t") for line in file.read_text("utf-8").splitlines())
        sources, targets = (tuple(dict.fromkeys(row[place] for row in rows)) for place in (0, 1))
        shape = len(sources), len(targets)
        values = {
            name: np.array([row[place] for row in rows], dtype=np.float64).reshape(shape)
            for place, name in enumerate(head)
            if place > 2
        }
        return Pairs(int(rows[0][2]), sources, targets, values)


#: What damaged archives of arrays raise; NumPy parses their heads as Python.
_DAMAGE = (
    OSError, EOFError, ValueError, LookupError, TypeError, RuntimeError, SyntaxError, MemoryError,
    OverflowError, tokenize.TokenError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """All that an interrupted training needs to go on exactly.

    Random numbers follow from seed and epoch, so that there is no state of theirs to keep.

    Parameters
    ----------
    fingerprint
        Of data and options, see `fingerprint`.
    n_epochs
        Epochs done.
    state
        Arrays of the network, see `coders.Coders.state`.
    best_rank, best_epoch, best_state
        Best validation so far and the arrays then; empty where nobody watches.
    """

    fingerprint: str
    n_epochs: int
    state: list[NDArray[np.float32]]
    best_rank: float
    best_epoch: int
    best_state: list[NDArray[np.float32]]

    def write(self, file: Path) -> None:
        """Write it, whole or not at all."""
        arrays = {f"state_{i}": array for i, array in enumerate(self.state)}
        arrays |= {f"best_{i}": array for i, array in enumerate(self.best_state)}
        facts = {
            "fingerprint": self.fingerprint, "n_epochs": self.n_epochs,
            "best_rank": self.best_rank, "best_epoch": self.best_epoch,
            "n_arrays": len(self.state), "n_best": len(self.best_state),
        }  # fmt: skip
        with atomic_path(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, allow_pickle=False, facts=np.array(json.dumps(facts)), **arrays)


def read_checkpoint(file: Path, *, expected: str) -> Checkpoint:
    """Read a checkpoint; nothing in it is executed.

    Parameters
    ----------
    file
        As `Checkpoint.write` made it.
    expected
        Fingerprint of the training that is to go on.

    Raises
    ------
    ResourceError
        If there is none, it is damaged, or belongs to other data or options.
    """
    if not file.is_file():
        raise ResourceError(
            "does not exist: no checkpoint to go on from",
            where=str(file),
            fix="Leave out '--resume' to train from the start.",
        )
    try:
        with np.load(file, allow_pickle=False) as content:
            facts = parse_json(str(content["facts"]))
            found = Checkpoint(
                facts["fingerprint"],
                int(facts["n_epochs"]),
                [content[f"state_{i}"] for i in range(facts["n_arrays"])],
                float(facts["best_rank"]),
                int(facts["best_epoch"]),
                [content[f"best_{i}"] for i in range(facts["n_best"])],
            )
    except _DAMAGE as error:
        raise ResourceError(
            f"holds no checkpoint to go on from ({error})",
            where=str(file),
            fix="Leave out '--resume' to train from the start.",
        ) from error
    if found.fingerprint != expected:
        raise ResourceError(
            "belongs to a training on other data, or with other options",
            where=str(file),
            fix="Give the same inputs and options, or leave out '--resume'.",
        )
    return found


def fingerprint(
    features: Sequence[NDArray[np.float32]], options: TrainingOptions, versions: Mapping[str, str]
) -> str:
    """Give a text that differs where data, options or versions do."""
    digest = hashlib.sha256()
    for array in features:
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    digest.update(json.dumps([asdict(options), dict(versions)], sort_keys=True).encode())
    return digest.hexdigest()
