# SPDX-License-Identifier: MIT
"""The search for lambda at the group level, before any work: targets, and who has correlations.

Also what is said of lambdas that were measured: participants of one cohort should have one.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from .atlases import load_atlas
from .bids.names import output_path
from .bids.regularization import (
    SEARCH_LABEL,
    count_lambdas,
    has_few_dof,
    name_lambdas,
    read_lambda,
    read_lambda_source,
    read_sidecar,
)
from .errors import InputError, KrakenBIDSError, Problems, ResourceError
from .fetch import find_files, held_file, resource_dir, search_dirs
from .flavors import Flavor
from .plan import CohortSession, LambdaSearchPlan, LambdaTarget
from .published import published_extras
from .settings import FunctionalOptions, Settings

_log = logging.getLogger(__name__)


def plan_lambda_search(
    settings: Settings,
    sessions: Sequence[CohortSession],
    *,
    model_flavors: Collection[str] = (),
    own_targets: Collection[str] = (),
    fetch: bool = True,
) -> LambdaSearchPlan | None:
    """Find what a search for lambda needs; None if there is nothing to search for.

    Parameters
    ----------
    settings
        Those of the run.
    sessions
        The cohort with all its connectomes, whichever of them are asked for.
    model_flavors
        Flavors of the model: partial correlations that it lacks are not made. Empty if not known.
    own_targets
        Atlases with published targets of this model. They are searched for without being asked,
        too, where the partial correlations have a lambda that nobody chose.
    fetch
        Whether published targets are fetched if need be. Else those that are not here are left
        without a file, and files are not read.

    Raises
    ------
    KrakenBIDSError
        If there are no correlations to search on, or targets cannot be fetched or are none:
        `Problems` with all of them.
    """
    asked = settings.regularization.searched
    atlases = _asked_for(asked, settings, sessions, model_flavors) if asked else []
    measured = {name for session in sessions for name, _ in session.connectomes}
    for atlas in unchosen_atlases(settings, sessions):
        if (
            f"FCpcorr_{atlas}_hpf" in measured
            and atlas in own_targets
            and not _reason_against(atlas, settings, sessions, model_flavors)
        ):
            atlases.append(atlas)
    if not atlases:
        return None
    targets, problems = [], []
    for atlas in atlases:
        try:
            targets.append(_find_target(atlas, settings, fetch=fetch))
        except KrakenBIDSError as problem:
            problems.append(problem)
    if problems:
        raise Problems(problems) if len(problems) > 1 else problems[0]
    rows = [_by_support(session, atlases) for session in sessions]
    return LambdaSearchPlan(
        tuple(targets), tuple(row for row, _ in rows), withheld=tuple(few for _, few in rows)
    )


def _asked_for(
    asked: Sequence[str],
    settings: Settings,
    sessions: Sequence[CohortSession],
    model_flavors: Collection[str],
) -> list[str]:
    """Atlases of a search that a person asked for; what cannot be had is told."""
    reasons = {atlas: _reason_against(atlas, settings, sessions, model_flavors) for atlas in asked}
    for atlas, reason in reasons.items():
        if reason:
            _log.warning("lambda of %s is not searched for: %s", atlas, reason)
    if all(reasons.values()):
        raise InputError(
            f"there are no correlations to search lambda on for {', '.join(asked)}: "
            + "; ".join(dict.fromkeys(reasons.values())),
            where="--pcorr-lambda search",
            fix="Leave the search out, or measure FCcorr_<atlas>_hpf on enough volumes first.",
        )
    return [atlas for atlas, reason in reasons.items() if not reason]


def unchosen_atlases(settings: Settings, sessions: Sequence[CohortSession]) -> list[str]:
    """Atlases whose lambda nobody chose and no model was trained with, in measured connectomes.

    Parameters
    ----------
    settings
        Those of the run.
    sessions
        The cohort. An atlas of which it has a partial correlation with a lambda given, or made
        elsewhere, is none of them.
    """
    unnamed = [
        atlas
        for atlas in settings.atlases
        if settings.functional.lambda_source(atlas) == "default"
        and atlas not in settings.regularization.searched
    ]
    given = {
        Flavor.parse(name).atlas
        for session in sessions
        for name, file in session.connectomes
        if name.startswith("FCpcorr_")
        and Flavor.parse(name).atlas in unnamed
        and read_lambda_source(file) != "default"
    }
    return [atlas for atlas in unnamed if atlas not in given]


def _by_support(
    session: CohortSession, atlases: Sequence[str]
) -> tuple[tuple[tuple[str, Path], ...], tuple[str, ...]]:
    """A session's correlations by atlas, and the atlases with too few degrees of freedom."""
    files = _correlations(session, atlases)
    few = tuple(atlas for atlas, file in files if has_few_dof(file))
    return tuple((atlas, file) for atlas, file in files if atlas not in few), few


