# SPDX-License-Identifier: MIT
"""Strategies other than the recipe, compared with nilearn's of the same names."""

from __future__ import annotations

import json

import numpy as np
import pytest
from nilearn.interfaces.fmriprep import load_confounds_strategy

from kraken_bids.bids.confounds import read_confounds
from kraken_bids.bids.inputs import plan_sessions
from kraken_bids.bids.names import OFF_RECIPE
from kraken_bids.bids.strategies import STRATEGIES, strategy_outliers, strategy_regressors
from kraken_bids.errors import InputError
from kraken_bids.settings import DENOISING, FunctionalOptions
from tests.conftest import write_json

N_VOLUMES = 90
MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")


def make_columns(rng):
    """Columns as fMRIPrep writes them, of noise; values where its tables have n/a are NaN."""
    columns = {}
    for name in (*MOTION, "csf", "white_matter", "global_signal"):
        values = rng.normal(size=N_VOLUMES)
        backward = np.concatenate([[np.nan], np.diff(values)])
        columns |= {
            name: values,
            f"{name}_derivative1": backward,
            f"{name}_power2": values**2,
            f"{name}_derivative1_power2": backward**2,
        }
    columns["framewise_displacement"] = np.concatenate([[np.nan], np.full(N_VOLUMES - 1, 0.1)])
    columns["std_dvars"] = np.concatenate([[np.nan], np.full(N_VOLUMES - 1, 1.0)])
    columns["framewise_displacement"][[3, 20, 23, 50, 87]] = 0.9
    columns["std_dvars"][[30, 37]] = 1.6
    for number in range(3):
        columns[f"cosine{number:02d}"] = np.cos(np.arange(N_VOLUMES) * (number + 1) / 30)
    for letter in "acw":
        for number in range(4):
            columns[f"{letter}_comp_cor_{number:02d}"] = rng.normal(size=N_VOLUMES)
    for number, volumes in enumerate(([0], [1])):
        columns[f"non_steady_state_outlier{number:02d}"] = np.isin(range(N_VOLUMES), volumes) * 1.0
    columns["motion_outlier00"] = (np.arange(N_VOLUMES) == 20) * 1.0
    columns["motion_outlier01"] = (np.arange(N_VOLUMES) == 50) * 1.0
    return columns


def write_table(folder, columns, *, masks):
    """Write a table with its sidecar; the names are those that nilearn looks for."""
    stem = folder / "sub-01_task-rest"
    table = stem.with_name(f"{stem.name}_desc-confounds_timeseries.tsv")
    rows = [
        "\t".join("n/a" if np.isnan(value) else repr(float(value)) for value in row)
        for row in zip(*columns.values(), strict=True)
    ]
    table.write_text("\n".join(["\t".join(columns), *rows]) + "\n")
    about = {
        name: {"Method": "aCompCor", "Mask": masks[name[0]], "Retained": True}
        for name in columns
        if "comp_cor" in name
    }
    table.with_suffix(".json").write_text(json.dumps(about))
    return table


MASKS = {"a": "combined", "c": "CSF", "w": "WM"}


@pytest.fixture
def columns():
    return make_columns(np.random.default_rng(4))


@pytest.fixture
def read(tmp_path):
    """Write a table and read it as the program does."""

    def written(columns, masks=MASKS):
        file = write_table(tmp_path, columns, masks=masks)
        return read_confounds(
            file, sidecar_file=file.with_suffix(".json"), n_volumes=N_VOLUMES, bold_file=file
        )

    return written


def by_nilearn(folder, name, **options):
    """Regressors and kept volumes as nilearn reads them beside an image."""
    label = "smoothAROMAnonaggr" if name == "ica_aroma" else "preproc"
    image = folder / f"sub-01_task-rest_space-MNI152NLin6Asym_desc-{label}_bold.nii.gz"
    image.touch()
    return load_confounds_strategy(str(image), name, demean=False, **options)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("variant", ["hpf", "hpfgsr"])
def test_regressors_span_those_of_nilearn(read, columns, tmp_path, name, variant):
    ours = strategy_regressors(read(columns), name)[variant]
    options = {"global_signal": "basic"} if variant == "hpfgsr" else {}
    theirs, _ = by_nilearn(tmp_path, name, **options)
    assert ours.shape == theirs.shape
    ours, theirs = (values[:, np.lexsort(values[:3])] for values in (ours, theirs.to_numpy()))
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("name", STRATEGIES)
def test_volumes_left_out_are_those_of_nilearn(read, columns, tmp_path, name):
    ours = strategy_outliers(read(columns), name)
    _, kept = by_nilearn(tmp_path, name)
    np.testing.assert_array_equal(np.flatnonzero(~ours), kept)
    assert ours[:2].all()


