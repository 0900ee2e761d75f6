"""Sums over trees beside the same recursions written plainly: time, value, gradient, and how time grows with length.

    python benchmarks/trees.py

The yardstick is a recursion by log-sum-exp einsums in plain PyTorch, float32, a width at a time as torch-struct has it
(Rush 2020, "Torch-Struct", section 5): one log-sum-exp over the places of a split, one over the rules. Processor time
of one thread, the best of some runs, forward and backward. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from latentia.distributions import Brackets, Tree

RESULTS = Path(__file__).parent / "results"


def plain_grammar(potentials: dict[str, Tensor]) -> Tensor:
    """log Z of a PCFG: for every width a log-sum-exp over the places of the split, and one over the rules."""
    root, rule, word = (potentials[name] for name in ("root", "rule", "word"))
    first, size = root.shape[-1], word.shape[1]
    cells = [word]
    for width in range(2, size + 1):
        count, parts = size - width + 1, []
        # a word before, several words on both sides, a word behind
        places = [[1]] if width == 2 else [[1], list(range(2, width - 1)), [width - 1]]
        for ks in filter(None, places):
            left = torch.stack([cells[k - 1][:, :count] for k in ks], 2)
            right = torch.stack([cells[width - k - 1][:, k : k + count] for k in ks], 2)
            some = rule[:, first:] if ks[0] == 1 else rule[:, :first]
            some = some[:, :, first:] if width - ks[0] == 1 else some[:, :, :first]
            pairs = (left.unsqueeze(-1) + right.unsqueeze(-2)).logsumexp(2)
            parts.append((pairs.unsqueeze(2) + some).flatten(-2).logsumexp(-1))
        cells.append(torch.stack(parts).logsumexp(0))
    return (cells[-1][:, 0] + root).logsumexp(-1)


def plain_brackets(potentials: dict[str, Tensor]) -> Tensor:
    """log Z of a tree CRF, with the charts by start and by end of torch-struct."""
    node = potentials["node"]
    size = node.shape[-1]
    cells = [node.diagonal(0, 1, 2)]
    for width in range(2, size + 1):
        count = size - width + 1
        left = torch.stack([cells[k - 1][:, :count] for k in range(1, width)])
        right = torch.stack([cells[width - k - 1][:, k : k + count] for k in range(1, width)])
        cells.append((left + right).logsumexp(0) + node.diagonal(width - 1, 1, 2))
    return cells[-1][:, 0]


def timed(run: Callable[[dict[str, Tensor]], Tensor], potentials: dict[str, Tensor], repeat: int) -> tuple:
    """Best processor seconds, value and gradients."""
    best, value, slopes = math.inf, None, None
    for _ in range(repeat):
        leaves = {name: phi.detach().requires_grad_() for name, phi in potentials.items()}
        begin = time.process_time()
        value = run(leaves)
        slopes = torch.autograd.grad(value.sum(), list(leaves.values()))
        best = min(best, time.process_time() - begin)
    return best, value, slopes


def compare(name: str, ours: Callable, plain: Callable, potentials: dict[str, Tensor], repeat: int) -> dict:
    timed(ours, potentials, 1)  # what is compiled is compiled
    fast, value, slopes = timed(ours, potentials, repeat)
    slow, truth, expected = timed(plain, potentials, 1)
    gap = float(((value - truth).abs() / truth.abs()).detach().max())
    slope = max(
        float((one - other).abs().max() / other.abs().max()) for one, other in zip(slopes, expected, strict=True)
    )
    row = {"what": name, "seconds": fast, "plain seconds": slow, "times": slow / fast, "value": gap, "gradient": slope}
    print(
        f"{name}: {fast:.3f} s, plain {slow:.2f} s, {slow / fast:.1f} times; value off by {gap:.1g}, gradient by "
        f"{slope:.1g} (relative)",
        flush=True,
    )
    return row


def grammar(size: int, sentences: int, nonterminals: int = 30, preterminals: int = 60) -> dict[str, Tensor]:
    generator, symbols = torch.Generator().manual_seed(0), nonterminals + preterminals
    rule = torch.randn(nonterminals, symbols**2, generator=generator).log_softmax(-1)
    return {
        "root": torch.randn(nonterminals, generator=generator).log_softmax(-1),
        "rule": rule.view(nonterminals, symbols, symbols),
        "word": torch.randn(sentences, size, preterminals, generator=generator) - 6.0,
    }


def brackets(size: int, sentences: int) -> dict[str, Tensor]:
    return {"node": 2 * torch.randn(sentences, size, size, generator=torch.Generator().manual_seed(0))}


def slope(seconds: dict[int, float]) -> float:
    """Of log time against log length, by least squares."""
    x, y = (torch.tensor(part, dtype=torch.float64).log() for part in (list(seconds), list(seconds.values())))
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=40)
    parser.add_argument("--sentences", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--lengths", type=int, nargs="*", default=[10, 20, 40, 80])
    parsed = parser.parse_args()
    torch.set_num_threads(1)

    def trees(potentials: dict[str, Tensor]) -> Tensor:
        return Tree(potentials).log_partition

    def spans(potentials: dict[str, Tensor]) -> Tensor:
        return Brackets(potentials).log_partition

    found = {"rows": [], "seconds by length": {}, "slope": {}}
    shape = f"{parsed.sentences} sentences of {parsed.size} words"
    given = grammar(parsed.size, parsed.sentences)
    found["rows"].append(compare(f"PCFG, 30 and 60 labels, {shape}", trees, plain_grammar, given, parsed.repeat))
    given = brackets(parsed.size, parsed.sentences)
    found["rows"].append(compare(f"tree CRF, {shape}", spans, plain_brackets, given, 10 * parsed.repeat))
    for name, run, make in (("PCFG", trees, grammar), ("tree CRF", spans, brackets)):
        times = {size: timed(run, make(size, parsed.sentences), parsed.repeat)[0] for size in parsed.lengths}
        found["seconds by length"][name] = times
        if len(times) > 1:
            found["slope"][name] = slope(times)
            print(f"{name}: seconds by length {times}, slope {slope(times):.2f} on log axes", flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "trees.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
