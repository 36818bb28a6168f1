# SPDX-License-Identifier: MIT
"""``kraken-model train``: files of connectomes to a trained model."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..console import n_of
from ..errors import UsageError
from .options import ProblemList

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..model.training import TrainingOptions

_log = logging.getLogger(__name__)

_EARLY_STOPPING = """epochs without a better average rank in validation after which training ends
with the best weights; 0: all epochs"""

#: Lines of the log that tell how far a training has come, where no bar is drawn.
_N_LINES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``train``."""
    from ..model.training.options import HIDDEN_ACTIVATIONS, PRECISIONS, SCHEDULES
    from ..model.training.options import TrainingOptions as Default

    parser.add_argument(
        "--input", nargs="+", required=True, metavar="FLAVOR=PATH",
        help="connectomes of any atlas: .mat, .npy, .npz, .csv, .tsv, .h5, .zip or a folder; "
        "participants are matched by id, those without all flavors are left out",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="bundle to make")
    parser.add_argument(
        "--transforms", type=Path, nargs="+", default=[], metavar="F.npy",
        help="transforms to use; of other flavors a PCA is fitted",
    )  # fmt: skip
    _add_target(parser)
    _add_split(parser)
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument(
        "--schedule", choices=SCHEDULES, default=Default.schedule,
        help="; ".join(f"{name}: {row.description}" for name, row in SCHEDULES.items())
        + f" (default: {Default.schedule})",
    )  # fmt: skip
    recipe.add_argument(
        "--loss", default="", metavar="TEXT",
        help="terms and weights, such as correye+enceye.w10+mse.w1000 (default: "
        + "; ".join(f"{name}: {row.loss}" for name, row in SCHEDULES.items()) + ")",
    )  # fmt: skip
    for option, field, text in (
        ("--components", "n_components", "features of each flavor's PCA"),
        ("--latent-size", "latent_size", "length of a latent"),
        ("--batch-size", "batch_size", "participants a step"),
        ("--weight-decay", "weight_decay", "of AdamW"),
        ("--dropout", "dropout", "share of values dropped while training"),
        ("--seed", "seed", "of all random numbers"),
        ("--early-stopping", "early_stopping", _EARLY_STOPPING),
    ):  # fmt: skip
        default = getattr(Default, field)
        recipe.add_argument(
            option, dest=field, type=type(default), default=default, metavar="N",
            help=f"{text} (default: {default})",
        )  # fmt: skip
    for option, field, kind in (("--epochs", "epochs", int), ("--learning-rate", "learning_rate",
                                                             float)):  # fmt: skip
        known = ", ".join(f"{name}: {getattr(row, field):g}" for name, row in SCHEDULES.items())
        recipe.add_argument(
            option, type=_positive(kind), default=0, metavar="N", help=f"(default: {known})"
        )
    recipe.add_argument(
        "--hidden-sizes", type=int, nargs="+", default=(), metavar="N",
        help="sizes of layers between features and latent (default: none)",
    )  # fmt: skip
    recipe.add_argument(
        "--activation", default=Default.activation, metavar="NAME",
        help=f"behind these: {', '.join(HIDDEN_ACTIVATIONS)} (default: {Default.activation})",
    )  # fmt: skip
    recipe.add_argument(
        "--intergroup", action="store_true",
        help="structural and functional flavors have latent spaces of their own, and a transform "
        "each way",
    )  # fmt: skip
    _add_records(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, or cuda[:n] (default: auto)")
    parser.add_argument(
        "--nprocs", type=int, metavar="N",
        help="threads, which change nothing in the model; steps of the joint schedule use up to 2 "
        "(default: the cores that are there)",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=PRECISIONS, default=Default.precision,
        help="of products of layers while training (joint schedule); bfloat16 is mixed precision, "
        f"for GPUs (default: {Default.precision})",
    )  # fmt: skip


def _add_target(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("flavors for a model that is there already")
    group.add_argument(
        "--target-latents", default="", metavar="[NAME=]FILE",
        help="latents by participant that each flavor is trained to, as 'kraken-model predict "
        "--latents' writes them (default NAME: encoded); 'kraken-model merge' joins the models",
    )  # fmt: skip
    group.add_argument(
        "--latents-of", default="", metavar="MODEL",
        help="the model whose latents these are: says their length, and is recorded",
    )  # fmt: skip


def _add_split(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("who trains")
    group.add_argument(
        "--validation", type=float, default=0.0, metavar="SHARE",
        help="share of those not for the test who are watched while training (default: 0)",
    )  # fmt: skip
    group.add_argument(
        "--test", type=float, default=0.0, metavar="SHARE",
        help="share of participants who are kept for the end (default: 0)",
    )  # fmt: skip
    group.add_argument(
        "--group-column", metavar="FILE:COLUMN",
        help="column of a table with participant_id: who share its value stay together",
    )  # fmt: skip
    group.add_argument(
        "--split", type=Path, metavar="FILE",
        help="table of participant_id and split (train, validation, test), in place of a lot",
    )  # fmt: skip


def _add_records(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("records")
    group.add_argument(
        "--records", type=Path, metavar="DIR",
        help="folder of training.tsv, validation.tsv, split.tsv, their figures and checkpoint.npz "
        "(default: OUTPUT-training)",
    )  # fmt: skip
    group.add_argument(
        "--checkpoint-every", type=_positive(int), default=100, metavar="N",
        help="epochs between two checkpoints (default: 100)",
    )  # fmt: skip
    group.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint of the same command"
    )


def _positive(kind: type[int | float]):  # type: ignore[no-untyped-def]
    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    parse.__name__ = kind.__name__
    return parse


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``train``."""
    from dataclasses import replace

    from ..machine import available_cores
    from ..model.bundle import check_bundle_folder
    from ..model.krakencoder import resolve_device
    from ..model.training import Records, Scratch, train_krakencoder
    from ..model.training.cohort_checks import check_precision, check_target_options
    from ..model.training.records import SPLIT_NAME, write_split
    from ..model.typical import note_typical
    from .options import check_nprocs
    from .training_figures import LiveCurves, draw_records
    from .training_setup import (
        check_transforms,
        describe_data,
        make_split,
        open_cohort,
        read_cohort,
        read_tables,
    )
    from .training_target import open_target

    problems = ProblemList()
    options = _options(arguments)
    target = None
    with problems.gathering():
        target = open_target(arguments)
    if target is not None:
        options = replace(options, latent_size=target.latent_size, normalize=target.is_normalised)
    with problems.gathering():
        options = options.resolved()
        if arguments.target_latents:
            check_target_options(options)
    with problems.gathering():
        device = resolve_device(arguments.device)
        check_precision(options, device)
    with problems.gathering():
        check_nprocs(arguments.nprocs)
    tables = read_tables(arguments, problems)
    folder = arguments.records or arguments.output.with_name(f"{arguments.output.name}-training")
    if folder == arguments.output:
        problems.add([
            UsageError("is the bundle's folder", where="--records", fix="Give another one.")
        ])
    with problems.gathering():
        check_bundle_folder(arguments.output)
    with problems.gathering():
        opened = open_cohort(arguments.input, target)
        check_transforms(tables, opened)
    problems.tell()
    data = describe_data(arguments, opened)
    scratch = Scratch(folder)
    cohort = read_cohort(opened, scratch)
    cohort, split = make_split(
        cohort, tables, validation=arguments.validation, test=arguments.test, seed=arguments.seed
    )
    bundle = train_krakencoder(
        cohort.connectomes,
        arguments.output,
        options=options,
        split=split,
        transforms={n: t for n, t in tables.transforms.items() if n in cohort.connectomes},
        target_latents=cohort.latents,
        provenance={**data, **(target.provenance if target else {})},
        records=Records(folder, arguments.checkpoint_every, arguments.resume),
        scratch=scratch,
        device=device,
        n_threads=arguments.nprocs or available_cores(),
        progress=_Progress(options.epochs, LiveCurves(folder)),
    )
    watched = split.validation
    note_typical(bundle, {name: edges[watched] for name, edges in cohort.connectomes.items()})
    write_split(folder / SPLIT_NAME, cohort.participants, split.labels())
    n_epochs = bundle.config["provenance"]["n_epochs"]
    draw_records(folder, taken=n_epochs if options.early_stopping else 0)
    n_flavors = n_of(len(bundle.flavors), "flavor")
    _log.info("%s: %s, SHA-256 %s", bundle.path, n_flavors, bundle.sha256)
    return 0


def _options(arguments: argparse.Namespace) -> TrainingOptions:
    """Take the recipe from the command line."""
    from dataclasses import fields

    from ..model.training import TrainingOptions

    names = {field.name for field in fields(TrainingOptions)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    return TrainingOptions(**{**given, "hidden_sizes": tuple(arguments.hidden_sizes)})


class _Progress:
    """A bar with loss and time left on a terminal, else some lines of the log; and curves."""

    def __init__(self, n_epochs: int, draw: Callable[[], None]) -> None:
        self._n_epochs, self._draw = n_epochs, draw
        self._is_terminal = sys.stderr.isatty()
        self._start, self._first, self._told = time.monotonic(), 0, 0.0

    def __call__(self, epoch: int, loss: float) -> None:
        """Tell of an epoch."""
        self._draw()
        now = time.monotonic()
        if not self._first:  # a training that goes on does not start at 1
            self._first, self._start = epoch, now
        done, is_last = epoch - self._first, epoch == self._n_epochs
        left = (now - self._start) / done * (self._n_epochs - epoch) if done else 0.0
        text = f"epoch {epoch} of {self._n_epochs}, loss {loss:.4g}"
        if done and not is_last:
            text += f", {_duration(left)} left"
        if not self._is_terminal:
            if epoch % max(self._n_epochs // _N_LINES, 1) == 0 or is_last or not done:
                _log.info("%s", text)
        elif is_last or now - self._told > 0.1:
            self._told = now
            filled = 30 * epoch // self._n_epochs
            bar = "#" * filled + "-" * (30 - filled)
            print(f"\r[{bar}] {text}\x1b[K", end="\n" if is_last else "", file=sys.stderr)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
