# SPDX-License-Identifier: MIT
"""MRtrix3's programs: command lines with seeds, threads and errors as we want them."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any, ClassVar

from nipype.interfaces.base import (
    CommandLine,
    CommandLineInputSpec,
    Directory,
    File,
    TraitedSpec,
    isdefined,
    traits,
)

from ..errors import InputError, KrakenBIDSError, ResourceError
from ..images.tractograms import read_header

INSTALL = (
    "Install MRtrix3: sudo apt-get install mrtrix3, or conda install -c conda-forge -c mrtrix3 "
    "mrtrix3; or run in the container, which has it."
)


class MRtrixInputSpec(CommandLineInputSpec):
    """What all programs take."""

    n_threads = traits.Int(
        1,
        usedefault=True,
        nohash=True,
        argstr="-nthreads %d",
        desc="threads; with 1 most programs run without any beside their main one",
    )


class MRtrixCommand(CommandLine):
    """A program of MRtrix3 that is quiet, and whose failure is told in one message."""

    input_spec = MRtrixInputSpec
    #: How to mend a failure that the program itself explains.
    fix: ClassVar[str] = "Look at the input files of this step."
    #: Threads beside the main one where one is asked for. MRtrix3 repeats its random numbers only
    #: without any.
    fewest_workers: ClassVar[int] = 0

    def _get_environ(self) -> dict[str, str]:
        return {**super()._get_environ(), "MRTRIX_QUIET": "1"}

    def _format_arg(self, name: str, trait_spec: Any, value: Any) -> Any:
        if name == "n_threads" and value == 1:
            value = self.fewest_workers
        if isinstance(value, tuple):  # Nipype quotes single paths only
            value = tuple(shlex.quote(part) if isinstance(part, str) else part for part in value)
        return super()._format_arg(name, trait_spec, value)

    def _run_interface(self, runtime: Any, correct_return_codes: tuple[int, ...] = (0,)) -> Any:
        if shutil.which(self.cmd.split()[0]) is None:
            raise ResourceError(f"program '{self.cmd.split()[0]}' is not there", fix=INSTALL)
        runtime = super()._run_interface(runtime, correct_return_codes)
        if runtime.returncode not in correct_return_codes:
            raise explain_failure(
                self.cmd.split()[0],
                runtime.returncode,
                str(runtime.stderr),
                where=runtime.cwd,
                fix=self.fix,
            )
        return runtime

    def _list_outputs(self) -> dict[str, Any]:
        outputs: dict[str, Any] = self.output_spec().get()
        for name in outputs:
            value = getattr(self.inputs, name)
            if isdefined(value):
                outputs[name] = str(Path.cwd() / value)
        return outputs


def explain_failure(
    program: str, code: int | None, stderr: str, *, where: str, fix: str
) -> KrakenBIDSError:
    """Turn what a program left on standard error into one of our errors.

    Parameters
    ----------
    program
        Its name.
    code
        Return code; negative: the signal that ended it.
    stderr
        All that it wrote.
    where
        Folder of the step.
    fix
        Advice if the program itself says what is wrong.

    Returns
    -------
    KrakenBIDSError
        `ResourceError` for a killed program or a full disk, else `InputError`.
    """
    if code is not None and (code < 0 or code > 128):
        number = -code if code < 0 else code - 128
        name = signal.Signals(number).name if number in {*signal.Signals} else str(number)
        return ResourceError(
            f"{program} was ended by signal {name}",
            where=where,
            fix="Run again; if it was killed for memory or time, ask for more (--mem).",
        )
    plain = re.sub(r"\x1b\[[0-9;]*m", "", stderr)  # colours
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    errors = [line for line in lines if "[ERROR]" in line]
    tail = "; ".join((errors or lines)[-3:]) or "no message"
    if "No space left" in stderr:
        return ResourceError(
            f"{program}: {tail}", where=where, fix="Give a --work-dir on a disk with more room."
        )
    return InputError(f"{program} failed: {tail}", where=where, fix=fix)


class _ConvertInputSpec(MRtrixInputSpec):
    in_file = File(exists=True, mandatory=True, argstr="%s", position=-2)
    out_file = File("converted.mif", usedefault=True, argstr="%s -force", position=-1)
    gradient_files = traits.Tuple(
        File(exists=True), File(exists=True), argstr="-fslgrad %s %s", desc="bvec and bval files"
    )
    coord = traits.Tuple(
        traits.Int(), traits.Int(), argstr="-coord %d %d", desc="axis, and position to keep on it"
    )
    volumes = traits.Str(argstr="-coord 3 %s", desc="volumes to keep, such as 0,3,5")
    axes = traits.List(traits.Int(), sep=",", argstr="-axes %s", desc="axes to keep, in order")
    datatype = traits.Str(argstr="-datatype %s")
    strides = traits.List(traits.Int(), sep=",", argstr="-strides %s")


class _ConvertOutputSpec(TraitedSpec):
    out_file = File(exists=True)


class Convert(MRtrixCommand):
    """``mrconvert``: other format, data type or strides; a part of an image."""

    # Nipype's own MRConvert has no strides and no data type.
    _cmd = "mrconvert"
    input_spec = _ConvertInputSpec
    output_spec = _ConvertOutputSpec
    fix = "Copy or make the image again."


class _KeepPositiveInputSpec(MRtrixInputSpec):
    in_file = File(exists=True, mandatory=True, argstr="%s 0 -max", position=0)
    out_file = File("positive.mif", usedefault=True, argstr="%s -force", position=1)


class _KeepPositiveOutputSpec(TraitedSpec):
    out_file = File(exists=True)


class KeepPositive(MRtrixCommand):
    """``mrcalc``: set negative values to 0, which seeding by an image does not take."""

    _cmd = "mrcalc"
    input_spec = _KeepPositiveInputSpec
    output_spec = _KeepPositiveOutputSpec


class _EstimateResponsesInputSpec(MRtrixInputSpec):
    algorithm = traits.Enum(
        "dhollander", "tournier", usedefault=True, argstr="%s", position=0,
        desc="tournier for a series without b = 0: one response, of the highest shell",
    )  # fmt: skip
    in_file = File(exists=True, mandatory=True, argstr="%s", position=1)
    wm_file = File("response_wm.txt", usedefault=True, argstr="%s", position=2)
    gm_file = File("response_gm.txt", usedefault=True, argstr="%s", position=3)
    csf_file = File("response_csf.txt", usedefault=True, argstr="%s", position=4)
    mask_file = File(exists=True, argstr="-mask %s")
    max_iterations = traits.Int(argstr="-max_iters %d", desc="of tournier; its 10 if none")
    erosion = traits.Int(3, usedefault=True, argstr="-erode %d", desc="of the mask, in voxels")


class _EstimateResponsesOutputSpec(TraitedSpec):
    wm_file = File(exists=True)
    gm_file = File(exists=True)
    csf_file = File(exists=True)


class EstimateResponses(MRtrixCommand):
    """``dwi2response``: what one fibre, grey matter and CSF look like in this scan.

    ``dhollander`` needs volumes without weighting and one shell at least. Where there are none
    ``tournier`` tells what one fibre looks like, and nothing else.
    """

    _cmd = "dwi2response"
    input_spec = _EstimateResponsesInputSpec
    output_spec = _EstimateResponsesOutputSpec
    fix = "Look at the brain mask and at the b-values and b-vectors of the series."
    #: Inputs that an algorithm does not take.
    _unused: ClassVar[dict[str, list[str]]] = {
        "dhollander": ["max_iterations"],
        "tournier": ["gm_file", "csf_file", "erosion"],
    }

    def _parse_inputs(self, skip: list[str] | None = None) -> Any:
        skip = [*(skip or []), *self._unused.get(self.inputs.algorithm, [])]
        return super()._parse_inputs(skip=skip)

    def _format_arg(self, name: str, trait_spec: Any, value: Any) -> Any:
        formatted = super()._format_arg(name, trait_spec, value)
        last = "wm_file" if self.inputs.algorithm == "tournier" else "csf_file"
        return f"{formatted} -force" if name == last else formatted

    def _list_outputs(self) -> dict[str, Any]:
        unused = self._unused.get(self.inputs.algorithm, [])
        return {key: file for key, file in super()._list_outputs().items() if key not in unused}


class _EstimateFODsInputSpec(MRtrixInputSpec):
    algorithm = traits.Enum(
        "msmt_csd", "csd", usedefault=True, argstr="%s", position=0,
        desc="csd takes the response of white matter, and the highest shell, alone",
    )  # fmt: skip
    in_file = File(exists=True, mandatory=True, argstr="%s", position=1)
    wm_response = File(exists=True, mandatory=True, argstr="%s", position=2)
    fod_file = File("fod_wm.mif", usedefault=True, argstr="%s", position=3)
    gm_response = File(exists=True, argstr="%s fod_gm.mif", position=4)
    csf_response = File(exists=True, argstr="%s fod_csf.mif", position=5)
    n_shells = traits.Int(
        mandatory=True, desc="shells beside b = 0; with one, grey matter is left out"
    )
    mask_file = File(exists=True, argstr="-mask %s")
    lmax = traits.Int(
        argstr="-lmax %s", desc="harmonic order of white matter; MRtrix3's 8 if none"
    )


class _EstimateFODsOutputSpec(TraitedSpec):
    fod_file = File(exists=True, desc="orientation distributions of white matter")


class EstimateFODs(MRtrixCommand):
    """``dwi2fod``: three tissues, or white matter and CSF where there is one shell.

    One shell and b = 0 are two measurements a direction: they tell two tissues apart, not three.
    Without b = 0 there is one, and white matter alone.
    """

    _cmd = "dwi2fod -force"
    input_spec = _EstimateFODsInputSpec
    output_spec = _EstimateFODsOutputSpec
    fix = "Look at the brain mask and at the b-values and b-vectors of the series."

    def _format_arg(self, name: str, trait_spec: Any, value: Any) -> Any:
        if name == "lmax":
            n_others = 0 if self.inputs.algorithm == "csd" else min(self.inputs.n_shells, 2)
            orders = [value] + [0] * n_others
            return f"-lmax {','.join(map(str, orders))}"
        return super()._format_arg(name, trait_spec, value)

    def _parse_inputs(self, skip: list[str] | None = None) -> Any:
        unused = ["gm_response"] if self.inputs.n_shells == 1 else []
        unused = ["gm_response", "csf_response"] if self.inputs.algorithm == "csd" else unused
        skip = [*(skip or []), *unused]
        return super()._parse_inputs(skip=skip)


class _MakeFiveTissueInputSpec(MRtrixInputSpec):
    algorithm = traits.Enum("fsl", "hsvs", mandatory=True, argstr="%s", position=0)
    in_file = File(
        exists=True, argstr="%s", position=1, xor=["subject_dir"], desc="fsl: T1w image"
    )
    subject_dir = Directory(
        exists=True, argstr="%s", position=1, xor=["in_file"], desc="hsvs: FreeSurfer subject"
    )
    out_file = File("five_tissue.nii.gz", usedefault=True, argstr="%s -force", position=2)
    mask_file = File(exists=True, argstr="-mask %s", desc="fsl: brain mask of the T1w image")


class _MakeFiveTissueOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="(X, Y, Z, 5) image in the space of its input")


class MakeFiveTissue(MRtrixCommand):
    """``5ttgen``: five tissues by FSL from a T1w image, or from FreeSurfer's surfaces."""

    _cmd = "5ttgen"
    input_spec = _MakeFiveTissueInputSpec
    output_spec = _MakeFiveTissueOutputSpec
    fix = (
        "Look at its input; with FreeSurfer's hippocampal subfields it needs FREESURFER_HOME. Or "
        "leave --five-tissue out: tissues then come from FreeSurfer's labels."
    )


