# SPDX-License-Identifier: MIT
"""The group level, and the Krakencoder for single participants: translate, draw, mark as done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from kraken_bids.plan import CohortSession, LambdaSearchPlan
from kraken_bids.settings import TranslationOptions

from .derivatives import make_finish
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
    omp_nthreads: int = 1,
    name: str = "group_wf",
) -> pe.Workflow:
    """Predict the connectomes of a cohort, draw its page, and mark it as finished.

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
    report_wf = init_group_report_wf(dataset_dir=dataset_dir, output_dir=output_dir)
    workflow.connect([
        (translation_wf, report_wf, [("outputnode.out_files", "inputnode.wait_for")])
    ])
    everything = pe.Node(niu.Merge(2), name="everything", run_without_submitting=True)
    finish = make_finish(dataset_dir=dataset_dir, label=label, key=key)
    workflow.connect([
        (translation_wf, everything, [("outputnode.out_files", "in1")]),
        (report_wf, everything, [("outputnode.out_file", "in2")]),
        (everything, finish, [("out", "out_files")]),
        (translation_wf, finish, [("outputnode.problems_file", "problems_file")]),
    ])
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
