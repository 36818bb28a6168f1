# SPDX-License-Identifier: MIT
"""The Krakencoder: connectomes of any flavor to one latent space, and back to any flavor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..connectome.adaptation import fill_missing, fit_adaptation, warn_about_fits
from ..errors import ModelError
from .bundle import Bundle, open_bundle
from .connectome_rows import batch_rows, check_connectomes, to_rows
from .devices import Chain, Device, library_of, open_device, resolve_device
from .fusion import Fused, PlannedSource, fuse, plan_predictions, resolve_fusions
from .loaded_flavor import LoadedFlavor, load_flavor
from .trust import N_MEASURES, Seen, look
from .weights import MappedWeights

__all__ = ["Krakencoder", "LoadedFlavor", "Prediction", "load_flavor", "resolve_device"]

#: Connectomes or latents by flavor: arrays or nested lists.
Connectomes = Mapping[str, ArrayLike]


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


class Krakencoder:
    """A trained model. Flavors are read from the bundle when they are first used.

    Parameters
    ----------
    bundle
        Opened bundle.
    flavors
        Flavors to work with; all if None.
    device
        See `devices.resolve_device`.

    Examples
    --------
    Structural connectomes to predicted functional ones:

    >>> model = Krakencoder.from_pretrained(model_dir)
    >>> model.flavors
    ('SCsdstream_toy_count', 'FCcorr_toy_hpf')
    >>> edges = [[0, 3, 1, 4, 2, 2], [1, 0, 5, 2, 3, 1]]  # two participants, four regions
    >>> latents = model.encode({"SCsdstream_toy_count": edges})
    >>> latents["SCsdstream_toy_count"].shape
    (2, 3)
    >>> predicted = model.decode(latents["SCsdstream_toy_count"], ["FCcorr_toy_hpf"])
    >>> predicted["FCcorr_toy_hpf"].shape
    (2, 6)
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
        self.open_device: Device = open_device(self.device)
        self._loaded: dict[str, LoadedFlavor] = {}
        self._intergroup: dict[str, Chain] = {}

    @classmethod
    def from_pretrained(
        cls, model: Path | str, flavors: Sequence[str] | None = None, device: str = "auto"
    ) -> Krakencoder:
        """Open a bundle's folder, or a published model by name.

        Parameters
        ----------
        model
            A folder, or a name such as ``krakencoder-2024``, whose files are fetched and
            converted the first time.
        flavors
            Flavors to work with; all if None.
        device
            ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.

        Raises
        ------
        ModelError
            If the model lacks a flavor asked for.
        ResourceError
            If the folder is no bundle, the files cannot be fetched, or the device is not there.
        UsageError
            If there is no such folder or name.
        """
        from .pretrained import find_model

        return cls(open_bundle(find_model(model)), flavors, device=device)

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
        return {
            flavor: self._map(self._load(flavor).transform.forward, x, self._n_features(flavor))
            for flavor, x in self._rows(connectomes).items()
        }

    def adapt(
        self, connectomes: Connectomes, mode: str = "meanfit+meanshift"
    ) -> dict[str, NDArray[np.float32]]:
        """Bring a cohort to the scale of the training data and fill its missing edges.

        Parameters
        ----------
        connectomes
            As for `encode`, but in the cohort's own scale, and single edges may be NaN.
        mode
            ``none``, ``meanshift``, ``meanfit`` or ``meanfit+meanshift``.

        Returns
        -------
        dict
            (n, n_edges) by flavor, for `encode` and `predict`; edges that were NaN are those of
            the training mean.

        Raises
        ------
        ModelError
            If the cohort is too small, or the model keeps no training mean of a flavor.
        """
        adapted, fits = {}, {}
        for flavor, x in self._rows(connectomes, may_miss_edges=True).items():
            target = self.bundle.training_mean(flavor)
            if target is None:
                raise ModelError(
                    f"model '{self.bundle.name}' keeps no training mean of flavor '{flavor}'",
                    fix="Give connectomes in the scale of the training data to encode at once.",
                )
            present = ~np.isnan(x).all(axis=1)
            with np.errstate(invalid="ignore", divide="ignore"):
                count = (~np.isnan(x)).sum(axis=0)
                mean = np.nansum(x, axis=0, dtype=np.float64) / count
            fits[flavor] = fit_adaptation(mode, mean, target, n_participants=int(present.sum()))
            adapted[flavor] = fill_missing(fits[flavor].forward(x), target)[0]
        warn_about_fits(fits)
        return adapted

    def encode(self, connectomes: Connectomes) -> dict[str, NDArray[np.float32]]:
        """Encode connectomes to latents.

        Parameters
        ----------
        connectomes
            (n, n_edges) by flavor, or symmetric matrices (n, R, R); arrays, or nested lists; in
            the scale of the training data. The rows of all flavors are the same participants. A
            row of NaN says that the participant lacks the flavor.

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
        return {
            flavor: self._map(self._load(flavor).encode, x, self.latent_size)
            for flavor, x in self._rows(connectomes).items()
        }

    def encode_seen(self, connectomes: Connectomes) -> dict[str, Seen]:
        """Encode connectomes, and see on the way how much they are like the training data.

        Parameters
        ----------
        connectomes
            As for `encode`.

        Returns
        -------
        dict
            Latents, as `encode` gives them, and measures by flavor.

        Raises
        ------
        ModelError
            As `encode`.
        """
        found = {}
        for flavor, x in self._rows(connectomes).items():
            loaded = self._load(flavor)
            rows = self._map(partial(look, loaded), x, self.latent_size + N_MEASURES)
            found[flavor] = Seen.read(rows, self.bundle, flavor)
        return found

    def fuse(
        self,
        latents: Connectomes,
        members: Sequence[str] | None = None,
        *,
        normalize: bool = False,
    ) -> NDArray[np.float32]:
        """Take the mean of latents over the flavors that each participant has.

        Parameters
        ----------
        latents
            (n, latent_size) by flavor; a row of NaN where a participant lacks the flavor.
        members
            Flavors to fuse; all of `latents` if None.
        normalize
            Bring the mean to length 1.

        Returns
        -------
        NDArray
            (n, latent_size), float32; NaN for a participant without any member.

        Raises
        ------
        ModelError
            If there are no members, or a member has no latent.
        """
        arrays = {name: np.asarray(latent, np.float32) for name, latent in latents.items()}
        return fuse(arrays, members, normalize=normalize).latent

    def decode(
        self,
        latent: ArrayLike,
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
        latent = np.asarray(latent, dtype=np.float32)
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
            Members by name: flavors, ``all``, ``SC``, ``FC`` or an atlas. A fusion without any
            flavor of `connectomes` is left out, with a line in the log.
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
            If a source, a variant or a member of a fusion is unknown.
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
        arrays = {name: np.asarray(latent, np.float32) for name, latent in latents.items()}
        plan = plan_predictions(
            arrays,
            resolve_fusions((fusions or {}).items(), tuple(arrays), known=self.bundle.flavors),
            self._known(self.flavors if targets is None else targets),
            sources=sources,
            variants=variants,
            normalize=normalize,
        )
        for target, planned in plan.items():
            for source in planned:
                fused = self._fuse_for(target, arrays, source)
                edges = self.decode(fused.latent, [target])[target]
                yield Prediction(source.name, target, edges, fused.n_inputs)

    def _fuse_for(
        self, target: str, latents: Mapping[str, NDArray[np.float32]], source: PlannedSource
    ) -> Fused:
        """Fuse members for a target; transforms between groups, if any, come before the mean."""
        mapped = {
            member: self.map_group(latents[member], member, target) for member in source.members
        }
        return fuse(mapped, normalize=source.normalize)

    def map_group(self, latent: Any, source: str, target: str) -> Any:
        """Map latents (n, latent_size) from the group of one flavor to that of another.

        Most models have no transforms between groups: the latent comes back as it is. So does
        that of a source that is no flavor of the model. Arrays are NumPy's or the device's.
        """
        if source not in self.bundle.flavors or not self.bundle.intergroup:
            return latent
        name = f"{self.bundle.group(source)}->{self.bundle.group(target)}"
        if name not in self.bundle.intergroup:
            return latent
        if name not in self._intergroup:
            rows = self.bundle.config["intergroup"][name]
            weights = MappedWeights(self.bundle)
            self._intergroup[name] = weights.chain(f"intergroup.{name}", rows, self.open_device)
        if library_of(latent) is np:
            return self._map(self._intergroup[name], latent, self.latent_size)
        return self._intergroup[name](latent)

    def _n_features(self, flavor: str) -> int:
        return self.bundle.n_features(flavor)

    def _known(self, flavors: Sequence[str]) -> tuple[str, ...]:
        for flavor in flavors:
            self.bundle.row(flavor)
        return tuple(flavors)

    def _load(self, flavor: str) -> LoadedFlavor:
        """Bring a flavor to the device, once."""
        if flavor not in self._loaded:
            self._loaded[flavor] = load_flavor(self.bundle, flavor, self.open_device)
        return self._loaded[flavor]

    def _map(
        self, function: Callable[[Any], Any], x: NDArray[np.float32], n_out: int
    ) -> NDArray[np.float32]:
        """Apply a function on the device, batch by batch: (n, n_in) to (n, n_out)."""
        result = np.empty((len(x), n_out), dtype=np.float32)
        size = batch_rows(max(x.shape[1], n_out))
        with self.open_device.computing():
            for start in range(0, len(x), size):
                batch = self.open_device.put(x[start : start + size])
                result[start : start + size] = self.open_device.get(function(batch))
        return result

    def _rows(
        self, connectomes: Connectomes, *, may_miss_edges: bool = False
    ) -> dict[str, NDArray[np.float32]]:
        """Bring what was given to rows of edges; refuse what cannot be encoded."""
        rows = {}
        for flavor, x in connectomes.items():
            n_edges = self.bundle.n_edges(flavor)
            rows[flavor] = to_rows(np.asarray(x, dtype=np.float32), n_edges, where=flavor)
            check_connectomes(
                rows[flavor], n_edges=n_edges, where=flavor, may_miss_edges=may_miss_edges
            )
        n_rows = {flavor: len(x) for flavor, x in rows.items()}
        if len(set(n_rows.values())) > 1:
            raise ModelError(
                f"numbers of participants differ: {n_rows}",
                fix="Give the same participants in the same order; rows of NaN for missing ones.",
            )
        return rows
