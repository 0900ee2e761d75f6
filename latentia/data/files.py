"""Files in and out: damage becomes a `DataError`, and a file is written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from latentia.errors import DataError, LatentiaError


@contextmanager
def readable(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a parser raises on a damaged file into a `DataError` that names the file and the reason."""
    try:
        yield
    except LatentiaError:
        raise
    except Exception as error:  # a parser may raise anything on bytes that it did not expect
        reason = str(error).rstrip(".") or type(error).__name__
        raise DataError(
            f"{path.name} cannot be read as {what} ({reason}): it may be truncated or damaged; fetch or write it again"
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