def test_short_segments_between_moved_volumes_are_left_out(read, columns):
    left_out = set(np.flatnonzero(strategy_outliers(read(columns), "scrubbing")))
    assert left_out == {*range(4), 20, 21, 22, 23, 30, 37, 50, *range(87, 90)}


def test_run_without_movement_loses_no_volume(read, columns):
    for name in ("framewise_displacement", "std_dvars"):
        columns[name][:] = 0.0
    assert strategy_outliers(read(columns), "scrubbing").sum() == 2


def test_outliers_of_the_table_are_the_union_of_its_columns(read, columns):
    assert np.flatnonzero(read(columns).motion_outliers()).tolist() == [20, 50]
    quiet = {name: values for name, values in columns.items() if "motion_outlier" not in name}
    assert not read(quiet).motion_outliers().any()


@pytest.mark.parametrize(
    ("name", "lost", "message"),
    [
        ("simple", "csf", r"lacks csf .*The strategy simple needs them"),
        ("scrubbing", "white_matter_power2", r"lacks white_matter_power2"),
        ("ica_aroma", "global_signal", r"lacks global_signal"),
        ("simple", "cosine", r"no cosine columns: the series would not be filtered"),
        ("compcor", "a_comp_cor", r"no aCompCor columns of the combined mask"),
    ],
)
def test_missing_columns_are_named(read, columns, name, lost, message):
    fewer = {
        key: values
        for key, values in columns.items()
        if key != lost and not (lost in {"cosine", "a_comp_cor"} and key.startswith(lost))
    }
    with pytest.raises(InputError, match=message):
        strategy_regressors(read(fewer), name)


def test_scrubbing_needs_its_two_columns(read, columns):
    del columns["std_dvars"]
    with pytest.raises(InputError, match="lacks std_dvars"):
        strategy_outliers(read(columns), "scrubbing")


def test_rows_without_values_are_told(read, columns):
    columns["csf"][7] = np.nan
    with pytest.raises(InputError, match="rows without a value in csf"):
        strategy_regressors(read(columns), "simple")


def test_strategies_marks_and_choices_agree():
    assert ("recipe", *STRATEGIES) == DENOISING
    marks = {FunctionalOptions(denoising=name).mark for name in STRATEGIES}
    assert marks <= set(OFF_RECIPE)
    assert FunctionalOptions().mark == ""


@pytest.fixture
def aroma_plan(study, monkeypatch, tmp_path):
    """Plan of a participant without a segmentation, denoised by ICA-AROMA."""
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "templateflow"))

    def run():
        settings = study.settings(functional=FunctionalOptions(denoising="ica_aroma"))
        (session,) = plan_sessions(
            settings, atlas_file=lambda atlas, role: study.root / f"{atlas}.nii.gz"
        )
        return session

    return run


def test_aroma_starts_from_its_own_series_with_any_mask_of_2_mm(study, aroma_plan):
    study.add_anatomy()
    folder = study.add_bold(spaces=["space-MNI152NLin6Asym_res-2"])
    name = "sub-01_task-rest_space-MNI152NLin6Asym"
    own = folder / f"{name}_desc-smoothAROMAnonaggr_bold.nii.gz"
    (folder / f"{name}_res-2_desc-preproc_bold.nii.gz").rename(own)
    write_json(own.with_name(f"{own.name[:-7]}.json"), {"RepetitionTime": 2.0})
    (run,) = aroma_plan().functional
    assert run.bold_file == own
    assert run.mask_file.name == f"{name}_res-2_desc-brain_mask.nii.gz"


def test_missing_series_of_aroma_is_explained(study, aroma_plan):
    study.add_anatomy()
    study.add_bold(spaces=["space-MNI152NLin6Asym_res-2"])
    (problem, *_) = aroma_plan().problems
    assert "has no series *_desc-smoothAROMAnonaggr_bold.nii.gz" in str(problem)
    assert "--use-aroma" in str(problem)


def test_strategies_need_no_segmentation():
    options = FunctionalOptions(denoising="simple")
    assert not options.needs_tissues
    assert not options.needs_components
    assert FunctionalOptions().needs_tissues
    assert not FunctionalOptions(compcor="columns", gsr_source="global_signal").needs_tissues
