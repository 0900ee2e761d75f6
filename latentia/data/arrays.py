"""Files of arrays: .npy, .npz, .mat and idx. No pickle is ever opened."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

import numpy as np
import scipy.io
import scipy.sparse

from latentia.data.files import readable
from latentia.errors import DataError

IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP_MAGIC = b"\x1f\x8b"


def read_npy(path: Path, key: str | None = None) -> np.ndarray:
    """The array of a .npy file; there is but one, so `key` is not looked at."""
    with readable(path, "a .npy array"), path.open("rb") as file:
        return _array(file, path.name)


def read_npz(path: Path, key: str | None = None) -> np.ndarray:
    """One array of a .npz file: the one named `key`, or the only one."""
    with readable(path, "a .npz archive"), zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        with archive.open(members[choose(members, key, path.name)]) as file:
            return _array(file, path.name)


def _array(file: IO[bytes], source: str) -> np.ndarray:
    try:
        return np.lib.format.read_array(file, allow_pickle=False)
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        raise DataError(
            f"{source} holds Python objects (a pickle), which may run code and are not read: save numbers"
        ) from error


def read_mat(path: Path, key: str | None = None) -> np.ndarray:
    """One array of a MATLAB file (to version 7.2): the one named `key`, or the only one."""
    with readable(path, "a MATLAB file"):
        content = scipy.io.loadmat(path, appendmat=False)
    arrays = {name: value for name, value in content.items() if not name.startswith("__")}
    if not arrays:
        raise DataError(f"{path.name} holds no array: it is empty or truncated")
    array = arrays[choose(arrays, key, path.name)]
    return array.toarray() if scipy.sparse.issparse(array) else array


def choose(keys: Iterable[str], key: str | None, source: str) -> str:
    """`key`, or the only one of `keys`. Raises `DataError`, which lists them, when that does not settle it."""
    keys = list(keys)
    if key is None and len(keys) == 1:
        return keys[0]
    if key in keys:
        return key
    wanted = "several arrays" if key is None else f"no array {key!r}"
    raise DataError(f"{source} has {wanted}: choose one with key, among {', '.join(keys) or 'none'}")


def is_idx(path: Path) -> bool:
    """Whether the file, or what it unzips to, starts with the magic number of idx."""
    try:
        with _opener(path)(path, "rb") as file:
            magic = file.read(4)
    except (OSError, EOFError, zlib.error):
        return False
    return len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in IDX_TYPES and 1 <= magic[3] <= 4


def read_idx(path: Path) -> np.ndarray:
    """The array of an idx file, gzipped or not, as MNIST is published in."""
    with readable(path, "an idx file"), _opener(path)(path, "rb") as file:
        data = file.read()
    if not is_idx(path):
        raise DataError(f"{path.name} cannot be read as an idx file: it does not start with the magic number of idx")
    return _idx(data, path.name)


def _idx(data: bytes, source: str) -> np.ndarray:
    dtype, rank = np.dtype(IDX_TYPES[data[2]]), data[3]
    start = 4 + 4 * rank
    if len(data) < start:
        raise DataError(f"{source} is truncated: it ends inside its header")
    shape = struct.unpack(f">{rank}I", data[4:start])
    expected = math.prod(shape) * dtype.itemsize
    if len(data) - start != expected:
        state = "truncated" if len(data) - start < expected else "damaged"
        raise DataError(
            f"{source} is {state}: its header promises {expected:,} bytes of values, it has {len(data) - start:,}"
        )
    return np.frombuffer(data, dtype, offset=start).reshape(shape)


def _opener(path: Path) -> Callable[..., IO[bytes]]:
    with path.open("rb") as file:
        return gzip.open if file.read(2) == GZIP_MAGIC else open  # type: ignore[return-value]
