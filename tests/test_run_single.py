# SPDX-License-Identifier: MIT
"""Predictions of single participants: what is refused before anything is measured, and told."""

import logging
import shutil

import numpy as np
import pytest

from kraken_bids import run_single
from kraken_bids.arguments import settings_from
from kraken_bids.atlases import load_atlas
from kraken_bids.bids.names import output_path
from kraken_bids.bids.writers import write_connectome
from kraken_bids.cli import main, make_parser
from kraken_bids.connectome.adaptation import fit_adaptation
from kraken_bids.connectome.edges import edges_to_matrix, n_edges
from kraken_bids.errors import KrakenBIDSError, Problems, ResourceError
from kraken_bids.flavors import Flavor
from kraken_bids.model.adaptation_file import save_adaptations
from kraken_bids.model.bundle import open_bundle
from kraken_bids.model.training import train_krakencoder
from kraken_bids.plan import SessionPlan
from kraken_bids.report import pages
from kraken_bids.run import Outcome, _translate_finished

FC, FC_GSR, SC = "FCcorr_fs86_hpf", "FCcorr_fs86_hpfgsr", "SCifod2act_fs86_volnorm"
ATLAS = load_atlas("fs86")
MODES = ("meanshift", "meanfit", "meanfit+meanshift", "meanfitshift")


