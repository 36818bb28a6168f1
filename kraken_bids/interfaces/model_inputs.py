# SPDX-License-Identifier: MIT
"""What the interfaces that use the Krakencoder have in common: inputs, plan, fitted adaptation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, traits
from numpy.typing import NDArray

from ..atlases import atlas_names
from ..connectome.adaptation import ADAPTATIONS
from ..errors import UsageError
from ..flavors import Flavor

_log = logging.getLogger(__name__)


class ModelInputSpec(BaseInterfaceInputSpec):
    """What every interface that uses the model needs to know."""

    model_dir = traits.Str(mandatory=True, desc="folder of the model bundle")
    model_sha256 = traits.Str(desc="SHA-256 of the bundle's weights")
    fusions = traits.List(traits.List(), mandatory=True, desc="name and members of each fusion")
    predict_from = traits.List(traits.Str, desc="sources; empty: the fusions")
    predict_to = traits.List(traits.Str, desc="target flavors; empty: all")
    cohort_flavors = traits.List(traits.Str, mandatory=True, desc="flavors that anybody has")


def open_plan(inputs: Any) -> tuple[Any, Any]:
    """Open the model and say what it is to do."""
    from ..model.bundle import open_bundle
    from ..model.translation import plan_translation

    bundle = open_bundle(Path(inputs.model_dir))
    plan = plan_translation(
        bundle,
        inputs.cohort_flavors,
        fusions=[(name, tuple(members)) for name, members in inputs.fusions],
        predict_from=tuple(inputs.predict_from or ()),
        predict_to=tuple(inputs.predict_to or known_targets(bundle.flavors)),
    )
    return bundle, plan


def known_targets(flavors: Sequence[str]) -> list[str]:
    """Flavors whose regions have names here; others of a model are left out, and that is said."""
    known = []
    for name in flavors:
        try:
            if Flavor.parse(name).atlas in atlas_names():
                known.append(name)
                continue
        except UsageError:
            pass
        _log.warning("%s is not predicted: its atlas or processing is not known here", name)
    return known


def load_fitted(file: Path, bundle: Any, means: Any | None = None) -> dict[str, Any]:
    """Read a fitted adaptation and hold it against the model, and the cohort if given.

    Raises
    ------
    ModelError
        If it was fitted for another model, or has none of the cohort's flavors and sites.
    ResourceError
        If the file is none.
    """
    from ..model.adaptation_file import load_adaptations_for, missing_adaptations
    from ..model.translation import adaptation_key

    adaptations = load_adaptations_for(file, bundle)
    if means is None:
        return adaptations
    wanted = [
        adaptation_key(flavor, site)
        for site in means.sites
        for flavor in means.flavors
        if means.n_participants(flavor, site)
    ]
    missing = missing_adaptations(adaptations, wanted, where=file)
    if missing:
        _log.warning("Left out, for %s lacks them: %s", file, ", ".join(missing))
    return adaptations


def fitted_adaptation(adaptation: str) -> dict[str, str]:
    """Inputs of `Translate` for what ``--adaptation`` says, where there is no cohort to fit on.

    Raises
    ------
    UsageError
        If it names a mode that has to be fitted.
    """
    if adaptation == "none":
        return {}
    if adaptation in ADAPTATIONS:
        raise UsageError(
            f"adaptation '{adaptation}' is fitted on a cohort, not on one participant",
            where="--adaptation",
            fix="Run the group level, or give 'none' or a file that the group level fitted.",
        )
    return {"adaptation_file": adaptation}


def uses_gpu(device: str) -> bool:
    """Whether a device, as ``--device`` names it, is a GPU here."""
    if device != "auto":
        return device != "cpu"
    from ..model.krakencoder import resolve_device

    return resolve_device(device) != "cpu"


def save_arrays(file: Path, arrays: Mapping[str, NDArray]) -> None:
    """Write arrays by name (npz)."""
    np.savez(file, **arrays)  # type: ignore[arg-type]  # its stubs take any name for a flag
