# SPDX-License-Identifier: MIT
"""Time ``kraken-model predict`` at full size, against a replay of the reference program's steps.

    python benchmarks/inference.py [--participants 20 100] [--latents-of 200] [--folder DIR]

The material has the published model's sizes (15 flavors of three atlases, 256 components, latents
of 128 values) and random numbers. It is made in DIR and used again if it lies there: 1.4 GB, and
11 MB a participant. Every run is a fresh process, files to files; times are those of the whole
process, memory is its peak. Only the ratios of one run on a quiet machine mean anything.

The replay does what the reference does with the libraries that both use: whole transforms loaded,
inputs read by scipy, the variance that each transform retains computed, every source decoded to
every target in float32 by torch, all kept in memory and saved compressed in one file. It is our
own code; it leaves out libraries that the reference loads without using.
"""

from __future__ import annotations

import argparse
import collections
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

REGIONS = {"fs86": 86, "shen268": 268, "coco439": 439}
KINDS = (
    "FCcorr_{}_hpf", "FCcorr_{}_hpfgsr", "FCpcorr_{}_hpf", "SCifod2act_{}_volnorm",
    "SCsdstream_{}_volnorm",
)  # fmt: skip
FLAVORS = tuple(kind.format(atlas) for atlas in REGIONS for kind in KINDS)
N_COMPONENTS, LATENT_SIZE = 256, 128
FUSIONS = {"fusion": "", "fusionSC": "SC", "fusionFC": "FC"}
#: The reference itself, on two busy cores, measured once when this was written: participants ->
#: (wall s, user CPU s, peak memory GB), medians of several runs.
REFERENCE = {20: (24, 20, 1.57), 100: (61, 55, 2.89)}


def n_regions(flavor: str) -> int:
    return REGIONS[flavor.split("_")[1]]


def n_edges(flavor: str) -> int:
    return n_regions(flavor) * (n_regions(flavor) - 1) // 2


# ---- material -----------------------------------------------------------------------------------


def make_model(folder: Path) -> None:
    """Write a checkpoint and three transform files as the reference program would."""
    import torch

    rng = np.random.default_rng(0)
    state = collections.OrderedDict()
    for side, n_out, n_in in (
        ("encoder", LATENT_SIZE, N_COMPONENTS), ("decoder", N_COMPONENTS, LATENT_SIZE)
    ):  # fmt: skip
        for number in range(len(FLAVORS)):
            weight = rng.uniform(-1, 1, (n_out, n_in)).astype("f4") / n_in**0.5
            state[f"{side}_list.{number}.0.weight"] = torch.from_numpy(weight)
            state[f"{side}_list.{number}.0.bias"] = torch.zeros(n_out)
    pairs = [(i, j) for i in range(len(FLAVORS)) for j in range(len(FLAVORS))]
    content = {
        "state_dict": state, "krakencoder_version": "benchmark",
        "input_size_list": [N_COMPONENTS] * len(FLAVORS), "latentsize": LATENT_SIZE,
        "hiddenlayers": [], "skip_relu": False, "dropout": 0.5, "leakyrelu_negative_slope": 0.0,
        "relu_tanh_alternate": False, "latent_activation": "none", "latent_normalize": True,
        "linear_include_bias": True, "no_bias_for_outer_layers": False, "intergroup": False,
        "adversarial_boolean_list": [False] * len(FLAVORS), "epoch": 1999,
        "input_transformation_info": f"pc{N_COMPONENTS}", "input_name_list": list(FLAVORS),
        "orig_input_size_list": [n_edges(flavor) for flavor in FLAVORS],
        "trainpath_encoder_index_list": [i for i, _ in pairs],
        "trainpath_decoder_index_list": [j for _, j in pairs], "training_params": {},
    }  # fmt: skip
    torch.save(content, folder / "model.pt")
    for atlas in REGIONS:
        transforms = {}
        for kind in KINDS:
            flavor = kind.format(atlas)
            components = rng.standard_normal((N_COMPONENTS, n_edges(flavor)), dtype=np.float32)
            components /= np.linalg.norm(components, axis=1, keepdims=True)
            transforms[flavor] = {
                "type": "pca", "reduce_dimension": N_COMPONENTS,
                "pca_input_mean": mean_connectome(flavor), "pca_components": components,
                "input_normscale": np.float32([200]), "output_normscale": np.float32([100]),
                "input_dimension": n_edges(flavor), "output_dimension": N_COMPONENTS,
            }  # fmt: skip
        np.save(folder / f"ioxfm_{atlas}.npy", transforms, allow_pickle=True)  # type: ignore[arg-type]


