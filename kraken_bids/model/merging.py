# SPDX-License-Identifier: MIT
"""Models that share one latent space, joined into one bundle.

Weights are copied as they are, one flavor at a time, so that the merged model predicts what its
parts predict, bit by bit, and any number of models of any size fits into memory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import KrakenBIDSError, ModelError, Problems, UsageError, suggest
from .bundle import Bundle, write_bundle
from .card import is_normalised, published_sources, sources_of
from .layers import FlavorModel
from .transforms import TRANSFORMS

_log = logging.getLogger(__name__)

#: What a row of ``config.json`` says of a flavor's numbers, not of its name.
_NUMBERS = ("n_edges", "n_features", "transform", "encoder", "decoder", "group", "is_adversarial")


@dataclass(frozen=True, eq=False)
class _Origin:
    """Where a flavor of the merged model is taken from."""

    bundle: Bundle
    flavor: str


class _Models(Mapping[str, FlavorModel]):
    """Flavors that are read when they are asked for, and not kept."""

    def __init__(self, origins: Mapping[str, _Origin]) -> None:
        self._origins = origins

    def __getitem__(self, flavor: str) -> FlavorModel:
        origin = self._origins[flavor]
        return origin.bundle.flavor_model(origin.flavor)

    def __iter__(self) -> Iterator[str]:
        return iter(self._origins)

    def __len__(self) -> int:
        return len(self._origins)


def merge_bundles(
    models: Sequence[Bundle],
    out_dir: Path | str,
    *,
    flavors: Sequence[str] | None = None,
    renamed: Mapping[str, str] | None = None,
    preferred: str = "",
    name: str = "",
) -> Bundle:
    """Merge models into one bundle.

    Parameters
    ----------
    models
        Opened bundles; the first one's transforms between groups are kept.
    out_dir
        As for `write_bundle`.
    flavors
        Flavors to keep, by their new names and in this order; all if None.
    renamed
        New names by old ones. Where several models have the old name, it is written
        ``<model>:<flavor>`` with the name of one of them.
    preferred
        Name of the model whose weights are taken of a flavor that several have. Without it such a
        flavor is refused, unless its weights are the same in all of them.
    name
        Name of the merged model; that of the folder if empty.

    Returns
    -------
    Bundle

    Raises
    ------
    ModelError
        If latents differ in size or normalisation, models have different weights for one flavor,
        or transforms between groups do not cover all flavors.
    Problems
        If several of these hold.
    UsageError
        If a name is unknown, or a model is given twice.

    Notes
    -----
    The second and third model of one name are called ``<name>-2`` and ``<name>-3``.
    """
    models = _told_apart(models)
    _check_names(models, preferred)
    problems: list[KrakenBIDSError] = [*_latent_problems(models), *_intergroup_problems(models)]
    candidates, wrong = _renamed(models, renamed or {})
    problems += wrong
    if flavors is not None:
        problems += [
            UsageError(
                f"flavor '{flavor}' is in none of the models",
                where="--flavors",
                fix=suggest(flavor, candidates) + ".",
            )
            for flavor in flavors
            if flavor not in candidates
        ]
        candidates = {key: candidates[key] for key in flavors if key in candidates}
    origins = {}
    for flavor, found in candidates.items():
        try:
            origins[flavor] = _choose(flavor, found, preferred)
        except ModelError as error:
            problems.append(error)
    if problems:
        raise problems[0] if len(problems) == 1 else Problems(problems)
    for model in models[1:]:
        if not _shares_latents(model, models[0]):
            _log.warning(
                "nothing shows that latents of %s are those of %s: if they were trained apart, "
                "predictions from one to the other mean nothing",
                model.name,
                models[0].name,
            )
    first = models[0]
    return write_bundle(
        out_dir,
        flavors=_Models(origins),
        latent_size=first.latent_size,
        provenance={"method": "merged", "models": _model_rows(models, origins)},
        name=name,
        intergroup={key: first.intergroup_layers(key) for key in first.intergroup},
    )


def _told_apart(models: Sequence[Bundle]) -> list[Bundle]:
    """Number models of one name, as they are called in messages, options and provenance.

    Raises
    ------
    UsageError
        If a model is given twice.
    """
    found: list[Bundle] = []
    for model in models:
        if any(model.path.resolve() == other.path.resolve() for other in found):
            raise UsageError("is given twice", where=str(model.path), fix="Give it once.")
        names = [other.name for other in found]
        name, number = model.name, 2
        while name in names:
            name, number = f"{model.name}-{number}", number + 1
        if name != model.name:
            _log.info("%s is called '%s' here", model.path, name)
            model = replace(model, config={**model.config, "name": name})
        found.append(model)
    return found


def _check_names(models: Sequence[Bundle], preferred: str) -> None:
    """Refuse too few models, and a name that none of them has.

    Raises
    ------
    UsageError
        If there are fewer than two, or none of the name preferred.
    """
    names = [model.name for model in models]
    if len(models) < 2:
        raise UsageError(
            f"{len(models)} models are given", where="--models", fix="Give two or more."
        )
    if preferred and preferred not in names:
        raise UsageError(
            f"model '{preferred}' is not among those to merge",
            where="--prefer",
            fix=suggest(preferred, names) + ".",
        )


def _latent_problems(models: Sequence[Bundle]) -> Iterator[ModelError]:
    """Find latents of different sizes or lengths."""
    sizes = {model.name: model.latent_size for model in models}
    if len(set(sizes.values())) > 1:
        yield ModelError(
            f"latents differ in size: {', '.join(f'{k} {v}' for k, v in sizes.items())}",
            where="--models",
            fix="Merge models that were trained to one latent space.",
        )
    words = {True: "of length 1", False: "of any length", None: "of both kinds"}
    kinds = {model.name: is_normalised(model.config) for model in models}
    if len(set(kinds.values())) > 1:
        yield ModelError(
            f"latents differ in length: {', '.join(f'{k} {words[v]}' for k, v in kinds.items())}",
            where="--models",
            fix="Merge models that were trained to one latent space.",
        )


def _intergroup_problems(models: Sequence[Bundle]) -> Iterator[ModelError]:
    """Find flavors that transforms between groups would pass over, or transforms of others."""
    first = models[0]
    for model in models[1:]:
        if model.intergroup:
            yield ModelError(
                f"model '{model.name}' has transforms between groups of its own",
                where=str(model.path),
                fix="Name it first; only the first model's are kept."
                if not first.intergroup
                else "Models with separate latents by group cannot be merged.",
            )
        known = {group for key in first.intergroup for group in key.split("->")}
        unknown = [f for f in model.flavors if model.group(f) not in known]
        if first.intergroup and unknown:
            yield ModelError(
                f"model '{first.name}' has one latent space a group ({', '.join(sorted(known))}), "
                f"and model '{model.name}' does not say to which {', '.join(unknown)} belong",
                where=str(model.path),
                fix="Merge models of one latent space.",
            )


def _renamed(
    models: Sequence[Bundle], renamed: Mapping[str, str]
) -> tuple[dict[str, list[_Origin]], list[KrakenBIDSError]]:
    """Collect who has which flavor, by new names, and renamings that cannot be done."""
    rules: dict[tuple[str, str], str] = {}
    problems: list[KrakenBIDSError] = []
    for old, new in renamed.items():
        owner, colon, flavor = old.rpartition(":")
        having = [m.name for m in models if flavor in m.flavors and owner in {m.name, ""}]
        if len(having) == 1:
            rules[having[0], flavor] = new
        elif having:
            problems.append(
                UsageError(
                    f"'{flavor}' is in several models: {', '.join(having)}",
                    where="--rename",
                    fix=f"Say in which: {having[-1]}:{flavor}={new}.",
                )
            )
        else:
            known = {f for m in models for f in m.flavors if owner in {m.name, ""}}
            problems.append(
                UsageError(
                    f"'{old}' is in none of the models",
                    where="--rename",
                    fix=(suggest(flavor, known) if known or not colon else "Name the model as "
                         f"one of {', '.join(m.name for m in models)}") + ".",
                )
            )  # fmt: skip
    found: dict[str, list[_Origin]] = {}
    for model in models:
        for flavor in model.flavors:
            new = rules.get((model.name, flavor), flavor)
            found.setdefault(new, []).append(_Origin(model, flavor))
    return found, problems


def _choose(flavor: str, found: Sequence[_Origin], preferred: str) -> _Origin:
    """Take a flavor from the model preferred, or from the first if all have the same weights.

    Raises
    ------
    ModelError
        If they differ and none is preferred.
    """
    for origin in found:
        if origin.bundle.name == preferred:
            return origin
    first = found[0]
    for other in found[1:]:
        difference = _difference(first, other)
        if difference:
            raise ModelError(
                f"models '{first.bundle.name}' and '{other.bundle.name}' both have {flavor}, with "
                f"different {difference}",
                where="--models",
                fix=f"Keep one with --prefer {first.bundle.name}, or both with --rename "
                f"{other.bundle.name}:{other.flavor}=NEW.",
            )
    return first


def _difference(a: _Origin, b: _Origin) -> str:
    """Say in what two models of a flavor differ; empty if in nothing."""
    rows = a.bundle.row(a.flavor), b.bundle.row(b.flavor)
    for key in _NUMBERS:
        if rows[0].get(key) != rows[1].get(key):
            return key
    for theirs, ours in zip(_array_names(b), _array_names(a), strict=True):
        ((_, x),), ((_, y),) = a.bundle.arrays([ours]), b.bundle.arrays([theirs])
        if x.shape != y.shape or not np.array_equal(x.view(np.uint32), y.view(np.uint32)):
            return "transform" if ours.startswith("transform.") else "weights"
    return ""


def _array_names(origin: _Origin) -> list[str]:
    """Name a flavor's arrays, small ones first: what differs mostly differs there."""
    row = origin.bundle.row(origin.flavor)
    names = []
    for half in ("encoder", "decoder"):
        for i, layer in enumerate(row[half]):
            parts = ("bias", "weight") if layer["bias"] else ("weight",)
            names += [f"{half}.{origin.flavor}.{i}.{part}" for part in parts]
    keys = TRANSFORMS[row["transform"]].reference_keys
    return [*names, *(f"transform.{origin.flavor}.{key}" for key in keys)]


