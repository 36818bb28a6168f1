# SPDX-License-Identifier: MIT
"""Training: seconds an epoch against the published program's way, and what the schedules reach.

``speed`` times an epoch of each schedule and of a replay of the published program's epoch (plain
modules, a data loader and an optimizer step for every batch of every ordered pair of flavors, and
its diagnostics of every epoch), one after the other in one process, in CPU time of one thread::

    OMP_NUM_THREADS=1 python benchmarks/training.py speed --flavors 5 --rounds 7

Ours train ten epochs in a turn, as a training does, and not one with cold caches. With
``--threads 2`` ours have two threads, the replay still one, with which it is quickest, and the
clock on the wall is read: for a machine that does nothing else. A replayed epoch of fifteen
flavors takes minutes; ``--skip "replay, no diagnostics"`` spares one.

``overhead`` trains with records and a tenth of the participants watched, as ``kraken-model train``
does, and tells which share of the time goes into looks at them, tables, checkpoints and figures::

    OMP_NUM_THREADS=1 python benchmarks/training.py overhead --flavors 5

``curves`` trains on a simulated cohort whose flavors share factors, and tests the fused and the
single-flavor predictions on held-out participants: a table, and a figure of the way there::

    OMP_NUM_THREADS=1 python benchmarks/training.py curves --figure curves.png
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kraken_bids.model.training import Records, TrainingOptions
from kraken_bids.model.training.losses import PUBLISHED, parse_loss
from kraken_bids.model.training.network import Network
from kraken_bids.model.training.pca import fit_pca
from kraken_bids.model.training.run import TrainingRun
from kraken_bids.model.training.schedules import EPOCHS
from kraken_bids.model.training.splits import Split
from kraken_bids.model.training.validation import validate

# -- a simulated cohort ------------------------------------------------------------------------


def simulate(
    n: int, n_flavors: int, *, n_edges: int = 3655, n_shared: int = 10, n_own: int = 40,
    noise: float = 10.0,
) -> list[NDArray[np.float32]]:  # fmt: skip
    """(n, n_edges) of each flavor: factors that all share, stronger ones of its own, and noise.

    Flavors carry the shared factors through a mild curve of their own, so that there is an end to
    what can be known of one flavor from another.
    """
    rng = np.random.default_rng(11)
    shared = rng.standard_normal((n, n_shared)) * np.linspace(1, 0.4, n_shared)
    found = []
    for _ in range(n_flavors):
        own = rng.standard_normal((n, n_own)) * np.linspace(1.2, 0.4, n_own)
        bent = shared + 0.5 * np.tanh(shared @ rng.standard_normal((n_shared, n_shared)) / 2)
        edges = bent @ rng.standard_normal((n_shared, n_edges))
        edges += own @ rng.standard_normal((n_own, n_edges))
        found.append((edges + noise * rng.standard_normal(edges.shape)).astype(np.float32))
    return found


def transform(
    cohort: Sequence[NDArray[np.float32]], n_train: int, n_components: int
) -> tuple[Tensor, Tensor]:
    """PCA features of those who train and of those who do not, (n_flavors, n, n_components)."""
    train, rest = [], []
    for values in cohort:
        fit = fit_pca(values[:n_train], n_components)
        train.append(fit.scores)
        rest.append(fit.transform.forward(values[n_train:]))
    return torch.from_numpy(np.stack(train)), torch.from_numpy(np.stack(rest))


# -- the published program's epoch, replayed from its description -------------------------------


class Replay:
    """Coders as lists of modules, trained as the published program trains them."""

    def __init__(self, train: Tensor, validation: Tensor, options: TrainingOptions) -> None:
        torch.manual_seed(options.seed)
        self.train, self.validation, self.options = train, validation, options
        n_flavors, size, latent = len(train), train.shape[-1], options.latent_size
        p = options.dropout

        def coders(n_in: int, n_out: int) -> list[nn.Module]:
            made = [nn.Sequential(nn.Linear(n_in, n_out), nn.Dropout(p)) for _ in range(n_flavors)]
            return list(made)

        self.encoders, self.decoders = coders(size, latent), coders(latent, size)
        self.weights = parse_loss(options.loss).weights
        modules = [*self.encoders, *self.decoders]
        self.optimizer = torch.optim.AdamW(
            [p for module in modules for p in module.parameters()],
            lr=options.learning_rate, weight_decay=options.weight_decay,
        )  # fmt: skip
        self.generator = torch.Generator()

    def encode(self, flavor: int, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.encoders[flavor](x))

    def mode(self, train: bool) -> None:
        for module in [*self.encoders, *self.decoders]:
            module.train(train)

    def loss(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """The published loss of a pair, in plain operations."""
        w, eye = self.weights, torch.eye(len(x))
        far, near = torch.cdist(x, y), torch.cdist(z, z)
        others = far + far.max() * eye
        neidist = far.diag().mean() - (others.min(0).values + others.min(1).values).mean() / 2
        n = len(x)
        encdist = near.diag().mean() - (near.sum() - near.trace()) / (n * (n - 1))
        return (
            w["correye"] * torch.norm(correlations(x, y) - eye)
            + w["neidist"] * neidist
            + w["mse"] * nn.functional.mse_loss(x, y)
            + w["enceye"] * torch.norm(correlations(z, z) - eye)
            + w["encdist"] * encdist
        )

    def epoch(self, epoch: int, *, diagnostics: bool = True) -> None:
        n_flavors, options = len(self.train), self.options
        order = np.argsort(np.random.default_rng(epoch).random(n_flavors**2))
        for source, target in (divmod(int(place), n_flavors) for place in order):
            data = TensorDataset(self.train[source], self.train[target])
            self.generator.manual_seed(options.seed + epoch)
            loader = DataLoader(
                data, options.batch_size, shuffle=True, drop_last=True, generator=self.generator
            )
            self.mode(train=True)
            for x, wanted in loader:
                self.optimizer.zero_grad(set_to_none=True)
                z = self.encode(source, x)
                self.loss(wanted, self.decoders[target](z), z).backward()
                self.optimizer.step()
            self.watch(source, target)
        self.similarity()
        if diagnostics:
            self.diagnose()

    @torch.no_grad()
    def watch(self, source: int, target: int) -> None:
        self.mode(train=False)
        z = self.encode(source, self.validation[source])
        self.loss(self.validation[target], self.decoders[target](z), z)

    def similarity(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.mode(train=False)
        with torch.no_grad():
            held = [self.encode(flavor, x) for flavor, x in enumerate(self.train)]
        self.mode(train=True)
        moving = [self.encode(flavor, x) for flavor, x in enumerate(self.train)]
        total = sum(
            2 * nn.functional.mse_loss(moving[i], held[k])
            for i in range(len(moving)) for k in range(i)
        )  # fmt: skip
        (self.weights["latentsimloss"] * total).backward()
        self.optimizer.step()

    @torch.no_grad()
    def diagnose(self) -> None:
        """Metrics of all pairs on all participants, and latents of all pairs of pairs."""
        self.mode(train=False)
        for features in (self.train, self.validation):
            latents = {}
            for source, target in itertools.product(range(len(features)), repeat=2):
                z = self.encode(source, features[source])
                latents[source, target] = z
                y, x = self.decoders[target](z), features[target]
                self.loss(x, y, z)
                found = correlations(x, y)
                for matrix in (found, found.T, found):
                    matrix.sort(dim=1, descending=True)
                ((x - y).var(0).sum() / x.var(0).sum()).item()
            for a, b in itertools.combinations(latents.values(), 2):
                ((a - b).square().mean(), correlations(a, b).diag().mean())

    @torch.no_grad()
    def network(self) -> Network:
        """The same weights for `validate`."""
        n_features = {str(flavor): self.train.shape[-1] for flavor in range(len(self.train))}
        made = Network.initial(n_features, ["all"] * len(self.train), self.options, "cpu")
        for ours, theirs in ((made.encoders, self.encoders), (made.decoders, self.decoders)):
            for flavor, module in enumerate(theirs):
                ours.tensors[0][flavor] = module[0].weight.T
                ours.tensors[1][flavor, 0] = module[0].bias
        return made


def correlations(x: Tensor, y: Tensor) -> Tensor:
    x, y = (values - values.mean(1, keepdim=True) for values in (x, y))
    return (x / x.norm(dim=1, keepdim=True)) @ (y / y.norm(dim=1, keepdim=True)).T


#: Of ours, timed together; the replay's take seconds each.
EPOCHS_A_TURN = 10

# -- speed ---------------------------------------------------------------------------------------


def timed_s(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Give the seconds that some work takes, of CPU time if not told otherwise."""
    start = clock()
    work()
    return clock() - start


