# SPDX-License-Identifier: MIT
"""A trained network as a bundle, with how it came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle, write_bundle
from ..layers import FlavorModel
from ..transforms import Transform
from .options import SCHEDULES
from .run import TrainingRun, versions


def write_trained(
    run: TrainingRun,
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
            "method": _method(run),
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


def _method(run: TrainingRun) -> str:
    if not run.is_targeted:
        return SCHEDULES[run.options.schedule].description
    like = ", as in the published program" if run.options.schedule == "reference" else ""
    return f"each flavor is trained to latents that are there already{like}"
