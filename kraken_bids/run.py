# SPDX-License-Identifier: MIT
"""The two levels, from settings to exit code: plan, skip what is done, run, tell."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .bids.writers import write_text
from .citation import gather_methods, write_citation
from .claims import claimed, is_abandoned, remove_leftovers
from .completion import fingerprint, finished_outputs, is_finished, remove_tree
from .errors import KrakenBIDSError, ResourceError
from .machine import beyond_limits
from .plan import SessionPlan
from .plugin_file import read_plugin
from .progress import Progress, steps_by_session
from .settings import Settings

if TYPE_CHECKING:
    from .atlases import Atlas
    from .ready_connectomes import ReadyCohort

_log = logging.getLogger(__name__)

EXIT_DONE = 0
EXIT_SOME_FAILED = 1


@dataclass
class Outcome:
    """What became of the sessions: those done, and what went wrong for the others."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failures: dict[str, list[str]] = field(default_factory=dict)

    def fail(self, label: str, message: str) -> None:
        """Note one thing that went wrong for a session."""
        self.failures.setdefault(label, []).append(message)

    def tell(self) -> int:
        """Say it, the worst last; give the exit code."""
        for label, messages in self.failures.items():
            for message in messages:
                _log.error("%s: %s", label, message)
        n_failed = len(self.failures)
        _log.info(
            "%d done, %d done before, %d with problems",
            len(self.done),
            len(self.skipped),
            n_failed,
        )
        return EXIT_SOME_FAILED if n_failed else EXIT_DONE


def run(settings: Settings, *, action: str = "run", config: str = "") -> int:
    """Carry out an invocation.

    Parameters
    ----------
    settings
        What was asked for.
    action
        ``run``, ``dry_run``, ``status``, ``reports_only`` or ``boilerplate_only``.
    config
        The options as TOML, kept with the logs.

    Returns
    -------
    int
        0 if all was done, 1 if something failed for some participants.
    """
    if action == "boilerplate_only":
        _log.info("%s", gather_methods(settings, settings.output_dir).markdown)
        return EXIT_DONE
    # Matplotlib's list of fonts would lie in the user's home, whose matplotlibrc would apply, too.
    os.environ.setdefault("MPLCONFIGDIR", str(settings.work_dir / "matplotlib"))
    if settings.level == "group":
        from .run_group import run_group

        return run_group(settings, action=action, config=config)
    return run_participants(settings, action=action, config=config)


