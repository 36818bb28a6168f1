# SPDX-License-Identifier: MIT
"""Fitted adaptations on disk: ``.safetensors`` with a ``.json`` of its numbers beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..connectome.adaptation import Adaptation, resolve_mode
from ..errors import ModelError, ResourceError, UsageError
from ..storage import atomic_path, parse_json
from .bundle import Bundle

_NUMBERS = ("mode", "slope", "intercept", "r_squared", "n_participants")
_FIT_AGAIN = "Fit the adaptation again: run the group level."


def save_adaptations(
    path: Path,
    adaptations: Mapping[str, Adaptation],
    *,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write adaptations, whole or not at all.

    Parameters
    ----------
    path
        The ``.safetensors`` file; its numbers also go to a ``.json`` file of the same stem.
    adaptations
        By flavor.
    provenance
        Plain values, such as the model's SHA-256, for both files.

    Raises
    ------
    ResourceError
        If the folder cannot be written.
    """
    from safetensors.numpy import save

    content = {
        "provenance": dict(provenance or {}),
        "flavors": {
            flavor: {name: _plain(getattr(adaptation, name)) for name in _NUMBERS}
            for flavor, adaptation in adaptations.items()
        },
    }
    arrays = {}
    for flavor, adaptation in adaptations.items():
        arrays[f"{flavor}.source_mean"] = np.ascontiguousarray(adaptation.source_mean)
        arrays[f"{flavor}.target_mean"] = np.ascontiguousarray(adaptation.target_mean)
    # one key: several would be written in an order that changes from run to run
    raw = save(arrays, metadata={"adaptations": json.dumps(content, sort_keys=True)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(raw)
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with atomic_path(path.with_suffix(".json")) as temporary:
        temporary.write_text(text, encoding="utf-8")


def load_adaptations(path: Path) -> dict[str, Adaptation]:
    """Read adaptations; the ``.json`` is not needed.

    Raises
    ------
    ResourceError
        If the file is missing, damaged or of another kind.
    """
    content, arrays = _read(path)
    try:
        return {
            flavor: Adaptation(
                mode=resolve_mode(numbers["mode"]),
                **{name: _number(numbers[name]) for name in _NUMBERS if name != "mode"},
                source_mean=arrays[f"{flavor}.source_mean"],
                target_mean=arrays[f"{flavor}.target_mean"],
            )
            for flavor, numbers in content["flavors"].items()
        }
    except (KeyError, TypeError, AttributeError, UsageError) as error:
        raise ResourceError(
            f"is no adaptation that this version reads ({error})", where=str(path), fix=_FIT_AGAIN
        ) from error


def load_provenance(path: Path) -> dict[str, Any]:
    """Read what `save_adaptations` was given as provenance."""
    return dict(_read(path)[0].get("provenance", {}))


def load_adaptations_for(path: Path, bundle: Bundle) -> dict[str, Adaptation]:
    """Read adaptations that are to be applied with a model.

    Raises
    ------
    ModelError
        If they were fitted for another one.
    ResourceError
        If the file is none.
    """
    adaptations = load_adaptations(path)
    fitted_for = load_provenance(path).get("model_sha256", bundle.sha256)
    if fitted_for != bundle.sha256:
        raise ModelError(
            f"was fitted for another model than '{bundle.name}' (SHA-256 {fitted_for[:12]}…)",
            where=str(path),
            fix="Fit it again with this model, or give the model that it was fitted for.",
        )
    return adaptations


def missing_adaptations(
    adaptations: Mapping[str, Adaptation], wanted: Sequence[str], *, where: Path
) -> list[str]:
    """Which adaptations of a cohort a file lacks.

    Parameters
    ----------
    adaptations
        Those of the file.
    wanted
        Keys (`kraken_bids.model.translation.adaptation_key`) of the cohort's flavors and sites.
    where
        The file.

    Raises
    ------
    ModelError
        If it lacks all of them.
    """
    missing = [key for key in wanted if key not in adaptations]
    if len(missing) == len(wanted):
        raise ModelError(
            f"has {', '.join(adaptations)}, but none of the cohort's {', '.join(wanted)}",
            where=str(where),
            fix="Fit it with the same flavors, and the same --adapt-by.",
        )
    return missing


def lambda_provenance(
    lambdas: Iterable[Mapping[str, float]], flavors: Collection[str]
) -> dict[str, Any]:
    """What an adaptation's provenance says of the partial correlations that it was fitted on.

    Parameters
    ----------
    lambdas
        Of each participant, lambda by flavor where it is known.
    flavors
        Those that were fitted.

    Returns
    -------
    dict
        ``pcorr_lambda``, by flavor; ``pcorr_lambda_mixed``: all values of flavors with several.
        Either is absent where it would be empty.
    """
    values: dict[str, set[float]] = {}
    for row in lambdas:
        for flavor, value in row.items():
            if flavor in flavors:
                values.setdefault(flavor, set()).add(value)
    one = {flavor: next(iter(found)) for flavor, found in values.items() if len(found) == 1}
    mixed = {flavor: sorted(found) for flavor, found in values.items() if len(found) > 1}
    told = {"pcorr_lambda": one, "pcorr_lambda_mixed": mixed}
    return {key: value for key, value in told.items() if value}


def fitted_lambdas(path: Path) -> dict[str, float]:
    """Lambda by flavor of the partial correlations that an adaptation was fitted on.

    Raises
    ------
    ResourceError
        If the file is no adaptation.
    """
    known = load_provenance(path).get("pcorr_lambda", {})
    return {
        name if name.startswith("FCpcorr_") else f"FCpcorr_{name}_hpf": float(value)
        for name, value in known.items()
    }


def is_same_lambda(first: float, second: float) -> bool:
    """Whether two lambdas are one but for rounding in what a person typed."""
    return math.isclose(first, second, rel_tol=1e-6)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as stored:
            content = parse_json((stored.metadata() or {})["adaptations"])
            return content, {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ResourceError(
            f"is no fitted adaptation ({type(error).__name__}: {error})",
            where=str(path),
            fix=_FIT_AGAIN,
        ) from error


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and np.isnan(value) else value


def _number(value: Any) -> Any:
    return np.nan if value is None else value
