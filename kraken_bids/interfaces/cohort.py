# SPDX-License-Identifier: MIT
"""The Krakencoder on a cohort: fit the adaptation, evaluate, publish."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Directory,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from numpy.typing import NDArray

from ..bids.names import output_path
from ..bids.predictions import (
    QualityRow,
    diagonal,
    identity_cells,
    save_cohort_latents,
    save_cohort_mean,
    save_participant_qc,
    save_prediction_qc,
)
from ..bids.trust_table import TrustRow, describe_concerns
from ..bids.writers import write_json
from ..connectome.adaptation import ADAPTATIONS
from ..connectome.edges import edges_to_matrix
from ..storage import atomic_path
from .model_inputs import ModelInputSpec, load_fitted, open_plan, save_arrays
from .sessions import identity, session_lambdas
from .trust import judge_sessions, save_judged

_log = logging.getLogger(__name__)

#: Random orders tried for a p value, and their seed.
N_PERMUTATIONS = 10_000
PERMUTATION_SEED = 0


def plain_adaptation(adaptation: str) -> dict[str, str]:
    """Inputs of `FitAdaptation` for what ``--adaptation`` says: a mode, or a fitted file."""
    if adaptation in ADAPTATIONS:
        return {"adaptation": adaptation}
    return {"adaptation": "file", "fitted_file": adaptation}


class _FitAdaptationInputSpec(ModelInputSpec):
    sessions = traits.List(traits.List(traits.Dict), mandatory=True, desc="batches of sessions")
    edges_files = traits.List(File(exists=True), mandatory=True, desc="edges, a file a batch")
    adaptation = traits.Str(mandatory=True, desc="mode to fit, or none")
    fitted_file = File(exists=True, desc="adaptation fitted before; nothing is fitted then")


class _FitAdaptationOutputSpec(TraitedSpec):
    adaptation_file = File(desc="adaptations (safetensors); not set for none")
    means_file = File(desc="mean adapted connectome by flavor (npz)")
    out_dir = Directory(desc="what goes into the data set")


class FitAdaptation(SimpleInterface):
    """Take a cohort's mean connectomes in one pass over its batches and adapt them to a model."""

    input_spec = _FitAdaptationInputSpec
    output_spec = _FitAdaptationOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from ..model.translation import CohortMeans

        bundle, plan = open_plan(self.inputs)
        _tell_left_out(plan.left_out, bundle.name)
        means = CohortMeans()
        for sessions, edges_file in zip(
            self.inputs.sessions, self.inputs.edges_files, strict=True
        ):
            with np.load(edges_file, allow_pickle=False) as stored:
                means.add(
                    {flavor: stored[flavor] for flavor in plan.flavors},
                    [session["participant"] for session in sessions],
                    [session["site"] for session in sessions],
                )
        adaptations = self._adaptations(means, bundle)
        self._save(Path(runtime.cwd), means, bundle, adaptations)
        return runtime

    def _adaptations(self, means: Any, bundle: Any) -> Any:
        """Fit, load, or leave alone (None)."""
        from ..model.translation import fit_cohort

        if isdefined(self.inputs.fitted_file):
            return load_fitted(Path(self.inputs.fitted_file), bundle, means)
        if self.inputs.adaptation == "none":
            return None
        return fit_cohort(means, bundle, self.inputs.adaptation)

    def _lambdas(self, flavors: Sequence[str]) -> dict[str, Any]:
        """Lambdas of the partial correlations, those of the file if nothing is fitted here."""
        from ..model.adaptation_file import lambda_provenance, load_provenance

        if isdefined(self.inputs.fitted_file):
            known = load_provenance(Path(self.inputs.fitted_file))
            return {key: value for key, value in known.items() if key.startswith("pcorr_lambda")}
        sessions = [session for batch in self.inputs.sessions for session in batch]
        return lambda_provenance(map(session_lambdas, sessions), flavors)

    def _save(self, folder: Path, means: Any, bundle: Any, adaptations: Any) -> None:
        """Write the adaptation and the cohort's means as they go into the data set."""
        from ..model.adaptation_file import save_adaptations

        root = folder / "tree"
        root.mkdir(exist_ok=True)
        adapted = {
            flavor: means.adapted_mean(flavor, adaptations, bundle.training_mean(flavor))
            for flavor in means.flavors
        }
        save_arrays(folder / "means.npz", adapted)
        for flavor in means.flavors:
            matrix = edges_to_matrix(means.mean(flavor), diagonal=diagonal(flavor))
            save_cohort_mean(root, flavor, matrix, n_sessions=means.n_sessions(flavor))
        if adaptations:
            mode = next(iter(adaptations.values())).mode
            path = root / output_path("adaptation", desc=mode)
            provenance = model_provenance(bundle) | self._lambdas(means.flavors)
            save_adaptations(path, adaptations, provenance=provenance)
            self._results["adaptation_file"] = str(path)
        self._results["means_file"] = str(folder / "means.npz")
        self._results["out_dir"] = str(root)


