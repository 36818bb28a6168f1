# SPDX-License-Identifier: MIT
"""Connectomes of a cohort through the Krakencoder: read, adapt, translate, evaluate, publish."""

from __future__ import annotations

from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from kraken_bids.interfaces.cohort import (
    EvaluateTranslation,
    FitAdaptation,
    PublishTree,
    plain_adaptation,
)
from kraken_bids.interfaces.model_inputs import fitted_adaptation, uses_gpu
from kraken_bids.interfaces.sessions import plain_session
from kraken_bids.interfaces.translation import ReadConnectomes, Translate
from kraken_bids.plan import CohortSession, LambdaSearchPlan
from kraken_bids.settings import TranslationOptions

from .regularization import init_regularization_wf

#: Sessions read and translated at a time: 16 of 15 flavors are 43 MB of edges.
BATCH_SIZE = 16

READ_GB = 0.5
FIT_GB = 1.0
#: A model of 15 flavors with 256 components holds 0.7 GB of weights.
TRANSLATE_GB = 2.5
EVALUATE_GB = 1.5


def init_translation_wf(
    *,
    sessions: tuple[CohortSession, ...],
    options: TranslationOptions,
    dataset_dir: Path,
    sources_root: Path | None = None,
    sources_name: str = "connectomes",
    search: LambdaSearchPlan | None = None,
    batch_size: int = BATCH_SIZE,
    omp_nthreads: int = 1,
    name: str = "translation_wf",
) -> pe.Workflow:
    """Predict connectomes of a cohort and write the prediction data set.

    Parameters
    ----------
    sessions
        Finished measured connectomes; one session or more.
    options
        Model, adaptation, fusions, sources and targets.
    dataset_dir
        Root of the prediction data set.
    sources_root, sources_name
        Root of the data set of measured connectomes, and its name in ``DatasetLinks``: what URIs
        in sidecars begin with. Without a root, sidecars give bare file names.
    search
        Search for the lambda of partial correlations, which are then made with it; None leaves
        them as measured.
    batch_size
        Sessions in memory at a time.
    omp_nthreads
        Threads of one translation.
    name
        Name of the workflow.

    Outputs
    -------
    out_files
        All files written into the data set.
    problems_file
        JSON: a list ``problems`` of the input files that could not be used, each with
        ``participant``, ``session``, ``flavor``, ``what``, ``where``, ``fix``.
    """
    rows = [plain_session(session) for session in sessions]
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    model = _model_inputs(sessions, options, search)
    workflow = pe.Workflow(name=name)
    outputnode = pe.Node(
        niu.IdentityInterface(fields=["out_files", "problems_file"]), name="outputnode"
    )

    read = pe.MapNode(
        ReadConnectomes(**model), iterfield=["sessions"], name="read", mem_gb=READ_GB
    )

    fit = pe.Node(
        FitAdaptation(**plain_adaptation(options.adaptation), **model),
        name="fit",
        mem_gb=FIT_GB,
    )
    workflow.connect([(read, fit, [("edges_file", "edges_files")])])

    translate = pe.MapNode(
        Translate(
            cohort_size=len(sessions),
            sources_root=str(sources_root or ""),
            sources_name=sources_name,
            device=options.device,
            use_gpu=uses_gpu(options.device),
            relmat_format=options.relmat_format,
            **model,
        ),
        iterfield=["sessions", "edges_file"],
        name="translate",
        mem_gb=TRANSLATE_GB,
        n_procs=omp_nthreads,
    )
    workflow.connect([
        (read, translate, [("edges_file", "edges_file")]),
        (fit, translate, [
            ("adaptation_file", "adaptation_file"),
            ("means_file", "means_file"),
        ]),
    ])  # fmt: skip

    evaluate = pe.Node(
        EvaluateTranslation(sessions=batches, **model), name="evaluate", mem_gb=EVALUATE_GB
    )
    workflow.connect([
        (read, evaluate, [("problems_file", "problems_files")]),
        (fit, evaluate, [("means_file", "means_file")]),
        (translate, evaluate, [("sums_file", "sums_files")]),
        (evaluate, outputnode, [("problems_file", "problems_file")]),
    ])

    trees = pe.Node(niu.Merge(4), name="trees", run_without_submitting=True)
    publish = pe.MapNode(
        PublishTree(out_dir=str(dataset_dir)), iterfield=["in_dir"], name="publish"
    )
    workflow.connect([
        (fit, trees, [("out_dir", "in1")]),
        (translate, trees, [("out_dir", "in2")]),
        (evaluate, trees, [("out_dir", "in3")]),
        (trees, publish, [("out", "in_dir")]),
        (publish, outputnode, [(("out_files", flatten), "out_files")]),
    ])
    if search is None:
        for node in (read, fit, translate):
            node.inputs.sessions = batches
        return workflow

    regularization_wf = init_regularization_wf(
        sessions=sessions,
        search=search,
        batch_size=batch_size,
        sources_root=sources_root,
        sources_name=sources_name,
    )
    workflow.connect([
        (regularization_wf, fit, [("outputnode.sessions", "sessions")]),
        (regularization_wf, read, [("outputnode.sessions", "sessions")]),
        (regularization_wf, translate, [("outputnode.sessions", "sessions")]),
        (regularization_wf, trees, [("outputnode.out_dirs", "in4")]),
    ])
    return workflow


