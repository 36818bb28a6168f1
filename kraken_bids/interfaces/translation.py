# SPDX-License-Identifier: MIT
"""The Krakencoder on a batch of sessions: read, translate.

Sessions are handed over as plain values (`kraken_bids.interfaces.sessions`). Each interface
writes into its own folder; `kraken_bids.interfaces.cohort.PublishTree` alone puts files into the
data set.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    Directory,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from numpy.typing import NDArray

from ..atlases import load_atlas
from ..bids.names import output_path
from ..bids.predictions import (
    add_to_session_file,
    diagonal,
    identity_cells,
    save_latents,
    save_prediction,
    save_session_sidecar,
    session_entities,
)
from ..bids.sidecars import bids_uri
from ..bids.writers import read_connectome, write_json
from ..connectome.edges import edges_to_matrix, matrix_to_edges
from ..errors import InputError
from ..flavors import Flavor
from .model_inputs import ModelInputSpec, load_fitted, open_plan, save_arrays
from .sessions import Row, identity, problem_row, session_lambdas
from .trust import judge_sessions, save_judged

_log = logging.getLogger(__name__)


class _ReadConnectomesInputSpec(ModelInputSpec):
    sessions = traits.List(traits.Dict, mandatory=True, desc="sessions, see plain_session")


class _ReadConnectomesOutputSpec(TraitedSpec):
    edges_file = File(desc="edges by flavor, (n_sessions, n_edges), NaN where missing (npz)")
    problems_file = File(desc="files that cannot be used (JSON)")


class ReadConnectomes(SimpleInterface):
    """Read the measured connectomes of a batch of sessions; unusable files become problems."""

    input_spec = _ReadConnectomesInputSpec
    output_spec = _ReadConnectomesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        _, plan = open_plan(self.inputs)
        edges, problems = read_batch(self.inputs.sessions, plan.flavors)
        earlier = [row for session in self.inputs.sessions for row in session.get("problems", ())]
        problems = [*earlier, *problems]
        folder = Path(runtime.cwd)
        save_arrays(folder / "edges.npz", edges)
        write_json(folder / "problems.json", {"problems": problems})
        self._results["edges_file"] = str(folder / "edges.npz")
        self._results["problems_file"] = str(folder / "problems.json")
        return runtime


def read_batch(
    sessions: Sequence[Row], flavors: Sequence[str]
) -> tuple[dict[str, NDArray[np.float32]], list[dict[str, str]]]:
    """Read connectomes session by session.

    Parameters
    ----------
    sessions
        See `plain_session`.
    flavors
        Flavors to read.

    Returns
    -------
    edges
        (n_sessions, n_edges) by flavor; rows of NaN where a session lacks the flavor.
    problems
        For each file that cannot be used: participant, session, flavor, and the message.
    """
    edges, problems = {}, []
    for flavor in flavors:
        atlas = load_atlas(Flavor.parse(flavor).atlas)
        n_edges = atlas.n_regions * (atlas.n_regions - 1) // 2
        rows = np.full((len(sessions), n_edges), np.nan, dtype=np.float32)
        for row, session in enumerate(sessions):
            files = dict(zip(session["flavors"], session["files"], strict=True))
            if flavor not in files:
                continue
            try:
                rows[row] = _read_edges(Path(files[flavor]), atlas.region_names)
            except InputError as error:
                _log.error("%s: %s", "_".join(map(str, identity(session))), error)
                problems.append(problem_row(session, flavor, error))
        edges[flavor] = rows
    return edges, problems


def _read_edges(file: Path, region_names: Sequence[str]) -> NDArray[np.floating]:
    """Read one connectome's edges, NaN for missing regions."""
    matrix, _ = read_connectome(file, region_names)
    edges = matrix_to_edges(matrix)
    if np.isinf(edges).any() or np.isnan(edges).all():
        raise InputError(
            "holds infinite edges" if np.isinf(edges).any() else "holds no edge at all",
            where=str(file),
            fix="Look at the quality measures of the run; process the participant again.",
        )
    if not np.array_equal(matrix, matrix.T, equal_nan=True):
        raise InputError("is not symmetric", where=str(file), fix="Process the participant again.")
    return edges


class _TranslateInputSpec(ModelInputSpec):
    sessions = traits.List(traits.Dict, mandatory=True, desc="sessions, see plain_session")
    edges_file = File(exists=True, mandatory=True, desc="edges of these sessions")
    adaptation_file = File(exists=True, desc="adaptations; without, nothing is adapted")
    means_file = File(exists=True, desc="mean adapted connectomes; without, nothing is summed up")
    cohort_size = traits.Int(desc="number of sessions in the cohort, for the sidecars")
    sources_root = traits.Str(desc="root of the data set of measured connectomes")
    sources_name = traits.Str(desc="name of that data set in DatasetLinks")
    device = traits.Str("cpu", usedefault=True, desc="where to compute")
    use_gpu = traits.Bool(False, usedefault=True, nohash=True, desc="count against GPU slots")
    relmat_format = traits.Enum("tsv", "h5", usedefault=True, desc="tables, or a file a session")