def _tell_left_out(left_out: Sequence[str], model: str) -> None:
    if left_out:
        _log.warning("Not used, for model %s lacks them: %s", model, ", ".join(left_out))


def model_provenance(bundle: Any) -> dict[str, Any]:
    """Name and SHA-256 of a model, for sidecars and fitted files."""
    return {"model": bundle.name, "model_sha256": bundle.sha256}


class _EvaluateTranslationInputSpec(ModelInputSpec):
    sessions = traits.List(traits.List(traits.Dict), mandatory=True, desc="batches of sessions")
    sums_files = traits.List(File(exists=True), mandatory=True, desc="a file a batch")
    problems_files = traits.List(File(exists=True), mandatory=True, desc="a file a batch")
    means_file = File(exists=True, mandatory=True, desc="mean adapted connectome by flavor")


class _EvaluateTranslationOutputSpec(TraitedSpec):
    out_dir = Directory(desc="what goes into the data set")
    problems_file = File(desc="all files that could not be used (JSON)")


class EvaluateTranslation(SimpleInterface):
    """Compare predictions with what was measured; gather the cohort's latents."""

    input_spec = _EvaluateTranslationInputSpec
    output_spec = _EvaluateTranslationOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        folder = Path(runtime.cwd)
        root = folder / "tree"
        root.mkdir(exist_ok=True)
        problems = [
            problem
            for file in self.inputs.problems_files
            for problem in json.loads(Path(file).read_text("utf-8"))["problems"]
        ]
        write_json(folder / "problems.json", {"problems": problems})
        _Evaluation(self.inputs, problems).save(root)
        self._results["out_dir"] = str(root)
        self._results["problems_file"] = str(folder / "problems.json")
        return runtime


