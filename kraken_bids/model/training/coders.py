# SPDX-License-Identifier: MIT
"""Encoders or decoders of all flavors as stacked arrays, their optimizer, and dropout.

The weights of all flavors lie in one array a layer, so that one batched product serves all of
them, and some flavors' weights are taken out, trained for a while and put back.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.optim.adamw import adamw

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
        state = int(np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0])
        self._generator = torch.Generator().manual_seed(state)
        self._device = device

    def draw(self, share: float, *shape: int) -> Tensor | None:
        """Draw factors, or None where nothing is dropped.

        Parameters
        ----------
        share
            Of values that are dropped, 0 to 1, to 1/65536: a draw takes 16 random bits.
        shape
            Of the array.
        """
        level = round(share * 65536)
        if not level:
            return None
        size = int(np.prod(shape))
        numbers = torch.empty(-(-size // 4), dtype=torch.int64)
        numbers.random_(-(2**63), None, generator=self._generator)
        bits = numbers.view(torch.int16)[:size].view(shape).to(self._device)
        return (bits >= level - 32768).float().mul_(65536 / (65536 - level))


def drop(values: Tensor, factors: Tensor | None) -> Tensor:
    """Multiply by factors, if there are any."""
    return values if factors is None else values * factors


@dataclass(eq=False)
class Coders:
    """Stacked layers and their optimizer's state.

    Parameters
    ----------
    tensors
        Weight (n_flavors, n_in, n_out) and bias (n_flavors, 1, n_out) of each layer in turn.
    first, second
        Of the same shapes: running means of gradients and of their squares.
    steps
        (n_flavors,) for each tensor: steps taken.
    activation
        What follows all layers but the last.
    """

    tensors: list[Tensor]
    first: list[Tensor]
    second: list[Tensor]
    steps: list[Tensor]
    activation: str

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
                tensors.append(drawn * bound * is_output * (is_input if shape[0] > 1 else 1))
        return cls(
            tensors,
            [torch.zeros_like(tensor) for tensor in tensors],
            [torch.zeros_like(tensor) for tensor in tensors],
            [torch.zeros(len(n_in)) for _ in tensors],
            activation,
        )

    @property
    def sizes(self) -> list[int]:
        """Values behind each layer."""
        return [bias.shape[-1] for bias in self.tensors[1::2]]

    @property
    def is_linear(self) -> bool:
        """Whether there is one layer."""
        return len(self.tensors) == 2

    def state(self) -> list[Tensor]:
        """All arrays, in an order that depends on the layers only."""
        return [*self.tensors, *self.first, *self.second, *self.steps]

    def to(self, device: torch.device | str) -> Coders:
        """Move to a device."""
        return self._changed(lambda tensor: tensor.to(device))

    def take(self, rows: Tensor) -> Coders:
        """Copy some flavors, each once."""
        return self._changed(lambda tensor: tensor[rows])

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Coders:
        return Coders(
            [change(tensor) for tensor in self.tensors],
            [change(tensor) for tensor in self.first],
            [change(tensor) for tensor in self.second],
            [change(tensor) for tensor in self.steps],
            self.activation,
        )

    def put(self, rows: Tensor, taken: Coders) -> None:
        """Put back what was taken."""
        for ours, theirs in zip(self.state(), taken.state(), strict=True):
            ours[rows] = theirs

    def leaves(self) -> list[Tensor]:
        """Tensors to differentiate by."""
        return [tensor.requires_grad_() for tensor in self.tensors]

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
        n_flavors, sizes = len(self.tensors[0]), self.sizes
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

    References
    ----------
    Loshchilov & Hutter, Decoupled weight decay regularization, ICLR 2019.
    """

    def __init__(self, parts: Sequence[Coders], weight_decay: float) -> None:
        self._weight_decay = weight_decay
        self._all_steps = [steps for part in parts for steps in part.steps]
        # flavors that have taken as many steps take the next one together, as one array
        self._is_split = [bool((steps != steps[0]).any()) for steps in self._all_steps]
        self._values = self._rows([t.detach() for part in parts for t in part.tensors])
        self._first = self._rows([tensor for part in parts for tensor in part.first])
        self._second = self._rows([tensor for part in parts for tensor in part.second])
        pairs = zip(self._all_steps, self._is_split, strict=True)
        self._steps = [
            step
            for all_, split in pairs
            for step in (all_.unbind() if split else [all_[0].clone()])
        ]
        self._whole = [
            all_ for all_, split in zip(self._all_steps, self._is_split, strict=True) if not split
        ]

    def _rows(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        pairs = zip(tensors, self._is_split, strict=True)
        return [row for tensor, split in pairs for row in (tensor.unbind() if split else [tensor])]

    def step(self, gradients: Sequence[Tensor], learning_rate: float) -> None:
        """Take a step; gradients are by the parts' tensors, in their order."""
        with torch.no_grad():
            adamw(
                self._values, self._rows(gradients), self._first, self._second, [], self._steps,
                fused=True, amsgrad=False, beta1=0.9, beta2=0.999, lr=learning_rate,
                weight_decay=self._weight_decay, eps=1e-8, maximize=False,
            )  # fmt: skip
            for all_ in self._whole:
                all_ += 1
