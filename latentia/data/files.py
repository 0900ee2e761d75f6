"""Files in and out: damage becomes a `DataError`, and a file is written whole or not at all."""

from __future__ import annotations

import codecs
import hashlib
import os
import secrets
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from latentia.errors import DataError, LatentiaError, RunError

try:
    import fcntl
except ImportError:  # no POSIX
    fcntl = None

NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
NONBLOCK = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW
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
        return decoded(path.read_bytes(), path.name)


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


def atomic_write(path: str | os.PathLike, data: bytes) -> None:
    """Write `data` to `path` through a temporary file in the same folder: a reader sees all of it or nothing.

    The temporary file has a name that nobody can foresee and is made anew, so that no link which a stranger has left in
    the folder is followed; a link at `path` itself is replaced, and what it points to stays as it is.

    Raises:
        DataError: the file cannot be written, or `path` is a device, a pipe or a folder; no temporary file is left.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(12)}.tmp")
    made = False
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"cannot write {path}: it is {'a folder' if path.is_dir() else 'no ordinary file'}")
        with os.fdopen(os.open(temporary, NEW, 0o666), "wb") as file:
            made = True
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error
    except ValueError as error:  # a name with a null character, or of characters that the file system cannot have
        raise DataError(f"cannot write {path}: {error}") from error
    finally:
        if made:
            with suppress(OSError):  # after the replacement there is nothing left to remove
                temporary.unlink()


def read_bytes(path: Path, most: int = -1) -> bytes:
    """The bytes of an ordinary file, or the first so many. Raises `OSError` for anything else: a pipe would be waited
    for without end."""
    with os.fdopen(os.open(path, os.O_RDONLY | NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is no ordinary file")
        return file.read(most)


def checksum(of: Path | bytes) -> str:
    """The sha256 of a file, or of bytes, in hex, as `sha256sum` prints it; nothing where there is no such file."""
    if isinstance(of, bytes):
        return hashlib.sha256(of).hexdigest()
    try:
        read_bytes(of, 0)
        with of.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


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
