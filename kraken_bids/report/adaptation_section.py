# SPDX-License-Identifier: MIT
"""What the page of a cohort says of its adaptation to the model's training data."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cohort_figures import draw_adaptation
from .found import read_json
from .html import Grid, Picture

_log = logging.getLogger(__name__)

#: Fits that are drawn; those of more sites are in the table.
MOST_DRAWN = 30


@dataclass(frozen=True, eq=False)
class Fit:
    """The adaptation of a flavor, for a site where they are told apart.

    Parameters
    ----------
    flavor, site
        What it is for; the site is empty where there is one adaptation for all.
    numbers
        As the file says them.
    source_mean, target_mean
        (E,): cohort's and training mean; None where they cannot be read.
    """

    flavor: str
    site: str
    numbers: Mapping[str, Any]
    source_mean: NDArray[np.floating] | None = None
    target_mean: NDArray[np.floating] | None = None

    @property
    def name(self) -> str:
        """Flavor and site."""
        return f"{self.flavor}, {self.site}" if self.site else self.flavor

    def number(self, key: str) -> float:
        """A number of the fit; NaN where it is not there."""
        value = self.numbers.get(key)
        return float(value) if isinstance(value, (int, float)) else float("nan")

    @property
    def has_means(self) -> bool:
        """Whether both means are there, and alike in size."""
        return (
            self.source_mean is not None
            and self.target_mean is not None
            and self.source_mean.shape == self.target_mean.shape
            and bool(np.isfinite([self.number("slope"), self.number("intercept")]).all())
        )

    @property
    def fitted(self) -> NDArray[np.floating]:
        """The cohort's mean on the fitted line, (E,)."""
        assert self.source_mean is not None  # noqa: S101 - `has_means` was asked
        return self.number("slope") * self.source_mean + self.number("intercept")


def read_fits(group_dir: Path) -> list[Fit]:
    """Read the adaptation of a data set of predictions; empty where there is none.

    Parameters
    ----------
    group_dir
        Its folder ``group``.
    """
    file = next(iter(sorted(group_dir.glob("*_adaptation.json"))), None)
    flavors = read_json(file).get("flavors") if file is not None else None
    if file is None or not isinstance(flavors, Mapping):
        return []
    arrays = _read_arrays(file.with_suffix(".safetensors"))
    fits = []
    for key, numbers in flavors.items():
        flavor, _, site = str(key).partition("@")
        if isinstance(numbers, Mapping):
            means = (arrays.get(f"{key}.{name}") for name in ("source_mean", "target_mean"))
            fits.append(Fit(flavor, site, numbers, *means))
    return fits


def _read_arrays(file: Path) -> dict[str, Any]:
    """Means of an adaptation; empty where they cannot be read."""
    if not file.is_file():
        return {}
    import safetensors
    from safetensors.numpy import load_file

    try:
        return load_file(file)
    except (OSError, safetensors.SafetensorError) as error:
        _log.warning("Left out of the page: %s cannot be read: %s", file, error)
        return {}


def fit_grid(fits: Sequence[Fit]) -> Grid:
    """Make a table with a row a flavor and site: the line, and means over edges around it."""
    rows = []
    for fit in fits:
        numbers = [_text(fit.numbers.get(key)) for key in ("slope", "intercept", "r_squared",
                                                           "n_participants")]  # fmt: skip
        means = ["n/a"] * 3
        if fit.has_means:
            vectors = (fit.source_mean, fit.fitted, fit.target_mean)
            means = [f"{float(np.nanmean(vector)):.6g}" for vector in vectors]  # type: ignore[arg-type]
        rows.append([fit.flavor, fit.site, *numbers, *means])
    columns = ("flavor", "site", "slope", "intercept", "R²", "participants",
               "mean edge before", "after the line", "of the training data")  # fmt: skip
    return Grid.of("Adaptation", columns, rows)


def _text(value: Any) -> str:
    return "n/a" if value is None else str(value)


def fit_pictures(fits: Sequence[Fit]) -> list[Picture]:
    """Draw cohort means against training means, a panel a flavor and site."""
    drawn = [fit for fit in fits if fit.has_means]
    means = {
        fit.name: (fit.source_mean, fit.fitted, fit.target_mean) for fit in drawn[:MOST_DRAWN]
    }
    if not means:
        return []
    return [
        Picture.drawn(
            draw_adaptation(means),  # type: ignore[arg-type]
            alt="Edges of the cohort's mean against those of the training mean, before and after",
            caption="Each point is an edge; on the line both means agree. Shown after the line "
            "was fitted, before any shift of single edges."
            + (
                f" The first {MOST_DRAWN} of {len(drawn)} fits." if len(drawn) > MOST_DRAWN else ""
            ),
        )
    ]