def init_session_translation_wf(
    *,
    sessions: tuple[CohortSession, ...],
    options: TranslationOptions,
    dataset_dir: Path,
    sources_root: Path | None = None,
    sources_name: str = "connectomes",
    search: LambdaSearchPlan | None = None,
    omp_nthreads: int = 1,
    name: str = "session_translation_wf",
) -> pe.Workflow:
    """Predict connectomes of a few sessions, without a cohort and without files of a group.

    Parameters
    ----------
    sessions
        Finished measured connectomes, such as those of one participant.
    options
        As for `init_translation_wf`; the adaptation is ``none`` or a file fitted earlier.
    dataset_dir, sources_root, sources_name, omp_nthreads, name
        As for `init_translation_wf`.
    search
        Lambdas that the adaptation was fitted with, for partial correlations that have another;
        None leaves them as measured.

    Outputs
    -------
    out_files, problems_file
        As of `init_translation_wf`.

    Raises
    ------
    UsageError
        If the adaptation would have to be fitted.
    """
    model = _model_inputs(sessions, options, search)
    rows = [plain_session(session) for session in sessions]
    fitted = fitted_adaptation(options.adaptation)
    workflow = pe.Workflow(name=name)
    outputnode = pe.Node(
        niu.IdentityInterface(fields=["out_files", "problems_file"]), name="outputnode"
    )

    read = pe.Node(ReadConnectomes(**model), name="read", mem_gb=READ_GB)
    translate = pe.Node(
        Translate(
            sources_root=str(sources_root or ""),
            sources_name=sources_name,
            device=options.device,
            use_gpu=uses_gpu(options.device),
            relmat_format=options.relmat_format,
            **fitted,
            **model,
        ),
        name="translate",
        mem_gb=TRANSLATE_GB,
        n_procs=omp_nthreads,
    )
    trees = pe.Node(niu.Merge(2), name="trees", run_without_submitting=True)
    publish = pe.MapNode(
        PublishTree(out_dir=str(dataset_dir)), iterfield=["in_dir"], name="publish"
    )
    workflow.connect([
        (read, translate, [("edges_file", "edges_file")]),
        (read, outputnode, [("problems_file", "problems_file")]),
        (translate, trees, [("out_dir", "in1")]),
        (trees, publish, [("out", "in_dir")]),
        (publish, outputnode, [(("out_files", flatten), "out_files")]),
    ])
    if search is None:
        read.inputs.sessions = rows
        translate.inputs.sessions = rows
        return workflow

    regularization_wf = init_regularization_wf(
        sessions=sessions,
        search=search,
        batch_size=len(rows),
        sources_root=sources_root,
        sources_name=sources_name,
    )
    workflow.connect([
        (regularization_wf, read, [(("outputnode.sessions", flatten), "sessions")]),
        (regularization_wf, translate, [(("outputnode.sessions", flatten), "sessions")]),
        (regularization_wf, trees, [("outputnode.out_dirs", "in2")]),
    ])
    return workflow


def _model_inputs(
    sessions: tuple[CohortSession, ...],
    options: TranslationOptions,
    search: LambdaSearchPlan | None = None,
) -> dict[str, object]:
    """Inputs that all nodes which use the model have in common."""
    flavors = {flavor for session in sessions for flavor, _ in session.connectomes}
    flavors |= set(search.flavors if search else ())
    return {
        "model_dir": str(options.model_dir),
        "model_sha256": options.model_sha256,
        "fusions": [[name, list(members)] for name, members in options.fusions],
        "predict_from": list(options.predict_from),
        "predict_to": list(options.predict_to),
        "cohort_flavors": sorted(flavors),
    }


def flatten(lists: list[list[str]]) -> list[str]:
    """Put lists end to end.

    Examples
    --------
    >>> flatten([["a"], ["b", "c"]])
    ['a', 'b', 'c']
    """
    return [item for part in lists for item in part]
