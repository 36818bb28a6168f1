# SPDX-License-Identifier: MIT
"""The denoising recipe, compared with a slow implementation written from its description."""

import math

import numpy as np
import pytest

from kraken_bids.connectome.components import orthonormal_basis, tissue_components
from kraken_bids.connectome.denoising import (
    Confounds,
    Denoising,
    clean,
    denoise_run,
    onset_transient,
)
from kraken_bids.connectome.filtering import (
    edge_width_hz,
    fmriclean_edge,
    high_pass,
    high_pass_weights,
)
from kraken_bids.connectome.motion import (
    composite_motion,
    expand_motion,
    flag_outliers,
    framewise_displacement,
    n_unsteady_volumes,
)
from kraken_bids.errors import InputError

TR_S = 0.8
N_VOLUMES = 220


# --- The recipe once more, in loops, sharing nothing with the package ------------------------


def slow_rotation(x, y, z):
    about_x = [[1, 0, 0], [0, math.cos(x), math.sin(x)], [0, -math.sin(x), math.cos(x)]]
    about_y = [[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]]
    about_z = [[math.cos(z), math.sin(z), 0], [-math.sin(z), math.cos(z), 0], [0, 0, 1]]
    return np.array(about_x) @ np.array(about_y) @ np.array(about_z)


def slow_motion(motion):
    moved, before = [0.0], None
    for row in motion:
        rotation = slow_rotation(*row[3:])
        points = [
            [scale[i] * rotation[i, k] + row[i] for i in range(3)]
            for scale in ((70, 70, 75), (-70, -110, -45))
            for k in range(3)
        ]
        if before is not None:
            moved.append(max(math.dist(p, q) for p, q in zip(points, before, strict=True)))
        before = points
    return np.array(moved)


def slow_outliers(motion, global_signal, n_first):
    change = [0.0] + [global_signal[t] - global_signal[t - 1] for t in range(1, len(motion))]
    ordered = np.sort(change)
    low, high = np.interp(
        np.array([0.25, 0.75]) * (len(ordered) - 1), range(len(ordered)), ordered
    )
    z = [(value - np.median(change)) / (0.7413 * (high - low)) for value in change]
    moved = slow_motion(motion)
    bad = [abs(z[t]) > 5 or moved[t] > 0.9 for t in range(len(motion))]
    return np.array([
        t < n_first or bad[t] or (t + 1 < len(bad) and bad[t + 1]) for t in range(len(bad))
    ])


def slow_forward(column):
    return np.array([column[t + 1] - column[t] for t in range(len(column) - 1)] + [0.0])


def slow_transient(n_volumes):
    response = [
        1.2
        * (t**5 * math.exp(-t) / math.factorial(5) - t**15 * math.exp(-t) / math.factorial(15) / 6)
        for t in (TR_S * k for k in range(n_volumes))
    ]
    return np.array([sum(response[: k + 1]) for k in range(n_volumes)])


def slow_components(voxels, regressors):
    design = np.column_stack([np.ones(len(voxels)), voxels.mean(axis=1), *regressors])
    residual = voxels - design @ np.linalg.lstsq(design, voxels, rcond=None)[0]
    left = np.linalg.svd(residual, full_matrices=False)[0]
    return [voxels.mean(axis=1), *left[:, :4].T]


def slow_gains(n, *, sd=None, half=None):
    """Weights of the cosines; the edge is that of the training data unless it is given in bins."""
    bin_hz = 1 / (2 * n * TR_S)
    sd = 0.0029 / bin_hz if sd is None else sd
    half = math.floor(5 * sd) if half is None else half
    bump = [math.exp(-0.5 * (j / sd) ** 2) for j in range(-half, half + 1)]
    gains = []
    for k in range(n):
        total = 0.0
        for j in range(-half, half + 1):
            at = k + j
            at = -at - 1 if at < 0 else at
            at = 2 * n - 1 - at if at >= n else at
            total += bump[j + half] * (at * bin_hz >= 0.01)
        gains.append(total / sum(bump))
    return np.array(gains)


def slow_filter(series, is_outlier, **edge):
    n = len(series)
    basis = np.array([
        [math.sqrt((1 if k == 0 else 2) / n) * math.cos(math.pi / n * (t + 0.5) * k)
         for t in range(n)]
        for k in range(n)
    ])  # fmt: skip
    kept = ~is_outlier
    return basis.T @ (slow_gains(n, **edge)[:, None] * (basis[:, kept] @ series[kept]))


