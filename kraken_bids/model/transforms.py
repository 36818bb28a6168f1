# SPDX-License-Identifier: MIT
"""Between edges and the features that encoders take: PCA and its simpler relatives.

`TRANSFORMS` is the table of kinds. The functions of a row work on NumPy arrays and on torch
tensors alike, so that the same formula serves files, trainers and GPUs. The order of the
operations is that of the published model: it matters at a relative 1e-6 in float32.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, suggest

Parameters = Mapping[str, Any]


def _namespace(x: Any) -> Any:
    """Give the module, `numpy` or `torch`, whose arrays `x` is one of."""
    return sys.modules[type(x).__module__.split(".")[0]]


def _lognorm(x: Any, p: Parameters) -> Any:
    """Standardise the logarithm of positive values; what lies below the least one becomes 0."""
    library = _namespace(x)
    logarithm = library.log10(library.where(x < p["minimum"], p["minimum"], x))
    scaled = (logarithm - p["log_mean"]) / p["log_deviation"]
    scaled = scaled * p["output_deviation"] + p["output_mean"]
    return scaled * (x >= p["minimum"]) / p["row_norm"]


def _lognorm_inverse(y: Any, p: Parameters) -> Any:
    """Raise 10 to the power; zeros of the input do not come back."""
    scaled = (y * p["row_norm"] - p["output_mean"]) / p["output_deviation"]
    return _namespace(y).clip(10.0 ** (scaled * p["log_deviation"] + p["log_mean"]), 0.0, None)


def _pca_inverse(y: Any, p: Parameters) -> Any:
    """Combine components; the mean is added in place, for the edges of a cohort fill memory."""
    edges = ((y / p["output_scale"]) * p["input_scale"]) @ p["components"]
    edges += p["mean"]
    return edges


@dataclass(frozen=True)
class TransformKind:
    """A row of `TRANSFORMS`.

    Parameters
    ----------
    forward, inverse
        Functions of (values, parameters).
    reference_keys
        Our parameters' names and those in the reference program's files.
    """

    forward: Callable[[Any, Parameters], Any]
    inverse: Callable[[Any, Parameters], Any]
    reference_keys: Mapping[str, str] = field(default_factory=dict)


_SCALES = {"input_scale": "input_normscale", "output_scale": "output_normscale"}
_ROW_NORM = {"row_norm": "input_rownorm_mean"}
_MEAN = {"mean": "input_mean"}
_DEVIATION = {"deviation": "input_stdev"}
_VARIANCE = {"variance": "input_variance"}

#: Every kind of transform by the name that the reference program gives it.
TRANSFORMS: dict[str, TransformKind] = {
    "none": TransformKind(lambda x, _p: x, lambda y, _p: y),
    "pca": TransformKind(
        lambda x, p: (
            p["output_scale"] * (((x - p["mean"]) @ p["components"].T) / p["input_scale"])
        ),
        _pca_inverse,
        {"mean": "pca_input_mean", "components": "pca_components", **_SCALES},
    ),
    "tsvd": TransformKind(
        lambda x, p: p["output_scale"] * ((x @ p["components"].T) / p["input_scale"]),
        lambda y, p: ((y @ p["components"]) / p["output_scale"]) * p["input_scale"],
        {"components": "tsvd_components", **_SCALES},
    ),
    "norm": TransformKind(
        lambda x, p: p["output_scale"] * (x / p["input_scale"]),
        lambda y, p: (y / p["output_scale"]) * p["input_scale"],
        _SCALES,
    ),
    "varnorm": TransformKind(
        lambda x, p: x / p["variance"], lambda y, p: y * p["variance"], _VARIANCE
    ),
    "zscore": TransformKind(
        lambda x, p: (x - p["mean"]) / p["deviation"],
        lambda y, p: y * p["deviation"] + p["mean"],
        {**_MEAN, **_DEVIATION},
    ),
    "zfeat": TransformKind(
        lambda x, p: (x - p["mean"]) / p["deviation"],
        lambda y, p: y * p["deviation"] + p["mean"],
        {**_MEAN, **_DEVIATION},
    ),
    "cfeat": TransformKind(lambda x, p: x - p["mean"], lambda y, p: y + p["mean"], _MEAN),
    "cfeat+norm": TransformKind(
        lambda x, p: (x - p["mean"]) / p["row_norm"],
        lambda y, p: y * p["row_norm"] + p["mean"],
        {**_MEAN, **_ROW_NORM},
    ),
    "cfeat+varnorm": TransformKind(
        # by the variance, not the standard deviation: so were the published ones fitted
        lambda x, p: (x - p["mean"]) / p["variance"],
        lambda y, p: y * p["variance"] + p["mean"],
        {**_MEAN, **_VARIANCE},
    ),
    "zscore+rownorm": TransformKind(
        lambda x, p: (x - p["mean"]) / (p["deviation"] * p["row_norm"]),
        lambda y, p: y * p["row_norm"] * p["deviation"] + p["mean"],
        {**_MEAN, **_DEVIATION, **_ROW_NORM},
    ),
    "lognorm+rownorm": TransformKind(
        _lognorm,
        _lognorm_inverse,
        {
            "minimum": "input_minimum_nonzero",
            "log_mean": "input_logmean_nonzero",
            "log_deviation": "input_logstdev_nonzero",
            "output_mean": "output_logmean_nonzero",
            "output_deviation": "output_logstdev_nonzero",
            **_ROW_NORM,
        },
    ),
}

#: Kinds that go by another name in files of the reference program.
ALIASES = {"lognorm": "lognorm+rownorm"}

#: Kinds whose mean has one value an edge; for the others it is one number or none.
PER_EDGE_MEAN = frozenset({"pca", "zfeat", "cfeat", "cfeat+norm", "cfeat+varnorm"})


@dataclass(frozen=True, eq=False)
class Transform:
    """A fitted transform of one flavor.

    Parameters
    ----------
    kind
        Key of `TRANSFORMS`.
    parameters
        float32 arrays by name: ``mean`` and ``deviation`` (n_edges,) or (1,), ``components``
        (n_features, n_edges), the others (1,).
    explained_variance
        Share of the training connectomes' variance that the features keep, 0 to 1; None if that
        is not known.
    n_participants
        Number of participants that it was fitted on; None if that is not known.
    """

    kind: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    explained_variance: float | None = None
    n_participants: int | None = None

    def forward(self, x: Any) -> Any:
        """Edges (n, n_edges) to features (n, n_features)."""
        return TRANSFORMS[self.kind].forward(x, self.parameters)

    def inverse(self, y: Any) -> Any:
        """Features (n, n_features) to edges (n, n_edges)."""
        return TRANSFORMS[self.kind].inverse(y, self.parameters)

    @property
    def training_mean(self) -> NDArray[np.float32] | None:
        """Mean connectome in training, (n_edges,), or None if the kind keeps none."""
        return self.parameters["mean"] if self.kind in PER_EDGE_MEAN else None

    @property
    def n_edges(self) -> int | None:
        """Number of edges, or None if any number will do."""
        if "components" in self.parameters:
            return int(self.parameters["components"].shape[1])
        return int(self.parameters["mean"].shape[0]) if self.kind in PER_EDGE_MEAN else None

    @property
    def n_features(self) -> int | None:
        """Number of features, or None if it is that of the edges and any will do."""
        if "components" in self.parameters:
            return int(self.parameters["components"].shape[0])
        return self.n_edges


def make_transform(
    kind: str,
    parameters: Mapping[str, Any],
    *,
    where: str,
    explained_variance: float | None = None,
    n_participants: int | None = None,
) -> Transform:
    """Check parameters and bring them to their shapes.

    Parameters
    ----------
    kind
        Key of `TRANSFORMS` or of `ALIASES`.
    parameters
        Values by our names; more than the kind needs are left out.
    where
        Flavor and file, for messages.
    explained_variance, n_participants
        As for `Transform`.

    Raises
    ------
    ModelError
        If the kind is unknown, a parameter is missing, NaN, or of a shape that cannot be.
    """
    kind = ALIASES.get(kind, kind)
    if kind not in TRANSFORMS:
        raise ModelError(
            f"transform '{kind}' is unknown", where=where, fix=suggest(kind, TRANSFORMS) + "."
        )
    arrays: dict[str, NDArray[np.float32]] = {}
    for name in TRANSFORMS[kind].reference_keys:
        if name not in parameters:
            raise ModelError(
                f"transform '{kind}' lacks its {name}",
                where=where,
                fix="Use a transform file as the training program writes it.",
            )
        array = np.asarray(parameters[name], dtype=np.float32)
        array = array if name == "components" else array.reshape(-1)
        if not array.size or not np.isfinite(array).all():
            raise ModelError(
                f"transform '{kind}' holds NaN, infinity or nothing as its {name}",
                where=where,
                fix="Use another transform file.",
            )
        arrays[name] = array
    _check_shapes(kind, arrays, where)
    return Transform(kind, arrays, explained_variance, n_participants)


def _check_shapes(kind: str, arrays: Mapping[str, NDArray], where: str) -> None:
    """Hold every parameter against the number of edges that the others speak of."""
    components = arrays.get("components")
    per_edge = {"mean", "deviation"} if kind in PER_EDGE_MEAN else set()
    n_edges = arrays["mean"].size if "mean" in per_edge & set(arrays) else None
    right = components is None or (
        components.ndim == 2 and (n_edges is None or components.shape[1] == n_edges)
    )
    for name, array in arrays.items():
        if name != "components":
            right = right and array.size == (n_edges if name in per_edge else 1)
    if not right:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ModelError(
            f"parameters of transform '{kind}' do not fit together: {shapes}",
            where=where,
            fix="Use a transform file as the training program writes it.",
        )