def speed(arguments: argparse.Namespace) -> None:
    """Print seconds an epoch: the least and the median of some rounds."""
    clock, unit = time.process_time, "CPU s"
    if arguments.threads > 1:
        clock, unit = time.perf_counter, f"s of {arguments.threads} threads (replay: of one)"
    cohort = [
        torch.randn(568, arguments.components, generator=torch.Generator().manual_seed(flavor))
        for flavor in range(arguments.flavors)
    ]
    features = torch.stack(cohort) * (100 / np.sqrt(511 * arguments.components))
    train, rest = features[:, :511], features[:, 511:]
    published = TrainingOptions(schedule="reference").resolved()
    replay = Replay(train, rest, published)
    ways: dict[str, Callable[[int], object]] = {
        "replay": replay.epoch,
        "replay, no diagnostics": lambda epoch: replay.epoch(epoch, diagnostics=False),
    }
    for schedule in EPOCHS:
        ways[schedule] = _ours(schedule, train, rest, arguments.threads)
    ways = {name: run for name, run in ways.items() if name not in arguments.skip}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(arguments.rounds + 1):
        for name, run in ways.items():
            n = EPOCHS_A_TURN if name in EPOCHS else 1
            epochs = range(turn * n, (turn + 1) * n)
            took = timed_s(lambda run=run, epochs=epochs: [run(epoch) for epoch in epochs], clock)
            seconds[name].append(took / n)
    print(
        f"{arguments.flavors} flavors, {train.shape[1]} participants train, "
        f"{arguments.components} features; {unit} an epoch of {arguments.rounds}"
    )
    found = {name: (min(v[1:]), float(np.median(v[1:]))) for name, v in seconds.items()}
    print("way\tleast\tmedian\ttimes as fast as the replay, by the least\tby the median")
    for name, (least, median) in found.items():
        ratios = (base / own for base, own in zip(found["replay"], (least, median), strict=True))
        print(
            f"{name}\t{least:.3f}\t{median:.3f}", *(f"{ratio:.1f}" for ratio in ratios), sep="\t"
        )