def mean_connectome(flavor: str) -> np.ndarray:
    rng = np.random.default_rng(FLAVORS.index(flavor))
    return (0.3 * rng.standard_normal(n_edges(flavor))).astype("f4")


def some_edges(flavor: str, first: int, stop: int) -> np.ndarray:
    rng = np.random.default_rng([FLAVORS.index(flavor), first])
    noise = rng.standard_normal((stop - first, n_edges(flavor)), dtype=np.float32)
    return 0.1 + 0.8 * mean_connectome(flavor) + np.float32(0.1) * noise


def make_inputs(folder: Path, n: int) -> list[str]:
    """Write matrices of n participants, a compressed ``.mat`` file a flavor."""
    from scipy.io import savemat

    folder.mkdir(exist_ok=True)
    for flavor in FLAVORS:
        file = folder / f"{flavor}.mat"
        if not file.exists():
            rows, columns = np.triu_indices(n_regions(flavor), 1)
            data = np.zeros((n, n_regions(flavor), n_regions(flavor)), np.float32)
            data[:, rows, columns] = data[:, columns, rows] = some_edges(flavor, 0, n)
            ids = [f"p{i:06d}" for i in range(n)]
            savemat(file, {"data": data, "subjects": ids}, do_compression=True)
    return [f"{flavor}={folder / f'{flavor}.mat'}" for flavor in FLAVORS]


def make_triangles(folder: Path, n: int) -> list[str]:
    """Write triangles of n participants in blocks, a ``.npy`` file a flavor."""
    folder.mkdir(exist_ok=True)
    for flavor in FLAVORS:
        file = folder / f"{flavor}.npy"
        if not file.exists():
            shape = (n, n_edges(flavor))
            table = np.lib.format.open_memmap(file, "w+", np.float32, shape)
            for start in range(0, n, 100):
                stop = min(start + 100, n)
                table[start:stop] = some_edges(flavor, start, stop)
            del table
    return [f"{flavor}={folder / f'{flavor}.npy'}" for flavor in FLAVORS]


# ---- the reference's steps ----------------------------------------------------------------------


