"""Files in and out, for every part of the house: a file is written whole or not at all, and read as what it is."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from latentia.errors import DataError

NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
NONBLOCK = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW


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