class _TrackInputSpec(MRtrixInputSpec):
    in_file = File(exists=True, mandatory=True, argstr="%s", position=-2, desc="FODs")
    out_file = File("tracts.tck", usedefault=True, argstr="%s -force", position=-1)
    algorithm = traits.Enum("iFOD2", "SD_STREAM", usedefault=True, argstr="-algorithm %s")
    act_file = File(exists=True, argstr="-act %s", desc="five-tissue image")
    seed_dynamic = File(exists=True, argstr="-seed_dynamic %s", xor=["seed_rejection"])
    seed_rejection = File(exists=True, argstr="-seed_rejection %s", xor=["seed_dynamic"])
    n_streamlines = traits.Int(mandatory=True, argstr="-select %d")
    cutoff = traits.Float(mandatory=True, argstr="-cutoff %g")
    max_length_mm = traits.Float(mandatory=True, argstr="-maxlength %g")
    min_length_mm = traits.Float(mandatory=True, argstr="-minlength %g")
    step_mm = traits.Float(argstr="-step %g", desc="from the voxel size if none")
    angle_degrees = traits.Float(mandatory=True, argstr="-angle %g")
    downsample = traits.Int(argstr="-downsample %d", desc="keep every n-th point")
    # Nipype does not hash the environment, so the seed travels as an input of its own.
    random_seed = traits.Int(mandatory=True, desc="MRTRIX_RNG_SEED")


