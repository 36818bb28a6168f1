# SPDX-License-Identifier: MIT
"""Whether labels lie where the image has what they name: a check of the ways that carry them.

The same for atlases and FreeSurfer's labels, in functional and diffusion data. Labels are reduced
to a few kinds (outside, grey matter, white matter, fluid). How well the kind tells the intensity
is measured as the labels lie, and as they would lie if they were moved a little; where moving them
far makes it clearly better, they do not belong there.

An image of any contrast will do, as only the dependence counts. A brain's outline alone would not:
it is nearly round seen from the front, and hardly changes when it is turned about the axis from
front to back.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from ..errors import InputError

_log = logging.getLogger(__name__)

#: Distance of the points that are compared, and how far around the brain mask they reach, in mm.
SPACING_MM, RIM_MM = 5.0, 10.0
#: Standard deviation of the blur of labels and image, in mm.
SOFTENING_MM = 2.0
#: Levels of intensity that are told apart, in the mask and around it: each of equal frequency.
LEVELS_INSIDE, LEVELS_AROUND = 16, 8
#: Sizes of the movements that are tried first, along and about each axis, both ways.
TRIED_MM, TRIED_DEGREES = (8.0, 16.0), (12.0, 24.0)
#: Shift, turn, and relative gain of the agreement from which labels are taken for misplaced.
#: Measured with fs86, shen268, coco439 and five tissues on a real b = 0 image (4 mm, distorted,
#: the mask without the brain's base), and with fs86 on a real slab of BOLD: in place, no movement
#: that is tried first gains (-0.06 to -0.13; simulated participants, with FreeSurfer's labels and
#: real atlases, -0.15 to -0.26). Moved by 10 mm the best of them gains 0.18 to 0.70, turned by 10
#: degrees 0.04 to 0.28, by 15 degrees 0.08 to 0.51; least about the axis from front to back.
#: A mirrored brain gains -0.09 to 0.13: sides are told apart by `require_sides` alone.
#: Five mm or degrees gain -0.07 to 0.19; registrations err so, hence the limits of the size.
#: False alarms are near where the image is poor: of the b = 0 image, the mask eroded by 4 mm or a
#: field of half the intensity across gained up to 0.06; parts of it, up to 0.5 (`LEAST_COVERED`).
MOST_SHIFT_MM, MOST_TURN_DEGREES, LEAST_GAIN = 8.0, 10.0, 0.05
#: Volume of mask or labels below which a brain has no shape to be compared by, in mm³.
LEAST_BRAIN_MM3 = 200_000.0
#: Share of the labels that must lie in the field of view for them to be refused. Of less, a part
#: of the brain that is distorted, or that the mask lacks, decides: then only a warning is given.
LEAST_COVERED = 0.75
#: Distance of the centres of left and right regions, along the axis from left to right, from which
#: sides are taken for swapped: half of what it is in a brain, 53 to 60 mm, the other way round.
SWAPPED_MM = -27.0
#: White matter and ventricles, which an atlas leaves out, are no wider than twice this between its
#: regions, in mm.
CLOSING_MM = 10.0
#: Degrees that weigh as much as a millimetre in the search.
_DEGREES_A_MM = 3.0


@dataclass(frozen=True)
class Misfit:
    """How labels lie in an image.

    Parameters
    ----------
    agreement, best_agreement
        Of kinds and intensities as the labels lie, and after the best rigid movement: 0 (nothing
        in common) to 1 (each tells the other).
    covered
        Share of the labels that lies in the image's field of view.
    shift_mm, turn_degrees
        Size of that movement: of the mask's centre, and around it.
    """

    agreement: float
    best_agreement: float
    covered: float
    shift_mm: float = 0.0
    turn_degrees: float = 0.0

    @property
    def gain(self) -> float:
        """By what share the movement makes the agreement better."""
        return self.best_agreement / max(self.agreement, 1e-9) - 1

    @property
    def is_wrong(self) -> bool:
        """Whether the labels are taken to lie elsewhere: moving far makes them fit better."""
        far = self.shift_mm > MOST_SHIFT_MM or self.turn_degrees > MOST_TURN_DEGREES
        return far and self.gain > LEAST_GAIN


@dataclass(frozen=True)
class Scan:
    """An image, and where the brain is in it.

    Parameters
    ----------
    image
        (X, Y, Z), of any contrast; NaN counts as 0. Where it is the same everywhere, labels are
        compared with the mask alone.
    affine
        (4, 4), voxel indices of `image` to mm.
    mask
        (X', Y', Z'), bool.
    mask_affine
        (4, 4), voxel indices of `mask` to the same mm.
    """

    image: NDArray[np.floating]
    affine: NDArray[np.floating]
    mask: NDArray[np.bool_]
    mask_affine: NDArray[np.floating]


def kinds_of_atlas(labels: NDArray[np.integer], affine: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Tell an atlas's regions from what lies between them.

    Parameters
    ----------
    labels
        (X, Y, Z), 0 outside of the regions.
    affine
        (4, 4), voxel indices to mm.

    Returns
    -------
    NDArray
        (X, Y, Z): 1 in regions, 2 between them (white matter, ventricles), 0 outside.
    """
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    width = int(np.ceil(CLOSING_MM / edges.min())) + 1
    is_region = np.pad(labels > 0, width)
    near = ndimage.distance_transform_edt(~is_region, sampling=edges) <= CLOSING_MM
    closed = ndimage.distance_transform_edt(near, sampling=edges) > CLOSING_MM
    whole = ndimage.binary_fill_holes(closed | is_region)
    inner = (slice(width, -width),) * 3
    return np.where(is_region, 1, np.where(whole, 2, 0))[inner].astype(np.uint8)


def kinds_of_tissues(tissues: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Tell the tissues of a five-tissue image apart.

    Parameters
    ----------
    tissues
        (X, Y, Z, 5), shares from 0 to 1.

    Returns
    -------
    NDArray
        (X, Y, Z): 1 to 5 for the tissue of which there is most, 0 outside.
    """
    is_brain = tissues.sum(axis=-1) > 0.5
    return np.where(is_brain, tissues.argmax(axis=-1) + 1, 0).astype(np.uint8)


def measure_misfit(
    kinds: NDArray[np.integer], kinds_affine: NDArray[np.floating], scan: Scan
) -> Misfit:
    """Find the rigid movement by which labels fit an image best.

    Parameters
    ----------
    kinds
        (X, Y, Z), few whole numbers from 0 (outside), on a grid of its own. It should reach
        further than the image, or end where that ends.
    kinds_affine
        (4, 4), voxel indices to mm of the image's space.
    scan
        The image.

    Returns
    -------
    Misfit
        Without a movement where none of those tried first is any better.

    Notes
    -----
    The agreement is the mutual information of kind and level of intensity over the geometric mean
    of their entropies, ``I(K; L) / sqrt(H(K) H(L))``, at points in and around the brain mask
    (Strehl & Ghosh, J Mach Learn Res 3, 2002: 583-617, equation 3). The points lie within the
    image's field of view and stay there, so that a series that does not cover the brain says
    nothing against its labels. They do not lie on voxels' centres: only there nothing would have
    to be interpolated, which would favour labels as they are.
    """
    comparison = _Comparison(kinds, kinds_affine, scan)
    if comparison.is_empty:
        return Misfit(0.0, 0.0, comparison.covered)
    still = comparison.agreement(np.zeros(6))
    tried = [(comparison.agreement(movement), movement) for movement in _movements()]
    promising, start = max(tried, key=lambda pair: pair[0])
    if promising <= still:
        return Misfit(still, still, comparison.covered)
    found = optimize.minimize(
        lambda movement: -comparison.agreement(movement), start, method="Powell",
        options={"xtol": 0.5, "ftol": 2e-3, "maxfev": 400},
    )  # fmt: skip
    shift, turn = np.linalg.norm(found.x[:3]), np.linalg.norm(found.x[3:]) * _DEGREES_A_MM
    best = -float(found.fun)
    return Misfit(still, best, comparison.covered, float(shift), float(turn))


def require_place(
    kinds: NDArray[np.integer],
    kinds_affine: NDArray[np.floating],
    scan: Scan,
    *,
    what: str,
    where: str,
    fix: str,
    force: bool = False,
) -> None:
    """Refuse labels that do not lie where the image has what they name.

    Parameters
    ----------
    kinds, kinds_affine, scan
        See `measure_misfit`.
    what, where, fix
        The labels, the files and transforms they come from, and what can be done, for messages.
    force
        Warn only, whatever the field of view.

    Raises
    ------
    InputError
        If moving them far makes them fit better. Where the image covers a part of the brain only
        (`LEAST_COVERED`), a warning is given instead; of images smaller than a brain nothing is
        said.
    """
    labelled_mm3 = np.count_nonzero(kinds) * abs(np.linalg.det(kinds_affine[:3, :3]))
    brain_mm3 = np.count_nonzero(scan.mask) * abs(np.linalg.det(scan.mask_affine[:3, :3]))
    if min(labelled_mm3, brain_mm3) < LEAST_BRAIN_MM3:
        return
    misfit = measure_misfit(kinds, kinds_affine, scan)
    if not misfit.is_wrong:
        return
    found = (
        f"{what} lie {misfit.shift_mm:.0f} mm and {misfit.turn_degrees:.0f} degrees off the brain "
        f"in the image (moved so, they agree with it {misfit.gain:.0%} better)"
    )
    if force:
        _log.warning("%s: %s. Taken, for --force was given", where, found)
        return
    if misfit.covered >= LEAST_COVERED:
        raise InputError(
            found,
            where=where,
            fix=f"{fix} If figures show that they lie well, --force takes them.",
        )
    _log.warning(
        "%s: %s. The field of view holds %.0f%% of them, too little to be sure: %s",
        where, found, 100 * misfit.covered, fix,
    )  # fmt: skip


def require_sides(
    is_left: NDArray[np.bool_],
    is_right: NDArray[np.bool_],
    affine: NDArray[np.floating],
    *,
    what: str,
    where: str,
) -> None:
    """Refuse labels whose left regions lie on the right.

    Both halves of a brain are alike, so that `require_place` does not find this.

    Parameters
    ----------
    is_left, is_right
        (X, Y, Z), voxels of regions of either side.
    affine
        (4, 4), voxel indices to RAS mm.
    what, where
        For the message.

    Raises
    ------
    InputError
        If they lie `SWAPPED_MM` or further on the wrong side.
    """
    volume = abs(np.linalg.det(affine[:3, :3]))
    if min(np.count_nonzero(is_left), np.count_nonzero(is_right)) * volume < LEAST_BRAIN_MM3 / 4:
        return
    left, right = (
        float(np.argwhere(side).mean(axis=0) @ affine[0, :3] + affine[0, 3])
        for side in (is_left, is_right)
    )
    if right - left < SWAPPED_MM:
        raise InputError(
            f"left and right are swapped: the left regions of {what} lie {left - right:.0f} mm "
            "further to the right than the right ones",
            where=where,
            fix="Look at the orientation (affine) of the label image and the direction of the "
            "transforms.",
        )


def _movements() -> list[NDArray[np.float64]]:
    """Movements along and about each axis: three shifts in mm, three turns in units of 3°."""
    sizes = [TRIED_MM] * 3 + [tuple(turn / _DEGREES_A_MM for turn in TRIED_DEGREES)] * 3
    return [
        sign * size * np.eye(6)[axis]
        for axis in range(6)
        for size, sign in itertools.product(sizes[axis], (1, -1))
    ]


class _Comparison:
    """Labels and image at points, to be compared under any movement."""

    def __init__(
        self, kinds: NDArray[np.integer], kinds_affine: NDArray[np.floating], scan: Scan
    ) -> None:
        self._points, is_inside = _points(scan.mask, scan.mask_affine)
        self.covered = _covered(kinds, kinds_affine, scan)
        self.is_empty = not (is_inside.any() and kinds.any())
        if self.is_empty:
            return
        values = _Soft(np.nan_to_num(scan.image), scan.affine)(self._points)
        self._levels = _levels(values, is_inside)
        self._n_levels = int(self._levels.max()) + 1
        self._centre = self._points[is_inside].mean(axis=0)
        self._kinds = [
            _Soft(kinds == kind, kinds_affine) for kind in range(1, int(kinds.max(initial=0)) + 1)
        ]

    def agreement(self, movement: NDArray[np.floating]) -> float:
        """Normalised mutual information with the labels moved."""
        turn = Rotation.from_rotvec(np.deg2rad(movement[3:] * _DEGREES_A_MM)).as_matrix()
        points = (self._points - self._centre) @ turn.T + self._centre + movement[:3]
        shares = np.stack([soft(points) for soft in self._kinds])
        shares = np.vstack([np.clip(1 - shares.sum(axis=0), 0, None), shares])
        counts = [
            np.bincount(self._levels, weights=share, minlength=self._n_levels) for share in shares
        ]
        joint = np.stack(counts) / np.sum(counts)
        of_kinds, of_levels = _entropy(joint.sum(axis=1)), _entropy(joint.sum(axis=0))
        shared = of_kinds + of_levels - _entropy(joint)
        return float(shared / max(np.sqrt(of_kinds * of_levels), 1e-9))


def _points(
    mask: NDArray[np.bool_], affine: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Points in and around a mask, (n, 3) mm, and whether each lies in it."""
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    axes = [
        np.arange(0.5, n - 1, SPACING_MM / edge) for n, edge in zip(mask.shape, edges, strict=True)
    ]
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    rng = np.random.default_rng(0)
    voxels = lattice + rng.uniform(-0.5, 0.5, lattice.shape) * np.minimum(1, SPACING_MM / edges)
    nearest = tuple(np.rint(voxels).astype(int).T)
    distances = ndimage.distance_transform_edt(~mask, sampling=edges)[nearest]
    kept = distances <= RIM_MM
    points = voxels[kept] @ affine[:3, :3].T + affine[:3, 3]
    return np.asarray(points, dtype=np.float64), np.asarray(distances[kept] == 0)


def _covered(kinds: NDArray[np.integer], kinds_affine: NDArray[np.floating], scan: Scan) -> float:
    """Share of labelled voxels that lie in the field of view of the mask."""
    to_mask = np.linalg.inv(scan.mask_affine) @ kinds_affine
    voxels = np.argwhere(kinds > 0) @ to_mask[:3, :3].T + to_mask[:3, 3]
    is_inside = np.all((voxels > -0.5) & (voxels < np.array(scan.mask.shape) - 0.5), axis=1)
    return float(is_inside.mean()) if len(voxels) else 0.0


def _levels(values: NDArray[np.floating], is_inside: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Level of each value, from 0: those around the mask after those inside."""
    levels = np.zeros(len(values), dtype=np.intp)
    first = 0
    for part, n_levels in ((is_inside, LEVELS_INSIDE), (~is_inside, LEVELS_AROUND)):
        if part.any():
            bounds = np.quantile(values[part], np.linspace(0, 1, n_levels + 1)[1:-1])
            levels[part] = first + np.searchsorted(bounds, values[part])
        first += n_levels
    return levels


def _entropy(shares: NDArray[np.floating]) -> float:
    """Entropy in nats of shares that add up to 1."""
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


class _Soft:
    """An image blurred, to be looked up anywhere; beyond its border as at its border."""

    def __init__(self, values: NDArray, affine: NDArray[np.floating]) -> None:
        sigma = SOFTENING_MM / np.linalg.norm(affine[:3, :3], axis=0)
        self._values = ndimage.gaussian_filter(values.astype(np.float32), sigma, mode="nearest")
        self._to_voxels = np.linalg.inv(affine)

    def __call__(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Values at points (n, 3) in mm."""
        index = points @ self._to_voxels[:3, :3].T + self._to_voxels[:3, 3]
        return np.asarray(
            ndimage.map_coordinates(self._values, index.T, order=1, mode="nearest"),
            dtype=np.float64,
        )
