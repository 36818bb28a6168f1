# SPDX-License-Identifier: MIT
"""Which region a streamline ends in: the nearest labelled voxel within a radius."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

#: Neighbours looked at together; few, so that most voxels are done after the first of them.
_BATCH = 16
#: Points that share a first neighbour from which each eighth of the voxel is compared apart: fewer
#: neighbours matter to it, but each part costs a call.
_MANY = 300
#: Points whose voxels are found at a time: what is made of them on the way stays in cache.
_BLOCK = 1 << 14
#: What is known of a voxel, in place of a region: nothing yet; nothing, but it is asked for; that
#: it depends on the point.
_UNKNOWN, _ASKED, _MIXED = -1, -2, -3
#: Slack in mm² for points on a voxel's very border.
_SLACK_MM2 = 1e-6
#: What each axis adds to the number of an eighth of a voxel where a point lies above the centre.
_EIGHTHS = np.array([1, 2, 4])


class RegionSearch:
    """Find the regions of points, as ``tck2connectome -assignment_radial_search`` does.

    A point belongs to the label of the voxel whose centre is nearest to it, among the labelled
    voxels whose centres are less than the radius away; to none (0) without any.

    Parameters
    ----------
    labels
        One image an atlas, (X, Y, Z), region indices; 0 is none.
    affine
        (4, 4), voxel to RAS mm, of all of them; axes at right angles.
    radius_mm
        Above 0. The centre of a voxel at just this distance is too far.

    Raises
    ------
    InputError
        If the axes of the images are not at right angles.

    Notes
    -----
    Distances are those between points and voxel centres, so that a voxel does not decide alone.
    It tells what is to be compared, though: once the first labelled neighbour of a voxel is known,
    in the order of distance between centres, only such neighbours matter as lie nearer to some
    point of the voxel than that one. If all of these bear one label, no point need be looked at.
    In a voxel that is labelled itself, only points on its very border need.
    Of voxel centres at the same distance the first one in that order wins, and in it the one with
    the lower index, the last axis first, after the axes are turned nearest to right, anterior and
    superior.
    """

    def __init__(
        self,
        labels: Sequence[NDArray[np.integer]],
        affine: NDArray[np.floating],
        *,
        radius_mm: float,
    ) -> None:
        turn = nib.orientations.io_orientation(affine)
        turned = [nib.orientations.apply_orientation(values, turn) for values in labels]
        self._affine = affine @ nib.orientations.inv_ornt_aff(turn, labels[0].shape)
        self._inverse = np.linalg.inv(self._affine)
        self._sizes = np.linalg.norm(self._affine[:3, :3], axis=0)
        self._axes = self._affine[:3, :3] / self._sizes
        if np.abs(self._axes.T @ self._axes - np.eye(3)).max() > 1e-3:
            raise InputError(
                "the axes of the label image are not at right angles",
                fix="Resample it to a grid without shear.",
            )
        neighbours = _neighbours(self._sizes, radius_mm)
        # A margin of two reaches: one for the points, one more for their neighbours.
        self._reach = np.abs(neighbours).max(axis=0)
        low, high = _bounding_box(functools.reduce(np.maximum, turned) > 0)
        self._low, self._shape = low - 2 * self._reach, high - low + 4 * self._reach
        self._strides = np.array([self._shape[1] * self._shape[2], self._shape[2], 1])
        ball = _Ball(neighbours, self._sizes, neighbours @ self._strides, radius_mm)
        box = tuple(slice(first, stop) for first, stop in zip(low, high, strict=True))
        margins = [(2 * width, 2 * width) for width in self._reach]
        self._atlases = [
            _Atlas(np.pad(values[box].clip(0), margins), ball, self._reach) for values in turned
        ]

    def assign(self, points: NDArray[np.floating]) -> NDArray[np.int32]:
        """Region of each point in each atlas.

        Parameters
        ----------
        points
            (n, 3), RAS mm; NaN where there is no point.

        Returns
        -------
        NDArray
            (n, n_atlases), region indices; 0 for none.
        """
        voxels = np.empty(len(points), dtype=np.intp)
        offsets = np.empty((3, len(points)))
        for start in range(0, len(points), _BLOCK):
            block = slice(start, start + _BLOCK)
            voxels[block], offsets[:, block] = self._locate(points[block])
        kept = np.flatnonzero(voxels >= 0)
        if len(kept) < len(points):
            voxels, offsets = voxels[kept], offsets[:, kept]
        regions = np.zeros((len(points), len(self._atlases)), dtype=np.int32)
        on_border = np.flatnonzero(self._are_on_border(offsets))
        for column, atlas in enumerate(self._atlases):
            regions[kept, column] = atlas.assign(voxels, offsets, on_border)
        return regions

    def _are_on_border(self, offsets: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether points, given by their places in voxels, lie where two voxels meet."""
        found = np.zeros(offsets.shape[1], dtype=bool)
        for along, size in zip(offsets, self._sizes, strict=True):
            found |= size * (size - 2 * np.abs(along)) < _SLACK_MM2
        return found

    def _locate(
        self, points: NDArray[np.floating]
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Voxels, -1 for points far from all labels, and places from their centres in mm.

        Places are (3, n): an axis after the other, which is several times faster here.
        """
        # MRtrix3 holds points as 32-bit numbers, whatever the file's are.
        exact = points.astype(np.float32).T.astype(np.float64, order="C")
        exact[~(np.abs(exact) < 1e9)] = -1e9  # NaN, and what no index can hold
        place = self._inverse[:3, :3] @ exact + self._inverse[:3, 3:]
        centre = np.trunc(place + np.copysign(0.5, place))
        index = centre.astype(np.intp) - self._low[:, None]
        inside = np.ones(len(points), dtype=bool)
        for along, reach, size in zip(index, self._reach, self._shape, strict=True):
            inside &= (along >= reach) & (along < size - reach)
        # In mm, then along the voxel's axes: exact where these are those of the room, so that
        # points midway between two centres are met as such.
        world = self._affine[:3, :3] @ centre + self._affine[:3, 3:]
        return np.where(inside, self._strides @ index, -1), self._axes.T @ (exact - world)


class _Rivals(NamedTuple):
    """Neighbours of a voxel, nearest first, one of which is nearest to a point.

    ``steps``, (n, 1), how far away each is in the flat image. With the point's place in its voxel,
    ``turns`` (n, 3) times it, plus ``squares`` (n, 1), is the square of its distance from the
    neighbour's centre, less that from its own voxel's.
    """

    steps: NDArray[np.intp]
    turns: NDArray[np.float64]
    squares: NDArray[np.float64]


class _Ball:
    """Neighbours of a voxel that may be within the radius of one of its points, nearest first.

    ``centres``, (n, 3) mm; ``steps``, (n,), how far away each is in the flat image.
    """

    def __init__(
        self,
        neighbours: NDArray[np.intp],
        sizes: NDArray[np.floating],
        steps: NDArray[np.intp],
        radius_mm: float,
    ) -> None:
        self.centres, self.steps = neighbours * sizes, steps
        self.squares = (self.centres**2).sum(axis=1)
        self.radius2 = radius_mm**2
        corners = np.sqrt(((np.abs(self.centres) + sizes / 2) ** 2).sum(axis=1))
        #: (n,); whether the neighbour is within the radius of every point of the voxel.
        self.always = corners < radius_mm - _SLACK_MM2
        self._sizes = sizes
        self._rivals: dict[tuple[int, int | None], _Rivals] = {}

    def rivals(self, number: int, eighth: int | None = None) -> _Rivals:
        """Neighbours, this one first, that lie nearer than it to some point of the voxel.

        Parameters
        ----------
        number
            The first labelled one.
        eighth
            Of the voxel, by `_EIGHTHS`; None for the whole.
        """
        key = number, eighth
        if key not in self._rivals:
            gains = (self.centres - self.centres[number]) * self._sizes
            if eighth is None:
                gains = np.abs(gains)
            else:
                gains = np.maximum(gains * np.where(eighth & _EIGHTHS, 1, -1), 0)
            nearer = self.squares[number] - self.squares + gains.sum(axis=1) > -_SLACK_MM2
            nearer[:number] = False
            self._rivals[key] = _Rivals(
                self.steps[nearer, None], -2 * self.centres[nearer], self.squares[nearer, None]
            )
        return self._rivals[key]


class _Atlas:
    """The labels of one atlas, flat, and what is known of its voxels so far."""

    def __init__(
        self, labels: NDArray[np.integer], ball: _Ball, reach: NDArray[np.integer]
    ) -> None:
        self._ball = ball
        there = labels > 0
        # The smallest numbers possible: what is looked up here and there should stay in cache.
        small = np.int16 if labels.max() <= np.iinfo(np.int16).max else np.int32
        self._labels, self._there = labels.astype(small).ravel(), there.ravel()
        known = np.where(_dilate(there, reach), _UNKNOWN, 0)
        if ball.always[:1].any():  # so within their own labelled voxel's reach are all its points
            known = np.where(there, labels, known)
        self._known: NDArray[Any] = known.astype(small).ravel()
        narrow = np.int16 if len(ball.steps) <= np.iinfo(np.int16).max else np.int32
        self._first: NDArray[Any] = np.zeros(labels.size, dtype=narrow)

    def assign(
        self,
        voxels: NDArray[np.intp],
        offsets: NDArray[np.float64],
        on_border: NDArray[np.intp],
    ) -> NDArray[np.integer]:
        """Region of each point, given its voxel, its place in it in mm, and who is on a border."""
        regions: NDArray[np.integer] = self._known[voxels]
        unknown = voxels[regions == _UNKNOWN]
        if unknown.size:
            self._known[unknown] = _ASKED
            self._look_at(np.flatnonzero(self._known == _ASKED))
            regions = self._known[voxels]
        mixed = np.flatnonzero(regions == _MIXED)
        mixed = np.concatenate([mixed, on_border[self._there[voxels[on_border]]]])
        regions[mixed] = self._compare(voxels[mixed], offsets[:, mixed])
        return regions

    def _compare(
        self, voxels: NDArray[np.intp], offsets: NDArray[np.float64]
    ) -> NDArray[np.integer]:
        """Regions of points by their distances from labelled voxels.

        Those are looked at together that share the first neighbour and, if many, the eighth.
        """
        keys = 8 * self._first[voxels].astype(np.int32) + _EIGHTHS @ (offsets > 0)
        order = np.argsort(keys, kind="stable")
        keys, voxels, offsets = keys[order], voxels[order], offsets[:, order]
        limits = self._ball.radius2 - (offsets**2).sum(axis=0)
        found = np.empty(len(order), dtype=self._labels.dtype)
        for start, stop in _runs(keys >> 3):
            number = int(keys[start] >> 3)
            parts: list[tuple[int | None, int, int]] = [(None, start, stop)]
            if stop - start >= _MANY:
                parts = [
                    (int(keys[start + first] & 7), start + first, start + last)
                    for first, last in _runs(keys[start:stop])
                ]
            for eighth, first, last in parts:
                part = slice(first, last)
                found[part] = self._nearest(
                    number, eighth, voxels[part], offsets[:, part], limits[part]
                )
        regions = np.empty_like(found)
        regions[order] = found
        return regions

    def _look_at(self, voxels: NDArray[np.intp]) -> None:
        """Find out of voxels whether they have one region, and which."""
        self._known[voxels] = 0
        todo = voxels
        for start in range(0, len(self._ball.steps), _BATCH):
            steps = self._ball.steps[start : start + _BATCH]
            there = self._there[todo[:, None] + steps]
            place = there.argmax(axis=1)
            hit = there[np.arange(len(todo)), place]
            self._first[todo[hit]] = start + place[hit]
            self._known[todo[hit]] = _MIXED
            todo = todo[~hit]
            if not todo.size:
                break
        found = voxels[self._known[voxels] == _MIXED]
        for number, chosen in _groups(self._first[found]):
            if self._ball.always[number]:
                some = found[chosen]
                values = self._labels[some + self._ball.rivals(number).steps]
                alone = ((values == values[0]) | (values == 0)).all(axis=0)
                self._known[some[alone]] = values[0, alone]

    def _nearest(
        self,
        number: int,
        eighth: int | None,
        voxels: NDArray[np.intp],
        offsets: NDArray[np.float64],
        limits: NDArray[np.float64],
    ) -> NDArray[np.integer]:
        """Regions of points in voxels whose first labelled neighbour is this one.

        Squares of distances, less those from the centres of the points' own voxels, are compared;
        they must be below `limits`.
        """
        rivals = self._ball.rivals(number, eighth)
        values = self._labels[voxels + rivals.steps]
        distances = rivals.turns @ offsets
        distances += rivals.squares
        np.putmask(distances, values == 0, np.inf)
        best = distances.argmin(axis=0)
        columns = np.arange(len(voxels))
        inside = distances[best, columns] < limits
        return np.where(inside, values[best, columns], 0)


def _groups(numbers: NDArray[np.integer]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Each number that there is, and where it stands."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    for start, stop in _runs(ordered):
        yield int(ordered[start]), order[start:stop]


def _runs(ordered: NDArray[np.integer]) -> Iterator[tuple[int, int]]:
    """First and one past the last place of each number in ordered ones."""
    bounds = np.flatnonzero(np.diff(ordered, prepend=-1, append=-1)).tolist()
    return itertools.pairwise(bounds)


def _bounding_box(there: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First and one past the last voxel along each axis; one voxel if there is nothing."""
    low, high = np.zeros(3, dtype=np.intp), np.ones(3, dtype=np.intp)
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(there.any(axis=others))
        if found.size:
            low[axis], high[axis] = found[0], found[-1] + 1
    return low, high


def _neighbours(sizes: NDArray[np.floating], radius_mm: float) -> NDArray[np.intp]:
    """(n, 3), voxels that may be within the radius of a point of voxel 0, nearest first."""
    limit = radius_mm + np.linalg.norm(sizes / 2)
    reach = np.ceil(limit / sizes).astype(int)
    z, y, x = np.meshgrid(*(np.arange(-n, n + 1) for n in reach[::-1]), indexing="ij")
    steps = np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1)
    lengths = np.sqrt(((steps * sizes)[:, ::-1] ** 2).sum(axis=1))
    order = np.argsort(lengths, kind="stable")
    near: NDArray[np.intp] = steps[order[lengths[order] < limit]]
    return near


def _dilate(there: NDArray[np.bool_], reach: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Spread True over a box of `reach` voxels in each direction; borders must be False."""
    for axis, width in enumerate(reach):
        moved = np.moveaxis(there, axis, 0)
        spread = np.zeros_like(there)
        out = np.moveaxis(spread, axis, 0)
        for shift in range(-width, width + 1):
            source = slice(max(0, -shift), len(moved) - max(0, shift))
            target = slice(max(0, shift), len(moved) - max(0, -shift))
            out[target] |= moved[source]
        there = spread
    return there
