# SPDX-License-Identifier: MIT
"""Measured connectomes beside the mean of a model's training data."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from ..connectome.edges import matrix_to_edges
from ..connectome.similarity import correlate_with_mean
from ..errors import ResourceError
from ..flavors import CORE_RECIPES, Flavor
from ..model.bundle import Bundle, open_bundle
from .functional import save_json

_log = logging.getLogger(__name__)


class _CompareWithMeanInputSpec(BaseInterfaceInputSpec):
    connectomes_file = File(exists=True, mandatory=True, desc="matrices by flavor (npz)")
    qc_file = File(exists=True, mandatory=True, desc="quality measures (JSON)")
    model_dir = traits.Str(desc="bundle; without one, the measures are there but empty")
    model_sha256 = traits.Str(desc="SHA-256 of its weights")


class _CompareWithMeanOutputSpec(TraitedSpec):
    qc_file = File(exists=True, desc="quality measures with the correlations (JSON)")


class CompareWithMean(SimpleInterface):
    """Add to the quality measures how connectomes correlate with a model's training means."""

    input_spec = _CompareWithMeanInputSpec
    output_spec = _CompareWithMeanOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        quality = json.loads(Path(inputs.qc_file).read_text("utf-8"))
        model_dir = Path(inputs.model_dir) if isdefined(inputs.model_dir) else None
        quality |= compare_with_mean(Path(inputs.connectomes_file), model_dir)
        self._results["qc_file"] = save_json(Path(runtime.cwd) / "qc.json", quality)
        return runtime


def compare_with_mean(connectomes_file: Path, model_dir: Path | None) -> dict[str, Any]:
    """Correlate connectomes with a model's training means, of which nothing else is read.

    Parameters
    ----------
    connectomes_file
        (n_regions, n_regions) by flavor, ``.npz``.
    model_dir
        Bundle, or None.

    Returns
    -------
    dict
        ``training_mean_r_<flavor>``, NaN where nothing can be told, for the flavors of the model
        (without one: of the published models); with a model, ``training_mean_of``: its name and
        the SHA-256 of its weights. A model that cannot be read is a warning: no measure of
        quality is worth losing connectomes for.
    """
    with np.load(connectomes_file, allow_pickle=False) as connectomes:
        edges = {name: matrix_to_edges(connectomes[name]) for name in connectomes.files}
    measures: dict[str, Any] = {
        f"training_mean_r_{name}": float("nan") for name in edges if _is_published(name)
    }
    if model_dir is None:
        return measures
    try:
        bundle = open_bundle(model_dir)
        measures |= {
            f"training_mean_r_{name}": _correlation(values, bundle, name)
            for name, values in edges.items()
            if name in bundle.flavors
        }
    except ResourceError as error:
        _log.warning("No correlation with the training mean: %s", error)
        return measures
    return {**measures, "training_mean_of": {"Name": bundle.name, "SHA256": bundle.sha256}}


def _is_published(name: str) -> bool:
    flavor = Flavor.parse(name)
    return (flavor.kind, flavor.processing) in CORE_RECIPES


def _correlation(edges: Any, bundle: Bundle, flavor: str) -> float:
    """Correlation with a flavor's mean; NaN if the model keeps none, or of another size."""
    mean = bundle.training_mean(flavor)
    if mean is None or mean.shape != edges.shape:
        return float("nan")
    return float(correlate_with_mean(edges[None], mean)[0])