class _Evaluation:
    """The cohort's tables in the making."""

    def __init__(self, inputs: Any, problems: Sequence[Mapping[str, str]]) -> None:
        self.files = list(inputs.sums_files)
        self.bundle, self.plan = open_plan(inputs)
        self.sessions = [session for batch in inputs.sessions for session in batch]
        self.problems = problems
        with np.load(inputs.means_file, allow_pickle=False) as means:
            self.means = {name: means[name] for name in means.files}
        self.explained: list[NDArray] = []
        self._counts: dict[str, NDArray] = {}
        self.own: dict[str, list[NDArray]] = {source: [] for source in self.plan.sources}
        self.own_residual: dict[str, list[NDArray]] = {s: [] for s in self.plan.sources}

    def save(self, root: Path) -> None:
        """Write all tables under `root`."""
        rows = sorted(self._quality(), key=self._order)
        provenance = {
            "Description": "Agreement of predicted with measured connectomes",
            "Model": {"Name": self.bundle.name, "SHA256": self.bundle.sha256},
            "FlavorsNotInModel": list(self.plan.left_out),
        }
        save_prediction_qc(root, rows, provenance=provenance)
        identities = [identity(session) for session in self.sessions]
        judged = self._judge()
        save_judged(root, identities, judged)
        save_participant_qc(root, [self._participant(i, trust) for i, trust in enumerate(judged)])
        for fusion in self.plan.fusions:
            save_cohort_latents(
                root,
                fusion,
                identities,
                self._joined(f"latent/{fusion}"),
                self._joined(f"n_inputs/{fusion}").tolist(),
                provenance={
                    "model_name": self.bundle.name,
                    "model_sha256": self.bundle.sha256,
                    "cohort_size": len(self.sessions),
                },
            )

    def _joined(self, key: str) -> NDArray[Any]:
        """One array of all batches."""
        arrays = []
        for file in self.files:
            with np.load(file, allow_pickle=False) as sums:
                arrays.append(sums[key])
        return np.concatenate(arrays)

    def _judge(self) -> list[list[TrustRow]]:
        """Judge every connectome by the cohort."""
        from ..model.trust import MEASURES, match_modalities

        flavors = self.plan.flavors
        columns: dict[str, dict[str, NDArray]] = {}
        for flavor in flavors:
            values = self._joined(f"trust/{flavor}")
            columns[flavor] = dict(zip(MEASURES, values.T, strict=True))
            self._counts[f"similarity/{flavor}"] = columns[flavor]["training_mean_r"]
        matches, modalities = match_modalities(
            flavors, lambda flavor: self._joined(f"latent/{flavor}"), self.bundle
        )
        if modalities is not None:
            for flavor in flavors:
                columns[flavor] |= {"match": matches[flavor], "modality_match": modalities}
        present = {flavor: self._count(f"n_inputs/{flavor}") > 0 for flavor in flavors}
        return judge_sessions(columns, present, self.bundle)

    def _order(self, row: QualityRow) -> tuple[int, int]:
        return self.plan.sources.index(row.source), self.plan.targets.index(row.target)

    def _quality(self) -> Iterator[QualityRow]:
        """One target after the other: its components are read once."""
        from ..model.translation import evaluate_cohort, prediction_space

        for target in self.plan.targets:
            if target not in self.means:
                continue
            mean = self.means[target]
            space = prediction_space(self.bundle, target, mean)
            measured = self._joined(f"measured/{target}")
            if space is not None:
                self.explained.append(space.explained(measured))
            for source in self.plan.sources:
                evaluation, own, own_residual = evaluate_cohort(
                    measured,
                    self._joined(f"predicted/{source}/{target}"),
                    space=space,
                    mean=mean,
                    n_permutations=N_PERMUTATIONS,
                    seed=PERMUTATION_SEED,
                )
                self.own[source].append(own)
                self.own_residual[source].append(own_residual)
                if evaluation is not None:
                    yield QualityRow(
                        source=source,
                        target=target,
                        direction=f"{self.plan.groups(source)}->{target[:2]}",
                        n_participants=evaluation.n,
                        correlation=evaluation.correlation,
                        residual_correlation=evaluation.residual_correlation,
                        top1=evaluation.top1,
                        top1_chance=evaluation.top1_chance,
                        average_rank=evaluation.average_rank,
                        average_rank_chance=evaluation.average_rank_chance,
                        p_permutation=evaluation.p_permutation,
                    )

    def _participant(self, row: int, trust: Sequence[TrustRow]) -> dict[str, Any]:
        """Row of a session in the participants' table."""
        participant, session = identity(self.sessions[row])
        cells = dict(
            zip(
                ("participant_id", "session_id"), identity_cells(participant, session), strict=True
            )
        )
        used = [name for name in self.plan.flavors if self._count(f"n_inputs/{name}")[row]]
        counts: dict[str, Any] = {
            "site": self.sessions[row]["site"] or None,
            "n_flavors": len(used),
            "flavors": ",".join(used) or None,
            "filled_edges": sum(int(self._count(f"filled/{name}")[row]) for name in used),
            "n_problems": sum(
                (problem["participant"], problem["session"] or None) == (participant, session)
                for problem in self.problems
            ),
            **_sum_up_trust(trust),
            "explained": mean_of(self.explained, row),
            **self._similarities(row),
        }
        for fusion in self.plan.fusions:
            counts[f"n_inputs_{fusion}"] = int(self._count(f"n_inputs/{fusion}")[row])
        for source in self.plan.sources:
            counts[f"correlation_{source}"] = mean_of(self.own[source], row)
            counts[f"residual_correlation_{source}"] = mean_of(self.own_residual[source], row)
        return cells | counts

    def _similarities(self, row: int) -> dict[str, float | None]:
        """Correlation of a session's connectomes with the training means, by column."""
        found = {
            flavor: float(self._count(f"similarity/{flavor}")[row])
            for flavor in self.plan.flavors
            if self.bundle.row(flavor)["has_training_mean"]
        }
        return {
            f"training_mean_r_{flavor}": None if np.isnan(value) else value
            for flavor, value in found.items()
        }

    def _count(self, key: str) -> NDArray[Any]:
        """A column of counts, or of other numbers, read once."""
        if key not in self._counts:
            self._counts[key] = self._joined(key)
        return self._counts[key]


def _sum_up_trust(rows: Sequence[TrustRow]) -> dict[str, Any]:
    """What the participants' table says of all flavors of a session together."""
    doubtful = [row.flavor for row in rows if row.concerns]
    match = next((row.values["modality_match"] for row in rows if "modality_match" in row.values),
                 None)  # fmt: skip
    return {
        "trust": describe_concerns(name for row in rows for name in row.concerns)
        if rows
        else None,
        "n_doubtful": len(doubtful),
        "doubtful_flavors": ",".join(doubtful) or None,
        "modality_match": match,
    }


def mean_of(columns: Sequence[NDArray[np.floating]], row: int) -> float | None:
    """Mean of a row over columns that have a value there; None if none has."""
    values = [float(column[row]) for column in columns if not np.isnan(column[row])]
    return float(np.mean(values)) if values else None


class _PublishTreeInputSpec(BaseInterfaceInputSpec):
    in_dir = Directory(exists=True, mandatory=True, desc="tree of finished files")
    out_dir = traits.Str(mandatory=True, desc="root of the data set")


class _PublishTreeOutputSpec(TraitedSpec):
    out_files = traits.List(traits.Str, desc="files put in place")


class PublishTree(SimpleInterface):
    """Put a tree of files into a data set, each whole or not at all."""

    input_spec = _PublishTreeInputSpec
    output_spec = _PublishTreeOutputSpec
    # Files in the data set may be deleted while the working folder stays: always look again.
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        source, target = Path(self.inputs.in_dir), Path(self.inputs.out_dir)
        written = []
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            place = target / file.relative_to(source)
            with atomic_path(place) as temporary:
                shutil.copyfile(file, temporary)
            written.append(str(place))
        self._results["out_files"] = written
        return runtime
