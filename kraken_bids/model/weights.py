# SPDX-License-Identifier: MIT
"""A bundle's arrays, mapped into memory: what is not used is not read, and nothing is copied.

The layout is that of safetensors: eight bytes with the length of a JSON header, the header (by
array: type, shape, and first and last byte behind the header), and the arrays.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ResourceError
from ..storage import parse_json
from .bundle import Bundle
from .devices import Chain, Device
from .layers import Layer
from .transforms import TRANSFORMS, Transform

_MAKE_AGAIN = "Make the bundle again with 'kraken-model convert' or 'kraken-model fetch'."
#: A longer header than this is damage, not a model.
_LONGEST_HEADER = 100_000_000


class MappedWeights:
    """The arrays of a ``model.safetensors``; closed when the last array from it is let go.

    Parameters
    ----------
    bundle
        Whose weights to map.

    Raises
    ------
    ResourceError
        If the file is missing, of another size than recorded, or damaged.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._file: Path = bundle.weights_file
        try:
            with self._file.open("rb") as stream:
                self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            if len(self._bytes) != bundle.config["weights"]["size"]:
                raise self._damage("has another size than its config.json says")
            length = int.from_bytes(self._bytes[:8], "little")
            if not 2 <= length <= min(_LONGEST_HEADER, len(self._bytes) - 8):
                raise self._damage("is no safetensors file")
            self._start = 8 + length
            self._header: dict[str, Any] = parse_json(self._bytes[8 : self._start])
        except (OSError, ValueError) as error:
            raise self._damage(f"cannot be read: {error}") from error

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """Give an array that must not be written to.

        Raises
        ------
        ResourceError
            If the file lacks it, or has it in another form than bundles do.
        """
        try:
            row: Any = self._header[name]
            first, last = row["data_offsets"]
            shape = tuple(int(size) for size in row["shape"])
            inside = 0 <= first <= last <= len(self._bytes) - self._start
            if row["dtype"] != "F32" or not inside or last - first != 4 * math.prod(shape):
                raise self._damage(f"holds '{name}' in a form that is not float32")
        except (TypeError, KeyError, ValueError) as error:
            raise self._damage(f"lacks '{name}'") from error
        array = np.frombuffer(
            self._bytes, dtype="<f4", count=math.prod(shape), offset=self._start + first
        ).reshape(shape)
        return array if sys.byteorder == "little" else array.astype("=f4")

    def transform(self, bundle: Bundle, flavor: str) -> Transform:
        """A flavor's transform."""
        kind = bundle.row(flavor)["transform"]
        names = TRANSFORMS[kind].reference_keys
        return Transform(kind, {name: self[f"transform.{flavor}.{name}"] for name in names})

    def chain(self, prefix: str, rows: Sequence[Any], device: Device) -> Chain:
        """Layers by their rows in ``config.json``, on a device."""
        layers = [
            Layer(
                self[f"{prefix}.{i}.weight"],
                self[f"{prefix}.{i}.bias"] if row["bias"] else None,
                tuple(row["activations"]),
            )
            for i, row in enumerate(rows)
        ]
        return Chain.from_layers(layers, device)

    def _damage(self, what: str) -> ResourceError:
        return ResourceError(what, where=str(self._file), fix=_MAKE_AGAIN)