def slow_recipe(
    series, motion, global_signal, tissues, grey_matter, *, n_first=9, is_outlier=None, **edge
):
    if is_outlier is None:
        is_outlier = slow_outliers(motion, global_signal, n_first)
    spikes = [np.eye(len(motion))[t] for t in np.flatnonzero(is_outlier)]
    trend = np.arange(len(motion))
    rest = slow_transient(len(motion))
    before = [trend, *motion.T, *spikes, rest]
    columns = [np.ones(len(motion)), trend, rest, slow_forward(rest), *spikes]
    for voxels in tissues:
        columns += slow_components(voxels, before)
    for parameter in motion.T:
        forward = slow_forward(parameter)
        columns += [parameter, forward, parameter**2, forward**2]
    results = {}
    for name, extra in {"hpf": [], "hpfgsr": [grey_matter, slow_forward(grey_matter)]}.items():
        design = np.column_stack([*columns, *extra])
        design = design / np.abs(design).max(axis=0)
        left, singular, _ = np.linalg.svd(design, full_matrices=False)
        left = left[:, singular > 1e-10 * singular[0]]
        residual = series - left @ (left.T @ series)
        results[name] = slow_filter(residual, is_outlier, **edge)
    return results, is_outlier


def slow_dof(run, is_outlier):
    """Kept volumes, less the rank of what is regressed, less what the filter takes."""
    _, motion, _, tissues, _ = run
    kept = [t for t in range(len(motion)) if not is_outlier[t]]
    trend, rest = np.arange(len(motion)), slow_transient(len(motion))
    spikes = [np.eye(len(motion))[t] for t in np.flatnonzero(is_outlier)]
    columns = [np.ones(len(motion)), trend, rest, slow_forward(rest)]
    for voxels in tissues:
        columns += slow_components(voxels, [trend, *motion.T, *spikes, rest])
    for parameter in motion.T:
        forward = slow_forward(parameter)
        columns += [parameter, forward, parameter**2, forward**2]
    design = np.column_stack(columns)[kept]
    rank = np.linalg.matrix_rank(design / np.linalg.norm(design, axis=0), tol=1e-10)
    return len(kept) - rank - sum(1 - gain**2 for gain in slow_gains(len(motion)))


# --- A run ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run():
    rng = np.random.default_rng(11)
    time = np.arange(N_VOLUMES)
    motion = np.cumsum(rng.normal(0, [0.02] * 3 + [3e-4] * 3, (N_VOLUMES, 6)), axis=0)
    motion[100:] += [0, 1.5, 0, 0.01, 0, 0]
    neural = rng.normal(size=(N_VOLUMES, 10)).cumsum(axis=0) * 0.3 + rng.normal(
        size=(N_VOLUMES, 10)
    )
    drift = 5 * np.cos(np.pi * time / N_VOLUMES)[:, None]
    noise = rng.normal(size=(N_VOLUMES, 5)) * [8, 6, 4.5, 3.5, 2.5]

    def tissue(n_voxels):
        # A few strong sources over weak noise: the fourth component is well apart.
        mixed = noise @ rng.normal(size=(5, n_voxels)) + motion @ rng.normal(size=(6, n_voxels))
        return 800 + mixed + drift + 0.05 * rng.normal(size=(N_VOLUMES, n_voxels))

    def loadings(n_sources):
        return rng.normal(size=(n_sources, 10))

    series = 1000 + drift + neural + noise @ loadings(5) * 0.5 + motion @ loadings(6) * 3
    global_signal = series.mean(axis=1)
    global_signal[150] += 60
    tissues = [tissue(80), tissue(60)]
    grey_matter = series[:, :6].mean(axis=1)
    return series, motion, global_signal, tissues, grey_matter


def denoise(run, *, recipe=None, **arguments):
    series, motion, global_signal, tissues, grey_matter = run
    centred = [voxels - voxels.mean(axis=0) for voxels in tissues]
    means = dict(zip(("WM", "CSF"), (voxels.mean(axis=1) for voxels in tissues), strict=True))
    parameters = {
        "confounds": Confounds(motion),
        "repetition_time_s": TR_S,
        "global_signal": global_signal,
        "tissue_means": {**means, "GM": grey_matter},
        "grams": dict(zip(("WM", "CSF"), (c @ c.T for c in centred), strict=True)),
        "recipe": recipe or Denoising(),
        **arguments,
    }
    return denoise_run({"toy": series}, parameters.pop("confounds"), **parameters)


