# SPDX-License-Identifier: MIT
"""``kraken-model predict``: files of connectomes to predicted connectomes and latents."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..console import n_of
from .options import add_model_arguments

if TYPE_CHECKING:
    from ..model.cohort_reading import CohortReader
    from ..model.cohort_run import CohortLatents
    from .prediction_setup import Setup

_log = logging.getLogger(__name__)

#: Seconds between two lines about progress, where there is no terminal.
_SECONDS_BETWEEN = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``predict``."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    add_adaptation_arguments(parser)
    add_choice_arguments(parser)
    parser.add_argument(
        "--predict-scale", choices=["training", "input"], default="training",
        help="scale of the predictions: of the training data, or mapped back through the "
        "target's own adaptation (default: training)",
    )  # fmt: skip
    parser.add_argument("--latents", action="store_true", help="write latents too")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE|DIR",
        help=".npz, .h5, .mat (the reference program's layout; {input} and {output} in its name "
        "make several files), or a folder of BIDS files",
    )  # fmt: skip
    parser.add_argument(
        "--square", action="store_true", help="write matrices in place of upper triangles"
    )
    parser.add_argument(
        "--nprocs", type=int, metavar="N", help="threads (default: the cores that are there)"
    )


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name connectomes and participants."""
    data = parser.add_argument_group("connectomes")
    data.add_argument(
        "--input", nargs="+", action="extend", required=True, metavar="FLAVOR=FILE",
        help="files or folders of connectomes; FLAVOR= may be left out where the file or its name "
        "tells; participants are matched by id; 'encoded=FILE' for latents",
    )  # fmt: skip
    data.add_argument(
        "--participant-label", nargs="+", action="extend", default=[], metavar="ID",
        help="use these participants only (default: all)",
    )  # fmt: skip


