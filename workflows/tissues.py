# SPDX-License-Identifier: MIT
"""The five-tissue image that constrains tracking."""

from __future__ import annotations

from nipype.pipeline import engine as pe

from kraken_bids.interfaces.atlases import ResampleLabels, plain_label_source, plain_steps
from kraken_bids.interfaces.mrtrix import Convert, MakeFiveTissue
from kraken_bids.interfaces.structural import PrepareFiveTissue
from kraken_bids.plan import DiffusionRun, FiveTissueMaking
from kraken_bids.settings import StructuralOptions

#: Voxels of a five-tissue image made from a FreeSurfer segmentation, in mm.
TISSUE_VOXEL_MM, SLOPPY_TISSUE_VOXEL_MM = 1.0, 2.0

RESAMPLE_GB = 1.5
#: FSL's FAST and FIRST, or meshes as images, of a T1w image of 1 mm. Estimated, not measured.
FIVE_TISSUE_GB = 2.0


def first_item(items: list[str] | str) -> str:
    """Give the first of several files.

    Examples
    --------
    >>> first_item(["a.tck", "b.tck"])
    'a.tck'
    """
    return items if isinstance(items, str) else items[0]


def needs_unpacking(run: DiffusionRun) -> bool:
    """Say whether there is a ready five-tissue image, in a format of MRtrix3's own."""
    ready = run.five_tissue_file
    return ready is not None and not ready.name.endswith((".nii", ".nii.gz"))


def add_five_tissue(
    workflow: pe.Workflow,
    run: DiffusionRun,
    *,
    grid: pe.Node,
    tissues: pe.Node,
    options: StructuralOptions,
) -> None:
    """Add nodes that make or check the five-tissue image; ``tissues`` hands it on."""
    five_tissue = pe.Node(
        PrepareFiveTissue(mask_file=str(run.mask_file), force=options.force),
        name="five_tissue",
        mem_gb=1.0,
    )
    workflow.connect([(grid, five_tissue, [("reference_file", "reference_file")])])
    ready, maps = run.five_tissue_file, dict(run.probability_files)
    if needs_unpacking(run):
        unpack_tissues = pe.Node(
            Convert(in_file=str(ready), out_file="five_tissue.nii.gz"), name="unpack_tissues"
        )
        workflow.connect([(unpack_tissues, five_tissue, [("out_file", "five_tissue_file")])])
    elif ready is not None:
        five_tissue.inputs.five_tissue_file = str(ready)
    elif run.five_tissue_made is not None:
        _add_five_tissue_making(
            workflow, run.five_tissue_made, five_tissue, n_threads=options.n_threads
        )
    elif run.tissues is not None:
        resample_tissues = pe.Node(
            ResampleLabels(
                label_sources=[plain_label_source(run.tissues)],
                voxel_mm=SLOPPY_TISSUE_VOXEL_MM if options.sloppy else TISSUE_VOXEL_MM,
                mask_file=str(run.mask_file),
                reference_space=run.space,
                force=options.force,
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


def _add_five_tissue_making(
    workflow: pe.Workflow, making: FiveTissueMaking, five_tissue: pe.Node, *, n_threads: int
) -> None:
    """Add the node that runs ``5ttgen``."""
    make_five_tissue = pe.Node(
        MakeFiveTissue(algorithm=making.algorithm, n_threads=n_threads),
        name="make_five_tissue",
        mem_gb=FIVE_TISSUE_GB,
        n_procs=n_threads,
    )
    if making.algorithm == "hsvs":
        make_five_tissue.inputs.subject_dir = str(making.file.parents[1])
        five_tissue.inputs.steps = plain_steps(making.transforms)
    else:
        make_five_tissue.inputs.in_file = str(making.file)
        make_five_tissue.inputs.mask_file = str(making.mask_file)
    workflow.connect([(make_five_tissue, five_tissue, [("out_file", "five_tissue_file")])])
