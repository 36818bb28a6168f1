# SPDX-License-Identifier: MIT
"""One training: epochs, looks at those who watch, and checkpoints."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ... import __version__
from ...errors import ModelError
from .losses import Loss, parse_loss
from .options import TrainingOptions
from .records import (
    CHECKPOINT_NAME,
    LOG_NAME,
    PAIRS_NAME,
    TARGET_LATENTS,
    Checkpoint,
    Pairs,
    TrainingLog,
    fingerprint,
    read_checkpoint,
)
from .splits import Split

if TYPE_CHECKING:
    from torch import Tensor

    from .network import Network
    from .schedules import EpochLoss

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Records:
    """Where and how often a training leaves records.

    Parameters
    ----------
    folder
        Of ``training.tsv``, ``checkpoint.npz`` and, at the end, ``validation.tsv``.
    every
        Epochs between two checkpoints.
    resume
        Whether to go on from the checkpoint in the folder.
    """

    folder: Path
    every: int = 100
    resume: bool = False


class TrainingRun:
    """One training: its data, its network, and how far it has come."""

    def __init__(
        self,
        features: Mapping[str, NDArray[np.float32]],
        split: Split,
        options: TrainingOptions,
        records: Records | None,
        device: str,
        target: NDArray[np.float32] | None = None,
        *,
        n_threads: int = 1,
    ) -> None:
        from .network import Network

        self.options, self.split, self.device = options, split, device
        self.loss: Loss = parse_loss(options.loss)
        sizes = {name: values.shape[1] for name, values in features.items()}
        self.network: Network = Network.initial(
            sizes, [group_of(name) for name in features], options, device, n_threads=n_threads
        )
        padded = _padded(list(features.values()))
        self._train, self._validation = (
            _tensor(padded[:, rows], device) for rows in (split.train, split.validation)
        )
        self._goal, self._validation_goal = (
            None if target is None else _tensor(target[rows], device)
            for rows in (split.train, split.validation)
        )
        self.n_epochs, self.final_loss = 0, float("nan")
        self.validated: dict[str, float] = {}
        self.best_rank, self.best_epoch = -np.inf, 0
        self._best: list[NDArray[np.float32]] = []
        self._records = records
        self._log: TrainingLog | None = None
        given = [padded[:, split.train], *([] if target is None else [target[split.train]])]
        self._fingerprint = fingerprint(given, options, versions())
        if records is not None:
            self._start(records)

    def _start(self, records: Records) -> None:
        """Go on from a checkpoint if asked to; begin or continue the table."""
        if records.resume:
            found = read_checkpoint(records.folder / CHECKPOINT_NAME, expected=self._fingerprint)
            self.n_epochs = found.n_epochs
            self.best_rank, self.best_epoch = found.best_rank, found.best_epoch
            self._best = found.best_state
            self._set(found.state)
        self._log = TrainingLog(records.folder / LOG_NAME, n_epochs=self.n_epochs)

    def train(self, progress: Callable[[int, float], None] | None) -> None:
        """Train the epochs that are left."""
        start = time.monotonic()
        while self.n_epochs < self.options.epochs and not self._is_stale():
            found = self._train_epoch()
            self.n_epochs += 1
            self.final_loss = _finite(found, self.network, self.n_epochs)
            self._look()
            self._record(time.monotonic() - start, found)
            if progress is not None:
                progress(self.n_epochs, self.final_loss)
        if self._best:
            _log.info("The weights of epoch %d are taken", self.best_epoch)
            self._set(self._best)
        self._finish()

    def _finish(self) -> None:
        """Validate the weights that are kept, which need not be the last ones."""
        from .validation import validate

        if self._records is not None:
            (self._records.folder / PAIRS_NAME).unlink(missing_ok=True)
        if not self.split.validation.size:
            return
        found = validate(self.network, self._validation, self.loss, self._validation_goal)
        self.validated = found.means()
        if self._records is not None:
            names = self.network.names
            sources = (*names, *([TARGET_LATENTS] if self.is_targeted else []))
            pairs = Pairs(self.split.validation.size, sources, names, vars(found))
            pairs.write(self._records.folder / PAIRS_NAME)

    @property
    def is_targeted(self) -> bool:
        """Whether flavors are trained to given latents."""
        return self._goal is not None

    def _train_epoch(self) -> EpochLoss:
        from .schedules import EPOCHS
        from .targets import TARGETED_EPOCHS

        network, features, loss = self.network, self._train, self.loss
        if self._goal is not None:
            train = TARGETED_EPOCHS[self.options.schedule]
            return train(network, features, self._goal, loss, self.n_epochs)
        return EPOCHS[self.options.schedule](network, features, loss, self.n_epochs)

    def _is_stale(self) -> bool:
        patience = self.options.early_stopping
        return bool(patience) and self.n_epochs - self.best_epoch >= patience

    def _look(self) -> None:
        """Validate, every some epochs and in the last one."""
        from .validation import validate

        self.validated = {}
        due = self.n_epochs % self.options.validate_every == 0
        if not self.split.validation.size or not (due or self.n_epochs == self.options.epochs):
            return
        found = validate(self.network, self._validation, self.loss, self._validation_goal)
        self.validated = found.means()
        rank = self.validated["average_rank"]
        if self.options.early_stopping and rank > self.best_rank:
            self.best_rank, self.best_epoch, self._best = rank, self.n_epochs, self._state()

    def _record(self, seconds: float, found: EpochLoss) -> None:
        if self._records is None or self._log is None:
            return
        values = {
            "epoch": self.n_epochs,
            "seconds": seconds,
            "loss": self.final_loss,
            "latent_distance_loss": found.between,
        }
        values |= {f"validation_{name}": value for name, value in self.validated.items()}
        self._log.add(values)
        if self.n_epochs % self._records.every == 0 or self.n_epochs == self.options.epochs:
            Checkpoint(
                self._fingerprint, self.n_epochs, self._state(),
                float(self.best_rank), self.best_epoch, self._best,
            ).write(self._records.folder / CHECKPOINT_NAME)  # fmt: skip

    def _state(self) -> list[NDArray[np.float32]]:
        arrays = [tensor for part in self.network.parts for tensor in part.state()]
        return [array.detach().cpu().numpy().copy() for array in arrays]

    def _set(self, state: list[NDArray[np.float32]]) -> None:
        import torch

        arrays = [tensor for part in self.network.parts for tensor in part.state()]
        with torch.no_grad():
            for array, values in zip(arrays, state, strict=True):
                array.copy_(torch.from_numpy(values))


def group_of(flavor: str) -> str:
    """Group that transforms between groups go by: ``fc`` or ``sc``."""
    return "fc" if flavor.lower().startswith("fc") else "sc"


def _padded(features: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Stack flavors, (n_flavors, n, largest n_features), padded with zeros."""
    width = max(values.shape[1] for values in features)
    found = np.zeros((len(features), len(features[0]), width), dtype=np.float32)
    for row, values in enumerate(features):
        found[row, :, : values.shape[1]] = values
    return found


def _tensor(values: NDArray[np.float32], device: str) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(values)).to(device)


def _finite(found: EpochLoss, network: Network, epoch: int) -> float:
    """Mean loss of an epoch; a training that went astray is stopped, and where is told."""
    mean = found.mean + found.between
    if np.isfinite(mean):
        return mean
    names = network.names
    bad = (~np.isfinite(found.output.numpy())).nonzero()
    pairs = [f"{names[i]} to {names[k]}" for i, k in zip(*bad, strict=True)]
    bad = (~np.isfinite(found.latent.numpy())).nonzero()
    pairs += [f"latents of {names[i]}" for i in bad[0]]
    raise ModelError(
        f"the loss of epoch {epoch} is {mean}",
        where=f"{', '.join(pairs[:3])}{' and others' * (len(pairs) > 3)}",
        fix="Lower the learning rate.",
    )


def versions() -> dict[str, str]:
    """Versions of what computes a model's weights."""
    import torch

    return {"kraken-bids": __version__, "numpy": np.__version__, "torch": torch.__version__}