class _TranslateOutputSpec(TraitedSpec):
    out_dir = Directory(desc="what goes into the data set")
    sums_file = File(desc="what the evaluation needs of these sessions (npz)")


class Translate(SimpleInterface):
    """Adapt, encode, fuse and decode a batch of sessions."""

    input_spec = _TranslateInputSpec
    output_spec = _TranslateOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        folder = Path(runtime.cwd)
        (folder / "tree").mkdir(exist_ok=True)
        sums = _Translation(self.inputs, folder / "tree").run()
        save_arrays(folder / "sums.npz", sums)
        self._results["out_dir"] = str(folder / "tree")
        self._results["sums_file"] = str(folder / "sums.npz")
        return runtime


class _Translation:
    """One batch on its way through the model."""

    def __init__(self, inputs: Any, root: Path) -> None:
        self.inputs = inputs
        self.root = root
        self.bundle, self.plan = open_plan(inputs)
        self.sessions: list[Row] = inputs.sessions
        with np.load(inputs.edges_file, allow_pickle=False) as stored:
            self.measured = {flavor: stored[flavor] for flavor in self.plan.flavors}
        self.adaptations = None
        self.sidecars: dict[int, list[dict[str, Any]]] = {}
        self.lambdas = [session_lambdas(session) for session in self.sessions]
        if isdefined(inputs.adaptation_file):
            self.adaptations = load_fitted(Path(inputs.adaptation_file), self.bundle)

    def run(self) -> dict[str, NDArray]:
        """Write the session's files; return what the evaluation needs."""
        from ..model.krakencoder import Krakencoder
        from ..model.translation import adapt_batch
        from ..model.trust import measure_batch

        self.adapted = adapt_batch(
            self.measured,
            self.bundle,
            adaptations=self.adaptations,
            sites=[session["site"] for session in self.sessions],
        )
        model = Krakencoder(self.bundle, device=self.inputs.device)
        seen = model.encode_seen(self.adapted.edges)
        encoded = {flavor: one.latent for flavor, one in seen.items()}
        measures = measure_batch(self.measured, self.adapted, seen, self.bundle)
        latents, n_inputs = self._with_fusions(encoded)
        self._save_latents(latents, n_inputs)
        sums: dict[str, NDArray] = {}
        for target, predictions in itertools.groupby(
            model.predict_from_latents(
                encoded,
                fusions=self.plan.fusions,
                sources=self.plan.sources,
                targets=self.plan.targets,
            ),
            key=lambda prediction: prediction.target,
        ):
            sums |= self._finish_target(target, predictions)
        for row, sidecars in self.sidecars.items():
            save_session_sidecar(
                self.root, session_entities(*identity(self.sessions[row])), sidecars
            )
        if not isdefined(self.inputs.means_file):
            self._save_trust(measures, n_inputs)
        sums |= {
            f"trust/{flavor}": np.column_stack(list(columns.values()))
            for flavor, columns in measures.items()
        }
        sums |= {f"latent/{name}": latent for name, latent in latents.items()}
        sums |= {f"n_inputs/{name}": n for name, n in n_inputs.items()}
        return sums | {f"filled/{name}": n for name, n in self.adapted.n_filled.items()}

    def _save_trust(
        self, measures: Mapping[str, Mapping[str, NDArray]], n_inputs: Mapping[str, NDArray]
    ) -> None:
        """Judge sessions by what holds for any cohort: there is none here."""
        present = {flavor: n_inputs[flavor] > 0 for flavor in measures}
        rows = judge_sessions(measures, present, self.bundle)
        save_judged(self.root, [identity(session) for session in self.sessions], rows)

    def _with_fusions(
        self, encoded: Mapping[str, NDArray]
    ) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
        """Latents, and numbers of flavors they rest on, of flavors and fusions."""
        from ..model.fusion import fuse

        members = {flavor: (flavor,) for flavor in encoded} | dict(self.plan.fusions)
        fused = {name: fuse(encoded, flavors) for name, flavors in members.items()}
        return (
            {name: encoded.get(name, one.latent) for name, one in fused.items()},
            {name: one.n_inputs for name, one in fused.items()},
        )

    def _members(self, row: int, source: str) -> list[str]:
        """Flavors that a session's prediction from a source really rests on."""
        members = self.plan.fusions.get(source, (source,))
        return [name for name in members if not np.isnan(self.adapted.edges[name][row]).any()]

    def _save_latents(
        self, latents: Mapping[str, NDArray], n_inputs: Mapping[str, NDArray]
    ) -> None:
        for row, session in enumerate(self.sessions):
            present = [name for name in latents if n_inputs[name][row] > 0]
            self._tell_missing(session, [name for name in latents if name not in present])
            if present:
                save_latents(
                    self.root,
                    session_entities(*identity(session)),
                    sources=present,
                    n_inputs=[n_inputs[name][row] for name in present],
                    latents=np.stack([latents[name][row] for name in present]),
                    provenance=self._provenance(row, [n for n in present if n in self.measured]),
                )

    def _tell_missing(self, session: Row, missing: Sequence[str]) -> None:
        fusions = [name for name in missing if name in self.plan.fusions]
        if fusions:
            _log.warning(
                "%s has no flavor of %s: no predictions from there",
                "_".join(cell for cell in identity_cells(*identity(session)) if cell),
                ", ".join(fusions),
            )

    def _finish_target(self, target: str, predictions: Any) -> dict[str, NDArray]:
        """Write a target's predictions; sum them and the measured connectomes up."""
        reduce = self._reduction(target)
        sums = {}
        if reduce is not None:
            sums[f"measured/{target}"] = reduce(self.adapted.edges[target])
        for prediction in predictions:
            for row in np.flatnonzero(prediction.n_inputs):
                self._save_prediction(int(row), prediction)
            if reduce is not None:
                sums[f"predicted/{prediction.source}/{target}"] = reduce(prediction.edges)
        return sums

    def _reduction(self, target: str) -> Any:
        """Function from edges (n, n_edges) to what the evaluation needs of them, or None."""
        from ..model.translation import prediction_space

        if not isdefined(self.inputs.means_file) or target not in self.measured:
            return None
        with np.load(self.inputs.means_file, allow_pickle=False) as means:
            if target not in means.files:
                return None
            space = prediction_space(self.bundle, target, means[target])
        return (lambda edges: edges) if space is None else lambda e: space.sum_up(e).as_array()

    def _save_prediction(self, row: int, prediction: Any) -> None:
        members = self._members(row, prediction.source)
        entities = session_entities(*identity(self.sessions[row]))
        source, target, edges = prediction.source, prediction.target, prediction.edges[row]
        provenance = {**self._provenance(row, members), "predicted_from": members}
        if self.inputs.relmat_format == "h5":
            sidecar = add_to_session_file(
                self.root, entities, source=source, target=target, edges=edges,
                provenance=provenance,
            )  # fmt: skip
            self.sidecars.setdefault(row, []).append(sidecar)
            return
        matrix = edges_to_matrix(edges, diagonal=diagonal(target))
        save_prediction(
            self.root, entities, source=source, target=target, matrix=matrix,
            provenance=provenance,
        )  # fmt: skip

    def _provenance(self, row: int, members: Sequence[str]) -> dict[str, Any]:
        """What a sidecar says of the model and of the flavors used."""
        session = self.sessions[row]
        files = dict(zip(session["flavors"], session["files"], strict=True))
        return {
            "sources": [self._uri(session, name, files[name]) for name in members],
            "model_name": self.bundle.name,
            "model_sha256": self.bundle.sha256,
            "adaptation": self._adaptation_name(),
            "adaptation_file": self._adaptation_uri(),
            "cohort_size": self._cohort_size(),
            "missing_regions": self._missing_regions(row, members),
            "filled_edges": {
                name: int(self.adapted.n_filled[name][row])
                for name in members
                if self.adapted.n_filled[name][row]
            },
            "regularization": {
                name: value for name, value in self.lambdas[row].items() if name in members
            }
            if self.lambdas[row]
            else None,
        }

    def _uri(self, session: Row, flavor: str, file: str) -> str:
        """BIDS URI of a connectome: measured, or made by the group level."""
        if flavor in session.get("made", {}):
            return bids_uri(Path(session["made"][flavor]), "", Path())
        if not self.inputs.sources_root or not Path(file).is_relative_to(self.inputs.sources_root):
            return Path(file).name
        return bids_uri(Path(file), self.inputs.sources_name, Path(self.inputs.sources_root))

    def _cohort_size(self) -> int | None:
        """Sessions in the cohort, or participants that a file was fitted on."""
        if isdefined(self.inputs.cohort_size):
            return int(self.inputs.cohort_size)
        fits = (self.adaptations or {}).values()
        return max((fit.n_participants for fit in fits), default=None)

    def _adaptation_name(self) -> str:
        return next(iter(self.adaptations.values())).mode if self.adaptations else "none"

    def _adaptation_uri(self) -> str | None:
        """Where the adaptation lies: in the prediction data set, if it was a cohort's."""
        if not self.adaptations:
            return None
        if not isdefined(self.inputs.means_file):
            return Path(self.inputs.adaptation_file).name
        return f"bids::{output_path('adaptation', desc=self._adaptation_name())}"

    def _missing_regions(self, row: int, members: Sequence[str]) -> dict[str, list[str]]:
        """Names of the regions without any edge, by atlas."""
        missing: dict[str, list[str]] = {}
        for name in members:
            edges = self.measured[name][row]
            if np.isnan(edges).any():
                atlas = load_atlas(Flavor.parse(name).atlas)
                empty = np.isnan(edges_to_matrix(edges, diagonal=np.nan)).all(axis=1)
                names = [
                    n for n, is_empty in zip(atlas.region_names, empty, strict=True) if is_empty
                ]
                known = missing.setdefault(atlas.name, [])
                known += [n for n in names if n not in known]
        return missing
