# SPDX-License-Identifier: MIT
"""Adaptations of a cohort whose connectomes lie in files: whom to fit on, site by site."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..connectome.adaptation import (
    ADAPTATIONS,
    FAMILIAR_R_SQUARED,
    HOPELESS_R_SQUARED,
    Adaptation,
    RunningMean,
    compare_means,
    fit_adaptation,
    is_familiar,
)
from ..errors import KrakenBIDSError, ModelError, UsageError
from ..formats.inputs import MatchedInputs
from .bundle import Bundle
from .translation import adaptation_key

_log = logging.getLogger(__name__)

#: Rows of a part of the participants: first participant and (k, n_edges).
Batches = Iterable[tuple[int, NDArray[np.float32]]]


@dataclass(frozen=True, eq=False)
class FitSample:
    """Whom adaptations are fitted on.

    Parameters
    ----------
    mode
        Key of `kraken_bids.connectome.adaptation.ADAPTATIONS`, not ``none``.
    inputs
        Connectomes of the sample.
    chosen
        (n,), participants of `inputs` that take part.
    sites
        (n,), empty texts where sites are not told apart.
    is_cohort
        Whether `inputs` are those that are adapted, too.
    """

    mode: str
    inputs: MatchedInputs
    chosen: NDArray[np.bool_]
    sites: tuple[str, ...]
    is_cohort: bool = True

    def counts(self, flavor: str) -> dict[str, int]:
        """Participants with a flavor by site."""
        if flavor not in self.inputs.positions:
            return {}
        rows = np.flatnonzero(self.chosen & self.inputs.has(flavor))
        found: dict[str, int] = {}
        for row in rows:
            found[self.sites[row]] = found.get(self.sites[row], 0) + 1
        return found


def plan_fit(sample: FitSample, flavors: Sequence[str]) -> tuple[list[str], list[KrakenBIDSError]]:
    """Say what can be fitted, before anything is read.

    Parameters
    ----------
    sample
        Whom to fit on.
    flavors
        Flavors of the cohort that is adapted.

    Returns
    -------
    keys
        `adaptation_key` of every fit. A flavor that only one participant of a site has, where
        others are known by other flavors, is left out there, with a warning.
    problems
        Flavors without anybody to fit on; single participants, whom a shift of the mean would
        turn into the training mean.
    """
    shifts = ADAPTATIONS[sample.mode].shifts_mean
    counts = {flavor: sample.counts(flavor) for flavor in flavors}
    per_site = {
        site: max(found.get(site, 0) for found in counts.values())
        for site in sorted({site for found in counts.values() for site in found})
    }
    problems: list[KrakenBIDSError] = []
    for site, n in per_site.items():
        if site and n == 1 and shifts:
            problems.append(_alone(f"site '{site}' has", sample.mode, "--adapt-by"))
    keys, alone = [], []
    for flavor, found in counts.items():
        if not found:
            problems.append(_nobody(flavor, sample))
        for site, n in found.items():
            key = adaptation_key(flavor, site)
            if n == 1 and shifts and not site:
                alone.append(flavor)
            elif n == 1 and shifts and per_site[site] > 1:
                _log.warning("%s is left out: one participant only cannot be adapted", key)
            else:
                keys.append(key)
    if alone:
        problems.append(_alone(f"{', '.join(alone)}: there is", sample.mode))
    return keys, problems


def _alone(who: str, mode: str, where: str = "--adaptation") -> ModelError:
    return ModelError(
        f"{who} one participant: adaptation '{mode}' would map anybody there onto the training "
        "mean, the prediction would be the same for every person",
        where=where,
        fix="Fit it on a cohort (--adaptation-source, or a fitted file), or use 'none' or "
        "'meanfit'.",
    )


def _nobody(flavor: str, sample: FitSample) -> UsageError:
    if sample.is_cohort:
        return UsageError(
            f"no participant chosen has flavor '{flavor}'",
            where="--fit-on",
            fix="Choose others, or leave this input out.",
        )
    return UsageError(
        f"flavor '{flavor}' has no file to fit on",
        where="--adaptation-source",
        fix=f"Add '{flavor}=FILE'.",
    )


def fit_flavor(
    sample: FitSample, flavor: str, batches: Batches, training_mean: NDArray[np.floating]
) -> dict[str, Adaptation]:
    """Fit a flavor's adaptation at every site, in one pass.

    Parameters
    ----------
    sample
        Whom to fit on.
    flavor
        One that has passed `plan_fit`.
    batches
        All rows of `sample`, some participants at a time.
    training_mean
        (n_edges,).

    Returns
    -------
    dict
        By `adaptation_key`; sites where one participant alone has the flavor are left out.

    Raises
    ------
    ModelError
        If the mean of a site is constant, or runs against the training mean.
    """
    use = sample.chosen & sample.inputs.has(flavor)
    sites = np.array(sample.sites)
    means = {site: RunningMean(len(training_mean)) for site in sample.counts(flavor)}
    for start, rows in batches:
        stop = start + len(rows)
        for site, mean in means.items():
            chosen = use[start:stop] & (sites[start:stop] == site)
            if chosen.all():
                mean.add(rows)
            elif chosen.any():
                mean.add(rows[chosen])
    fits = {}
    for site, mean in means.items():
        key, n = adaptation_key(flavor, site), mean.n_participants
        if n == 1 and ADAPTATIONS[sample.mode].shifts_mean:
            continue
        try:
            fits[key] = fit_adaptation(sample.mode, mean.mean, training_mean, n_participants=n)
        except ModelError as error:
            raise ModelError(error.what, where=key, fix=error.fix) from error
        check_direction(key, fits[key])
    return fits


def check_direction(key: str, fit: Adaptation) -> None:
    """Refuse a line that plainly falls: it would turn people's differences upside down.

    A slope below 0 where the means have nothing in common is chance, and is warned about with
    all such fits.

    Raises
    ------
    ModelError
        If the line falls and the means are correlated.
    """
    falls = ADAPTATIONS[fit.mode].fits_line and fit.slope <= 0
    if falls and fit.r_squared >= HOPELESS_R_SQUARED:
        raise ModelError(
            f"edges that are strong in these data are weak in the training data (slope "
            f"{fit.slope:.3g}, R² {fit.r_squared:.3f}): adapting would turn the differences "
            "between participants upside down",
            where=key,
            fix="Look whether the file holds this flavor, in the order of its atlas; "
            "'--adaptation meanshift' scales nothing.",
        )


@dataclass(frozen=True, eq=False)
class SiteAdaptations:
    """Adaptations of a cohort that may come from several sites.

    Parameters
    ----------
    fits
        By `adaptation_key`; empty if nothing is adapted.
    sites
        (n,) of the cohort's participants; empty texts where sites are not told apart.
    """

    fits: Mapping[str, Adaptation]
    sites: tuple[str, ...]

    def _groups(
        self, flavor: str, start: int, stop: int
    ) -> Iterator[tuple[NDArray[np.intp] | slice, Adaptation | None]]:
        sites = self.sites[start:stop]
        if len(set(sites)) == 1:
            yield slice(None), self.fits.get(adaptation_key(flavor, sites[0]))
            return
        labels = np.array(sites)
        for site in dict.fromkeys(sites):
            yield np.flatnonzero(labels == site), self.fits.get(adaptation_key(flavor, site))

    def forward(self, flavor: str, rows: NDArray[np.float32], start: int) -> NDArray[np.float32]:
        """Bring rows, the first of which is participant `start`, to the training scale.

        Participants whose flavor and site have no fit become rows of NaN.
        """
        if not self.fits:
            return rows
        adapted = np.full_like(rows, np.nan)
        for group, fit in self._groups(flavor, start, start + len(rows)):
            if fit is not None and isinstance(group, slice):
                return fit.forward(rows)
            if fit is not None:
                adapted[group] = fit.forward(rows[group])
        return adapted

    def inverse(
        self, flavor: str, rows: NDArray[np.float32], start: int, edges: slice | None = None
    ) -> NDArray[np.float32]:
        """Bring rows, or some edges of rows, back to the scale of the participants' sites."""
        if not self.fits:
            return rows
        original = np.full_like(rows, np.nan)
        for group, fit in self._groups(flavor, start, start + len(rows)):
            if fit is not None:
                original[group] = fit.inverse(rows[group], edges)
        return original


