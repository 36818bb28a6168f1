# SPDX-License-Identifier: MIT
"""The Krakencoder: connectomes of any flavor to one latent space, and back to any flavor.

>>> model = Krakencoder.from_pretrained("model_dir")  # doctest: +SKIP
>>> latents = model.encode({"SCifod2act_fs86_volnorm": edges})  # doctest: +SKIP
>>> model.decode(latents["SCifod2act_fs86_volnorm"], ["FCcorr_fs86_hpf"])  # doctest: +SKIP
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ModelError, ResourceError, UsageError, suggest
from .bundle import Bundle, open_bundle
from .fusion import Fused, fuse, select_members
from .network import Coder
from .transforms import TRANSFORMS, Transform

_log = logging.getLogger(__name__)

#: Participants computed at a time; bounds the memory of what lies between input and output.
BATCH_SIZE = 128

Connectomes = Mapping[str, NDArray[np.floating]]


def resolve_device(device: str = "auto") -> str:
    """Find the device to compute on.

    Parameters
    ----------
    device
        ``auto`` (the first GPU if there is one), ``cpu``, ``cuda`` or ``cuda:<n>``.

    Returns
    -------
    str
        ``cpu`` or ``cuda:<n>``.

    Raises
    ------
    ResourceError
        If a GPU is asked for that is not there.
    UsageError
        If the name is another.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda:0" if n_gpus else "cpu"
    if device == "cpu":
        return device
    kind, _, number = device.partition(":")
    if kind != "cuda" or (number and not number.isdecimal()):
        raise UsageError(
            f"device '{device}' is unknown",
            where="--device",
            fix=suggest(device, ["auto", "cpu", "cuda", "cuda:0"]) + ".",
        )
    if int(number or 0) >= n_gpus:
        raise ResourceError(
            f"device '{device}' was asked for, torch {torch.__version__} finds {n_gpus} GPUs",
            where="--device",
            fix="Use '--device cpu', or install a CUDA build of torch on a machine with a GPU.",
        )
    return f"cuda:{int(number or 0)}"


@dataclass(frozen=True, eq=False)
class Prediction:
    """Connectomes of one target predicted from one source.

    Parameters
    ----------
    source
        A flavor, a fusion, or a fusion's variant such as ``fusion.noself``.
    target
        Flavor predicted.
    edges
        (n, n_edges), float32, in the scale of the training data; NaN for a participant without
        any of the source's flavors.
    n_inputs
        (n,), number of flavors that each participant's prediction rests on.
    """

    source: str
    target: str
    edges: NDArray[np.float32]
    n_inputs: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Loaded:
    """One flavor on the device."""

    transform: Transform
    encoder: Coder
    decoder: Coder

    def encode(self, edges: Tensor) -> Tensor:
        """Edges (n, n_edges) to latents (n, latent_size)."""
        latent: Tensor = self.encoder(self.transform.forward(edges))
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        """Latents (n, latent_size) to edges (n, n_edges)."""
        edges: Tensor = self.transform.inverse(self.decoder(latent))
        return edges


