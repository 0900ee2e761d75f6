"""A model of your own: a mixture of Bernoullis, held to the checks that every model of latentia passes.

    z ~ Categorical(weights)
    x_d | z = k ~ Bernoulli(probs[k, d])

The model says what p(z), p(x | z) and p(z | x) are, and how an M-step goes. Fitting, exact log p(x), clusters,
samples and completions come from the library.
"""

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli

from latentia.data import load
from latentia.distributions import OneHot
from latentia.evaluate import evaluate
from latentia.learners import EM
from latentia.model import Batch, DirectedModel, ExactModel, Frame, Statistics
from latentia.tasks import cluster
from latentia.testing import check_model


class BernoulliMixture(ExactModel, DirectedModel):
    """p(x) = sum_k weights[k] prod_d probs[k, d]^x_d (1 - probs[k, d])^(1 - x_d), under a Beta(1 + s, 1 + s) prior."""

    def __init__(self, features: int, components: int = 10, smoothing: float = 0.1):
        super().__init__()
        self.smoothing = smoothing
        self.weight_logits = nn.Parameter(torch.zeros(components))
        self.logits = nn.Parameter(torch.zeros(components, features))

    def prior(self, frame: Frame) -> OneHot:
        return OneHot({"node": self.weight_logits.log_softmax(-1).expand(frame.size, -1)})

    def likelihood(self, z: Tensor, frame: Frame) -> Bernoulli:
        return Bernoulli(logits=z @ self.logits, validate_args=False)

    def posterior(self, batch: Batch) -> OneHot:
        # potentials whose log-sum-exp over k is log p(x): an exact model is one that can write them down
        every = torch.eye(len(self.logits)).to(self.logits).unsqueeze(1).expand(-1, batch.size, -1)
        return OneHot({"node": self.weight_logits.log_softmax(-1) + self.log_likelihood(batch, every).T})

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        self.weight_logits.data.zero_()
        self.logits.data.normal_(generator=generator)

    def statistics(self, batch: Batch, posterior: OneHot) -> Statistics:
        belongs = posterior.expectations(batch.weights)["node"]  # (B, K), weights included
        # what is missing is expected to be what the present parameters say
        filled = torch.where(batch.observed.unsqueeze(1), batch.x.unsqueeze(1), self.logits.sigmoid())
        return {"count": belongs.sum(0), "ones": torch.einsum("bk,bkd->kd", belongs, filled)}

    def update(self, total: Statistics) -> None:
        self.weight_logits.data = total["count"].clamp(min=1e-300).log().log_softmax(-1)
        ones = total["ones"] + self.smoothing
        self.logits.data = (ones / (total["count"].unsqueeze(-1) + 2 * self.smoothing)).logit()

    def log_prior(self) -> Tensor:
        one, zero = nn.functional.logsigmoid(self.logits), nn.functional.logsigmoid(-self.logits)
        return self.smoothing * (one + zero).sum()


def tiny(seed: int) -> tuple[BernoulliMixture, Batch]:
    """Two components over three bits, and six data of which one is seen by part."""
    generator = torch.Generator().manual_seed(seed)
    model = BernoulliMixture(features=3, components=2).double()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(2, (6, 3), generator=generator).double()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 2] = False
    return model, Batch.of(x, mask)


def main() -> None:
    ran = check_model(tiny)
    print(f"check_model ran {len(ran)} checks: {', '.join(ran)}")

    data = load("digits", kind="table", values="binary", binarize="fixed")
    train, held_out = data.split(0.1)
    model = BernoulliMixture(features=64, components=20).double()
    EM(steps=100, tol=1e-3, progress=False).fit(model, train)
    found = evaluate(model, held_out)
    print(f"held out: log p(x) = {found.log_marginal:.2f} ± {found.log_marginal_se:.2f} {found.units}, {found.method}")

    members, labels = cluster(model, held_out), torch.as_tensor(held_out.labels)
    agree = sum(int(labels[members == k].bincount().max()) for k in members.unique())
    print(f"{agree / len(held_out):.0%} of held-out digits are of the commonest kind in their cluster")


if __name__ == "__main__":
    main()
