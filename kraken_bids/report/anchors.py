# SPDX-License-Identifier: MIT
"""What quality measures mean: published values beside them, and limits that are worth a warning.

The anchors come from the connectomes of young healthy adults that the published model was trained
with: they are no limits. The limits are rules of thumb of the field; what is beyond one is
reported with its meaning, never removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

#: Published values by column: 20 participants of the Human Connectome Project (homotopic
#: correlation: 5), four runs of 14.4 min and 5 million streamlines each.
ANCHORS: dict[str, str] = {
    "fd_mean_mm": "below 0.2 is usual in healthy adults",
    "kept_minutes": "about 57",
    "mean_FCcorr_fs86_hpf": "0.054 ± 0.015",
    "sd_FCcorr_fs86_hpf": "0.128",
    "homotopic_FCcorr_fs86_hpf": "0.36",
    "mean_FCcorr_fs86_hpfgsr": "−0.006 ± 0.001",
    "sd_FCcorr_fs86_hpfgsr": "0.131",
    "mean_FCpcorr_fs86_hpf": "0.0088 ± 0.0003",
    "sd_FCpcorr_fs86_hpf": "0.0435",
    "min_eigenvalue_fs86": "0.067 to 0.13",
    "pcorr_condition_fs86": "about 66",
    "ifod2act_n_streamlines": "5,000,000",
    "sdstream_n_streamlines": "5,000,000",
    "ifod2act_fs86_density": "0.852 ± 0.019",
    "sdstream_fs86_density": "0.312 ± 0.009",
    "ifod2act_fs86_assigned_fraction": "0.47 to 0.54",
    "sdstream_fs86_assigned_fraction": "0.16 to 0.19",
    "ifod2act_fs86_level": "591 ± 77",
    "sdstream_fs86_level": "227 ± 23",
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
              "the partial correlations are noisy; below 1 they are what lambda makes of them",
              "Combine more runs, or take FCpcorr of this atlas with caution.")
        for atlas in ("fs86", "shen268", "coco439")
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