def new_run_id() -> str:
    """Name of a run: time and a random part."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}_{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True)
class Work:
    """What an invocation of the participant level is to do.

    Parameters
    ----------
    plans
        Sessions.
    keys
        Fingerprint of each session by label.
    done
        Labels of the sessions that are finished.
    cohort
        Ready-made connectomes.
    absent_atlases
        Atlases whose images are not on this machine and were not fetched. Fingerprints are then
        not those of a run, and sessions count as done whatever inputs their outputs are of.
    """

    plans: tuple[SessionPlan, ...]
    keys: dict[str, str]
    done: frozenset[str]
    cohort: ReadyCohort
    absent_atlases: tuple[str, ...] = ()

    @property
    def todo(self) -> list[SessionPlan]:
        """Sessions that are not finished and have inputs."""
        return [plan for plan in self.plans if plan.label not in self.done and plan.has_inputs]


def plan_work(settings: Settings, *, fetch: bool = True) -> Work:
    """Find all inputs, and what of it is done already.

    Parameters
    ----------
    settings
        Those of the run.
    fetch
        Whether images of atlases are fetched if need be.
    """
    from .bids.inputs import plan_sessions
    from .fetch import find_atlas_file, held_atlas_file
    from .ready_connectomes import open_ready_cohort

    absent: dict[str, None] = {}

    def named_atlas_file(atlas: Atlas, role: str) -> Path:
        """Where an image is, or else its name: the same is found for everybody."""
        held = held_atlas_file(atlas, role)
        if held is None:
            absent[atlas.name] = None
        return held or Path(dict(atlas.files)[role].name)

    cohort = open_ready_cohort(settings)
    plans = plan_sessions(
        settings,
        atlas_file=find_atlas_file if fetch else named_atlas_file,
        connectomes=cohort.found,
    )
    keys = {plan.label: session_key(plan, settings) for plan in plans}
    # Without all images keys are not those of a run: whatever a session was finished with counts.
    marked = {label: finished_outputs(settings.output_dir, label)[0] for label in keys if absent}
    done = frozenset(
        label
        for label, key in keys.items()
        if is_finished(settings.output_dir, label, marked.get(label) or key)
    )
    return Work(plans, keys, done, cohort, (*absent,))


def run_participants(settings: Settings, *, action: str = "run", config: str = "") -> int:
    """Measure the connectomes of all participants asked for."""
    from .bids.inputs import pairing_table
    from .lambda_search import tell_later_search
    from .programs import check_programs, tell_programs
    from .scratch import tell_scratch
    from .status import status_report

    work = plan_work(settings, fetch=action != "status")
    plans, keys, done = work.plans, work.keys, work.done
    if action == "status":
        compared = {} if work.absent_atlases else keys
        _log.info("%s", status_report(plans, compared, done, output_dir=settings.output_dir))
        _tell_absent(work.absent_atlases)
        return EXIT_DONE
    _log.info("%s", pairing_table(plans))
    tell_later_search(settings)
    outcome = Outcome()
    for plan in plans:
        for problem in plan.problems:
            outcome.fail(plan.label, str(problem))
    if action == "dry_run":
        tell_programs(work.todo, settings)
        tell_scratch([plan for plan in plans if plan.label not in done], settings)
        _log.info("dry run: %d of %d sessions are to be done", len(plans) - len(done), len(plans))
        return outcome.tell()
    if action == "reports_only":
        return _write_pages(plans, settings, outcome)
    todo = work.todo
    check_programs(todo, settings)
    if settings.translation.model_dir and settings.translation.device.startswith("cuda"):
        from .run_single import check_device

        check_device(settings.translation)
    _write_dataset(settings)
    finished = [plan for plan in plans if plan.label in done]
    outcome.skipped += [plan.label for plan in finished]
    _clear_finished(finished, settings)
    _tell_changed(todo, keys, settings)
    if todo:
        _log.info(
            "%d of %d session(s) to do, with %d thread(s) and %.3g GB of memory",
            len(todo),
            len(plans),
            settings.resources.n_procs,
            settings.resources.mem_gb,
        )
        for warning in beyond_limits(settings.resources.n_procs, settings.resources.mem_gb):
            _log.warning("%s", warning)
        with claimed(_work_dirs(todo, settings).values()):
            _measure(
                todo, keys, settings=settings, config=config, outcome=outcome, cohort=work.cohort
            )
    _translate_finished(plans, settings=settings, outcome=outcome)
    code = outcome.tell()
    _tell_withheld(plans, settings)
    _tell_pages(plans, settings)
    return code


def session_key(plan: SessionPlan, settings: Settings) -> str:
    """Fingerprint of all that a session's measured connectomes depend on."""
    return fingerprint(
        plan.functional,
        plan.diffusion,
        settings.functional,
        settings.structural,
        settings.atlases,
        settings.flavors,
        *((plan.series, plan.connectomes) if plan.series or plan.connectomes else ()),
    )


def _write_dataset(settings: Settings) -> None:
    from .bids.dataset import write_measured_dataset

    write_measured_dataset(settings)


def _write_pages(plans: Sequence[SessionPlan], settings: Settings, outcome: Outcome) -> int:
    from .report.pages import write_participant_page

    for plan in plans:
        notes = tuple(str(problem) for problem in plan.problems)
        write_participant_page(settings.output_dir, plan.participant, plan.session, notes=notes)
        outcome.done.append(plan.label)
    return outcome.tell()


