# SPDX-License-Identifier: MIT
"""Partial correlations with one lambda for a cohort, searched for before they are translated."""

from __future__ import annotations

from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from kraken_bids.interfaces.regularization import (
    Regularize,
    SearchLambda,
    correlated_session,
    plain_search,
)
from kraken_bids.plan import CohortSession, LambdaSearchPlan

#: Eigenvectors of a cohort: beyond 256 MB they lie in a file.
SEARCH_GB = 1.0
REGULARIZE_GB = 0.5


def init_regularization_wf(
    *,
    sessions: tuple[CohortSession, ...],
    search: LambdaSearchPlan,
    batch_size: int,
    sources_root: Path | None = None,
    sources_name: str = "connectomes",
    name: str = "regularization_wf",
) -> pe.Workflow:
    """Search the lambda of each atlas on a cohort, and make its partial correlations with it.

    Parameters
    ----------
    sessions
        The cohort.
    search
        Atlases with their targets or lambdas, and the sessions' correlations.
    batch_size
        Sessions that one node works on.
    sources_root, sources_name
        Root of the data set of measured connectomes, and its name in ``DatasetLinks``.
    name
        Of the workflow.

    Outputs
    -------
    sessions
        Batches of sessions in plain values, in the order of the cohort; the partial correlations
        are those made here, files that could not be used are among their problems.
    out_dirs
        Trees that go into the prediction data set: the searches, the partial correlations.
    """
    nothing = ((),) * len(sessions)
    rows = [
        correlated_session(session, correlations, withheld=withheld, unchanged=unchanged)
        for session, correlations, withheld, unchanged in zip(
            sessions,
            search.correlations,
            search.withheld or nothing,
            search.unchanged or nothing,
            strict=True,
        )
    ]
    workflow = pe.Workflow(name=name)
    outputnode = pe.Node(niu.IdentityInterface(fields=["sessions", "out_dirs"]), name="outputnode")

    regularize = pe.MapNode(
        Regularize(
            atlases=list(search.atlases),
            sources_root=str(sources_root or ""),
            sources_name=sources_name,
        ),
        iterfield=["sessions"],
        name="regularize",
        mem_gb=REGULARIZE_GB,
    )
    regularize.inputs.sessions = [
        rows[start : start + batch_size] for start in range(0, len(rows), batch_size)
    ]
    trees = pe.Node(niu.Merge(2), name="trees", run_without_submitting=True)
    workflow.connect([
        (regularize, trees, [("out_dir", "in2")]),
        (trees, outputnode, [("out", "out_dirs")]),
        (regularize, outputnode, [("sessions", "sessions")]),
    ])
    if search.fitted:
        regularize.inputs.lambdas = [value for _, value in search.fitted]
        regularize.inputs.lambda_sources = [f"adaptation {search.fitted_by}"] * len(search.fitted)
        return workflow

    find = pe.MapNode(SearchLambda(), iterfield=["search"], name="find", mem_gb=SEARCH_GB)
    find.inputs.search = plain_search(search, rows)
    workflow.connect([
        (find, regularize, [("regularization", "lambdas"), ("source", "lambda_sources")]),
        (find, trees, [("out_dir", "in1")]),
    ])
    return workflow
