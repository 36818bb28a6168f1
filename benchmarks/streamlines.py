# SPDX-License-Identifier: MIT
"""CPU time of structural connectomes: counting against ``tck2connectome``, and all but tracking.

Simulates a participant at the resolution of usual scans and measures its structural connectomes
with the program itself, by the recipe of the training data and with SIFT2. The steps run one after
the other, so that the CPU time of each, the programs that it runs included, is known. Then, in the
same run:

- the tables of all atlases from one read of each tractogram are made again and compared with six
  runs of ``tck2connectome`` on the same files, without worker threads and as it comes;
- ``tckgen`` and ``tcksift2`` do the same again for fewer streamlines, and the program counts
  those, too: what is to be added for more streamlines is the difference, without what dynamic
  seeding and the like take to start;
- what every group of steps takes is told and extrapolated to five million streamlines: steps that
  make or read streamlines along the line through both numbers, all others as they are;
- so are memory and disk.

    python benchmarks/streamlines.py --streamlines 200000 --fewer 50000

With ``--data`` and ``--labels`` it takes a participant's scan as QSIPrep leaves it, and its
atlases, in place of the simulated one:

    python benchmarks/streamlines.py --data derivatives/qsiprep \\
        --labels fs86=fs86.nii.gz shen268=shen268.nii.gz coco439=coco439.nii.gz

Or it only counts the streamlines of tractograms that are there already:

    python benchmarks/streamlines.py --tractograms ifod2act.tck sdstream.tck \\
        --labels fs86=fs86.nii.gz shen268=shen268.nii.gz coco439=coco439.nii.gz
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kraken_bids.atlases import load_atlas
from kraken_bids.connectome.structural import tabulate_pairs, tractogram_bytes
from kraken_bids.demo.dataset import Size, write_dataset
from kraken_bids.images.streamline_ends import AssignedStreamlines, assign_streamlines
from kraken_bids.workflows.structural import TRACKINGS

ATLASES = ("fs86", "shen268", "coco439")
RADIUS_MM = 4.0
N_FULL = 5_000_000
#: Diffusion volumes by b-value, of a usual series.
SHELLS = {0: 6, 1000: 30, 2000: 60}

TRACKING, WEIGHING, FODS = "tracking (tckgen)", "SIFT2 (tcksift2)", "responses and FODs"
#: Group of each step, and whether it takes the longer the more streamlines there are.
GROUPS: dict[str, tuple[str, bool]] = {
    "track_ifod2act": (TRACKING, True),
    "track_sdstream": (TRACKING, True),
    "weigh_ifod2act": (WEIGHING, True),
    "weigh_sdstream": (WEIGHING, True),
    "check": (FODS, False),
    "convert": (FODS, False),
    "responses": (FODS, False),
    "fods": (FODS, False),
    "five_tissue": ("tissues", False),
    "resample_tissues": ("tissues", False),
    "resample_labels": ("labels", False),
    "assign_ifod2act": ("ends and lengths", True),
    "assign_sdstream": ("ends and lengths", True),
    "connect": ("matrices", True),
    "map_density": ("figures", True),
    "fod_colours": ("figures", False),
    "overview": ("figures", True),
    "draw_structural_1_wf": ("figures", False),
    "ds_figure_structural_1_wf": ("figures", False),
    "ds_structural_1_wf": ("tables and sidecars", False),
    "page": ("page", False),
}
#: Logger that tells of the start and the end of each step.
EVENTS = "kraken_bids.progress"
OTHER, BETWEEN = "small steps", "start-up, between steps"

#: In place of a program of MRtrix3: runs it, and notes what it was told and what it took.
RECORDER = """\
#!{python} -SE
import json, os, sys
child = os.posix_spawn({program!r}, [{program!r}, *sys.argv[1:]], os.environ)
_, status, used = os.wait4(child, 0)
record = dict(words=["{name}", *sys.argv[1:]], cpu_s=used.ru_utime + used.ru_stime,
              peak_bytes=1024 * used.ru_maxrss)
with open({log!r}, "a") as log:
    log.write(json.dumps([os.path.basename(os.getcwd()), record]) + "\\n")
