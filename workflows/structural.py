# SPDX-License-Identifier: MIT
"""Diffusion series or ready tractograms -> structural connectomes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from kraken_bids.errors import InputError
from kraken_bids.interfaces.atlases import ResampleLabels, plain_label_source
from kraken_bids.interfaces.mrtrix import (
    Convert,
    EstimateFODs,
    EstimateResponses,
    KeepPositive,
    MapDensity,
    Track,
)
from kraken_bids.interfaces.structural import (
    COLOUR_VOLUMES,
    CheckDiffusion,
    CollectOverview,
)
from kraken_bids.interfaces.tractography import ImportTractogram, NoteInputs, ReleaseFiles
from kraken_bids.plan import DiffusionRun
from kraken_bids.settings import StructuralOptions

from .counting import Tract, add_counting, is_weighed
from .tissues import (
    RESAMPLE_GB,
    add_five_tissue,
    first_item,
    needs_unpacking,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tracking:
    """How streamlines of one kind are made.

    The values are those that MRtrix3 derives from voxels of 1.25 mm, the size of the training
    data; given in mm, they hold for any voxel size.

    Parameters
    ----------
    algorithm
        Name for ``tckgen``.
    with_tissues
        Whether streamlines must begin and end in grey matter.
    step_mm
        Step. When only trying out, the program takes its own: 0.5 (iFOD2) or 0.1 voxel.
    min_length_mm
        Shorter streamlines are not selected.
    angle_degrees
        Largest turn between two steps (for iFOD2: along one arc).
    downsample
        One of how many points is kept; 0 for the program's own choice, which for iFOD2 is the
        step.
    """

    algorithm: str
    with_tissues: bool
    step_mm: float
    min_length_mm: float
    angle_degrees: float
    downsample: int

    @property
    def point_spacing_mm(self) -> float:
        """Distance between stored points."""
        return self.step_mm * max(self.downsample, 1)


#: Streamlines of the training connectomes, by the algorithm's name in flavors.
TRACKINGS: dict[str, Tracking] = {
    "ifod2act": Tracking("iFOD2", True, 0.625, 2.5, 45.0, 0),
    "sdstream": Tracking("SD_STREAM", False, 0.125, 6.25, 60.0, 3),
}

#: Least FOD amplitude, and longest streamline in mm, of both.
CUTOFF, MAX_LENGTH_MM = 0.06, 300.0

#: Voxels on which regions' volumes and streamlines' ends are looked up, in mm.
NODE_VOXEL_MM, SLOPPY_NODE_VOXEL_MM = 1.25, 2.0

#: Harmonic order of quick FODs; MRtrix3's default is 8.
SLOPPY_LMAX = 4

#: Iterations of a quick search for single fibres (tournier); MRtrix3's default is 10.
SLOPPY_ITERATIONS = 2

#: FODs of 1.25 mm (145 x 174 x 145 voxels, 45 coefficients) take 0.66 GB; dhollander and dynamic
#: seeding keep about twice that at a time.
FOD_GB = 1.5


def init_structural_wf(
    run: DiffusionRun,
    *,
    options: StructuralOptions,
    key: str = "",
    name: str = "structural_wf",
) -> pe.Workflow:
    """Turn one diffusion series, or tractograms made from one, into connectomes of all atlases.

    Algorithms with a ready tractogram are not tracked again; the others are tracked from the
    series, or from ready FODs where there is none. Without any source of tissues iFOD2 is left
    out, as its constraints cannot be had.

    Parameters
    ----------
    run
        The series, its tissues, tractograms and the sources of its labels.
    options
        The recipe.
    key
        Fingerprint of inputs and settings of the session. With it, tractograms are deleted once
        they are counted, unless they are to be kept.

    Outputs
    -------
    labels_files
        Label images on the grid on which streamlines' ends are looked up, ``.nii.gz``, in the
        order of ``run.labels``.
    connectomes_file
        Counts and volume-normalised counts by flavor, (n_regions, n_regions), ``.npz``.
    qc_file
        Measures of quality, ``.json``.
    overview_file
        Background, tissues, colours of FODs, density, lengths and ends of streamlines for figures,
        ``.npz``.
    tractogram_files
        ``.tck`` files, iFOD2 before SD_STREAM.
    assignments_files
        Regions in which each streamline ends, ``.npz``, in the same order.

    Raises
    ------
    InputError
        If there is nothing to make connectomes from.
    """
    workflow = pe.Workflow(name=name)
    algorithms = find_algorithms(run)
    outputnode = pe.Node(
        niu.IdentityInterface(
            fields=[
                "labels_files",
                "connectomes_file",
                "qc_file",
                "overview_file",
                "tractogram_files",
                "assignments_files",
            ]
        ),
        name="outputnode",
    )
    n_facts = len(algorithms) + (run.dwi_file is not None) + bool(run.notes)
    facts = pe.Node(niu.Merge(n_facts), name="facts", run_without_submitting=True)
    # The grid of all that follows: the mean of the series, or what there is in its space.
    grid = pe.Node(niu.IdentityInterface(fields=["reference_file"]), name="grid")
    tissues = pe.Node(
        niu.IdentityInterface(fields=["five_tissue_file"], mandatory_inputs=False), name="tissues"
    )

    tracked = find_tracked(run)
    for lacking in TRACKINGS.keys() - set(algorithms):
        if run.dwi_file is not None or run.fod_file is not None:
            _log.warning(
                "%s: no five-tissue image, FreeSurfer segmentation or tissue maps: no %s",
                run.dwi_file or run.fod_file,
                lacking,
            )
    if run.dwi_file is None:
        grid.inputs.reference_file = str(find_reference(run))
    else:
        check = _add_check(workflow, run, tracked=tracked, options=options)
        workflow.connect([
            (check, grid, [("b0_file", "reference_file")]),
            (check, facts, [("facts_file", f"in{n_facts}")]),
        ])
    if run.notes:
        note = pe.Node(NoteInputs(notes=dict(run.notes)), name="note")
        workflow.connect([(note, facts, [("facts_file", f"in{len(algorithms) + 1}")])])
    weighed = algorithms if is_weighed(run, options) else []
    if options.sift2 and not weighed:
        _log.warning(
            "%s: neither a diffusion series nor FODs: no SIFT2 weights for its streamlines",
            "_".join("-".join(entity) for entity in run.entities),
        )
    constrained = _find_constrained(run, algorithms, weighed=bool(weighed))
    if constrained:
        add_five_tissue(workflow, run, grid=grid, tissues=tissues, options=options)
    if (tracked or weighed) and run.dwi_file is not None:
        _add_fods(workflow, run, check=check, options=options)
    elif tracked or weighed:
        _add_ready_fods(workflow, run)
    if tracked and options.sloppy:
        _add_density_seeds(workflow)

    labels = _add_labels(workflow, run, options=options)
    workflow.connect([
        (grid, labels, [("reference_file", "reference_file")]),
        (labels, outputnode, [("labels_files", "labels_files")]),
    ])

    tracts = []
    for algorithm in algorithms:
        if algorithm in tracked:
            track = _add_tracking(workflow, algorithm, tissues=tissues, options=options)
            tracts.append(Tract(algorithm, track))
        else:
            ready = _add_ready_tractogram(workflow, run, algorithm)
            tracts.append(Tract(algorithm, ready, dict(run.tractograms)[algorithm].name))
    add_counting(
        workflow, tracts, run, labels=labels, facts=facts, weighted_with_tissues=constrained,
        options=options,
    )  # fmt: skip
    connect, collected = workflow.get_node("connect"), workflow.get_node("collected")
    workflow.connect([
        (connect, outputnode, [("connectomes_file", "connectomes_file"), ("qc_file", "qc_file")]),
        (
            collected,
            outputnode,
            [
                ("tractogram_files", "tractogram_files"),
                ("assignments_files", "assignments_files"),
            ],
        ),
    ])

    map_density = pe.Node(MapDensity(n_threads=options.n_threads), name="map_density")
    overview = pe.Node(CollectOverview(algorithms=algorithms), name="overview")
    workflow.connect([
        (collected, map_density, [(("tractogram_files", first_item), "in_file")]),
        (grid, map_density, [("reference_file", "template_file")]),
        (grid, overview, [("reference_file", "background_file")]),
        (tissues, overview, [("five_tissue_file", "five_tissue_file")]),
        (map_density, overview, [("out_file", "density_file")]),
        (collected, overview, [("assignments_files", "assignments_files")]),
        (overview, outputnode, [("overview_file", "overview_file")]),
    ])
    if tracked or weighed:
        fod_colours = pe.Node(
            Convert(volumes=COLOUR_VOLUMES, out_file="coefficients.nii.gz"), name="fod_colours"
        )
        workflow.connect([
            (workflow.get_node("fods"), fod_colours, [("fod_file", "in_file")]),
            (fod_colours, overview, [("out_file", "fod_file")]),
        ])
    if key and not options.keep_tractograms:
        release = pe.Node(ReleaseFiles(key=key), name="release")
        done = pe.Node(niu.Merge(2), name="done", run_without_submitting=True)
        workflow.connect([
            (collected, release, [("tractogram_files", "in_files")]),
            (connect, done, [("connectomes_file", "in1")]),
            (overview, done, [("overview_file", "in2")]),
            (done, release, [("out", "wait_for")]),
        ])
    return workflow


def has_tissues(run: DiffusionRun) -> bool:
    """Say whether a five-tissue image is there or can be made."""
    maps = {"GM", "WM", "CSF"} <= set(dict(run.probability_files))
    image = run.five_tissue_file or run.five_tissue_made
    return image is not None or run.tissues is not None or maps


def find_algorithms(run: DiffusionRun) -> list[str]:
    """Name the algorithms that a run allows, in the order of `TRACKINGS`.

    Raises
    ------
    InputError
        If there are none.
    """
    ready = dict(run.tractograms)
    algorithms = []
    for algorithm, tracking in TRACKINGS.items():
        origin = run.dwi_file or run.fod_file
        possible = origin is not None and (has_tissues(run) or not tracking.with_tissues)
        if algorithm in ready or possible:
            algorithms.append(algorithm)
    if not algorithms:
        raise InputError(
            "neither a diffusion series nor a tractogram",
            where="_".join("-".join(entity) for entity in run.entities),
            fix="Give QSIPrep's series or QSIRecon's streamlines.",
        )
    return algorithms


def find_tracked(run: DiffusionRun) -> list[str]:
    """Name the algorithms whose streamlines are tracked, for no tractogram is given.

    Raises
    ------
    InputError
        As `find_algorithms`.
    """
    ready = dict(run.tractograms)
    return [algorithm for algorithm in find_algorithms(run) if algorithm not in ready]


def _find_constrained(run: DiffusionRun, algorithms: Sequence[str], *, weighed: bool) -> list[str]:
    """Name the algorithms whose streamlines are tracked, or weighed, by tissues."""
    return [
        algorithm
        for algorithm in algorithms
        if TRACKINGS[algorithm].with_tissues
        and (algorithm not in dict(run.tractograms) or (weighed and has_tissues(run)))
    ]


def needed_programs(run: DiffusionRun, options: StructuralOptions) -> tuple[str, ...]:
    """Name the programs of MRtrix3 that the steps of `init_structural_wf` call, in their order.

    Raises
    ------
    InputError
        If there is nothing to make connectomes from.
    """
    algorithms = find_algorithms(run)
    tracks = bool(find_tracked(run))
    weighs = is_weighed(run, options)
    made = run.dwi_file is not None
    unpacked = made_tissues = False
    if _find_constrained(run, algorithms, weighed=weighs):
        unpacked = needs_unpacking(run)
        made_tissues = run.five_tissue_file is None and run.five_tissue_made is not None
    needed = {
        "mrconvert": tracks or weighs or unpacked,
        "5ttgen": made_tissues,
        "dwi2response": made and (tracks or weighs),
        "dwi2fod": made and (tracks or weighs),
        "mrcalc": tracks and options.sloppy,
        "tckgen": tracks,
        "tcksift2": weighs,
        "tckmap": True,
    }
    return tuple(name for name, is_needed in needed.items() if is_needed)


def find_reference(run: DiffusionRun) -> Path:
    """Find an image in the space of ready tractograms whose field of view covers the brain.

    Raises
    ------
    InputError
        If there is none.
    """
    maps = dict(run.probability_files)
    untouched = [source.file for source in run.labels if not source.transforms]
    candidates = [
        run.mask_file,
        maps.get("WM"),
        run.five_tissue_file,
        run.tissues.file if run.tissues and not run.tissues.transforms else None,
        *untouched,
    ]
    for candidate in candidates:
        if candidate is not None:
            return candidate
    raise InputError(
        f"no image in the space {run.space} of the tractograms",
        where=", ".join(str(file) for _, file in run.tractograms),
        fix="Give QSIPrep's derivatives beside QSIRecon's: the brain mask is enough.",
    )


def _add_check(
    workflow: pe.Workflow, run: DiffusionRun, *, tracked: list[str], options: StructuralOptions
) -> pe.Node:
    """Add the node that reads series, gradients and mask before anything else."""
    check = pe.Node(
        CheckDiffusion(
            dwi_file=str(run.dwi_file),
            bval_file=str(run.bval_file),
            bvec_file=str(run.bvec_file),
            mask_file=str(run.mask_file),
            n_streamlines=options.n_streamlines,
            force=options.force,
            point_spacing_mm=[TRACKINGS[algorithm].point_spacing_mm for algorithm in tracked],
        ),
        name="check",
        mem_gb=0.5,
    )
    workflow.add_nodes([check])
    return check


def _add_labels(
    workflow: pe.Workflow, run: DiffusionRun, *, options: StructuralOptions
) -> pe.Node:
    """Add the node that brings atlases onto the grid on which streamlines' ends are looked up."""
    resample_labels = pe.Node(
        ResampleLabels(
            label_sources=[plain_label_source(source) for source in run.labels],
            voxel_mm=SLOPPY_NODE_VOXEL_MM if options.sloppy else NODE_VOXEL_MM,
            reference_space=run.space,
            force=options.force,
        ),
        name="resample_labels",
        mem_gb=RESAMPLE_GB,
    )
    if run.mask_file is not None:
        resample_labels.inputs.mask_file = str(run.mask_file)
    workflow.add_nodes([resample_labels])
    return resample_labels


