"""The bound of data of which some have their class known."""

from __future__ import annotations

from typing import Literal

import torch
from torch.distributions import OneHotCategorical

from latentia import gradients
from latentia.batch import Batch
from latentia.bound import Bound
from latentia.distributions.joint import Joint
from latentia.distributions.latents import named
from latentia.distributions.onehot import marked, restricted
from latentia.errors import CapabilityError, DataError, OptionError
from latentia.model import LatentVariableModel
from latentia.objectives.elbo import charged, expected_terms


def supervised(
    model: LatentVariableModel,
    batch: Batch,
    *,
    alpha: float = 1.0,
    samples: int = 1,
    beta: float = 1.0,
    teacher: Literal["bound", "labels"] = "bound",
) -> Bound:
    """The ELBO, of log p(x, y) where the class y is known by `batch.known`, with alpha log q(y | x) added there.

    Kingma, Rezende, Mohamed and Welling (2014), "Semi-supervised learning with deep generative models", equation 9;
    where a datum's row of `batch.known` marks several classes, q(y | x) is the probability of them all.

    Args:
        alpha: nats of the bound that one nat of the classifier is worth. The paper's choice is 0.1 times the number
            of data over the number of labelled ones.
        samples: draws of the continuous latents for each class.
        beta: weight of the KL.
        teacher: of q(y | x). "bound" is the objective's own gradient. "labels" leaves out what comes through the
            q(y | x) of the ELBO; the value is the same. All else then learns by a classifier that only labels have
            taught: a start, without which the ELBO may make clusters of its own before it has heard of the classes.

    Raises:
        CapabilityError: the posterior's first latent is not a class that is summed out.
        DataError: the batch does not say of any datum what is known.
    """
    if teacher not in ("bound", "labels"):
        raise OptionError(f"teacher={teacher!r}: choose one of bound, labels")
    q = model.posterior(batch._replace(known=None))
    first = next(iter(q.parts)) if isinstance(q, Joint) else ""
    if not isinstance(q, Joint) or first not in q.summed or not isinstance(q.first, OneHotCategorical):
        name = type(model).__name__
        raise CapabilityError(
            f"supervised needs a class: {name}.posterior would have to return a Joint whose first latent is a one-hot "
            "class, and summed out"
        )
    if batch.known is None:
        raise DataError("supervised learns from labels, and these data have none: name their column (--labels COLUMN)")
    known = named(batch.known, first)[first]
    classifier = restricted(q.first, known)
    q_known = Joint({**q.parts, first: gradients.fixed(classifier) if teacher == "labels" else classifier}, q.summed)
    bound = charged(*expected_terms(model, batch, q_known, samples), beta)
    log_q = q.first.logits.log_softmax(-1).masked_fill(~marked(known), -torch.inf)
    return bound._replace(value=bound.value + alpha * log_q.logsumexp(-1))
