# SPDX-License-Identifier: MIT
"""Spaces of nuisance: their bases, and the principal components of a tissue."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

#: Principal components of each tissue, beside its mean.
N_COMPONENTS = 4

#: Eigenvalues of a tissue's Gram matrix below this share of the first are rounding: the series
#: are kept in single precision.
COMPONENT_LIMIT = 1e-7

#: Columns that others explain up to this share of their norm are left out of the regression.
RANK_LIMIT = 1e-10


def orthonormal_basis(columns: FloatArray) -> FloatArray:
    """Basis of the space of some columns and a constant.

    Parameters
    ----------
    columns
        (n_volumes, n); may be collinear or constant.

    Returns
    -------
    NDArray
        (n_volumes, rank), orthonormal; the first is constant.
    """
    constant = np.full((len(columns), 1), 1 / math.sqrt(len(columns)))
    centred = columns - columns.mean(axis=0)
    norms = np.linalg.norm(centred, axis=0)
    scale = np.abs(columns).max(axis=0, initial=0.0) * math.sqrt(len(columns))
    varies = norms > RANK_LIMIT * scale
    if not varies.any():
        return constant
    basis, triangle, _ = scipy.linalg.qr(
        centred[:, varies] / norms[varies], mode="economic", pivoting=True
    )
    rank = int(np.count_nonzero(np.abs(np.diag(triangle)) > RANK_LIMIT))
    return np.hstack([constant, basis[:, :rank]])


@dataclass(frozen=True)
class TissueComponents:
    """Mean and principal components of a tissue.

    Parameters
    ----------
    columns
        (n_volumes, 1 + n_components); components are 0 at outliers.
    gap
        ``1 - e_5 / e_4`` with ``e_k`` the k-th eigenvalue: near 0, the last component is
        arbitrary.
    """

    columns: FloatArray
    gap: float


def tissue_components(
    mean: FloatArray,
    gram: FloatArray,
    *,
    nuisance: FloatArray,
    is_outlier: NDArray[np.bool_],
) -> TissueComponents:
    """Find a tissue's mean and the components of what mean and nuisance leave over.

    Parameters
    ----------
    mean
        (n_volumes,), mean over the tissue's voxels.
    gram
        (n_volumes, n_volumes), products between volumes of the voxels' centred series.
    nuisance
        (n_volumes, n), regressed before (a constant is understood).
    is_outlier
        (n_volumes,), left out.

    Notes
    -----
    With ``M`` the projection that removes mean and nuisance and ``Y`` the voxels' series, the
    left singular vectors of ``M Y`` are the eigenvectors of ``M (Y Y') M``: no second pass over
    the voxels is needed.
    """
    kept = ~is_outlier
    basis = orthonormal_basis(np.column_stack([mean, nuisance])[kept])
    cleaned = gram[np.ix_(kept, kept)]
    cleaned = cleaned - basis @ (basis.T @ cleaned)
    cleaned = cleaned - (cleaned @ basis) @ basis.T
    size = len(cleaned)
    first = max(size - N_COMPONENTS - 1, 0)
    values, vectors = scipy.linalg.eigh(
        (cleaned + cleaned.T) / 2, subset_by_index=[first, size - 1]
    )
    values, vectors = values[::-1], vectors[:, ::-1]
    is_real = values[:N_COMPONENTS] > COMPONENT_LIMIT * max(values[0], np.finfo(float).tiny)
    columns = np.zeros((len(mean), 1 + int(is_real.sum())))
    columns[:, 0] = mean
    columns[kept, 1:] = vectors[:, :N_COMPONENTS][:, is_real]
    gap = 0.0
    if is_real.sum() == N_COMPONENTS and len(values) > N_COMPONENTS:
        gap = 1.0 - max(values[N_COMPONENTS], 0.0) / values[N_COMPONENTS - 1]
    return TissueComponents(columns, float(gap))
