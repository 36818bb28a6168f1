# SPDX-License-Identifier: MIT
"""``kraken-model evaluate``: how well measured connectomes are predicted, and told apart."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, UsageError
from .options import ProblemList, add_model_arguments
from .predict import (
    add_adaptation_arguments,
    add_choice_arguments,
    add_data_arguments,
    computing_threads,
    tell_reading,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..formats.inputs import MatchedInputs
    from ..model.cohort_reading import CohortReader
    from ..model.fusion import PlannedSource
    from .evaluation_output import EvaluationOutput
    from .prediction_setup import Setup

_log = logging.getLogger(__name__)

#: Random orders of participants that a p value is taken from.
N_PERMUTATIONS = 1000
#: Options of ``predict`` that have no meaning here, and what they are then.
_NOT_ASKED: dict[str, Any] = {"predict_scale": "training", "square": False, "latents": False}
_MAKE_SENSE = "Name measured flavors, or leave the option out for all of them."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``evaluate``."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    add_adaptation_arguments(parser)
    add_choice_arguments(parser)
    group = parser.add_argument_group("what to measure")
    group.add_argument(
        "--evaluate-on", nargs="+", action="extend", default=[], metavar="ID|FILE",
        help="compare these participants only, such as those that neither model nor adaptation "
        "have seen (default: all)",
    )  # fmt: skip
    group.add_argument(
        "--residual-mean", choices=["cohort", "training"], default="cohort",
        help="mean that residual correlations are free of: of the measured connectomes compared, "
        "or of the training data (default: cohort)",
    )  # fmt: skip
    group.add_argument(
        "--n-best", type=int, default=2, metavar="N",
        help="guesses that identification within N guesses allows (default: 2)",
    )  # fmt: skip
    group.add_argument(
        "--permutations", type=int, default=N_PERMUTATIONS, metavar="N",
        help="random orders of participants for p values; 0 for none "
        f"(default: {N_PERMUTATIONS}; up to 7 participants all orders are tried)",
    )  # fmt: skip
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of these orders (default: 0)"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR",
        help="folder for tables of metrics and of identification, and a heat map",
    )  # fmt: skip
    parser.add_argument(
        "--nprocs", type=int, metavar="N", help="threads (default: the cores that are there)"
    )
    parser.set_defaults(**_NOT_ASKED)


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``evaluate``."""
    from .prediction_setup import prepare

    problems = ProblemList()
    _check_options(arguments, problems)
    with ExitStack() as stack:
        setup = None
        with problems.gathering():
            setup = prepare(arguments, stack, is_written=False)
        if setup is None:
            raise problems.error()
        planned = None
        with problems.gathering():
            planned = _plan(setup, arguments)
        problems.tell()
        assert planned is not None  # noqa: S101 - told above
        stack.enter_context(computing_threads(arguments.nprocs))
        _evaluate(setup, planned, arguments)
    return 0


def _check_options(arguments: argparse.Namespace, problems: ProblemList) -> None:
    """Refuse numbers and folders that cannot be."""
    for option, value, least in (
        ("--n-best", arguments.n_best, 1),
        ("--permutations", arguments.permutations, 0),
        ("--seed", arguments.seed, 0),
    ):
        if value < least:
            problems.add([
                UsageError(f"{value} is too small", where=option, fix=f"Give {least} or more.")
            ])
    if arguments.output.exists() and not arguments.output.is_dir():
        problems.add([
            UsageError(
                "is a file", where=f"--output {arguments.output}", fix="Give a folder's name."
            )
        ])
    for token in {"encoded", "self"} & set(arguments.predict_to):
        problems.add([
            UsageError(f"'{token}' is no flavor", where="--predict-to", fix=_MAKE_SENSE)
        ])


@dataclass(frozen=True, eq=False)
class _Planned:
    """What is compared.

    Parameters
    ----------
    inputs
        The cohort by target: measured connectomes are read again after encoding.
    plan
        Sources by measured target.
    chosen
        (n,), participants that are compared.
    """

    inputs: dict[str, MatchedInputs]
    plan: Mapping[str, Sequence[PlannedSource]]
    chosen: NDArray[np.bool_]


def _plan(setup: Setup, arguments: argparse.Namespace) -> _Planned:
    """Settle targets and participants."""
    from ..formats.inputs import MatchedInputs
    from ..model.fusion import resolve_members

    asked = resolve_members(arguments.predict_to or ["all"], setup.bundle.flavors)
    missing = [target for target in asked if target not in setup.flavors]
    plan = {target: row for target, row in setup.plan.items() if target in setup.flavors}
    problems = ProblemList()
    if arguments.predict_to and missing:
        problems.add([
            UsageError(
                f"{', '.join(missing)} cannot be compared, for they are not among the inputs",
                where="--predict-to",
                fix=_MAKE_SENSE,
            )
        ])
    elif not plan:
        problems.add([
            UsageError(
                "there is no measured flavor to compare predictions with",
                where="--input",
                fix="Give connectomes of flavors that the model has; latents alone do not do.",
            )
        ])
    without = [t for t in plan if not setup.bundle.row(t)["has_training_mean"]]
    if arguments.residual_mean == "training" and without:
        problems.add([
            UsageError(
                f"the model keeps no training mean of {', '.join(without)}",
                where="--residual-mean training",
                fix="Use '--residual-mean cohort'.",
            )
        ])
    chosen = None
    with problems.gathering():
        chosen = _chosen(setup.inputs, arguments.evaluate_on)
    problems.tell()
    assert chosen is not None  # noqa: S101 - told above
    cohort = setup.inputs
    parts = {
        target: MatchedInputs(
            cohort.participants,
            {target: cohort.inputs[target]},
            {target: cohort.positions[target]},
        )
        for target in plan
    }
    return _Planned(parts, plan, chosen)