def _correlations(session: CohortSession, atlases: Sequence[str]) -> tuple[tuple[str, Path], ...]:
    """Files of a session's correlations by atlas, those that it has."""
    files = dict(session.connectomes)
    named = ((atlas, f"FCcorr_{atlas}_hpf") for atlas in atlases)
    return tuple((atlas, files[name]) for atlas, name in named if name in files)


def _reason_against(
    atlas: str,
    settings: Settings,
    sessions: Sequence[CohortSession],
    model_flavors: Collection[str],
) -> str:
    """Why an atlas' lambda would be of no use; empty if it is."""
    partial = f"FCpcorr_{atlas}_hpf"
    if settings.flavors and partial not in settings.flavors:
        return f"{partial} is not among --flavors"
    if model_flavors and partial not in model_flavors:
        return f"the model lacks {partial}"
    files = [file for session in sessions for _, file in _correlations(session, [atlas])]
    if not files:
        return f"nobody has FCcorr_{atlas}_hpf"
    if all(map(has_few_dof, files)):
        return f"all {len(files)} of FCcorr_{atlas}_hpf have fewer degrees of freedom than regions"
    return ""


def published_targets(model_dir: Path | None) -> tuple[str, ...]:
    """Atlases with published targets of the training data of a model."""
    from .model.bundle import open_bundle
    from .model.card import published_sources

    if model_dir is None:
        return ()
    bundle = open_bundle(model_dir)
    flavors = {name for one in published_sources(bundle.config) for name in one.flavors}
    return tuple(
        atlas
        for atlas in (name.removeprefix("regtarget-") for name in published_extras())
        if f"FCpcorr_{atlas}_hpf" in flavors & set(bundle.flavors)
    )


def tell_unchosen(
    sessions: Sequence[CohortSession], settings: Settings, *, searched: Collection[str] = ()
) -> None:
    """Warn of partial correlations whose lambda is our choice, and that no search replaces."""
    measured = {name for session in sessions for name, _ in session.connectomes}
    left = [
        atlas
        for atlas in unchosen_atlases(settings, sessions)
        if f"FCpcorr_{atlas}_hpf" in measured and atlas not in searched
    ]
    if left:
        _log.warning(
            "partial correlations of %s keep lambda %g, our choice: the training value is not "
            "published, and this model has no published target to search against "
            "(--pcorr-target, or a value: --pcorr-lambda %s=VALUE at the participant level)",
            ", ".join(left),
            FunctionalOptions().lambda_of(left[0]),
            left[0],
        )


