"""A file is written whole or not at all."""

import os

import pytest

from latentia.data import files


def test_atomic_write_replaces_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.bin"
    files.atomic_write(path, b"old")
    files.atomic_write(str(path), b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_what_cannot_be_written_is_named(refused, tmp_path):
    with refused("a.bin", "No such file"):
        files.atomic_write(tmp_path / "nowhere" / "a.bin", b"x")
    (tmp_path / "folder").mkdir()
    with refused("folder"):
        files.atomic_write(tmp_path / "folder", b"x")
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_keeps_the_old_file_and_removes_the_temporary_one(refused, tmp_path, monkeypatch, step):
    path = tmp_path / "a.bin"
    files.atomic_write(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, step, fail)
    with refused("a.bin", "No space left on device"):
        files.atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]
