"""How long will the next eruption last? A hidden Markov model of Old Faithful, against a mixture without memory.

    python examples/next_eruption.py [geyser.csv]

Eruptions are in the order in which they were seen. The models learn from the first 200, and then predict each of the
others before they are told of it.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from latentia.data import load
from latentia.learners import EM
from latentia.model import Batch
from latentia.models import HMM, GaussianMixture
from latentia.tasks import Filter

GEYSER = Path(__file__).resolve().parents[2] / "shared" / "data" / "tabular" / "geyser.csv"
LEARNT = 200


def durations(path: Path) -> torch.Tensor:
    """Minutes, (T, 1), or where the file is absent a synthetic series: after a short eruption comes a long one."""
    if path.exists():
        return load(path, columns="duration").x
    print(f"{path.name} is not here: a synthetic series takes its place, so the numbers are not those of the geyser")
    random, long, series = np.random.default_rng(0), True, []
    for _ in range(272):
        long = not long or random.random() < 0.45
        series.append([random.normal(4.3, 0.4) if long else random.normal(2.0, 0.3)])
    return torch.tensor(series, dtype=torch.float64)


def main() -> None:
    x = durations(Path(sys.argv[1]) if len(sys.argv) > 1 else GEYSER)
    torch.set_num_threads(1)  # for so few data a second thread costs more than it brings
    learner = EM(restarts=10, tol=1e-8, steps=500, progress=False)
    hmm = HMM(features=1, states=3, smoothing=0.1).double()
    mixture = GaussianMixture(features=1, components=2).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one sequence alone: what is gained a step is never small
        learner.fit(hmm, load(x[:LEARNT].unsqueeze(0).numpy(), kind="sequence"))
        learner.fit(mixture, load(x[:LEARNT].numpy()))

    stream = Filter(hmm)
    for eruption in x[:LEARNT]:
        stream.update(eruption)
    before, errors = stream.log_prob, []
    for eruption in x[LEARNT:]:
        errors.append(float(stream.expected() - eruption))
        stream.update(eruption)
    count = len(x) - LEARNT
    with torch.no_grad():
        independent = float(mixture.posterior(Batch(x[LEARNT:])).log_partition.mean())

    mean = hmm.emissions.given(torch.eye(3).double()).mean.flatten().tolist()
    print("states, by the time that the geyser spends in them:")
    for k, row in enumerate(hmm.transition.tolist()):
        follows = ", ".join(f"{mean[i]:.1f} min {p:.0%}" for i, p in enumerate(row) if p >= 0.005)
        print(f"    {k}: {mean[k]:.2f} min, and then {follows}")
    print(f"held-out log-density of an eruption: HMM {(stream.log_prob - before) / count:.3f} nats,", end=" ")
    print(f"mixture without memory {independent:.3f} nats")
    deviation = float((x[LEARNT:] - x[:LEARNT].mean()).square().mean().sqrt())
    error = float(np.sqrt(np.mean(np.square(errors))))
    print(f"error of the forecast: {error:.2f} min, of the mean duration {deviation:.2f} min")
    print(f"after the last one of {float(x[-1]):.1f} min: {float(stream.expected()):.1f} min are expected")


if __name__ == "__main__":
    main()
