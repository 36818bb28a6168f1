# SPDX-License-Identifier: MIT
"""The high-pass filter of the training connectomes: soft weights on cosines."""

from __future__ import annotations

import math

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

FloatArray = NDArray[np.float64]

#: Half length of the filter's Gaussian edge, in standard deviations (upstream: 18 s / 3.6 s).
EDGE_SDS = 5.0

#: Standard deviation of fmriclean's edge in bins, and half its length, times the repetition time.
FMRICLEAN_SD_S, FMRICLEAN_HALF_S = 3.6, 18.0


def fmriclean_edge(repetition_time_s: float) -> tuple[float, int]:
    """Width of the filter's edge in bins, as the program fmriclean has it.

    Returns
    -------
    sd
        Standard deviation of the Gaussian in bins.
    half
        Bins on either side of its middle.

    Notes
    -----
    The Gaussian has ``2 floor(18 s / TR) + 1`` bins and a standard deviation of ``3.6 s / TR``
    bins. A bin is ``1 / (2 n_volumes TR)`` wide, so that the edge in Hz depends on the length of
    the run: 0.0029 Hz for the runs of the training data, 0.0015 Hz for 300 volumes of 2 s.

    Examples
    --------
    >>> fmriclean_edge(0.72)[1], fmriclean_edge(2.0)
    (25, (1.8, 9))
    """
    # A quotient that is whole may lie a hair below it in binary.
    half = math.floor(FMRICLEAN_HALF_S / repetition_time_s + 1e-6)
    return FMRICLEAN_SD_S / repetition_time_s, half


def edge_width_hz(
    n_volumes: int, repetition_time_s: float, *, edge_hz: float, rule: str = "hz"
) -> float:
    """Standard deviation of the filter's edge in Hz, whatever says it.

    Parameters
    ----------
    edge_hz, rule
        As in `high_pass_weights`.

    Examples
    --------
    >>> round(edge_width_hz(300, 2.0, edge_hz=0.0029, rule="fmriclean"), 6)
    0.0015
    """
    if rule == "fmriclean":
        return fmriclean_edge(repetition_time_s)[0] / (2 * n_volumes * repetition_time_s)
    return edge_hz


def high_pass_weights(
    n_volumes: int,
    repetition_time_s: float,
    *,
    cutoff_hz: float,
    edge_hz: float,
    rule: str = "hz",
) -> FloatArray:
    """Gains of the high-pass filter for the cosines of a discrete cosine transform.

    Parameters
    ----------
    n_volumes, repetition_time_s
        Of the run, in volumes and s.
    cutoff_hz
        Frequency of gain one half.
    edge_hz
        Standard deviation of the Gaussian that softens the edge; 0 for a hard edge.
    rule
        ``hz``, or ``fmriclean``: `fmriclean_edge` then says the width, and `edge_hz` is not
        looked at.

    Returns
    -------
    NDArray
        (n_volumes,), 0 … 1, for frequencies ``k / (2 n_volumes repetition_time_s)``.
    """
    frequencies = np.arange(n_volumes) / (2 * n_volumes * repetition_time_s)
    passes = (frequencies >= cutoff_hz).astype(np.float64)
    if rule == "fmriclean":
        sd, half = fmriclean_edge(repetition_time_s)
    else:
        sd = edge_hz * 2 * n_volumes * repetition_time_s
        half = int(EDGE_SDS * sd)
    if half == 0:
        return passes
    kernel = np.exp(-0.5 * (np.arange(-half, half + 1) / sd) ** 2)
    return np.asarray(ndimage.convolve1d(passes, kernel / kernel.sum(), mode="reflect"))


def high_pass(
    series: FloatArray, weights: FloatArray, *, is_outlier: NDArray[np.bool_]
) -> FloatArray:
    """Filter series with gains on their cosines, ignoring outliers.

    Parameters
    ----------
    series
        (n_volumes, n_regions).
    weights
        (n_volumes,), as `high_pass_weights` gives them.
    is_outlier
        (n_volumes,): set to 0 before, filled in by the filter.

    Notes
    -----
    Zeroing outliers and transforming is the projection on the cosines that ignores them.
    """
    zeroed = np.where(is_outlier[:, None], 0.0, series)
    spectrum = scipy.fft.dct(zeroed, type=2, norm="ortho", axis=0)
    filtered = scipy.fft.idct(weights[:, None] * spectrum, type=2, norm="ortho", axis=0)
    return np.asarray(filtered, dtype=np.float64)
