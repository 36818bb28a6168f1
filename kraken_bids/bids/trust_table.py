# SPDX-License-Identifier: MIT
"""The table that says, flavor by flavor, whether a session's predictions can be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..plan import Entities
from .names import output_path
from .writers import write_json, write_table

#: Label of ``desc-`` of the table.
TRUST_LABEL = "trust"
#: What the table says of a connectome that nothing is found wrong with.
FITS = "fits"


@dataclass(frozen=True)
class Concern:
    """A row of `CONCERNS`.

    Parameters
    ----------
    words
        As in the table.
    meaning, advice
        What it means, and what to do.
    """

    words: str
    meaning: str
    advice: str


#: What may be wrong with a connectome, by the name that `kraken_bids.model.verdicts` gives it.
CONCERNS: dict[str, Concern] = {
    "unlike": Concern(
        "unlike the training data",
        "the model has not seen the like, and what it makes of this connectome is a guess: "
        "another order of the regions, other units (Fisher z, counts), or mostly noise",
        "Look at the matrix and its quality measures. If it stays unexplained, leave it out "
        "(--flavors, --participant-label) and run the group level again: a connectome in other "
        "units shifts the cohort's mean, and with it what the model is given of everybody.",
    ),
    "disagrees": Concern(
        "disagrees with the other flavors",
        "its latent is not that of the participant's other flavors: one of them is damaged, "
        "hardly more than noise, or of another person",
        "Compare ids, sessions and dates of the functional and the diffusion series; a prediction "
        "from one modality alone (fusionSC, fusionFC) is free of the other's error.",
    ),
    "filled": Concern(
        "largely filled in",
        "many of its edges are missing, and the training mean stands in their place",
        "Look at the field of view, at the coverage and at the transforms.",
    ),
}

#: Columns of the table, and what they mean.
TRUST_COLUMNS: dict[str, str] = {
    "flavor": "Flavor of the measured connectome",
    "verdict": "Whether what the model makes of it can be trusted",
    "reasons": "Measures that are not usual",
    "training_mean_r": "Pearson correlation over edges, as measured, with the mean of the model's "
    "training data",
    "scale": "Slope of the edges, as measured, over the training mean; 1 is the scale of the "
    "training data",
    "impossible_edges": "Edges that cannot be: correlations beyond 1, fewer than no streamlines",
    "explained": "Share of the squared deviation from the training mean, once adapted, that the "
    "model's components hold",
    "distance": "Distance to the training mean, once adapted; 1 is the root mean square of the "
    "training participants",
    "latent_norm": "Length of the latent before it is brought to 1",
    "reconstruction": "Cosine of the connectome's features and of what the flavor's own decoder "
    "makes of its latent",
    "agreement": "Cosine of the latent with the mean latent of the participant's other flavors",
    "match": "How much better the latent fits the participant's other modality than those of "
    "others do: a standard score, about 0 for latents of two people",
    "modality_match": "The same for the mean latents of both modalities; one value a session",
    "missing_regions": "Regions that are missing",
    "filled_share": "Share of edges that are missing and were filled with the training mean",
}


@dataclass(frozen=True)
class TrustRow:
    """What is said of one flavor of a session.

    Parameters
    ----------
    flavor
        Its name.
    values
        Measures by column.
    concerns
        Measures that are not usual by key of `CONCERNS`.
    usual
        Least and most that is usual by measure, and the number of sessions that this rests on.
    """

    flavor: str
    values: Mapping[str, float]
    concerns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    usual: Mapping[str, tuple[float, float, int]] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """In words."""
        return describe_concerns(self.concerns)

    @property
    def reasons(self) -> str:
        """Measures that are not usual, with commas between."""
        return ", ".join(name for names in self.concerns.values() for name in names)


def describe_concerns(concerns: Iterable[str]) -> str:
    """Say in words what is wrong, in the order of `CONCERNS`.

    Examples
    --------
    >>> describe_concerns([])
    'fits'
    >>> describe_concerns(["filled", "unlike"])
    'unlike the training data, largely filled in'
    """
    found = set(concerns)
    return ", ".join(row.words for name, row in CONCERNS.items() if name in found) or FITS


def save_trust(root: Path, entities: Entities, rows: Sequence[TrustRow]) -> list[Path]:
    """Write the table of a session, a row a flavor.

    Parameters
    ----------
    root
        Data set.
    entities
        Those of the session.
    rows
        One or more.
    """
    path = root / output_path("trust", entities, desc=TRUST_LABEL)
    columns = [
        name for name in TRUST_COLUMNS if name in _WORDS or any(name in row.values for row in rows)
    ]
    write_table(path, columns, [[_cell(row, name) for name in columns] for row in rows])
    sidecar = path.with_suffix(".json")
    write_json(sidecar, trust_sidecar(rows, columns))
    return [path, sidecar]


_WORDS = ("flavor", "verdict", "reasons")
#: Columns that count something.
_COUNTS = frozenset({"impossible_edges", "missing_regions"})


def _cell(row: TrustRow, column: str) -> str | int | float | None:
    if column in _WORDS:
        return str(getattr(row, column)) or None
    value = row.values.get(column, math.nan)
    if math.isnan(value):
        return None
    return int(value) if column in _COUNTS else float(value)


def trust_sidecar(rows: Sequence[TrustRow], columns: Iterable[str]) -> dict[str, Any]:
    """Explain columns and verdicts, and give the bounds that these rest on."""
    described: dict[str, Any] = {name: {"Description": TRUST_COLUMNS[name]} for name in columns}
    described["verdict"]["Levels"] = {
        FITS: "nothing unusual was found",
        **{row.words: row.meaning for row in CONCERNS.values()},
    }
    judged = max((n for row in rows for *_, n in row.usual.values()), default=0)
    described["NumberOfSessionsJudgedBy"] = judged
    described["Usual"] = {
        row.flavor: {name: [least, most] for name, (least, most, _) in row.usual.items()}
        for row in rows
    }
    return described
