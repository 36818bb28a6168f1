# SPDX-License-Identifier: MIT
"""The Krakencoder at the participant level: predictions for single participants."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

from .claims import claimed
from .completion import is_finished, marked_problems, remove_tree
from .lambda_search import plan_fitted_lambdas, tell_search, tell_unchosen
from .plan import CohortSession, LambdaSearchPlan, SessionPlan
from .run import Fail, new_run_id
from .run_group import (
    GROUP,
    check_model,
    find_all_connectomes,
    model_targets,
    of_flavors,
    prediction_dir,
    translation_key,
)
from .settings import Settings


def _by_session(
    search: LambdaSearchPlan | None, sessions: Sequence[CohortSession]
) -> dict[CohortSession, LambdaSearchPlan]:
    """Take a plan apart by session; those of which everything stays as measured have none."""
    if search is None:
        return {}
    rows = zip(sessions, search.correlations, search.withheld, search.unchanged, strict=True)
    return {
        session: dataclasses.replace(
            search, correlations=(files,), withheld=(withheld,), unchanged=(unchanged,)
        )
        for session, files, withheld, unchanged in rows
        if set(search.atlases) - {*unchanged}
    }


def translate_participants(
    plans: Sequence[SessionPlan],
    *,
    settings: Settings,
    notes: Mapping[str, Sequence[str]],
    fail: Fail,
) -> None:
    """Predict for single participants, with a fitted adaptation or none.

    Parameters
    ----------
    plans
        Sessions of this run.
    settings
        Those of the run; the adaptation is ``none`` or a file.
    notes
        What went wrong before, by session: their pages are drawn again and go on to name it.
    fail
        Called with what went wrong for whom.
    """
    from kraken_bids.workflows.group import init_single_translations_wf, session_node_name

    from .bids.dataset import write_prediction_dataset
    from .execution import run_workflow
    from .model.krakencoder import resolve_device

    # As at the group level: CUDA must not be started in this process.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    dataset_dir = prediction_dir(settings)
    wanted = {plan.label for plan in plans}
    everything = [one for one in find_all_connectomes(settings) if one.label in wanted]
    sessions = of_flavors(everything, settings.flavors)
    options = check_model(settings.translation, sessions)
    search = plan_fitted_lambdas(settings, everything)
    tell_unchosen(sessions, settings, searched=search.atlases if search else ())
    if search:
        tell_search(search, sessions)
    options = dataclasses.replace(options, device=resolve_device(options.device))
    searches = _by_session(search, sessions)
    keys = {}
    for session in sessions:
        key = translation_key([session], options, searches.get(session))
        if not is_finished(dataset_dir, session.label, key):
            keys[session] = key
    if not keys:
        return
    folders = [
        settings.work_dir / "single_translations_wf" / session_node_name(session)
        for session in keys
    ]
    with claimed(folders):
        write_prediction_dataset(
            settings,
            tuple(keys),
            dataset_dir,
            targets=model_targets(options),
            searched=search.atlases if search else (),
        )
        workflow = init_single_translations_wf(
            keys,
            options=options,
            dataset_dir=dataset_dir,
            output_dir=settings.output_dir,
            notes=notes,
            searches=searches,
            omp_nthreads=settings.resources.omp_nthreads,
        )
        workflow.base_dir = str(settings.work_dir)
        run_id = new_run_id()
        failures = run_workflow(
            workflow,
            resources=settings.resources,
            crash_dir=settings.work_dir / "crashes" / run_id,
            log_file=settings.output_dir / "logs" / f"{run_id}.log",
            n_gpus=int(options.device.startswith("cuda")),
        )
        names = {session_node_name(session): session.label for session in keys}
        for session in keys:
            for label, message in marked_problems(dataset_dir, session.label):
                fail(label, message)
        for failure in failures:
            label = next((names[part] for part in failure.node.split(".") if part in names), GROUP)
            fail(label, f"{failure.message} [prediction; details: {failure.crash_file}]")
        if not failures and not settings.keep_work:
            for folder in folders:  # the others may be of jobs that are at work
                remove_tree(folder)