def _add_fods(
    workflow: pe.Workflow, run: DiffusionRun, *, check: pe.Node, options: StructuralOptions
) -> None:
    """Add nodes from the series to its fibre orientation distributions (``fods``)."""
    mask_file, threads = str(run.mask_file), options.n_threads
    convert = pe.Node(
        # Values of one voxel side by side on disk: the order in which they are fitted.
        Convert(in_file=str(run.dwi_file), datatype="float32", strides=[0, 0, 0, 1]),
        name="convert",
        mem_gb=FOD_GB,
    )
    workflow.connect([(check, convert, [("gradient_files", "gradient_files")])])

    responses = pe.Node(
        EstimateResponses(mask_file=mask_file, n_threads=threads),
        name="responses",
        mem_gb=FOD_GB,
        n_procs=threads,
    )
    workflow.connect([
        (convert, responses, [("out_file", "in_file")]),
        (check, responses, [("erosion", "erosion"), ("response_algorithm", "algorithm")]),
    ])

    fods = pe.Node(
        EstimateFODs(mask_file=mask_file, n_threads=threads),
        name="fods",
        mem_gb=FOD_GB,
        n_procs=threads,
    )
    if options.sloppy:
        fods.inputs.lmax = SLOPPY_LMAX
        responses.inputs.max_iterations = SLOPPY_ITERATIONS
    workflow.connect([
        (convert, fods, [("out_file", "in_file")]),
        (check, fods, [("n_shells", "n_shells"), ("fod_algorithm", "algorithm")]),
        (
            responses,
            fods,
            [
                ("wm_file", "wm_response"),
                ("gm_file", "gm_response"),
                ("csf_file", "csf_response"),
            ],
        ),
    ])