def _shares_latents(model: Bundle, base: Bundle) -> bool:
    """Say whether what is recorded shows that a model was trained to another's latents.

    Of the published models it is known. Of others it is so for one trained to given latents (the
    reference program records that it was, not whose they were), one whose training names the base
    as ``latents_of`` in its provenance, and one that shares a flavor's weights with it.
    """
    common = (flavor for flavor in model.flavors if flavor in base.flavors)
    if any(not _difference(_Origin(base, flavor), _Origin(model, flavor)) for flavor in common):
        return True
    spaces, known = _published_spaces(model), _published_spaces(base)
    if spaces and known:
        return bool(spaces & known)
    known = {base.sha256, base.name, *(row["sha256"] for row in _merged_rows(base))}
    target = model.config.get("provenance", {}).get("latents_of", {})
    if {target.get("sha256"), target.get("name")} & known:
        return True
    return any(_was_trained_to_latents(rows) for rows in _checkpoint_facts(model))


def _published_spaces(model: Bundle) -> set[str]:
    """Name the published models whose latents a model of published checkpoints gives."""
    found = {row["sha256"] for row in sources_of(model.config.get("provenance", {}))}
    return {
        published.shares_latents_with or published.name
        for published in published_sources(model.config)
        if found & {file.sha256 for file in published.checkpoints}
    }


