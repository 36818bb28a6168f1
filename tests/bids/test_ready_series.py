# SPDX-License-Identifier: MIT
"""Ready-made series of regions: found, put into the atlas's order, judged by their sidecars."""

from __future__ import annotations

import numpy as np
import pytest

from kraken_bids.atlases import load_atlas
from kraken_bids.bids.inputs import pairing_table, plan_sessions
from kraken_bids.bids.series_tables import read_series
from kraken_bids.errors import InputError, Problems
from kraken_bids.settings import FunctionalOptions
from tests.conftest import write_json

NAMES = load_atlas("fs86").region_names
ATLASES = ("fs86", "shen268", "coco439")
HIGH = {"SoftwareFilters": {"High-pass filter": {"cutoff (Hz)": 0.01}}}
FITTING = {**HIGH, "NuisanceParameters": "acompcor", "RepetitionTime": 2.0}
BANDPASS = {"Low-pass cutoff (Hz)": 0.1, "High-pass cutoff (Hz)": 0.01}
BAND = {"SoftwareFilters": {"Bandpass": BANDPASS}}


def write_series(path, values, header=NAMES, separator="\t"):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [["n/a" if np.isnan(v) else f"{v:.6g}" for v in row] for row in values]
    rows = [list(header), *rows] if header is not None else rows
    path.write_text("\n".join(separator.join(row) for row in rows) + "\n")
    return path


@pytest.fixture
def values():
    return np.random.default_rng(5).normal(size=(20, 86)).round(4)


@pytest.fixture
def table(study, values):
    """Add a table, with its sidecar; gives the folder to name."""
    root = study.root.parent / "series"

    def add(name="sub-01_task-rest_atlas-fs86_timeseries.tsv", sidecar=FITTING, **changes):
        folder = root / "sub-01" / "func" if name.endswith("timeseries.tsv") else root
        path = write_series(folder / name, changes.pop("values", values), **changes)
        if sidecar is not None:
            write_json(path.with_suffix(".json"), sidecar)
        return root

    return add


@pytest.fixture
def plan(study):
    def run(root, **changes):
        given = (*changes.pop("derivatives", ()), ("timeseries", root))
        settings = study.settings(derivatives=given, **changes)
        return plan_sessions(settings, atlas_file=lambda atlas, role: None)

    return run


def only(items):
    assert len(items) == 1, items
    return items[0]


def texts(session):
    return "\n".join(str(problem) for problem in session.problems)


def test_columns_are_put_into_the_order_of_the_atlas_by_their_names(tmp_path, values):
    order = np.random.default_rng(1).permutation(86)
    path = write_series(tmp_path / "a.tsv", values[:, order], [NAMES[place] for place in order])
    series = read_series(path, ATLASES)
    assert series.atlas == "fs86"
    np.testing.assert_array_equal(series.values, values)


@pytest.mark.parametrize("separator", ["\t", ",", ";", " "])
def test_columns_without_names_are_taken_by_their_number(tmp_path, values, separator):
    path = write_series(tmp_path / "a.txt", values, None, separator)
    series = read_series(path, ATLASES)
    assert series.atlas == "fs86"
    np.testing.assert_array_equal(series.values, values)


def test_regions_that_a_table_lacks_are_missing(tmp_path, values):
    path = write_series(tmp_path / "a.tsv", values[:, 2:], NAMES[2:])
    found = read_series(path, ("fs86",)).values
    assert np.isnan(found[:, :2]).all()
    np.testing.assert_array_equal(found[:, 2:], values[:, 2:])


def test_numbers_of_rows_before_the_columns_are_no_region(tmp_path, values):
    numbered = np.column_stack([np.arange(20), values])
    path = write_series(tmp_path / "a.csv", numbered, ["", *NAMES], ",")
    np.testing.assert_array_equal(read_series(path, ("fs86",)).values, values)