sys.exit(os.waitstatus_to_exitcode(status))
"""


@dataclass(frozen=True)
class Program:
    """A program that has run: its command line, CPU time in s and peak memory."""

    words: list[str]
    cpu_s: float
    peak_bytes: int


@dataclass(frozen=True)
class Run:
    """What a number of streamlines took: CPU time in s by step, and programs by step."""

    n_streamlines: int
    steps: dict[str, float]
    programs: dict[str, Program]

    def groups(self, *, growing: bool) -> dict[str, float]:
        """CPU time by group, of the steps that grow with streamlines or of the others."""
        total: dict[str, float] = {}
        for step, spent in self.steps.items():
            group, grows = GROUPS.get(step, (step if step == BETWEEN else OTHER, False))
            if growing == grows:
                total[group] = total.get(group, 0.0) + spent
        return total


def cpu_s() -> float:
    """CPU time of this process and of the programs that it has waited for."""
    whose = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, whose))


class Meter(logging.Handler):
    """Reads off the program's log when steps start and end, and takes their CPU time.

    Parameters
    ----------
    clock
        Gives the CPU time so far.
    """

    def __init__(self, clock: Callable[[], float] = cpu_s) -> None:
        super().__init__(logging.DEBUG)
        self._clock = clock
        self._start = 0.0
        #: CPU time in s by the step's name.
        self.steps: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Take note of ``(session, workflow.step, start or end)``."""
        words = record.args if isinstance(record.args, tuple) else ()
        if words[2:] == ("start",):
            self._start = self._clock()
        elif words[2:] == ("end",):
            step = str(words[1]).rpartition(".")[2]
            self.steps[step] = self.steps.get(step, 0.0) + self._clock() - self._start


def run_program(words: Sequence[str], log_file: Path) -> dict[str, float]:
    """Run ``kraken-bids`` in this process, which must be new; give the CPU time of its steps."""
    from kraken_bids.cli import main as kraken_bids

    meter, log = Meter(), logging.getLogger(EVENTS)
    log.addHandler(meter)
    log.setLevel(logging.DEBUG)
    with log_file.open("w") as sys.stderr:
        code = kraken_bids(words)
    if code:
        raise SystemExit(f"kraken-bids ended with {code}:\n{log_file.read_text()[-2000:]}")
    return {**meter.steps, BETWEEN: cpu_s() - sum(meter.steps.values())}


def put_recorders(folder: Path, programs: Sequence[str]) -> Path:
    """Put stand-ins for programs first on the path, for good; gives their log."""
    folder.mkdir(exist_ok=True)
    log = folder / "log.jsonl"
    for name in programs:
        program = shutil.which(name)
        if program is None:
            raise SystemExit(f"{name} is not there: install MRtrix3")
        text = RECORDER.format(python=sys.executable, name=name, program=program, log=str(log))
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return log


def read_records(log: Path, steps: Sequence[str]) -> dict[str, Program]:
    """What the programs noted last, by step."""
    records = dict(json.loads(line) for line in log.read_text().splitlines())
    return {step: Program(**records[step]) for step in steps}


def simulate(folder: Path, voxel_mm: float) -> Path:
    """Make the data set, where it is not there yet; give its folder."""
    if not folder.exists():
        size = Size(min(voxel_mm, 1.0), 4.0, voxel_mm, 0, SHELLS)
        write_dataset(folder, n_participants=2, n_runs=0, size=size)
    return folder


@dataclass(frozen=True)
class Scan:
    """Data set of one participant with one diffusion series, and label images by atlas, if any.

    ``prefix`` is that of the series' files.
    """

    data: Path
    labels: Mapping[str, Path]
    prefix: str

    @classmethod
    def find(cls, data: Path, labels: Mapping[str, Path]) -> Scan:
        """Look for the series of the first participant."""
        files = sorted(data.rglob("*_desc-preproc_dwi.nii.gz"))
        if not files:
            raise SystemExit(f"{data}: no *_desc-preproc_dwi.nii.gz, as QSIPrep leaves it")
        return cls(data, labels, files[0].name.partition("_desc-preproc")[0])

    @property
    def participant(self) -> str:
        """Label without ``sub-``."""
        return self.prefix.partition("_")[0].removeprefix("sub-")


