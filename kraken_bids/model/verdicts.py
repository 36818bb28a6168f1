# SPDX-License-Identifier: MIT
"""What is usual of the measures of `kraken_bids.model.trust`, and which values are not.

Every measure has a row in `RULES`. A rule has bounds that hold for any model and cohort, where
such can be given, and bounds that follow from the cohort: so many robust standard deviations from
its median, on a scale on which values spread evenly. These need `FEWEST_JUDGED` sessions. Both
were set on simulated cohorts: ``benchmarks/trust.py`` shows what they find and miss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..flavors import CORE_ATLASES, LEAST_SIMILARITY, Flavor

#: Sessions with a flavor from which on they are judged by each other. Of 10 simulated cohorts of
#: 10 clean participants one in ten would be doubted, of cohorts of 20 one in fifty.
FEWEST_JUDGED = 20
#: Robust standard deviations from the cohort's median that are still usual.
N_DEVIATIONS = 5.0
#: The same for how structural and functional latents match: those of two people are not far off.
N_DEVIATIONS_MATCHED = 3.0
#: Bounds of n sessions are wider by the factor 1 + this / n: few say little of their spread.
SMALL_COHORT = 4.0
#: A match of modalities as low as this is doubted, where most of the cohort match better. So are
#: 1 in 200 simulated participants, and 2 or 3 in 4 of those with another one's connectomes.
LEAST_MATCH = 1.2
#: A single flavor that fits the other modality no better than that of a stranger: 1 in 60 flavors
#: of simulated participants, half of those that are another one's.
CHANCE_MATCH = 0.0
#: Slope of the connectome, as measured, over the training mean: beyond, it is in other units.
LEAST_SCALE, MOST_SCALE = 0.2, 5.0
#: Distance to the training mean beyond which nothing is like the training data, in units of
#: theirs. Scans of minutes are noisier than the training data's hour, but not five times as far.
MOST_DISTANCE = 5.0
#: Cosine with the other flavors below which a latent tells hardly anything of the participant. The
#: median over simulated participants is 0.6 (FCpcorr of shen268, 7 minutes) to 0.88; that of two
#: people is about 0.
LEAST_AGREEMENT = 0.1
#: Share of edges that may be filled with the training mean before it speaks for the participant.
MOST_FILLED = 0.2
#: Least robust standard deviation, on the scale of a rule: nobody is doubted for a trifle.
_LEAST_DEVIATION = 0.05
#: From median absolute deviation to standard deviation, of normal values.
_TO_DEVIATION = 1.4826


def _logit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(x, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(inside / (1 - inside)))


def _logistic(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def _arctanh(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.arctanh(np.clip(x, -1 + 1e-9, 1 - 1e-9)))


def _log(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.log(np.clip(x, 1e-9, None)))


#: Scales on which values spread evenly, there and back, by the kind of a measure.
_SCALES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "share": (_logit, _logistic),
    "cosine": (_arctanh, np.tanh),
    "positive": (_log, np.exp),
    "score": (np.asarray, float),
}


@dataclass(frozen=True)
class Rule:
    """A row of `RULES`.

    Parameters
    ----------
    measure
        Name.
    concern
        What a value outside says: ``unlike`` the training data, ``disagrees`` with the other
        flavors, ``filled`` for the most part.
    kind
        Key of `_SCALES`.
    least, most
        Bounds for any cohort.
    n_low, n_high
        Robust standard deviations below and above the cohort's median that are usual.
    cap
        The cohort's lower bound is never higher than this.
    """

    measure: str
    concern: str
    kind: str
    least: float = -np.inf
    most: float = np.inf
    n_low: float = np.inf
    n_high: float = np.inf
    cap: float = np.inf

    @property
    def is_relative(self) -> bool:
        """Whether values are held against those of others."""
        return min(self.n_low, self.n_high) < np.inf


#: What is looked at. The correlation with the training mean has a lower bound by flavor besides.
RULES: tuple[Rule, ...] = (
    Rule("training_mean_r", "unlike", "cosine", n_low=N_DEVIATIONS),
    Rule("scale", "unlike", "positive", LEAST_SCALE, MOST_SCALE, N_DEVIATIONS, N_DEVIATIONS),
    Rule("impossible_edges", "unlike", "score", most=0),
    Rule("explained", "unlike", "share", n_low=N_DEVIATIONS),
    Rule("distance", "unlike", "positive", 0.0, MOST_DISTANCE, N_DEVIATIONS, N_DEVIATIONS),
    Rule("latent_norm", "unlike", "positive", n_low=N_DEVIATIONS, n_high=N_DEVIATIONS),
    Rule("reconstruction", "unlike", "cosine", n_low=N_DEVIATIONS),
    Rule("agreement", "disagrees", "cosine", LEAST_AGREEMENT, n_low=N_DEVIATIONS),
    Rule("match", "disagrees", "score", n_low=N_DEVIATIONS_MATCHED, cap=CHANCE_MATCH),
    Rule("modality_match", "disagrees", "score", n_low=N_DEVIATIONS_MATCHED, cap=LEAST_MATCH),
    Rule("filled_share", "filled", "share", most=MOST_FILLED),
)  # fmt: skip


@dataclass(frozen=True)
class Bounds:
    """What is usual of one measure of one flavor.

    Parameters
    ----------
    least, most
        Inclusive; infinite where nothing is known.
    n_sessions
        Sessions that they rest on; 0 for bounds that hold for any cohort.
    """

    least: float
    most: float
    n_sessions: int = 0

    def hold(self, value: float) -> bool:
        """Whether a value is usual; NaN is, for it says nothing."""
        return not (value < self.least or value > self.most)


@dataclass(frozen=True)
class Typical:
    """What is usual of one measure, on the scale of its rule.

    Parameters
    ----------
    median, deviation
        Of some participants; the deviation is the robust standard deviation.
    n
        Number of participants.
    """

    median: float
    deviation: float
    n: int


def find_bounds(
    flavor: str,
    columns: Mapping[str, NDArray[np.floating]],
    typical: Mapping[str, Typical] | None = None,
) -> dict[str, Bounds]:
    """Say what is usual of a flavor in a cohort.

    Parameters
    ----------
    flavor
        Its name.
    columns
        (n,) by measure; NaN where a session lacks it. Measures that are absent are not judged.
    typical
        What the model knows to be usual, by measure: stands for the cohort's own.

    Returns
    -------
    dict
        By measure: the narrower of what holds for any cohort, and of what is usual for the model
        or in this cohort.
    """
    found = {}
    for rule in RULES:
        if rule.measure not in columns:
            continue
        least, most, n = rule.least, rule.most, 0
        if rule.measure == "training_mean_r":
            least = least_similarity(flavor)
        values = np.asarray(columns[rule.measure], np.float64)
        values = values[np.isfinite(values)]
        usual = (typical or {}).get(rule.measure)
        if usual is None and len(values) >= FEWEST_JUDGED and rule.is_relative:
            usual, n = Typical(*take_spread(rule, values), len(values)), len(values)
        if usual is not None:
            low, high = _limits(rule, usual)
            least, most = max(least, low), min(most, high)
        found[rule.measure] = Bounds(float(least), float(most), n)
    return found


def take_spread(rule: Rule, values: NDArray[np.floating]) -> tuple[float, float]:
    """Median and robust standard deviation of values (n,), on the scale of their rule."""
    there, _ = _SCALES[rule.kind]
    spread = there(np.asarray(values, np.float64))
    median = float(np.median(spread))
    return median, _TO_DEVIATION * float(np.median(np.abs(spread - median)))


def _limits(rule: Rule, usual: Typical) -> tuple[float, float]:
    """Least and most that is usual."""
    _, back = _SCALES[rule.kind]
    deviation = max(usual.deviation, _LEAST_DEVIATION) * (1 + SMALL_COHORT / usual.n)
    low, high = -np.inf, np.inf
    if np.isfinite(rule.n_low):
        low = min(float(back(usual.median - rule.n_low * deviation)), rule.cap)
    if np.isfinite(rule.n_high):
        high = float(back(usual.median + rule.n_high * deviation))
    return low, high


def least_similarity(flavor: str) -> float:
    """Correlation with the training mean below which something is wrong; -inf if not known."""
    try:
        parsed = Flavor.parse(flavor)
    except UsageError:
        return -np.inf
    if parsed.atlas not in CORE_ATLASES:
        return -np.inf
    return LEAST_SIMILARITY.get((parsed.kind, parsed.processing), -np.inf)


def find_concerns(
    values: Mapping[str, float], bounds: Mapping[str, Bounds]
) -> dict[str, list[str]]:
    """Name the measures of a connectome that are not usual.

    Parameters
    ----------
    values
        By measure.
    bounds
        Of the flavor, see `find_bounds`.

    Returns
    -------
    dict
        Measures by concern, in the order of `RULES`; empty if all are usual.
    """
    found: dict[str, list[str]] = {}
    for rule in RULES:
        if rule.measure in bounds and not bounds[rule.measure].hold(
            values.get(rule.measure, np.nan)
        ):
            found.setdefault(rule.concern, []).append(rule.measure)
    return found