DAMAGED = {
    "text": (lambda text: text.replace("\n0.", "\nx.", 1).replace("\n-0.", "\nx.", 1), "text"),
    "ragged": (lambda text: text + "1\t2\n", "different lengths"),
    "empty": (lambda text: "", "is empty"),
    "short": (lambda text: "\n".join(text.splitlines()[:2]), "1 volumes"),
    "gap": (lambda text: text[: text.rindex("\t")] + "\tn/a\n", "1 single values"),
    "infinite": (lambda text: text[: text.rindex("\t")] + "\tinf\n", "infinite"),
    "other": (lambda text: text.replace(NAMES[0], "V1", 1), "not of the atlas fs86"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_table_that_is_none_is_refused(tmp_path, values, case):
    change, message = DAMAGED[case]
    path = write_series(tmp_path / "a.tsv", values)
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=message) as caught:
        read_series(path, ("fs86",))
    assert "a.tsv" in str(caught.value)


def test_a_table_of_no_atlas_is_refused(tmp_path, values):
    path = write_series(tmp_path / "a.tsv", values[:, :50], None)
    with pytest.raises(InputError, match="50 columns of 20 volumes"):
        read_series(path, ATLASES)
    with pytest.raises(InputError, match="50 columns and no names"):
        read_series(path, ("fs86",))


def test_series_that_fit_are_a_run_with_all_entities(table, plan):
    name = "sub-01_ses-a_task-rest_acq-mb_run-2_space-MNI152NLin6Asym_atlas-fs86_timeseries.tsv"
    session = only(plan(table(name)))
    assert (session.participant, session.session, session.problems) == ("01", "a", ())
    run = only(session.series)
    assert run.entities == (
        ("sub", "01"), ("ses", "a"), ("task", "rest"), ("acq", "mb"), ("run", "2"),
    )  # fmt: skip
    assert (run.space, run.mark, run.left_out) == ("MNI152NLin6Asym", "", ())
    assert (run.repetition_time_s, run.high_pass_hz) == (2.0, 0.01)
    assert run.denoised_by == "another program: confounds acompcor, high-pass 0.01 Hz"
    assert [(t.atlas, t.variant) for t in run.tables] == [("fs86", "hpf")]
    assert "1 × ready series" in pairing_table([session])


def test_plain_tables_beside_each_other_are_read(table, plan):
    table("sub-01_ses-a.csv", separator=",")
    table("sub-01_ses-b.csv", separator=",")
    root = table("sub-02_task-rest_bold_timeseries.txt")
    labels = [session.label for session in plan(root)]
    assert labels == ["sub-01_ses-a", "sub-01_ses-b", "sub-02"]


MISFITS = {
    "no sidecar": (None, "does not say how it was filtered"),
    "low-pass": ({**FITTING, **BAND}, "low-pass filtered at 0.1 Hz"),
    "no high-pass": ({**FITTING, "SoftwareFilters": {}}, "not high-pass filtered"),
    "unknown confounds": (
        {**FITTING, "NuisanceParameters": "own"},
        "whether the global signal was regressed",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_series_that_do_not_fit_are_refused_and_with_force_marked(table, plan, case):
    sidecar, message = MISFITS[case]
    root = table(sidecar=sidecar)
    session = only(plan(root))
    assert not session.series
    assert message in texts(session)
    assert "--force" in texts(session)
    forced = only(plan(root, force=True))
    if case == "no sidecar":
        assert "time between volumes" in texts(forced)
        return
    assert only(forced.series).mark == "ready"
    assert not forced.problems


def test_volumes_without_values_were_censored(table, plan, values):
    values = values.copy()
    values[[3, 7]] = np.nan
    root = table(values=values)
    assert "2 of its volumes have no values" in texts(only(plan(root)))
    run = only(only(plan(root, force=True)).series)
    assert (run.mark, run.left_out) == ("ready", (3, 7))


def test_xcp_d_says_beside_its_series_how_they_were_made(table, plan):
    root = table("sub-01_task-rest_space-T1w_seg-fs86_stat-mean_timeseries.tsv",
                 {"SamplingFrequency": 0.5})  # fmt: skip
    func = root / "sub-01" / "func"
    stem = func / "sub-01_task-rest_space-T1w_desc-denoised_bold.json"
    write_json(stem, {**HIGH, "NuisanceParameters": "36P"})
    table("sub-01_task-rest_space-T1w_seg-fs86_stat-reho_timeseries.tsv")
    (func / "sub-01_task-rest_outliers.tsv").write_text("framewise_displacement\n" + "0\n" * 20)
    run = only(only(plan(root)).series)
    assert only(run.tables).variant == "hpfgsr"
    assert run.repetition_time_s == 2.0
    assert run.denoised_by == "XCP-D: confounds 36P, high-pass 0.01 Hz"
    flags = "framewise_displacement\n" + "1\n" * 4 + "0\n" * 20
    (func / "sub-01_task-rest_outliers.tsv").write_text(flags)
    assert "4 of its volumes were censored" in texts(only(plan(root)))


GIGA = {
    "Simple": ("hpf", ""),
    "SimpleGSR": ("hpfgsr", ""),
    "Scrubbing2": ("hpf", "left out by the strategy"),
    "Mine": ("hpf", "none of giga_connectome's strategies"),
}


@pytest.mark.parametrize("strategy", GIGA)
def test_giga_connectome_says_it_in_the_name_of_its_strategy(table, plan, strategy):
    variant, message = GIGA[strategy]
    name = f"sub-01_task-rest_seg-fs86_desc-denoise{strategy}_timeseries.tsv"
    root = table(name, {"RepetitionTime": 2.0})
    session = only(plan(root, force=True))
    assert only(only(session.series).tables).variant == variant
    assert only(session.series).mark == ("ready" if message else "")
    assert message in texts(only(plan(root)))


def test_series_of_ours_bring_variants_outliers_and_recipe_along(table, plan):
    sidecar = {
        **HIGH, "RepetitionTime": 2.0, "Software": "kraken-bids 1.0", "OutlierVolumes": [0, 4],
        "Denoising": {"Strategy": "recipe", "Components": "exact"},
    }  # fmt: skip
    name = "sub-01_task-rest_space-T1w_atlas-fs86_desc-{}_timeseries.tsv"
    table(name.format("hpf"), sidecar)
    root = table(name.format("hpfgsr"), sidecar)
    qc = root / "sub-01" / "func" / "sub-01_task-rest_desc-fc_qc.tsv"
    qc.write_text("n_kept\tdof_hpf\tfd_mean_mm\n18\t9.5\tn/a\n")
    run = only(only(plan(root)).series)
    assert [table.variant for table in run.tables] == ["hpf", "hpfgsr"]
    assert (run.left_out, run.mark) == ((0, 4), "")
    assert dict(run.known) == {"denoising": "recipe", "compcor": "exact", "dof_hpf": 9.5}
    off = {**sidecar, "OffRecipe": "denoised by another"}
    table(name.format("hpf"), off)
    assert "marked as made otherwise" in texts(only(plan(root)))
    table(name.format("hpf"), {**sidecar, "OutlierVolumes": [99]})
    assert "OutlierVolumes does not fit" in texts(only(plan(root)))


def test_tables_of_one_run_that_contradict_each_other_are_told(table, plan, values):
    table()
    root = table("sub-01_task-rest_seg-fs86_timeseries.tsv")
    session = only(plan(root))
    assert len(session.series) == 1
    assert "would have the same names" in texts(session)


def test_other_tables_are_no_series(table, plan):
    table()
    table("sub-01_task-rest_desc-confounds_timeseries.tsv")
    table("sub-01_task-rest_seg-Schaefer100_timeseries.tsv")
    root = table("sub-01_task-rest_events.tsv")
    assert len(only(plan(root)).series) == 1


def test_a_folder_without_series_is_refused(table, plan, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no series of regions"):
        plan(tmp_path / "empty")
    with pytest.raises(InputError, match="schaefer100 only, not of fs86"):
        plan(table("sub-01_task-rest_seg-Schaefer100_timeseries.tsv"))


def test_participants_sessions_and_tasks_are_chosen(table, plan):
    for task in ("rest", "nback"):
        for session in ("a", "b"):
            root = table(f"sub-01_ses-{session}_task-{task}_atlas-fs86_timeseries.tsv")
    found = plan(root, tasks=("rest",), sessions=("b",))
    assert [s.label for s in found] == ["sub-01_ses-b"]
    assert dict(only(only(found).series).entities)["task"] == "rest"
    assert "nothing of what is asked for" in texts(only(plan(root, sessions=("c",))))
    with pytest.raises(Problems, match="participant '07'"):
        plan(root, participants=("07",))


def test_other_participants_are_measured_and_what_comes_twice_is_told(study, table, plan):
    study.add_anatomy()
    study.add_bold()
    study.add_anatomy("02")
    study.add_bold("02")
    root = table()
    one, two = plan(root, modalities=("func",))
    assert (one.functional, one.series) == ((), ())
    assert "FCcorr_fs86_hpf" in texts(one)
    assert "BOLD" in texts(one)
    assert "timeseries" in texts(one)
    assert (len(two.functional), two.series, two.problems) == (1, (), ())


def test_another_task_or_recipe_is_no_contradiction(study, table, plan):
    study.add_anatomy()
    study.add_bold()
    root = table("sub-01_task-nback_atlas-fs86_timeseries.tsv")
    session = only(plan(root, modalities=("func",)))
    assert (len(session.functional), len(session.series), session.problems) == (1, 1, ())
    table()
    session = only(
        plan(root, modalities=("func",), functional=FunctionalOptions(denoising="simple"))
    )
    assert (len(session.functional), len(session.series), session.problems) == (1, 2, ())
