# SPDX-License-Identifier: MIT
"""The projection of one flavor's connectomes on principal components, on its own and back.

NumPy alone: torch is not imported. On disk it is a folder of ``config.json``,
``model.safetensors`` with the plainly named arrays ``mean``, ``components``, ``input_scale`` and
``output_scale``, and ``README.md``, its card.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, ResourceError, UsageError, suggest
from ..storage import load_json
from .card import CARD_NAME, is_written_by_hand, projection_card
from .storage import CONFIG_NAME, file_sha256, replaced_dir, write_arrays
from .transform_files import modern_name, read_transforms
from .transforms import Transform, make_transform

KIND = "pca-projection"
WEIGHTS_NAME = "model.safetensors"
FORMAT_VERSION = 1
_ARRAYS = ("mean", "components", "input_scale", "output_scale")


@dataclass(frozen=True, eq=False)
class PCAProjection:
    """A fitted projection, in the manner of scikit-learn's transformers.

    Parameters
    ----------
    mean_
        (`n_features_in_`,), float32: mean connectome of the training participants.
    components_
        (n_components, `n_features_in_`), float32.
    input_scale_
        Frobenius norm of the training participants' scores, which scores are divided by.
    output_scale_
        What they are multiplied by then; 100 in the published files.
    flavor
        Flavor of connectomes that it is for.
    explained_variance_ratio_
        Share of the training connectomes' variance that all components together keep, 0 to 1;
        None if that is not known. (The published files say it of all together only.)
    n_participants
        Number of participants that it was fitted on, or None.
    pairs_with
        Name of the model whose encoder takes the scores, or empty.
    provenance
        Plain values; ``sources`` lists files with their SHA-256.

    Notes
    -----
    ``y = output_scale * (((x - mean) components^T) / input_scale)``, and back
    ``x = ((y / output_scale) * input_scale) components + mean``, in float32 and in this order,
    as in the published model.
    """

    mean_: NDArray[np.float32]
    components_: NDArray[np.float32]
    input_scale_: float
    output_scale_: float
    flavor: str
    explained_variance_ratio_: float | None = None
    n_participants: int | None = None
    pairs_with: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_features_in_(self) -> int:
        """Number of edges of a connectome."""
        return int(self.components_.shape[1])

    @property
    def n_components(self) -> int:
        """Number of components, hence of scores."""
        return int(self.components_.shape[0])

    #: As scikit-learn calls the number once it is fitted.
    n_components_ = n_components

    def transform(self, X: NDArray[np.floating]) -> NDArray[np.float32]:
        """Project connectomes.

        Parameters
        ----------
        X
            (n, `n_features_in_`), upper triangles row by row; NaN where a participant is missing.

        Returns
        -------
        NDArray
            (n, n_components), float32.

        Raises
        ------
        ModelError
            If the number of edges is another.
        """
        scores: NDArray[np.float32] = self._transform().forward(
            self._checked(X, self.n_features_in_, "edges")
        )
        return scores

    def inverse_transform(self, X: NDArray[np.floating]) -> NDArray[np.float32]:
        """Give connectomes of scores.

        Parameters
        ----------
        X
            (n, n_components).

        Returns
        -------
        NDArray
            (n, `n_features_in_`), float32.

        Raises
        ------
        ModelError
            If the number of scores is another.
        """
        edges: NDArray[np.float32] = self._transform().inverse(
            self._checked(X, self.n_components, "scores")
        )
        return edges

    def fit(self, X: object = None, y: object = None) -> PCAProjection:  # noqa: ARG002
        """Return itself: it is fitted. For pipelines, which call it."""
        return self

    def fit_transform(self, X: NDArray[np.floating], y: object = None) -> NDArray[np.float32]:  # noqa: ARG002
        """Project connectomes without fitting anew."""
        return self.transform(X)

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:  # noqa: ARG002
        """Name the scores: ``pca0``, ``pca1`` and so on."""
        return np.array([f"pca{i}" for i in range(self.n_components)], dtype=object)

    @classmethod
    def from_transform(
        cls,
        transform: Transform,
        flavor: str,
        *,
        pairs_with: str = "",
        provenance: Mapping[str, Any] | None = None,
    ) -> PCAProjection:
        """Take the transform of a flavor.

        Raises
        ------
        ModelError
            If it is of another kind than ``pca``.
        """
        if transform.kind != "pca":
            raise ModelError(
                f"transform of {flavor} is '{transform.kind}', not a projection on principal "
                "components",
                fix="Give a flavor whose transform is 'pca'; 'kraken-model describe' tells.",
            )
        arrays = transform.parameters
        return cls(
            np.asarray(arrays["mean"], dtype=np.float32),
            np.asarray(arrays["components"], dtype=np.float32),
            float(arrays["input_scale"][0]),
            float(arrays["output_scale"][0]),
            flavor,
            transform.explained_variance,
            transform.n_participants,
            pairs_with,
            provenance or {},
        )

    @classmethod
    def from_reference(
        cls, file: Path | str, flavor: str | None = None, *, pairs_with: str = ""
    ) -> PCAProjection:
        """Read a transform file of the reference program (``.npy``, ``.npz``, ``.h5``).

        Parameters
        ----------
        file
            File as ``kraken_ioxfm_<flavor>_pc256_710train.npy``; no code in it is run.
        flavor
            Which of its flavors; may be left out where there is but one.
        pairs_with
            Name of the model that takes the scores; of published files it is known.

        Raises
        ------
        ModelError
            If the flavor's transform is no PCA, or incomplete.
        ResourceError
            If the file is missing, damaged, or holds code.
        UsageError
            If the flavor is not in the file, or not named where there are several.
        """
        transforms = read_transforms([Path(file)])
        flavor = _chosen(flavor and modern_name(flavor), transforms, where=str(file))
        sha256 = file_sha256(Path(file))
        return cls.from_transform(
            transforms[flavor],
            flavor,
            pairs_with=pairs_with or published_pair(sha256),
            provenance={"sources": [{"file": Path(file).name, "sha256": sha256}]},
        )

    @classmethod
    def from_pretrained(
        cls, model_dir: Path | str, flavor: str | None = None, *, pairs_with: str = ""
    ) -> PCAProjection:
        """Read a projection's folder, or one flavor of a bundle.

        Parameters
        ----------
        model_dir
            Folder that `save` made, a bundle, or the name of a published model, which is fetched
            the first time.
        flavor
            Which of a bundle's flavors; may be left out where there is but one.
        pairs_with
            Name of the model that takes the scores; that of the bundle or the one recorded if
            empty.

        Raises
        ------
        ModelError
            If the flavor's transform is no PCA.
        ResourceError
            If the folder is neither, damaged or altered.
        UsageError
            If the flavor is not there, or not named where there are several.
        """
        folder = Path(model_dir).expanduser()
        if not folder.is_dir():
            from .pretrained import find_model

            folder = find_model(model_dir)
        config = _read_config(folder)
        if config.get("kind") == KIND:
            found = cls._from_folder(folder, config, flavor)
            return replace(found, pairs_with=pairs_with or found.pairs_with)
        from .bundle import open_bundle

        bundle = open_bundle(folder)
        flavor = _chosen(flavor, bundle.flavors, where=str(folder))
        return cls.from_transform(
            bundle.transform(flavor),
            flavor,
            pairs_with=pairs_with or bundle.name,
            provenance={
                "models": [
                    {
                        "name": bundle.name,
                        "sha256": bundle.sha256,
                        "provenance": bundle.config.get("provenance", {}),
                    }
                ]
            },
        )

    @classmethod
    def _from_folder(
        cls, folder: Path, config: Mapping[str, Any], flavor: str | None
    ) -> PCAProjection:
        """Read what `save` wrote."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        _chosen(flavor, [str(config.get("flavor"))], where=str(folder))
        file = folder / WEIGHTS_NAME
        damaged = ResourceError(
            "is damaged or was altered", where=str(file), fix="Make the projection again."
        )
        if config.get("format_version") != FORMAT_VERSION:
            raise ResourceError(
                f"has layout {config.get('format_version')}, this version reads {FORMAT_VERSION}",
                where=str(folder),
                fix="Use a newer kraken-bids, or make the projection again.",
            )
        try:
            arrays = load_file(file)
            is_whole = file.stat().st_size == config["weights"]["size"]
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise damaged from error
        if not is_whole or set(arrays) != set(_ARRAYS):
            raise damaged
        transform = make_transform(
            "pca",
            arrays,
            where=str(folder),
            explained_variance=config.get("explained_variance"),
            n_participants=config.get("n_participants"),
        )
        return cls.from_transform(
            transform,
            str(config["flavor"]),
            pairs_with=config.get("pairs_with", ""),
            provenance=config.get("provenance", {}),
        )

    def save(
        self, out_dir: Path | str, *, name: str = "", provenance: Mapping[str, Any] | None = None
    ) -> Path:
        """Write the projection as a folder with its card, whole or not at all.

        Parameters
        ----------
        out_dir
            Folder to make; a projection in it is replaced.
        name
            Name for the card; that of the folder if empty.
        provenance
            Plain values to record beside those that are known.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        ResourceError
            If the folder cannot be written.
        UsageError
            If it holds something else.
        """
        out_dir = Path(out_dir)
        arrays = {key: self._parameters()[key] for key in _ARRAYS}
        config: dict[str, Any] = {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            "name": name or out_dir.absolute().name,
            "flavor": self.flavor,
            "n_components": self.n_components,
            "n_features_in": self.n_features_in_,
            "explained_variance": self.explained_variance_ratio_,
            "n_participants": self.n_participants,
            "pairs_with": self.pairs_with,
            "provenance": {**self.provenance, **(provenance or {})},
        }
        with replaced_dir(out_dir, names=(CONFIG_NAME, WEIGHTS_NAME), kind=KIND) as temporary:
            file = temporary / WEIGHTS_NAME
            shapes = {key: array.shape for key, array in arrays.items()}
            sha256 = write_arrays(file, shapes, arrays.items())
            config["weights"] = {
                "file": WEIGHTS_NAME, "sha256": sha256, "size": file.stat().st_size,
            }  # fmt: skip
            text = json.dumps(config, indent=2, ensure_ascii=False)
            (temporary / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
            if not is_written_by_hand(out_dir / CARD_NAME):
                (temporary / CARD_NAME).write_text(projection_card(config), encoding="utf-8")
        return out_dir

    def _parameters(self) -> dict[str, NDArray[np.float32]]:
        return {
            "mean": self.mean_,
            "components": self.components_,
            "input_scale": np.array([self.input_scale_], dtype=np.float32),
            "output_scale": np.array([self.output_scale_], dtype=np.float32),
        }

    def _transform(self) -> Transform:
        return Transform("pca", self._parameters())

    def _checked(
        self, values: NDArray[np.floating], n_columns: int, what: str
    ) -> NDArray[np.float32]:
        """Refuse arrays of other shapes."""
        array = np.asarray(values, dtype=np.float32)
        if array.ndim != 2 or array.shape[1] != n_columns:
            raise ModelError(
                f"{what} have shape {array.shape}, expected (participants, {n_columns})",
                where=f"projection of {self.flavor}",
                fix="Give a row a participant; a matrix's upper triangle, row by row.",
            )
        return array


def published_pair(sha256: str) -> str:
    """Name the published model that a transform file belongs to; empty if there is none.

    A file that both the fifteen-flavor model and another have belongs to the former.
    """
    from ..published import DEFAULT_MODEL, published_models

    found = [
        model.name
        for model in published_models().values()
        if sha256 in {file.sha256 for file in model.transforms}
    ]
    return DEFAULT_MODEL if DEFAULT_MODEL in found else next(iter(found), "")


def _chosen(flavor: str | None, known: Any, *, where: str) -> str:
    """Check the flavor asked for, or take the only one there is."""
    names = list(known)
    if flavor is None and len(names) == 1:
        return str(names[0])
    if flavor is None:
        raise UsageError(
            f"holds {len(names)} flavors, and none is named",
            where=where,
            fix=f"Name one: {', '.join(names)}.",
        )
    if flavor not in names:
        raise UsageError(
            f"flavor '{flavor}' is not in it", where=where, fix=suggest(flavor, names) + "."
        )
    return flavor


def _read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's config.json."""
    try:
        config = load_json(folder / CONFIG_NAME)
    except (OSError, ValueError) as error:
        raise ResourceError(
            f"holds neither a projection nor a bundle: {error}",
            where=str(folder),
            fix="Give the folder that 'kraken-model convert' or PCAProjection.save made.",
        ) from error
    return config if isinstance(config, dict) else {}
