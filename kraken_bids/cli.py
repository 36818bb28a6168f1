# SPDX-License-Identifier: MIT
"""``kraken-bids``: arguments to settings to exit code.

Nothing heavy is imported before the arguments are understood: ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from . import __version__
from .console import start_logging
from .errors import KrakenBIDSError
from .parser import Parser, add_completion

EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130

EXAMPLES = """\
examples:
  what is there for whom, and what is missing:
    kraken-bids /data/study out participant --dry-run
  two participants, with derivatives that lie elsewhere:
    kraken-bids /data/study out participant --participant-label 01 02 -w /scratch/kraken \\
        -d fmriprep=/data/fmriprep qsiprep=/data/qsiprep --nprocs 8 --mem 16G
  how far all participants are, whichever jobs they are run by:
    kraken-bids /data/study out participant --status
  all kinds of connectomes of the finished participants:
    kraken-bids /data/study out group --model krakencoder-2024
  completion by Tab, in this shell:
    source <(kraken-bids --print-completion bash)
exit codes:
  0 all done; 1 some participants failed; 2 usage; 3 inputs or resources; 70 internal error
"""


def _flavors() -> list[str]:
    from .flavors import CORE_FLAVORS

    return [str(flavor) for flavor in CORE_FLAVORS]


def _atlases() -> list[str]:
    from .atlases import atlas_names

    return list(atlas_names())


#: What Tab completes where an option leaves more open than a list of choices.
OPEN_VALUES: dict[str, Callable[[], Sequence[str]]] = {
    "atlases": _atlases,
    "flavors": _flavors,
    "predict_to": _flavors,
    "five_tissue": lambda: ["auto", "freesurfer", "hsvs", "fsl", "maps"],
    "adaptation": lambda: ["none", "meanshift", "meanfit", "meanfit+meanshift"],
    "device": lambda: ["auto", "cpu", "cuda"],
}


def make_parser(
    *,
    prog: str = "kraken-bids",
    description: str = "Connectomes from BIDS derivatives, measured and predicted.",
    levels: tuple[str, ...] = ("participant", "group"),
    default_level: str = "",
    epilog: str = EXAMPLES,
) -> argparse.ArgumentParser:
    """Make the parser of ``kraken-bids``, or of a program that takes the same options.

    Parameters
    ----------
    prog, description, epilog
        Its name, and what ``--help`` says.
    levels, default_level
        Choices of the third argument; without a default it must be given.
    """
    told = "{" + ",".join(levels) + "}"
    parser = Parser(
        prog=prog,
        usage=f"{prog} BIDS_DIR OUTPUT_DIR {f'[{told}]' if default_level else told} [options]",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("bids_dir", metavar="BIDS_DIR", help="BIDS data set (raw or derivative)")
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", help="where outputs go")
    parser.add_argument(
        "level",
        choices=levels,
        help="measure connectomes, or translate those of the finished participants",
        nargs="?" if default_level else None,
        default=default_level or None,
    )
    parser.add_argument("--version", action="version", version=f"{prog} {__version__}")
    _add_selection(parser.add_argument_group("which scans"))
    _add_inputs(parser.add_argument_group("inputs"))
    _add_recipes(parser.add_argument_group("connectomes"))
    _add_translation(parser.add_argument_group("Krakencoder"))
    _add_execution(parser.add_argument_group("execution"))
    other = parser.add_argument_group("other")
    _add_other(other)
    add_completion(parser, other, values=OPEN_VALUES)
    return parser


def _add_selection(group: argparse._ArgumentGroup) -> None:
    listed: dict[str, Any] = {"nargs": "+", "default": [], "metavar": "LABEL"}
    group.add_argument(
        "--participant-label", **listed, help="participants, with or without sub-, or @FILE"
    )
    group.add_argument(
        "--session-id", "--session-label", **listed, help="sessions, with or without ses-"
    )
    group.add_argument("-t", "--task-id", **listed, help="tasks")
    group.add_argument("--run-id", **listed, help="runs")
    group.add_argument(
        "--bids-filter-file", metavar="FILE", help="JSON with entities for each kind of input"
    )


def _add_inputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-d", "--derivatives", "--datasets",
        nargs="+", default=[], metavar="NAME=PATH", action="extend",
        help="input derivatives: fmriprep, xcp_d, qsiprep, qsirecon, tractograms (.tck, .trk, "
        ".trx of any program), timeseries (denoised series of regions), connectomes "
        "(ready-made; participant: connectomes=[FLAVOR=]PATH, may be repeated); "
        "others are found under BIDS_DIR/derivatives",
    )  # fmt: skip
    group.add_argument(
        "--fs-subjects-dir", metavar="DIR", help="FreeSurfer subjects (read only; no licence)"
    )
    group.add_argument(
        "--force", action="store_true",
        help="take series of XCP-D, or ready-made ones, that do not fit the recipe of the models, "
        "too, and mark outputs; take b-vectors that seem to be wrong, and labels that seem to "
        "lie elsewhere in the image",
    )  # fmt: skip
    group.add_argument(
        "--bids-database-dir", metavar="DIR", help="keep pybids' index of the inputs here"
    )


def _add_recipes(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--atlases", nargs="+", default=[], metavar="NAME", help="default: fs86 shen268 coco439"
    )
    group.add_argument(
        "--atlas-file",
        nargs="+", default=[], metavar="NAME=FILE", action="extend",
        help="label image in MNI152NLin6Asym in place of the published one",
    )  # fmt: skip
    group.add_argument(
        "--coco439", choices=("auto", "subject", "group"), default="auto",
        help="labels of coco439: the participant's own, built from FreeSurfer's files where they "
        "allow it, else the published group image; or always one of the two",
    )  # fmt: skip
    group.add_argument(
        "--modality", choices=("func", "dwi"), help="functional or structural branch only"
    )
    group.add_argument(
        "--flavors", nargs="+", default=[], metavar="FLAVOR", help="subset of connectome types"
    )
    group.add_argument(
        "--compcor", choices=("exact", "columns"), default="exact",
        help="tissue components from own masks, or fMRIPrep's aCompCor columns",
    )  # fmt: skip
    group.add_argument(
        "--gsr-source", choices=("grey_matter", "global_signal"), default="grey_matter",
        help="signal regressed for the gsr flavor",
    )  # fmt: skip
    group.add_argument(
        "--outliers", choices=("recipe", "fmriprep"), default="recipe",
        help="volumes left out: found by the recipe, or fMRIPrep's motion outliers",
    )  # fmt: skip
    group.add_argument(
        "--hpf-edge", metavar="HZ|fmriclean", default="0.0029",
        help="width (SD) of the high-pass filter's edge; default 0.0029 Hz as in the training "
        "data; fmriclean: that program's rule in bins",
    )  # fmt: skip
    group.add_argument(
        "--min-coverage", metavar="SHARE", default="0",
        help="regions with less of their voxels in the image become n/a (0 to 1); default 0: "
        "those without any",
    )  # fmt: skip
    group.add_argument(
        "--denoising", default="recipe",
        choices=("recipe", "simple", "scrubbing", "compcor", "ica_aroma"),
        help="the training recipe, or nilearn's strategy of that name: connectomes are then "
        "marked desc-STRATEGY, and the group level takes them only with the same option",
    )  # fmt: skip
    group.add_argument(
        "--pcorr-lambda", nargs="+", default=[], metavar="search|ATLAS=VALUE",
        help="lambda of the partial correlation. Default: 0.06 (training value of fs86, our "
        "choice for others, which the group level searches where the model has a published "
        "target). ATLAS=VALUE fixes it: FCpcorr is then made with fewer degrees of freedom than "
        "regions, too. ATLAS=search, or search for all: searched by the group level",
    )  # fmt: skip
    group.add_argument(
        "--pcorr-target", nargs="+", default=[], metavar="ATLAS=FILE",
        help="precision matrix to search lambda against; default: the published one",
    )  # fmt: skip
    group.add_argument(
        "--streamlines", metavar="N", default="5M", help="per algorithm; 5M, 20k or a number"
    )
    group.add_argument(
        "--assignment-radius", type=float, default=4.0, metavar="MM",
        help="search radius at the ends of streamlines; default 4",
    )  # fmt: skip
    group.add_argument(
        "--five-tissue", metavar="{auto,freesurfer,hsvs,fsl,maps}|FILE", default="auto",
        help="tissues that constrain iFOD2. auto: QSIRecon's hsvs image, else FreeSurfer's "
        "labels, else QSIPrep's maps; hsvs and fsl: 5ttgen (fsl needs FSL); FILE: your image in "
        "the space of the DWI, {participant} and {session} in its name stand for labels",
    )  # fmt: skip
    group.add_argument(
        "--random-seed", type=int, default=1, metavar="N",
        help="of tractography; streamlines repeat with it for one thread only (--omp-nthreads 1)",
    )  # fmt: skip
    group.add_argument(
        "--sift2", action="store_true",
        help="weigh streamlines by SIFT2: connectomes of the sums of weights, too",
    )  # fmt: skip
    group.add_argument("--keep-tractograms", action="store_true", help="keep the .tck files")
    group.add_argument(
        "--keep-assignments", action="store_true",
        help="keep the regions in which each streamline ends",
    )  # fmt: skip
    group.add_argument("--sloppy", action="store_true", help="quick and poor, for trying out")


def _add_translation(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model", metavar="NAME|DIR", help="krakencoder-2024 or a bundle (group: default "
        "krakencoder-2024)"
    )  # fmt: skip
    group.add_argument("--model-dir", metavar="DIR", help="where fetched models are kept")
    group.add_argument(
        "--adaptation", metavar="MODE|FILE", default="meanfit+meanshift",
        help="none, meanshift, meanfit, meanfit+meanshift (default) or a fitted file",
    )  # fmt: skip
    group.add_argument(
        "--adapt-by", metavar="COLUMN", default="", help="adapt each site of participants.tsv"
    )
    group.add_argument(
        "--fusion", nargs="+", metavar="NAME=MEMBERS",
        default=["fusion=all", "fusionSC=SC", "fusionFC=FC"],
        help="fused latents; members: all, SC, FC or flavors, separated by commas",
    )  # fmt: skip
    group.add_argument(
        "--predict-from", nargs="+", default=[], metavar="SOURCE", help="default: the fusions"
    )
    group.add_argument(
        "--predict-to", nargs="+", default=[], metavar="FLAVOR", help="default: all of the model"
    )
    group.add_argument(
        "--output-label", metavar="LABEL", default="", help="derivatives/krakencoder-LABEL"
    )
    group.add_argument("--device", default="auto", metavar="{auto,cpu,cuda[:N]}", help="for torch")
    group.add_argument(
        "--relmat-format", choices=["tsv", "h5"], default="tsv",
        help="predicted connectomes: a table each, or one HDF5 file a session (default: tsv)",
    )  # fmt: skip


def _add_execution(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--nprocs", "--nthreads", "--n-cpus", type=int, metavar="N",
        help="threads in all; default: those of the job or container",
    )  # fmt: skip
    group.add_argument(
        "--omp-nthreads", type=int, metavar="N",
        help="threads of one program; with 1 (default) tractography repeats bit for bit",
    )  # fmt: skip
    group.add_argument(
        "--mem", "--mem-gb", metavar="AMOUNT",
        help="such as 8G, 1.5G, 7500MB; default: 90%% of that of the job or container",
    )  # fmt: skip
    group.add_argument("--mem-mb", metavar="N", help="the same in MB")
    group.add_argument(
        "-w", "--work-dir", metavar="DIR",
        help="scratch space; tractograms take 1.6 + 2.6 GB a million --streamlines of a session",
    )  # fmt: skip
    group.add_argument("--keep-work", action="store_true", help="keep it after success")
    group.add_argument(
        "--use-plugin", "--nipype-plugin-file", metavar="FILE",
        help="one job a step on a cluster: YAML or JSON that names a plugin of Nipype (SLURM, "
        "SLURMGraph, PBS, SGE), and its arguments",
    )  # fmt: skip
    group.add_argument("--resource-monitor", action="store_true", help="record memory and CPU")
    group.add_argument("--write-graph", action="store_true", help="draw the workflow in logs/")
    group.add_argument(
        "--stop-on-first-crash", action="store_true", help="stop everything at one failure"
    )


def _add_other(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--config-file", metavar="FILE", help="options in TOML; those that are typed win"
    )
    group.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    group.add_argument(
        "--status", action="store_true", help="a table: who is done, at work, failed"
    )
    group.add_argument("--reports-only", action="store_true", help="write the pages again")
    group.add_argument("--boilerplate-only", action="store_true", help="print the methods text")
    group.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="tell every step; -vv: Nipype's log, too",
    )
    group.add_argument("-q", "--quiet", action="store_true", help="errors only")
    for ignored in ("--notrack", "--skip-bids-validation"):
        group.add_argument(
            ignored, action="store_true", help="accepted; there is no telemetry and no validation"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``kraken-bids``.

    Parameters
    ----------
    arguments
        Those of the command line if None.

    Returns
    -------
    int
        Exit code: 0 all done, 1 some participants failed, 2 usage, 3 inputs or resources, 70
        internal error, 130 interrupted.
    """
    parser = make_parser()
    namespace = parser.parse_args(arguments)

    def carry_out() -> int:
        from .arguments import config_text, settings_from
        from .run import run

        settings = settings_from(namespace, parser)
        return run(settings, action=_action(namespace), config=config_text(namespace))

    return run_command(carry_out, namespace, prog=parser.prog)


