# SPDX-License-Identifier: MIT
"""What a session's inputs settle of what settings alone leave open, for its methods text."""

from __future__ import annotations

from dataclasses import dataclass

from .bids.five_tissue_inputs import TISSUE_MEASURE, TISSUE_NOTES
from .errors import InputError
from .images.diffusion import has_unweighted
from .plan import DiffusionRun, FunctionalRun, SessionPlan

#: How fibre orientation distributions come to be: estimated of several tissues, of white matter
#: alone, given, or not needed.
MULTI_TISSUE, WHITE_MATTER, GIVEN, NONE = "multi-tissue", "white matter", "given", ""
#: Where b-values cannot be read; the run itself tells so and leaves the series out.
UNKNOWN = "unknown"


@dataclass(frozen=True)
class DiffusionFacts:
    """How streamlines of a diffusion run come to be.

    Parameters
    ----------
    fods
        One of `MULTI_TISSUE`, `WHITE_MATTER`, `GIVEN`, `NONE` and `UNKNOWN`.
    tracked, ready
        Algorithms whose streamlines are tracked, and whose tractograms were given.
    tissues
        What the constraints of tracking are made from: a key of `TISSUE_NOTES`, or ``given``;
        empty where nothing is constrained.
    """

    fods: str
    tracked: tuple[str, ...]
    ready: tuple[str, ...]
    tissues: str


@dataclass(frozen=True)
class SessionFacts:
    """What is known of a session before it is measured.

    Parameters
    ----------
    has_functional, has_series, has_connectomes
        Whether there are BOLD series, ready-made series of regions, ready-made connectomes.
    is_averaged
        Whether several functional runs are averaged.
    labels
        Whose labels of the atlas with labels of one's own: ``subject``, ``group``, or empty where
        both are used, or none.
    diffusion
        Of each diffusion run, alike ones once.
    """

    has_functional: bool
    has_series: bool
    has_connectomes: bool
    is_averaged: bool
    labels: str
    diffusion: tuple[DiffusionFacts, ...]


def session_facts(plan: SessionPlan, *, sift2: bool = False) -> SessionFacts:
    """Look up what a session's inputs settle.

    Parameters
    ----------
    plan
        The session.
    sift2
        Whether streamlines are weighed.
    """
    runs: list[FunctionalRun | DiffusionRun] = [*plan.functional, *plan.diffusion]
    of_labels = {
        "group" if source.group_reason else "subject"
        for source in (one for run in runs for one in run.labels)
        if source.group_reason or source.own
    }
    return SessionFacts(
        has_functional=bool(plan.functional),
        has_series=bool(plan.series),
        has_connectomes=bool(plan.connectomes),
        is_averaged=len(plan.functional) > 1 or len(plan.series) > 1,
        labels=of_labels.pop() if len(of_labels) == 1 else "",
        diffusion=tuple(dict.fromkeys(_diffusion(run, sift2=sift2) for run in plan.diffusion)),
    )


def _diffusion(run: DiffusionRun, *, sift2: bool) -> DiffusionFacts:
    from kraken_bids.workflows.structural import find_tracked

    has_fods = run.dwi_file is not None or run.fod_file is not None
    tracked = tuple(find_tracked(run))
    note = dict(run.notes).get(TISSUE_MEASURE, "")
    sources = {words: source for source, words in TISSUE_NOTES.items()}
    return DiffusionFacts(
        fods=_fods(run) if tracked or (has_fods and sift2) else NONE,
        tracked=tracked,
        ready=tuple(algorithm for algorithm, _ in run.tractograms),
        tissues=sources.get(note, "given") if "ifod2act" in tracked else "",
    )


def _fods(run: DiffusionRun) -> str:
    if run.bval_file is None:
        return GIVEN
    try:
        return MULTI_TISSUE if has_unweighted(run.bval_file) else WHITE_MATTER
    except InputError:
        return UNKNOWN