def test_recipe_equals_the_slow_implementation(run):
    expected, is_outlier = slow_recipe(*run)
    denoised = denoise(run)
    np.testing.assert_array_equal(denoised.is_outlier, is_outlier)
    assert set(np.flatnonzero(is_outlier)) >= {*range(9), 99, 100, 149, 150, 151}
    for variant, series in expected.items():
        np.testing.assert_allclose(denoised.series[f"toy_{variant}"], series, atol=1e-6)
    assert denoised.n_regressors == {"hpf": 38, "hpfgsr": 40}


def test_degrees_of_freedom_equal_the_slow_count(run):
    denoised = denoise(run)
    assert denoised.dof["hpf"] == pytest.approx(slow_dof(run, denoised.is_outlier), abs=1e-6)
    assert denoised.dof["hpf"] - denoised.dof["hpfgsr"] == pytest.approx(2)


def test_edge_in_bins_equals_the_slow_implementation(run):
    expected, _ = slow_recipe(*run, sd=3.6 / TR_S, half=math.floor(18 / TR_S))
    denoised = denoise(run, recipe=Denoising(edge_rule="fmriclean"))
    for variant, series in expected.items():
        np.testing.assert_allclose(denoised.series[f"toy_{variant}"], series, atol=1e-6)
    default = denoise(run).series["toy_hpf"]
    assert np.abs(default - denoised.series["toy_hpf"]).max() > 0.01


def test_edge_in_hertz_equals_the_slow_implementation(run):
    expected, _ = slow_recipe(*run, sd=0.001 * 2 * N_VOLUMES * TR_S)
    denoised = denoise(run, recipe=Denoising(high_pass_edge_hz=0.001))
    np.testing.assert_allclose(denoised.series["toy_hpf"], expected["hpf"], atol=1e-6)


def test_outliers_of_the_table_equal_the_slow_implementation(run):
    _, motion, *_ = run
    is_flagged = np.isin(np.arange(N_VOLUMES), [4, 60, 61, 140])
    is_outlier = is_flagged | (np.arange(N_VOLUMES) < 12)  # more not steady than are skipped
    expected, _ = slow_recipe(*run, is_outlier=is_outlier)
    denoised = denoise(
        run,
        confounds=Confounds(motion, n_non_steady=12, is_flagged=is_flagged),
        recipe=Denoising(outliers="fmriprep"),
    )
    np.testing.assert_array_equal(denoised.is_outlier, is_outlier)
    for variant, series in expected.items():
        np.testing.assert_allclose(denoised.series[f"toy_{variant}"], series, atol=1e-6)


def test_strategy_equals_a_regression_by_least_squares(run):
    series, motion, global_signal, *_ = run
    rng = np.random.default_rng(2)
    plain = rng.normal(size=(N_VOLUMES, 7))
    variants = {"hpf": plain, "hpfgsr": np.column_stack([plain, global_signal])}
    is_flagged = np.isin(np.arange(N_VOLUMES), [0, 1, 77])
    denoised = denoise(
        run,
        confounds=Confounds(motion, is_flagged=is_flagged, regressors=variants),
        recipe=Denoising(denoising="simple"),
        tissue_means={},
        grams={},
    )
    kept = ~is_flagged
    for variant, columns in variants.items():
        design = np.column_stack([np.ones(N_VOLUMES), columns])[kept]
        fitted = design @ np.linalg.lstsq(design, series[kept], rcond=None)[0]
        cleaned = denoised.series[f"toy_{variant}"]
        np.testing.assert_allclose(cleaned[kept], series[kept] - fitted, atol=1e-6)
        assert denoised.dof[variant] == pytest.approx(N_VOLUMES - 3 - design.shape[1])
    assert not denoised.has_transient


@pytest.mark.parametrize("recipe", [Denoising(denoising="simple"), Denoising(outliers="fmriprep")])
def test_what_was_not_read_from_the_table_is_no_reason_to_fall_back(run, recipe):
    with pytest.raises(InputError, match="not read"):
        denoise(run, recipe=recipe)


def test_region_of_nuisance_only_is_missing(run):
    series, motion, *_ = run
    spoilt = (np.column_stack([series[:, :1], 50 * motion[:, :1] ** 2]), *run[1:])
    cleaned = denoise(spoilt).series["toy_hpf"]
    assert np.isfinite(cleaned[:, 0]).all()
    assert np.isnan(cleaned[:, 1]).all()


def test_missing_region_stays_missing_and_changes_no_other(run):
    series, *others = run
    spoilt = series.copy()
    spoilt[:, 3] = np.nan
    cleaned, whole = (denoise((s, *others)).series["toy_hpf"] for s in (spoilt, series))
    assert np.isnan(cleaned[:, 3]).all()
    rest = np.arange(10) != 3
    np.testing.assert_allclose(cleaned[:, rest], whole[:, rest], atol=1e-10)