def edges_of(name, n, seed):
    """Edges of some participants, those of correlations for functional flavors."""
    rng = np.random.default_rng(seed)
    if name == SC:
        return rng.random((n, n_edges(ATLAS.n_regions)))
    rows = np.triu_indices(ATLAS.n_regions, 1)
    return np.stack([np.corrcoef(rng.normal(size=(86, 120)))[rows] for _ in range(n)])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models of two functional flavors: ``tiny``, and ``other`` with other weights."""
    folder = tmp_path_factory.mktemp("models")
    connectomes = {name: edges_of(name, 12, 0) for name in (FC, FC_GSR)}
    for seed, name in enumerate(("tiny", "other")):
        train_krakencoder(
            connectomes, folder / name, n_components=4, latent_size=8, epochs=1, seed=seed
        )
    return folder


@pytest.fixture
def model(models):
    return models / "tiny"


@pytest.fixture
def fitted(models, tmp_path):
    """Write a fitted adaptation; its path."""

    def write(*keys, model="tiny"):
        bundle = open_bundle(models / model)
        fits = {
            key: fit_adaptation(
                "meanfit",
                edges_of(FC, 4, 2).mean(axis=0),
                bundle.training_mean(key.partition("@")[0]),
                n_participants=4,
            )
            for key in keys
        }
        path = tmp_path / "fitted.safetensors"
        save_adaptations(path, fits, provenance={"model_sha256": bundle.sha256})
        return path

    return write


@pytest.fixture
def given(tmp_path):
    """Ready-made connectomes; participant 2 has none that the models know."""
    root = tmp_path / "given"
    for label, name in (("1", FC), ("2", SC), ("3", FC), ("3", SC)):
        flavor = Flavor.parse(name)
        path = root / output_path("connectome", [("sub", label)], datatype=flavor.datatype,
                                  space="T1w", atlas="fs86", meas=flavor.meas)  # fmt: skip
        edges = edges_of(name, 1, int(label))[0]
        diagonal = 1.0 if name == FC else 0.0
        write_connectome(path, edges_to_matrix(edges, diagonal=diagonal), ATLAS.region_names)
    return root


@pytest.fixture
def words(tmp_path, given):
    """Begin of a command line of the participant level."""
    (tmp_path / "data").mkdir()
    plugin = tmp_path / "plugin.json"
    plugin.write_text('{"plugin": "Linear"}')
    words = [tmp_path / "data", tmp_path / "out", "participant", "-w", tmp_path / "work",
             "-d", f"connectomes={given}", "--atlases", "fs86", "--output-label", "tiny",
             "--use-plugin", plugin]  # fmt: skip
    return [*map(str, words)]


@pytest.fixture
def read(words):
    """Settings of a command line."""

    def read(*options):
        parser = make_parser()
        return settings_from(parser.parse_args([*words, *map(str, options)]), parser)

    return read


@pytest.fixture
def run(words, monkeypatch):
    """Run the participant level in this process, with empty pages, for real ones take long."""

    def draw(output_dir, participant, *_arguments, **_options):
        page = output_dir / f"sub-{participant}.html"
        page.write_text("a page")
        return page

    monkeypatch.setattr(pages, "write_participant_page", draw)
    return lambda *options: main([*words, *map(str, options)])


def predictions(folder, label):
    return sorted(folder.glob(f"out/derivatives/krakencoder-tiny/sub-{label}/func/*_relmat.tsv"))


TOLD = "no predictions at this level, the group level makes them"


@pytest.mark.parametrize("options", [(), *(("--adaptation", mode) for mode in MODES)])
def test_a_model_that_predicts_nothing_here_is_told(read, model, caplog, options):
    caplog.set_level(logging.INFO, "kraken_bids")
    settings = read("--model", model, *options)
    assert (settings.translation.model_dir, settings.compared_model_dir) == (None, model)
    (line,) = [record for record in caplog.records if TOLD in record.getMessage()]
    assert line.levelno == logging.INFO
    assert "--adaptation FILE, fitted on an earlier cohort, or none" in line.getMessage()
    assert "for training_mean_r only" in line.getMessage()


def test_a_model_that_is_not_there_yet_is_not_said_to_be_used(read, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("KRAKEN_BIDS_RESOURCES", str(tmp_path / "resources"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO, "kraken_bids")
    assert read("--model", "krakencoder-2024").compared_model_dir is None
    assert TOLD in caplog.text
    assert "training_mean_r" not in caplog.text


def test_it_is_not_told_where_it_is_not_so(read, model, caplog):
    caplog.set_level(logging.INFO, "kraken_bids")
    assert read("--model", model, "--adaptation", "none").translation.model_dir == model
    for options in ((), ("--status",), ("--boilerplate-only",), ("--reports-only",)):
        read(*options, *(("--model", model) if options else ()))
    assert TOLD not in caplog.text


@pytest.mark.parametrize(
    ("options", "exit_code", "message"),
    [
        (["--predict-from", "nonsense"], 2, "source 'nonsense' is neither a fusion nor a flavor"),
        (["--predict-to", SC], 3, f"flavor '{SC}' is not in model 'tiny'"),
        (["--fusion", "mine=FC,nonsense"], 2, "'nonsense' names no flavor"),
        (["--flavors", SC], 3, f"none of the flavors measured: {SC}"),
        (["--adapt-by", "site"], 3, "no participants.tsv to read sites from"),
        (["--device", "cuda:77"], 3, "device 'cuda:77' was asked for"),
    ],
)
def test_what_nobody_can_be_predicted_with_is_refused_before_anything_is_measured(
    run, model, tmp_path, capfd, options, exit_code, message
):
    assert run("--model", model, "--adaptation", "none", *options) == exit_code
    assert message in capfd.readouterr().err
    assert not list(tmp_path.glob("out/sub-*"))
    assert not list(tmp_path.glob("out/dataset_description.json"))


def test_adaptations_that_fit_nobody_are_refused(read, model, fitted, tmp_path):
    def refused(path, *options):
        with pytest.raises(KrakenBIDSError) as caught:
            read("--model", model, "--adaptation", path, *options)
        return str(caught.value)

    assert "was fitted for another model than 'tiny'" in refused(fitted(FC, model="other"))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(fitted(FC).read_bytes()[:100])
    assert "is no fitted adaptation" in refused(damaged)
    by_site = fitted(f"{FC}@here")
    assert f"has {FC}@here, but none of the cohort's {FC}, {FC_GSR}" in refused(by_site)
    table = tmp_path / "data" / "participants.tsv"
    table.write_text("participant_id\tsite\nsub-1\tthere\n")
    assert f"{FC_GSR}@there (" in refused(by_site, "--adapt-by", "site")
    assert "no column 'sight'" in refused(by_site, "--adapt-by", "sight")
    table.write_text("participant_id\tsite\nsub-1\there\n")
    options = read("--model", model, "--adaptation", by_site, "--adapt-by", "site").translation
    assert (options.adaptation, options.model_dir) == (str(by_site), model)


def test_an_altered_model_is_refused_together_with_all_else(read, model, fitted, tmp_path):
    altered = tmp_path / "altered"
    shutil.copytree(model, altered)
    weights = bytearray((altered / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (altered / "model.safetensors").write_bytes(weights)
    other = fitted(FC, model="other")
    with pytest.raises(Problems) as caught:
        read("--model", altered, "--adaptation", other, "--adapt-by", "site", "--nprocs", "0")
    assert len(caught.value.problems) == 4
    for part in ("was altered", "for another model", "to read sites from", "0 is too small"):
        assert part in str(caught.value)
    with pytest.raises(Problems) as caught:
        read("--model", model, "--adaptation", other, "--predict-from", "nonsense")
    assert [problem.exit_code for problem in caught.value.problems] == [2, 3]
    (altered / "config.json").write_text("{")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"nothing of the kind")
    with pytest.raises(Problems) as caught:  # no model to hold the file against
        read("--model", altered, "--adaptation", damaged)
    assert "config.json cannot be read" in str(caught.value)
    assert "is no fitted adaptation" in str(caught.value)


def test_options_that_cannot_be_read_are_not_held_against_the_model(read, model):
    with pytest.raises(KrakenBIDSError, match="cannot be the name of a fusion") as caught:
        read("--model", model, "--adaptation", "none", "--fusion", "a b=FC", "c=FC",
             "--predict-from", "c")  # fmt: skip
    assert not isinstance(caught.value, Problems)


def test_who_lacks_the_flavors_is_told_and_the_others_are_predicted(run, model, tmp_path, capfd):
    options = ["--model", model, "--adaptation", "none"]
    assert run(*options) == 1
    told = capfd.readouterr().err
    assert "sub-2: no predictions: model 'tiny' has none of the flavors measured" in told
    assert "3 done, 0 done before, 1 with problems" in told
    assert [len(predictions(tmp_path, label)) for label in "123"] == [4, 0, 4]  # of 2 fusions
    assert run(*options) == 1  # what it lacks is told again
    told = capfd.readouterr().err
    assert "sub-2: no predictions" in told
    assert "0 done, 3 done before, 1 with problems" in told


def test_sources_that_a_participant_lacks_are_told(run, model, tmp_path, capfd):
    options = ["--model", model, "--adaptation", "none", "--predict-from", FC_GSR]
    assert run(*options, "--participant-label", "1") == 1
    told = capfd.readouterr().err
    assert f"sub-1: no predicted connectomes: nothing is measured of {FC_GSR}" in told
    folder = tmp_path / "out" / "derivatives" / "krakencoder-tiny" / "sub-1"
    assert list(folder.glob("*_latent.tsv"))
    assert predictions(tmp_path, "1") == []


def test_adaptation_without_a_participants_flavors_is_told(run, model, fitted, tmp_path, capfd):
    assert run("--model", model, "--adaptation", fitted(FC_GSR), "--participant-label", "1") == 1
    told = capfd.readouterr().err
    assert f"sub-1: no predictions: has {FC_GSR}, but none of the cohort's {FC}" in told
    assert predictions(tmp_path, "1") == []


def test_what_goes_wrong_after_the_measurements_does_not_hide_them(
    run, model, monkeypatch, tmp_path, capfd
):
    def gone(*_arguments):
        raise ResourceError("is not there any more", where=str(model), fix="Run again.")

    monkeypatch.setattr(run_single, "plan_fitted_lambdas", gone)
    words = ["--model", model, "--adaptation", "none", "--participant-label", "1"]
    assert run(*words) == 1
    told = capfd.readouterr().err
    assert "sub-1: no predictions: is not there any more" in told
    assert "1 done, 0 done before, 1 with problems" in told
    assert len(list(tmp_path.glob("out/sub-1/func/*_relmat.tsv"))) == 1


@pytest.fixture
def translated(read, model):
    """What comes of sessions whose measuring has ended."""

    def translated(*labels, failures=(), options=()):
        settings = read("--model", model, "--adaptation", "none", *options)
        settings.output_dir.mkdir(exist_ok=True)
        outcome = Outcome(failures={label: ["the image is cut short"] for label in failures})
        runs = (object(),)  # something to measure: nobody looks at what
        plans = [SessionPlan(label, None, functional=runs) for label in labels]
        _translate_finished(plans, settings=settings, outcome=outcome)
        return outcome.failures

    return translated


def test_nothing_measured_is_told_once(translated):
    failures = translated("1", "2", failures=["sub-1"])
    assert failures == {
        "sub-1": ["the image is cut short"],
        "sub-2": ["no predictions: it has no measured connectomes"],
    }


def test_ambiguous_outputs_of_one_cost_that_one_only(translated, tmp_path, given):
    out = tmp_path / "out"
    shutil.copytree(given / "sub-2", out / "sub-2")
    (source,) = given.glob("sub-1/func/*.tsv")
    for task in ("one", "two"):
        path = out / "sub-1" / "func" / source.name.replace("sub-1_", f"sub-1_task-{task}_")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, path)
    failures = translated("1", "2")
    assert list(failures) == ["sub-1", "sub-2"]
    assert "was measured in 2 tasks: one, two" in failures["sub-1"][0]
    assert "has none of the flavors measured" in failures["sub-2"][0]
    assert [len(messages) for messages in failures.values()] == [1, 1]


def test_sites_that_are_not_known_cost_their_participants_only(translated, tmp_path, given):
    table = tmp_path / "data" / "participants.tsv"
    table.write_text("participant_id\tsite\nsub-1\tn/a\nsub-2\there\n")
    for label in "12":
        shutil.copytree(given / f"sub-{label}", tmp_path / "out" / f"sub-{label}")
    failures = translated("1", "2", options=["--adapt-by", "site"])
    assert "sub-1 has no value in column 'site'" in failures["sub-1"][0]
    assert "has none of the flavors measured" in failures["sub-2"][0]
