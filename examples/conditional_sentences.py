"""A text VAE with a context, all of it: p(sentence | its first word), with the end of the sentence modelled.

    z ~ Normal(0, I),   x_t | x_1..t-1, z, c ~ Categorical(GRU),   up to the symbol that ends the sentence

The model says what p(z), p(x | z, c) and q(z | x, c) are. Bounds, fitting, log p(x | c) and sentences that begin with a
given word come from the library, and `check_model` holds a small instance to what every model promises.
"""

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from latentia.batch import Batch, Frame
from latentia.data import as_dataset, load
from latentia.distributions.sentence import AutoregressiveCategorical
from latentia.evaluate import evaluate
from latentia.learners import Gradient
from latentia.model import DirectedModel
from latentia.tasks import generate
from latentia.testing import check_model

LONGEST, WORDS, DATA = 10, 200, 300


class SentenceVAE(DirectedModel):
    """p(x, z | c): symbols 0..V-1 of which the last ends a sentence; c is (B, 1), a symbol too."""

    def __init__(self, symbols: int, latent: int = 8, hidden: int = 64, length: int = LONGEST):
        super().__init__()
        self.symbols, self.latent, self.length = symbols, latent, length
        self.embedding = nn.Embedding(symbols, hidden)
        self.reader, self.code = nn.GRU(hidden, hidden, batch_first=True), nn.Linear(2 * hidden, 2 * latent)
        self.steer, self.writer = nn.Linear(latent + hidden, hidden), nn.GRU(hidden, hidden, batch_first=True)
        self.output = nn.Linear(hidden, symbols)

    def prior(self, frame: Frame) -> Independent:
        zeros = self.anchor.new_zeros(frame.size, self.latent)
        return Independent(Normal(zeros, torch.ones_like(zeros), validate_args=False), 1)

    def posterior(self, batch: Batch) -> Independent:
        # what is hidden, or beyond the end, is a zero vector
        read, _ = self.reader(self.embedding(batch.x) * batch.observed.unsqueeze(-1))
        last = read[torch.arange(batch.size), batch.ends - 1]
        given = self.embedding(batch.frame.given().x[:, 0])
        mean, log_scale = self.code(torch.cat([last, given], -1)).chunk(2, -1)
        return Independent(Normal(mean, log_scale.exp(), validate_args=False), 1)

    def likelihood(self, z: Tensor, frame: Frame) -> AutoregressiveCategorical:
        given = self.embedding(frame.given().x[:, 0]).expand(len(z), frame.size, -1)
        state = self.steer(torch.cat([z, given], -1)).tanh()

        def logits(x: Tensor) -> Tensor:
            before = self.embedding(x[..., :-1].expand(*z.shape[:2], -1))
            inputs = torch.cat([given.unsqueeze(-2), before], -2)
            written, _ = self.writer(inputs.flatten(0, 1), state.flatten(0, 1).unsqueeze(0).contiguous())
            return self.output(written).unflatten(0, z.shape[:2])

        return AutoregressiveCategorical(logits, z[..., 0], frame.room(self.length), end=self.symbols - 1)


def tiny(seed: int) -> tuple[SentenceVAE, Batch]:
    """Three symbols, and sentences of at most three of them, one with a symbol hidden."""
    torch.manual_seed(seed)
    x = torch.tensor([[0, 1, 2], [1, 2, 0], [1, 0, 1], [2, 0, 0]])
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[2, 1] = False
    context = Batch(torch.tensor([[0], [1], [1], [0]]))
    model = SentenceVAE(symbols=3, latent=1, hidden=3, length=3).double()
    return model, Batch.of(x, mask, torch.tensor([3, 2, 3, 1]), context=context)


def sentences() -> tuple[Batch, list[str]]:
    """English sentences of few words: the first is the context, and what follows it x."""
    data = load("sentences", max_vocabulary=WORDS)
    of = data.batch().ends
    short = data.subset(of.le(LONGEST) & of.gt(1))
    end, lengths = len(data.schema.vocabulary), short.batch().ends
    x = torch.cat([short.x[:, 1 : LONGEST + 1], torch.zeros(len(short), 1, dtype=torch.long)], 1)[:, :LONGEST]
    x[torch.arange(len(short)), lengths - 1] = end
    return Batch.of(x, lengths=lengths, context=Batch(short.x[:, :1])), [*data.schema.vocabulary, ""]


def main() -> None:
    ran = check_model(tiny)
    print(f"check_model ran {len(ran)} checks: {', '.join(ran)}")

    batch, words = sentences()
    order = torch.randperm(batch.size, generator=torch.Generator().manual_seed(0))[:DATA]
    train, held_out = batch.select(order[DATA // 10 :]), batch.select(order[: DATA // 10])
    model = SentenceVAE(len(words))
    Gradient(epochs=5, lr=5e-3, batch_size=64, progress=False).fit(model, as_dataset(train))
    found = evaluate(model, as_dataset(held_out), importance_samples=20)
    print(f"{train.size} sentences; held out: log p(x | first word) = {found.log_marginal:.1f} nats, end counted")

    first = held_out.context.select(torch.zeros(5, dtype=torch.long)) if held_out.context else None
    drawn, _ = generate(model, 5, context=first, seed=1)
    for row, length in zip(drawn.x.tolist(), drawn.lengths.tolist() if drawn.lengths is not None else [], strict=True):
        print(
            "   ", words[int(held_out.context.x[0, 0])] if held_out.context else "", *(words[w] for w in row[:length])
        )


if __name__ == "__main__":
    main()
