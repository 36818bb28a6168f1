# SPDX-License-Identifier: MIT
"""Latents that ``kraken-model train`` trains new flavors to, and the model whose they are."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, UsageError

if TYPE_CHECKING:
    from ..formats.inputs import FlavorInput
    from ..model.bundle import Bundle

_OPTION = "--target-latents"


@dataclass(frozen=True, eq=False)
class Target:
    """Latents, opened.

    Parameters
    ----------
    latents
        By participant.
    is_normalised
        Whether the model whose they are brings latents to length 1.
    provenance
        What a bundle keeps of that model; `kraken_bids.model.merging` looks at it.
    """

    latents: FlavorInput
    is_normalised: bool = True
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def latent_size(self) -> int:
        """Number of values of a latent."""
        return self.latents.n_columns


def open_target(arguments: argparse.Namespace) -> Target | None:
    """Open what ``--target-latents`` names; None if it is not given.

    Raises
    ------
    KrakenBIDSError
        If model or latents cannot be used, or a model is given without latents.
    """
    if arguments.target_latents:
        bundle = _open_base(arguments.latents_of)
        size = bundle.latent_size if bundle else arguments.latent_size
        return Target(_open_latents(arguments.target_latents, size), **_facts(bundle))
    if arguments.latents_of:
        raise UsageError(
            "is of no use without latents", where="--latents-of",
            fix=f"Add '{_OPTION} FILE', the latents of this model.",
        )  # fmt: skip
    return None


def _open_base(text: str) -> Bundle | None:
    """Open the model whose latents are given.

    Raises
    ------
    ModelError
        If its flavors do not share one latent space.
    """
    from ..model.bundle import open_bundle
    from ..model.pretrained import find_model

    if not text:
        return None
    bundle = open_bundle(find_model(text))
    if bundle.intergroup:
        raise ModelError(
            "has one latent space a group, to which no flavor can be added",
            where=f"--latents-of {text}",
            fix="Give a model of one latent space.",
        )
    return bundle


def _facts(bundle: Bundle | None) -> dict[str, Any]:
    from ..model.card import is_normalised

    if bundle is None:
        return {}
    return {
        "is_normalised": is_normalised(bundle.config) is not False,
        "provenance": {"latents_of": {"name": bundle.name, "sha256": bundle.sha256}},
    }


def _open_latents(text: str, latent_size: int) -> FlavorInput:
    """Open one array of latents.

    Raises
    ------
    UsageError, InputError
        As `formats.reading.opening.open_inputs`; also if the file has no ids.
    """
    from ..formats.reading.naming import ENCODED
    from ..formats.reading.opening import open_inputs

    name, equals, _ = text.partition("=")
    has_name = bool(equals) and not Path(text).exists()
    asked = text if has_name else f"{ENCODED}={text}"
    opened = open_inputs([asked], {}, latent_size=latent_size, option=_OPTION)
    (found,) = opened.values()
    if has_name and found.n_columns != latent_size:
        raise UsageError(
            f"'{name}' names no latents", where=_OPTION, fix="Give 'encoded=FILE', or FILE alone."
        )
    return found
