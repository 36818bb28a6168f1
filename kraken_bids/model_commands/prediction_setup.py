# SPDX-License-Identifier: MIT
"""What ``kraken-model predict`` is to do: its arguments held against model and files.

Nothing but headers and ids is read here. Whatever is wrong is told together.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bids.cohort import read_sites
from ..connectome.adaptation import ADAPTATIONS, Adaptation, resolve_mode
from ..errors import InputError, KrakenBIDSError, UsageError, suggest
from ..formats.inputs import MatchedInputs
from ..formats.outputs import OutputFacts
from ..formats.reading.matching import match_inputs, select_participants
from ..formats.reading.naming import is_latent_name
from ..formats.reading.opening import open_inputs
from ..formats.writing.opening import check_output
from ..model.adaptation_file import load_adaptations_for
from ..model.bundle import Bundle
from ..model.cohort_fit import FitSample, plan_fit
from ..model.cohort_reading import CohortReader
from ..model.devices import parse_device
from ..model.fusion import PlannedSource, plan_predictions, resolve_fusions, resolve_members
from ..model.translation import adaptation_key
from .input_lambdas import check_lambdas, fit_provenance
from .options import ProblemList, open_model, parse_pairs

_log = logging.getLogger(__name__)

#: Target that stands for the latents themselves.
ENCODED = "encoded"
#: How many ids a message names.
_N_NAMED = 5


@dataclass(eq=False)
class Setup:
    """A run that can be carried out.

    Parameters
    ----------
    bundle
        The model.
    inputs
        Let go of by `make_reader`, so that what was read does not stay in memory.
    flavors, latents
        Names of the inputs that are connectomes, and that are latents.
    plan
        Sources by target.
    latent_sources
        Sources whose latents are written.
    mode
        Of the adaptation.
    sample
        Whom to fit on; None if nothing is to be fitted.
    fits
        Adaptations from a file.
    sites
        (n,), empty texts where sites are not told apart.
    arguments
        As typed.
    fusions
        Members by name.
    where
        File or folder of each input.
    lambdas
        Of partial correlations that are fitted on, for the provenance of a saved adaptation.
    """

    bundle: Bundle
    inputs: MatchedInputs
    flavors: tuple[str, ...]
    latents: tuple[str, ...]
    plan: Mapping[str, tuple[PlannedSource, ...]]
    latent_sources: tuple[PlannedSource, ...]
    mode: str
    sample: FitSample | None
    fits: Mapping[str, Adaptation]
    sites: tuple[str, ...]
    arguments: argparse.Namespace
    fusions: Mapping[str, tuple[str, ...]]
    where: Mapping[str, str] = field(default_factory=dict)
    lambdas: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[PlannedSource, ...]:
        """All sources, each once."""
        found = {source.name: source for source in self.latent_sources}
        for sources in self.plan.values():
            found |= {source.name: source for source in sources if "." not in source.name}
        return tuple(found.values())

    def read_latents(self) -> dict[str, NDArray[np.float32]]:
        """Read the inputs that are latents."""
        n = len(self.inputs.participants)
        return {name: self.inputs.read(name, 0, n) for name in self.latents}

    def make_reader(self) -> CohortReader:
        """Make the reader of the connectomes; it alone holds on to them from now on."""
        reader = CohortReader(
            self.inputs,
            self.flavors,
            self.bundle,
            sites=self.sites,
            sample=self.sample,
            fits=self.fits,
        )
        kept = {name: self.inputs.inputs[name] for name in self.latents}
        self.inputs = MatchedInputs(self.inputs.participants, kept, self.inputs.positions)
        self.sample = None
        return reader

    def facts(self, available: Mapping[str, NDArray[np.bool_]] | None = None) -> OutputFacts:
        """What writers are told."""
        provenance = {
            "fit_on": self.arguments.fit_on,
            "adaptation_source": self.arguments.adaptation_source,
            "adapt_by": self.arguments.adapt_by,
            "fusion_normalize": self.arguments.fusion_normalize,
        }
        return OutputFacts(
            n_edges={flavor: self.bundle.n_edges(flavor) for flavor in self.bundle.flavors},
            latent_size=self.bundle.latent_size,
            connectomes=[(s.name, target) for target, row in self.plan.items() for s in row],
            latents=[source.name for source in self.latent_sources],
            model_name=self.bundle.name,
            model_sha256=self.bundle.sha256,
            inputs=self.where,
            fusions=self.fusions,
            available=available or {},
            adaptation=self.mode,
            scale=self.arguments.predict_scale,
            square=self.arguments.square,
            provenance={name: value for name, value in provenance.items() if value},
        )


def prepare(arguments: argparse.Namespace, stack: ExitStack, *, is_written: bool = True) -> Setup:
    """Hold the arguments against model and files.

    Parameters
    ----------
    arguments
        As typed.
    stack
        Takes what is to be closed when the run ends.
    is_written
        Whether predictions are written to ``--output``, which is looked at then.

    Raises
    ------
    KrakenBIDSError
        All problems together.
    """
    problems = ProblemList()
    if is_written:
        with problems.gathering():
            check_output(arguments.output)
    _check_options(arguments, problems)
    bundle = None
    with problems.gathering():
        bundle = open_model(arguments, stack)
    if bundle is None:
        raise problems.error()
    names = ProblemList()
    with names.gathering():
        _check_targets(arguments.predict_to, bundle)
    with names.gathering():
        _check_fusions(arguments.fusion, bundle)
    problems.add(names.found)
    inputs = None
    with problems.gathering():
        inputs = _open(arguments.input, bundle)
        inputs = _select(inputs, arguments.participant_label)
    if inputs is None:
        raise problems.error()
    setup = None
    with problems.gathering():
        if names.found:
            _settle_adaptation(arguments, bundle, inputs, problems)
        else:
            setup = _make_setup(arguments, bundle, inputs, problems)
    if problems.found or setup is None:
        raise problems.error()
    if is_written:
        ids = inputs.participants
        check_output(
            arguments.output, n_participants=len(ids), participants=ids, facts=setup.facts()
        )
    return setup


def check_nprocs(asked: int | None) -> None:
    """Refuse a number of threads below 1."""
    if asked is not None and asked < 1:
        raise UsageError(
            f"{asked} threads cannot compute", where="--nprocs", fix="Give 1 or more."
        )


def _check_options(arguments: argparse.Namespace, problems: ProblemList) -> None:
    """Refuse options that would do something else than what was meant."""
    with problems.gathering():
        parse_device(arguments.device)
    with problems.gathering():
        check_nprocs(arguments.nprocs)
    if not arguments.fusion:
        problems.add(
            UsageError("there is no fusion", where=option, fix="Add '--fusion fusion=all'.")
            for option in ("--only-fusion", "--fusion-normalize", "--fusion-variants")
            if getattr(arguments, option[2:].replace("-", "_"))
        )
    is_file = Path(arguments.adaptation).is_file()
    is_fitted = False
    if not is_file:
        with problems.gathering():
            is_fitted = resolve_mode(arguments.adaptation) != "none"
    if not is_fitted and (is_file or arguments.adaptation.lower() in ADAPTATIONS):
        problems.add(
            UsageError(
                "there is no adaptation to fit", where=option,
                fix="Add '--adaptation meanfit+meanshift'.",
            )
            for option in ("--adaptation-source", "--fit-on", "--save-adaptation")
            if getattr(arguments, option[2:].replace("-", "_"))
        )  # fmt: skip
    if bool(arguments.adapt_by) != bool(arguments.participants):
        problems.add([UsageError(
            "sites are a column of a table of participants",
            where="--adapt-by, --participants",
            fix="Give both: '--adapt-by site --participants participants.tsv'.",
        )])  # fmt: skip
    if arguments.save_adaptation and arguments.save_adaptation.suffix != ".safetensors":
        problems.add([UsageError(
            f"'{arguments.save_adaptation}' is no name for a fitted adaptation",
            where="--save-adaptation",
            fix="Give a file that ends in .safetensors.",
        )])  # fmt: skip


def _check_targets(tokens: Sequence[str], bundle: Bundle) -> None:
    wanted = [token for token in tokens if token not in {ENCODED, "self"}]
    try:
        resolve_members(wanted, bundle.flavors)
    except UsageError as error:
        raise UsageError(error.what, where="--predict-to", fix=error.fix) from error


def _check_fusions(texts: Sequence[str], bundle: Bundle) -> None:
    for name, tokens in parse_pairs(texts, "--fusion").items():
        wanted = [token for token in tokens.split(",") if not is_latent_name(token)]
        resolve_members(wanted, bundle.flavors)
        if name in bundle.flavors:
            raise UsageError(
                f"fusion '{name}' is called as a flavor is", where="--fusion",
                fix="Give the fusion another name.",
            )  # fmt: skip


def _open(texts: Sequence[str], bundle: Bundle, option: str = "--input") -> MatchedInputs:
    n_edges = {flavor: bundle.n_edges(flavor) for flavor in bundle.flavors}
    return match_inputs(open_inputs(texts, n_edges, latent_size=bundle.latent_size, option=option))


def _select(inputs: MatchedInputs, asked: Sequence[str]) -> MatchedInputs:
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


def _make_setup(
    arguments: argparse.Namespace,
    bundle: Bundle,
    inputs: MatchedInputs,
    problems: ProblemList,
) -> Setup:
    """Settle sources, targets and adaptation."""
    flavors = tuple(name for name in inputs.inputs if name in bundle.flavors)
    latents = tuple(name for name in inputs.inputs if name not in flavors)
    fusions = _fusions(arguments, bundle, flavors, latents)
    names = _source_names(arguments, (*flavors, *latents), fusions)
    plan = plan_predictions(
        (*flavors, *latents),
        fusions,
        _targets(arguments.predict_to, flavors, bundle),
        sources=names,
        variants=arguments.fusion_variants,
        normalize=arguments.fusion_normalize,
        only_self="self" in arguments.predict_to,
    )
    latent_sources: tuple[PlannedSource, ...] = ()
    if arguments.latents or ENCODED in arguments.predict_to:
        latent_sources = tuple(
            PlannedSource(
                name,
                fusions.get(name, (name,)),
                arguments.fusion_normalize and name in fusions,
            )
            for name in names
        )
    if not plan and not latent_sources:
        raise (
            problems.error()
            if problems.found
            else UsageError(
                "there is nothing to predict",
                where="--fusion, --predict-from and --predict-to",
                fix="Choose sources that have inputs and targets that they can predict.",
            )
        )
    settled = _settle_adaptation(arguments, bundle, inputs, problems)
    if arguments.predict_scale == "input" and settled.mode != "none":
        _check_scale(settled.keys, plan, settled.sites)
    return Setup(
        bundle=bundle,
        inputs=inputs,
        flavors=flavors,
        latents=latents,
        plan=plan,
        latent_sources=latent_sources,
        mode=settled.mode,
        sample=settled.sample,
        fits=settled.fits,
        sites=settled.sites,
        arguments=arguments,
        fusions=fusions,
        where={name: one.where for name, one in inputs.inputs.items()},
        lambdas=fit_provenance(
            arguments.adaptation, settled.sample.inputs if settled.sample else None, flavors
        )
        if arguments.save_adaptation
        else {},
    )


def _fusions(
    arguments: argparse.Namespace,
    bundle: Bundle,
    flavors: Sequence[str],
    latents: Sequence[str],
) -> dict[str, tuple[str, ...]]:
    """Find the members of each fusion; latents take part only where they are named."""
    found: dict[str, tuple[str, ...]] = {}
    for name, text in parse_pairs(arguments.fusion, "--fusion").items():
        if name in latents:
            raise UsageError(
                f"'{name}' is an input and a fusion", where="--fusion",
                fix="Give the fusion another name.",
            )  # fmt: skip
        tokens = text.split(",")
        named = [token for token in tokens if is_latent_name(token)]
        for token in named:
            if token not in latents:
                raise UsageError(
                    f"'{token}' is no input", where="--fusion", fix=suggest(token, latents) + "."
                )
        rest = [token for token in tokens if token not in named]
        members: dict[str, tuple[str, ...]] = {}
        if rest:
            members = resolve_fusions([(name, rest)], flavors, known=bundle.flavors)
        if named or members:
            found[name] = (*members.get(name, ()), *named)
    return found


def _source_names(
    arguments: argparse.Namespace, inputs: Sequence[str], fusions: Mapping[str, Sequence[str]]
) -> list[str]:
    """Choose what to predict from; fusions without members are left out."""
    if not arguments.predict_from:
        return [*([] if arguments.only_fusion else inputs), *fusions]
    asked = {*inputs, *parse_pairs(arguments.fusion, "--fusion")}
    for source in arguments.predict_from:
        if source not in asked:
            raise UsageError(
                f"source '{source}' is neither an input nor a fusion",
                where="--predict-from",
                fix=suggest(source, asked) + ".",
            )
    return [source for source in arguments.predict_from if source in {*inputs, *fusions}]


def _targets(tokens: Sequence[str], flavors: Sequence[str], bundle: Bundle) -> tuple[str, ...]:
    """Choose the flavors to predict."""
    if not tokens:
        return bundle.flavors
    wanted = [text for text in tokens if text not in {ENCODED, "self"}]
    if "self" in tokens:
        wanted += flavors
    return resolve_members(wanted, bundle.flavors)


def _sites(arguments: argparse.Namespace, participants: Sequence[str]) -> tuple[str, ...]:
    """Site of each participant; empty texts if sites are not told apart."""
    if not arguments.adapt_by:
        return ("",) * len(participants)
    table = read_sites(arguments.adapt_by, arguments.participants)
    without = [name for name in participants if name not in table]
    if without:
        more = f" and {len(without) - _N_NAMED} more" if len(without) > _N_NAMED else ""
        raise InputError(
            f"participants {', '.join(without[:_N_NAMED])}{more} have no value in column "
            f"'{arguments.adapt_by}'",
            where=str(arguments.participants),
            fix="Fill it in, or choose others with --participant-label.",
        )
    return tuple(table[name] for name in participants)


@dataclass(frozen=True, eq=False)
class _Settled:
    """How connectomes are adapted: whom to fit on, or what was fitted, and its keys."""

    mode: str
    sites: tuple[str, ...]
    sample: FitSample | None = None
    fits: Mapping[str, Adaptation] = field(default_factory=dict)
    keys: Sequence[str] = ()


def _settle_adaptation(
    arguments: argparse.Namespace,
    bundle: Bundle,
    inputs: MatchedInputs,
    problems: ProblemList,
) -> _Settled:
    """Settle how connectomes are adapted."""
    flavors = tuple(name for name in inputs.inputs if name in bundle.flavors)
    if bool(arguments.adapt_by) != bool(arguments.participants):
        raise problems.error()  # which has been told
    sites = _sites(arguments, inputs.participants)
    if Path(arguments.adaptation).is_file():
        fits = _load_fits(Path(arguments.adaptation), bundle, inputs, flavors, sites)
        problems.add(check_lambdas(Path(arguments.adaptation), inputs, flavors))
        return _Settled(next(iter(fits.values())).mode, sites, fits=fits, keys=tuple(fits))
    mode = resolve_mode(arguments.adaptation)
    if mode == "none" or not flavors:
        return _Settled("none", sites)
    without = [name for name in flavors if not bundle.row(name)["has_training_mean"]]
    problems.add(
        UsageError(
            f"flavor '{name}' has no training mean in model '{bundle.name}'",
            where="--adaptation",
            fix="Use '--adaptation none'.",
        )
        for name in without
    )
    fit_inputs, fit_sites = inputs, sites
    if arguments.adaptation_source:
        fit_inputs = _open(_source_texts(arguments, flavors), bundle, "--adaptation-source")
        fit_sites = _sites(arguments, fit_inputs.participants)
    chosen = np.ones(len(fit_inputs.participants), dtype=bool)
    if arguments.fit_on:
        wanted = select_participants(fit_inputs, read_ids(arguments.fit_on), option="--fit-on")
        chosen = np.isin(fit_inputs.participants, wanted.participants)
    sample = FitSample(mode, fit_inputs, chosen, fit_sites, not arguments.adaptation_source)
    keys, found = plan_fit(sample, flavors)
    problems.add(found)
    if not found:
        problems.add(_without_fit(keys, inputs, flavors, sites))
    return _Settled(mode, sites, sample=sample, keys=keys)


def _source_texts(arguments: argparse.Namespace, flavors: Sequence[str]) -> list[str]:
    """Texts of ``--adaptation-source``: ``all=FILE`` names none, one FILE alone the one input."""
    texts = [text.removeprefix("all=") for text in arguments.adaptation_source]
    if len(texts) == len(flavors) == 1 and "=" not in texts[0] and Path(texts[0]).is_file():
        return [f"{flavors[0]}={texts[0]}"]
    return texts


def _without_fit(
    keys: Iterable[str], inputs: MatchedInputs, flavors: Sequence[str], sites: tuple[str, ...]
) -> list[KrakenBIDSError]:
    """Name sites and flavors of the cohort that nobody in the sample stands for."""
    known = set(keys)
    labels = np.array(sites)
    lacking = [
        adaptation_key(flavor, site)
        for flavor in flavors
        for site in dict.fromkeys(sites)
        if adaptation_key(flavor, site) not in known
        # of one participant with the flavor, plan_fit has told or refused
        and int((inputs.has(flavor) & (labels == site)).sum()) > 1
    ]
    if not lacking:
        return []
    return [UsageError(
        f"nobody to fit on for {', '.join(lacking)}",
        where="--fit-on, --adaptation-source",
        fix="Choose participants of every site and flavor.",
    )]  # fmt: skip


def _load_fits(
    file: Path,
    bundle: Bundle,
    inputs: MatchedInputs,
    flavors: Sequence[str],
    sites: tuple[str, ...],
) -> dict[str, Adaptation]:
    """Read fitted adaptations and hold them against model and cohort."""
    fits = load_adaptations_for(file, bundle)
    labels = np.array(sites)
    needed = [
        adaptation_key(flavor, site)
        for flavor in flavors
        for site in dict.fromkeys(sites)
        if (inputs.has(flavor) & (labels == site)).any()
    ]
    missing = [key for key in needed if key not in fits]
    if missing:
        by_site = any("@" in key for key in fits) and not any(sites)
        raise UsageError(
            f"was not fitted for {', '.join(missing)}",
            where=str(file),
            fix="It was fitted by site: give --adapt-by and --participants."
            if by_site
            else "Fit it with these flavors and sites, or leave them out.",
        )
    return fits


def _check_scale(
    keys: Iterable[str], plan: Mapping[str, Sequence[PlannedSource]], sites: Sequence[str]
) -> None:
    """Refuse targets that cannot be brought back to the scale of the inputs."""
    known = set(keys)
    wanted = [adaptation_key(target, site) for target in plan for site in dict.fromkeys(sites)]
    lacking = [key for key in wanted if key not in known]
    if lacking:
        raise UsageError(
            f"there is no adaptation of {', '.join(lacking)} to map predictions back through",
            where="--predict-scale input",
            fix="Give these flavors as inputs too, leave them out with --predict-to, or use "
            "'--predict-scale training'.",
        )
