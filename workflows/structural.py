# SPDX-License-Identifier: MIT
"""Diffusion series or ready tractograms -> structural connectomes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from kraken_bids.errors import InputError
from kraken_bids.interfaces.atlases import ResampleLabels, plain_label_source
from kraken_bids.interfaces.mrtrix import (
    Convert,
    CountStreamlines,
    EstimateFODs,
    EstimateResponses,
    KeepPositive,
    MapDensity,
    Track,
)
from kraken_bids.interfaces.structural import (
    BuildConnectomes,
    CheckDiffusion,
    CollectOverview,
    MeasureTractogram,
    PrepareFiveTissue,
)
from kraken_bids.plan import DiffusionRun
from kraken_bids.settings import StructuralOptions

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

#: Voxels of a five-tissue image made from a FreeSurfer segmentation, in mm.
TISSUE_VOXEL_MM, SLOPPY_TISSUE_VOXEL_MM = 1.0, 2.0

#: Harmonic order of quick FODs; MRtrix3's default is 8.
SLOPPY_LMAX = 4

#: FODs of 1.25 mm (145 x 174 x 145 voxels, 45 coefficients) take 0.66 GB; dhollander and dynamic
#: seeding keep about twice that at a time.
FOD_GB = 1.5
RESAMPLE_GB = 1.5


def init_structural_wf(
    run: DiffusionRun, *, options: StructuralOptions, name: str = "structural_wf"
) -> pe.Workflow:
    """Turn one diffusion series, or tractograms made from one, into connectomes of all atlases.

    Algorithms with a ready tractogram are not tracked again. Without any source of tissues iFOD2
    is left out, as its constraints cannot be had.

    Parameters
    ----------
    run
        The series, its tissues, tractograms and the sources of its labels.
    options
        The recipe.

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
        Background, tissues, density and lengths of streamlines for figures, ``.npz``.
    tractogram_files
        ``.tck`` files, iFOD2 before SD_STREAM.

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
            ]
        ),
        name="outputnode",
    )
    n_facts = len(algorithms) + (run.dwi_file is not None)
    facts = pe.Node(niu.Merge(n_facts), name="facts", run_without_submitting=True)
    tracts, lengths, counts = (
        pe.Node(niu.Merge(len(algorithms)), name=name, run_without_submitting=True)
        for name in ("tracts", "lengths", "counts")
    )
    # The grid of all that follows: the mean of the series, or what there is in its space.
    grid = pe.Node(niu.IdentityInterface(fields=["reference_file"]), name="grid")
    tissues = pe.Node(
        niu.IdentityInterface(fields=["five_tissue_file"], mandatory_inputs=False), name="tissues"
    )

    tracked = [algorithm for algorithm in algorithms if algorithm not in dict(run.tractograms)]
    if run.dwi_file is None:
        grid.inputs.reference_file = str(find_reference(run))
    else:
        check = _add_check(workflow, run, tracked=tracked, options=options)
        workflow.connect([
            (check, grid, [("b0_file", "reference_file")]),
            (check, facts, [("facts_file", f"in{n_facts}")]),
        ])
    if any(TRACKINGS[algorithm].with_tissues for algorithm in tracked):
        _add_five_tissue(workflow, run, grid=grid, tissues=tissues, options=options)
    if tracked:
        _add_fods(workflow, run, check=check, options=options)

    labels = _add_labels(workflow, run, options=options)
    workflow.connect([
        (grid, labels, [("reference_file", "reference_file")]),
        (labels, outputnode, [("labels_files", "labels_files")]),
    ])

    for number, algorithm in enumerate(algorithms, start=1):
        measure = pe.Node(MeasureTractogram(algorithm=algorithm), name=f"measure_{algorithm}")
        if algorithm in tracked:
            track = _add_tracking(workflow, algorithm, tissues=tissues, options=options)
            measure.inputs.n_wanted = options.n_streamlines
            workflow.connect([(track, measure, [("out_file", "in_file")])])
        else:
            measure.inputs.in_file = str(dict(run.tractograms)[algorithm])

        count = pe.MapNode(
            CountStreamlines(radius_mm=options.assignment_radius_mm, n_threads=options.n_threads),
            iterfield=["labels_file"],
            name=f"count_{algorithm}",
            n_procs=options.n_threads,
        )
        workflow.connect([
            (measure, count, [("tractogram_file", "in_file")]),
            (labels, count, [("labels_files", "labels_file")]),
            (count, counts, [("out_file", f"in{number}")]),
            (measure, tracts, [("tractogram_file", f"in{number}")]),
            (measure, lengths, [("lengths_file", f"in{number}")]),
            (measure, facts, [("facts_file", f"in{number}")]),
        ])

    connect = pe.Node(
        BuildConnectomes(
            algorithms=algorithms,
            atlases=[source.atlas for source in run.labels],
            radius_mm=options.assignment_radius_mm,
        ),
        name="connect",
    )
    if run.mask_file is not None:
        connect.inputs.mask_file = str(run.mask_file)
    workflow.connect([
        (counts, connect, [("out", "counts_files")]),
        (facts, connect, [("out", "facts_files")]),
        (labels, connect, [("labels_files", "labels_files"), ("volumes_file", "volumes_file")]),
        (connect, outputnode, [("connectomes_file", "connectomes_file"), ("qc_file", "qc_file")]),
        (tracts, outputnode, [("out", "tractogram_files")]),
    ])

    map_density = pe.Node(MapDensity(n_threads=options.n_threads), name="map_density")
    overview = pe.Node(CollectOverview(algorithms=algorithms), name="overview")
    workflow.connect([
        (tracts, map_density, [(("out", first_item), "in_file")]),
        (grid, map_density, [("reference_file", "template_file")]),
        (grid, overview, [("reference_file", "background_file")]),
        (tissues, overview, [("five_tissue_file", "five_tissue_file")]),
        (map_density, overview, [("out_file", "density_file")]),
        (lengths, overview, [("out", "lengths_files")]),
        (overview, outputnode, [("overview_file", "overview_file")]),
    ])
    return workflow