def _chosen(inputs: MatchedInputs, asked: Sequence[str]) -> NDArray[np.bool_]:
    """(n,), participants of ``--evaluate-on``; all if none are asked for."""
    import numpy as np

    if not asked:
        return np.ones(len(inputs.participants), dtype=bool)
    from ..formats.reading.matching import select_participants
    from .given_inputs import read_ids

    wanted = select_participants(inputs, read_ids(asked), option="--evaluate-on")
    return np.isin(inputs.participants, wanted.participants)


def _evaluate(setup: Setup, planned: _Planned, arguments: argparse.Namespace) -> None:
    """Encode, compare, write."""
    from ..model.cohort_run import encode_cohort
    from ..model.evaluation_run import EvaluationSettings, evaluate_targets, measured_rows
    from ..model.krakencoder import Krakencoder
    from .evaluation_output import EvaluationOutput

    model = Krakencoder(setup.bundle, device=arguments.device)
    participants = setup.inputs.participants
    # Each is let go once its target is compared, and with it what its format keeps in memory.
    inputs = planned.inputs
    with EvaluationOutput(arguments.output, participants, arguments.n_best) as output:
        reader = setup.make_reader()
        cohort = encode_cohort(model, reader, latents=setup.read_latents())
        tell_reading(reader)
        latents = {name: model.open_device.get(z) for name, z in cohort.latents.items()}
        for comparison in evaluate_targets(
            setup.bundle,
            latents,
            planned.plan,
            lambda target: measured_rows(
                inputs.pop(target), target, reader, chosen=planned.chosen
            ),
            settings=EvaluationSettings(
                arguments.residual_mean, arguments.permutations, arguments.seed
            ),
            device=model.device,
        ):
            if comparison.agreement is None:
                _log.warning(
                    "%s cannot be compared with predictions from %s: nobody has both",
                    comparison.target, comparison.source,
                )  # fmt: skip
            output.add(comparison)
        if not output.rows:
            raise InputError(
                "no participant has both a measured and a predicted connectome",
                where="--input, --evaluate-on",
                fix="Choose participants who have two flavors or more.",
            )
        _save(output, setup, reader, arguments)


def _save(
    output: EvaluationOutput, setup: Setup, reader: CohortReader, arguments: argparse.Namespace
) -> None:
    """Write everything, and log what came out."""
    if arguments.save_adaptation:
        from ..model.adaptation_file import save_adaptations

        provenance = {
            "model": setup.bundle.name,
            "model_sha256": setup.bundle.sha256,
            **setup.lambdas,
        }
        save_adaptations(arguments.save_adaptation, reader.fits, provenance=provenance)
    rows = output.save(_facts(setup, reader, arguments))
    fewest = min(row["n_participants"] for row in rows)
    most = max(row["n_participants"] for row in rows)
    _log.info(
        "%s: %d sources x %d targets, %s participants each",
        arguments.output, len(output.sources), len(output.targets),
        fewest if fewest == most else f"{fewest} to {most}",
    )  # fmt: skip
    if most < 2:
        _log.warning("One participant is told apart from nobody: compare several")


def _facts(setup: Setup, reader: CohortReader, arguments: argparse.Namespace) -> dict[str, Any]:
    """What the JSON of the metrics says about the run."""
    from .. import __version__

    fits = {
        key: {
            "slope": fit.slope,
            "intercept": fit.intercept,
            "r_squared": fit.r_squared,
            "n_participants": fit.n_participants,
        }
        for key, fit in sorted(reader.fits.items())
    }
    filled = {
        flavor: {"n_participants": people, "n_edges": edges}
        for flavor, (people, edges) in sorted(reader.notes.n_filled.items())
    }
    return {
        "Description": "Agreement of predicted with measured connectomes, in the scale of the "
        "training data. Missing measured edges count as the training mean.",
        "Model": {"Name": setup.bundle.name, "SHA256": setup.bundle.sha256},
        "Inputs": {name: Path(where).name for name, where in setup.where.items()},
        "Fusions": {name: list(members) for name, members in setup.fusions.items()},
        "Adaptation": setup.mode,
        "AdaptationFits": fits,
        "FilledEdges": filled,
        "ResidualMean": arguments.residual_mean,
        "NBest": arguments.n_best,
        "Permutations": {"N": arguments.permutations, "Seed": arguments.seed},
        "GeneratedBy": {"Name": "kraken-bids", "Version": __version__},
    }