def _add_ready_fods(workflow: pe.Workflow, run: DiffusionRun) -> None:
    """Add nodes that unpack ready fibre orientation distributions (``fods``)."""
    unpack = pe.Node(
        Convert(in_file=str(run.fod_file), datatype="float32", out_file="fod_wm.mif"),
        name="unpack_fods",
        mem_gb=FOD_GB,
    )
    fods = pe.Node(niu.IdentityInterface(fields=["fod_file"]), name="fods")
    workflow.connect([(unpack, fods, [("out_file", "fod_file")])])


def _add_density_seeds(workflow: pe.Workflow) -> None:
    """Add nodes that make an image to seed in proportion to from ``fods`` (``seeds``)."""
    fods = workflow.get_node("fods")
    total_density = pe.Node(
        Convert(coord=(3, 0), axes=[0, 1, 2], out_file="density.mif"), name="total_density"
    )
    seeds = pe.Node(KeepPositive(), name="seeds")
    workflow.connect([
        (fods, total_density, [("fod_file", "in_file")]),
        (total_density, seeds, [("out_file", "in_file")]),
    ])


def _add_ready_tractogram(workflow: pe.Workflow, run: DiffusionRun, algorithm: str) -> pe.Node:
    """Add the node that makes a ``.tck`` of a ready tractogram and checks its space."""
    ready = pe.Node(
        ImportTractogram(in_file=str(dict(run.tractograms)[algorithm]), algorithm=algorithm),
        name=f"import_{algorithm}",
    )
    if run.mask_file is not None:
        ready.inputs.mask_file = str(run.mask_file)
    workflow.add_nodes([ready])
    return ready


