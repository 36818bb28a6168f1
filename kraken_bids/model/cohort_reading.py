# SPDX-License-Identifier: MIT
"""A cohort's connectomes, read some participants at a time: adapted, filled, to be encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..connectome.adaptation import Adaptation, RunningMean, fill_missing
from ..errors import ModelError
from ..formats.inputs import MatchedInputs
from .bundle import Bundle
from .cohort_fit import (
    FitSample,
    SiteAdaptations,
    doubt_scale,
    find_lookalike,
    fit_flavor,
)
from .connectome_rows import batch_rows

#: Rows that are read once for two passes, if they take no more than this.
KEEP_BYTES = 64 << 20
#: Participants whose mean is held against the training mean where nothing is adapted.
N_CHECKED = 64


@dataclass(eq=False)
class ReadingNotes:
    """What came up while a cohort was read; for the summary.

    Parameters
    ----------
    n_filled
        (participants, edges) that took the training mean, by flavor.
    n_left_out
        Participants by flavor whose missing edges nothing can fill.
    doubts
        Lines about data that do not look as they should.
    """

    n_filled: dict[str, tuple[int, int]] = field(default_factory=dict)
    n_left_out: dict[str, int] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)


class CohortReader:
    """Reads a cohort flavor by flavor, in two passes where an adaptation is to be fitted.

    An input is let go when its flavor is done, and with it what its format keeps in memory:
    whoever makes a reader should hold the inputs no longer.

    Parameters
    ----------
    inputs
        The cohort.
    flavors
        Inputs that are connectomes.
    bundle
        The model.
    sites
        (n,), empty texts where sites are not told apart.
    sample
        Whom to fit adaptations on; None for `fits` as they are.
    fits
        Adaptations fitted earlier; empty for none.
    """

    def __init__(
        self,
        inputs: MatchedInputs,
        flavors: Sequence[str],
        bundle: Bundle,
        *,
        sites: tuple[str, ...],
        sample: FitSample | None = None,
        fits: Mapping[str, Adaptation] | None = None,
    ) -> None:
        self.participants = inputs.participants
        self.flavors = tuple(flavors)
        self.bundle = bundle
        self.fits: dict[str, Adaptation] = dict(fits or {})
        self.adaptations = SiteAdaptations(self.fits, sites)
        self.notes = ReadingNotes()
        self._parts = {flavor: _part_of(inputs, flavor) for flavor in flavors}
        self._fit_parts: dict[str, MatchedInputs] = {}
        self._sample = sample
        if sample is not None and not sample.is_cohort:
            self._fit_parts = {flavor: _part_of(sample.inputs, flavor) for flavor in flavors}
        if sample is not None:
            # the sample's own inputs are not read: parts of them are, and are let go
            empty = MatchedInputs(sample.inputs.participants, {}, sample.inputs.positions)
            self._sample = FitSample(
                sample.mode, empty, sample.chosen, sample.sites, sample.is_cohort
            )

    def rows(self, flavor: str) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Read a flavor, once; several flavors may be read at a time, each in its thread.

        Parameters
        ----------
        flavor
            One of `flavors`.

        Yields
        ------
        start
            First participant.
        rows
            (k, n_edges), in the scale of the training data: whole rows of numbers or of NaN.

        Raises
        ------
        InputError
            If the file cannot be read as connectomes.
        ModelError
            If the flavor cannot be adapted.
        """
        part = self._parts.pop(flavor)
        fit_part = self._fit_parts.pop(flavor, part)
        training_mean = self.bundle.training_mean(flavor)
        twice = self._sample is not None and fit_part is part
        batches = _batches(part, flavor, keep=twice)
        if self._sample is not None:
            self._fit(
                flavor,
                batches() if fit_part is part else _batches(fit_part, flavor)(),
                training_mean,
            )
        del fit_part
        check = not self.fits and training_mean is not None
        filled = np.zeros(2, dtype=np.int64)
        for start, rows in batches():
            if check and not np.isnan(rows).all():
                self._check_scale(flavor, rows[:N_CHECKED], training_mean)
                check = False
            adapted = self.adaptations.forward(flavor, rows, start)
            adapted, n_filled = self._fill(flavor, adapted, training_mean)
            filled += ((n_filled > 0).sum(), n_filled.sum())
            yield start, adapted
        if filled.any():
            self.notes.n_filled[flavor] = (int(filled[0]), int(filled[1]))

    def _fit(
        self,
        flavor: str,
        batches: Iterable[tuple[int, NDArray[np.float32]]],
        training_mean: NDArray[np.float32] | None,
    ) -> None:
        if training_mean is None or self._sample is None:
            raise ModelError(f"flavor '{flavor}' has no training mean", where="--adaptation")
        fits = fit_flavor(self._sample, flavor, batches, training_mean)
        self.fits.update(fits)
        for fit in fits.values():
            doubt = find_lookalike(self.bundle, flavor, fit.source_mean, fit.r_squared)
            if doubt:
                self.notes.doubts.append(doubt)

    def _check_scale(
        self,
        flavor: str,
        rows: NDArray[np.float32],
        training_mean: NDArray[np.float32] | None,
    ) -> None:
        mean = RunningMean(rows.shape[1])
        mean.add(rows)
        if training_mean is not None:
            doubt = doubt_scale(flavor, mean.mean, training_mean)
            if doubt:
                self.notes.doubts.append(doubt)

    def _fill(
        self,
        flavor: str,
        rows: NDArray[np.float32],
        training_mean: NDArray[np.float32] | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Fill missing edges; what nothing can fill becomes a missing flavor."""
        if training_mean is not None:
            return fill_missing(rows, training_mean)
        broken = np.isnan(rows).any(axis=1)
        n_broken = int((broken & ~np.isnan(rows).all(axis=1)).sum())
        if n_broken:
            self.notes.n_left_out[flavor] = self.notes.n_left_out.get(flavor, 0) + n_broken
            rows = rows.copy()
            rows[broken] = np.nan
        return rows, np.zeros(len(rows), dtype=np.int64)


def _part_of(inputs: MatchedInputs, flavor: str) -> MatchedInputs:
    return MatchedInputs(
        inputs.participants,
        {flavor: inputs.inputs[flavor]},
        {flavor: inputs.positions[flavor]},
    )


def _read(part: MatchedInputs, flavor: str, start: int, stop: int) -> NDArray[np.float32]:
    """Read some participants; in the file's order, where all have the flavor, without a copy."""
    positions = part.positions[flavor][start:stop]
    if len(positions) and positions[0] >= 0 and (np.diff(positions) > 0).all():
        return part.inputs[flavor].read(positions.tolist())
    return part.read(flavor, start, stop)


def _batches(
    part: MatchedInputs, flavor: str, *, keep: bool = False
) -> Callable[[], Iterator[tuple[int, NDArray[np.float32]]]]:
    """Give a function that reads all rows from the start, from memory if they are kept there."""
    n, n_columns = len(part.participants), part.inputs[flavor].n_columns
    size = batch_rows(n_columns)
    kept = _read(part, flavor, 0, n) if keep and 4 * n * n_columns <= KEEP_BYTES else None

    def read() -> Iterator[tuple[int, NDArray[np.float32]]]:
        for start in range(0, n, size):
            stop = min(start + size, n)
            rows = _read(part, flavor, start, stop) if kept is None else kept[start:stop]
            yield start, rows

    return read
