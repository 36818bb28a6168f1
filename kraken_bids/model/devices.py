# SPDX-License-Identifier: MIT
"""Where numbers are crunched: NumPy on processors, torch on GPUs.

The formulas of transforms, layers and fusion are written once, for arrays of either. torch is
imported only where there is a GPU to be used: without, it would cost more time at the start than
encoding a hundred participants takes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ResourceError, UsageError, suggest
from .layers import Layer

#: Files that exist where a driver of a GPU that torch knows is there: NVIDIA, AMD, and Windows'
#: subsystem for Linux.
GPU_FILES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
#: Least length that a row is divided by.
LEAST_LENGTH = 1e-12


def parse_device(device: str) -> str:
    """Check the spelling of a device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.

    Raises
    ------
    UsageError
        If it is another.
    """
    kind, _, number = device.partition(":")
    if device in {"auto", "cpu"} or (kind == "cuda" and (number.isdecimal() or device == "cuda")):
        return device
    raise UsageError(
        f"device '{device}' is unknown",
        where="--device",
        fix=suggest(device, ["auto", "cpu", "cuda", "cuda:0"]) + ".",
    )


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
    device = parse_device(device)
    if device == "cpu":
        return device
    if device == "auto" and not any(Path(file).exists() for file in GPU_FILES):
        return "cpu"
    import torch

    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda:0" if n_gpus else "cpu"
    number = int(device.partition(":")[2] or 0)
    if number >= n_gpus:
        raise ResourceError(
            f"device '{device}' was asked for, torch {torch.__version__} finds {n_gpus} GPUs",
            where="--device",
            fix="Use '--device cpu', or install a CUDA build of torch on a machine with a GPU.",
        )
    return f"cuda:{number}"


class Device(Protocol):
    """Brings arrays to where they are worked on, and back."""

    def put(self, x: NDArray[np.float32]) -> Any:
        """Give the device's array of the same values; on a processor, the very same one."""

    def get(self, x: Any) -> NDArray[np.float32]:
        """Give a NumPy array of the same values."""

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Set up what computing needs, in the thread that computes."""


class Processor:
    """The machine's cores, through NumPy."""

    def put(self, x: NDArray[np.float32]) -> Any:
        """Give the array itself."""
        return x

    def get(self, x: Any) -> NDArray[np.float32]:
        """Give the array itself."""
        return np.asarray(x, dtype=np.float32)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Let rows of NaN, participants without the flavor, pass quietly."""
        with np.errstate(invalid="ignore"):
            yield


class TorchDevice:
    """A GPU, or whatever else torch computes on.

    Parameters
    ----------
    name
        Such as ``cuda:0``.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def put(self, x: NDArray[np.float32]) -> Any:
        """Copy to the device."""
        import torch

        rows = x if x.flags.writeable else x.copy()
        return torch.from_numpy(np.ascontiguousarray(rows)).to(self.name)

    def get(self, x: Any) -> NDArray[np.float32]:
        """Copy from the device."""
        array: NDArray[np.float32] = x.cpu().numpy()
        return array

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Multiply matrices in full float32: TF32 would cost three of its seven digits."""
        import torch

        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_float32_matmul_precision(before)


def open_device(name: str) -> Device:
    """Give the device of a name that `resolve_device` returned."""
    return Processor() if name == "cpu" else TorchDevice(name)


def library_of(x: Any) -> Any:
    """Give the module, `numpy` or `torch`, whose array `x` is."""
    return sys.modules[type(x).__module__.split(".")[0]]


def normalize_rows(x: Any) -> Any:
    """Divide the rows of (n, size) by their Euclidean length; rows of zeros stay zeros."""
    length = (x * x).sum(-1, keepdims=True) ** 0.5
    return x / length.clip(LEAST_LENGTH, None)


def _activation(name: str) -> Callable[[Any], Any]:
    """Give the function of a name in `layers.ACTIVATIONS`."""
    kind, _, slope = name.partition(":")
    if kind == "leaky_relu":
        return lambda x: library_of(x).where(x > 0, x, x * float(slope))
    return {
        "relu": lambda x: x.clip(0, None),
        "tanh": lambda x: library_of(x).tanh(x),
        "sigmoid": lambda x: 0.5 * (1 + library_of(x).tanh(0.5 * x)),
        "normalize": normalize_rows,
    }[kind]


@dataclass(frozen=True, eq=False)
class Chain:
    """An encoder or decoder on a device.

    Parameters
    ----------
    layers
        Transposed weight (n_in, n_out), bias (n_out,) or None, and activations of each layer.
    """

    layers: tuple[tuple[Any, Any, tuple[Callable[[Any], Any], ...]], ...]

    @classmethod
    def from_layers(cls, layers: Sequence[Layer], device: Device) -> Chain:
        """Bring layers to a device."""
        return cls(
            tuple(
                (
                    device.put(layer.weight).T,
                    None if layer.bias is None else device.put(layer.bias),
                    tuple(_activation(name) for name in layer.activations),
                )
                for layer in layers
            )
        )

    @property
    def normalizes(self) -> bool:
        """Whether rows are brought to length 1 at the end."""
        return self.layers[-1][2][-1:] == (normalize_rows,)

    def without_normalization(self, x: Any) -> Any:
        """Map (n, n_in) to (n, n_out) as they are before they are brought to length 1, if so."""
        if not self.normalizes:
            return self(x)
        *before, (weight, bias, activations) = self.layers
        return Chain((*before, (weight, bias, activations[:-1])))(x)

    def __call__(self, x: Any) -> Any:
        """Map (n, n_in) to (n, n_out)."""
        for weight, bias, activations in self.layers:
            x = x @ weight
            if bias is not None:
                x = x + bias
            for activation in activations:
                x = activation(x)
        return x