def measure(scan: Scan, folder: Path, n_threads: int, *options: object) -> dict[str, float]:
    """Measure the participant's connectomes, step after step; the working folder stays."""
    made = folder / "steps.json"
    if not made.exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plugin.json").write_text('{"plugin": "Linear"}')
        words = [
            scan.data, folder / "out", "participant", "--participant-label", scan.participant,
            "--modality", "dwi",
            "--keep-work", "-w", folder / "work", "--use-plugin", folder / "plugin.json",
            "--nprocs", n_threads, "--omp-nthreads", n_threads, *options,
            "--atlas-file", *(f"{name}={file}" for name, file in scan.labels.items()),
        ]  # fmt: skip
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            steps = pool.submit(run_program, [*map(str, words)], folder / "log.txt").result()
        made.write_text(json.dumps(steps))
    found: dict[str, float] = json.loads(made.read_text())
    return found


def run_again(step: str, program: Program, folder: Path, changes: Mapping[str, str]) -> None:
    """Run a program again, in a folder of the step's name, with other words for some."""
    (folder / step).mkdir(parents=True, exist_ok=True)
    words = [
        changes.get(f"{before} {word}", changes.get(word, word))
        for before, word in pairwise(["", *program.words])
    ]
    environment = {**os.environ, "MRTRIX_QUIET": "1", "MRTRIX_RNG_SEED": "1"}
    subprocess.run(words, cwd=folder / step, env=environment, check=True)


def measure_fewer(
    scan: Scan, folder: Path, run: Run, n_streamlines: int, n_threads: int, log: Path
) -> Run:
    """Do all again that grows with streamlines."""
    ready = folder / "tractograms"
    ready.mkdir(parents=True, exist_ok=True)
    for name, algorithm in (("ifod2act", "ifod2"), ("sdstream", "sdstream")):
        track, weigh = f"track_{name}", f"weigh_{name}"
        made = folder / track / f"{name}.tck"
        link = ready / f"{scan.prefix}_model-{algorithm}_streamlines.tck"
        select = f"-select {run.n_streamlines}"
        if not link.is_symlink():
            run_again(track, run.programs[track], folder, {select: str(n_streamlines)})
            small = {word: str(made) for word in run.programs[weigh].words if "/track_" in word}
            run_again(weigh, run.programs[weigh], folder, small)
            link.symlink_to(made)
    programs = read_records(log, list(run.programs))
    steps = measure(
        scan, folder / "run", n_threads, "--streamlines", n_streamlines, "-d",
        f"tractograms={ready}",
    )  # fmt: skip
    spent = {step: program.cpu_s for step, program in programs.items()}
    return Run(n_streamlines, {**steps, **spent}, programs)


def count(
    tractogram: Path, labels: Mapping[str, Path]
) -> tuple[AssignedStreamlines, dict[str, NDArray[np.float64]]]:
    """Tables of all atlases by one read of a tractogram."""
    found = assign_streamlines(tractogram, labels, radius_mm=RADIUS_MM)
    tables = {
        name: tabulate_pairs(found.regions[name], n_regions=load_atlas(name).n_regions)
        for name in labels
    }
    return found, tables


def theirs(
    tractogram: Path, labels: Mapping[str, Path], folder: Path, *threads: object
) -> tuple[float, dict[str, NDArray[np.float64]]]:
    """CPU time and tables of ``tck2connectome``, once an atlas."""
    total, tables = 0.0, {}
    for name, file in labels.items():
        words = [
            "tck2connectome", tractogram, file, folder / "counts.csv", "-symmetric", "-force",
            "-keep_unassigned", "-assignment_radial_search", RADIUS_MM, "-quiet", *threads,
        ]  # fmt: skip
        before = cpu_s()
        subprocess.run([*map(str, words)], check=True)
        total += cpu_s() - before
        tables[name] = np.loadtxt(folder / "counts.csv", delimiter=",", comments="#")
    return total, tables