def add_adaptation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the adaptation."""
    group = parser.add_argument_group("adaptation to the scale of the training data")
    group.add_argument(
        "--adaptation", default="none", metavar="MODE|FILE",
        help="none, meanshift, meanfit, meanfit+meanshift, or a fitted file (default: none)",
    )  # fmt: skip
    group.add_argument(
        "--adaptation-source", nargs="+", action="extend", default=[], metavar="FLAVOR=FILE",
        help="fit the adaptation on these connectomes in place of the inputs",
    )  # fmt: skip
    group.add_argument(
        "--fit-on", nargs="+", action="extend", default=[], metavar="ID|FILE",
        help="fit on these participants only: ids, or a table with participant_id, or a list",
    )  # fmt: skip
    group.add_argument("--adapt-by", default="", metavar="COLUMN", help="fit each site on its own")
    group.add_argument(
        "--participants", type=Path, metavar="FILE.tsv", help="table with the column of sites"
    )
    group.add_argument(
        "--save-adaptation", type=Path, metavar="FILE", help="keep the fit (.safetensors)"
    )


def add_choice_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose sources and targets."""
    what = parser.add_argument_group("what to predict")
    what.add_argument(
        "--fusion", nargs="+", action="extend", default=[], metavar="NAME=MEMBERS",
        help="mean of latents; MEMBERS are flavors, all, SC, FC or an atlas, with commas between",
    )  # fmt: skip
    what.add_argument("--fusion-normalize", action="store_true", help="fused latents of length 1")
    what.add_argument(
        "--fusion-variants", nargs="+", default=[], choices=["noself", "noatlas"],
        help="also fuse without the target's flavor, or without its atlas",
    )  # fmt: skip
    what.add_argument("--only-fusion", action="store_true", help="leave out single flavors")
    what.add_argument(
        "--predict-from", nargs="+", action="extend", default=[], metavar="SOURCE",
        help="flavors and fusions (default: all inputs and fusions)",
    )  # fmt: skip
    what.add_argument(
        "--predict-to", nargs="+", action="extend", default=[], metavar="TARGET",
        help="flavors, all, SC, FC, an atlas, self, or encoded for latents (default: all)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``predict``."""
    from .prediction_setup import prepare

    with ExitStack() as stack:
        setup = prepare(arguments, stack)
        n_threads = stack.enter_context(computing_threads(arguments.nprocs))
        _predict(setup, arguments, n_threads=n_threads)
    return 0


@contextmanager
def computing_threads(asked: int | None) -> Iterator[int]:
    """Share the cores out: threads of ours, and of each the threads that multiply matrices."""
    from threadpoolctl import threadpool_limits

    from ..machine import available_cores
    from ..model.cohort_run import N_THREADS

    cores = asked or available_cores()
    n_threads = min(cores, N_THREADS)
    with threadpool_limits(limits=max(1, cores // n_threads)):
        yield n_threads


def _predict(setup: Setup, arguments: argparse.Namespace, *, n_threads: int) -> None:
    """Read and encode, then decode and write."""
    from ..formats.writing.opening import open_output
    from ..model.adaptation_file import save_adaptations
    from ..model.cohort_run import decode_cohort, encode_cohort, source_latents
    from ..model.krakencoder import Krakencoder

    model = Krakencoder(setup.bundle, device=arguments.device)
    told = _Progress()
    reader = setup.make_reader()
    latents = setup.read_latents()
    cohort = encode_cohort(model, reader, latents=latents, n_threads=n_threads, progress=told)
    told.close()
    tell_reading(reader)
    if arguments.save_adaptation:
        provenance = {
            "model": setup.bundle.name,
            "model_sha256": setup.bundle.sha256,
            **setup.lambdas,
        }
        save_adaptations(arguments.save_adaptation, reader.fits, provenance=provenance)
        _log.info("%s: adaptations of %d fits", arguments.save_adaptation, len(reader.fits))
    facts = setup.facts(cohort.present)
    with open_output(arguments.output, participants=cohort.participants, facts=facts) as writer:
        for source in setup.latent_sources:
            writer.add_latents(source_latents(model, cohort, source))
        decode_cohort(
            model,
            cohort,
            setup.plan,
            writer,
            scale=reader.adaptations if arguments.predict_scale == "input" else None,
            n_threads=n_threads,
            progress=told,
        )
        told.close()
    _summarise(setup, cohort, arguments.output)


class _Progress:
    """Says how far a run is: on one line of a terminal, or now and then in the log."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._last = time.monotonic()
        self._width = 0

    def __call__(self, step: str, done: int, total: int) -> None:
        text = f"{step} {done} of {n_of(total, 'flavor')}"
        if self._is_terminal:
            print(f"\r{text:<{self._width}}", end="", file=sys.stderr, flush=True)
            self._width = len(text)
        elif done < total and time.monotonic() - self._last > _SECONDS_BETWEEN:
            _log.info("%s", text)
            self._last = time.monotonic()

    def close(self) -> None:
        """End the line."""
        if self._width:
            print(f"\r{'':<{self._width}}\r", end="", file=sys.stderr, flush=True)
            self._width = 0


def tell_reading(reader: CohortReader) -> None:
    """Log how the adaptation came out, and what was filled or is doubtful."""
    from ..connectome.adaptation import warn_about_fits

    fits = {key: reader.fits[key] for key in sorted(reader.fits)}
    for key, fit in fits.items():
        _log.info(
            "%s: slope %.4g, intercept %.4g, R² %.4f, %s",
            key, fit.slope, fit.intercept, fit.r_squared, n_of(fit.n_participants, "participant"),
        )  # fmt: skip
    warn_about_fits(fits)
    notes = reader.notes
    for doubt in sorted(notes.doubts):
        _log.warning("%s", doubt)
    for flavor in reader.flavors:
        if flavor in notes.n_filled:
            n_participants, n_edges = notes.n_filled[flavor]
            _log.warning(
                "%s: the training mean stands for %s of %s",
                flavor, n_of(n_edges, "missing edge"), n_of(n_participants, "participant"),
            )  # fmt: skip
        if flavor in notes.n_left_out:
            _log.warning(
                "%s: taken as absent for %s with missing edges: the model has no training mean "
                "to fill with",
                flavor, n_of(notes.n_left_out[flavor], "participant"),
            )  # fmt: skip


def _summarise(setup: Setup, cohort: CohortLatents, output: Path) -> None:
    """Log what came of the run."""
    from ..connectome.adaptation import describe_counts

    n = len(cohort.participants)
    had = {name: int(rows.sum()) for name, rows in cohort.present.items()}
    _log.info("%s: %s", n_of(n, "participant"), describe_counts(had))
    for source in setup.sources:
        n_without = int((cohort.n_inputs(source.members) == 0).sum())
        if n_without:
            _log.warning(
                "%s: missing for %d of %s, with rows of NaN",
                source.name, n_without, n_of(n, "participant"),
            )  # fmt: skip
    n_connectomes = sum(len(sources) for sources in setup.plan.values())
    _log.info(
        "%s: %s (source x target), latents of %s",
        output, n_of(n_connectomes, "predicted connectome"),
        n_of(len(setup.latent_sources), "source"),
    )  # fmt: skip