def test_columns_of_the_table_stand_in_for_components(run):
    exact = denoise(run)
    _, motion, _, tissues, _ = run
    kept = ~exact.is_outlier
    spikes = np.eye(N_VOLUMES)[:, ~kept]
    rest = onset_transient(N_VOLUMES, TR_S)
    before = [np.arange(N_VOLUMES), *motion.T, rest, *spikes.T]
    given = {
        name: np.column_stack(slow_components(voxels, before))
        for name, voxels in zip(("WM", "CSF"), tissues, strict=True)
    }
    columns = denoise(
        run,
        confounds=Confounds(motion, components=given),
        grams={},
        recipe=Denoising(compcor="columns"),
    )
    np.testing.assert_allclose(columns.series["toy_hpf"], exact.series["toy_hpf"], atol=1e-6)
    assert columns.component_gaps == {}


def test_transient_is_left_out_of_short_runs_and_after_dummy_scans(run):
    assert denoise(run).has_transient
    assert not denoise(run, n_dummy_discarded=4).has_transient
    short = tuple(part[:70] for part in run[:3])
    tissues = [voxels[:70] for voxels in run[3]]
    denoised = denoise((*short, tissues, run[4][:70]))
    assert not denoised.has_transient
    assert denoised.n_regressors["hpf"] == 36


def test_global_signal_can_be_that_of_the_brain(run):
    series, motion, global_signal, tissues, _ = run
    by_option = denoise(run, recipe=Denoising(gsr_source="global_signal"))
    by_hand = denoise((series, motion, global_signal, tissues, global_signal))
    np.testing.assert_array_equal(by_option.series["toy_hpfgsr"], by_hand.series["toy_hpfgsr"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grams": {}}, r"no masks of WM and CSF.*--compcor columns"),
        ({"tissue_means": {"WM": 0, "CSF": 0}}, r"no masks of GM.*--gsr-source global_signal"),
    ],
    ids=["components", "grey matter"],
)
def test_missing_segmentation_is_told_with_the_way_around_it(run, arguments, message):
    if "tissue_means" in arguments:
        means = {name: np.arange(N_VOLUMES) ** 0.5 for name in ("WM", "CSF")}
        arguments = {"tissue_means": means}
    with pytest.raises(InputError, match=message):
        denoise(run, **arguments)


def test_too_few_degrees_of_freedom_are_refused(run):
    short = tuple(part[:50] for part in run[:3])
    tissues = [voxels[:50] for voxels in run[3]]
    with pytest.raises(InputError, match=r"50 volumes with .* degrees of freedom; 10 are needed"):
        denoise((*short, tissues, run[4][:50]))


def test_run_of_outliers_only_is_refused(run):
    with pytest.raises(InputError, match="all volumes are outliers"):
        denoise(run, recipe=Denoising(skip_s=1000.0))


# --- Pieces -----------------------------------------------------------------------------------


def test_composite_motion_of_a_translation_is_its_length():
    motion = np.zeros((3, 6))
    motion[1, :3] = [3, 4, 0]
    np.testing.assert_allclose(composite_motion(motion), [0, 5, 5])


def test_composite_motion_of_rotations_equals_the_slow_one():
    motion = np.random.default_rng(2).normal(0, 0.2, (20, 6))
    np.testing.assert_allclose(composite_motion(motion), slow_motion(motion), atol=1e-12)


def test_framewise_displacement_counts_rotations_at_50_mm():
    motion = np.array([[0, 0, 0, 0, 0, 0], [0.1, -0.2, 0, 0.01, 0, 0]], dtype=float)
    np.testing.assert_allclose(framewise_displacement(motion), [np.nan, 0.8])


def test_still_run_has_no_outliers_but_the_first():
    flags = flag_outliers(np.zeros((30, 6)), np.full(30, 100.0), n_first=2)
    assert flags.tolist() == [True, True, *[False] * 28]


@pytest.mark.parametrize(
    ("repetition_time_s", "n_found", "expected"),
    [(0.72, 0, 10), (0.8, 0, 9), (2.0, 0, 4), (2.0, 6, 6), (7.2, 0, 1), (10.0, 0, 1)],
)
def test_first_volumes_are_flagged_by_time(repetition_time_s, n_found, expected):
    assert n_unsteady_volumes(repetition_time_s, skip_s=7.2, n_found=n_found) == expected