def _add_tracking(
    workflow: pe.Workflow, algorithm: str, *, tissues: pe.Node, options: StructuralOptions
) -> pe.Node:
    """Add the node that tracks streamlines of one algorithm, with its edges."""
    tracking = TRACKINGS[algorithm]
    track = pe.Node(
        Track(
            algorithm=tracking.algorithm,
            out_file=f"{algorithm}.tck",
            n_streamlines=options.n_streamlines,
            cutoff=CUTOFF,
            max_length_mm=MAX_LENGTH_MM,
            min_length_mm=tracking.min_length_mm,
            angle_degrees=tracking.angle_degrees,
            random_seed=options.random_seed,
            n_threads=options.n_threads,
        ),
        name=f"track_{algorithm}",
        mem_gb=FOD_GB,
        n_procs=options.n_threads,
    )
    if tracking.downsample:
        track.inputs.downsample = tracking.downsample
    fods = workflow.get_node("fods")
    workflow.connect([(fods, track, [("fod_file", "in_file")])])
    if options.sloppy:
        # Seeds in proportion to fibre density: near to dynamic seeding, without its start-up.
        # The step is MRtrix3's own, as coarse as the voxels.
        seeds = workflow.get_node("seeds")
        workflow.connect([(seeds, track, [("out_file", "seed_rejection")])])
    else:
        track.inputs.step_mm = tracking.step_mm
        workflow.connect([(fods, track, [("fod_file", "seed_dynamic")])])
    if tracking.with_tissues:
        workflow.connect([(tissues, track, [("five_tissue_file", "act_file")])])
    return track