def compare_counting(
    tractograms: Mapping[str, Path], labels: Mapping[str, Path], folder: Path
) -> NDArray[np.float64]:
    """Tell the ratio of CPU times of the six tables, and whether they are equal.

    Returns
    -------
    NDArray
        (3,), CPU s: ours, ``tck2connectome``'s without worker threads and as it comes.
    """
    ours = plain = default = 0.0
    for name, tractogram in tractograms.items():
        start = time.process_time()
        found, tables = count(tractogram, labels)
        spent = time.process_time() - start
        spent_plain, expected = theirs(tractogram, labels, folder, "-nthreads", 0)
        spent_default, _ = theirs(tractogram, labels, folder)
        equal = all(np.array_equal(tables[atlas], expected[atlas]) for atlas in labels)
        print(f"{name}: {len(found.lengths_mm):,} streamlines, {found.lengths_mm.mean():.0f} mm; "
              f"{len(labels)} tables {spent:.2f} CPU s, "
              f"tck2connectome x {len(labels)} {spent_plain:.2f} "
              f"(default threads {spent_default:.2f}); equal: {equal}")  # fmt: skip
        ours, plain, default = ours + spent, plain + spent_plain, default + spent_default
    print(f"all {len(tractograms) * len(labels)}: {ours:.2f} CPU s; "
          f"tck2connectome / ours = {plain / ours:.1f} "
          f"(default threads {default / ours:.1f})\n")  # fmt: skip
    return np.array([ours, plain, default])


def tell_full_counting(
    few: NDArray[np.float64], many: NDArray[np.float64], fewer: int, more: int
) -> None:
    """Tell the ratio at five million, along the line through two numbers of streamlines."""
    ours, plain, default = many + (N_FULL - more) / (more - fewer) * (many - few)
    print(
        f"all six at {N_FULL:,}, extrapolated from {fewer:,} and {more:,}: {ours:.1f} CPU s; "
        f"tck2connectome / ours = {plain / ours:.1f} (default threads {default / ours:.1f})\n"
    )


def extrapolate(fewer: Run, run: Run, n_streamlines: int) -> dict[str, float]:
    """CPU time in s of each group with more streamlines than were tracked.

    Steps that grow are continued along the line through both runs; the others are as in `run`.
    """
    total, before = run.groups(growing=False), fewer.groups(growing=True)
    times = (n_streamlines - run.n_streamlines) / (run.n_streamlines - fewer.n_streamlines)
    for group, spent in run.groups(growing=True).items():
        total[group] = total.get(group, 0.0) + spent + times * (spent - before.get(group, 0.0))
    return total


def tell_times(fewer: Run, run: Run) -> None:
    """Tell the CPU time of each group, and the share of all but tracking."""
    full, few = extrapolate(fewer, run, N_FULL), fewer.groups(growing=True)
    fixed, grown = run.groups(growing=False), run.groups(growing=True)
    print(f"{'CPU s':26}{'fixed':>10}{fewer.n_streamlines:>12,}{run.n_streamlines:>12,}"
          f"{f'{N_FULL:,}*':>13}")  # fmt: skip
    for group in sorted(full, key=lambda name: -full[name]):
        values = (part.get(group, 0.0) for part in (fixed, few, grown))
        print("{:26}{:10.1f}{:12.1f}{:12.1f}".format(group, *values) + f"{full[group]:13.1f}")
    print(f"* fixed steps, and those that grow, extrapolated from {fewer.n_streamlines:,} and "
          f"{run.n_streamlines:,}")  # fmt: skip
    tracking, weighing, fods = (full[group] for group in (TRACKING, WEIGHING, FODS))
    besides = sum(full.values()) - tracking - weighing
    for told, part, whole in (
        ("tracking and SIFT2", besides, tracking + weighing),
        ("tracking", besides, tracking),
        (
            "tracking and SIFT2, responses and FODs not counted",
            besides - fods,
            tracking + weighing,
        ),
        ("tracking, responses and FODs not counted", besides - fods, tracking),
    ):
        print(f"all else at {N_FULL:,}*, in % of {told}: {100 * part / whole:.1f}")
    print()