def doubt_scale(
    flavor: str, mean: NDArray[np.floating], training_mean: NDArray[np.floating]
) -> str:
    """Say why data that are not adapted look as if they were in another scale; empty if not.

    Parameters
    ----------
    flavor
        For the message.
    mean
        (n_edges,), of some participants.
    training_mean
        (n_edges,).
    """
    slope, r_squared = compare_means(mean, training_mean)
    if is_familiar(slope, r_squared):
        return ""
    return (
        f"{flavor}: the data do not look like the training data (line between the means: slope "
        f"{slope:.3g}, R² {r_squared:.3f}); predictions from them are hardly meaningful: "
        "use --adaptation meanfit+meanshift"
    )


def find_lookalike(
    bundle: Bundle, flavor: str, mean: NDArray[np.floating], r_squared: float
) -> str:
    """Name a flavor that a cohort looks like more than like the one it is said to be; or nothing.

    Structural and functional mean connectomes share some tenth of their variance, those of one
    kind most of it: a file given for the other kind is no hopeless fit, but this tells.

    Parameters
    ----------
    bundle
        The model.
    flavor
        What the data are said to be.
    mean
        (n_edges,), of the cohort.
    r_squared
        Squared correlation with the training mean of `flavor`.
    """
    if r_squared >= FAMILIAR_R_SQUARED:
        return ""
    best, found = max(FAMILIAR_R_SQUARED, 2 * r_squared), ""
    for other in bundle.flavors:
        if other == flavor or bundle.n_edges(other) != len(mean):
            continue
        training_mean = bundle.training_mean(other)
        if training_mean is not None:
            slope, fit = compare_means(mean, training_mean)
            if fit > best and slope > 0:
                best, found = fit, other
    if not found:
        return ""
    return (
        f"{flavor}: the data look like {found} (R² {best:.3f}, against {r_squared:.3f}): is this "
        "really data of that flavor?"
    )
