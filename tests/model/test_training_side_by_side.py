# SPDX-License-Identifier: MIT
"""Steps on two threads are those on one, and really run on two."""

import threading

import pytest
import torch

from kraken_bids.model.training import TrainingOptions
from kraken_bids.model.training.losses import parse_loss
from kraken_bids.model.training.network import Network
from kraken_bids.model.training.plain_outputs import PlainOutputs
from kraken_bids.model.training.schedules import EPOCHS
from kraken_bids.model.training.side_by_side import SideBySide, cut
from kraken_bids.model.training.trainer import _one_thread


@pytest.mark.parametrize(
    ("n", "n_parts", "expected"),
    [(5, 2, [(0, 3), (3, 5)]), (4, 2, [(0, 2), (2, 4)]), (1, 2, [(0, 1)]), (3, 1, [(0, 3)])],
)
def test_parts_are_even_and_none_is_empty(n, n_parts, expected):
    assert [(part.start, part.stop) for part in cut(n, n_parts)] == expected


@pytest.mark.parametrize("n_threads", [1, 2, 7])
def test_parts_give_what_they_give_in_their_order(n_threads):
    met = threading.Barrier(2)

    def meet():
        if n_threads > 1:  # parts that wait for each other end only if they run side by side
            met.wait(timeout=30)
        return threading.current_thread().name

    here = threading.current_thread().name
    found = SideBySide(n_threads)(meet, [meet, lambda: "last"])
    assert [found[0], found[-1]] == [here, "last"]
    assert (found[1] == here) == (n_threads == 1)


def test_torch_computes_on_one_thread_in_the_second_one_too():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        # arrays of these tests are too small for torch to share them out
        assert SideBySide(2)(torch.get_num_threads, [torch.get_num_threads]) == [2, 2]
        with _one_thread():
            assert SideBySide(2)(torch.get_num_threads, [torch.get_num_threads]) == [1, 1]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("position", [0, 1])
def test_what_a_part_raises_comes_out(position):
    def fail():
        raise ValueError("no number")

    parts = [dict, dict]
    parts[position] = fail
    with pytest.raises(ValueError, match="no number"):
        SideBySide(2)(parts[0], parts[1:])


@pytest.mark.parametrize("n_flavors", [1, 2, 5])
@pytest.mark.parametrize("output_dropout", [0.0, 0.5])
@pytest.mark.parametrize("schedule", EPOCHS)
def test_the_number_of_threads_changes_nothing(monkeypatch, schedule, output_dropout, n_flavors):
    computing, compute = set(), PlainOutputs.__call__

    def watched(self, *arguments):
        computing.add(threading.current_thread().name)
        return compute(self, *arguments)

    monkeypatch.setattr(PlainOutputs, "__call__", watched)
    options = TrainingOptions(
        schedule=schedule, latent_size=8, batch_size=11, dropout=0.5,
        output_dropout=output_dropout, epochs=3,
    ).resolved()  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(n_flavors, 47, 32, generator=generator)
    networks, used = [], []
    for n_threads in (1, 2):
        network = Network.initial(
            {f"flavor{number}": 32 for number in range(n_flavors)}, ["all"] * n_flavors, options,
            "cpu", n_threads=n_threads,
        )  # fmt: skip
        computing.clear()
        losses = [
            EPOCHS[schedule](network, features, parse_loss(options.loss), epoch)
            for epoch in range(options.epochs)
        ]
        networks.append((network, losses))
        used.append(len(computing))
    (one, losses), (two, losses_of_two) = networks
    for mine, theirs in zip(one.parts, two.parts, strict=True):
        for array, other in zip(mine.state(), theirs.state(), strict=True):
            assert torch.equal(array, other)
    for mine, theirs in zip(losses, losses_of_two, strict=True):
        assert torch.equal(mine.output, theirs.output)
        assert torch.equal(mine.latent, theirs.latent)
        assert mine.between == theirs.between
    # with one flavor the second thread has the latents alone
    assert used == [1, 2 if schedule == "joint" and n_flavors > 1 else 1]
