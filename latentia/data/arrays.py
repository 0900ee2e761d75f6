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
from latentia.data.limits import judge
from latentia.errors import DataError

IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP_MAGIC = b"\x1f\x8b"


def read_npy(path: Path, key: str | None = None) -> np.ndarray:
    """The array of a .npy file; there is but one, so `key` is not looked at."""
    size = path.stat().st_size
    with readable(path, "a .npy array"), path.open("rb") as file:
        return _array(file, path.name, size, size)


def read_npz(path: Path, key: str | None = None) -> np.ndarray:
    """One array of a .npz file: the one named `key`, or the only one."""
    with readable(path, "a .npz archive"), zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        name = members[choose(members, key, path.name)]
        with archive.open(name) as file:
            return _array(file, path.name, archive.getinfo(name).file_size, path.stat().st_size)


def check_npy(path: Path) -> None:
    """Raise `DataError` for a .npy file whose header promises more than the file holds, or holds objects."""
    with path.open("rb") as file:
        _check(file, path.name, path.stat().st_size, path.stat().st_size)


def _array(file: IO[bytes], source: str, length: int, size: int) -> np.ndarray:
    """The array of a file of `length` bytes, which takes `size` bytes on the disk: its header is judged by both."""
    _check(file, source, length, size)
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _check(file: IO[bytes], source: str, length: int, size: int) -> None:
    shape, dtype = _header(file)
    if dtype.hasobject:
        raise DataError(f"{source} holds Python objects (a pickle), which may run code and are not read: save numbers")
    promised = math.prod(shape) * dtype.itemsize
    if promised > length:
        raise DataError(
            f"{source} is truncated or damaged: its header promises {promised:,} bytes of values, it has {length:,}"
        )
    judge(source, math.prod(shape), size)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    form = np.lib.format
    shape, _, dtype = form.read_array_header_1_0(file) if version == (1, 0) else form.read_array_header_2_0(file)
    if any(length < 0 for length in shape):
        raise DataError(f"the header of an array is damaged: its shape is {shape}")
    return shape, dtype


def read_mat(path: Path, key: str | None = None) -> np.ndarray:
    """One array of a MATLAB file (to version 7.2): the one named `key`, or the only one."""
    with readable(path, "a MATLAB file"):
        found = {name: shape for name, shape, _ in scipy.io.whosmat(path, appendmat=False)}
        if not found:
            raise DataError(f"{path.name} holds no array: it is empty or truncated")
        name = choose(found, key, path.name)
        judge(f"{path.name}, array {name!r},", math.prod(map(int, found[name])), path.stat().st_size)
        array = scipy.io.loadmat(path, appendmat=False, variable_names=[name])[name]
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
    except (PermissionError, MemoryError):
        with readable(path, "an idx file"):
            raise
    except (OSError, EOFError, zlib.error):
        return False
    return len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in IDX_TYPES and 1 <= magic[3] <= 4


def read_idx(path: Path) -> np.ndarray:
    """The array of an idx file, gzipped or not, as MNIST is published in."""
    if not is_idx(path):
        raise DataError(f"{path.name} cannot be read as an idx file: it does not start with the magic number of idx")
    with readable(path, "an idx file"), _opener(path)(path, "rb") as file:
        _, _, code, rank = file.read(4)
        header = file.read(4 * rank)
        if len(header) < 4 * rank:
            raise DataError(f"{path.name} is truncated: it ends inside its header")
        shape, dtype = struct.unpack(f">{rank}I", header), np.dtype(IDX_TYPES[code])
        judge(path.name, math.prod(shape), path.stat().st_size)
        expected = math.prod(shape) * dtype.itemsize
        data = file.read(expected)
        more = _count(file) if len(data) == expected else 0
    if len(data) + more != expected:
        state = "truncated" if len(data) < expected else "damaged"
        found = len(data) + more
        raise DataError(f"{path.name} is {state}: its header promises {expected:,} bytes of values, it has {found:,}")
    return np.frombuffer(data, dtype).reshape(shape)


def _count(file: IO[bytes]) -> int:
    """How many bytes there are still, of a few at most."""
    return len(file.read(2**16))


def _opener(path: Path) -> Callable[..., IO[bytes]]:
    with path.open("rb") as file:
        return gzip.open if file.read(2) == GZIP_MAGIC else open  # type: ignore[return-value]
