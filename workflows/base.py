# SPDX-License-Identifier: MIT
"""The participant level: which factories, for whom, from the plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from kraken_bids.bids.names import can_average, combined_entities, format_entities
from kraken_bids.plan import DiffusionRun, FunctionalRun, SeriesRun, SessionPlan, session_label
from kraken_bids.settings import Settings

from .denoised import init_denoised_wf
from .derivatives import (
    add_comparison,
    add_coverage_figure,
    add_figure,
    make_finish,
    make_series_sink,
)
from .functional import init_combine_runs_wf, init_functional_wf
from .own_labels import connect_own_labels
from .ready import add_ready_connectomes, add_ready_series
from .report import init_participant_report_wf
from .structural import find_algorithms, init_structural_wf


def init_participants_wf(
    plans: Sequence[SessionPlan],
    *,
    settings: Settings,
    keys: Mapping[str, str],
    sources: Mapping[Path, str],
    name: str = "participants_wf",
) -> pe.Workflow:
    """Measure the connectomes of all sessions planned.

    Parameters
    ----------
    plans
        Sessions; they share nothing, so that one failing leaves the others alone.
    settings
        Those of the run.
    keys
        Fingerprint of each session, by its label.
    sources
        BIDS URI of each input file.
    name
        Of the workflow.
    """
    workflow = pe.Workflow(name=name, base_dir=str(settings.work_dir))
    workflow.add_nodes([
        init_session_wf(plan, settings=settings, key=keys[plan.label], sources=sources)
        for plan in plans
    ])
    return workflow


def session_wf_name(plan: SessionPlan) -> str:
    """Name of a session's workflow: its label in characters that Nipype allows."""
    return plan.label.replace("-", "_").replace("+", "_") + "_wf"


def init_session_wf(
    plan: SessionPlan, *, settings: Settings, key: str, sources: Mapping[Path, str]
) -> pe.Workflow:
    """Measure the connectomes of one participant in one session.

    Parameters
    ----------
    plan
        What there is to do.
    settings
        Those of the run.
    key
        Fingerprint of inputs and settings.
    sources
        BIDS URI of each input file.
    """
    workflow = pe.Workflow(name=session_wf_name(plan))
    sinks = _add_functional(workflow, plan, settings=settings, sources=sources)
    sinks += _add_structural(workflow, plan, settings=settings, key=key, sources=sources)
    sinks += add_ready_connectomes(workflow, plan.connectomes, settings=settings, sources=sources)

    outputs = pe.Node(niu.Merge(len(sinks)), name="outputs", run_without_submitting=True)
    workflow.connect([
        (sink, outputs, [("out_files", f"in{number}")]) for number, sink in enumerate(sinks, 1)
    ])

    report_wf = init_participant_report_wf(
        output_dir=settings.output_dir,
        participant=plan.participant,
        session=plan.session,
        notes=[str(problem) for problem in plan.problems],
    )
    workflow.connect([(outputs, report_wf, [("out", "inputnode.wait_for")])])

    everything = pe.Node(niu.Merge(2), name="everything", run_without_submitting=True)
    workflow.connect([
        (outputs, everything, [("out", "in1")]),
        (report_wf, everything, [("outputnode.out_file", "in2")]),
    ])

    finish = make_finish(dataset_dir=settings.output_dir, label=plan.label, key=key)
    workflow.connect([(everything, finish, [("out", "out_files")])])
    return workflow


def _add_functional(
    workflow: pe.Workflow,
    plan: SessionPlan,
    *,
    settings: Settings,
    sources: Mapping[Path, str],
) -> list[pe.Node]:
    """Add the functional runs with their sinks, and the averages over runs."""
    sinks: list[pe.Node] = []
    groups: dict[str, list[tuple[FunctionalRun | SeriesRun, pe.Workflow]]] = {}
    for number, run in enumerate(plan.functional, 1):
        init_wf = init_denoised_wf if run.denoised_by else init_functional_wf
        functional_wf = init_wf(run, options=settings.functional, name=f"functional_{number}_wf")
        sinks += _add_sinks(
            workflow,
            functional_wf,
            run,
            datatype="func",
            fields=("connectomes_file", "timeseries_file", "labels_files", "qc_file"),
            arrays="traces_file",
            settings=settings,
            sources=_uris(_functional_inputs(run), sources),
        )
        groups.setdefault(_group(run), []).append((run, functional_wf))
    for number, ready in enumerate(plan.series, 1):
        uris = _uris(_functional_inputs(ready), sources)
        series_wf, added = add_ready_series(
            workflow, ready, number, settings=settings, sources=uris
        )
        sinks += added
        groups.setdefault(_group(ready), []).append((ready, series_wf))

    several = [
        members for members in groups.values() if can_average([run.entities for run, _ in members])
    ]
    for number, members in enumerate(several, 1):
        sinks.append(
            _add_combination(workflow, members, number, settings=settings, sources=sources)
        )
    return sinks


def _group(run: FunctionalRun | SeriesRun) -> str:
    """What the runs that are averaged together have in common."""
    name = format_entities(combined_entities(run.entities))
    return f"{name} {run.space} {run.variant} {run.mark}"


