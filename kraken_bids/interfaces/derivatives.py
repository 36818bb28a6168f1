# SPDX-License-Identifier: MIT
"""Sinks: the only nodes that write into a data set."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from ..bids.export import (
    Target,
    read_quality,
    save_assignments,
    save_connectomes,
    save_figures,
    save_labels,
    save_quality,
    save_timeseries,
    save_tractograms,
)
from ..completion import finished_outputs, mark_finished, remove_stale
from ..errors import InputError
from ..plan import session_label

_log = logging.getLogger(__name__)


class _SaveSeriesInputSpec(BaseInterfaceInputSpec):
    dataset_dir = traits.Str(mandatory=True, desc="root of the data set")
    entities = traits.List(
        traits.List(traits.Str), mandatory=True, desc="entities of the source, key and label"
    )
    datatype = traits.Enum("func", "dwi", mandatory=True, desc="BIDS folder")
    space = traits.Str(mandatory=True, desc="space of the data")
    sources = traits.List(traits.Str, desc="BIDS URIs of the files used")
    atlases = traits.List(traits.Str, desc="atlases, in the order of labels_files")
    flavors = traits.List(traits.Str, desc="flavors to write; empty: all")
    connectomes_file = File(exists=True, desc="matrices by flavor (npz)")
    timeseries_file = File(exists=True, desc="denoised series by atlas and kind (npz)")
    labels_files = traits.List(File(exists=True), desc="label images on the data's grid")
    algorithms = traits.List(traits.Str, desc="algorithms, in the order of tractogram_files")
    tractogram_files = traits.List(File(exists=True), desc="streamlines to keep")
    assignments_files = traits.List(File(exists=True), desc="regions of their ends to keep")
    qc_file = File(exists=True, mandatory=True, desc="quality measures (JSON)")
    mark = traits.Str("", usedefault=True, desc="other pipeline than the recipe, for names")
    origins = traits.Dict(desc="sidecars' keys that say whose labels are used, by atlas")
    facts_file = File(exists=True, desc="further such keys, found when building labels (JSON)")


class _SaveSeriesOutputSpec(TraitedSpec):
    out_files = traits.List(traits.Str, desc="files written")


class SaveSeries(SimpleInterface):
    """Write all outputs of one series into the data set, each file whole or not at all."""

    input_spec = _SaveSeriesInputSpec
    output_spec = _SaveSeriesOutputSpec
    # Files in the data set may be deleted while the working folder stays: always look again.
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        target = Target(
            dataset_dir=Path(inputs.dataset_dir),
            entities=tuple((key, label) for key, label in inputs.entities),
            datatype=inputs.datatype,
            space=inputs.space,
            sources=tuple(inputs.sources) if isdefined(inputs.sources) else (),
            quality=read_quality(Path(inputs.qc_file)),
            mark=inputs.mark,
            origins=_origins(inputs),
        )
        written = save_quality(target)
        if isdefined(inputs.connectomes_file):
            wanted = inputs.flavors if isdefined(inputs.flavors) else ()
            written += save_connectomes(target, Path(inputs.connectomes_file), wanted=wanted)
        if isdefined(inputs.timeseries_file):
            written += save_timeseries(target, Path(inputs.timeseries_file))
        if isdefined(inputs.labels_files):
            pairs = zip(inputs.atlases, map(Path, inputs.labels_files), strict=True)
            written += save_labels(target, pairs)
        if isdefined(inputs.tractogram_files):
            pairs = zip(inputs.algorithms, map(Path, inputs.tractogram_files), strict=True)
            written += save_tractograms(target, pairs)
        if isdefined(inputs.assignments_files):
            pairs = zip(inputs.algorithms, map(Path, inputs.assignments_files), strict=True)
            written += save_assignments(target, pairs)
        self._results["out_files"] = [str(path) for path in written]
        return runtime


def _origins(inputs: Any) -> dict[str, dict[str, Any]]:
    """Whose labels are used, by atlas, with what was found when they were built."""
    origins = dict(inputs.origins) if isdefined(inputs.origins) else {}
    found = read_quality(Path(inputs.facts_file)) if isdefined(inputs.facts_file) else {}
    return {atlas: {**keys, **found.get(atlas, {})} for atlas, keys in origins.items()}


class _SaveFigureInputSpec(BaseInterfaceInputSpec):
    dataset_dir = traits.Str(mandatory=True, desc="root of the data set")
    entities = traits.List(
        traits.List(traits.Str), mandatory=True, desc="entities of the source, key and label"
    )
    datatype = traits.Enum("func", "dwi", mandatory=True, desc="BIDS folder")
    figure_file = File(exists=True, mandatory=True, desc="figure of the quality measures (PNG)")
    desc = traits.Str("qc", usedefault=True, desc="label of desc-")
    mark = traits.Str("", usedefault=True, desc="other pipeline than the recipe, for names")


class SaveFigure(SimpleInterface):
    """Write the figure of one series into the data set, apart from the numbers it shows."""

    input_spec = _SaveFigureInputSpec
    output_spec = _SaveSeriesOutputSpec
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        target = Target(
            dataset_dir=Path(self.inputs.dataset_dir),
            entities=tuple((key, label) for key, label in self.inputs.entities),
            datatype=self.inputs.datatype,
            space="",
            mark=self.inputs.mark,
        )
        written = save_figures(target, [(self.inputs.desc, Path(self.inputs.figure_file))])
        self._results["out_files"] = [str(path) for path in written]
        return runtime


class _RemoveStaleInputSpec(BaseInterfaceInputSpec):
    dataset_dir = traits.Str(mandatory=True, desc="root of the data set")
    name = traits.Str(mandatory=True, desc="session, or group")
    out_files = traits.List(traits.Str, mandatory=True, desc="all outputs, in place")


class _RemoveStaleOutputSpec(TraitedSpec):
    out_files = traits.List(traits.Str, desc="the same, to wait for")


class RemoveStale(SimpleInterface):
    """Delete what the last finished run of the same work made and the present one does not.

    The marker of that run says what it made; it stands until the present run is marked, so that a
    run that is killed here goes on where it was.
    """

    input_spec = _RemoveStaleInputSpec
    output_spec = _RemoveStaleOutputSpec
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        dataset_dir = Path(self.inputs.dataset_dir)
        _, before = finished_outputs(dataset_dir, self.inputs.name)
        now = [str(Path(file).relative_to(dataset_dir)) for file in self.inputs.out_files]
        removed = remove_stale(dataset_dir, before, now)
        if removed:
            _log.info(
                "removed %d file(s) of an earlier run that are not made any more, such as %s",
                len(removed),
                removed[0],
            )
        self._results["out_files"] = self.inputs.out_files
        return runtime


class _MarkFinishedInputSpec(BaseInterfaceInputSpec):
    dataset_dir = traits.Str(mandatory=True, desc="root of the data set")
    name = traits.Str(mandatory=True, desc="session, or group")
    key = traits.Str(mandatory=True, desc="fingerprint of inputs and settings")
    out_files = traits.List(traits.Str, mandatory=True, desc="all outputs")
    problems_file = File(exists=True, desc="inputs that could not be used (JSON)")


class _MarkFinishedOutputSpec(TraitedSpec):
    marker_file = traits.Str(desc="the marker")


class MarkFinished(SimpleInterface):
    """Say that a piece of work is done, once all its outputs are in place."""

    input_spec = _MarkFinishedInputSpec
    output_spec = _MarkFinishedOutputSpec
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        marker = mark_finished(
            Path(inputs.dataset_dir),
            inputs.name,
            inputs.key,
            map(Path, inputs.out_files),
            problems=_problems(inputs.problems_file) if isdefined(inputs.problems_file) else (),
        )
        self._results["marker_file"] = str(marker)
        return runtime


def _problems(problems_file: str) -> list[tuple[str, str]]:
    """Session and message of each input that could not be used."""
    listed = json.loads(Path(problems_file).read_text("utf-8"))["problems"]
    return [
        (
            session_label(problem["participant"], problem["session"]),
            str(InputError(problem["what"], where=problem["where"], fix=problem["fix"])),
        )
        for problem in listed
    ]
