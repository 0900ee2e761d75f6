"""How many factors have the digits? Probabilistic PCA by held-out log p(x), and estimates held against its truth.

    python examples/digits_factors.py

The second part hides the exact posterior behind a q(z | x) that is too narrow, as an encoder's often is, and asks what
importance sampling and annealed importance sampling make of it.
"""

import torch
from torch.distributions import Independent, Normal

from latentia.data import load
from latentia.evaluate import evaluate
from latentia.inference.annealed import Annealing
from latentia.learners import EM
from latentia.model import Batch, DirectedModel, Frame
from latentia.models import ProbabilisticPCA


class Narrow(DirectedModel):
    """The same prior and likelihood, with standard deviations of the posterior that are half of what they should be."""

    def __init__(self, model: ProbabilisticPCA):
        super().__init__()
        self.model = model

    def prior(self, frame: Frame) -> Independent:
        return self.model.prior(frame)

    def likelihood(self, z: torch.Tensor, frame: Frame) -> Normal:
        return self.model.likelihood(z, frame)

    def posterior(self, batch: Batch) -> Independent:
        exact = self.model.posterior(batch)
        return Independent(Normal(exact.mean, 0.5 * exact.variance.sqrt()), 1)


def main() -> None:
    torch.set_num_threads(1)  # for so few data a second thread costs more than it brings
    train, test = load("digits", values="real", scale="none").split(0.25, seed=0)
    for factors in (2, 5, 10, 20, 30, 40, 50):
        model = ProbabilisticPCA(event_shape=(8, 8), latent=factors).double()
        EM(progress=False).fit(model, train)
        found = evaluate(model, test, training=train)
        rates = f"rate {found.rate:5.1f} + distortion {found.distortion:6.1f} nats"
        print(f"{factors:2} factors: held-out log p(x) {found.log_marginal:7.2f} = -({rates}), BIC {found.bic:,.0f}")

    model = ProbabilisticPCA(event_shape=(8, 8), latent=10).double()
    EM(progress=False).fit(model, train)
    few = test.subset(slice(0, 40))
    walk = Annealing(steps=300, chains=8, leapfrogs=5, data=40, simulated=0, start="posterior")
    exact, found = evaluate(model, few), evaluate(Narrow(model), few, importance_samples=1000, annealing=walk)
    print(f"\n10 factors, 40 digits: log p(x) is {exact.log_marginal:.2f}; from a q that is too narrow")
    print(f"  its bound says             {found.elbo:8.2f}")
    print(f"  1,000 importance samples   {found.log_marginal:8.2f}, said to be within {found.log_marginal_mc_se:.2f}")
    print(f"  an annealed walk           {found.annealed_log_marginal:8.2f}, {found.annealed_log_marginal_mc_se:.2f}")
    doubt = f"Pareto k above {found.pareto_threshold:.2g} for {found.pareto_above:.0%}"
    print(f"  {doubt}: what the weights themselves say of their mean")


if __name__ == "__main__":
    main()