def replay(folder: Path, inputs: Sequence[str], output: Path) -> None:
    """Do what the reference program does, step for step."""
    import torch
    from scipy.io import loadmat, savemat

    content = torch.load(folder / "model.pt", weights_only=True)
    state = content["state_dict"]
    transforms = {}
    for atlas in REGIONS:  # our own files: made above
        transforms |= np.load(folder / f"ioxfm_{atlas}.npy", allow_pickle=True).item()
    pca = {
        flavor: (torch.from_numpy(p["pca_components"]), torch.from_numpy(p["pca_input_mean"]))
        for flavor, p in transforms.items()
    }
    latents, subjects = {}, None
    with torch.no_grad():
        for number, text in enumerate(inputs):
            flavor, _, file = text.partition("=")
            fields = loadmat(file, simplify_cells=True)
            subjects = subjects if subjects is not None else fields["subjects"]
            rows, columns = np.triu_indices(n_regions(flavor), 1)
            x = np.stack([matrix[rows, columns] for matrix in fields["data"]])
            components, mean = pca[flavor]
            cohort, target = x.mean(axis=0), mean.numpy()
            line = np.stack([cohort, np.ones_like(cohort)], axis=1).astype(float)
            (slope, _), *_ = np.linalg.lstsq(line, target.astype(float), rcond=None)
            x = torch.from_numpy((slope * x - slope * cohort + target).astype("f4"))
            y = 100 * (((x - mean) @ components.T) / 200)
            back = ((y / 100) * 200) @ components + mean
            print(flavor, "keeps", float(1 - ((x - back) ** 2).sum() / ((x - mean) ** 2).sum()))
            weight, bias = (state[f"encoder_list.{number}.0.{p}"] for p in ("weight", "bias"))
            latents[flavor] = torch.nn.functional.normalize(y @ weight.T + bias, dim=1)
        predicted: dict[str, dict[str, np.ndarray]] = {}
        for name, group in FUSIONS.items():
            fused = torch.stack([z for f, z in latents.items() if f.startswith(group)]).mean(0)
            predicted[name] = {}
            for number, flavor in enumerate(FLAVORS):
                weight, bias = (state[f"decoder_list.{number}.0.{p}"] for p in ("weight", "bias"))
                components, mean = pca[flavor]
                y = fused @ weight.T + bias
                predicted[name][flavor] = (((y / 100) * 200) @ components + mean).numpy()
    savemat(
        output, {"predicted_alltypes": predicted, "subjects": subjects},
        do_compression=True, long_field_names=True,
    )  # fmt: skip


# ---- timing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    wall: float
    user: float
    system: float
    peak_mb: float

    def __str__(self) -> str:
        return (
            f"{self.wall:6.2f} s wall, {self.user:6.2f} s user + {self.system:5.2f} s system CPU, "
            f"{self.peak_mb:5.0f} MB"
        )


def timed(words: Sequence[str], log: Path) -> Cost:
    """Run a program and wait for it."""
    with log.open("a") as stream:
        start = time.perf_counter()
        process = subprocess.Popen(words, stdout=stream, stderr=stream)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(words[:4])} … failed: {log.read_text()[-2000:]}")
    return Cost(wall, usage.ru_utime, usage.ru_stime, usage.ru_maxrss / 1024)


def predict(model: Path, inputs: Iterable[str], output: Path, *options: str) -> list[str]:
    return [
        sys.executable, "-m", "kraken_bids.model_commands.cli", "predict",
        "--model", str(model), "--device", "cpu", "--input", *inputs, "--output", str(output),
        *options,
    ]  # fmt: skip


ADAPTED = ("--adaptation", "meanfit+meanshift")
FUSED = ("--fusion", "fusion=all", "fusionSC=SC", "fusionFC=FC", "--only-fusion")


def compare_whole_runs(folder: Path, numbers: Iterable[int], log: Path) -> None:
    this = [sys.executable, __file__, "--folder", str(folder), "--replay"]
    for n in numbers:
        inputs = make_inputs(folder / f"n{n}", n)
        print(f"\n{n} participants, 15 inputs, 3 fusions, 15 targets, meanfit+meanshift")
        baseline = timed([*this, *inputs, str(folder / "replay.mat")], log)
        print(f"  replay of the reference's steps  {baseline}")
        for suffix in (".npz", ".mat"):
            words = predict(folder / "bundle", inputs, folder / f"o{suffix}", *ADAPTED, *FUSED)
            ours = timed(words, log)
            print(
                f"  kraken-model predict to {suffix}     {ours}\n"
                f"    replay / ours: wall {baseline.wall / ours.wall:.1f}, "
                f"CPU {(baseline.user + baseline.system) / (ours.user + ours.system):.1f}, "
                f"memory {baseline.peak_mb / ours.peak_mb:.1f}"
            )
            if n in REFERENCE:
                wall, user, gigabytes = REFERENCE[n]
                print(
                    f"    the reference as once measured ({wall} s wall, {user} s user, "
                    f"{gigabytes} GB) / ours: wall {wall / ours.wall:.1f}, "
                    f"user {user / ours.user:.1f}, memory {1024 * gigabytes / ours.peak_mb:.1f}"
                )


