"""Files in and out: damage becomes a `DataError`, and a file is written whole or not at all."""

from __future__ import annotations

import codecs
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from latentia.errors import DataError, LatentiaError, RunError
from latentia.files import NOFOLLOW, NONBLOCK, atomic_write, checksum, read_bytes

try:
    import fcntl
except ImportError:  # no POSIX
    fcntl = None

__all__ = ["NOFOLLOW", "alone", "atomic_write", "checksum", "read_bytes", "read_text", "readable"]

GZIP = b"\x1f\x8b"
LARGEST_UNZIPPED = 2**28
LOCKED = os.O_RDWR | os.O_CREAT | NOFOLLOW | NONBLOCK


@contextmanager
def readable(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a parser raises on a damaged file into a `DataError` that names the file and the reason.

    What is no damage is called by its name: too little memory, a file that may not be read, text in another encoding.
    """
    try:
        yield
    except LatentiaError:
        raise
    except Exception as error:  # a parser may raise anything on bytes that it did not expect
        raise DataError(_reason(path, what, error)) from error


def _reason(path: Path, what: str, error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"{path.name}: too little memory to read it as {what}: give a part of it, or a stream (.npy, .parquet)"
    if isinstance(error, PermissionError):
        return f"{path} may not be read (permission denied): change its permissions (chmod +r), or copy it"
    if isinstance(error, IsADirectoryError):
        return f"{path.name} is a folder, not {what}: move it elsewhere"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{path} cannot be read: {error.strerror or error}"
    reason = str(error).rstrip(".") or type(error).__name__
    return f"{path.name} cannot be read as {what} ({reason}): it may be truncated or damaged; fetch or write it again"


def read_text(path: Path) -> str:
    """The file's text, which must be UTF-8, with a byte order mark or without. Raises `DataError` for anything else."""
    with readable(path, "UTF-8 text"):
        return decoded(_unzipped(path, path.read_bytes()), path.name)


def decoded(data: bytes, source: str) -> str:
    """UTF-8 text. Raises `DataError` for anything else, with the line where it is."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{source} is text in UTF-16, not in UTF-8: save it as UTF-8")
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise DataError(f"{source}, line {line}: a NUL byte: it is no UTF-8 text (UTF-16 perhaps): save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{source}, line {line}: the byte 0x{data[error.start]:02x} is no UTF-8 text: save the file as UTF-8"
        ) from error


def _unzipped(path: Path, data: bytes) -> bytes:
    """The bytes, or what they unzip to. Raises `DataError` for what would fill the memory."""
    if not data.startswith(GZIP):
        return data
    most = max(LARGEST_UNZIPPED, 100 * len(data))
    unpacker = zlib.decompressobj(wbits=31)
    found = unpacker.decompress(data, most)
    if unpacker.unconsumed_tail:
        raise DataError(f"{path.name} unzips to more than {most:,} bytes of {len(data):,}: unzip it, and look at it")
    if not unpacker.eof:
        raise DataError(f"{path.name} is truncated: its gzip stream has no end; fetch or write it again")
    return found


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Be the only process that writes a run or a sweep in `directory`, by a lock that ends with the process.

    The lock is the system's (`flock`) on the file `.lock` in the directory, so that a process that was killed leaves
    none behind. Where the system or the file system has no locks, there is a warning, and nothing is locked.

    Raises:
        RunError: another process has the lock, or the file cannot be made.
    """
    path = directory / ".lock"
    descriptor = _lock(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # while it is locked: whoever has opened it meanwhile sees that it is gone
        os.close(descriptor)


def _lock(path: Path) -> int:
    """The descriptor of the locked file at `path`."""
    while True:
        try:
            descriptor = os.open(path, LOCKED, 0o666)
        except OSError as error:
            raise RunError(f"cannot lock {path.parent} ({path.name}: {error.strerror or error})") from error
        try:
            if fcntl is None:
                raise OSError("this system has no flock")
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise RunError(
                f"another process is at work in {path.parent}: wait for its end, or choose another --out"
            ) from None
        except OSError as error:
            reason = error.strerror or error
            warnings.warn(f"{path.parent} cannot be locked ({reason}): let no other process write there", stacklevel=4)
            return descriptor
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # it was removed, by whoever had it, between our opening and locking it


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