def _measure(
    plans: Sequence[SessionPlan],
    keys: dict[str, str],
    *,
    settings: Settings,
    config: str,
    outcome: Outcome,
    cohort: ReadyCohort,
) -> None:
    """Run the participants' graph and sort out what became of whom."""
    from kraken_bids.workflows.base import init_participants_wf, session_wf_name

    from .bids.inputs import input_uris
    from .execution import claim_folder, run_workflow
    from .failures import keep_details
    from .scratch import check_scratch, forget_released
    from .session_facts import session_facts

    _tell_compared(settings)
    run_id = new_run_id()
    work_dirs = _work_dirs(plans, settings)
    check_scratch(plans, settings, work_dirs=list(work_dirs.values()))
    for plan in plans:
        claim_folder(work_dirs[plan.label])
        remove_leftovers([session_dir(settings.output_dir, plan)])
    plans = _with_values(plans, cohort, work_dirs, outcome)
    if not plans:
        return
    forget_released({work_dirs[plan.label]: keys[plan.label] for plan in plans})
    workflow = init_participants_wf(
        plans, settings=settings, keys=keys, sources=input_uris(plans, settings)
    )
    log_dirs = {plan.label: settings.output_dir / "logs" / plan.label / run_id for plan in plans}
    for log_dir in log_dirs.values():
        write_text(log_dir / "config.toml", config)
    for plan in plans:
        write_citation(
            [log_dirs[plan.label]],
            settings,
            dataset_dir=settings.output_dir,
            facts=session_facts(plan, sift2=settings.structural.sift2),
        )
    write_citation(
        [settings.output_dir / "logs"],
        _as_measured(settings, plans),
        dataset_dir=settings.output_dir,
    )
    if settings.write_graph:
        for plan, log_dir in ((plan, log_dirs[plan.label]) for plan in plans):
            workflow.get_node(session_wf_name(plan)).write_graph(
                str(log_dir / "graph.dot"), graph2use="colored", format="svg"
            )
    labels = {session_wf_name(plan): plan.label for plan in plans}
    progress = Progress(
        labels,
        steps=steps_by_session(workflow, labels),
        log_dirs=log_dirs,
        lacks=lambda label: [(label, message) for message in outcome.failures.get(label, ())],
    )
    with progress:
        failures = run_workflow(
            workflow,
            resources=settings.resources,
            crash_dir=settings.work_dir / "crashes" / run_id,
            log_file=settings.output_dir / "logs" / f"{run_id}.log",
            plugin=read_plugin(settings.plugin_file),
            stop_on_first_crash=settings.stop_on_first_crash,
            resource_monitor=settings.resource_monitor,
            on_status=progress,
        )
    for failure in failures:
        label = next(labels[part] for part in failure.node.split(".") if part in labels)
        kept = keep_details(failure, log_dirs[label])
        step = failure.node.partition(session_wf_name_of(label, labels))[2].strip(".")
        outcome.fail(label, f"{failure.message} [{step}; details: {kept}]")
    failed = {label for label in outcome.failures if label in log_dirs}
    for label in {labels[part] for f in failures for part in f.node.split(".") if part in labels}:
        progress.explain(label, outcome.failures[label])
    _write_failed_pages(plans, settings, outcome)
    for plan in plans:
        if is_finished(settings.output_dir, plan.label, keys[plan.label]):
            if plan.label not in failed:
                outcome.done.append(plan.label)
            if not settings.keep_work:
                remove_tree(work_dirs[plan.label])
        elif plan.label not in failed:
            outcome.fail(
                plan.label,
                "not finished: the run stopped at the first failure (--stop-on-first-crash)"
                if settings.stop_on_first_crash and failures
                else "its steps ended without an error, but also without all outputs",
            )


def _tell_changed(plans: Sequence[SessionPlan], keys: dict[str, str], settings: Settings) -> None:
    """Say of which sessions there are outputs, but of other inputs or settings."""
    for plan in plans:
        key, _ = finished_outputs(settings.output_dir, plan.label)
        if key and key != keys[plan.label]:
            _log.info(
                "%s: inputs or settings have changed since its outputs were made (or the program "
                "has); they are made again",
                plan.label,
            )


def _tell_absent(atlases: Sequence[str]) -> None:
    """Say what ``--status`` cannot know without the images of some atlases."""
    if atlases:
        names = ", ".join(atlases)
        _log.warning(
            "not known without the images of %s: whether inputs or settings have changed since "
            "outputs were made. They are not on this machine; to have them: kraken-model fetch %s",
            names,
            " ".join(atlases),
        )


def _clear_finished(plans: Sequence[SessionPlan], settings: Settings) -> None:
    """Remove what runs left that were killed between their last output and their end."""
    for folder in _work_dirs(plans, settings).values():
        if is_abandoned(folder):
            with contextlib.suppress(ResourceError), claimed([folder]):  # taken by another run
                if not settings.keep_work:
                    remove_tree(folder)


