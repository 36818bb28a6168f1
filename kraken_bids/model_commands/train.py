# SPDX-License-Identifier: MIT
"""``kraken-model train``: files of connectomes to a trained model."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ..atlases import atlas_names, load_atlas
from ..errors import InputError, KrakenBIDSError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..formats.inputs import FlavorInput

_log = logging.getLogger(__name__)

#: Epochs between two lines of the log.
TELL_EVERY = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``train``."""
    from ..model.training import TrainingOptions as Default

    parser.add_argument(
        "--input", nargs="+", required=True, metavar="FLAVOR=PATH",
        help="connectomes of any atlas: .mat, .npy, .npz, .csv, .tsv, .h5, .zip or a folder; "
        "participants are matched by id",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="bundle to make")
    for option, default, text in (
        ("--components", Default.n_components, "features of each flavor's PCA"),
        ("--latent-size", Default.latent_size, "length of a latent"),
        ("--epochs", Default.epochs, "passes over the participants"),
        ("--batch-size", Default.batch_size, "participants a step"),
        ("--learning-rate", Default.learning_rate, "at the start; it falls to zero"),
        ("--weight-decay", Default.weight_decay, "of AdamW"),
        ("--dropout", Default.dropout, "share of latent values dropped while training"),
        ("--seed", Default.seed, "of all random numbers"),
    ):
        parser.add_argument(
            option, type=type(default), default=default, metavar="N",
            help=f"{text} (default: {default})",
        )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu, or cuda[:n] (default: auto)")


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``train``."""
    from ..model.krakencoder import resolve_device
    from ..model.training import train_krakencoder

    device = resolve_device(arguments.device)
    connectomes = _read_cohort(arguments.input)
    bundle = train_krakencoder(
        connectomes,
        arguments.output,
        n_components=arguments.components,
        latent_size=arguments.latent_size,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        weight_decay=arguments.weight_decay,
        dropout=arguments.dropout,
        seed=arguments.seed,
        device=device,
        progress=lambda epoch, loss: _tell(epoch, arguments.epochs, loss),
    )
    _log.info("%s: %d flavors, SHA-256 %s", bundle.path, len(bundle.flavors), bundle.sha256)
    return 0


def _tell(epoch: int, n_epochs: int, loss: float) -> None:
    if epoch % TELL_EVERY == 0 or epoch in {1, n_epochs}:
        _log.info("epoch %d of %d, loss %.4g", epoch, n_epochs, loss)


def _read_cohort(texts: list[str]) -> dict[str, NDArray[np.float32]]:
    """Read all flavors, of any atlas; keep the participants that have all edges of all.

    Raises
    ------
    InputError
        If nobody has.
    """
    import numpy as np

    from ..formats.reading.checks import name_some
    from ..formats.reading.matching import match_inputs
    from ..formats.reading.opening import open_inputs, raise_all

    inputs = open_inputs(texts, {}, latent_size=0)
    raise_all([problem for found in inputs.values() if (problem := _check_atlas(found))])
    matched = match_inputs(inputs)
    n = len(matched.participants)
    rows = {name: matched.read(name, 0, n) for name in matched.inputs}
    for name, values in rows.items():
        partly = np.isnan(values).any(axis=1) & ~np.isnan(values).all(axis=1)
        if partly.any():
            who = [matched.participants[row] for row in np.flatnonzero(partly).tolist()]
            _log.warning("%s: participants %s lack single edges", name, name_some(who))
    complete = np.all([~np.isnan(values).any(axis=1) for values in rows.values()], axis=0)
    if not complete.any():
        raise InputError(
            f"none of {n} participants has all edges of all {len(rows)} flavors",
            where="--input",
            fix="Look at the ids in the files: are they written alike? Are regions missing?",
        )
    if not complete.all():
        _log.warning(
            "%d of %d participants are left out: they lack a flavor or edges",
            np.count_nonzero(~complete),
            n,
        )
    return {name: values[complete] for name, values in rows.items()}


def _check_atlas(found: FlavorInput) -> KrakenBIDSError | None:
    """Hold an input against the atlas that its flavor names, if that is known."""
    from ..connectome.edges import n_regions

    atlas, size = found.name.split("_")[1], n_regions(found.n_columns)
    if atlas in atlas_names():
        expected = load_atlas(atlas).n_regions
        if size == expected:
            return None
        return InputError(
            f"holds {size} regions, atlas '{atlas}' has {expected}",
            where=f"{found.name} in {found.where}",
            fix="Name the atlas that these connectomes were made with.",
        )
    alike = [name for name in atlas_names() if sorted(name) == sorted(atlas)]
    if alike and load_atlas(alike[0]).n_regions == size:
        return UsageError(
            f"atlas '{atlas}' is unknown",
            where=f"--input {found.name}={found.where}",
            fix=f"Did you mean '{alike[0]}', which has {size} regions, too?",
        )
    _log.info("%s: atlas '%s' with %d regions", found.name, atlas, size)
    return None
