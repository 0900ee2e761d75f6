"""CTC beside `torch.nn.CTCLoss`: speed of a forward and a backward pass from logits, and how exact both are.

    python benchmarks/ctc.py                              both at T=500, B=32, C=50, S=60
    NUMBA_CPU_NAME=haswell ATEN_CPU_CAPABILITY=avx2 python benchmarks/ctc.py      as on a processor without AVX-512

Both take the same float32 logits, torch's through `log_softmax`, and give the gradient with respect to them. Times are
the median of `--rounds` rounds in which the two take turns; errors are those of float32 against torch's in float64.
"""

import argparse
import json
import statistics
import time

import torch

from latentia.distributions.alignment import Lattice, MonotoneAlignment


def ours(logits, target, lengths, ends):
    lattice = Lattice.ctc(target, ends, logits.shape[-1] - 1)
    return MonotoneAlignment.of_logits(logits, lattice, lengths).log_partition


def torchs(logits, target, lengths, ends):
    log_probs = logits.log_softmax(-1).transpose(0, 1)
    blank = logits.shape[-1] - 1
    return -torch.nn.functional.ctc_loss(log_probs, target, lengths, ends, blank=blank, reduction="none")


def passed(function, logits, *given):
    """Values and gradients of one pass, and its seconds."""
    leaf = logits.clone().requires_grad_()
    start = time.perf_counter()
    value = function(leaf, *given)
    value.sum().backward()
    seconds = time.perf_counter() - start
    assert leaf.grad is not None
    return value.detach(), leaf.grad, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"frames": 500, "batch": 32, "symbols": 50, "length": 60, "rounds": 15, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(asked.batch, asked.frames, asked.symbols, generator=generator)
    target = torch.randint(asked.symbols - 1, (asked.batch, asked.length), generator=generator)
    given = target, torch.full((asked.batch,), asked.frames), torch.full((asked.batch,), asked.length)
    for function in (ours, torchs):
        passed(function, logits, *given)  # what is compiled is compiled now
    rounds = [(passed(ours, logits, *given)[2], passed(torchs, logits, *given)[2]) for _ in range(asked.rounds)]
    value, slope, _ = passed(torchs, logits.double(), *given)
    found = {"settings": vars(asked), "capability": torch.backends.cpu.get_cpu_capability()}
    for name, function, times in zip(("latentia", "torch"), (ours, torchs), zip(*rounds, strict=True), strict=True):
        one, gradient, _ = passed(function, logits, *given)
        found[name] = {
            "milliseconds": round(1e3 * statistics.median(times), 2),
            "value_error": float((one.double() - value).abs().max()),
            "gradient_error": float((gradient.double() - slope).abs().max()),
        }
    found["times_faster"] = round(statistics.median(there / here for here, there in rounds), 2)
    found["times_closer"] = round(found["torch"]["gradient_error"] / found["latentia"]["gradient_error"], 1)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
