"""Networks that write grammars."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentia.distributions.yields import Grammar
from latentia.networks.mlp import glorot


class Residual(nn.Module):
    """x + relu(V relu(U x)), (..., hidden) to (..., hidden) (Kim et al. 2019, appendix)."""

    def __init__(self, hidden: int):
        super().__init__()
        self.inner, self.outer = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.inner(x).relu()).relu()


class _Table(nn.Module):
    """Rows of log-probabilities of labels by their embeddings, and by z where there is one."""

    def __init__(self, hidden: int, latent: int, outputs: int):
        super().__init__()
        self.label = nn.Linear(hidden, hidden)
        self.latent = nn.Linear(latent, hidden, bias=False) if latent else None
        self.blocks = nn.Sequential(Residual(hidden), Residual(hidden))
        self.output = nn.Linear(hidden, outputs)

    def forward(self, labels: Tensor, z: Tensor | None) -> Tensor:
        """Embeddings (L, hidden) to (L, outputs), or with z (M, latent) to (M, L, outputs)."""
        first = self.label(labels)
        if z is not None and self.latent is not None:
            first = first + self.latent(z).unsqueeze(-2)
        return self.output(self.blocks(first)).log_softmax(-1)


class GrammarNetwork(nn.Module):
    """A grammar whose tables are written by networks of its labels' embeddings.

    root = softmax(f(w_S, z)),  rules of A = softmax(U [w_A, z] + b),  words of T = softmax(g(w_T, z))

    f and g are two residual blocks each (Kim et al. 2019, section 2.1 and appendix).

    Args:
        symbols: V.
        nonterminals, preterminals: K and P.
        hidden: width of embeddings and networks.
        latent: dimensions of z; without any there is one grammar for all.
    """

    def __init__(self, symbols: int, nonterminals: int, preterminals: int, hidden: int, latent: int = 0):
        super().__init__()
        self.labels = nonterminals + preterminals
        self.start_label = nn.Parameter(torch.empty(1, hidden))
        self.nonterminals = nn.Parameter(torch.empty(nonterminals, hidden))
        self.preterminals = nn.Parameter(torch.empty(preterminals, hidden))
        self.root = _Table(hidden, latent, nonterminals)
        self.rule = nn.Linear(hidden, self.labels**2)
        self.rule_by_latent = nn.Linear(latent, self.labels**2, bias=False) if latent else None
        self.word = _Table(hidden, latent, symbols)

    def forward(self, z: Tensor | None = None) -> Grammar:
        """One grammar, or with z (M, latent) M of them."""
        rule = self.rule(self.nonterminals)
        if z is not None and self.rule_by_latent is not None:
            # of the label and z together, without the product of one by the other
            rule = rule + self.rule_by_latent(z).unsqueeze(-2)
        rule = rule.log_softmax(-1).unflatten(-1, (self.labels, self.labels))
        return Grammar(self.root(self.start_label, z).squeeze(-2), rule, self.word(self.preterminals, z))

    @torch.no_grad()
    def begin(self, generator: torch.Generator) -> None:
        """Random weights and embeddings."""
        glorot(self, generator)
        for embedding in (self.start_label, self.nonterminals, self.preterminals):
            embedding.copy_(torch.empty(embedding.shape).normal_(generator=generator))
