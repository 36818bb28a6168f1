# SPDX-License-Identifier: MIT
from __future__ import annotations

import numpy as np
import pytest

from kraken_bids.demo.bold import draw_motion, simulate_scan
from kraken_bids.demo.confounds import framewise_displacement, make_confounds
from kraken_bids.demo.fmriprep import t1w_grid
from kraken_bids.demo.population import N_FACTORS
from kraken_bids.demo.regions import CSF_CODES, WHITE_CODES, segment_template
from kraken_bids.demo.template import sample

N_VOLUMES = 70


@pytest.fixture(scope="module")
def scan_and_codes(population):
    """A coarse run of a participant and its segmentation."""
    from kraken_bids.demo.geometry import draw_geometry

    geometry = draw_geometry(np.random.default_rng(5))
    grid = t1w_grid(geometry, voxel_mm=8.0)
    points = geometry.t1w_to_mni(grid.positions)
    scan = simulate_scan(
        points, grid, population=population, factors=np.zeros(N_FACTORS), n_volumes=N_VOLUMES,
        rng=np.random.default_rng(1),
    )  # fmt: skip
    return scan, sample(segment_template(), points, order=0)


@pytest.fixture(scope="module")
def confounds(scan_and_codes):
    """Columns and sidecar."""
    scan, codes = scan_and_codes
    return make_confounds(
        scan,
        white=np.isin(codes, WHITE_CODES) & scan.brain,
        csf=np.isin(codes, CSF_CODES) & scan.brain,
    )


def test_series_is_whole_numbers_around_the_reference(scan_and_codes):
    scan, _ = scan_and_codes
    assert scan.data.dtype == np.int16
    later = scan.data[..., 5:].mean(axis=-1) * scan.slope
    inside = scan.brain & (scan.reference > 3000)
    assert np.median(np.abs(later / np.where(inside, scan.reference, 1) - 1)[inside]) < 0.02
    assert not scan.data[scan.reference == 0].any()


def test_grey_matter_carries_signals_that_white_matter_does_not(scan_and_codes):
    scan, codes = scan_and_codes
    series = np.array([
        scan.data[codes == code][:, 5:].mean(axis=0) for code in (1024, 2024, 1011)
    ])  # fmt: skip
    smooth = series - series.mean(axis=1, keepdims=True)
    lag = (smooth[:, 1:] * smooth[:, :-1]).sum(axis=1) / (smooth**2).sum(axis=1)
    assert (lag > 0.3).all()


def test_first_volume_is_brighter_and_said_to_be_so(confounds):
    columns, _ = confounds
    assert columns["global_signal"][0] > 1.03 * np.median(columns["global_signal"])
    assert columns["non_steady_state_outlier00"].tolist() == [1.0] + [0.0] * (N_VOLUMES - 1)


def test_confounds_are_those_of_fmriprep(scan_and_codes, confounds):
    scan, _ = scan_and_codes
    columns, sidecar = confounds
    assert all(len(values) == N_VOLUMES for values in columns.values())
    for name, motion in zip(
        ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"), scan.motion.T, strict=True
    ):
        assert np.array_equal(columns[name], motion)
        assert np.isnan(columns[f"{name}_derivative1"][0])
        np.testing.assert_allclose(columns[f"{name}_derivative1"][1:], np.diff(motion))
        np.testing.assert_allclose(columns[f"{name}_power2"], motion**2)
        assert f"{name}_derivative1_power2" in columns
    wanted = {"csf", "white_matter", "framewise_displacement", "std_dvars", "dvars", "rmsd",
              "cosine00"}  # fmt: skip
    assert wanted <= set(columns)
    for letter, mask in (("a", "combined"), ("c", "CSF"), ("w", "WM")):
        described = sidecar[f"{letter}_comp_cor_00"]
        assert described["Mask"] == mask
        assert described["Method"] == "aCompCor"
        assert described["Retained"] is True
        assert f"{letter}_comp_cor_04" in columns
    outliers = [values for name, values in columns.items() if name.startswith("motion_outlier")]
    assert outliers
    assert all(values.sum() == 1 for values in outliers)


def test_components_are_orthonormal_and_free_of_drift(confounds):
    columns, _ = confounds
    components = np.array([columns[f"c_comp_cor_{number:02d}"] for number in range(5)])
    np.testing.assert_allclose(components @ components.T, np.eye(5), atol=1e-8)
    assert np.abs(components @ columns["cosine00"]).max() < 1e-8


def test_motion_starts_at_zero_and_jerks_now_and_then():
    motion = draw_motion(200, np.random.default_rng(2))
    assert not motion[0].any()
    displacement = framewise_displacement(motion)
    assert np.isnan(displacement[0])
    assert np.nanmedian(displacement) < 0.15
    assert np.nanmax(displacement) > 0.5
