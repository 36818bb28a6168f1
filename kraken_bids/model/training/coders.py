# SPDX-License-Identifier: MIT
"""Encoders or decoders of all flavors as stacked arrays, their optimizer, and dropout.

The weights of all flavors lie in one array a layer, so that one batched product serves all of
them, and some flavors' weights are taken out, trained for a while and put back.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..layers import Layer

#: Rows shorter than this have no direction; dropout can zero a whole latent.
NO_LENGTH = 1e-8


def unit_rows(rows: Tensor) -> Tensor:
    """Scale rows to length 1; rows without length stay zero, with gradients that are numbers."""
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    scaled: Tensor = rows / torch.where(length > NO_LENGTH, length, 1.0)
    return scaled


class Dropout:
    """Random factors of values: 0, or what keeps their mean.

    Parameters
    ----------
    seed
        Numbers that the factors follow from; drawn on the CPU, hence the same on every device.
    device
        Where the factors are put.
    """

    def __init__(self, seed: Sequence[int], device: torch.device | str) -> None:
        self._bits = np.random.SFC64(np.random.SeedSequence(list(seed)))
        self._device = device

    def draw(self, share: float, *shape: int) -> Tensor | None:
        """Draw factors, or None where nothing is dropped.

        Parameters
        ----------
        share
            Of values that are dropped, 0 to 1, to 1/65536: a draw takes 16 random bits, or 8 if
            these are as good.
        shape
            Of the array.
        """
        out = torch.empty(shape, device=self._device)
        scale = self.choose([(share, out[None])])[0]
        return None if scale == 1 else out.mul_(scale)

    def choose(self, arrays: Sequence[tuple[float, Tensor]]) -> list[float]:
        """Fill arrays with 1 for values that are kept and 0 for others.

        Parameters
        ----------
        arrays
            Share that is dropped, and (n, ...) array to fill, n the same for all. The first items
            of all arrays are drawn, then the second ones, and so on, as `draw` would.

        Returns
        -------
        list
            Of each array what its kept values are to be multiplied by; 1 where nothing is
            dropped, and the array is left as it was.
        """
        levels = [round(share * 65536) for share, _ in arrays]
        bits = [0 if not level else 16 if level % 256 else 8 for level in levels]
        sizes = [array[0].numel() for _, array in arrays]
        words = [-(-size * each // 64) for size, each in zip(sizes, bits, strict=True)]
        n = len(arrays[0][1])
        raw, start = self._bits.random_raw(n * sum(words)).reshape(n, -1), 0
        for (_, array), level, each, size, width in zip(
            arrays, levels, bits, sizes, words, strict=True
        ):
            if not each:
                continue
            own = np.ascontiguousarray(raw[:, start : start + width])
            is_wide = each == 16
            drawn = own.view(np.int16 if is_wide else np.int8)[:, :size].reshape(array.shape)
            numbers = torch.from_numpy(drawn).to(self._device)
            limit = level - 32768 if is_wide else level // 256 - 128
            # straight to numbers: a detour by truth values takes longer than the draw
            torch.ge(numbers, limit, out=array)
            start += width
        return [65536 / (65536 - level) for level in levels]


def drop(values: Tensor, factors: Tensor | None) -> Tensor:
    """Multiply by factors, if there are any."""
    return values if factors is None else values * factors


class Buffers:
    """Arrays by name that are written over again and again, each as long as was asked for once.

    Memory that is asked for anew costs as much as the arithmetic of a small step.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = device
        self._arrays: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Give an array; what it holds is left over from its last use, maybe in another shape."""
        size = math.prod(shape)
        found = self._arrays.get(name)
        if found is None or len(found) < size:
            found = self._arrays[name] = torch.empty(size, device=self._device)
        return found[:size].view(shape)


@dataclass(eq=False)
class Coders:
    """Stacked layers and their optimizer's state.

    Parameters
    ----------
    sizes
        Values from input to output, the first and last as padded.
    values
        (n_flavors, n_weights), all that is trained of a flavor side by side: weight (n_in, n_out)
        and bias (n_out,) of each layer in turn.
    first, second
        Of the same shape: running means of gradients and of their squares.
    steps
        (n_flavors,): steps taken.
    activation
        What follows all layers but the last.
    """

    sizes: tuple[int, ...]
    values: Tensor
    first: Tensor
    second: Tensor
    steps: Tensor
    activation: str

    def __post_init__(self) -> None:
        self.tensors = layer_views(self.values, self.sizes)

    @classmethod
    def initial(
        cls,
        sizes: Sequence[int],
        *,
        n_in: Sequence[int],
        n_out: Sequence[int],
        activation: str,
        generator: torch.Generator,
    ) -> Coders:
        """Draw first weights: uniform within one over the root of the number of inputs.

        Parameters
        ----------
        sizes
            Values from input to output, the first and last as padded.
        n_in, n_out
            True inputs and outputs of each flavor; weights of padding are zero, and stay so.
        activation
            What follows all layers but the last.
        generator
            On the CPU.
        """
        tensors = []
        for number, (before, after) in enumerate(itertools.pairwise(sizes)):
            inputs = torch.tensor(n_in if number == 0 else [before] * len(n_in))
            outputs = torch.tensor(n_out if number == len(sizes) - 2 else [after] * len(n_out))
            is_input = (torch.arange(before) < inputs[:, None]).float()[:, :, None]
            is_output = (torch.arange(after) < outputs[:, None]).float()[:, None]
            bound = inputs.float().rsqrt()[:, None, None]
            for shape in ((before, after), (1, after)):
                drawn = torch.rand(len(n_in), *shape, generator=generator).mul_(2).sub_(1)
                drawn = drawn * bound * is_output * (is_input if shape[0] > 1 else 1)
                tensors.append(drawn.flatten(1))
        values = torch.cat(tensors, dim=1)
        nothing = torch.zeros_like(values), torch.zeros_like(values), torch.zeros(len(n_in))
        return cls(tuple(sizes), values, *nothing, activation)

    @property
    def is_linear(self) -> bool:
        """Whether there is one layer."""
        return len(self.sizes) == 2

    def state(self) -> list[Tensor]:
        """All arrays."""
        return [self.values, self.first, self.second, self.steps]

    def to(self, device: torch.device | str) -> Coders:
        """Move to a device."""
        return self._like([array.to(device) for array in self.state()])

    def take(self, rows: Tensor, buffers: Buffers | None = None, name: str = "") -> Coders:
        """Copy some flavors, each once; into some buffers, if any, which then are theirs."""
        taken = []
        for number, array in enumerate(self.state()):
            shape = len(rows), *array.shape[1:]
            out = array.new_empty(shape) if buffers is None else buffers(f"{name}{number}", *shape)
            taken.append(torch.index_select(array, 0, rows, out=out))
        return self._like(taken)

    def behind(self, first: int) -> Coders:
        """Look at all flavors from one on; what is trained of these is trained here."""
        return self._like([array[first:] for array in self.state()])

    def _like(self, state: Sequence[Tensor]) -> Coders:
        values, first, second, steps = state
        return Coders(self.sizes, values, first, second, steps, self.activation)

    def put(self, rows: Tensor, taken: Coders) -> None:
        """Put back what was taken."""
        for ours, theirs in zip(self.state(), taken.state(), strict=True):
            ours.index_copy_(0, rows, theirs)

    def leaves(self) -> list[Tensor]:
        """Weight and bias of each layer, to differentiate by."""
        self.tensors = [tensor.detach().requires_grad_() for tensor in self.tensors]
        return self.tensors

    def forward(self, x: Tensor, factors: Sequence[Tensor | None] = ()) -> Tensor:
        """Map (n_flavors or 1, n, n_in) to (n_flavors, n, n_out).

        Parameters
        ----------
        x
            Values.
        factors
            Of dropout, by layer; none where none are given.
        """
        n_layers = len(self.tensors) // 2
        given = [*factors, *[None] * (n_layers - len(factors))]
        for number, factor in enumerate(given):
            weight, bias = self.tensors[2 * number : 2 * number + 2]
            x = torch.baddbmm(bias, x.expand(len(weight), -1, -1), weight)
            x = drop(x, factor)
            if number < n_layers - 1:
                x = _activate(x, self.activation)
        return x

    def draw(self, dropout: Dropout, n: int, share: float, last: float) -> list[Tensor | None]:
        """Draw factors for all layers, the last of which has a share of its own."""
        n_flavors, sizes = len(self.values), self.sizes[1:]
        shares = [*[share] * (len(sizes) - 1), last]
        return [dropout.draw(p, n_flavors, n, size) for p, size in zip(shares, sizes, strict=True)]

    def layers(self, flavor: int, n_in: int, n_out: int, last: tuple[str, ...]) -> list[Layer]:
        """Give a flavor's layers without padding; `last` follows the last of them."""
        pairs = list(zip(self.tensors[::2], self.tensors[1::2], strict=True))
        found = []
        for number, (weight, bias) in enumerate(pairs):
            is_last = number == len(pairs) - 1
            rows = slice(n_in if number == 0 else None)
            columns = slice(n_out if is_last else None)
            found.append(
                Layer(
                    _array(weight[flavor, rows, columns].T),
                    _array(bias[flavor, 0, columns]),
                    last if is_last else (self.activation,),
                )
            )
        return found


