# SPDX-License-Identifier: MIT
"""The reference program's numbers, computed as a user of the Python interface would."""

from __future__ import annotations

import functools
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from kraken_bids.connectome.adaptation import RunningMean, fit_adaptation
from kraken_bids.connectome.edges import edges_to_matrix
from kraken_bids.errors import InputError, ModelError
from kraken_bids.formats.reading.matching import match_inputs
from kraken_bids.formats.reading.opening import open_inputs
from kraken_bids.model.bundle import convert_checkpoint
from kraken_bids.model.fusion import resolve_fusions, resolve_members
from kraken_bids.model.krakencoder import Krakencoder
from kraken_bids.model_commands.cli import main

COMMITTED = Path(__file__).parents[1] / "data" / "golden"
#: Largest difference from the reference, as a share of the output's largest value.
TOLERANCE = 1e-5
#: Cases that the reference program stored under another name.
TWINS = {
    "adapt_meanfitshift_alias": "adapt_meanfit_meanshift",
    "subset_reordered": "subset_two_inputs",
    "output_self": "allpaths",
}
NOT_INFERENCE = {"allpaths_usetrainmean"}  # metrics only
#: Cases whose input does not follow from their options: each has a test of its own.
OWN_TESTS = {"single_subject", "encoded_as_input_multi"}


def golden_dirs() -> list[Path]:
    full = os.environ.get("KRAKEN_GOLDEN_DIR")
    return [COMMITTED, *([Path(full)] if full else [])]


def load_manifest(folder: Path) -> dict:
    return json.loads((folder / "cases" / "manifest.json").read_text("utf-8"))


def all_cases() -> list:
    return [
        pytest.param(folder, case, id=f"{'committed' if folder == COMMITTED else 'full'}-{name}")
        for folder in golden_dirs()
        for case in load_manifest(folder)["cases"]
        if (name := case["name"]) not in NOT_INFERENCE | OWN_TESTS
    ]