def plan_fitted_lambdas(
    settings: Settings, sessions: Sequence[CohortSession]
) -> LambdaSearchPlan | None:
    """Plan to make partial correlations with the lambda that an adaptation was fitted with.

    Parameters
    ----------
    settings
        Those of the run; if the adaptation is a file, it names the lambdas of its cohort.
    sessions
        What is to be adapted, with all connectomes.

    Returns
    -------
    LambdaSearchPlan or None
        None if there is nothing to make: the lambdas are the same, or not known.
    """
    from .model.adaptation_file import fitted_lambdas, load_provenance

    adaptation = settings.translation.adaptation
    if not Path(adaptation).is_file():
        return None
    fitted = {
        Flavor.parse(name).atlas: value
        for name, value in fitted_lambdas(Path(adaptation)).items()
        if not settings.flavors or name in settings.flavors
    }
    for name in load_provenance(Path(adaptation)).get("pcorr_lambda_mixed", {}):
        _log.warning(
            "%s was fitted on %s with several lambdas: whether those to adapt are like them "
            "cannot be told",
            adaptation,
            name,
        )
    unchanged = tuple(_unchanged(session, fitted, adaptation) for session in sessions)
    rows = [
        _by_support(session, [atlas for atlas in fitted if atlas not in same])
        for session, same in zip(sessions, unchanged, strict=True)
    ]
    to_make = {atlas for row, _ in rows for atlas in dict(row)}
    to_make |= {
        Flavor.parse(name).atlas
        for session, same in zip(sessions, unchanged, strict=True)
        for name, _ in session.connectomes
        if name.startswith("FCpcorr_") and Flavor.parse(name).atlas not in same
    }
    if not to_make & set(fitted):
        return None
    return LambdaSearchPlan(
        (),
        tuple(row for row, _ in rows),
        withheld=tuple(few for _, few in rows),
        unchanged=unchanged,
        fitted=tuple(fitted.items()),
        fitted_by=Path(adaptation).name,
    )


def _unchanged(
    session: CohortSession, fitted: Mapping[str, float], adaptation: str
) -> tuple[str, ...]:
    """Atlases of which a session's partial correlation has the lambda fitted, or none can be made.

    A lambda that is not known, and no correlation to make another one from: it is used, and told.
    """
    from .model.adaptation_file import is_same_lambda

    files = dict(session.connectomes)
    same = []
    for atlas, value in fitted.items():
        name = f"FCpcorr_{atlas}_hpf"
        measured = read_lambda(files[name]) if name in files else None
        if measured is not None and is_same_lambda(measured, value):
            same.append(atlas)
        elif name in files and measured is None and f"FCcorr_{atlas}_hpf" not in files:
            same.append(atlas)
            _log.warning(
                "%s: lambda of %s is not known; %s was fitted with %.6g",
                session.label, name, adaptation, value,
            )  # fmt: skip
    return tuple(same)


def _find_target(atlas: str, settings: Settings, *, fetch: bool) -> LambdaTarget:
    """Find, fetch and look at the target of an atlas."""
    own = dict(settings.regularization.targets).get(atlas)
    if own is not None:
        _check_target(atlas, own)
        return LambdaTarget(atlas, own.name, _sha256(own), own)
    name = f"regtarget-{atlas}"
    published = published_extras()[name].files[0]
    try:
        file = find_files([published])[0] if fetch else held_file(published, search_dirs())
    except ResourceError as error:
        raise ResourceError(
            f"{published.name}, the target that lambda of {atlas} is searched against, is not "
            f"here: {error.what}",
            where=error.where,
            fix=f"Fetch it where there is a network (kraken-model fetch {name}) and put it into "
            f"{resource_dir()}, or keep the lambda measured with: --pcorr-lambda {atlas}=0.06.",
        ) from error
    if file is not None:
        _check_target(atlas, file)
    return LambdaTarget(atlas, name, published.sha256, file)


