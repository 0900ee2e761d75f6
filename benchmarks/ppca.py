"""Estimates of log p(x) and of mutual information held against the truth, on a model that knows it.

    python benchmarks/ppca.py                          MNIST, 50 factors, some ten minutes of one core
    python benchmarks/ppca.py --images 8 --steps 50 --samples 100 --pairs 500

Probabilistic PCA with 50 factors is fitted to MNIST's grey images. Then it is treated as a VAE: its exact posterior is
hidden behind a Gaussian q(z | x) that is wrong, and log p(x) of test images is estimated by importance sampling, by
annealed importance sampling from the prior and from q, and bounded by the importance-weighted bound. Two wrong q:

    perturbed   means off by 0.2 posterior standard deviations in a direction of each datum's own, 1.1 times too wide
    mean field  the best q that factorises, after z has been turned so that the posterior does not

Mutual information has the closed form log det(I + W'W / noise^2) / 2 when x is drawn from the model. The aggregate
posterior of N data cannot show more than log N nats, and the model fitted to MNIST has some hundred; so the estimator
is tested on the same model with so much noise that three nats are left, and at the fitted noise the upper bound is.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from side_by_side import RESULTS, save
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from latentia.data import Dataset, load
from latentia.evaluate import log_marginal
from latentia.inference.annealed import Annealing, annealed_log_marginal, bidirectional
from latentia.inference.importance import DOUBTFUL, LogMarginal
from latentia.measure.information import decompose
from latentia.model import Batch, DirectedModel, Frame
from latentia.models import ProbabilisticPCA

MNIST = Path(__file__).parents[2] / "shared" / "data" / "mnist"
OFF, WIDER = 0.2, 1.1
NATS = 3.0


class Hidden(DirectedModel):
    """Probabilistic PCA as if it were a VAE: prior, likelihood, and a q(z | x) that is not the posterior."""

    def __init__(self, model: ProbabilisticPCA, kind: str):
        super().__init__()
        self.model, self.kind = model, kind
        self.known: tuple[Batch | None, Any] = None, None

    def exact(self, batch: Batch) -> Any:
        """The posterior of the last batch is kept: annealing asks for it at every step."""
        if batch is not self.known[0]:
            self.known = batch, self.model.posterior(batch)
        return self.known[1]

    def prior(self, frame: Frame) -> Independent:
        return self.model.prior(frame)

    def likelihood(self, z: Tensor, frame: Frame) -> Normal:
        return self.model.likelihood(z, frame)

    def log_likelihood(self, batch: Batch, z: Tensor) -> Tensor:
        # as the likelihood has it, with the square multiplied out: a K x K product instead of a K x D one
        return self.exact(batch).score(z) - self.prior(batch.frame).log_prob(z)

    def posterior(self, batch: Batch) -> Distribution:
        exact = self.exact(batch)
        if self.kind == "mean field":
            scale = exact.precision.diagonal(dim1=-2, dim2=-1).rsqrt().expand_as(exact.mean)
            return Independent(Normal(exact.mean, scale), 1)
        factor = torch.linalg.cholesky(exact.covariance)
        # a function of x as an encoder's error is, without a pattern
        direction = torch.sin(1e3 * exact.mean) * math.sqrt(2)
        return MultivariateNormal(exact.mean + OFF * direction @ factor.mT, scale_tril=WIDER * factor)


def against(found: LogMarginal, truth: Tensor, seconds: float) -> dict[str, Any]:
    gap = found.value - truth
    said = {
        "mean_error": float(gap.mean()),
        "standard_error": float(gap.std()) / math.sqrt(len(gap)),
        "largest_error": float(gap.abs().max()),
        "effective_sample_size": float(found.effective_sample_size.mean()),
        "seconds": round(seconds, 1),
    }
    if not found.pareto_k.isnan().all():
        said["pareto_k_above_0.7"] = float((found.pareto_k > DOUBTFUL).double().mean())
    return said


def timed(function, *arguments: Any, **options: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    return function(*arguments, **options), time.perf_counter() - began


def turned(model: ProbabilisticPCA) -> ProbabilisticPCA:
    """The same p(x) in another basis of z: along the principal directions a posterior factorises by itself."""
    noise = torch.randn(model.latent, model.latent, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model.weight.data = model.weight.data @ torch.linalg.qr(noise).Q
    return model


def marginals(kind: str, model: ProbabilisticPCA, data: Dataset, options: argparse.Namespace) -> dict[str, Any]:
    """Every estimate of log p(x) with one wrong q."""
    hidden, found = Hidden(model, kind), {}
    with torch.no_grad():
        truth = model.posterior(data.batch(dtype=torch.float64)).log_partition
    bounds = {}
    for samples in (1, 10, 100, 1000, 10_000):
        if samples <= options.samples:
            bounds[samples] = against(*_first(log_marginal, hidden, data, truth, importance_samples=samples))
    found["iwae"] = bounds
    found["importance"] = against(*_first(log_marginal, hidden, data, truth, importance_samples=options.samples))
    walks = {"annealed from q": Annealing(steps=max(options.steps // 10, 10), start="posterior")}
    if kind == "perturbed":
        walks["annealed from the prior, few steps"] = Annealing(steps=max(options.steps // 10, 10))
        walks["annealed from the prior"] = Annealing(steps=options.steps)
    for name, walk in walks.items():
        found[name] = {"steps": walk.steps, **against(*_first(annealed_log_marginal, hidden, data, truth, walk))}
    for name, row in [*((f"IWAE bound, K = {k}", row) for k, row in bounds.items()), *list(found.items())[1:]]:
        print(f"  {kind:10} {name:36} {row['mean_error']:+9.4f} ± {row['standard_error']:.4f} nats  ", end="")
        print(f"worst {row['largest_error']:8.3f}  k > 0.7: {row.get('pareto_k_above_0.7', math.nan):.0%}", flush=True)
    return found


def _first(function, model: DirectedModel, data: Dataset, truth: Tensor, *arguments: Any, **options: Any):
    found, seconds = timed(function, model, data, *arguments, **options)
    return found, truth, seconds


def information(model: ProbabilisticPCA) -> float:
    """I(x; z) = log det(I + W'W / noise^2) / 2 of the model, in nats."""
    eye = torch.eye(model.latent, dtype=torch.float64)
    inner = model.weight.mT @ model.weight * (-2 * model.log_noise).exp()
    return 0.5 * float(torch.linalg.slogdet((eye + inner).detach())[1])


def mutual(model: ProbabilisticPCA, pairs: int) -> dict[str, Any]:
    """The aggregate posterior's estimate and its upper bound on x drawn from the model, against the closed form."""
    truth = information(model)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(7)  # not the seed that draws z
        x = model.generate(Frame(pairs))[0].x
    found, seconds = timed(decompose, model, load(x), limit=pairs)
    said = {"closed_form": truth, "data": pairs, "ceiling": found.ceiling, "seconds": round(seconds, 1)}
    said |= {"aggregate_posterior": found.mutual_information, "upper_bound": found.upper, "mean_kl": found.kl}
    for name in ("aggregate_posterior", "upper_bound"):
        said[f"{name}_off_by"] = said[name] / truth - 1
        print(
            f"  mutual information {truth:7.3f}: {name} {said[name]:7.3f} ({said[f'{name}_off_by']:+.2%})", flush=True
        )
    return said


def noisier(model: ProbabilisticPCA, nats: float) -> None:
    """Raise the noise until so many nats of information are left."""
    low, high = model.log_noise.item(), model.log_noise.item() + 10
    for _ in range(60):
        model.log_noise.data.fill_((low + high) / 2)
        here = model.log_noise.item()
        low, high = (here, high) if information(model) > nats else (low, here)


def plot(path: Path, results: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.5, 4))
    for kind, found in results.items():
        samples = list(found["iwae"])
        gaps = [-row["mean_error"] for row in found["iwae"].values()]
        axes.loglog(samples, gaps, "o-", label=f"importance-weighted bound, q {kind}")
        walk = found["annealed from q"]
        axes.axhline(abs(walk["mean_error"]), ls=":", c=axes.lines[-1].get_color())
        axes.text(1, abs(walk["mean_error"]), f" annealed from q, {walk['steps']} steps", va="bottom", fontsize=8)
    axes.axhline(0.05, c="grey", lw=0.8)
    axes.text(1, 0.05, " 0.05 nats", va="bottom", fontsize=8, color="grey")
    axes.set(xlabel="K, samples", ylabel="nats below the exact log p(x)", title="Probabilistic PCA, 50 factors")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=30, help="test images")
    parser.add_argument("--samples", type=int, default=10_000, help="importance samples")
    parser.add_argument("--steps", type=int, default=10_000, help="temperatures from the prior; a tenth from q")
    parser.add_argument("--pairs", type=int, default=16_000, help="data drawn from the model for mutual information")
    parser.add_argument("--name", default="ppca", help="of the files in benchmarks/results")
    options = parser.parse_args()
    if MNIST.is_dir():
        source, train = (
            "MNIST",
            load(MNIST / "train-images-idx3-ubyte.gz", values="real", scale="none").subset(slice(0, 20_000)),
        )
        test = load(MNIST / "t10k-images-idx3-ubyte.gz", values="real", scale="none")
    else:
        source, (train, test) = "digits", load("digits", values="real", scale="none").split(0.1)
    size = train.x[0].numel()
    model = ProbabilisticPCA(train.x.shape[1:], 50 if size > 100 else 20).double()
    model.start(train.batch(dtype=torch.float64), torch.Generator())
    turned(model)
    data = test.subset(slice(0, options.images))
    print(f"{source}, {size} entries, {model.latent} factors; {len(data)} test images; error of the mean in nats")
    marginal = {kind: marginals(kind, model, data, options) for kind in ("perturbed", "mean field")}
    gap = bidirectional(Hidden(model, "perturbed"), 16, Annealing(steps=options.steps // 3))
    print(f"  bidirectional gap on simulated data, {options.steps // 3} steps: {gap.gap:.4f} ± {gap.gap_se:.4f} nats")
    shown = {"at the fitted noise": mutual(model, min(options.pairs, 4000))}
    noisier(model, NATS)
    model.canonical()
    shown[f"noise raised to {NATS:g} nats"] = mutual(model, options.pairs)
    plot(RESULTS / f"{options.name}.svg", marginal)
    content = {"data": source, "factors": model.latent, "log_marginal": marginal, "mutual_information": shown}
    save(options.name, {**content, "gap": gap.gap, "gap_se": gap.gap_se, "options": vars(options)}, ())


if __name__ == "__main__":
    main()
