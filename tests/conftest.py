"""What all tests share: other draws of what is random, and scripts in this process instead of one of their own.

`LATENTIA_TEST_SEED=7 pytest` adds 7 to every seed of torch's global generator, and to the seeds of all generators that
the library makes: starts, order of batches, draws. Models and data that a test makes by a generator of its own stay
what they are. A test whose tolerance comes from its standard error passes with any.
"""

from __future__ import annotations

import os
import runpy
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

SHIFT = int(os.environ.get("LATENTIA_TEST_SEED", "0"))

# no test depends on a clock, nor, but with other seeds, on which examples are drawn
settings.register_profile("latentia", deadline=None, derandomize=not SHIFT, database=None)
settings.load_profile("latentia")


def _shift() -> int:
    """For the library's own generators alone; a `tiny` instance is a test's."""
    caller = sys._getframe(2)
    inside = caller.f_globals.get("__name__", "").startswith("latentia.") and caller.f_code.co_name != "tiny"
    return SHIFT if inside else 0


class _Generator(torch.Generator):
    def manual_seed(self, seed: int) -> torch.Generator:
        return super().manual_seed(seed + _shift())


if SHIFT:
    _manual_seed, _default_rng = torch.manual_seed, np.random.default_rng
    torch.manual_seed = torch.random.manual_seed = lambda seed: _manual_seed(seed + SHIFT)
    torch.Generator = _Generator  # type: ignore[misc]
    np.random.default_rng = lambda seed=None: (
        _default_rng([*np.atleast_1d(seed), _shift()]) if seed is not None and _shift() else _default_rng(seed)
    )


@pytest.fixture
def script(capsys, monkeypatch):
    """Run a script, or a file of Python, as `python SCRIPT ARGUMENTS` would, and give what it printed.

    A process of its own would import torch again, which takes longer than most scripts. All that it leaves behind is
    undone: random numbers, threads, warnings, the working directory. A use of its own that is deprecated is an error.
    """

    def run(path: Path | str, *arguments: object) -> str:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        threads, place, dtype = torch.get_num_threads(), os.getcwd(), torch.get_default_dtype()
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.filterwarnings("error", category=DeprecationWarning, module="__main__")
            torch.set_num_threads(1)  # models this small are slowed by more, above all beside other tests
            try:
                runpy.run_path(str(path), run_name="__main__")
            finally:
                torch.set_num_threads(threads)
                os.chdir(place)
        assert torch.get_default_dtype() == dtype
        return capsys.readouterr().out

    return run


@pytest.fixture
def answer(capsys):
    """Run the command `latentia` in this process: its status, and what it said on standard output and error."""
    from latentia import cli

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([*map(str, words)])
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return run
