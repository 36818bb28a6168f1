# SPDX-License-Identifier: MIT
"""The group level: the cohort's measured connectomes through the Krakencoder."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from .bids.own_atlas import tell_mixed_origins
from .bids.writers import write_text
from .citation import write_citation
from .claims import claimed, remove_leftovers
from .completion import (
    fingerprint,
    finished_outputs,
    is_finished,
    marked_problems,
    marker_path,
    remove_tree,
)
from .errors import InputError, KrakenBIDSError, Problems, suggest
from .group_pages import draw_group_pages, participants_file
from .lambda_search import (
    plan_fitted_lambdas,
    plan_lambda_search,
    published_targets,
    tell_found,
    tell_measured_lambdas,
    tell_search,
    tell_unchosen,
)
from .plan import CohortSession, LambdaSearchPlan
from .plugin_file import read_plugin
from .progress import Progress, steps_by_session
from .run import EXIT_DONE, Outcome, new_run_id
from .settings import Settings, TranslationOptions

_log = logging.getLogger(__name__)

#: Name of the group's marker, beside those of the sessions.
GROUP = "group"


def prediction_dir(settings: Settings) -> Path:
    """Folder of the prediction data set."""
    return settings.output_dir / "derivatives" / f"krakencoder-{settings.translation.label}"


def run_group(settings: Settings, *, action: str = "run", config: str = "") -> int:
    """Adapt, encode, fuse and decode the connectomes of all finished participants."""
    from .status import group_status

    dataset_dir = prediction_dir(settings)
    everything = find_all_connectomes(settings)
    sessions = of_flavors(everything, settings.flavors)
    if settings.translation.model_dir is None and action in {"status", "dry_run"}:
        _log.info("%s", cohort_table(sessions))
        _log.info("%s: to do; the model is not here yet, a run fetches it", dataset_dir)
        return EXIT_DONE
    options, search = check_cohort(settings, everything, fetch=action == "run")
    key = translation_key(sessions, options, search)
    done = is_finished(dataset_dir, GROUP, key)
    _log.info("%s", cohort_table(sessions))
    tell_absent_flavors(everything, settings.flavors)
    made_again = search.atlases if search else ()
    tell_measured_lambdas(sessions, settings, searched=made_again)
    tell_unchosen(sessions, settings, searched=made_again)
    tell_mixed_origins(sessions)
    settings = _as_searched(settings, search)
    if search:
        tell_search(search, sessions)
    if action == "status":
        _log.info("%s", group_status(dataset_dir, GROUP, is_done=done))
        return EXIT_DONE
    if action == "dry_run":
        _log.info("dry run: predictions would go to %s", dataset_dir)
        return EXIT_DONE
    outcome = Outcome()
    if action == "reports_only":
        return _write_pages(sessions, settings, outcome)
    if done:
        outcome.skipped.append(GROUP)
        _log.info("%s holds the predictions of this cohort and model already", dataset_dir)
        for label, message in marked_problems(dataset_dir, GROUP):
            outcome.fail(label, message)
        return outcome.tell()
    with claimed([_work_dir(settings)]):
        _translate(sessions, options, dataset_dir, search=search, settings=settings, key=key,
                   config=config, outcome=outcome)  # fmt: skip
    if search and GROUP in outcome.done:
        tell_found(search, dataset_dir)
    if not outcome.failures:
        _log.info("page: %s", dataset_dir / "group.html")
    return outcome.tell()


def is_group_done(settings: Settings) -> bool:
    """Whether the predictions of this cohort and model are there; raises as a run would."""
    everything = find_all_connectomes(settings)
    sessions = of_flavors(everything, settings.flavors)
    options, search = check_cohort(settings, everything, fetch=False)
    key = translation_key(sessions, options, search)
    return is_finished(prediction_dir(settings), GROUP, key)


def _work_dir(settings: Settings) -> Path:
    return settings.work_dir / f"group_{settings.translation.label}_wf"


def _as_searched(settings: Settings, search: LambdaSearchPlan | None) -> Settings:
    """Settings that name the atlases really searched for: the methods text speaks of them."""
    searched = tuple(target.atlas for target in search.targets) if search else ()
    regularization = dataclasses.replace(settings.regularization, searched=searched)
    return dataclasses.replace(settings, regularization=regularization)


def check_cohort(
    settings: Settings, everything: Sequence[CohortSession], *, fetch: bool
) -> tuple[TranslationOptions, LambdaSearchPlan | None]:
    """Check the model, and plan which partial correlations are made again.

    Parameters
    ----------
    settings
        Those of the run.
    everything
        The cohort with all its connectomes, whichever of them are asked for.
    fetch
        Whether targets of the search are fetched if need be.

    Raises
    ------
    KrakenBIDSError
        With all that is wrong with either.
    """
    problems: list[KrakenBIDSError] = []
    options, search = settings.translation, None
    sessions = of_flavors(everything, settings.flavors)
    flavors = {flavor for session in sessions for flavor, _ in session.connectomes}
    flavors |= {f"FCpcorr_{atlas}_hpf" for atlas in settings.regularization.searched}
    try:
        options = check_model(options, flavors)
    except KrakenBIDSError as problem:
        problems += several(problem)
    try:
        if Path(options.adaptation).is_file():
            search = plan_fitted_lambdas(settings, everything)
        else:
            search = plan_lambda_search(
                settings,
                everything,
                model_flavors=() if problems else model_targets(options),
                own_targets=() if problems else published_targets(options.model_dir),
                fetch=fetch,
            )
    except KrakenBIDSError as problem:
        problems += several(problem)
    raise_together(problems)
    return options, search


def several(problem: KrakenBIDSError) -> tuple[KrakenBIDSError, ...]:
    """The problems that an error stands for; mostly itself alone."""
    return problem.problems if isinstance(problem, Problems) else (problem,)


def raise_together(problems: Sequence[KrakenBIDSError]) -> None:
    """Raise the one problem, or `Problems` with all of them, each once; nothing if there is none.

    Raises
    ------
    KrakenBIDSError
        As said.
    """
    unique = list({str(problem): problem for problem in problems}.values())
    if unique:
        raise Problems(unique) if len(unique) > 1 else unique[0]


def check_model(
    options: TranslationOptions, flavors: Collection[str] | None = None
) -> TranslationOptions:
    """Refuse a model that is altered, or lacks what is asked for, before any work.

    So is an adaptation file that is damaged, or was fitted for another model.

    Parameters
    ----------
    options
        Model, adaptation, fusions, sources and targets.
    flavors
        Those that the cohort has, or is to get; None where it is not known yet: all of the model.

    Returns
    -------
    TranslationOptions
        With the weights' SHA-256: nodes depend on the weights and not on their path.

    Raises
    ------
    KrakenBIDSError
        If there is no model, or it is none for this cohort: `Problems` with all that is wrong.
    """
    from .model.adaptation_file import load_adaptations, load_adaptations_for
    from .model.bundle import open_bundle
    from .model.translation import plan_translation

    if options.model_dir is None:
        raise InputError("no model is given", where="--model", fix="Name a model or a bundle.")
    problems: list[KrakenBIDSError] = []
    sha256, load = "", load_adaptations
    try:
        bundle = open_bundle(options.model_dir)
        sha256, load = bundle.sha256, partial(load_adaptations_for, bundle=bundle)
        bundle.verify()
        plan_translation(
            bundle,
            bundle.flavors if flavors is None else flavors,
            fusions=options.fusions,
            predict_from=options.predict_from,
            predict_to=options.predict_to,
        )
    except KrakenBIDSError as problem:
        problems.append(problem)
    try:
        if Path(options.adaptation).is_file():
            load(Path(options.adaptation))
    except KrakenBIDSError as problem:
        problems.append(problem)
    raise_together(problems)
    return dataclasses.replace(options, model_sha256=sha256)


def model_targets(options: TranslationOptions) -> tuple[str, ...]:
    """All flavors of the model."""
    from .model.bundle import open_bundle

    return tuple(open_bundle(options.model_dir).flavors) if options.model_dir else ()


def of_flavors(
    sessions: Sequence[CohortSession], flavors: Sequence[str]
) -> tuple[CohortSession, ...]:
    """Sessions with their connectomes of some flavors only; all if empty."""
    return tuple(
        dataclasses.replace(
            session,
            connectomes=tuple(
                (flavor, path)
                for flavor, path in session.connectomes
                if not flavors or flavor in flavors
            ),
        )
        for session in sessions
    )


def tell_absent_flavors(sessions: Sequence[CohortSession], flavors: Sequence[str]) -> None:
    """Say which of the flavors asked for nobody has, and what may have been meant."""
    there = {name for session in sessions for name, _ in session.connectomes}
    for name in flavors:
        if name not in there:
            _log.warning("nobody has a measured %s (--flavors). %s", name, suggest(name, there))


def find_all_connectomes(settings: Settings) -> tuple[CohortSession, ...]:
    """Find the measured connectomes of the cohort, whichever flavors are asked for.

    Raises
    ------
    InputError
        If there are none.
    """
    sessions = find_measured(settings)
    if not sessions:
        raise InputError(
            "there are no measured connectomes",
            where=str(settings.output_dir),
            fix="Run the participant level first.",
        )
    return sessions


def find_measured(settings: Settings) -> tuple[CohortSession, ...]:
    """Find what is measured of those who are asked for; maybe nothing.

    Raises
    ------
    KrakenBIDSError
        With all that is ambiguous.
    """
    from .bids.cohort import find_cohort

    selection = settings.selection
    roots = [path for name, path in settings.derivatives if name == "connectomes"]
    sessions = tuple(
        session
        for root in (settings.output_dir, *roots)
        for session in find_cohort(
            root,
            participants=selection.participants,
            sessions=selection.sessions,
            tasks=selection.tasks,
            adapt_by=settings.translation.adapt_by,
            participants_file=settings.bids_dir / "participants.tsv",
            mark=settings.functional.mark,
            leave_out_uncombined=True,
        )
    )
    _refuse_duplicates(sessions)
    for session in sessions:
        marked, _ = finished_outputs(settings.output_dir, session.label)
        if not marked and not roots:
            _log.warning(
                "%s did not finish the participant level; the %d connectomes it has are used",
                session.label,
                len(session.connectomes),
            )
    return sessions


def _refuse_duplicates(sessions: Sequence[CohortSession]) -> None:
    labels = [session.label for session in sessions]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise InputError(
            f"{', '.join(twice)} are in more than one data set of connectomes",
            where="OUTPUT_DIR, --derivatives connectomes=PATH",
            fix="Leave them out of one with --participant-label, or rename them.",
        )


def cohort_table(sessions: Sequence[CohortSession]) -> str:
    """Say who is in the cohort with how many functional and structural connectomes."""
    rows = [f"{'session':24} {'FC':>3} {'SC':>3}"]
    for session in sessions:
        names = [name for name, _ in session.connectomes]
        n_fc = sum(name.startswith("FC") for name in names)
        rows.append(f"{session.label:24} {n_fc:3d} {len(names) - n_fc:3d}")
    if len(rows) > 41:
        rows = [*rows[:41], f"… {len(sessions)} sessions in all"]
    return "\n".join(rows)


def translation_key(
    sessions: Sequence[CohortSession],
    options: TranslationOptions,
    search: LambdaSearchPlan | None = None,
) -> str:
    """Fingerprint of all that the predictions depend on; the device is no part of it."""
    parts: list[object] = [
        tuple(sessions),
        dataclasses.replace(options, device="", model_dir=None),
    ]
    if search:  # a target counts by what it holds, wherever it lies
        targets = tuple(dataclasses.replace(target, file=None) for target in search.targets)
        parts.append(dataclasses.replace(search, targets=targets))
    return fingerprint(*parts)


def _translate(
    sessions: tuple[CohortSession, ...],
    options: TranslationOptions,
    dataset_dir: Path,
    *,
    search: LambdaSearchPlan | None,
    settings: Settings,
    key: str,
    config: str,
    outcome: Outcome,
) -> None:
    from kraken_bids.workflows.group import init_group_wf

    from .bids.dataset import write_prediction_dataset
    from .execution import claim_folder, run_workflow
    from .failures import keep_details
    from .model.krakencoder import resolve_device

    # Asking CUDA itself would leave it started, which worker processes do not survive.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    device = resolve_device(options.device)
    options = dataclasses.replace(options, device=device)
    run_id = new_run_id()
    work_dir = _work_dir(settings)
    claim_folder(work_dir)
    remove_leftovers([dataset_dir])
    write_prediction_dataset(
        settings,
        sessions,
        dataset_dir,
        targets=model_targets(options),
        searched=search.atlases if search else (),
    )
    log_dir = dataset_dir / "logs" / run_id
    write_text(log_dir / "config.toml", config)
    described = dataclasses.replace(settings, translation=options)
    write_citation([log_dir, dataset_dir / "logs"], described, dataset_dir=dataset_dir)
    workflow = init_group_wf(
        sessions=sessions,
        options=options,
        dataset_dir=dataset_dir,
        output_dir=settings.output_dir,
        key=key,
        label=GROUP,
        search=search,
        participants_file=participants_file(settings),
        omp_nthreads=settings.resources.omp_nthreads,
        name=work_dir.name,
    )
    workflow.base_dir = str(settings.work_dir)
    if settings.write_graph:
        workflow.write_graph(str(log_dir / "graph.dot"), graph2use="colored", format="svg")
    labels = {workflow.name: GROUP}
    steps = steps_by_session(workflow, labels)
    progress = Progress(
        labels,
        steps=steps,
        log_dirs={GROUP: log_dir},
        lacks=lambda label: marked_problems(dataset_dir, label),
    )
    with progress:
        failures = run_workflow(
            workflow,
            resources=settings.resources,
            crash_dir=settings.work_dir / "crashes" / run_id,
            log_file=settings.output_dir / "logs" / f"{run_id}.log",
            plugin=read_plugin(settings.plugin_file),
            n_gpus=int(device.startswith("cuda")),
            stop_on_first_crash=settings.stop_on_first_crash,
            resource_monitor=settings.resource_monitor,
            on_status=progress,
        )
    for failure in failures:
        kept = keep_details(failure, log_dir)
        step = failure.node.rpartition(".")[2]
        outcome.fail(GROUP, f"{failure.message} [{step}; details: {kept}]")
    if failures:
        progress.explain(GROUP, outcome.failures[GROUP])
        return
    for label, message in marked_problems(dataset_dir, GROUP):
        outcome.fail(label, message)
    outcome.done.append(GROUP)
    if not settings.keep_work:
        remove_tree(work_dir)


def _write_pages(sessions: Sequence[CohortSession], settings: Settings, outcome: Outcome) -> int:
    """Draw the pages of the cohort and of its participants again."""
    dataset_dir = prediction_dir(settings)
    if not marker_path(dataset_dir, GROUP).exists():
        raise InputError(
            "there are no finished predictions",
            where=str(dataset_dir),
            fix="Run the group level without --reports-only.",
        )
    for failure in draw_group_pages(sessions, settings, dataset_dir=dataset_dir):
        outcome.fail(GROUP, f"{failure.message} [pages; details: {failure.crash_file}]")
    if not outcome.failures:
        outcome.done.append(GROUP)
    return outcome.tell()
