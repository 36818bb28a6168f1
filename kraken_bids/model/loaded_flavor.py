# SPDX-License-Identifier: MIT
"""One flavor of a model on the device that computes it: edges to latent, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .bundle import Bundle
from .devices import Chain, Device
from .transforms import PER_EDGE_MEAN, Transform
from .weights import MappedWeights


@dataclass(frozen=True, eq=False)
class LoadedFlavor:
    """One flavor on a device; arrays below are the device's.

    Parameters
    ----------
    n_edges
        Length of a connectome's vector of edges.
    transform
        Between edges and features.
    encoder, decoder
        Between features and latent.
    """

    n_edges: int
    transform: Transform
    encoder: Chain
    decoder: Chain

    def encode(self, edges: Any) -> Any:
        """Edges (n, n_edges) to latents (n, latent_size)."""
        return self.encoder(self.transform.forward(edges))

    def decode(self, latent: Any) -> Any:
        """Latents (n, latent_size) to edges (n, n_edges)."""
        return self.transform.inverse(self.decoder(latent))

    def some_edges(self, features: Any, edges: slice) -> Any:
        """Some edges, (n, n_edges of the slice), of features (n, n_features)."""
        parameters = dict(self.transform.parameters)
        if "components" in parameters:
            parameters["components"] = parameters["components"][:, edges]
        else:
            features = features[:, edges]
        if self.transform.kind in PER_EDGE_MEAN:
            for name in ("mean", "deviation"):
                if name in parameters:
                    parameters[name] = parameters[name][edges]
        return Transform(self.transform.kind, parameters).inverse(features)


def load_flavor(bundle: Bundle, flavor: str, device: Device) -> LoadedFlavor:
    """Bring a flavor to a device.

    On processors nothing is copied: the arrays stay mapped to the bundle's file, and their
    memory goes back when the flavor is let go.

    Raises
    ------
    ModelError
        If the model lacks the flavor.
    ResourceError
        If the weights cannot be read.
    """
    row = bundle.row(flavor)
    weights = MappedWeights(bundle)
    transform = weights.transform(bundle, flavor)
    parameters = {name: device.put(array) for name, array in transform.parameters.items()}
    return LoadedFlavor(
        int(row["n_edges"]),
        Transform(transform.kind, parameters),
        weights.chain(f"encoder.{flavor}", row["encoder"], device),
        weights.chain(f"decoder.{flavor}", row["decoder"], device),
    )