class Krakencoder:
    """A trained model. Flavors are read from the bundle when they are first used.

    Parameters
    ----------
    bundle
        Opened bundle.
    flavors
        Flavors to work with; all if None.
    device
        See `resolve_device`.
    """

    def __init__(
        self, bundle: Bundle, flavors: Sequence[str] | None = None, *, device: str = "auto"
    ) -> None:
        self.bundle = bundle
        self.flavors = tuple(bundle.flavors if flavors is None else flavors)
        for flavor in self.flavors:
            bundle.row(flavor)
        self.device = resolve_device(device)
        self.latent_size = bundle.latent_size
        self._loaded: dict[str, _Loaded] = {}
        self._intergroup: dict[str, Coder] = {}

    @classmethod
    def from_pretrained(
        cls, model_dir: Path | str, flavors: Sequence[str] | None = None, device: str = "auto"
    ) -> Krakencoder:
        """Open a bundle's folder.

        Raises
        ------
        ModelError
            If the model lacks a flavor asked for.
        ResourceError
            If the folder is no bundle, or the device is not there.
        """
        return cls(open_bundle(model_dir), flavors, device=device)

    def features(self, connectomes: Connectomes) -> dict[str, NDArray[np.float32]]:
        """Transform connectomes to what the encoders take, such as scaled PCA scores.

        Parameters
        ----------
        connectomes
            As for `encode`.

        Returns
        -------
        dict
            (n, n_features) by flavor.
        """
        self._check(connectomes)
        return {
            flavor: self._map(self._load(flavor).transform.forward, x, self._n_features(flavor))
            for flavor, x in connectomes.items()
        }

    def encode(self, connectomes: Connectomes) -> dict[str, NDArray[np.float32]]:
        """Encode connectomes to latents.

        Parameters
        ----------
        connectomes
            (n, n_edges) by flavor, in the scale of the training data; the rows of all flavors are
            the same participants. A row of NaN says that the participant lacks the flavor.

        Returns
        -------
        dict
            (n, latent_size) by flavor, float32; NaN where the flavor is missing.

        Raises
        ------
        ModelError
            If a flavor is unknown, has another number of edges, or holds single NaN or infinite
            edges; if numbers of participants differ.
        """
        self._check(connectomes)
        latents = {}
        for flavor, x in connectomes.items():
            latents[flavor] = self._map(self._load(flavor).encode, x, self.latent_size)
        return latents

    def fuse(
        self,
        latents: Connectomes,
        members: Sequence[str] | None = None,
        *,
        normalize: bool = False,
    ) -> NDArray[np.float32]:
        """Take the mean of latents over the flavors that each participant has: see `fusion.fuse`.

        Returns
        -------
        NDArray
            (n, latent_size).
        """
        return fuse(latents, members, normalize=normalize).latent

    def decode(
        self,
        latent: NDArray[np.floating],
        flavors: Sequence[str] | None = None,
        *,
        to_edges: bool = True,
    ) -> dict[str, NDArray[np.float32]]:
        """Decode latents to connectomes in the scale of the training data.

        Parameters
        ----------
        latent
            (n, latent_size); decoded as it is, not brought to length 1. A row of NaN gives one.
        flavors
            Flavors to decode; the model's if None.
        to_edges
            Undo the flavor's transform; if False, the decoder's output is returned.

        Returns
        -------
        dict
            (n, n_edges) or (n, n_features) by flavor, float32.

        Raises
        ------
        ModelError
            If a flavor is unknown or the latent has another size.
        """
        latent = np.asarray(latent)
        if latent.ndim != 2 or latent.shape[1] != self.latent_size:
            raise ModelError(
                f"latents of shape {latent.shape} given, model '{self.bundle.name}' has latents "
                f"of {self.latent_size} values",
                fix=f"Give an array (participants, {self.latent_size}).",
            )
        decoded = {}
        for flavor in self._known(self.flavors if flavors is None else flavors):
            loaded = self._load(flavor)
            if to_edges:
                decoded[flavor] = self._map(loaded.decode, latent, self.bundle.n_edges(flavor))
            else:
                decoded[flavor] = self._map(loaded.decoder, latent, self._n_features(flavor))
        return decoded

    def predict(
        self,
        connectomes: Connectomes,
        *,
        fusions: Mapping[str, Sequence[str]] | None = None,
        sources: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        variants: Sequence[str] = (),
        normalize: bool = False,
    ) -> Iterator[Prediction]:
        """Predict connectomes, one source and target after the other.

        Parameters
        ----------
        connectomes
            As for `encode`.
        fusions
            Members by name; see `fusion.resolve_fusions`.
        sources
            Flavors of `connectomes` and names of `fusions` to predict from; all if None.
        targets
            Flavors to predict; the model's if None.
        variants
            ``noself`` and ``noatlas``: each fusion is also used without the members that they
            leave out, as the source ``<fusion>.<variant>``. Where nothing is left, there is no
            prediction and a line in the log.
        normalize
            Bring fused latents to length 1.

        Yields
        ------
        Prediction
            Target by target: what is done with one can be dropped before the next is made.

        Raises
        ------
        ModelError
            See `encode`.
        UsageError
            If a source or a variant is unknown.
        """
        latents = self.encode(connectomes)
        yield from self.predict_from_latents(
            latents,
            fusions=fusions,
            sources=sources,
            targets=targets,
            variants=variants,
            normalize=normalize,
        )

    def predict_from_latents(
        self,
        latents: Connectomes,
        *,
        fusions: Mapping[str, Sequence[str]] | None = None,
        sources: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        variants: Sequence[str] = (),
        normalize: bool = False,
    ) -> Iterator[Prediction]:
        """Predict connectomes from latents (n, latent_size) by flavor or any other name.

        Parameters are those of `predict`.
        """
        members = {name: (name,) for name in latents} | {
            name: tuple(flavors) for name, flavors in (fusions or {}).items()
        }
        chosen = list(members) if sources is None else list(sources)
        for source in chosen:
            if source not in members:
                raise UsageError(
                    f"source '{source}' is neither an input nor a fusion",
                    fix=suggest(source, members) + ".",
                )
        fusion_names = set(fusions or {})
        rows = [(source, "") for source in chosen]
        rows += [(source, v) for v in variants for source in chosen if source in fusion_names]
        for target in self._known(self.flavors if targets is None else targets):
            for source, variant in rows:
                name = f"{source}.{variant}" if variant else source
                kept = select_members(members[source], target, variant=variant)
                if not kept:
                    _log.warning("%s cannot predict %s: no flavor is left", name, target)
                    continue
                fused = self._fuse_for(
                    target, latents, kept, normalize=normalize and source in fusion_names
                )
                edges = self.decode(fused.latent, [target])[target]
                yield Prediction(name, target, edges, fused.n_inputs)

    def _fuse_for(
        self, target: str, latents: Connectomes, members: Sequence[str], *, normalize: bool
    ) -> Fused:
        """Fuse members for a target; transforms between groups, if any, come before the mean."""
        mapped = {member: self.map_group(latents[member], member, target) for member in members}
        return fuse(mapped, normalize=normalize)

    def map_group(
        self, latent: NDArray[np.floating], source: str, target: str
    ) -> NDArray[np.floating]:
        """Map a latent from the group of one flavor to that of another.

        The published models have no transforms between groups: the latent comes back as it is.
        So does that of a source that is no flavor of the model.
        """
        if source not in self.bundle.flavors or not self.bundle.intergroup:
            return latent
        name = f"{self.bundle.group(source)}->{self.bundle.group(target)}"
        if name not in self.bundle.intergroup:
            return latent
        if name not in self._intergroup:
            layers = self.bundle.intergroup_layers(name)
            self._intergroup[name] = Coder.from_layers(layers, device=self.device).eval()
        return self._map(self._intergroup[name], latent, self.latent_size)

    def _n_features(self, flavor: str) -> int:
        return self.bundle.n_features(flavor)

    def _known(self, flavors: Sequence[str]) -> tuple[str, ...]:
        for flavor in flavors:
            self.bundle.row(flavor)
        return tuple(flavors)

    def _load(self, flavor: str) -> _Loaded:
        """Bring a flavor to the device, once."""
        if flavor not in self._loaded:
            row = self.bundle.row(flavor)
            kind = row["transform"]
            prefix = f"transform.{flavor}."
            names = [prefix + name for name in TRANSFORMS[kind].reference_keys]
            tensors = self.bundle.arrays(names, framework="pt")
            parameters = {
                name.removeprefix(prefix): tensor.to(self.device)  # type: ignore[attr-defined]
                for name, tensor in tensors
            }
            self._loaded[flavor] = _Loaded(
                Transform(kind, parameters),
                Coder.from_layers(self.bundle.encoder(flavor), device=self.device).eval(),
                Coder.from_layers(self.bundle.decoder(flavor), device=self.device).eval(),
            )
        return self._loaded[flavor]

    def _map(
        self, function: Callable[[Tensor], Tensor], x: NDArray[np.floating], n_out: int
    ) -> NDArray[np.float32]:
        """Apply a function on the device, batch by batch: (n, n_in) to (n, n_out)."""
        result = np.empty((len(x), n_out), dtype=np.float32)
        with torch.inference_mode(), _exact_products():
            for start in range(0, len(x), BATCH_SIZE):
                rows = np.array(x[start : start + BATCH_SIZE], dtype=np.float32)
                batch = torch.from_numpy(rows).to(self.device)
                result[start : start + BATCH_SIZE] = function(batch).cpu().numpy()
        return result

    def _check(self, connectomes: Connectomes) -> None:
        """Refuse arrays that cannot be encoded."""
        n_rows = {}
        for flavor, x in connectomes.items():
            check_connectomes(x, n_edges=self.bundle.n_edges(flavor), where=flavor)
            n_rows[flavor] = len(x)
        if len(set(n_rows.values())) > 1:
            raise ModelError(
                f"numbers of participants differ: {n_rows}",
                fix="Give the same participants in the same order; rows of NaN for missing ones.",
            )


