# SPDX-License-Identifier: MIT
"""Fusion: the mean of several flavors' latents, for the flavors that a participant has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, UsageError, suggest

_log = logging.getLogger(__name__)

#: Least length that a latent is divided by.
_LEAST_LENGTH = 1e-12


@dataclass(frozen=True, eq=False)
class Fused:
    """Fused latents.

    Parameters
    ----------
    latent
        (n, latent_size), float32; NaN for a participant without any member.
    n_inputs
        (n,), number of members that each participant has.
    """

    latent: NDArray[np.float32]
    n_inputs: NDArray[np.int64]


def fuse(
    latents: Mapping[str, NDArray[np.floating]],
    members: Sequence[str] | None = None,
    *,
    normalize: bool = False,
) -> Fused:
    """Take the mean of latents, each participant's over the flavors that they have.

    Parameters
    ----------
    latents
        (n, latent_size) by flavor; a row of NaN where a participant lacks the flavor.
    members
        Flavors to fuse; all of `latents` if None.
    normalize
        Bring the mean to length 1. The published model was evaluated without: its fused latents
        are shorter than 1.

    Raises
    ------
    ModelError
        If there are no members, or a member has no latent.
    """
    members = tuple(latents) if members is None else tuple(members)
    unknown = [member for member in members if member not in latents]
    if unknown or not members:
        raise ModelError(
            f"no latents of {', '.join(unknown) or 'any flavor'} to fuse",
            fix=suggest(unknown[0] if unknown else "", latents) + ".",
        )
    total: NDArray[np.float32] = np.zeros(latents[members[0]].shape, dtype=np.float32)
    n_inputs = np.zeros(len(total), dtype=np.int64)
    for member in members:
        latent = np.asarray(latents[member], dtype=np.float32)
        present = ~np.isnan(latent).any(axis=1)
        total[present] += latent[present]
        n_inputs += present
    n_members = n_inputs[:, np.newaxis].astype(np.float32)
    mean = np.full_like(total, np.nan)
    np.divide(total, n_members, out=mean, where=n_members > 0)
    return Fused(normalize_rows(mean) if normalize else mean, n_inputs)


def normalize_rows(latent: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring the rows of (n, latent_size) to Euclidean length 1."""
    length = np.linalg.norm(latent, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (latent / np.maximum(length, _LEAST_LENGTH)).astype(np.float32)
    return unit


def _atlas(flavor: str) -> str:
    """Name of the atlas, or the whole name of what is no connectome."""
    parts = flavor.split("_")
    return parts[1] if len(parts) == 3 else flavor


#: Which members take part in the prediction of a target, by variant: (member, target) -> bool.
VARIANTS: dict[str, Callable[[str, str], bool]] = {
    "": lambda _member, _target: True,
    "noself": lambda member, target: member != target,
    "noatlas": lambda member, target: _atlas(member) != _atlas(target),
}


def select_members(members: Sequence[str], target: str, *, variant: str = "") -> tuple[str, ...]:
    """Choose the members that predict a target.

    Parameters
    ----------
    members
        Flavors of a fusion.
    target
        Flavor to predict.
    variant
        Empty for all; ``noself`` leaves out the target, ``noatlas`` all flavors of its atlas.

    Returns
    -------
    tuple of str
        May be empty.

    Raises
    ------
    UsageError
        If the variant is unknown.
    """
    if variant not in VARIANTS:
        raise UsageError(
            f"fusion variant '{variant}' is unknown",
            fix=suggest(variant, [name for name in VARIANTS if name]) + ".",
        )
    return tuple(member for member in members if VARIANTS[variant](member, target))


def resolve_members(
    tokens: Iterable[str], available: Sequence[str], *, known: Iterable[str] = ()
) -> tuple[str, ...]:
    """Turn what a person wrote into flavors.

    Parameters
    ----------
    tokens
        ``all``, ``SC``, ``FC``, a flavor, or a part of flavors' names: kind, atlas or processing.
    available
        Flavors to choose from.
    known
        Flavors of the model: a token that fits one of these, though none available, is no error.

    Returns
    -------
    tuple of str
        In the order of `available`, each once; may be empty.

    Raises
    ------
    UsageError
        If a token fits neither an available nor a known flavor.
    """
    chosen = set()
    for token in tokens:
        fits = [flavor for flavor in available if _fits(token, flavor)]
        if not fits and not any(_fits(token, flavor) for flavor in known):
            names = {"all", "SC", "FC", *available, *known}
            if token not in {"all", "SC", "FC"}:
                raise UsageError(
                    f"'{token}' names no flavor", where="fusion", fix=suggest(token, names) + "."
                )
        chosen.update(fits)
    return tuple(flavor for flavor in available if flavor in chosen)


def _fits(token: str, flavor: str) -> bool:
    if token in {"SC", "FC"}:
        return flavor.startswith(token)
    return token in {"all", flavor} or token in flavor.split("_")


def resolve_fusions(
    fusions: Iterable[tuple[str, Sequence[str]]],
    available: Sequence[str],
    *,
    known: Iterable[str] = (),
) -> dict[str, tuple[str, ...]]:
    """Find the members of each fusion.

    Parameters
    ----------
    fusions
        Name and tokens of each, as in ``settings.TranslationOptions.fusions``.
    available
        Flavors that there are connectomes of.
    known
        Flavors of the model.

    Returns
    -------
    dict
        Members by name, in the order given. A fusion without members is left out, with a warning
        that says so.

    Raises
    ------
    UsageError
        If a token is unknown, or a fusion's name is that of a flavor.
    """
    found = {}
    for name, tokens in fusions:
        if name in {*available, *known}:
            raise UsageError(
                f"fusion '{name}' is called as a flavor is", fix="Give the fusion another name."
            )
        members = resolve_members(tokens, available, known=known)
        if members:
            found[name] = members
        else:
            _log.warning(
                "Fusion %s is left out: none of its flavors (%s) is there", name, ",".join(tokens)
            )
    return found
