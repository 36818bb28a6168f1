# SPDX-License-Identifier: MIT
"""Arrays and plain values out of pickles, without executing what a pickle asks for.

The reference program stores models as pickles: ``.pt`` (a zip archive with one pickle and raw
storages beside it) and ``.npy``/``.npz`` (an array of one Python object). A pickle is a program:
it names functions and has them called. Here every name is looked up in `_ALLOWED` and nowhere
else; what stands there are functions of this module that build arrays, dictionaries and plain
values. Any other name ends the reading. Neither torch nor NumPy's own unpickling is involved.
"""

from __future__ import annotations

import functools
import io
import math
import pickle
import re
import struct
import tokenize
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from ..errors import ResourceError

#: Element types of torch's storages; bfloat16 is widened on reading.
_STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2",
    "BFloat16Storage": "bfloat16", "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip

#: Arrays of numbers, text and plain objects; no records, whose description can hold raw pointers.
_PLAIN_DTYPE = re.compile(r"[<>=|]?[?biufcSUO]\d*")

#: What damaged pickles raise.
_DAMAGE = (
    pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError,
    OverflowError, MemoryError, RuntimeError, SyntaxError, OSError, struct.error, zlib.error,
    tokenize.TokenError, zipfile.BadZipFile,
)  # fmt: skip

#: How many times its own bytes a pickle may have made of: tensors of one storage are copies.
_MOST_COPIES = 16
#: How many times its size an archive may unpack to; numbers hardly shrink.
_MOST_UNPACKED = 100


def read_torch_file(file: Path) -> Any:
    """Read a ``.pt`` file as torch ≥ 1.6 writes it.

    Parameters
    ----------
    file
        Zip archive with ``<name>/data.pkl`` and ``<name>/data/<key>``.

    Returns
    -------
    Any
        The object stored, its tensors as NumPy arrays.

    Raises
    ------
    ResourceError
        If the file is missing or damaged, or its pickle names anything else than arrays, tensors
        and plain values.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            pickled = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickled) != 1:
                raise _damaged(file, "it holds no data.pkl")
            folder = pickled[0].removesuffix("data.pkl")
            order: Literal["<", ">"] = "<"
            if f"{folder}byteorder" in archive.namelist():
                order = ">" if archive.read(f"{folder}byteorder") == b"big" else "<"

            @functools.cache  # a storage that is named again is not read again
            def load_storage(key: str, dtype: str) -> _Storage:
                return _storage(archive.read(f"{folder}data/{key}"), dtype, order)

            n_bytes = _unpacked_bytes(archive, file)
            stream = io.BytesIO(archive.read(pickled[0]))
            return _Unpickler(stream, file, load_storage, n_bytes=n_bytes).load()
    except _DAMAGE as error:
        raise _damaged(file, error) from error


def read_numpy_object(file: Path) -> Any:
    """Read the Python object in a ``.npy`` file or in a ``.npz`` file of one array.

    Raises
    ------
    ResourceError
        If the file is missing or damaged, holds no Python object, or its pickle names anything
        else than arrays and plain values.
    """
    try:
        with file.open("rb") as stream:
            if stream.read(2) != b"PK":
                stream.seek(0)
                return _read_npy(stream, file)
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise _damaged(file, f"it holds {len(names)} arrays, not one")
            _unpacked_bytes(archive, file)
            return _read_npy(io.BytesIO(archive.read(names[0])), file)
    except _DAMAGE as error:
        raise _damaged(file, error) from error


def _unpacked_bytes(archive: zipfile.ZipFile, file: Path) -> int:
    """Bytes that an archive unpacks to, if it can be one of numbers."""
    n_bytes = sum(info.file_size for info in archive.infolist())
    if n_bytes > _MOST_UNPACKED * file.stat().st_size:
        raise _damaged(file, f"it claims to unpack to {n_bytes} bytes")
    return n_bytes


def _read_npy(stream: BinaryIO, file: Path) -> Any:
    """Read the header, then the pickle behind it."""
    n_bytes = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    version = npy_format.read_magic(stream)
    read_header = {
        (1, 0): npy_format.read_array_header_1_0,
        (2, 0): npy_format.read_array_header_2_0,
    }[version]
    shape, _, dtype = read_header(stream)
    if not dtype.hasobject or math.prod(shape) != 1:
        raise _damaged(file, f"it holds {dtype} values of shape {shape}, not a dictionary")
    loaded = _Unpickler(stream, file, _no_storage, n_bytes=n_bytes).load()
    if not isinstance(loaded, np.ndarray) or loaded.size != 1:
        raise _damaged(file, f"it holds a {type(loaded).__name__}, not an array of one object")
    return loaded.reshape(-1)[0]


def _damaged(file: Path, reason: Exception | str) -> ResourceError:
    if isinstance(reason, FileNotFoundError):
        return ResourceError("does not exist", where=str(file), fix="Give the file's right path.")
    if isinstance(reason, Exception):
        reason = f"{type(reason).__name__}: {reason}"
    return ResourceError(
        f"is damaged or of another kind ({reason})",
        where=str(file),
        fix="Download or make the file again.",
    )


class _Allowed:
    """A function that a pickle may have called; it can neither be changed nor looked into."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a pickle may not change functions")


class _Storage:
    """Raw values of tensors, not yet shaped, and how many may still be taken of them."""

    __slots__ = ("left", "values")

    def __init__(self, values: NDArray) -> None:
        self.values = values
        self.left = _MOST_COPIES * values.size

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a pickle may not change storages")