def layer_views(values: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Look at (n_flavors, n_weights) as weight (n_flavors, n_in, n_out) and bias by layer."""
    found, start = [], 0
    for before, after in itertools.pairwise(sizes):
        for shape in ((before, after), (1, after)):
            end = start + shape[0] * shape[1]
            found.append(values[:, start:end].view(-1, *shape))
            start = end
    return found


def _array(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().cpu().contiguous().numpy().copy()
    return array


def _activate(x: Tensor, name: str) -> Tensor:
    kind, _, slope = name.partition(":")
    if kind == "leaky_relu":
        return functional.leaky_relu(x, float(slope))
    return torch.tanh(x) if kind == "tanh" else torch.relu(x)


class Adam:
    """AdamW over some coders, in one fused operation a step.

    Parameters
    ----------
    parts
        What is trained. Flavors of one part may have taken different numbers of steps.
    weight_decay
        Share, times the learning rate, that weights lose in each step.
    buffers
        Where gradients lie; arrays of its own if not given.

    Attributes
    ----------
    gradients
        By weight and bias of each layer of each part, to be filled in before a step.
    whole
        The same memory as one (n_flavors, n_weights) array a part.

    References
    ----------
    Loshchilov & Hutter, Decoupled weight decay regularization, ICLR 2019.
    """

    def __init__(
        self, parts: Sequence[Coders], weight_decay: float, buffers: Buffers | None = None
    ) -> None:
        self._weight_decay = weight_decay
        self.gradients: list[Tensor] = []
        self.whole: list[Tensor] = []
        self._steps = [part.steps for part in parts]
        self._arrays: tuple[list[Tensor], ...] = ([], [], [], [], [])
        buffers = buffers or Buffers(parts[0].values.device)
        for number, part in enumerate(parts):
            gradient = buffers(f"gradient{number}", *part.values.shape)
            self.whole.append(gradient)
            self.gradients += layer_views(gradient, part.sizes)
            steps = part.steps
            arrays: Sequence[Sequence[Tensor]]
            # flavors that have taken as many steps take the next one together, as one array
            if bool((steps == steps[0]).all()):
                arrays = [part.values], [gradient], [part.first], [part.second], [steps[0]]
            else:
                arrays = [
                    array.unbind()
                    for array in (part.values, gradient, part.first, part.second, steps)
                ]
            for mine, more in zip(self._arrays, arrays, strict=True):
                mine.extend(more)

    def fill(self, gradients: Sequence[Tensor]) -> None:
        """Fill in gradients."""
        with torch.no_grad():
            for mine, gradient in zip(self.gradients, gradients, strict=True):
                mine.copy_(gradient)

    def step(self, learning_rate: float) -> None:
        """Take a step along the gradients."""
        values, gradients, first, second, steps = self._arrays
        with torch.no_grad():
            for counted in self._steps:
                counted.add_(1)
            # what `torch.optim.AdamW` of one fused step ends in; its checks take longer
            torch._fused_adamw_(
                values, gradients, first, second, [], steps,
                amsgrad=False, beta1=0.9, beta2=0.999, lr=learning_rate,
                weight_decay=self._weight_decay, eps=1e-8, maximize=False,
            )  # fmt: skip