def has_tissues(run: DiffusionRun) -> bool:
    """Say whether a five-tissue image is there or can be made."""
    maps = {"GM", "WM", "CSF"} <= set(dict(run.probability_files))
    return run.five_tissue_file is not None or run.tissues is not None or maps


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
        possible = run.dwi_file is not None and (has_tissues(run) or not tracking.with_tissues)
        if algorithm in ready or possible:
            algorithms.append(algorithm)
        elif run.dwi_file is not None:
            _log.warning(
                "%s: no five-tissue image, FreeSurfer segmentation or tissue maps: no %s",
                run.dwi_file,
                algorithm,
            )
    if not algorithms:
        raise InputError(
            "neither a diffusion series nor a tractogram",
            where="_".join("-".join(entity) for entity in run.entities),
            fix="Give QSIPrep's series or QSIRecon's streamlines.",
        )
    return algorithms


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


def first_item(items: list[str] | str) -> str:
    """Give the first of several files.

    Examples
    --------
    >>> first_item(["a.tck", "b.tck"])
    'a.tck'
    """
    return items if isinstance(items, str) else items[0]


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
        (check, responses, [("erosion", "erosion")]),
    ])

    fods = pe.Node(
        EstimateFODs(mask_file=mask_file, n_threads=threads),
        name="fods",
        mem_gb=FOD_GB,
        n_procs=threads,
    )
    if options.sloppy:
        fods.inputs.lmax = SLOPPY_LMAX
    workflow.connect([
        (convert, fods, [("out_file", "in_file")]),
        (check, fods, [("n_shells", "n_shells")]),
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
    if options.sloppy:
        total_density = pe.Node(
            Convert(coord=(3, 0), axes=[0, 1, 2], out_file="density.mif"), name="total_density"
        )
        seeds = pe.Node(KeepPositive(), name="seeds")
        workflow.connect([
            (fods, total_density, [("fod_file", "in_file")]),
            (total_density, seeds, [("out_file", "in_file")]),
        ])


def _add_five_tissue(
    workflow: pe.Workflow,
    run: DiffusionRun,
    *,
    grid: pe.Node,
    tissues: pe.Node,
    options: StructuralOptions,
) -> None:
    """Add nodes that make or check the five-tissue image; ``tissues`` hands it on."""
    five_tissue = pe.Node(
        PrepareFiveTissue(mask_file=str(run.mask_file)), name="five_tissue", mem_gb=1.0
    )
    ready, maps = run.five_tissue_file, dict(run.probability_files)
    if ready is not None and ready.name.endswith((".nii", ".nii.gz")):
        five_tissue.inputs.five_tissue_file = str(ready)
    elif ready is not None:
        unpack_tissues = pe.Node(
            Convert(in_file=str(ready), out_file="five_tissue.nii.gz"), name="unpack_tissues"
        )
        workflow.connect([(unpack_tissues, five_tissue, [("out_file", "five_tissue_file")])])
    elif run.tissues is not None:
        resample_tissues = pe.Node(
            ResampleLabels(
                label_sources=[plain_label_source(run.tissues)],
                voxel_mm=SLOPPY_TISSUE_VOXEL_MM if options.sloppy else TISSUE_VOXEL_MM,
                mask_file=str(run.mask_file),
                reference_space=run.space,
            ),
            name="resample_tissues",
            mem_gb=RESAMPLE_GB,
        )
        workflow.connect([
            (grid, resample_tissues, [("reference_file", "reference_file")]),
            (resample_tissues, five_tissue, [(("labels_files", first_item), "labels_file")]),
        ])
    else:
        five_tissue.inputs.probability_files = [str(maps[key]) for key in ("GM", "WM", "CSF")]
    workflow.connect([(five_tissue, tissues, [("out_file", "five_tissue_file")])])


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