def tell_room(fewer: Run, run: Run, tractograms: Mapping[str, Path]) -> None:
    """Tell peak memory of the programs, and the size of tractograms."""
    for step in run.programs:
        peaks = [made.programs[step].peak_bytes / 1e9 for made in (fewer, run)]
        more = 1e6 * (peaks[1] - peaks[0]) / (run.n_streamlines - fewer.n_streamlines)
        print(f"{step}: peak {peaks[0]:.2f}, {peaks[1]:.2f} GB: {more:.2f} GB a million more")
    for name, tractogram in tractograms.items():
        size = tractogram.stat().st_size / run.n_streamlines / 1e3
        spacing = [TRACKINGS[name].point_spacing_mm]
        guess = tractogram_bytes(1_000_000, point_spacing_mm=spacing) / 1e9
        print(f"{name}.tck: {size:.2f} GB a million streamlines, estimated {guess:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--streamlines", type=int, default=200_000, help="of each tractogram")
    parser.add_argument("--fewer", type=int, default=50_000, help="to tell what grows with them")
    parser.add_argument("--voxel-mm", type=float, default=2.0, help="of the diffusion series")
    parser.add_argument("--threads", type=int, default=2, help="of MRtrix3")
    parser.add_argument("--work-dir", type=Path, help="keep files here, and go on from them")
    parser.add_argument("--tractograms", type=Path, nargs="+", help="count these, track none")
    parser.add_argument(
        "--labels", nargs="+", default=[], help="ATLAS=FILE, of --tractograms or --data"
    )
    parser.add_argument("--data", type=Path, help="QSIPrep's, in place of simulated data")
    options = parser.parse_args()
    if (options.tractograms is None and options.data is None) == bool(options.labels):
        parser.error("--labels go with --tractograms or --data, and these with --labels")
    pairs = (words.partition("=") for words in options.labels)
    labels = {atlas: Path(file).absolute() for atlas, _, file in pairs}
    if options.tractograms:
        tractograms = {file.stem: file.absolute() for file in options.tractograms}
        with tempfile.TemporaryDirectory() as temporary:
            compare_counting(tractograms, labels, Path(temporary))
        return
    if options.fewer >= options.streamlines:
        parser.error("--fewer: fewer than --streamlines are needed")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.work_dir or temporary).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        log = put_recorders(folder / "bin", ["tckgen", "tcksift2"])
        whole = folder / "whole"
        scan = Scan.find(options.data or simulate(folder / "data", options.voxel_mm), labels)
        if not labels:
            files = {name: scan.data / "atlases" / f"{name}_dseg.nii.gz" for name in ATLASES[1:]}
            scan = replace(scan, labels=files)
        n, threads = options.streamlines, options.threads
        steps = measure(scan, whole, threads, "--streamlines", n, "--sift2")
        found = whole / "programs.json"
        if not found.exists():
            made = read_records(
                log, [f"{do}_{name}" for do in ("track", "weigh") for name in TRACKINGS]
            )
            found.write_text(json.dumps({step: asdict(program) for step, program in made.items()}))
        programs = {
            step: Program(**program) for step, program in json.loads(found.read_text()).items()
        }
        run = Run(n, steps, programs)
        work = next((whole / "work").rglob("structural_1_wf"))
        tractograms = {name: work / f"track_{name}" / f"{name}.tck" for name in TRACKINGS}
        images = {name: work / "resample_labels" / f"{name}_dseg.nii.gz" for name in ATLASES}
        many = compare_counting(tractograms, images, folder)
        fewer = measure_fewer(scan, folder / "fewer", run, options.fewer, threads, log)
        some = {name: folder / "fewer" / f"track_{name}" / f"{name}.tck" for name in TRACKINGS}
        few = compare_counting(some, images, folder)
        tell_full_counting(few, many, options.fewer, n)
        tell_times(fewer, run)
        tell_room(fewer, run, tractograms)


if __name__ == "__main__":
    main()
