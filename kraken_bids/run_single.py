# SPDX-License-Identifier: MIT
"""The Krakencoder at the participant level: predictions for single participants.

What can be wrong whoever is measured is refused before anything is (`check_options`,
`check_device`); what is wrong with one participant's connectomes costs that participant only.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .claims import claimed
from .completion import is_finished, marked_problems, remove_tree
from .errors import KrakenBIDSError
from .lambda_search import plan_fitted_lambdas, tell_search, tell_unchosen
from .plan import CohortSession, LambdaSearchPlan, SessionPlan
from .run import Fail, new_run_id
from .run_group import (
    GROUP,
    check_model,
    find_measured,
    model_targets,
    of_flavors,
    prediction_dir,
    raise_together,
    several,
    translation_key,
)
from .settings import Settings, TranslationOptions

if TYPE_CHECKING:
    from .connectome.adaptation import Adaptation


def check_options(
    options: TranslationOptions, *, flavors: Collection[str] = (), participants_file: Path
) -> None:
    """Refuse what nobody could be translated with, before anybody is measured.

    Parameters
    ----------
    options
        Model, adaptation (``none`` or a file), fusions, sources and targets.
    flavors
        Those asked for; empty: all.
    participants_file
        ``participants.tsv``, read where it tells sites apart.

    Raises
    ------
    KrakenBIDSError
        The one problem met, or `Problems` with all of them.
    """
    from .bids.cohort import read_sites

    problems: list[KrakenBIDSError] = []
    sites: Collection[str] = {""}
    try:
        if options.adapt_by:
            sites = {*read_sites(options.adapt_by, participants_file).values()}
    except KrakenBIDSError as problem:
        problems += several(problem)
    try:
        check_model(options, flavors or None)
        names = [name for name in model_targets(options) if not flavors or name in flavors]
        if sites and not problems:
            _require_adaptations(
                options, _fitted(options), [(name, site) for name in names for site in sites]
            )
    except KrakenBIDSError as problem:
        problems += several(problem)
    raise_together(problems)


def _fitted(options: TranslationOptions) -> Mapping[str, Adaptation] | None:
    """Adaptations of the file, or None if nothing is to be adapted."""
    from .model.adaptation_file import load_adaptations

    file = Path(options.adaptation)
    return load_adaptations(file) if file.is_file() else None


def _require_adaptations(
    options: TranslationOptions,
    fitted: Mapping[str, Adaptation] | None,
    wanted: Sequence[tuple[str, str]],
) -> None:
    """Refuse a file without the adaptation of any of some flavors and sites."""
    from .model.adaptation_file import missing_adaptations
    from .model.translation import adaptation_key

    if fitted is not None:
        keys = sorted(adaptation_key(flavor, site) for flavor, site in wanted)
        missing_adaptations(fitted, keys, where=Path(options.adaptation))


def check_device(options: TranslationOptions) -> str:
    """Find the device to compute on; torch is imported only where there may be a GPU.

    Raises
    ------
    ResourceError
        If a GPU is asked for that is not there.
    """
    from .model.krakencoder import resolve_device

    # As at the group level: CUDA must not be started in this process.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    return resolve_device(options.device)


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


def _find_sessions(
    plans: Sequence[SessionPlan],
    settings: Settings,
    *,
    notes: Mapping[str, Sequence[str]],
    fail: Fail,
) -> list[CohortSession]:
    """Measured connectomes of the sessions of this run; what is ambiguous in one costs that one.

    They are looked for together and, if that is refused, one by one.
    """

    def found(chosen: Sequence[SessionPlan]) -> list[CohortSession]:
        labels = {plan.label for plan in chosen}
        selection = dataclasses.replace(
            settings.selection,
            participants=tuple(sorted({plan.participant for plan in chosen})),
        )
        measured = find_measured(dataclasses.replace(settings, selection=selection))
        return [session for session in measured if session.label in labels]

    try:
        sessions = found(plans)
    except KrakenBIDSError:
        sessions = []
        for plan in plans:
            try:
                sessions += found([plan])
            except KrakenBIDSError as problem:
                fail(plan.label, f"no predictions: {problem}")
    there = {session.label for session in sessions}
    for plan in plans:  # why others are not there was told when they were measured
        if plan.has_inputs and plan.label not in {*there, *notes}:
            fail(plan.label, "no predictions: it has no measured connectomes")
    return sessions


def _translatable(
    sessions: Sequence[CohortSession],
    options: TranslationOptions,
    searches: Mapping[CohortSession, LambdaSearchPlan],
    *,
    fail: Fail,
) -> list[CohortSession]:
    """Sessions that model and adaptation have something for; of the others it is told why not."""
    from .model.bundle import open_bundle
    from .model.translation import plan_translation

    bundle, fitted = open_bundle(options.model_dir or ""), _fitted(options)
    kept = []
    for session in sessions:
        flavors = {name for name, _ in session.connectomes}
        flavors |= {*searches[session].flavors} if session in searches else set()
        if not flavors:
            fail(session.label, "no predictions: nothing is measured of what --flavors names")
            continue
        try:
            plan = plan_translation(
                bundle,
                flavors,
                fusions=options.fusions,
                predict_from=options.predict_from,
                predict_to=options.predict_to,
            )
            wanted = [(flavor, session.site) for flavor in plan.flavors]
            _require_adaptations(options, fitted, wanted)
        except KrakenBIDSError as problem:
            fail(session.label, f"no predictions: {problem}")
            continue
        if not plan.sources:
            asked = ", ".join(options.predict_from or dict(options.fusions))
            fail(session.label, f"no predicted connectomes: nothing is measured of {asked}")
        kept.append(session)
    return kept


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

    dataset_dir = prediction_dir(settings)
    everything = _find_sessions(plans, settings, notes=notes, fail=fail)
    if not everything:
        return
    options = check_model(settings.translation)  # hours later: it may be another
    sessions = of_flavors(everything, settings.flavors)
    search = plan_fitted_lambdas(settings, everything)
    tell_unchosen(sessions, settings, searched=search.atlases if search else ())
    if search:
        tell_search(search, sessions)
    options = dataclasses.replace(options, device=check_device(options))
    searches = _by_session(search, sessions)
    keys = {}
    for session in _translatable(sessions, options, searches, fail=fail):
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
