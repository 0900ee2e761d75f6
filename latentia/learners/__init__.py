"""Learners: `fit(model, data, *, validation=None, seed=0, callbacks=(), checkpoint=None) -> History`."""

from latentia.learners.checkpoint import Checkpoint
from latentia.learners.em import EM
from latentia.learners.gibbs import Gibbs
from latentia.learners.gradient import Gradient
from latentia.learners.history import History, Learner
from latentia.learners.online import Online

__all__ = ["EM", "Checkpoint", "Gibbs", "Gradient", "History", "Learner", "Online"]
