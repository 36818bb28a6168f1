# SPDX-License-Identifier: MIT
"""Lambdas of the partial correlations given to the model, held against those of an adaptation."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..bids.regularization import count_lambdas, name_lambdas, read_lambda
from ..errors import UsageError
from ..formats.inputs import MatchedInputs
from ..model.adaptation_file import (
    fitted_lambdas,
    is_same_lambda,
    lambda_provenance,
    load_provenance,
)

_log = logging.getLogger(__name__)


def input_lambdas(inputs: MatchedInputs, flavor: str) -> dict[float, int]:
    """Count participants by the lambda of their partial correlations, where that is known.

    Sidecars of files tell it, and the ``.npz`` files of ``kraken-model pcorr``.

    Parameters
    ----------
    inputs
        Connectomes, by participant.
    flavor
        One of them.
    """
    one, positions = inputs.inputs[flavor], inputs.positions[flavor]
    rows = positions[positions >= 0]
    if one.files:
        return count_lambdas([Path(one.files[row]) for row in rows])
    value = _stored_lambda(Path(one.where))
    return {} if value is None else {value: len(rows)}


def _stored_lambda(file: Path) -> float | None:
    """Lambda of all rows of one file."""
    if file.suffix == ".npz" and zipfile.is_zipfile(file):
        with np.load(file, allow_pickle=False) as stored:
            if "lambda" in stored.files and stored["lambda"].size == 1:
                return float(stored["lambda"])
    return read_lambda(file)


def check_lambdas(file: Path, inputs: MatchedInputs, flavors: Sequence[str]) -> list[UsageError]:
    """Find partial correlations with another lambda than an adaptation was fitted on.

    Parameters
    ----------
    file
        The adaptation.
    inputs, flavors
        Connectomes to adapt; flavors of them. Those of which no lambda is known are warned of.
    """
    problems = []
    for flavor, value in fitted_lambdas(file).items():
        if flavor not in flavors:
            continue
        counts = input_lambdas(inputs, flavor)
        other = {found: n for found, n in counts.items() if not is_same_lambda(found, value)}
        n_unknown = int(inputs.has(flavor).sum()) - sum(counts.values())
        if other:
            correlation = flavor.replace("FCpcorr", "FCcorr")
            problems.append(
                UsageError(
                    f"was fitted on {flavor} with lambda {value:.6g}, but those to adapt have "
                    f"{name_lambdas(other)}",
                    where=str(file),
                    fix=f"Make them again: kraken-model pcorr --input {correlation}=… "
                    f"--lambda {value!r} --output FCpcorr.npz.",
                )
            )
        elif n_unknown:
            _log.warning(
                "%s was fitted on %s with lambda %.6g; that of %d to adapt is not known",
                file, flavor, value, n_unknown,
            )  # fmt: skip
    return problems


def fit_provenance(
    adaptation: str, inputs: MatchedInputs | None, flavors: Sequence[str]
) -> dict[str, Any]:
    """Lambdas for the provenance of an adaptation.

    Parameters
    ----------
    adaptation
        A mode, or a fitted file: its lambdas are kept.
    inputs
        Connectomes that it is fitted on, or None.
    flavors
        Of the model.
    """
    if Path(adaptation).is_file():
        known = load_provenance(Path(adaptation))
        return {key: value for key, value in known.items() if key.startswith("pcorr_lambda")}
    if inputs is None:
        return {}
    rows = [
        {name: value}
        for name in inputs.inputs
        if name.startswith("FCpcorr_")
        for value in input_lambdas(inputs, name)
    ]
    return lambda_provenance(rows, flavors)
