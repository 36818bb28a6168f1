# SPDX-License-Identifier: MIT
"""Figures and pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)


class _DrawFigureInputSpec(BaseInterfaceInputSpec):
    kind = traits.Str(mandatory=True, desc="kind of figure, such as functional_qc")
    in_file = File(exists=True, mandatory=True, desc="arrays to draw (npz)")


class _DrawFigureOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="the figure (PNG)")


class DrawFigure(SimpleInterface):
    """Draw one figure from a file of arrays."""

    input_spec = _DrawFigureInputSpec
    output_spec = _DrawFigureOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from ..report.figures import draw_figure

        out_file = Path(runtime.cwd) / f"{self.inputs.kind}.png"
        draw_figure(self.inputs.kind, Path(self.inputs.in_file), out_file)
        self._results["out_file"] = str(out_file)
        return runtime


class _DrawCoverageInputSpec(BaseInterfaceInputSpec):
    labels_files = traits.List(
        File(exists=True), mandatory=True, desc="label images, one an atlas"
    )
    atlases = traits.List(traits.Str, mandatory=True, desc="names of the atlases, in that order")
    qc_file = File(exists=True, mandatory=True, desc="quality measures with `regions` (JSON)")


class DrawCoverage(SimpleInterface):
    """Draw how much of each region a series covers."""

    input_spec = _DrawCoverageInputSpec
    output_spec = _DrawFigureOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from ..report.canvas import save_png
        from ..report.coverage_figure import draw_coverage

        regions = json.loads(Path(self.inputs.qc_file).read_text("utf-8"))["regions"]
        images: list[Any] = [nib.load(file) for file in self.inputs.labels_files]
        out_file = Path(runtime.cwd) / "coverage.png"
        labels = {
            atlas: (np.asanyarray(image.dataobj).squeeze(), image.affine)
            for atlas, image in zip(self.inputs.atlases, images, strict=True)
        }
        save_png(draw_coverage(labels, regions), out_file)
        self._results["out_file"] = str(out_file)
        return runtime


class _PageInputSpec(BaseInterfaceInputSpec):
    output_dir = traits.Str(mandatory=True, desc="root of the measured data set")
    notes = traits.List(traits.Str, usedefault=True, desc="problems to name on top")
    wait_for = traits.List(traits.Str, desc="files that the page is made from")


class _BuildPageInputSpec(_PageInputSpec):
    participant = traits.Str(mandatory=True, desc="label without sub-")
    session = traits.Str("", usedefault=True, desc="label without ses-; empty: all there are")


class _PageOutputSpec(TraitedSpec):
    out_file = traits.Str(desc="the page (HTML)")


class BuildPage(SimpleInterface):
    """Write the page of a participant into the root of the data set."""

    input_spec = _BuildPageInputSpec
    output_spec = _PageOutputSpec
    # What the page shows lies in the data set, which the hash of the inputs cannot see.
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from ..report.pages import write_participant_page

        page_file = write_participant_page(
            Path(self.inputs.output_dir),
            self.inputs.participant,
            self.inputs.session or None,
            notes=self.inputs.notes,
        )
        self._results["out_file"] = str(page_file)
        return runtime


class _BuildPagesInputSpec(BaseInterfaceInputSpec):
    output_dir = traits.Str(mandatory=True, desc="root of the measured data set")
    sessions = traits.List(
        traits.Tuple(traits.Str, traits.Str),
        mandatory=True,
        desc="labels of participant and session; the latter empty where there are none",
    )
    wait_for = traits.Str(desc="a file that is written after all that the pages are made from")


class _BuildPagesOutputSpec(TraitedSpec):
    out_files = traits.List(traits.Str, desc="the pages (HTML)")


class BuildPages(SimpleInterface):
    """Write the pages of some participants again; they go on to name the problems of before."""

    input_spec = _BuildPagesInputSpec
    output_spec = _BuildPagesOutputSpec
    _always_run = True  # as above

    def _run_interface(self, runtime: Any) -> Any:
        from ..report.pages import write_participant_page

        output_dir = Path(self.inputs.output_dir)
        self._results["out_files"] = [
            str(write_participant_page(output_dir, participant, session or None, notes=None))
            for participant, session in self.inputs.sessions
        ]
        return runtime


class _BuildGroupPageInputSpec(_PageInputSpec):
    dataset_dir = traits.Str(mandatory=True, desc="root of the data set of predictions")
    participants_file = File(desc="participants.tsv; it may be missing")


class BuildGroupPage(SimpleInterface):
    """Write the page of a cohort into the root of the data set of predictions."""

    input_spec = _BuildGroupPageInputSpec
    output_spec = _PageOutputSpec
    _always_run = True  # as above

    def _run_interface(self, runtime: Any) -> Any:
        from ..report.pages import write_group_page

        page_file = write_group_page(
            Path(self.inputs.dataset_dir),
            Path(self.inputs.output_dir),
            notes=self.inputs.notes,
            participants_file=(
                Path(self.inputs.participants_file)
                if isdefined(self.inputs.participants_file)
                else None
            ),
        )
        self._results["out_file"] = str(page_file)
        return runtime