class _TrackOutputSpec(TraitedSpec):
    out_file = File(exists=True)


class Track(MRtrixCommand):
    """``tckgen``: streamlines by iFOD2 or SD_STREAM.

    Nipype's own Tractography writes all seeds to a text file and turns ``-nthreads 0`` into the
    number of processors, which makes streamlines that cannot be repeated.
    """

    _cmd = "tckgen"
    input_spec = _TrackInputSpec
    output_spec = _TrackOutputSpec
    fix = "Look at the FODs and the five-tissue image in the working folder."

    def _get_environ(self) -> dict[str, str]:
        return {**super()._get_environ(), "MRTRIX_RNG_SEED": str(self.inputs.random_seed)}

    def _run_interface(self, runtime: Any, correct_return_codes: tuple[int, ...] = (0,)) -> Any:
        runtime = super()._run_interface(runtime, correct_return_codes)
        file = Path(runtime.cwd) / self.inputs.out_file
        # Told here and not where it is read: a step that failed is done again by the next run.
        if int(read_header(file).get("count", 0)) == 0:
            raise InputError(
                f"tckgen selected 0 streamlines of {self.inputs.n_streamlines:,} "
                f"({self.inputs.algorithm})",
                where=runtime.cwd,
                fix="Look at the FODs, the mask and the five-tissue image: nothing could be "
                "tracked.",
            )
        return runtime


