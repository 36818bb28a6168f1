# SPDX-License-Identifier: MIT
"""Connectomes and latents given to ``kraken-model``, and the participants chosen among them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..bids.cohort import read_sites
from ..errors import InputError
from ..formats.inputs import MatchedInputs
from ..formats.reading.matching import match_inputs, select_participants
from ..formats.reading.opening import open_inputs
from ..model.bundle import Bundle

_log = logging.getLogger(__name__)


def open_matched(texts: Sequence[str], bundle: Bundle, option: str = "--input") -> MatchedInputs:
    """Open the connectomes and latents that texts name, for the flavors of a model."""
    n_edges = {flavor: bundle.n_edges(flavor) for flavor in bundle.flavors}
    return match_inputs(open_inputs(texts, n_edges, latent_size=bundle.latent_size, option=option))


def select_matched(inputs: MatchedInputs, asked: Sequence[str]) -> MatchedInputs:
    """Restrict inputs to participants asked for, all if none are; inputs without them are said."""
    if not asked:
        return inputs
    chosen = select_participants(inputs, read_ids(asked), option="--participant-label")
    kept = {name: found for name, found in chosen.positions.items() if (found >= 0).any()}
    for name in chosen.inputs:
        if name not in kept:
            _log.warning("%s is left out: none of the participants chosen has it", name)
    return MatchedInputs(chosen.participants, {name: chosen.inputs[name] for name in kept}, kept)


def read_ids(texts: Iterable[str]) -> list[str]:
    """Ids as typed, or read from files: a table's ``participant_id``, or a list."""
    found: list[str] = []
    for text in texts:
        path = Path(text)
        if not path.is_file():
            found.append(text)
            continue
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"cannot be read: {error}", where=text, fix="Give a list or table of ids as text."
            ) from error
        if lines and "participant_id" in lines[0].split("\t"):
            found.extend(read_sites("participant_id", path))
        else:
            found.extend(line.strip() for line in lines if line.strip())
    return found