def _work_dirs(plans: Sequence[SessionPlan], settings: Settings) -> dict[str, Path]:
    """Working folder of each session, by its label."""
    from kraken_bids.workflows.base import session_wf_name

    folder = settings.work_dir / "participants_wf"
    return {plan.label: folder / session_wf_name(plan) for plan in plans}


def _tell_withheld(plans: Sequence[SessionPlan], settings: Settings) -> None:
    """Say once a session of which atlases it has no partial correlation: no failure, no secret."""
    from .bids.regularization import withheld_atlases

    for plan in plans:
        atlases = [
            atlas
            for atlas in withheld_atlases(session_dir(settings.output_dir, plan))
            if not settings.flavors or f"FCpcorr_{atlas}_hpf" in settings.flavors
        ]
        if atlases:
            names = ", ".join(f"FCpcorr_{atlas}_hpf" for atlas in atlases)
            _log.warning(
                "%s: without %s, for there are fewer degrees of freedom than regions; see its "
                "page. Longer or more runs, or a fixed lambda (--pcorr-lambda %s=0.06)",
                plan.label,
                names,
                atlases[0],
            )


def _tell_pages(plans: Sequence[SessionPlan], settings: Settings) -> None:
    """Say at the end where to look."""
    pages = [settings.output_dir / f"{plan.label}.html" for plan in plans]
    drawn = [page for page in pages if page.is_file()]
    if len(drawn) == 1:
        _log.info("page: %s", drawn[0])
    elif drawn:
        _log.info("pages: %s", settings.output_dir / "sub-*.html")


def _as_measured(settings: Settings, plans: Sequence[SessionPlan]) -> Settings:
    """Settings with the modalities that are measured: with ready-made inputs, maybe none."""
    if not (settings.connectomes or "timeseries" in dict(settings.derivatives)):
        return settings
    there = {"func": any(p.functional for p in plans), "dwi": any(p.diffusion for p in plans)}
    return replace(settings, modalities=tuple(m for m in settings.modalities if there[m]))


def _with_values(
    plans: Sequence[SessionPlan],
    cohort: ReadyCohort,
    work_dirs: dict[str, Path],
    outcome: Outcome,
) -> list[SessionPlan]:
    """Lay down the values of ready-made connectomes; sessions where that fails are left out."""
    laid = []
    for plan in plans:
        try:
            laid.append(cohort.lay_down(plan, work_dirs[plan.label] / "ready_connectomes"))
        except KrakenBIDSError as error:
            outcome.fail(plan.label, str(error))
    return laid


def _tell_compared(settings: Settings) -> None:
    """Say why connectomes are not compared with a model's training data, if they are not."""
    if settings.compared_model_dir is None:
        _log.info(
            "training_mean_r in the tables of quality is n/a: no model is on this machine yet "
            "(--model, or kraken-model fetch krakencoder-2024). The group level tells it for all"
        )


def session_wf_name_of(label: str, labels: dict[str, str]) -> str:
    """Name of the workflow of a session."""
    return next(name for name, other in labels.items() if other == label)


def session_dir(root: Path, plan: SessionPlan) -> Path:
    """Folder of a session's outputs."""
    folder = root / f"sub-{plan.participant}"
    return folder / f"ses-{plan.session}" if plan.session else folder


def _write_failed_pages(
    plans: Sequence[SessionPlan], settings: Settings, outcome: Outcome
) -> None:
    """Write the page of a session of which a part failed, with what went wrong on top."""
    from .report.pages import write_participant_page

    for plan in plans:
        if plan.label in outcome.failures:
            try:
                write_participant_page(
                    settings.output_dir,
                    plan.participant,
                    plan.session,
                    notes=tuple(outcome.failures[plan.label]),
                )
            except KrakenBIDSError as error:
                outcome.fail(plan.label, f"the page could not be written: {error}")


def _translate_finished(
    plans: Sequence[SessionPlan], *, settings: Settings, outcome: Outcome
) -> None:
    """Run the Krakencoder for single participants, where no cohort is needed for it."""
    if settings.translation.model_dir is None:
        return
    from .run_single import translate_participants

    try:
        translate_participants(plans, settings=settings, notes=outcome.failures, fail=outcome.fail)
    except KrakenBIDSError as error:  # what was measured stands, and is told
        for plan in plans:
            outcome.fail(plan.label, f"no predictions: {error}")


#: Called with a session's label and what went wrong.
Fail = Callable[[str, str], None]