def test_motion_is_expanded_with_forward_differences():
    expanded = expand_motion(np.arange(12.0).reshape(2, 6) ** 2)
    assert expanded.shape == (2, 24)
    np.testing.assert_array_equal(expanded[0, 6:12], [36, 48, 60, 72, 84, 96])
    np.testing.assert_array_equal(expanded[1, 6:12], np.zeros(6))
    np.testing.assert_array_equal(expanded[:, 12:], expanded[:, :12] ** 2)


def test_transient_is_constant_after_35_s():
    transient = onset_transient(100, 1.0)
    assert transient.argmax() < 20
    np.testing.assert_allclose(transient[36:], transient[-1], rtol=1e-3)


def test_gains_of_the_training_runs():
    weights = high_pass_weights(1200, 0.72, cutoff_hz=0.01, edge_hz=0.0029)
    frequencies = np.arange(1200) / (2 * 1200 * 0.72)
    gains = np.interp([0.005, 0.0078, 0.01, 0.0125, 0.02], frequencies, weights)
    np.testing.assert_allclose(gains, [0.04, 0.21, 0.48, 0.79, 1.0], atol=0.02)
    assert weights[0] < 1e-3


@pytest.mark.parametrize(
    ("repetition_time_s", "n_volumes", "width_hz"),
    [(0.72, 1200, 0.0029), (2.0, 300, 0.0015), (0.8, 488, 0.0058)],
)
def test_edge_in_bins_depends_on_the_run(repetition_time_s, n_volumes, width_hz):
    width = edge_width_hz(n_volumes, repetition_time_s, edge_hz=0.5, rule="fmriclean")
    assert width == pytest.approx(width_hz, abs=5e-5)
    given = edge_width_hz(n_volumes, repetition_time_s, edge_hz=0.002)
    assert given == 0.002


def test_both_edges_are_one_for_the_training_runs():
    in_bins = high_pass_weights(1200, 0.72, cutoff_hz=0.01, edge_hz=0, rule="fmriclean")
    in_hz = high_pass_weights(1200, 0.72, cutoff_hz=0.01, edge_hz=5.0001 / (2 * 1200 * 0.72))
    np.testing.assert_allclose(in_bins, in_hz, atol=1e-5)
    assert fmriclean_edge(0.72) == (pytest.approx(5), 25)


def test_hard_edge_passes_all_or_nothing():
    weights = high_pass_weights(100, 2.0, cutoff_hz=0.01, edge_hz=0.0)
    np.testing.assert_array_equal(weights, [0.0] * 4 + [1.0] * 96)


def test_filter_with_gains_of_one_changes_nothing_but_outliers():
    series = np.random.default_rng(0).normal(size=(40, 3))
    is_outlier = np.arange(40) == 7
    filtered = high_pass(series, np.ones(40), is_outlier=is_outlier)
    np.testing.assert_allclose(filtered[~is_outlier], series[~is_outlier], atol=1e-12)
    np.testing.assert_allclose(filtered[7], 0, atol=1e-12)


def test_collinear_and_constant_columns_do_not_count():
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(50, 3))
    doubled = np.column_stack([columns, 2 * columns[:, 0] + columns[:, 1], np.full(50, 9.0)])
    basis = orthonormal_basis(doubled)
    assert basis.shape == (50, 4)
    np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-12)


def test_leaving_outliers_out_equals_a_regressor_for_each():
    rng = np.random.default_rng(5)
    series, nuisance = rng.normal(size=(60, 4)), rng.normal(size=(60, 3))
    is_outlier = np.isin(np.arange(60), [0, 31])
    weights = np.ones(60)
    left_out = clean(series, nuisance, is_outlier=is_outlier, weights=weights)
    with_spikes = np.column_stack([nuisance, np.eye(60)[:, is_outlier]])
    regressed = clean(series, with_spikes, is_outlier=np.zeros(60, dtype=bool), weights=weights)
    np.testing.assert_allclose(left_out.series, regressed.series, atol=1e-12)
    assert left_out.dof == regressed.dof == 60 - 2 - 4


def test_components_of_rounding_are_left_out():
    rng = np.random.default_rng(3)
    voxels = rng.normal(size=(80, 2)) @ rng.normal(size=(2, 30))
    found = tissue_components(
        voxels.mean(axis=1),
        voxels @ voxels.T,
        nuisance=rng.normal(size=(80, 1)),
        is_outlier=np.zeros(80, dtype=bool),
    )
    assert found.columns.shape == (80, 2)
    assert found.gap == 0.0