def compare_latents(folder: Path, n: int, log: Path) -> None:
    inputs = make_triangles(folder / f"npy{n}", n)
    files = [text.partition("=")[2] for text in inputs]
    reading = (
        "import sys, numpy as np\n"
        "for file in sys.argv[1:]:\n"
        "    table = np.load(file, mmap_mode='r')\n"
        "    for start in range(0, len(table), 62):\n"
        "        np.array(table[start:start + 62])\n"
    )
    print(f"\n{n} participants, latents of 15 flavors from .npy files")
    alone = timed([sys.executable, "-c", reading, *files], log)
    print(f"  reading alone                    {alone}")
    words = predict(folder / "bundle", inputs, folder / "z.npz", "--predict-to", "encoded")
    for name, options in (("as they are", ()), ("adapted", ADAPTED)):
        ours = timed([*words, *options], log)
        print(f"  latents, {name:<24}{ours}\n    latents / reading: {ours.wall / alone.wall:.2f}")


def time_loading(folder: Path) -> None:
    code = (
        "import sys, time\n"
        "import numpy as np\n"
        "from kraken_bids.model.krakencoder import Krakencoder\n"
        "start = time.perf_counter()\n"
        "model = Krakencoder.from_pretrained(sys.argv[1], ['FCcorr_fs86_hpf'], device='cpu')\n"
        "model.encode({'FCcorr_fs86_hpf': np.zeros((1, 3655), 'f4')})\n"
        "ms = 1000 * (time.perf_counter() - start)\n"
        "rows = open('/proc/self/smaps').read().split('model.safetensors')[1:]\n"
        "kb = sum(int(r.split('Rss:')[1].split()[0]) for r in rows)\n"
        "print(f'{ms:.1f} ms; {kb / 1024:.1f} MB of the weights are in memory')\n"
    )
    size = (folder / "bundle" / "model.safetensors").stat().st_size / 2**20
    told = subprocess.run(
        [sys.executable, "-c", code, str(folder / "bundle")],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    print(
        f"\nOne fs86 flavor, opened and one participant encoded: {told.strip()}, of {size:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--participants", type=int, nargs="*", default=[20, 100])
    parser.add_argument("--latents-of", type=int, default=200, metavar="N")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--replay", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.replay:
        *inputs, output = arguments.replay
        replay(arguments.folder, inputs, Path(output))
        return
    if arguments.make:
        make_all(arguments.folder, arguments.participants, arguments.latents_of)
        return
    with tempfile.TemporaryDirectory(prefix="inference-") as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        numbers = [str(n) for n in arguments.participants]
        # in a process of its own: a child's peak memory counts from what its parent has
        subprocess.run(
            [
                sys.executable, __file__, "--make", "--folder", str(folder),
                "--latents-of", str(arguments.latents_of), "--participants", *numbers,
            ],
            check=True,
        )  # fmt: skip
        log = folder / "log.txt"
        compare_whole_runs(folder, arguments.participants, log)
        time_loading(folder)
        if arguments.latents_of:
            compare_latents(folder, arguments.latents_of, log)


def make_all(folder: Path, numbers: Iterable[int], latents_of: int) -> None:
    """Make what does not lie there yet."""
    if not (folder / "bundle" / "config.json").exists():
        from kraken_bids.model.bundle import convert_checkpoint

        make_model(folder)
        transforms = [folder / f"ioxfm_{atlas}.npy" for atlas in REGIONS]
        convert_checkpoint([folder / "model.pt"], transforms, folder / "bundle")
    for n in numbers:
        make_inputs(folder / f"n{n}", n)
    if latents_of:
        make_triangles(folder / f"npy{latents_of}", latents_of)


if __name__ == "__main__":
    main()
