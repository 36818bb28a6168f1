# SPDX-License-Identifier: MIT
"""Tractograms of other programs, what is to be told of ready inputs, and room on the disk."""

from __future__ import annotations

import json
import os
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

from ..images.foreign_tractograms import convert_tractogram
from ..images.tractogram_space import require_inside

#: Name of the file that says what was released.
RELEASED = "released.json"


class _ImportTractogramInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc=".tck, .tck.gz, .trk or .trx")
    algorithm = traits.Str(mandatory=True, desc="ifod2act or sdstream: name of the file made")
    mask_file = File(exists=True, desc="brain mask in the space that the tractogram should be in")


class _ImportTractogramOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc=".tck, uncompressed")


class ImportTractogram(SimpleInterface):
    """Make an uncompressed ``.tck`` of a ready tractogram, and look whether it is in place."""

    input_spec = _ImportTractogramInputSpec
    output_spec = _ImportTractogramOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        given = Path(self.inputs.in_file)
        target = Path(runtime.cwd) / f"{self.inputs.algorithm}.tck"
        file = convert_tractogram(given, target)
        if isdefined(self.inputs.mask_file):
            require_inside(file, Path(self.inputs.mask_file), where=str(given))
        self._results["out_file"] = str(file)
        return runtime


class _NoteInputsInputSpec(BaseInterfaceInputSpec):
    notes = traits.Dict(traits.Str(), traits.Any(), mandatory=True, desc="measure and value")


class _NoteInputsOutputSpec(TraitedSpec):
    facts_file = File(exists=True, desc="JSON, flat")


class NoteInputs(SimpleInterface):
    """Write down what is known of inputs before anything is run."""

    input_spec = _NoteInputsInputSpec
    output_spec = _NoteInputsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        file = Path(runtime.cwd) / "facts.json"
        file.write_text(json.dumps(self.inputs.notes, indent=2) + "\n", encoding="utf-8")
        self._results["facts_file"] = str(file)
        return runtime


class _ReleaseFilesInputSpec(BaseInterfaceInputSpec):
    in_files = traits.List(File(exists=True), mandatory=True, desc="tractograms, or links to them")
    wait_for = traits.Any(mandatory=True, desc="what is made when nobody reads them any more")
    key = traits.Str(mandatory=True, desc="fingerprint of what they were used for")


class _ReleaseFilesOutputSpec(TraitedSpec):
    marker_file = File(exists=True, desc="JSON: key and files, for `forget_released`")


class ReleaseFiles(SimpleInterface):
    """Give back the room that counted tractograms take on the disk.

    Those given as inputs, which lie outside of the workflow's folder, are left alone.
    """

    input_spec = _ReleaseFilesInputSpec
    output_spec = _ReleaseFilesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        folder = Path(runtime.cwd)
        own = [Path(file) for file in self.inputs.in_files if folder.parent in Path(file).parents]
        marker = folder / RELEASED
        content = {"key": self.inputs.key, "files": [str(file) for file in own]}
        # Told before it is done: a run that is killed in between must not take a file for whole.
        marker.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        for file in own:
            hollow_out(file)
        self._results["marker_file"] = str(marker)
        return runtime


def hollow_out(file: Path) -> None:
    """Free the blocks of a file; its size and time of change, which Nipype looks at, stay."""
    state = file.stat()
    with file.open("r+b") as stream:
        stream.truncate(0)
        stream.truncate(state.st_size)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
