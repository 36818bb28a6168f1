# SPDX-License-Identifier: MIT
"""From a cohort with all flavors to a model: transforms, epochs, and the bundle."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ... import __version__
from ...errors import ModelError
from ..bundle import Bundle, write_bundle
from ..krakencoder import batch_rows
from ..layers import FlavorModel
from ..transforms import Transform
from .cohort_checks import check_cohort, check_target
from .losses import Loss, parse_loss
from .options import SCHEDULES, TrainingOptions
from .pca import fit_pca
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
from .scratch import Scratch
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
    with _one_thread():
        features = {}
        for name, values in connectomes.items():
            features[name] = _features(
                name, values, options, split, transforms, device, scratch or Scratch()
            )
        run = _Run(features, split, options, records, device, target)
        run.train(progress)
    return _write(run, out_dir, connectomes, transforms, dict(provenance or {}))


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


class _Run:
    """One training: its data, its network, and how far it has come."""

    def __init__(
        self,
        features: Mapping[str, NDArray[np.float32]],
        split: Split,
        options: TrainingOptions,
        records: Records | None,
        device: str,
        target: NDArray[np.float32] | None = None,
    ) -> None:
        from .network import Network

        self.options, self.split, self.device = options, split, device
        self.loss: Loss = parse_loss(options.loss)
        sizes = {name: values.shape[1] for name, values in features.items()}
        self.network: Network = Network.initial(
            sizes, [group_of(name) for name in features], options, device
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
        from .targets import targeted_epoch

        network, features, loss = self.network, self._train, self.loss
        if self._goal is not None:
            return targeted_epoch(network, features, self._goal, loss, self.n_epochs)
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


def _write(
    run: _Run,
    out_dir: Path,
    connectomes: Mapping[str, NDArray[np.floating]],
    transforms: Mapping[str, Transform],
    provenance: dict[str, Any],
) -> Bundle:
    """Write a trained network as a bundle."""
    options, network = run.options, run.network
    encoders, decoders = network.layers()
    flavors = {
        name: FlavorModel(
            n_edges=connectomes[name].shape[1],
            transform=transforms[name],
            encoder=encoders[row],
            decoder=decoders[row],
            group=network.group_names[network.groups[row]] if network.crossings else "",
        )
        for row, name in enumerate(network.names)
    }
    known = {name: transforms[name].explained_variance for name in network.names}
    return write_bundle(
        out_dir,
        flavors=flavors,
        latent_size=options.latent_size,
        intergroup=network.crossing_layers(),
        provenance={
            "method": "each flavor is trained to latents that are there already"
            if run.is_targeted
            else SCHEDULES[options.schedule].description,
            "versions": versions(),
            "device": run.device,
            "options": asdict(options),
            "n_participants": int(run.split.train.size),
            "n_validation": int(run.split.validation.size),
            "n_test": int(run.split.test.size),
            "n_epochs": run.best_epoch if options.early_stopping else run.n_epochs,
            "final_loss": run.final_loss,
            "validation": run.validated,
            "explained_variance": {name: kept for name, kept in known.items() if kept is not None},
            **provenance,
        },
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: sums are then made in the same order each time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