def _add_combination(
    workflow: pe.Workflow,
    members: Sequence[tuple[FunctionalRun | SeriesRun, pe.Workflow]],
    number: int,
    *,
    settings: Settings,
    sources: Mapping[Path, str],
) -> pe.Node:
    """Add the average of several runs and its sink."""
    first = members[0][0]
    combine_runs_wf = init_combine_runs_wf(
        first.atlases,
        options=settings.functional,
        name=f"combine_runs_{number}_wf",
    )
    for field in ("connectomes_file", "qc_file"):
        merge = pe.Node(
            niu.Merge(len(members)),
            name=f"merge_{field}_{number}",
            run_without_submitting=True,
        )
        workflow.connect([
            (functional_wf, merge, [(f"outputnode.{field}", f"in{position}")])
            for position, (_, functional_wf) in enumerate(members, 1)
        ])
        workflow.connect([(merge, combine_runs_wf, [("out", f"inputnode.{field}s")])])
    sink = make_series_sink(
        f"ds_combined_{number}",
        dataset_dir=settings.output_dir,
        entities=combined_entities(first.entities),
        datatype="func",
        space=first.space,
        flavors=settings.flavors,
        mark=_mark(first, settings),
        labels=() if isinstance(first, SeriesRun) else first.labels,
        sources=_uris([path for run, _ in members for path in _functional_inputs(run)], sources),
    )
    compare = add_comparison(workflow, combine_runs_wf, model_dir=settings.compared_model_dir)
    workflow.connect([
        (combine_runs_wf, sink, [("outputnode.connectomes_file", "connectomes_file")]),
        (compare, sink, [("qc_file", "qc_file")]),
    ])
    return sink


def _add_structural(
    workflow: pe.Workflow,
    plan: SessionPlan,
    *,
    settings: Settings,
    key: str,
    sources: Mapping[Path, str],
) -> list[pe.Node]:
    """Add the diffusion series with their sinks."""
    sinks: list[pe.Node] = []
    for number, run in enumerate(plan.diffusion, 1):
        structural_wf = init_structural_wf(
            run,
            options=settings.structural,
            key="" if settings.keep_work else key,
            name=f"structural_{number}_wf",
        )
        keep = settings.structural
        kept = (
            *(["tractogram_files"] if keep.keep_tractograms else []),
            *(["assignments_files"] if keep.keep_assignments else []),
        )
        added = _add_sinks(
            workflow,
            structural_wf,
            run,
            datatype="dwi",
            fields=("connectomes_file", "labels_files", "qc_file", *kept),
            arrays="overview_file",
            settings=settings,
            sources=_uris(_diffusion_inputs(run), sources),
        )
        if kept:
            added[0].inputs.algorithms = find_algorithms(run)
        sinks += added
    return sinks


#: Kind of the figure of a series, by datatype.
FIGURE_KINDS = {"func": "functional_qc", "dwi": "structural_qc"}


def _add_sinks(
    workflow: pe.Workflow,
    series_wf: pe.Workflow,
    run: FunctionalRun | DiffusionRun,
    *,
    datatype: str,
    fields: Sequence[str],
    arrays: str,
    settings: Settings,
    sources: Sequence[str],
) -> list[pe.Node]:
    """Add the sink of a series, fed by these outputs of its workflow, and that of its figure."""
    mark = _mark(run, settings) if isinstance(run, FunctionalRun) else ""
    sink = make_series_sink(
        f"ds_{series_wf.name}",
        dataset_dir=settings.output_dir,
        entities=run.entities,
        datatype=datatype,
        space=run.space,
        atlases=[source.atlas for source in run.labels],
        flavors=settings.flavors,
        sources=sources,
        mark=mark,
        labels=run.labels,
    )
    entities = dict(run.entities)
    connect_own_labels(
        workflow,
        series_wf,
        sink=sink,
        labels=run.labels,
        session=session_label(entities["sub"], entities.get("ses")),
    )
    compare = add_comparison(workflow, series_wf, model_dir=settings.compared_model_dir)
    direct = [(f"outputnode.{field}", field) for field in fields if field != "qc_file"]
    workflow.connect([(series_wf, sink, direct), (compare, sink, [("qc_file", "qc_file")])])
    figure_sink = add_figure(
        workflow,
        series_wf,
        arrays,
        kind=FIGURE_KINDS[datatype],
        dataset_dir=settings.output_dir,
        entities=run.entities,
        datatype=datatype,
        mark=mark,
    )
    if datatype != "func":
        return [sink, figure_sink]
    coverage_sink = add_coverage_figure(
        workflow,
        series_wf,
        atlases=[source.atlas for source in run.labels],
        dataset_dir=settings.output_dir,
        entities=run.entities,
        datatype=datatype,
        mark=mark,
    )
    return [sink, figure_sink, coverage_sink]


def _mark(run: FunctionalRun | SeriesRun, settings: Settings) -> str:
    """What marks the outputs of a run; ready-made series know nothing of ``--denoising``."""
    return run.mark if isinstance(run, SeriesRun) else run.mark or settings.functional.mark


def _functional_inputs(run: FunctionalRun | SeriesRun) -> list[Path]:
    if isinstance(run, SeriesRun):
        return [table.file for table in run.tables]
    labels = [path for source in run.labels for path in source.paths]
    tables = [path for path in (run.confounds_file, run.outliers_file) if path]
    return [run.bold_file, run.mask_file, *tables, *labels]


def _diffusion_inputs(run: DiffusionRun) -> list[Path]:
    series = [run.dwi_file, run.bval_file, run.bvec_file, run.mask_file, run.five_tissue_file]
    labels = [path for source in run.labels for path in source.paths]
    ready = [run.fod_file, *(path for _, path in run.tractograms)]
    made = run.five_tissue_made.paths if run.five_tissue_made else ()
    return [path for path in (*series, *ready, *labels, *made) if path is not None]


def _uris(files: Iterable[Path], sources: Mapping[Path, str]) -> list[str]:
    """BIDS URIs of files, each once; files outside of any data set by their names."""
    return list(dict.fromkeys(sources.get(path, path.name) for path in files))
