# SPDX-License-Identifier: MIT
"""How a model is trained: the options, the two schedules' defaults, and what cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...errors import KrakenBIDSError, Problems, UsageError, suggest
from .losses import PUBLISHED, parse_loss


@dataclass(frozen=True)
class Schedule:
    """A row of `SCHEDULES`: what it is, and the options that suit it.

    Parameters
    ----------
    description
        For people.
    loss, epochs, learning_rate
        Defaults.
    cools
        Whether the learning rate falls to zero along half a cosine.
    """

    description: str
    loss: str
    epochs: int
    learning_rate: float
    cools: bool


#: The orders of optimizer steps. ``reference`` is the published program's; the defaults of
#: ``joint`` were chosen by experiment (benchmarks/training.py) and held against ``reference`` on
#: cohorts that nothing was chosen on (benchmarks/training_quality.py).
SCHEDULES: dict[str, Schedule] = {
    "joint": Schedule(
        "a step trains all pairs of flavors at once",
        loss="correye+relmse.w200+enceye.w10+latentdist.w20",
        epochs=480,
        learning_rate=5e-3,
        cools=True,
    ),
    "reference": Schedule(
        "a step trains one ordered pair of flavors, as in the published program",
        loss=PUBLISHED,
        epochs=2000,
        learning_rate=1e-4,
        cools=False,
    ),
}

#: What may follow hidden layers.
HIDDEN_ACTIVATIONS = ("relu", "tanh", "leaky_relu:SLOPE")
#: What products of layers are computed in while training.
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class TrainingOptions:
    """How a model is trained.

    Parameters
    ----------
    schedule
        Key of `SCHEDULES`.
    loss
        See `losses.parse_loss`; empty for the schedule's.
    n_components
        Features of each flavor's PCA; fewer than participants.
    latent_size
        Length of a latent.
    hidden_sizes
        Sizes of the layers between features and latent; the decoder has the reverse. Empty for
        one linear layer each way, as in the published model.
    activation
        What follows hidden layers: ``relu``, ``tanh`` or ``leaky_relu:`` and its slope.
    normalize
        Whether latents are brought to length 1.
    intergroup
        Whether a transform of one linear layer leads latents of structural flavors to decoders of
        functional ones, and another one back: each group then has a latent space of its own.
    epochs, batch_size
        Passes over the training participants, 0 for the schedule's; participants a step.
    learning_rate, weight_decay
        Of AdamW; a learning rate of 0 stands for the schedule's.
    dropout
        Share of values zeroed in training behind each layer, before its activation; in the latent
        before it is brought to length 1.
    output_dropout
        Share of predicted values zeroed; None for that of `dropout`, as in the published program.
        A squared error then favours shrunken predictions.
    seed
        Of the first weights, the batches and the dropout. On a CPU the same seed gives the same
        bytes.
    precision
        One of `PRECISIONS`. With ``bfloat16`` (mixed precision) layers are multiplied in it;
        weights, losses and the optimizer stay in float32, and so does the bundle.
    validate_every
        Epochs between two looks at the validation participants.
    early_stopping
        Epochs without a better average rank in validation after which training ends and the best
        weights are taken; 0 to train all epochs.
    """

    schedule: str = "joint"
    loss: str = ""
    n_components: int = 64
    latent_size: int = 128
    hidden_sizes: tuple[int, ...] = ()
    activation: str = "relu"
    normalize: bool = True
    intergroup: bool = False
    epochs: int = 0
    batch_size: int = 41
    learning_rate: float = 0.0
    weight_decay: float = 0.01
    dropout: float = 0.5
    output_dropout: float | None = None
    seed: int = 0
    precision: str = "float32"
    validate_every: int = 10
    early_stopping: int = 0

    def resolved(self) -> TrainingOptions:
        """Fill in the schedule's defaults.

        Raises
        ------
        UsageError
            If an option cannot be; `Problems` if several.
        """
        problems = _problems(self)
        if problems:
            raise problems[0] if len(problems) == 1 else Problems(problems)
        schedule = SCHEDULES[self.schedule]
        return replace(
            self,
            loss=self.loss or schedule.loss,
            epochs=self.epochs or schedule.epochs,
            learning_rate=self.learning_rate or schedule.learning_rate,
            output_dropout=self.dropout if self.output_dropout is None else self.output_dropout,
        )


#: Least and largest values, by option; the largest are excluded where they are 1.
_LIMITS: Mapping[str, tuple[float, float]] = {
    "n_components": (1, float("inf")),
    "latent_size": (1, float("inf")),
    "epochs": (0, float("inf")),
    "batch_size": (2, float("inf")),
    "learning_rate": (0, float("inf")),
    "weight_decay": (0, float("inf")),
    "dropout": (0, 1),
    "output_dropout": (0, 1),
    "validate_every": (1, float("inf")),
    "early_stopping": (0, float("inf")),
    "seed": (0, 2**63),
}
#: How the command spells an option, where the dash is not the only difference.
_SPELLED = {"n_components": "--components"}


def _problems(options: TrainingOptions) -> list[KrakenBIDSError]:
    """Find all that cannot be."""
    found: list[KrakenBIDSError] = []
    if options.schedule not in SCHEDULES:
        found.append(
            _problem("schedule", options.schedule, suggest(options.schedule, SCHEDULES) + ".")
        )
    for name, (least, largest) in _LIMITS.items():
        value = getattr(options, name)
        if value is not None and not least <= value < largest:
            top = "" if largest == float("inf") else f" and below {largest:g}"
            found.append(_problem(name, value, f"Give at least {least:g}{top}."))
    if options.precision not in PRECISIONS:
        known = suggest(options.precision, PRECISIONS)
        found.append(_problem("precision", options.precision, known + "."))
    if options.precision != "float32" and options.schedule == "reference":
        found.append(
            _problem(
                "precision",
                options.precision,
                "The published program computes in float32; leave it out, or use '--schedule "
                "joint'.",
            )
        )
    if any(size < 1 for size in options.hidden_sizes):
        found.append(_problem("hidden_sizes", options.hidden_sizes, "Give at least 1 each."))
    if not _is_activation(options.activation):
        found.append(_problem("activation", options.activation, "Give relu, tanh or "
                              "leaky_relu:SLOPE."))  # fmt: skip
    if options.early_stopping and options.schedule == "reference":
        found.append(
            _problem(
                "early_stopping",
                options.early_stopping,
                "The published program trains all epochs; leave it out, or use '--schedule "
                "joint'.",
            )
        )
    if options.loss:
        try:
            parse_loss(options.loss)
        except Problems as problems:
            found.extend(problems.problems)
        except UsageError as problem:
            found.append(problem)
    return found


def _is_activation(name: str) -> bool:
    kind, _, slope = name.partition(":")
    if kind != "leaky_relu":
        return name in {"relu", "tanh"}
    try:
        return 0 < float(slope) < 1
    except ValueError:
        return False


def _problem(name: str, value: Any, fix: str) -> UsageError:
    option = _SPELLED.get(name, "--" + name.replace("_", "-"))
    return UsageError(f"{value} cannot be", where=option, fix=fix)
