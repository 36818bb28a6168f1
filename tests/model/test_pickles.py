# SPDX-License-Identifier: MIT
from __future__ import annotations

import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from kraken_bids.errors import ResourceError
from kraken_bids.model.pickles import read_numpy_object, read_torch_file


class Malicious:
    """An object whose unpickling runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def write_malicious_torch_file(file, trap):
    torch.save({"state_dict": OrderedDict(w=torch.ones(2)), "x": Malicious(f"touch {trap}")}, file)


def write_malicious_npy(file, trap):
    np.save(file, np.array({"FCcorr_fs86_hpf": Malicious(f"touch {trap}")}), allow_pickle=True)


def write_malicious_npz(file, trap):
    np.savez(file, transform_params=np.array({"x": Malicious(f"touch {trap}")}))


@pytest.mark.parametrize(
    ("write", "read", "name"),
    [
        (write_malicious_torch_file, read_torch_file, "bad.pt"),
        (write_malicious_npy, read_numpy_object, "bad.npy"),
        (write_malicious_npz, read_numpy_object, "bad.npz"),
    ],
    ids=["pt", "npy", "npz"],
)
def test_code_in_a_pickle_is_not_run(tmp_path, write, read, name):
    trap = tmp_path / "trap"
    write(tmp_path / name, trap)
    with pytest.raises(ResourceError, match=rf"'(posix|nt).system' \(.*{name}\)"):
        read(tmp_path / name)
    assert not trap.exists()


class Nested:
    """An object whose unpickling calls what another unpickling gave."""

    def __init__(self, trap) -> None:
        self.trap = trap

    def __reduce__(self):
        return eval, (f"__import__('pathlib').Path({str(self.trap)!r}).touch()",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_calls_within_calls_are_not_run_in_any_protocol(tmp_path, protocol):
    trap = tmp_path / "trap"
    pickled = pickle.dumps({"w": [Nested(trap), (Malicious(f"touch {trap}"),)]}, protocol)
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", pickled)
    with pytest.raises(ResourceError, match="holds code that will not be run"):
        read_torch_file(tmp_path / "m.pt")
    with (tmp_path / "m.npy").open("wb") as stream:
        description = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(stream, description)
        stream.write(pickled)
    with pytest.raises(ResourceError, match="holds code that will not be run"):
        read_numpy_object(tmp_path / "m.npy")
    assert not trap.exists()


def test_files_of_torch_before_zip_archives_are_refused_unread(tmp_path):
    trap = tmp_path / "trap"
    content = {"state_dict": OrderedDict(w=torch.ones(2)), "x": Malicious(f"touch {trap}")}
    torch.save(content, tmp_path / "m.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ResourceError, match="damaged or of another kind"):
        read_torch_file(tmp_path / "m.pt")
    with tarfile.open(tmp_path / "m.tar", "w") as archive:
        archive.add(tmp_path / "m.pt", "pickle")
    with pytest.raises(ResourceError, match="damaged or of another kind"):
        read_torch_file(tmp_path / "m.tar")
    assert not trap.exists()


@pytest.mark.parametrize(
    "callable_name",
    ["builtins.eval", "os.system", "torch.load", "numpy.load", "functools.partial",
     "numpy.core.multiarray.fromfile", "collections.defaultdict", "__builtin__.getattr"],
)  # fmt: skip
def test_names_off_the_list_are_refused_and_told(tmp_path, callable_name):
    module, name = callable_name.rsplit(".", 1)
    pickled = b"c" + f"{module}\n{name}\n".encode() + b"."
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", pickled)
    with pytest.raises(ResourceError, match=f"'{callable_name}'"):
        read_torch_file(tmp_path / "m.pt")


@pytest.mark.parametrize(
    "attribute_state",
    [b"}X\x09\x00\x00\x00_functionK\x01s", b"(N}X\x09\x00\x00\x00_functionK\x01stq\x00"],
    ids=["dictionary", "slots"],
)
def test_a_pickle_cannot_change_the_reader(tmp_path, attribute_state):
    pickled = b"\x80\x02cnumpy\ndtype\n" + attribute_state + b"b."
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", pickled)
    with pytest.raises(ResourceError, match="damaged"):
        read_torch_file(tmp_path / "m.pt")
    test_arrays_and_plain_values_come_back(tmp_path)


def test_arrays_and_plain_values_come_back(tmp_path):
    content = {
        "flavor": {
            "components": np.arange(6, dtype=np.float32).reshape(2, 3),
            "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            "big_endian": np.arange(3, dtype=">f8"),
            "flags": np.array([True, False]),
            "ids": np.array(["a", "bcd"]),
            "objects": np.array(["x", 3, None], dtype=object),
            "ratio": np.float64(0.25),
            "type": "pca",
            "n": 3,
        }
    }
    np.save(tmp_path / "ok.npy", np.array(content), allow_pickle=True)
    np.savez(tmp_path / "ok.npz", transform_params=np.array(content))
    for name in ("ok.npy", "ok.npz"):
        found = read_numpy_object(tmp_path / name)["flavor"]
        assert list(found) == list(content["flavor"])
        for key, value in content["flavor"].items():
            np.testing.assert_array_equal(np.asarray(found[key]), np.asarray(value), err_msg=key)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
def test_tensors_of_all_types_come_back(tmp_path, dtype):
    tensor = torch.tensor([[0.0, 1.5, 2.0], [3.0, 1.0, 0.0]]).to(dtype)
    torch.save({"a": tensor, "transposed": tensor.T, "part": tensor[1:, ::2]}, tmp_path / "t.pt")
    found = read_torch_file(tmp_path / "t.pt")
    for key, expected in (("a", tensor), ("transposed", tensor.T), ("part", tensor[1:, ::2])):
        np.testing.assert_array_equal(found[key], expected.to(torch.float64).numpy(), err_msg=key)


def test_records_and_their_raw_pointers_are_refused(tmp_path):
    records = np.zeros(2, dtype=[("a", "f4"), ("b", "O")])
    np.save(tmp_path / "records.npy", np.array({"x": records}), allow_pickle=True)
    with pytest.raises(ResourceError, match="are not read"):
        read_numpy_object(tmp_path / "records.npy")


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    torch.save({"w": torch.ones(4)}, tmp_path / "t.pt")
    with zipfile.ZipFile(tmp_path / "t.pt") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "short.pt", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content[:8] if name.endswith("data/0") else content)
    with pytest.raises(ResourceError, match="2 of 4 values"):
        read_torch_file(tmp_path / "short.pt")


@pytest.mark.parametrize(
    ("read", "name"), [(read_torch_file, "m.pt"), (read_numpy_object, "m.npy")]
)
def test_missing_truncated_and_foreign_files_are_told(tmp_path, read, name):
    file = tmp_path / name
    with pytest.raises(ResourceError, match="does not exist"):
        read(file)
    if name == "m.pt":
        torch.save({"w": torch.ones(400)}, file)
    else:
        np.save(file, np.array({"w": np.ones(400)}), allow_pickle=True)
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PK not a zip", pickle.dumps({"w": 1})):
        file.write_bytes(content)
        with pytest.raises(ResourceError, match=r"damaged or of another kind .*Download or make"):
            read(file)


def test_an_array_file_without_dictionary_is_told(tmp_path):
    np.save(tmp_path / "plain.npy", np.ones(3))
    with pytest.raises(ResourceError, match="not a dictionary"):
        read_numpy_object(tmp_path / "plain.npy")
    np.savez(tmp_path / "two.npz", a=np.ones(1), b=np.ones(1))
    with pytest.raises(ResourceError, match="2 arrays"):
        read_numpy_object(tmp_path / "two.npz")
