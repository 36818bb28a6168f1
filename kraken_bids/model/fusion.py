# SPDX-License-Identifier: MIT
"""Fusion: the mean of several flavors' latents, for the flavors that a participant has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, UsageError, suggest
from .devices import library_of, normalize_rows

_log = logging.getLogger(__name__)


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
    chosen = [np.asarray(latents[member], dtype=np.float32) for member in members]
    with np.errstate(invalid="ignore"):
        mean = mean_of_present(chosen, normalize=normalize)
    n_inputs = sum((~np.isnan(latent).any(axis=1)).astype(np.int64) for latent in chosen)
    return Fused(mean, np.asarray(n_inputs))


def mean_of_present(latents: Sequence[Any], *, normalize: bool = False) -> Any:
    """Take the mean over latents, row by row, of those that are not NaN.

    Parameters
    ----------
    latents
        (n, latent_size) each, float32, all NumPy's or all torch's; summed in this order.
    normalize
        Bring the mean to length 1.

    Returns
    -------
    array
        (n, latent_size), of the same library; NaN where nothing is present.
    """
    library = library_of(latents[0])
    total = library.zeros_like(latents[0])
    n_members = library.zeros_like(latents[0][:, :1])
    one = library.ones_like(n_members)
    for latent in latents:
        present = ~library.isnan(latent).any(1)[:, None]
        total = total + library.where(present, latent, library.zeros_like(latent))
        n_members = n_members + one * present
    n_members = library.where(n_members > 0, n_members, one * float("nan"))
    mean = total / n_members
    return normalize_rows(mean) if normalize else mean


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


@dataclass(frozen=True)
class PlannedSource:
    """What a target is predicted from.

    Parameters
    ----------
    name
        A flavor, latents, a fusion, or a fusion's variant such as ``fusion.noself``.
    members
        Flavors or latents whose mean is taken; at least one.
    normalize
        Whether the mean is brought to length 1.
    """

    name: str
    members: tuple[str, ...]
    normalize: bool = False


def plan_predictions(
    inputs: Iterable[str],
    fusions: Mapping[str, Sequence[str]],
    targets: Iterable[str],
    *,
    sources: Iterable[str] | None = None,
    variants: Iterable[str] = (),
    normalize: bool = False,
    only_self: bool = False,
) -> dict[str, tuple[PlannedSource, ...]]:
    """Settle which sources predict which target.

    Parameters
    ----------
    inputs
        Flavors, or other names of latents, that there are.
    fusions
        Members by name.
    targets
        Flavors to predict.
    sources
        Inputs and fusions to predict from; all if None.
    variants
        ``noself`` and ``noatlas``: each fusion is also used without the members that they leave
        out. What then has no member is left out, with a line in the log.
    normalize
        Bring fused latents to length 1.
    only_self
        Predict each target from itself only, beside the fusions.

    Returns
    -------
    dict
        Sources by target, in the order given; a target without sources is left out.

    Raises
    ------
    UsageError
        If a source or a variant is unknown.
    """
    members = {name: (name,) for name in inputs} | {n: tuple(m) for n, m in fusions.items()}
    chosen = list(members) if sources is None else list(dict.fromkeys(sources))
    for source in chosen:
        if source not in members:
            raise UsageError(
                f"source '{source}' is neither an input nor a fusion",
                fix=suggest(source, members) + ".",
            )
    rows = [(source, "") for source in chosen]
    rows += [
        (source, v) for v in dict.fromkeys(variants) for source in chosen if source in fusions
    ]
    plan: dict[str, tuple[PlannedSource, ...]] = {}
    impossible: dict[str, list[str]] = {}
    for target in dict.fromkeys(targets):
        planned = []
        for source, variant in rows:
            if only_self and source not in fusions and source != target:
                continue
            name = f"{source}.{variant}" if variant else source
            kept = select_members(members[source], target, variant=variant)
            if kept:
                planned.append(PlannedSource(name, kept, normalize and source in fusions))
            else:
                impossible.setdefault(name, []).append(target)
        if planned:
            plan[target] = tuple(planned)
    for name, lost in impossible.items():
        _log.warning("%s cannot predict %s: no flavor is left", name, ", ".join(lost))
    return plan
