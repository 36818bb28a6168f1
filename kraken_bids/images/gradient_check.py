# SPDX-License-Identifier: MIT
"""Whether b-vectors fit their series: an axis turned around or two of them exchanged.

In white matter, neighbours that lie along a fibre have fibres of the same direction. With wrong
axes, the directions that tensors are fitted with point past those neighbours. Directions need to
be fitted only once: exchanged axes of b-vectors exchange those of the tensors.

References
----------
Schilling et al., "A fiber coherence index for quality control of B-table orientation in diffusion
MRI scans", Magnetic Resonance Imaging 2019; the pairs of neighbours counted here are our own.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .diffusion import SHELL_WIDTH, GradientTable

#: Weighting up to which tensors describe a signal, in s/mm².
TENSOR_LIMIT = 1500.0
#: Anisotropy (FA) from which a voxel is taken for one of a single fibre.
LEAST_ANISOTROPY = 0.35
#: Largest angle between a fibre and the way to its neighbour, in degrees.
CONE_DEGREES = 35.0
#: Distance of neighbours that are compared, in mm: nearer ones lie in one bundle anyway.
NEIGHBOUR_MM = 4.0
#: Voxels below which nothing is said.
LEAST_VOXELS = 1000
#: Gain of another arrangement, and its number of standard errors, from which the b-vectors are
#: taken for wrong. A real series of 4 mm and 13 directions gains 1.18 (4.9 errors) or more from
#: each of the 23 wrong arrangements, nothing from the right one; a poor one of 6 mm up to 1.09.
LEAST_GAIN, LEAST_ERRORS = 1.15, 4.0

#: Axes of b-vectors in another order, and which of them are turned around.
Arrangement = tuple[tuple[int, int, int], tuple[int, int, int]]
AS_GIVEN: Arrangement = ((0, 1, 2), (1, 1, 1))
#: All that differ by more than the sign of a whole vector, as given first.
ARRANGEMENTS: tuple[Arrangement, ...] = tuple(
    ((a, b, c), signs)
    for a, b, c in itertools.permutations((0, 1, 2))
    for signs in ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1))
)


@dataclass
class TensorSums:
    """Least-squares tensors of a series whose volumes are seen one after the other.

    Parameters
    ----------
    table
        Gradients in FSL's frame.
    mask
        (X, Y, Z), voxels to fit.
    affine
        (4, 4), of the series; says whether FSL's first axis is turned around.
    """

    table: GradientTable
    mask: NDArray[np.bool_]
    affine: NDArray[np.floating]
    weights: NDArray[np.float64] = field(init=False)
    _sums: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        self.weights = fit_weights(self.table, self.table.bvecs * fsl_signs(self.affine))
        self._sums = np.zeros((6, int(self.mask.sum())), dtype=np.float32)

    def add(self, volume: int, values: NDArray[np.floating]) -> None:
        """Add a volume: (n_voxels,), in Fortran's order of the grid."""
        weights = self.weights[:, volume]
        if weights.any():
            inside = values[self.mask.ravel(order="F")].astype(np.float32)
            signal = np.log(np.maximum(np.nan_to_num(inside), 1e-3))
            self._sums += weights[:, None].astype(np.float32) * signal

    def directions(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """First eigenvector (n, 3) on the voxel axes and anisotropy (n,) of each tensor."""
        xx, yy, zz, xy, xz, yz = self._sums
        tensors = np.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], axis=-1).reshape(-1, 3, 3)
        values, vectors = np.linalg.eigh(tensors)
        values = np.maximum(values, 0)
        spread = ((values - values.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
        total = np.maximum((values**2).sum(axis=1), 1e-30)
        return vectors[:, :, 2], np.sqrt(1.5 * spread / total)


def fsl_signs(affine: NDArray[np.floating]) -> tuple[int, int, int]:
    """Signs that bring b-vectors of FSL's frame to the voxel axes of an image."""
    return (-1, 1, 1) if np.linalg.det(affine[:3, :3]) > 0 else (1, 1, 1)


def fit_weights(table: GradientTable, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Weights by which logarithms of the volumes add up to a tensor.

    Returns
    -------
    NDArray
        (6, n_volumes): Dxx, Dyy, Dzz, Dxy, Dxz, Dyz in mm²/s; all 0 where there are too few
        directions for tensors.
    """
    bvals = table.bvals
    used = bvals <= max(TENSOR_LIMIT, float(bvals[bvals > 0].min()) + SHELL_WIDTH)
    if not (bvals == 0).any():  # one shell does not tell diffusion from signal without it
        used[:] = True
    weights = np.zeros((6, bvals.size))
    x, y, z = vectors[used].T
    products = np.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], axis=1)
    design = np.column_stack([np.ones(len(x)), -bvals[used][:, None] / 1000 * products])
    if np.linalg.matrix_rank(design, tol=1e-3) == design.shape[1]:
        weights[:, used] = np.linalg.pinv(design)[1:] / 1000
    return weights


def count_connected(
    directions: NDArray[np.floating],
    mask: NDArray[np.bool_],
    *,
    voxel_mm: NDArray[np.floating],
) -> dict[Arrangement, int]:
    """Count pairs of neighbours whose fibres point at each other, for each arrangement.

    Parameters
    ----------
    directions
        (n, 3), unit vectors on the voxel axes, of the voxels of `mask`.
    mask
        (X, Y, Z), voxels of a single fibre.
    voxel_mm
        (3,), edges of a voxel.
    """
    index = np.full(mask.shape, -1, dtype=np.int32)
    index[mask] = np.arange(int(mask.sum()))
    cone = np.cos(np.deg2rad(CONE_DEGREES))
    counts = dict.fromkeys(ARRANGEMENTS, 0)
    reach = max(1, round(NEIGHBOUR_MM / float(np.prod(voxel_mm)) ** (1 / 3)))
    units = [unit for unit in itertools.product((-1, 0, 1), repeat=3) if unit > (0, 0, 0)]
    for step in ((reach * a, reach * b, reach * c) for a, b, c in units):
        here, there = _pairs(index, step)
        way = np.array(step) * voxel_mm
        way /= np.linalg.norm(way)
        for order, signs in ARRANGEMENTS:
            # (P v) . w, with P exchanging axes of v, is v . (P' w)
            turned = np.zeros(3)
            turned[list(order)] = way * signs
            towards = np.abs(directions @ turned) > cone
            counts[order, signs] += int(np.count_nonzero(towards[here] & towards[there]))
    return counts


def _pairs(
    index: NDArray[np.int32], step: tuple[int, int, int]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Numbers of voxels that are one step apart."""
    first = tuple(slice(max(0, -s), min(n, n - s)) for s, n in zip(step, index.shape, strict=True))
    second = tuple(slice(max(0, s), min(n, n + s)) for s, n in zip(step, index.shape, strict=True))
    here, there = index[first].ravel(), index[second].ravel()
    both = (here >= 0) & (there >= 0)
    return here[both], there[both]


@dataclass(frozen=True)
class AxisCheck:
    """What the fibres say of the axes of b-vectors.

    Parameters
    ----------
    best
        Arrangement of the b-vectors' rows with the most pairs of connected neighbours.
    gain
        Its number of pairs over that of the b-vectors as given; 1 if these are the best.
    n_voxels
        Voxels of a single fibre that were looked at.
    n_errors
        The difference of the two numbers over its standard error.
    """

    best: Arrangement
    gain: float
    n_voxels: int
    n_errors: float = 0.0

    @property
    def is_wrong(self) -> bool:
        """Whether the b-vectors as given are taken for wrong."""
        return self.gain >= LEAST_GAIN and self.n_errors >= LEAST_ERRORS

    def describe(self) -> str:
        """What is to be done with the b-vectors' rows, such as ``x, -y, z``.

        Examples
        --------
        >>> AxisCheck(((1, 0, 2), (1, -1, 1)), 1.3, 5000).describe()
        'y, -x, z'
        """
        order, signs = self.best
        return ", ".join(
            ("-" if sign < 0 else "") + "xyz"[axis]
            for axis, sign in zip(order, signs, strict=True)
        )


def check_axes(sums: TensorSums) -> AxisCheck:
    """Compare all arrangements of the b-vectors' axes by how well neighbours are connected."""
    directions, anisotropy = sums.directions()
    single = (anisotropy > LEAST_ANISOTROPY) & (anisotropy < 1)
    mask = np.zeros_like(sums.mask)
    # A boolean mask is read in C's order of the grid, the sums are in Fortran's.
    mask.T[sums.mask.T] = single
    order = np.flatnonzero(single)
    numbers = np.zeros(sums.mask.shape, dtype=np.int64)
    numbers.T[mask.T] = order
    chosen = directions[numbers[mask]]
    voxel_mm = np.linalg.norm(sums.affine[:3, :3], axis=0)
    n_voxels = int(single.sum())
    if n_voxels < LEAST_VOXELS:
        return AxisCheck(AS_GIVEN, 1.0, n_voxels)
    counts = count_connected(chosen, mask, voxel_mm=voxel_mm)
    best = max(ARRANGEMENTS, key=lambda item: counts[item])
    given, most = counts[AS_GIVEN], counts[best]
    error = max(float(most + given), 1.0) ** 0.5
    rows = _in_fsl_frame(best, fsl_signs(sums.affine))
    return AxisCheck(rows, most / max(given, 1), n_voxels, (most - given) / error)


def _in_fsl_frame(arrangement: Arrangement, flips: tuple[int, int, int]) -> Arrangement:
    """Arrangement of the rows of b-vectors that is one of the voxel axes."""
    order, signs = arrangement
    turned = [
        sign * flips[place] * flips[axis]
        for place, (axis, sign) in enumerate(zip(order, signs, strict=True))
    ]
    overall = 1 if turned.count(-1) <= 1 else -1  # v and -v are one direction
    x, y, z = (overall * sign for sign in turned)
    return order, (x, y, z)
