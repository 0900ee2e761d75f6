"""Files in and out: damage becomes a `DataError`, and a file is written whole or not at all."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from latentia.errors import DataError, LatentiaError


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
        data = path.read_bytes()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(f"{path.name} is text in UTF-16, not in UTF-8: save it as UTF-8")
        if b"\0" in data:
            line = data.count(b"\n", 0, data.index(b"\0")) + 1
            raise DataError(
                f"{path.name}, line {line}: a NUL byte: it is no UTF-8 text (UTF-16 perhaps): save it as UTF-8"
            )
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise DataError(
                f"{path.name}, line {line}: the byte 0x{data[error.start]:02x} is no UTF-8 text: save the file as UTF-8"
            ) from error


def atomic_write(path: str | os.PathLike, data: bytes) -> None:
    """Write `data` to `path` through a temporary file in the same folder: a reader sees all of it or nothing.

    Raises:
        DataError: the file cannot be written; the temporary file is gone then.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # after the replacement there is nothing left to remove
            temporary.unlink()