@functools.cache
def _convert(folder: Path, checkpoints: tuple[str, ...], transforms: tuple[str, ...], out: Path):
    return convert_checkpoint(
        [folder / "model" / name for name in checkpoints],
        [folder / "model" / name for name in transforms],
        out / "-".join([str(len(folder.parts)), *checkpoints]),
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Bundle of a case, converted once."""
    out = tmp_path_factory.mktemp("models")

    def convert(folder: Path, case: dict):
        return _convert(folder, tuple(case["checkpoint"]), tuple(case["ioxfm"]), out)

    yield convert
    _convert.cache_clear()


def parse_options(words: list[str]) -> dict[str, list[str]]:
    options: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            options[word] = []
        else:
            options[list(options)[-1]].append(word)
    return options


def read_inputs(folder: Path, case: dict, bundle) -> dict[str, np.ndarray]:
    texts = [
        f"{name}={folder / 'inputs' / ('encoded_fusion.mat' if name == 'encoded' else file)}"
        for name, file in case["inputs"].items()
    ]
    return read_all(texts, bundle)


def read_all(texts: list[str], bundle) -> dict[str, np.ndarray]:
    sizes = {flavor: bundle.n_edges(flavor) for flavor in bundle.flavors}
    matched = match_inputs(open_inputs(texts, sizes, latent_size=bundle.latent_size))
    return {name: matched.read(name, 0, len(matched.participants)) for name in matched.inputs}


def adapt(inputs, folder: Path, case: dict, options, bundle) -> dict[str, np.ndarray]:
    mode = options.get("--adaptmode", ["none"])[0]
    if mode == "none":
        return inputs
    adapted = {}
    for flavor, x in inputs.items():
        mean, n = np.nanmean(x.astype(np.float64), axis=0), len(x)
        if "--adaptmodesourcedata" in options:
            mean, n = source_mean(folder, flavor, bundle), 60
        target = bundle.training_mean(flavor)
        adapted[flavor] = fit_adaptation(mode, mean, target, n_participants=n).forward(x)
    return adapted


def source_mean(folder: Path, flavor: str, bundle) -> np.ndarray:
    file = folder / "training_inputs" / f"{flavor}.mat"
    if not file.exists():
        with np.load(folder / "cases" / "adapt_source_mean.npz") as stored:
            return stored[flavor]
    cohort = RunningMean(bundle.n_edges(flavor))
    cohort.add(read_all([f"{flavor}={file}"], bundle)[flavor])
    return cohort.mean


def run_case(folder: Path, case: dict, bundle) -> dict[str, np.ndarray]:
    """Compute all arrays of a case."""
    options = parse_options(case["options"])
    model = Krakencoder.from_pretrained(bundle.path, device="cpu")
    inputs = adapt(read_inputs(folder, case, bundle), folder, case, options, bundle)
    if "--savetransformedinputs" in options:
        return {f"{name}__transformed": y for name, y in model.features(inputs).items()}
    flavors = [name for name in inputs if name != "encoded"]
    latents = inputs if not flavors else model.encode(inputs)
    normalize = "--fusionnorm" in options
    fusions = {}
    if "--fusion" in options:
        tokens = [word.split("=") for word in options.get("--fusioninclude", ["fusion=all"])]
        fusions = resolve_fusions(
            [(name, members.split(",")) for name, members in tokens],
            flavors,
            known=bundle.flavors,
        )
    sources = [*([] if "--onlyfusioninputs" in options else latents), *fusions]
    wanted = options.get("--outputname", ["all"])
    if wanted == ["encoded"]:
        return {
            f"{source}__encoded": latents[source]
            if source in latents
            else model.fuse(latents, fusions[source], normalize=normalize)
            for source in sources
        }
    if "--untransformedoutputs" in options:
        return {
            f"{source}__{target}": values
            for source, members in fusions.items()
            for target, values in model.decode(
                model.fuse(latents, members), to_edges=False
            ).items()
        }
    targets = bundle.flavors if wanted == ["self"] else resolve_members(wanted, bundle.flavors)
    variants = [v for v in ("noself", "noatlas") if f"--fusion{v}" in options]
    found = {}
    for prediction in model.predict_from_latents(
        latents,
        fusions=fusions,
        sources=sources,
        targets=targets,
        variants=variants,
        normalize=normalize,
    ):
        found[f"{prediction.source}__{prediction.target}"] = prediction.edges
    if "--output_squaremats" in options:
        found = {name: edges_to_matrix(edges, diagonal=np.nan) for name, edges in found.items()}
    return found


def assert_close(found: np.ndarray, expected: np.ndarray, name: str) -> float:
    scale = np.nanmax(np.abs(expected))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected), err_msg=name)
    error = np.nanmax(np.abs(found - expected)) / scale
    assert error <= TOLERANCE, f"{name}: {error:.2e} of the output's scale"
    return float(error)


@pytest.mark.parametrize(("folder", "case"), all_cases())
def test_case_agrees_with_the_reference_program(folder, case, models, caplog, record_property):
    bundle = models(folder, case)
    found = run_case(folder, case, bundle)

    if case["exit_code"]:  # the reference crashes: ours says what it leaves out and goes on
        assert "left" in caplog.text
        assert found
        return
    stride = load_manifest(folder).get("edge_stride", 1)
    stored = np.load(folder / "cases" / f"{TWINS.get(case['name'], case['name'])}.npz")
    assert set(case.get("outputs") or {}) <= set(found)
    compared = [name for name in stored if name in found]
    assert compared
    if case["name"] not in TWINS:
        assert set(compared) == set(stored)
    errors = []
    for name in compared:
        values, expected = found[name], stored[name]
        if values.ndim == 3:
            values = values[: len(expected)]
        elif values.shape != expected.shape:
            values = values[:, ::stride]
        errors.append(assert_close(values, expected, name))
    record_property("largest_error", max(errors))
    logging.getLogger(__name__).info("%s: %.2e", case["name"], max(errors))


@pytest.mark.parametrize("folder", golden_dirs(), ids=lambda folder: folder.name)
def test_one_participant_is_refused_what_would_map_anybody_onto_the_mean(folder, models):
    case = {"checkpoint": ["mini.pt"], "ioxfm": ["mini_ioxfm.npy"]}
    bundle = models(folder, case)
    with pytest.raises(ModelError, match="the same for every person"):
        fit_adaptation(
            "meanfit+meanshift",
            np.arange(3.0),
            np.arange(3.0) * 2,
            n_participants=1,
        )
    stored = folder / "cases" / "single_subject.npz"
    if stored.exists():  # what the reference then predicts for anybody: the mean's own prediction
        model = Krakencoder.from_pretrained(bundle.path, device="cpu")
        means = {flavor: bundle.training_mean(flavor)[np.newaxis] for flavor in bundle.flavors}
        with np.load(stored) as expected:
            for prediction in model.predict(
                means, fusions={"fusion": bundle.flavors}, sources=["fusion"]
            ):
                name = f"fusion__{prediction.target}"
                assert_close(prediction.edges[0], expected[name], name)


def test_latents_of_several_sources_are_refused_as_one_input(tmp_path):
    with np.load(COMMITTED / "cases" / "encoded_adapt.npz") as stored:
        predicted = {name.split("__")[0]: {"encoded": stored[name]} for name in list(stored)[:2]}
    file = tmp_path / "o_encoded.mat"
    savemat(file, {"predicted_alltypes": predicted}, long_field_names=True)
    with pytest.raises(InputError, match="which one is meant"):
        open_inputs([f"encoded={file}"], {}, latent_size=16)


def test_command_line_writes_the_reference_programs_numbers(tmp_path):
    inputs = load_manifest(COMMITTED)["cases"][0]["inputs"]
    output = tmp_path / "out.npz"
    code = main(
        [
            "predict",
            "--checkpoint", str(COMMITTED / "model" / "mini.pt"),
            "--transforms", str(COMMITTED / "model" / "mini_ioxfm.npy"),
            "--input", *(f"{f}={COMMITTED / 'inputs' / file}" for f, file in inputs.items()),
            "--adaptation", "meanfit+meanshift",
            "--fusion", "fusion=all", "fusionSC=SC", "fusionFC=FC",
            "--only-fusion", "--latents", "--device", "cpu",
            "--output", str(output),
        ]
    )  # fmt: skip

    assert code == 0
    with np.load(output) as found:
        assert found["participants"].tolist() == [f"syn202s{i:04d}" for i in range(12)]
        with np.load(COMMITTED / "cases" / "adapt_meanfit_meanshift.npz") as expected:
            assert {name for name in found if not name.endswith("encoded")} == {
                "participants",
                *expected,
            }
            for name in expected:
                assert_close(found[name][:, ::29], expected[name], name)
        with np.load(COMMITTED / "cases" / "encoded_adapt.npz") as expected:
            assert_close(found["fusionSC__encoded"], expected["fusionSC__encoded"], "fusionSC")