class _WeighStreamlinesInputSpec(MRtrixInputSpec):
    in_file = File(exists=True, mandatory=True, argstr="%s", position=-3)
    fod_file = File(exists=True, mandatory=True, argstr="%s", position=-2)
    out_file = File("weights.txt", usedefault=True, argstr="%s -force", position=-1)
    mu_file = File("mu.txt", usedefault=True, argstr="-out_mu %s")
    act_file = File(exists=True, argstr="-act %s", desc="five-tissue image")


class _WeighStreamlinesOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="text: a weight a streamline")
    mu_file = File(exists=True, desc="text: factor from weights to fibre density")


class WeighStreamlines(MRtrixCommand):
    """``tcksift2``: weights with which streamlines are as dense as the FODs say."""

    _cmd = "tcksift2"
    #: With ``-nthreads 0``, MRtrix3 3.0.3 optimises nothing, gives every streamline the weight 1
    #: and ends as if all were well. It has no random numbers: threads do not change the weights.
    fewest_workers = 1
    input_spec = _WeighStreamlinesInputSpec
    output_spec = _WeighStreamlinesOutputSpec
    fix = "Look whether FODs and tractogram are of one space."


class _MapDensityInputSpec(MRtrixInputSpec):
    in_file = File(exists=True, mandatory=True, argstr="%s", position=-2)
    out_file = File("density.nii.gz", usedefault=True, argstr="%s -force", position=-1)
    template_file = File(exists=True, mandatory=True, argstr="-template %s")


class _MapDensityOutputSpec(TraitedSpec):
    out_file = File(exists=True)


class MapDensity(MRtrixCommand):
    """``tckmap``: how many streamlines pass each voxel."""

    _cmd = "tckmap"
    input_spec = _MapDensityInputSpec
    output_spec = _MapDensityOutputSpec
    fix = "Look at the tractogram."
