# SPDX-License-Identifier: MIT
"""The group level, and the Krakencoder for single participants: translate, draw, mark as done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from kraken_bids.plan import CohortSession, LambdaSearchPlan
from kraken_bids.settings import TranslationOptions

from .derivatives import make_finish, make_remove_stale
from .report import init_group_report_wf, init_participant_report_wf
from .translation import init_session_translation_wf, init_translation_wf


def init_group_wf(
    *,
    sessions: tuple[CohortSession, ...],
    options: TranslationOptions,
    dataset_dir: Path,
    output_dir: Path,
    key: str,
    label: str,
    search: LambdaSearchPlan | None = None,
    participants_file: Path | None = None,
    omp_nthreads: int = 1,
    name: str = "group_wf",
) -> pe.Workflow:
    """Predict the connectomes of a cohort, draw all pages, and mark it as finished.

    Before the pages are drawn, and once all predictions are in place, those of an earlier run
    that are not made any more are deleted: pages show what lies there.

    Parameters
    ----------
    sessions, options, dataset_dir, search, omp_nthreads, name
        As for `init_translation_wf`.
    output_dir
        Root of the data set of measured connectomes.
    key
        Fingerprint of all that the predictions depend on.
    label
        Name of the marker.
    participants_file
        ``participants.tsv`` for the cohort's page, which may be missing.
    """
    workflow = pe.Workflow(name=name)
    translation_wf = init_translation_wf(
        sessions=sessions,
        options=options,
        dataset_dir=dataset_dir,
        sources_root=output_dir,
        search=search,
        omp_nthreads=omp_nthreads,
    )
    report_wf = init_group_report_wf(
        dataset_dir=dataset_dir,
        output_dir=output_dir,
        sessions=paged_sessions(sessions, output_dir),
        participants_file=participants_file,
    )
    remove_stale = make_remove_stale(dataset_dir=dataset_dir, label=label)
    workflow.connect([
        (translation_wf, remove_stale, [("outputnode.out_files", "out_files")]),
        (remove_stale, report_wf, [("out_files", "inputnode.wait_for")]),
    ])
    everything = pe.Node(niu.Merge(3), name="everything", run_without_submitting=True)
    finish = make_finish(dataset_dir=dataset_dir, label=label, key=key)
    workflow.connect([
        (translation_wf, everything, [("outputnode.out_files", "in1")]),
        (report_wf, everything, [
            ("outputnode.out_file", "in2"),
            (("outputnode.participant_pages", nothing), "in3"),
        ]),
        (everything, finish, [("out", "out_files")]),
        (translation_wf, finish, [("outputnode.problems_file", "problems_file")]),
    ])  # fmt: skip
    return workflow


def nothing(pages: object) -> list[str]:  # noqa: ARG001
    """Wait for pages without counting them: they lie in the data set of what was measured."""
    return []


def paged_sessions(
    sessions: Sequence[CohortSession], output_dir: Path
) -> list[tuple[str, str | None]]:
    """Participant and session of those that were measured here, and so have a page here."""
    return [
        (session.participant, session.session)
        for session in sessions
        if (output_dir / f"sub-{session.participant}").is_dir()
    ]


def init_pages_wf(
    *,
    sessions: Sequence[CohortSession],
    dataset_dir: Path,
    output_dir: Path,
    participants_file: Path | None = None,
    name: str = "pages_wf",
) -> pe.Workflow:
    """Draw the pages of a cohort and its participants again, from what lies there.

    Parameters
    ----------
    sessions
        The cohort.
    dataset_dir, output_dir
        Roots of the data sets of predictions and of measured connectomes.
    participants_file
        ``participants.tsv``, which may be missing.
    """
    workflow = pe.Workflow(name=name)
    report_wf = init_group_report_wf(
        dataset_dir=dataset_dir,
        output_dir=output_dir,
        sessions=paged_sessions(sessions, output_dir),
        participants_file=participants_file,
    )
    workflow.add_nodes([report_wf])
    return workflow


def session_node_name(session: CohortSession) -> str:
    """Name of a session's workflow: its label in characters that Nipype allows."""
    return session.label.replace("-", "_").replace("+", "_") + "_wf"


def init_single_translations_wf(
    keys: Mapping[CohortSession, str],
    *,
    options: TranslationOptions,
    dataset_dir: Path,
    output_dir: Path,
    notes: Mapping[str, Sequence[str]],
    searches: Mapping[CohortSession, LambdaSearchPlan] | None = None,
    omp_nthreads: int = 1,
    name: str = "single_translations_wf",
) -> pe.Workflow:
    """Predict the connectomes of sessions one by one, without a cohort, and draw their pages.

    Parameters
    ----------
    keys
        Fingerprint of each session.
    options, dataset_dir, omp_nthreads, name
        As for `init_session_translation_wf`.
    output_dir
        Root of the data set of measured connectomes.
    notes
        Problems to name on top of the pages, by session.
    searches
        As for `init_session_translation_wf`, by session; those without keep what was measured.
    """
    workflow = pe.Workflow(name=name)
    for session, key in keys.items():
        session_wf = pe.Workflow(name=session_node_name(session))
        translation_wf = init_session_translation_wf(
            sessions=(session,),
            options=options,
            dataset_dir=dataset_dir,
            sources_root=output_dir,
            search=(searches or {}).get(session),
            omp_nthreads=omp_nthreads,
        )
        finish = make_finish(dataset_dir=dataset_dir, label=session.label, key=key)
        report_wf = init_participant_report_wf(
            output_dir=output_dir,
            participant=session.participant,
            session=session.session,
            notes=notes.get(session.label, ()),
        )
        session_wf.connect([
            (translation_wf, report_wf, [("outputnode.out_files", "inputnode.wait_for")]),
            (translation_wf, finish, [
                ("outputnode.out_files", "out_files"),
                ("outputnode.problems_file", "problems_file"),
            ]),
        ])  # fmt: skip
        workflow.add_nodes([session_wf])
    return workflow
