"""The state of a collapsed Gibbs chain over the topics of words: what is counted, and what follows from it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from latentia.kernels import gibbs
from latentia.kernels.bags import check_rows

LEAST = 1e-4  # of a learned concentration: that of a topic which no document has would go to 0
ROUNDS = 20


class TopicChain:
    """Every token's topic, and the concentration where that is learned.

    Args:
        starts: (D + 1,), where each document's tokens start and end; words: (N,), the tokens, V different ones.
        concentration: (K,); smoothing: pseudo-count of every word in every topic, above 0.
        learn: whether `learn` sets the concentration.
        seed: of the topics at the start and of all draws.
    """

    def __init__(
        self,
        starts: Tensor,
        words: Tensor,
        symbols: int,
        concentration: Tensor,
        smoothing: float,
        learn: bool,
        seed: int,
    ):
        check_rows(words, symbols)
        self.starts, self.words = starts.numpy(), words.numpy().astype(np.int32)
        self.symbols, self.smoothing, self.learns = symbols, smoothing, learn
        self.concentration = concentration.double()
        self.random = np.array([seed], dtype=np.uint64)
        self.topics = np.random.default_rng(seed).integers(len(concentration), size=len(words)).astype(np.int32)
        self._count()

    def _count(self) -> None:
        kinds = len(self.concentration)
        padded = -(-kinds // gibbs.BLOCK) * gibbs.BLOCK
        pairs = np.bincount(self.words.astype(np.int64) * padded + self.topics, minlength=self.symbols * padded)
        self.word_topic = pairs.reshape(self.symbols, padded).astype(np.float32)
        self.topic_total = pairs.reshape(self.symbols, padded).sum(0).astype(np.float32)

    def sweep(self) -> None:
        """Draw every token's topic once, given all others."""
        concentration = np.zeros(len(self.topic_total), np.float32)
        concentration[: len(self.concentration)] = self.concentration.numpy()
        counts = (self.topics, self.word_topic, self.topic_total)
        gibbs.sweep(self.starts, self.words, *counts, concentration, self.smoothing, self.random)

    def learn(self) -> None:
        """The concentration that makes the documents' topics likeliest, by Minka's fixed point (2000, equation 55):

        a_k <- a_k sum_d [psi(n_dk + a_k) - psi(a_k)] / sum_d [psi(n_d + sum a) - psi(sum a)]
        """
        if not self.learns or not len(self.words):
            return
        (shares, lengths), a = self._histograms(), self.concentration
        for _ in range(ROUNDS):
            gain = (shares * _risen(torch.digamma, a, shares.shape[1])).sum(1)
            a = a * gain / (lengths * _risen(torch.digamma, a.sum().unsqueeze(0), len(lengths))).sum()
            a = a.clamp(min=LEAST)
        self.concentration = a

    def log_joint(self) -> float:
        """log p(words, topics | concentration), in nats of all documents: theta and the topics' words summed out."""
        shares, lengths = self._histograms()
        a, total = self.concentration, self.concentration.sum().unsqueeze(0)
        documents = (shares * _risen(torch.lgamma, a, shares.shape[1])).sum()
        documents = documents - (lengths * _risen(torch.lgamma, total, len(lengths))).sum()
        counts = torch.bincount(torch.from_numpy(self.word_topic).flatten().long()).double()
        eta = torch.tensor([self.smoothing], dtype=torch.float64)
        words = (counts * _risen(torch.lgamma, eta, len(counts))).sum()
        sizes, all_eta = torch.from_numpy(self.topic_total)[: len(a)].double(), self.symbols * eta
        return float(documents + words - (torch.lgamma(sizes + all_eta) - torch.lgamma(all_eta)).sum())

    def _histograms(self) -> tuple[Tensor, Tensor]:
        """How many documents have n tokens of topic k, (K, most + 1), and how many have n tokens, (longest + 1,)."""
        kinds, lengths = len(self.concentration), torch.from_numpy(np.diff(self.starts))
        document = torch.arange(len(lengths)).repeat_interleave(lengths)
        counts = torch.bincount(document * kinds + torch.from_numpy(self.topics), minlength=len(lengths) * kinds)
        most = int(counts.max()) + 1
        rows = torch.arange(kinds) * most + counts.view(-1, kinds)
        shares = torch.bincount(rows.flatten(), minlength=kinds * most).view(kinds, most)
        return shares.double(), torch.bincount(lengths).double()

    def estimate(self) -> dict[str, Tensor]:
        """The mean of the topics (K, V) given the tokens' topics, and the concentration (K,)."""
        counts = torch.from_numpy(self.word_topic[:, : len(self.concentration)]).T.double() + self.smoothing
        return {"topics": counts / counts.sum(1, keepdim=True), "concentration": self.concentration.clone()}

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs to go on as if nothing had happened."""
        random = torch.from_numpy(self.random.view(np.int64).copy())
        return {"topics": torch.from_numpy(self.topics.copy()), "concentration": self.concentration, "random": random}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up a saved `state`. Raises `ValueError` for that of other documents."""
        if state["topics"].shape != self.topics.shape or state["concentration"].shape != self.concentration.shape:
            raise ValueError("the topics are those of other documents")
        self.topics, self.concentration = state["topics"].numpy().copy(), state["concentration"]
        self.random = state["random"].numpy().view(np.uint64).copy()
        self._count()


def _risen(function, a: Tensor, size: int) -> Tensor:
    """function(n + a) - function(a) for n = 0, ..., size - 1: (len(a), size), or (size,) for one a."""
    risen = function(torch.arange(size, dtype=a.dtype) + a.unsqueeze(-1)) - function(a).unsqueeze(-1)
    return risen.squeeze(0) if len(a) == 1 else risen
