"""What a kernel returns is the same in the process that compiles it and in the next, which loads it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = sorted((Path(__file__).parents[2] / "latentia" / "kernels").glob("*.py"))

BITS = """
import hashlib
import torch
from latentia.kernels import bernoulli
from latentia.learners import EM
from latentia.models import HMM, LDA, GaussianMixture, KMeans

g = torch.Generator().manual_seed(0)
def bits(*tensors):
    return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors)).hexdigest()[:16]
def fit(model, x):
    EM(steps=4, progress=False).fit(model, x)
    print(type(model).__name__, x.dtype, bits(*model.state_dict().values()))
logits, pixels = torch.randn(1, 50, 64, generator=g), (torch.rand(50, 64, generator=g) < 0.5).float()
print("sums", bits(bernoulli.log_likelihood(logits, pixels)))
sums = bernoulli.log_likelihood(logits.requires_grad_(), pixels)
sums.sum().backward()
print("slopes", bits(sums, logits.grad))
for dtype in (torch.float32, torch.float64):
    x = torch.randn(300, 5, generator=g).to(dtype)
    fit(GaussianMixture(5, 4, covariance="full").to(dtype), x)
    fit(KMeans(5, 4).to(dtype), x)
words = torch.randint(0, 6, (40, 20), generator=g)
fit(LDA(6, 3).double(), words)
fit(HMM(symbols=6, states=3).double(), words)
fit(HMM(symbols=6, states=13).double(), words.reshape(1, -1))
fit(HMM(features=2, states=5).double(), torch.randn(30, 20, 2, generator=g, dtype=torch.float64))
"""


def compiled(tree: ast.Module) -> dict[str, dict[str, ast.expr]]:
    """The kernels of a module, each with the options it is compiled with."""
    found = {}
    for node in ast.walk(tree):
        for call in node.decorator_list if isinstance(node, ast.FunctionDef) else []:
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "njit":
                found[node.name] = {word.arg: word.value for word in call.keywords}
    return found


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_sums_that_may_be_reordered_are_part_of_their_caller(path):
    """A kernel that reorders its sums and is called by another would be optimised once alone and once more in its
    caller: which of the two codes runs is for the linker to say, and it differs between compiling and loading."""
    tree = ast.parse(path.read_text())
    kernels = compiled(tree)
    bodies = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in kernels]
    called = {ast.unparse(call.func) for body in bodies for call in ast.walk(body) if isinstance(call, ast.Call)}
    for name in called & kernels.keys():
        options = kernels[name]
        assert "fastmath" not in options or {"forceinline", "inline"} & options.keys(), name


@pytest.mark.slow
def test_a_kernel_loaded_is_the_kernel_compiled(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", BITS]
    first, second = (
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout for _ in range(2)
    )
    assert first == second
    assert len(first.splitlines()) == 10
