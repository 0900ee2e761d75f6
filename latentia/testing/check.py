"""All checks, on one model and on all."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pkgutil import walk_packages

import torch

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
from latentia.testing.draws import check_generate, check_posterior
from latentia.testing.expect import Check, NotApplicable, Tiny, one_thread, require
from latentia.testing.learning import (
    check_canonical,
    check_em_ascends,
    check_em_fixed_point,
    check_em_recovers,
    check_expect,
)
from latentia.testing.same import check_moves, check_save, check_seed

CHECKS: tuple[Check, ...] = (
    check_bounds,
    check_log_partition,
    check_normalised,
    check_kl,
    check_gradients,
    check_batching,
    check_padding,
    check_hidden,
    check_weights,
    check_additive,
    check_expect,
    check_canonical,
    check_missing,
    check_nan,
    check_em_ascends,
    check_em_fixed_point,
    check_em_recovers,
    check_seed,
    check_save,
    check_moves,
    check_generate,
    check_posterior,
)


def check_model(tiny: Tiny, *, seeds: Sequence[int] = (0,)) -> list[str]:
    """Run every check that applies to `tiny(seed) -> (model, Batch)`, in float64. Returns the names of those that ran.

    Raises `AssertionError` at the first promise that is broken, naming it.
    """
    ran = []
    for seed in seeds:
        model, _ = tiny(seed)
        require(model.anchor.dtype == torch.float64, f"tiny gives a model in float64: {model.anchor.dtype}")
        for check in CHECKS:
            try:
                with one_thread():
                    check(tiny, seed)
            except NotApplicable:
                continue
            except AssertionError as error:
                raise AssertionError(f"{type(model).__name__}, {check.__name__}, seed {seed}: {error}") from error
            ran.append(check.__name__)
    return list(dict.fromkeys(ran))


def all_models() -> dict[str, Tiny]:
    """The `tiny` of every module in and under `latentia.models` by the module's own name, and a `tiny_conditional`
    as "module:conditional": nothing lists them."""
    package = import_module("latentia.models")
    names = [found.name for found in walk_packages(package.__path__, "latentia.models.") if not found.ispkg]
    modules = {name.rpartition(".")[2]: import_module(name) for name in names}
    found: dict[str, Tiny] = {}
    for name, module in sorted(modules.items()):
        for function in sorted(part for part in vars(module) if part == "tiny" or part.startswith("tiny_")):
            suffix = function.removeprefix("tiny").removeprefix("_")
            found[f"{name}:{suffix}" if suffix else name] = getattr(module, function)
    return found
