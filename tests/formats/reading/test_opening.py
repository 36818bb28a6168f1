# SPDX-License-Identifier: MIT
from __future__ import annotations

import importlib
import importlib.util

import numpy as np
import pytest

from kraken_bids.errors import InputError, KrakenBIDSError, Problems, UsageError
from kraken_bids.formats.reading.opening import FOLDER_READER, READERS, open_inputs, parse_input

SIZES = {"FCcorr_fs86_hpf": 6, "SCsdstream_fs86_volnorm": 6, "SCifod2act_fs86_sift2": 6}


@pytest.fixture
def file(tmp_path):
    """Three participants of one flavor, in a file whose name tells nothing."""
    path = tmp_path / "x.npz"
    values = np.random.default_rng(0).normal(size=(3, 6))
    np.savez(path, data=values, subjects=["a", "b", "c"])
    return path


def opened(*texts, **options):
    return open_inputs(list(texts), SIZES, latent_size=3, **options)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("FCcorr_fs86_hpf", "FCcorr_fs86_hpf"),
        ("[FCcorr_fs86_hpf]", "FCcorr_fs86_hpf"),
        ("FCcorr_fs86_hpf@FC", "FCcorr_fs86_hpf"),
        ("FCcov_fs86_hpf_FC", "FCcorr_fs86_hpf"),
        ("fs86_sdstream_volnorm", "SCsdstream_fs86_volnorm"),
        ("SCifod2act_fs86_sift2count", "SCifod2act_fs86_sift2"),
    ],
)
def test_flavors_are_known_by_todays_and_older_names(file, typed, expected):
    found = opened(f"{typed}={file}")
    assert list(found) == [expected]
    assert found[expected].participants == ("a", "b", "c")
    assert found[expected].n_columns == 6


def test_a_path_alone_is_enough_where_the_file_tells_its_flavor(tmp_path, file):
    named = file.rename(tmp_path / "fs86_FCcorr_hpf_3subj=new.npz")  # '=' is part of the name
    assert list(opened(str(named))) == ["FCcorr_fs86_hpf"]


def test_latents_are_opened_by_their_size(tmp_path):
    np.savez(tmp_path / "z.npz", encoded=np.ones((2, 3)))
    assert opened(f"encoded={tmp_path / 'z.npz'}")["encoded"].n_columns == 3
    assert list(opened(f"fusionSC={tmp_path / 'z.npz'}")) == ["fusionSC"]
    with pytest.raises(UsageError, match="'encoded' stands for latents"):
        open_inputs([f"encoded={tmp_path / 'z.npz'}"], SIZES, latent_size=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FCcorr_fs68_hpf={file}", r"'FCcorr_fs68_hpf' is not in this model .--input.. Did you"),
        ("FCcorr_fs68_hpf={file}", r"'FCcorr_fs86_hpf'\? The model has FCcorr_fs86_hpf, SCifod2"),
        ("age={file}", "flavor 'age' is not in this model"),
        ("FCcorr_fs86_hpf=", "is not FLAVOR=PATH"),
        ("={file}", "is not FLAVOR=PATH"),
        ("", "an input is empty"),
        ("FCcorr_fs86_hpf={file}.nii", "files of kind '.nii' are not read"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_a_usage_error(file, text, message):
    file.with_name("x.npz.nii").touch()
    with pytest.raises(UsageError, match=message):
        opened(text.format(file=file))


def test_no_input_is_told():
    with pytest.raises(UsageError, match="no input is given"):
        opened()


def test_a_flavor_that_comes_twice_is_told_with_both_files(tmp_path, file):
    other = tmp_path / "y.npz"
    other.write_bytes(file.read_bytes())
    with pytest.raises(UsageError, match=r"'FCcorr_fs86_hpf' comes from .*x.npz and .*y.npz"):
        opened(f"FCcorr_fs86_hpf={file}", f"FCcov_fs86_hpf={other}")


def test_all_problems_are_told_together(tmp_path, file):
    np.savez(tmp_path / "wide.npz", data=np.ones((3, 10)))
    np.savez(tmp_path / "twice.npz", data=np.ones((2, 6)), subjects=["a", "a"])
    with pytest.raises(Problems) as error:
        opened(
            "FCcorr_fs86_hpf=none.mat",
            f"SCsdstream_fs86_volnorm={tmp_path / 'wide.npz'}",
            f"SCifod2act_fs86_sift2={tmp_path / 'twice.npz'}",
            f"unknown={file}",
        )
    told = [str(problem) for problem in error.value.problems]
    for text, part in zip(
        told, ["does not exist (none.mat)", "(3, 10)", "a come more", "'unknown'"], strict=True
    ):
        assert part in text
    assert error.value.exit_code == 3


def test_without_a_model_any_flavor_of_any_size_is_opened(file):
    text = f"FCcorr_mine4_hpf={file}"
    found = open_inputs([text], {}, latent_size=0)
    assert found["FCcorr_mine4_hpf"].n_columns == 6
    with pytest.raises(UsageError, match="flavor 'mine' is unknown"):
        open_inputs([f"mine={file}"], {}, latent_size=0)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("FCcor_mine4_hpf", "FCcorr_mine4_hpf"),
        ("FCcorr_mine4_hfp", "FCcorr_mine4_hpf"),
        ("SCifod2_mine4_volnorm", "SCifod2act_mine4_volnorm"),
    ],
)
def test_without_a_model_the_nearest_kind_and_processing_are_asked_for(file, typed, meant):
    with pytest.raises(UsageError, match=f"'{typed}' is unknown .*Did you mean '{meant}'"):
        open_inputs([f"{typed}={file}"], {}, latent_size=0)


def test_a_locked_file_is_told(tmp_path, monkeypatch, file):
    def refuse(path, wanted):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("kraken_bids.formats.reading.arrays.open_npz", refuse)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        opened(f"FCcorr_fs86_hpf={file}")


@pytest.mark.parametrize("row", [*READERS.values(), FOLDER_READER], ids=str)
def test_every_reader_is_there(row):
    module = importlib.import_module(f"kraken_bids.formats.reading.{row[0]}")
    assert callable(getattr(module, row[1]))


def test_other_latents_than_the_models_are_refused(tmp_path):
    np.savez(tmp_path / "z.npz", encoded=np.ones((2, 4)))
    with pytest.raises(KrakenBIDSError, match="the model's latents have 3"):
        opened(f"encoded={tmp_path / 'z.npz'}")


def test_typed_text_is_read_apart():
    asked = parse_input("FCcorr_fs86_hpf=a=b.npz", SIZES, latent_size=0)
    assert (asked.name, str(asked.path)) == ("FCcorr_fs86_hpf", "a=b.npz")