def _check_target(atlas: str, file: Path) -> None:
    """Refuse what is no precision matrix, or that of another atlas."""
    from .formats.reading.correlations import read_target

    n_regions = load_atlas(atlas).n_regions
    target = read_target(file)
    if len(target) != n_regions:
        raise InputError(
            f"has {len(target)} regions, {atlas} has {n_regions}",
            where=f"--pcorr-target {atlas}={file}",
            fix="Give a target of the same atlas.",
        )


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def tell_search(search: LambdaSearchPlan, sessions: Sequence[CohortSession] = ()) -> None:
    """Say what is made again, on how many matrices, against what, and for whom it cannot be."""
    for atlas, value in search.fitted:
        n_made = sum(atlas in dict(row) for row in search.correlations)
        if n_made:
            _log.warning(
                "FCpcorr_%s_hpf of %d sessions is made again from FCcorr_%s_hpf with lambda %.6g, "
                "that of %s",
                atlas, n_made, atlas, value, search.fitted_by,
            )  # fmt: skip
    for atlas in search.atlases:
        labels = [
            session.label
            for session, few in zip(sessions, search.withheld, strict=False)
            if atlas in few
        ]
        if labels:
            _log.warning(
                "%d sessions have fewer degrees of freedom than regions of %s: no lambda is "
                "searched on them, and they are used without FCpcorr_%s_hpf: %s",
                len(labels), atlas, atlas, ", ".join(labels[:5]) + (" …" if labels[5:] else ""),
            )  # fmt: skip
    for target in search.targets:
        n_matrices = sum(target.atlas in dict(row) for row in search.correlations)
        _log.info(
            "lambda of FCpcorr_%s_hpf is searched for: %d matrices, target %s%s",
            target.atlas,
            n_matrices,
            target.name,
            "" if target.file else " (to be fetched)",
        )


def tell_found(search: LambdaSearchPlan, dataset_dir: Path) -> None:
    """Say what was found, and what is unusual of it."""
    for atlas in (target.atlas for target in search.targets):
        flavor = Flavor.parse(f"FCpcorr_{atlas}_hpf")
        path = output_path("lambda_search", atlas=atlas, meas=flavor.meas, desc=SEARCH_LABEL)
        facts = read_sidecar(dataset_dir / path)
        found, left_out = float(facts["Regularization"]), facts["LeftOut"]
        _log.info("lambda of %s: %.6g, on %d matrices", flavor, found, facts["NumberOfMatrices"])
        if left_out:
            some = ", ".join(left_out[:5]) + (" …" if len(left_out) > 5 else "")
            _log.warning(
                "%d sessions are left out of the search for the lambda of %s, for regions are "
                "missing or the file cannot be used: %s",
                len(left_out),
                flavor,
                some,
            )
        if facts["IsAtBound"]:
            _log.warning("lambda of %s lies at the end of what was searched", flavor)


def tell_measured_lambdas(
    sessions: Sequence[CohortSession], settings: Settings, *, searched: Collection[str] = ()
) -> None:
    """Warn of partial correlations that were not measured with one lambda, or the one given.

    Parameters
    ----------
    sessions
        The cohort.
    settings
        Those of the run.
    searched
        Atlases whose partial correlations are made again.
    """
    files: dict[str, list[Path]] = {}
    for session in sessions:
        for name, file in session.connectomes:
            kind, atlas, _ = name.split("_")
            if kind == "FCpcorr" and atlas not in searched:
                files.setdefault(atlas, []).append(file)
    default, given = dict(FunctionalOptions().pcorr_lambda), dict(settings.functional.pcorr_lambda)
    for atlas, measured in files.items():
        counts = count_lambdas(measured)
        value = given.get(atlas)
        if len(counts) > 1:
            _log.warning(
                "partial correlations of %s were measured with several lambdas: %s. Measure them "
                "again with one, or say --pcorr-lambda %s=search",
                atlas,
                name_lambdas(counts),
                atlas,
            )
        elif counts and value not in {None, default.get(atlas), *counts}:
            _log.warning(
                "--pcorr-lambda %s=%g has no effect at the group level: partial correlations "
                "were measured with %s",
                atlas,
                value,
                name_lambdas(counts),
            )


def tell_later_search(settings: Settings) -> None:
    """Say, at the participant level, what lambda is our choice, and who searches for it."""
    unchosen = unchosen_atlases(settings, ())
    if unchosen and "func" in settings.modalities:
        _log.info(
            "lambda of %s is our choice, %g: no training value is published. The group level "
            "searches for it where the model has a published target",
            ", ".join(unchosen),
            settings.functional.lambda_of(unchosen[0]),
        )
    searched = settings.regularization.searched
    if searched:
        words = ", ".join(
            f"{atlas} {settings.functional.lambda_of(atlas):g}" for atlas in searched
        )
        _log.warning(
            "lambda is searched for at the group level; participants' partial correlations are "
            "measured with %s",
            words,
        )
