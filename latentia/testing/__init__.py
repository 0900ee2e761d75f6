"""The checks that every model passes, and the brute-force enumerators behind them.

A new model file under `latentia/models` has a `tiny(seed) -> (model, Batch)` in float64, small enough that every
latent and every x can be enumerated; `check_model(tiny)` then holds it to what all models promise. Models that
live elsewhere are checked the same way:

    from latentia.testing import check_model
    check_model(my_module.tiny)

A check is a function of (tiny, seed): it makes the models it needs, and raises an `AssertionError` that says which
promise was broken and by how much, or `NotApplicable` where the model does not promise that.
"""

from latentia.testing.batches import (
    check_additive,
    check_batching,
    check_hidden,
    check_missing,
    check_nan,
    check_padding,
    check_weights,
)
from latentia.testing.bounds import check_bounds, check_gradients, check_kl, check_log_partition, check_normalised
from latentia.testing.brute_force import (
    brute_force_log_marginal,
    enumerate_events,
    enumerate_latents,
    likelihood_is_discrete,
    nodes,
)
from latentia.testing.check import CHECKS, all_models, check_model
from latentia.testing.draws import check_generate, check_posterior
from latentia.testing.expect import NotApplicable, Tiny, agrees, one_thread
from latentia.testing.learning import (
    check_canonical,
    check_em_ascends,
    check_em_fixed_point,
    check_em_recovers,
    check_expect,
)
from latentia.testing.same import check_moves, check_save, check_seed

__all__ = [
    "CHECKS",
    "NotApplicable",
    "Tiny",
    "agrees",
    "all_models",
    "brute_force_log_marginal",
    "check_additive",
    "check_batching",
    "check_bounds",
    "check_canonical",
    "check_em_ascends",
    "check_em_fixed_point",
    "check_em_recovers",
    "check_expect",
    "check_generate",
    "check_gradients",
    "check_hidden",
    "check_kl",
    "check_log_partition",
    "check_missing",
    "check_model",
    "check_moves",
    "check_nan",
    "check_normalised",
    "check_padding",
    "check_posterior",
    "check_save",
    "check_seed",
    "check_weights",
    "enumerate_events",
    "enumerate_latents",
    "likelihood_is_discrete",
    "nodes",
    "one_thread",
]
