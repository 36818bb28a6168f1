# SPDX-License-Identifier: MIT
"""What a session's inputs settle of its methods text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kraken_bids.bids.five_tissue_inputs import TISSUE_MEASURE, TISSUE_NOTES
from kraken_bids.boilerplate import describe_methods
from kraken_bids.boilerplate_structural import FIVE_TISSUE_KEYS, FIVE_TISSUE_WORDS
from kraken_bids.plan import DiffusionRun, LabelSource, SessionPlan
from kraken_bids.session_facts import (
    GIVEN,
    MULTI_TISSUE,
    NONE,
    UNKNOWN,
    WHITE_MATTER,
    DiffusionFacts,
    SessionFacts,
    session_facts,
)
from kraken_bids.settings import FunctionalOptions, Settings, StructuralOptions


@pytest.fixture
def run(tmp_path):
    bvals = tmp_path / "dwi.bval"
    bvals.write_text("5 1000 1000 3000\n")
    return DiffusionRun(
        entities=(("sub", "01"),),
        space="ACPC",
        dwi_file=tmp_path / "dwi.nii.gz",
        bval_file=bvals,
        bvec_file=tmp_path / "dwi.bvec",
        mask_file=None,
        labels=(LabelSource("coco439", Path("c.nii.gz"), "T1w", group_reason="no subject"),),
        tissues=LabelSource("tissues", Path("aparcaseg.nii.gz"), "T1w"),
        notes=((TISSUE_MEASURE, TISSUE_NOTES["freesurfer"]),),
    )


@pytest.fixture
def settings(tmp_path):
    return Settings(
        bids_dir=tmp_path, output_dir=tmp_path / "out", work_dir=tmp_path / "work",
        level="participant", atlases=("fs86", "coco439"),
        functional=FunctionalOptions(pcorr_lambda=(("fs86", 0.1), ("coco439", 0.1))),
    )  # fmt: skip


def facts(*runs, sift2=False):
    return session_facts(SessionPlan("01", None, diffusion=runs), sift2=sift2)


def test_a_tracked_series(run):
    assert facts(run).diffusion == (
        DiffusionFacts(MULTI_TISSUE, ("ifod2act", "sdstream"), (), "freesurfer"),
    )
    assert facts(run).labels == "group"
    assert not facts(run).has_functional


def test_a_series_without_unweighted_volumes(run):
    run.bval_file.write_text("1000 1000 2000\n")
    assert facts(run).diffusion[0].fods == WHITE_MATTER


def test_unreadable_weightings_are_left_to_the_run(run):
    run.bval_file.write_text("many\n")
    assert facts(run).diffusion[0].fods == UNKNOWN


def test_ready_tractograms(run):
    given = (("ifod2act", Path("a.tck")), ("sdstream", Path("b.tck")))
    ready = replace(run, notes=(), tractograms=given)
    assert facts(ready).diffusion == (DiffusionFacts(NONE, (), ("ifod2act", "sdstream"), ""),)
    assert facts(ready, sift2=True).diffusion[0].fods == MULTI_TISSUE
    alone = replace(ready, dwi_file=None, bval_file=None)
    assert facts(alone, sift2=True).diffusion[0].fods == NONE


def test_given_fods_and_a_given_image(run):
    given = replace(
        run, dwi_file=None, bval_file=None, fod_file=Path("wm.mif"),
        notes=((TISSUE_MEASURE, "given: sub-01_5tt.nii.gz"),),
    )  # fmt: skip
    assert facts(given).diffusion == (
        DiffusionFacts(GIVEN, ("ifod2act", "sdstream"), (), "given"),
    )


def test_without_tissues_nothing_is_told_of_as_constrained(run):
    assert facts(replace(run, tissues=None, notes=())).diffusion == (
        DiffusionFacts(MULTI_TISSUE, ("sdstream",), (), ""),
    )


def test_labels_of_both_kinds_are_of_none(run):
    both = (*run.labels, LabelSource("coco439", Path("c.nii.gz"), "T1w", own=object()))
    assert facts(replace(run, labels=both)).labels == ""


def test_sources_of_tissues_have_words():
    assert {*TISSUE_NOTES, "auto"} == set(FIVE_TISSUE_WORDS)
    assert set(FIVE_TISSUE_KEYS) < set(FIVE_TISSUE_WORDS)


def text(settings, diffusion=(), **changes):
    known = {
        "has_functional": False, "has_series": False, "has_connectomes": False,
        "is_averaged": False, "labels": "", "diffusion": diffusion, **changes,
    }  # fmt: skip
    told = describe_methods(settings, versions={"MRtrix3": "3.0.3"}, facts=SessionFacts(**known))
    return told.markdown


def test_a_session_is_told_of_as_it_was_measured(settings):
    tracked = DiffusionFacts(MULTI_TISSUE, ("ifod2act", "sdstream"), (), "maps")
    told = text(settings, (tracked,), labels="group")
    assert "came from QSIPrep's tissue maps" in told
    assert "were the published group image" in told
    assert "*MRtrix3* 3.0.3" in told
    for alternative in ("where there was one", "tournier, csd", "Where ready", "sidecars",
                        "Functional connectomes"):  # fmt: skip
        assert alternative not in told
    alone = text(settings, (DiffusionFacts(WHITE_MATTER, ("sdstream",), (), ""),))
    assert "of white matter alone" in alone
    for absent in ("iFOD2", "dhollander", "constraints"):
        assert absent not in alone


def test_ready_streamlines_are_not_told_of_as_tracked(settings):
    weighed = replace(settings, structural=StructuralOptions(sift2=True))
    ready = text(weighed, (DiffusionFacts(NONE, (), ("ifod2act", "sdstream"), ""),))
    assert "had been made before" in ready
    for absent in ("were selected", "Response", "MRtrix3", "SIFT2"):
        assert absent not in ready
    given = text(weighed, (DiffusionFacts(GIVEN, ("sdstream",), ("ifod2act",), ""),))
    assert "distributions of white matter had been estimated before" in given
    assert "*MRtrix3* 3.0.3" in given
    assert "SIFT2" in given


def test_runs_made_in_several_ways_are_told_of_as_a_cohort(settings):
    ways = (DiffusionFacts(MULTI_TISSUE, ("sdstream",), (), ""),
            DiffusionFacts(NONE, (), ("sdstream",), ""))  # fmt: skip
    assert "Where ready tractograms" in text(settings, ways)


def test_averages_are_told_of_where_there_are_some(settings):
    once = text(settings, has_functional=True)
    assert "Structural" not in once
    assert "several runs were averaged" not in once
    assert "several runs were averaged" in text(settings, has_functional=True, is_averaged=True)
    assert "several runs were averaged" in describe_methods(settings).markdown
    series = text(settings, has_series=True, has_connectomes=True)
    assert "series of regions that had been denoised before" in series
    assert "were taken as they were" in series
    assert "Residuals" not in series


def test_lambdas_that_are_fixed_leave_nothing_out(settings):
    assert "fewer degrees of freedom" in text(settings, has_functional=True)
    fixed = FunctionalOptions(
        pcorr_lambda=(("fs86", 0.1), ("coco439", 0.1)), pcorr_given=("fs86", "coco439")
    )
    told = text(replace(settings, functional=fixed), has_functional=True)
    assert "fewer degrees of freedom" not in told
