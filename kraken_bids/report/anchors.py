# SPDX-License-Identifier: MIT
"""What quality measures mean: published values beside them, and limits that are worth a warning.

The anchors come from the connectomes of young healthy adults that the published model was trained
with: they are no limits. The limits are rules of thumb of the field; what is beyond one is
reported with its meaning, never removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..flavors import CORE_ATLASES, LEAST_SIMILARITY


@dataclass(frozen=True)
class Anchor:
    """Published values of one measure.

    Parameters
    ----------
    text
        As shown in a table.
    mean
        Mean over participants, or None where only a range is known.
    low, high
        Range over participants, or one standard deviation to either side of the mean; None
        where nothing is known of the spread.
    """

    text: str
    mean: float | None = None
    low: float | None = None
    high: float | None = None


def _spread(mean: float, sd: float, digits: int) -> Anchor:
    return Anchor(f"{_text(mean, digits)} ± {sd:.{digits}f}", mean, mean - sd, mean + sd)


def _range(low: float, high: float, text: str) -> Anchor:
    return Anchor(text, None, low, high)


def _mean(mean: float, digits: int, about: str = "") -> Anchor:
    return Anchor(f"{about}{_text(mean, digits)}", mean)


def _text(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


#: Published values by column: 20 participants of the Human Connectome Project (homotopic
#: correlation: 5), four runs of 14.4 min and 5 million streamlines each. Correlations with the
#: training mean: each participant against the mean of the others.
PUBLISHED: dict[str, Anchor] = {
    "kept_minutes": _mean(57, 0, "about "),
    "mean_FCcorr_fs86_hpf": _spread(0.054, 0.015, 3),
    "sd_FCcorr_fs86_hpf": _mean(0.128, 3),
    "homotopic_FCcorr_fs86_hpf": _mean(0.36, 2),
    "mean_FCcorr_fs86_hpfgsr": _spread(-0.006, 0.001, 3),
    "sd_FCcorr_fs86_hpfgsr": _mean(0.131, 3),
    "mean_FCpcorr_fs86_hpf": _spread(0.0088, 0.0003, 4),
    "sd_FCpcorr_fs86_hpf": _mean(0.0435, 4),
    "min_eigenvalue_fs86": _range(0.067, 0.13, "0.067 to 0.13"),
    "pcorr_condition_fs86": _mean(66, 0, "about "),
    "training_mean_r_FCcorr_fs86_hpf": Anchor("0.856 (0.80 to 0.90)", 0.856, 0.80, 0.90),
    "training_mean_r_FCcorr_fs86_hpfgsr": _mean(0.865, 3),
    "training_mean_r_FCpcorr_fs86_hpf": _mean(0.841, 3),
    "training_mean_r_SCifod2act_fs86_volnorm": _mean(0.960, 3),
    "training_mean_r_SCsdstream_fs86_volnorm": _mean(0.948, 3),
    "ifod2act_n_streamlines": Anchor("5,000,000", 5e6),
    "sdstream_n_streamlines": Anchor("5,000,000", 5e6),
    "ifod2act_fs86_density": _spread(0.852, 0.019, 3),
    "sdstream_fs86_density": _spread(0.312, 0.009, 3),
    "ifod2act_fs86_assigned_fraction": _range(0.47, 0.54, "0.47 to 0.54"),
    "sdstream_fs86_assigned_fraction": _range(0.16, 0.19, "0.16 to 0.19"),
    "ifod2act_fs86_level": _spread(591, 77, 0),
    "sdstream_fs86_level": _spread(227, 23, 0),
}

#: The same as text, with what is usual elsewhere.
ANCHORS: dict[str, str] = {
    "fd_mean_mm": "below 0.2 is usual in healthy adults",
    **{column: anchor.text for column, anchor in PUBLISHED.items()},
}

#: Measures shown first, beside those that have an anchor.
FIRST: frozenset[str] = frozenset({
    "n_runs",
    "n_volumes",
    "percent_outliers",
    "percent_fd_above_0.5mm",
    "tsnr_median",
    "gcor_before",
    "gcor_hpf",
    "gcor_hpfgsr",
    "dof_hpf",
    "denoising",
    "outliers",
    "min_coverage",
    "pcorr_dof_per_region_fs86",
    "pcorr_dof_per_region_shen268",
    "pcorr_dof_per_region_coco439",
    "shells",
    "directions",
    "voxel_mm",
    "ifod2act_median_length_mm",
    "sdstream_median_length_mm",
    "ifod2act_bias",
    "sdstream_bias",
})


@dataclass(frozen=True)
class Limit:
    """A value beyond which a measure is worth a warning.

    Parameters
    ----------
    column
        Name of the measure.
    least, most
        Range that is usual.
    meaning
        What a value outside means.
    advice
        What to do.
    """

    column: str
    least: float
    most: float
    meaning: str
    advice: str


_LOOK = "Look at the figure of the run; think of leaving it out of the cohort."
_LABELS = "Look at the figure of the diffusion series and at the transforms of the labels."
_UNLIKE = (
    "far less like the mean of the model's training data than connectomes of usable scans are: "
    "regions in another order, another flavor, or mostly noise"
)
_ORDER = (
    "Look at the matrix and the coverage; compare labels and atlas (--atlas-file), and leave the "
    "connectome out of the model if it stays unexplained."
)
#: Columns of the correlation with the training mean begin so; a flavor follows.
SIMILARITY = "training_mean_r_"
_OFF = "few streamlines end in two regions: labels and tractogram may not lie upon each other"

LIMITS: tuple[Limit, ...] = (
    Limit("fd_mean_mm", 0.0, 0.5,
          "the participant moved a lot, and correlations are likely to hold traces of it", _LOOK),
    Limit("kept_minutes", 5.0, float("inf"),
          "less than 5 minutes of data are left, which makes correlations noisy",
          "Combine several runs of the participant where there are any."),
    Limit("percent_outliers", 0.0, 50.0, "most volumes were left out", _LOOK),
    *(
        Limit(f"pcorr_dof_per_region_{atlas}", 2.0, float("inf"),
              "partial correlations are noisy; below 1 they are made only if lambda is given",
              "Combine more runs, or take FCpcorr of this atlas with caution.")
        for atlas in ("fs86", "shen268", "coco439")
    ),
    *(
        Limit(f"{SIMILARITY}{kind}_{atlas}_{processing}", least, 1.0, _UNLIKE, _ORDER)
        for (kind, processing), least in LEAST_SIMILARITY.items()
        for atlas in CORE_ATLASES
    ),
    Limit("tsnr_median", 20.0, float("inf"), "the signal is weak against the noise", _LOOK),
    Limit("ifod2act_fs86_assigned_fraction", 0.2, 1.0, _OFF, _LABELS),
    Limit("sdstream_fs86_assigned_fraction", 0.05, 1.0, _OFF, _LABELS),
)  # fmt: skip


def beyond(values: Mapping[str, str]) -> Iterator[tuple[float, Limit]]:
    """Go through the measures that are outside what is usual, as value and limit."""
    for limit in LIMITS:
        try:
            value = float(values[limit.column])
        except (KeyError, ValueError):
            continue
        if not limit.least <= value <= limit.most:
            yield value, limit
