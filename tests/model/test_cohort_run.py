# SPDX-License-Identifier: MIT
"""A cohort read, adapted, encoded and decoded piece by piece, against all of it at once."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import pytest

from kraken_bids.connectome.adaptation import fill_missing, fit_adaptation
from kraken_bids.errors import InputError, ModelError
from kraken_bids.formats.inputs import FlavorInput, MatchedInputs
from kraken_bids.model import cohort_reading, cohort_run
from kraken_bids.model.bundle import write_bundle
from kraken_bids.model.cohort_fit import FitSample, SiteAdaptations, plan_fit
from kraken_bids.model.cohort_reading import CohortReader
from kraken_bids.model.cohort_run import decode_cohort, encode_cohort, source_latents
from kraken_bids.model.devices import TorchDevice
from kraken_bids.model.fusion import PlannedSource, plan_predictions
from kraken_bids.model.krakencoder import Krakencoder
from kraken_bids.model.layers import FlavorModel, Layer
from kraken_bids.model.transforms import Transform

SC, FC = "SCsdstream_toy_count", "FCcorr_toy_hpf"
N = 30
IDS = tuple(f"p{i}" for i in range(N))
BOTH = {"fusion": (SC, FC)}


@pytest.fixture
def model(tiny_bundle):
    return Krakencoder(tiny_bundle, device="cpu")


@pytest.fixture
def edges(rng, tiny_bundle):
    """Connectomes that look like the training data, in another scale."""
    return {
        flavor: (
            2 + 3 * tiny_bundle.training_mean(flavor) + rng.normal(size=(N, 6), scale=0.3)
        ).astype(np.float32)
        for flavor in (SC, FC)
    }


def make_inputs(edges, *, ids=IDS, reads=None):
    def make(name, values):
        def read(positions):
            if reads is not None:
                reads.append((name, len(positions)))
            return values[list(positions)]

        return FlavorInput(name, f"{name}.npy", ids, *values.shape, read)

    positions = {name: np.arange(len(values)) for name, values in edges.items()}
    for name, values in edges.items():
        positions[name][np.isnan(values).all(axis=1)] = -1
    return MatchedInputs(ids, {name: make(name, v) for name, v in edges.items()}, positions)


def make_reader(inputs, bundle, *, mode="none", sites=("",) * N, chosen=None, **options):
    sample = None
    if mode != "none":
        chosen = np.ones(N, dtype=bool) if chosen is None else chosen
        sample = FitSample(mode, inputs, chosen, sites)
    return CohortReader(inputs, (SC, FC), bundle, sites=sites, sample=sample, **options)


class Kept:
    """A writer that keeps what it is given, taking batches of rows or some columns at a time."""

    def __init__(self, by="batches", size=7):
        self.by, self.size, self.found, self.n_inputs = by, size, {}, {}

    def add_latents(self, latents):
        self.found[latents.source, "encoded"] = latents.values

    def add_connectomes(self, decoded):
        values = np.zeros(decoded.shape, dtype=np.float32)
        if self.by == "batches":
            for start, rows in decoded.batches():
                values[start : start + len(rows)] += rows
        else:
            for start in range(0, decoded.shape[1], self.size):
                stop = min(start + self.size, decoded.shape[1])
                values[:, start:stop] += decoded.columns(start, stop)
        self.found[decoded.source, decoded.target] = values
        self.n_inputs[decoded.source, decoded.target] = decoded.n_inputs
        assert self.found[decoded.source, decoded.target].shape == decoded.shape


def plan(**options):
    return plan_predictions((SC, FC), BOTH, (SC, FC), **options)


@pytest.mark.parametrize("batch", [4, 1000])
@pytest.mark.parametrize("by", ["batches", "columns"])
def test_a_streamed_run_equals_one_in_memory(model, edges, monkeypatch, batch, by):
    for module in (cohort_reading, cohort_run):
        monkeypatch.setattr(module, "batch_rows", lambda n_edges: batch)
    edges[SC][3] = edges[FC][5] = edges[SC][7] = edges[FC][7] = np.nan
    cohort = encode_cohort(model, make_reader(make_inputs(edges), model.bundle))
    writer = Kept(by, size=5)
    decode_cohort(model, cohort, plan(variants=["noself"], normalize=True), writer)
    expected = list(model.predict(edges, fusions=BOTH, variants=["noself"], normalize=True))
    assert set(writer.found) == {(p.source, p.target) for p in expected}
    for p in expected:
        np.testing.assert_allclose(writer.found[p.source, p.target], p.edges, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(writer.n_inputs[p.source, p.target], p.n_inputs)


def test_torch_and_numpy_give_the_same_numbers(model, edges, tiny_bundle):
    edges[SC][3] = np.nan
    found = []
    for device in (model.open_device, TorchDevice("cpu")):
        model = Krakencoder(tiny_bundle, device="cpu")
        model.open_device = device
        cohort = encode_cohort(model, make_reader(make_inputs(edges), tiny_bundle))
        for by in ("rows", "columns"):
            writer = Kept(by)
            writer.add_latents(source_latents(model, cohort, PlannedSource("fusion", (SC, FC))))
            decode_cohort(model, cohort, plan(normalize=True), writer)
            found.append(writer.found)
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for name, values in other.items():
            np.testing.assert_allclose(values, found[0][name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kept", [0, 1 << 20], ids=["read-twice", "kept"])
def test_a_cohort_is_fitted_before_it_is_encoded(model, edges, monkeypatch, kept):
    monkeypatch.setattr(cohort_reading, "KEEP_BYTES", kept)
    monkeypatch.setattr(cohort_reading, "batch_rows", lambda n_edges: 4)
    edges[FC][2, 1] = np.nan
    reads = []
    reader = make_reader(make_inputs(edges, reads=reads), model.bundle, mode="meanfit+meanshift")
    cohort = encode_cohort(model, reader)
    for flavor, x in edges.items():
        mean = model.bundle.training_mean(flavor)
        fit = fit_adaptation(
            "meanfit+meanshift", np.nanmean(x.astype(float), axis=0), mean, n_participants=N
        )
        expected = model.encode({flavor: fill_missing(fit.forward(x), mean)[0]})[flavor]
        np.testing.assert_allclose(cohort.latents[flavor], expected, atol=1e-5)
    assert reader.notes.n_filled == {FC: (1, 1)}
    assert sum(n for name, n in reads if name == FC) == (N if kept else 2 * N)


def test_chosen_participants_alone_are_fitted_on(model, edges):
    chosen = np.arange(N) < 25
    edges[SC][~chosen] += 100
    reader = make_reader(make_inputs(edges), model.bundle, mode="meanfit", chosen=chosen)
    encode_cohort(model, reader)
    for flavor, x in edges.items():
        expected = fit_adaptation(
            "meanfit", x[:25].mean(axis=0, dtype=float), model.bundle.training_mean(flavor),
            n_participants=25,
        )  # fmt: skip
        assert reader.fits[flavor].slope == pytest.approx(expected.slope)
        assert reader.fits[flavor].n_participants == 25


def test_sites_are_fitted_apart_and_mapped_back_apart(model, edges, monkeypatch):
    monkeypatch.setattr(cohort_reading, "batch_rows", lambda n_edges: 4)
    monkeypatch.setattr(cohort_run, "batch_rows", lambda n_edges: 7)
    sites = tuple("ab"[i % 2] for i in range(N))
    second = np.arange(N) % 2 == 1
    edges[SC][second] = 5 * edges[SC][second] + 1
    reader = make_reader(make_inputs(edges), model.bundle, mode="meanfit+meanshift", sites=sites)
    cohort = encode_cohort(model, reader)
    assert set(reader.fits) == {f"{flavor}@{site}" for flavor in (SC, FC) for site in "ab"}
    assert reader.fits[f"{SC}@b"].slope < 0.5 * reader.fits[f"{SC}@a"].slope
    plain, back, by_columns = Kept(), Kept(), Kept("columns", size=4)
    decode_cohort(model, cohort, plan(), plain)
    for writer in (back, by_columns):
        decode_cohort(model, cohort, plan(), writer, scale=reader.adaptations)
    for (source, target), values in plain.found.items():
        expected = np.empty_like(values)
        for site, rows in (("a", ~second), ("b", second)):
            expected[rows] = reader.fits[f"{target}@{site}"].inverse(values[rows])
        for writer in (back, by_columns):
            np.testing.assert_allclose(
                writer.found[source, target], expected, rtol=1e-4, atol=1e-3
            )


def test_a_site_of_one_is_refused_by_name_and_a_lone_flavor_there_is_left_out(edges, caplog):
    edges[FC][12:14] = np.nan
    inputs = make_inputs(edges)
    sites = ("north",) * 12 + ("south",) * 17 + ("lone",)
    sample = FitSample("meanshift", inputs, np.ones(N, bool), sites)
    _, problems = plan_fit(sample, (SC, FC))
    assert "site 'lone' has one participant" in str(problems[0])
    assert len(problems) == 1
    sites = ("north",) * 12 + ("south",) * 3 + ("north",) * 15
    keys, problems = plan_fit(FitSample("meanshift", inputs, np.ones(N, bool), sites), (SC, FC))
    assert not problems
    assert sorted(keys) == [f"{FC}@north", f"{SC}@north", f"{SC}@south"]
    assert f"{FC}@south is left out" in caplog.text


def test_one_participant_may_be_scaled_but_not_shifted(edges):
    inputs = make_inputs({SC: edges[SC][:1]}, ids=("p0",))
    for mode, n_problems in (("meanshift", 1), ("meanfit", 0)):
        sample = FitSample(mode, inputs, np.ones(1, bool), ("",))
        _, problems = plan_fit(sample, (SC,))
        assert len(problems) == n_problems
    _, problems = plan_fit(FitSample("meanfit", inputs, np.ones(1, bool), ("",), False), (SC, FC))
    assert "has no file to fit on" in str(problems[0])


def test_a_falling_line_is_refused(model, edges):
    edges[FC] = -edges[FC]
    reader = make_reader(make_inputs(edges), model.bundle, mode="meanfit")
    with pytest.raises(ModelError, match=r"upside down \(FCcorr_toy_hpf\)"):
        encode_cohort(model, reader)


def test_data_of_another_flavor_are_recognised(tmp_path, make_flavor, rng):
    flavors = {SC: make_flavor(), FC: make_flavor()}
    means = np.array([[0, 1, 2, 3, 4, 5], [2, 0, 3, 3, 1, 2]], np.float32)
    for model, mean in zip(flavors.values(), means, strict=True):
        model.transform.parameters["mean"][:] = mean
    bundle = write_bundle(tmp_path / "m", flavors=flavors, latent_size=3, provenance={})
    fc_as_sc = {SC: means[1] + rng.normal(size=(N, 6), scale=0.05).astype(np.float32)}
    inputs = make_inputs(fc_as_sc)
    sample = FitSample("meanshift", inputs, np.ones(N, bool), ("",) * N)
    reader = CohortReader(inputs, (SC,), bundle, sites=("",) * N, sample=sample)
    encode_cohort(Krakencoder(bundle, device="cpu"), reader)
    (doubt,) = reader.notes.doubts
    assert doubt.startswith(f"{SC}: the data look like {FC} (R² ")
    reader = CohortReader(make_inputs(fc_as_sc), (SC,), bundle, sites=("",) * N)
    encode_cohort(Krakencoder(bundle, device="cpu"), reader)
    assert "do not look like the training data" in reader.notes.doubts[0]


def test_data_in_the_scale_of_training_raise_no_doubt(model, rng):
    edges = {
        f: (model.bundle.training_mean(f) + rng.normal(size=(N, 6), scale=0.1)).astype("f4")
        for f in (SC, FC)
    }
    reader = make_reader(make_inputs(edges), model.bundle)
    encode_cohort(model, reader)
    assert reader.notes.doubts == []


def test_without_a_training_mean_missing_edges_cost_the_flavor(tmp_path, rng):
    layer = Layer(rng.normal(size=(3, 6)).astype("f4"))
    decoder = Layer(rng.normal(size=(6, 3)).astype("f4"))
    flavors = {SC: FlavorModel(6, Transform("none"), (layer,), (decoder,))}
    bundle = write_bundle(tmp_path / "m", flavors=flavors, latent_size=3, provenance={})
    x = {SC: rng.normal(size=(N, 6)).astype("f4")}
    x[SC][4, 2] = np.nan
    reader = CohortReader(make_inputs(x), (SC,), bundle, sites=("",) * N)
    cohort = encode_cohort(Krakencoder(bundle, device="cpu"), reader)
    assert np.flatnonzero(~cohort.present[SC]).tolist() == [4]
    assert reader.notes.n_left_out == {SC: 1}


def test_an_input_is_let_go_when_its_flavor_is_done(model, edges):
    inputs = make_inputs(edges)
    gone = [weakref.ref(one) for one in inputs.inputs.values()]
    reader = make_reader(inputs, model.bundle, mode="meanshift")
    del inputs
    encode_cohort(model, reader)
    assert [one() for one in gone] == [None, None]


def test_errors_of_reading_come_out_and_stop_the_rest(model, edges):
    inputs = make_inputs(edges)

    def fail(positions):
        raise InputError("is damaged", where="file")

    inputs.inputs[FC] = FlavorInput(FC, "file", IDS, N, 6, fail)
    n_before = threading.active_count()
    with pytest.raises(InputError, match="is damaged"):
        encode_cohort(model, make_reader(inputs, model.bundle))
    assert threading.active_count() == n_before


def test_weights_of_one_target_at_a_time_stay_in_memory(model, edges, monkeypatch):
    alive = []
    load = cohort_run.load_flavor

    def watched(*arguments):
        alive.append(weakref.ref(loaded := load(*arguments)))
        return loaded

    monkeypatch.setattr(cohort_run, "load_flavor", watched)
    cohort = encode_cohort(model, make_reader(make_inputs(edges), model.bundle))
    assert sum(one() is not None for one in alive) == 0
    decode_cohort(model, cohort, plan(), Kept())
    assert sum(one() is not None for one in alive) == 0


def test_participants_of_a_site_without_fit_count_as_without_the_flavor(rng):
    fit = fit_adaptation("meanshift", rng.normal(size=6), rng.normal(size=6), n_participants=9)
    adaptations = SiteAdaptations({f"{SC}@a": fit}, ("a", "b"))
    rows = adaptations.forward(SC, np.zeros((2, 6), np.float32), 0)
    assert np.isnan(rows).all(axis=1).tolist() == [False, True]
