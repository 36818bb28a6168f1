# SPDX-License-Identifier: MIT
"""``kraken-model train``: files of connectomes to a trained model."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ..atlases import load_atlas
from ..connectome.edges import n_edges
from ..errors import InputError
from ..flavors import Flavor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_log = logging.getLogger(__name__)

#: Epochs between two lines of the log.
TELL_EVERY = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``train``."""
    from ..model.training import TrainingOptions as Default

    parser.add_argument(
        "--input", nargs="+", required=True, metavar="FLAVOR=FILE",
        help=".mat, .npy or .npz, a flavor each; participants are matched by id",
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
    """Read all flavors; keep the participants that have all of them.

    Raises
    ------
    InputError
        If nobody has.
    """
    import numpy as np

    from ..model.inputs import match_participants, read_table
    from .options import parse_pairs

    tables = {}
    for name, file in parse_pairs(texts, "--input").items():
        n_regions = load_atlas(Flavor.parse(name).atlas).n_regions
        tables[name] = read_table(Path(file), name, n_columns=n_edges(n_regions))
    participants, rows = match_participants(tables)
    complete = np.all([~np.isnan(values).all(axis=1) for values in rows.values()], axis=0)
    if not complete.any():
        raise InputError(
            f"none of {len(participants)} participants has all {len(rows)} flavors",
            where="--input",
            fix="Look at the ids in the files: are they written alike?",
        )
    if not complete.all():
        _log.warning(
            "%d of %d participants are left out: they lack a flavor",
            np.count_nonzero(~complete),
            len(participants),
        )
    return {name: values[complete] for name, values in rows.items()}
