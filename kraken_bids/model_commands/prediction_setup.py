# SPDX-License-Identifier: MIT
"""What ``kraken-model predict`` is to do: its arguments held against model and files.

Nothing but headers and ids is read here. Whatever is wrong is told together.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..connectome.adaptation import ADAPTATIONS, Adaptation, resolve_mode
from ..errors import UsageError, suggest
from ..formats.inputs import MatchedInputs
from ..formats.outputs import OutputFacts
from ..formats.reading.naming import is_latent_name
from ..formats.writing.opening import check_output
from ..model.bundle import Bundle
from ..model.cohort_fit import FitSample
from ..model.cohort_reading import CohortReader
from ..model.devices import parse_device
from ..model.fusion import PlannedSource, plan_predictions, resolve_fusions, resolve_members
from .adaptation_setup import check_scale, settle_adaptation
from .given_inputs import open_matched, select_matched
from .input_lambdas import fit_provenance
from .options import ProblemList, check_nprocs, open_model, parse_pairs

_log = logging.getLogger(__name__)

#: Target that stands for the latents themselves.
ENCODED = "encoded"


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
        inputs = open_matched(arguments.input, bundle)
        inputs = select_matched(inputs, arguments.participant_label)
    if inputs is None:
        raise problems.error()
    setup = None
    with problems.gathering():
        if names.found:
            settle_adaptation(arguments, bundle, inputs, problems)
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
    settled = settle_adaptation(arguments, bundle, inputs, problems)
    if arguments.predict_scale == "input" and settled.mode != "none":
        check_scale(settled.keys, plan, settled.sites)
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