def _merged_rows(model: Bundle) -> Sequence[Mapping[str, Any]]:
    rows: Sequence[Mapping[str, Any]] = model.config.get("provenance", {}).get("models", ())
    return rows


def _checkpoint_facts(model: Bundle) -> Iterator[Mapping[str, Any]]:
    """Give what is recorded of the checkpoints that a model was made of."""
    provenance = model.config.get("provenance", {})
    for part in (provenance, *(row.get("provenance", {}) for row in _merged_rows(model))):
        yield from part.get("checkpoints", {}).values()


def _was_trained_to_latents(facts: Mapping[str, Any]) -> bool:
    training = facts.get("training", {})
    return bool(
        training.get("target_encoding")
        or training.get("fixed_target_encoding")
        or "+targlatent" in str(training.get("train_string", ""))
        or "+fixlatent" in str(training.get("train_string", ""))
    )


def _model_rows(models: Sequence[Bundle], origins: Mapping[str, _Origin]) -> list[dict[str, Any]]:
    """Record each model, the flavors taken of it, and its own provenance."""
    return [
        {
            "name": model.name,
            "sha256": model.sha256,
            "flavors": {
                new: origin.flavor for new, origin in origins.items() if origin.bundle is model
            },
            "provenance": dict(model.config.get("provenance", {})),
        }
        for model in models
    ]