def run_command(carry_out: Callable[[], int], namespace: argparse.Namespace, *, prog: str) -> int:
    """Run the body of a program, and tell its errors as messages.

    Parameters
    ----------
    carry_out
        Gives the exit code.
    namespace
        Parsed arguments, with ``verbose`` and ``quiet``.
    prog
        Name of the program.
    """
    answers = namespace.status or namespace.boilerplate_only
    start_logging(namespace.verbose, quiet=namespace.quiet, answers=answers)
    # Schedulers end jobs by SIGTERM, also while these still look for their inputs.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return carry_out()
    except KrakenBIDSError as error:
        print(f"{prog}: {_heading(error)}{error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; run again to go on from here", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return 0
    except Exception:  # the last resort: a bug of ours, told as such
        logging.getLogger(__name__).critical(
            "internal error: please report it with these lines", exc_info=True
        )
        return EXIT_INTERNAL
    finally:
        signal.signal(signal.SIGTERM, before)


def _heading(error: KrakenBIDSError) -> str:
    return "nothing was run:\n" if "\n" in str(error) else ""


def _action(namespace: argparse.Namespace) -> str:
    actions = ("dry_run", "status", "reports_only", "boilerplate_only")
    return next((action for action in actions if getattr(namespace, action)), "run")


if __name__ == "__main__":
    sys.exit(main())