class _StorageType:
    """Element type of a storage, as a pickle names it."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a pickle may not change types")


class _Dtype:
    """NumPy's element type, limited to plain ones."""

    __slots__ = ("dtype",)

    def __init__(self, text: str, *_flags: Any) -> None:
        if not _PLAIN_DTYPE.fullmatch(text):
            raise pickle.UnpicklingError(f"arrays of type {text!r} are not read")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # (version, byte order, subarray, names, fields, size, alignment, flags …)
        _, order, subarray, names, fields, size, *_ = state
        if (subarray, names, fields) != (None, None, None):
            raise pickle.UnpicklingError("arrays of records are not read")
        if size not in {-1, self.dtype.itemsize}:
            raise pickle.UnpicklingError(f"{self.dtype} values of {size} bytes")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array under construction, filled once by ``__setstate__`` from checked parts."""

    #: Notes bytes that were made; gone once the array is filled.
    spend: Callable[[int], None]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, dtype, is_fortran, values = state
        kind = list if dtype.dtype.hasobject else bytes
        if type(values) is not kind:
            raise pickle.UnpicklingError("values of another kind than their type")
        size = 1 if kind is list else dtype.dtype.itemsize
        if min(shape, default=0) < 0 or math.prod(shape) * size != len(values):
            raise pickle.UnpicklingError(f"{len(values)} values or bytes of shape {shape}")
        self.spend(len(values))
        del self.spend
        super().__setstate__((version, shape, dtype.dtype, is_fortran, values))


class _NewArray:
    """Stands in for NumPy's ``_reconstruct``: the state that follows holds everything."""


def _scalar(dtype: _Dtype, value: bytes) -> Any:
    """Build one NumPy number."""
    if dtype.dtype.hasobject:
        raise pickle.UnpicklingError("scalars of objects are not read")
    return np.frombuffer(value, dtype=dtype.dtype, count=1)[0]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Turn text back into the bytes that old pickle protocols wrote as text."""
    if encoding not in {"latin1", "latin-1"}:
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not read")
    return text.encode("latin1")


def _tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_rest: Any
) -> NDArray:
    """Shape a tensor from its storage, after checking that it lies within."""
    values = storage.values
    if len(shape) != len(strides) or min((offset, *shape, *strides), default=0) < 0:
        raise pickle.UnpicklingError(f"tensor of shape {shape} and strides {strides}")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= values.size:
        raise pickle.UnpicklingError(f"tensor of shape {shape} in {values.size} values")
    storage.left -= math.prod(shape)
    if math.prod(shape) > values.size or storage.left < 0:
        raise pickle.UnpicklingError(f"tensor of shape {shape} of {values.size} values, repeated")
    byte_strides = [stride * values.itemsize for stride in strides]
    view = np.lib.stride_tricks.as_strided(values[offset:], shape, byte_strides)
    return np.array(view)


def _storage(raw: bytes, dtype: str, order: Literal["<", ">"]) -> _Storage:
    """Read a storage's bytes."""
    if dtype == "bfloat16":  # the upper half of a float32
        wide = np.frombuffer(raw, dtype=f"{order}u2").astype(np.uint32) << 16
        return _Storage(wide.view(np.float32))
    values = np.frombuffer(raw, dtype=np.dtype(dtype).newbyteorder(order))
    return _Storage(values.astype(values.dtype.newbyteorder("=")))


def _no_storage(_key: str, _dtype: str) -> _Storage:
    raise pickle.UnpicklingError("tensors outside a .pt file")


#: Everything that a pickle may name.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Allowed(OrderedDict),
    ("_codecs", "encode"): _Allowed(_encode),
    ("numpy", "ndarray"): _NewArray,
    ("numpy", "dtype"): _Allowed(_Dtype),
    ("torch._utils", "_rebuild_tensor"): _Allowed(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Allowed(_tensor),
    **{("torch", name): _StorageType(dtype) for name, dtype in _STORAGES.items()},
    **{
        (f"{package}.multiarray", name): function
        for package in ("numpy.core", "numpy._core")
        for name, function in (("_reconstruct", _NewArray), ("scalar", _Allowed(_scalar)))
    },
}


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows the names in `_ALLOWED` only."""

    def __init__(
        self,
        stream: BinaryIO,
        file: Path,
        load_storage: Callable[[str, str], _Storage],
        *,
        n_bytes: int,
    ) -> None:
        super().__init__(stream)
        self._file, self._load_storage = file, load_storage
        self._left = _MOST_COPIES * n_bytes

    def find_class(self, module: str, name: str) -> Any:
        try:
            allowed = _ALLOWED[module, name]
        except KeyError:
            raise ResourceError(
                f"holds code that will not be run: it asks for '{module}.{name}'",
                where=str(self._file),
                fix="Use files from a source that you trust, with weights and transforms only.",
            ) from None
        return _Allowed(self._new_array) if allowed is _NewArray else allowed

    def _new_array(self, *_arguments: Any) -> _Array:
        array = np.ndarray.__new__(_Array, (0,), dtype=np.int8)
        array.spend = self._spend
        return array

    def _spend(self, n_bytes: int) -> None:
        """Count what is made of the pickle: one array may be named again and again."""
        self._left -= n_bytes
        if self._left < 0:
            raise pickle.UnpicklingError("far more arrays than the file has bytes")

    def persistent_load(self, reference: Any) -> _Storage:
        kind, storage_type, key, _location, n_values = reference
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise pickle.UnpicklingError(f"reference to a {kind!r}")
        storage = self._load_storage(str(key), storage_type.dtype)
        if storage.values.size < n_values:
            raise pickle.UnpicklingError(f"{storage.values.size} of {n_values} values of a tensor")
        return storage