@contextmanager
def _exact_products() -> Iterator[None]:
    """Multiply matrices in full float32: TF32 would cost three of its seven digits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def check_connectomes(x: NDArray[np.floating], *, n_edges: int, where: str) -> None:
    """Refuse an array of connectomes that cannot be encoded.

    Parameters
    ----------
    x
        (n, n_edges); rows that are NaN throughout are allowed.
    n_edges
        What the flavor has.
    where
        Flavor, for messages.

    Raises
    ------
    ModelError
        If the shape is another, or single values are NaN or infinite.
    """
    if x.ndim != 2 or x.shape[1] != n_edges:
        raise ModelError(
            f"an array of shape {x.shape} was given, (participants, {n_edges}) is needed",
            where=where,
            fix="Give upper triangles of matrices of this flavor's atlas, a row a participant.",
        )
    bad = ~np.isfinite(x)
    bad[np.isnan(x).all(axis=1)] = False
    rows = np.flatnonzero(bad.any(axis=1))
    if rows.size:
        raise ModelError(
            f"{int(bad.sum())} values are NaN or infinite, in rows {_some(rows)}",
            where=where,
            fix="Fill missing edges first (connectome.adaptation.fill_missing), or make the whole "
            "row NaN.",
        )


def _some(rows: NDArray[np.integer]) -> str:
    text = ", ".join(str(row) for row in rows[:5])
    return f"{text} and {rows.size - 5} more" if rows.size > 5 else text