def _ours(schedule: str, train: Tensor, rest: Tensor, n_threads: int) -> Callable[[int], object]:
    """An epoch with its share of the validation, which is done every ten epochs."""
    options = replace(TrainingOptions(schedule=schedule), epochs=1000).resolved()
    sizes = {str(flavor): train.shape[-1] for flavor in range(len(train))}
    network = Network.initial(sizes, ["all"] * len(train), options, "cpu", n_threads=n_threads)
    loss = parse_loss(options.loss)

    def run(epoch: int) -> None:
        EPOCHS[schedule](network, train, loss, epoch)
        if epoch % options.validate_every == 0:
            validate(network, rest, loss)

    return run


# -- what records cost ---------------------------------------------------------------------------


class TimedRun(TrainingRun):
    """A training that counts CPU seconds by what they are spent on."""

    seconds: dict[str, float]

    def _train_epoch(self):  # type: ignore[no-untyped-def]
        with timed(self.seconds, "epochs"):
            return super()._train_epoch()

    def _look(self) -> None:
        with timed(self.seconds, "looks at the watched"):
            super()._look()

    def _record(self, *arguments) -> None:  # type: ignore[no-untyped-def]
        with timed(self.seconds, "table and checkpoints"):
            super()._record(*arguments)

    def _finish(self) -> None:
        with timed(self.seconds, "table of pairs"):
            super()._finish()


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add CPU time to what has a name."""
    start = time.process_time()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.process_time() - start


def overhead(arguments: argparse.Namespace) -> None:
    """Print CPU seconds of a training by what they are spent on."""
    from kraken_bids.model_commands.training_figures import draw_records

    rng = np.random.default_rng(0)
    scale = 100 / np.sqrt(511 * arguments.components)
    features = {
        f"FCcorr_a{number}_hpf": (scale * rng.standard_normal((568, arguments.components))).astype(
            np.float32
        )
        for number in range(arguments.flavors)
    }
    options = TrainingOptions(schedule=arguments.schedule, epochs=arguments.epochs).resolved()
    split = Split(np.arange(511), np.arange(511, 568), np.arange(0))
    with tempfile.TemporaryDirectory() as folder:
        run = TimedRun(features, split, options, Records(Path(folder)), "cpu")
        run.seconds = {}
        run.train(None)
        with timed(run.seconds, "figures"):
            draw_records(Path(folder))
    print(f"{arguments.flavors} flavors, {options.epochs} epochs of schedule {options.schedule}")
    for name, seconds in run.seconds.items():
        print(f"{name}\t{seconds:.2f} CPU s\t{seconds / run.seconds['epochs']:.2%} of epochs")


# -- what is reached -----------------------------------------------------------------------------


@torch.no_grad()
def reached(network: Network, rest: Tensor) -> dict[str, float]:
    """Mean over pairs, and over targets of the fused latents, on people who did not train.

    Features are free of the training mean, so that their correlations are those of residuals.
    """
    single = validate(network, rest, parse_loss(PUBLISHED)).means()
    latents = network.encode(network.encoders, rest).mean(0, keepdim=True)
    fused = network.decoders.forward(latents)
    found = [correlations(y, x) for x, y in zip(rest, fused, strict=True)]  # rows: predicted
    ranks = [float((c > c.diag()).sum(0).float().mean()) for c in found]
    return {
        "rank": single["average_rank"], "top1": single["top1"], "r": single["correlation"],
        "fused rank": 1 - float(np.mean(ranks)) / rest.shape[1],
        "fused top1": float(np.mean([float((c.argmax(0) == torch.arange(len(c))).float().mean())
                                     for c in found])),
        "fused r": float(np.mean([float(c.diag().mean()) for c in found])),
    }  # fmt: skip


Way = tuple[str, Callable[[int], object], Callable[[], Network]]


def make_way(name: str, train: Tensor, rest: Tensor, options: TrainingOptions) -> Way:
    """A way to train: what trains an epoch, and what gives the network."""
    options = options.resolved()
    if name.startswith("replay"):
        replay = Replay(train, rest, options)
        return name, lambda epoch: replay.epoch(epoch, diagnostics=False), replay.network
    sizes = {str(flavor): train.shape[-1] for flavor in range(len(train))}
    network = Network.initial(sizes, ["all"] * len(train), options, "cpu")
    loss = parse_loss(options.loss)
    return (
        name,
        lambda epoch: EPOCHS[options.schedule](network, train, loss, epoch),
        (lambda: network),
    )


def curves(arguments: argparse.Namespace) -> None:
    """Train in several ways; print a table of the ends, draw the ways there."""
    cohort = simulate(arguments.participants + arguments.held_out, arguments.flavors)
    train, rest = transform(cohort, arguments.participants, arguments.components)
    histories: dict[str, list[tuple[float, dict[str, float]]]] = {}
    print("way\tepochs\tCPU s\t" + "\t".join(reached_names()), flush=True)
    for text in arguments.ways:
        name, options = parse_way(text, arguments.latent_size)
        options = options.resolved()
        _, run, network = make_way(name, train, rest, options)
        seconds, history = 0.0, []
        for epoch in range(options.epochs):
            seconds += timed_s(lambda run=run, epoch=epoch: run(epoch))
            if (epoch + 1) % max(options.epochs // 20, 1) == 0:
                history.append((seconds, reached(network(), rest)))
        histories[text] = history
        cells = [f"{value:.4f}" for value in history[-1][1].values()]
        print("\t".join([text, str(options.epochs), f"{seconds:.1f}", *cells]), flush=True)
    if arguments.figure:
        draw(histories, arguments.figure)


def reached_names() -> list[str]:
    return ["rank", "top1", "r", "fused rank", "fused top1", "fused r"]


def parse_way(text: str, latent_size: int) -> tuple[str, TrainingOptions]:
    """Read ``NAME,FIELD=VALUE,…`` such as ``joint,epochs=60,learning_rate=5e-3``."""
    name, *pairs = text.split(",")
    given = dict(pair.split("=", 1) for pair in pairs)
    kinds = {"epochs": int, "batch_size": int, "seed": int, "loss": str}
    changes = {field: kinds.get(field, float)(value) for field, value in given.items()}
    schedule = "reference" if name == "replay" else name
    return name, replace(TrainingOptions(schedule=schedule, latent_size=latent_size), **changes)


def draw(histories: dict[str, list[tuple[float, dict[str, float]]]], file: str) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 4.4), layout="constrained")
    titles = {"rank": "average rank", "top1": "top-1", "r": "residual correlation"}
    for panel, key in zip(axes, titles, strict=True):
        for text, history in histories.items():
            times = [seconds for seconds, _ in history]
            (line,) = panel.plot(times, [found[key] for _, found in history], label=text)
            fused = [found[f"fused {key}"] for _, found in history]
            panel.plot(times, fused, "--", color=line.get_color())
        panel.set(xscale="log", xlabel="CPU time (s)", title=titles[key])
        panel.xaxis.set_major_formatter("{x:g}")
        panel.grid(alpha=0.3, linewidth=0.5)
    handles, labels = axes[0].get_legend_handles_labels()
    kinds = [mpl.lines.Line2D([], [], color="0.3", linestyle=way) for way in ("-", "--")]
    figure.legend(
        [*handles, *kinds], [*labels, "from one flavor", "from all, fused"],
        loc="outside lower center", ncols=3, fontsize=8, frameon=False,
    )  # fmt: skip
    figure.savefig(file, dpi=100)


#: What is compared unless asked otherwise.
WAYS = (
    "replay,epochs=150,learning_rate=1.2e-3",
    "reference,epochs=150,learning_rate=1.2e-3",
    "joint",
    "joint,learning_rate=1e-3",
    "joint,learning_rate=2e-2",
    "joint,epochs=120",
    "joint,epochs=1920",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("speed")
    command.add_argument("--flavors", type=int, default=5)
    command.add_argument("--components", type=int, default=256)
    command.add_argument("--rounds", type=int, default=3)
    command.add_argument("--skip", nargs="+", default=[], metavar="WAY")
    command.add_argument("--threads", type=int, default=1)
    command.set_defaults(run=speed)
    command = commands.add_parser("overhead")
    command.add_argument("--flavors", type=int, default=5)
    command.add_argument("--components", type=int, default=256)
    command.add_argument("--schedule", choices=EPOCHS, default="joint")
    command.add_argument("--epochs", type=int, default=0)
    command.set_defaults(run=overhead)
    command = commands.add_parser("curves")
    command.add_argument("--participants", type=int, default=205)
    command.add_argument("--held-out", type=int, default=100)
    command.add_argument("--flavors", type=int, default=3)
    command.add_argument("--components", type=int, default=64)
    command.add_argument("--latent-size", type=int, default=64)
    command.add_argument("--ways", nargs="+", default=WAYS, metavar="NAME,FIELD=VALUE,…")
    command.add_argument("--figure")
    command.set_defaults(run=curves)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
