"""A step of each estimator beside the same step written by hand in PyTorch: MNIST's nonlinear net of 200 bits.

    python benchmarks/estimators.py --data ../shared/data/mnist

Both take the same step: a batch of 100, four evaluations of the decoder a datum (rebar three, by one draw), the
KL in closed form, the gradient, Adam (torch's fused one by hand). They take turns, one thread, and the times are of the
processor, so that other work on the machine tells little; the ratio is the median over the turns. Result goes to
benchmarks/results/estimators.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from latentia import gradients
from latentia.data import load
from latentia.learners.ascent import Climber
from latentia.model import Batch
from latentia.models import DiscreteVAE
from latentia.objectives import elbo
from latentia.runs.directory import environment

RESULTS = Path(__file__).parent / "results"
DRAWS, SIZE = 4, 100


class ByHand:
    """The model's networks, and nothing else of the library."""

    def __init__(self, model: DiscreteVAE, estimator: str):
        self.encoder, self.decoder, self.prior = model.encoder, model.decoder, model.prior_logits
        self.rule: Callable[[Tensor, Tensor], Tensor] = getattr(self, estimator)
        self.extra = (
            [nn.Parameter(torch.tensor(0.5).log()), nn.Parameter(torch.zeros(()))] if estimator == "rebar" else []
        )
        self.adam = torch.optim.Adam([*model.parameters(), *self.extra], lr=1e-3, fused=True)

    def step(self, x: Tensor) -> None:
        logits = self.encoder(x)
        softplus = nn.functional.softplus
        kl = (logits.sigmoid() * (logits - self.prior) - softplus(logits) + softplus(self.prior)).sum(-1)
        self.adam.zero_grad()
        (-(self.rule(logits, x) - kl).mean()).backward()
        self.adam.step()

    def fit(self, z: Tensor, x: Tensor) -> Tensor:
        out = self.decoder((2 * z - 1).flatten(0, 1)).unflatten(0, z.shape[:2])
        return -nn.functional.binary_cross_entropy_with_logits(out, x.expand_as(out), reduction="none").sum(-1)

    def log_q(self, z: Tensor, logits: Tensor) -> Tensor:
        return (z * logits - nn.functional.softplus(logits)).sum(-1)

    def rloo(self, logits: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            z = torch.bernoulli(logits.sigmoid().expand(DRAWS, -1, -1))
        f = self.fit(z, x)
        signal = (f - (f.sum(0) - f) / (DRAWS - 1)).detach()
        return (f + signal * self.log_q(z, logits)).mean(0)

    def score(self, logits: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            z = torch.bernoulli(logits.sigmoid().expand(DRAWS, -1, -1))
        f = self.fit(z, x)
        return (f + f.detach() * self.log_q(z, logits)).mean(0)

    def disarm(self, logits: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            chance = logits.sigmoid()
            u = torch.rand(DRAWS // 2, *logits.shape)
            one, other = (u < chance).float(), (1 - u < chance).float()
        f = self.fit(torch.cat([one, other]), x)
        first, second = f.detach().chunk(2)
        slope = 0.5 * (first - second).unsqueeze(-1) * (one - other) * logits.detach().abs().sigmoid()
        return f.mean(0) + (slope.mean(0) * logits).sum(-1)

    def straight_through(self, logits: Tensor, x: Tensor) -> Tensor:
        chance = logits.sigmoid()
        z = torch.bernoulli(chance.detach().expand(DRAWS, -1, -1))
        return self.fit(z + chance - chance.detach(), x).mean(0)

    def reinmax(self, logits: Tensor, x: Tensor) -> Tensor:
        both = torch.stack([logits, torch.zeros_like(logits)], -1)
        mean = both.softmax(-1)
        z = torch.bernoulli(mean[..., 0].detach().expand(DRAWS, -1, -1))
        middle = ((torch.stack([z, 1 - z], -1) + mean) / 2).detach().log()
        slope = 2 * (middle - both.detach() + both).softmax(-1) - mean / 2
        return self.fit(z + (slope - slope.detach())[..., 0], x).mean(0)

    def gumbel_softmax(self, logits: Tensor, x: Tensor) -> Tensor:
        noise = torch.rand(DRAWS, *logits.shape).clamp(1e-20, 1 - 1e-7).logit()
        return self.fit((logits + noise).sigmoid(), x).mean(0)

    def rebar(self, logits: Tensor, x: Tensor) -> Tensor:
        temperature, eta = (p.exp() for p in self.extra)
        leaf = logits.detach().requires_grad_()
        noisy = leaf + torch.rand(1, *logits.shape).clamp(1e-20, 1 - 1e-7).logit()
        z, chance, v = (noisy > 0).float(), leaf.sigmoid(), torch.rand(1, *logits.shape)
        again = torch.where(z > 0, 1 - chance + v * chance, v * (1 - chance)).clamp(1e-20, 1 - 1e-7).logit() + leaf
        f = self.fit(z, x)
        soft = torch.cat([(noisy / temperature).sigmoid(), (again / temperature).sigmoid()])
        relaxed, relaxed_again = self.fit(soft, x).chunk(2)
        (path,) = torch.autograd.grad((eta * (relaxed - relaxed_again)).sum(), leaf, create_graph=True)
        slope = path + ((f.detach() - eta * relaxed_again).unsqueeze(-1) * (z - chance.detach()))[0]
        calmer = torch.autograd.grad(slope.square().sum(), self.extra, retain_graph=True)
        own = sum((p * g for p, g in zip(self.extra, calmer, strict=True)), torch.zeros(()))
        return f.mean(0) + (slope.detach() * logits).sum(-1) - own / len(x)


def timed(step: Callable[[], None], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        step()
    return 1e3 * (time.process_time() - began) / times


def compared(name: str, x: Tensor, turns: int, times: int) -> dict[str, float]:
    """Milliseconds a step of ours and by hand, and the median ratio of neighbouring turns."""
    ours, theirs = (DiscreteVAE((28, 28), latents=(200,), hidden=((200, 200),)) for _ in range(2))
    for model in (ours, theirs):
        model.start(Batch.of(x), torch.Generator().manual_seed(0))
    objective = partial(elbo, samples=1 if name == "rebar" else DRAWS, estimator=gradients.ESTIMATORS[name]())
    beside = nn.ModuleList([m for m in [objective.keywords["estimator"]] if isinstance(m, nn.Module)])
    climber = Climber(ours, load("digits"), float(SIZE), clip=None, compile=False, eps=1e-8, beside=beside)
    hand, batches = ByHand(theirs, name), list(x.split(SIZE))
    place = {"ours": 0, "hand": 0}

    def step() -> None:
        place["ours"] += 1
        batch = Batch(batches[place["ours"] % len(batches)])
        climber.step(objective, batch, climber.parameters, 1e-3, 0, place["ours"])

    def by_hand() -> None:
        place["hand"] += 1
        hand.step(batches[place["hand"] % len(batches)].flatten(1))

    timed(step, 5)
    timed(by_hand, 5)
    pairs = [(timed(step, times), timed(by_hand, times)) for _ in range(turns)]
    return {
        "milliseconds": median(one for one, _ in pairs),
        "by_hand": median(other for _, other in pairs),
        "ratio": median(one / other for one, other in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/mnist", help="folder of the four idx files")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--times", type=int, default=6, help="steps in each turn")
    parser.add_argument("--out", type=Path, default=RESULTS / "estimators.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = load(Path(options.data) / "t10k-images-idx3-ubyte.gz", binarize="dynamic")
    x = data.batch(slice(0, 2000), torch.float32).x
    names = ("score", "rloo", "disarm", "straight_through", "reinmax", "gumbel_softmax", "rebar")
    found = {}
    for name in names:
        found[name] = compared(name, x, options.turns, options.times)
        print(f"{name:<18}" + "  ".join(f"{key} {value:.3g}" for key, value in found[name].items()), flush=True)
    options.out.parent.mkdir(exist_ok=True)
    result = {"what": "milliseconds of processor time a step", "rows": found, "environment": environment()}
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
