# pyright: reportMissingImports=false, reportMissingModuleSource=false
"""Hidden Markov models against hmmlearn, dynamax and pomegranate: the same data, start and steps.

    python benchmarks/hmm.py            ten EM steps, an E-step and a best path of every work; some minutes
    python benchmarks/hmm.py --quick    small sizes, seconds

Everyone starts from the same parameters. The value printed is log p(x) per sequence, in nats, under the parameters
after the steps, which shows X"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from side_by_side import RESULTS, growth, installed, race, save

from latentia.data import as_dataset
from latentia.learners import EM
from latentia.model import Batch
from latentia.models import HMM
from latentia.tasks import decode_path

Contenders = dict[str, Callable[[], float]]


class Work(NamedTuple):
    """Sequences, and the parameters from which everyone starts: x (N, T) symbols or (N, T, D) vectors."""

    x: np.ndarray
    initial: np.ndarray
    transition: np.ndarray
    emission: np.ndarray  # probabilities (K, V), or means (K, D) of Gaussians with variance 1

    @property
    def symbolic(self) -> bool:
        return self.x.ndim == 2

    @property
    def words(self) -> str:
        what = f"{self.emission.shape[1]} {'symbols' if self.symbolic else 'dimensions, diagonal'}"
        return f"{len(self.transition)} states, {what}, {self.x.shape[0]:,} x {self.x.shape[1]:,}"


def sequences(count: int, steps: int, states: int, width: int, symbolic: bool, seed: int = 0) -> Work:
    """Drawn from an HMM; the start is another one."""
    random = np.random.default_rng(seed)

    def chain(concentration: float):
        return random.dirichlet(np.ones(states)), random.dirichlet(np.full(states, concentration), states)

    initial, transition = chain(0.3)
    z = np.empty((count, steps), dtype=np.int64)
    cumulative = transition.cumsum(1)
    z[:, 0] = random.choice(states, count, p=initial)
    for t in range(1, steps):
        z[:, t] = (random.random((count, 1)) > cumulative[z[:, t - 1]]).sum(1).clip(max=states - 1)
    if symbolic:
        likely = random.dirichlet(np.full(width, 0.1), states).cumsum(1)
        x = np.stack([np.searchsorted(likely[k], u) for k, u in zip(z.ravel(), random.random(z.size), strict=True)])
        return Work(x.reshape(z.shape).clip(max=width - 1), *chain(5.0), random.dirichlet(np.ones(width), states))
    means = 2 * random.standard_normal((states, width))
    x = means[z] + random.standard_normal((count, steps, width))
    return Work(x, *chain(5.0), random.standard_normal((states, width)))


def changes(states: np.ndarray) -> float:
    """How often (N, T) states change: that paths are the same shows here, and costs no one much to tell."""
    return float((states[:, 1:] != states[:, :-1]).sum())


def latentia_model(work: Work) -> HMM:
    states, width = work.emission.shape
    options: dict[str, Any] = {"symbols": width} if work.symbolic else {"features": width, "covariance": "diagonal"}
    model = HMM(states=states, smoothing=0.0, **options).double()
    model.initial_logits.data = torch.from_numpy(work.initial).log()
    model.transition_logits.data = torch.from_numpy(work.transition).log()
    if work.symbolic:
        model.emissions.logits.data = torch.from_numpy(work.emission).log()
    else:
        model.emissions.means.data = torch.from_numpy(work.emission).clone()
    return model


def latentia(work: Work) -> dict[str, Callable[[int], float]]:
    batch = Batch(torch.from_numpy(work.x))
    data = as_dataset(batch)

    def fit(steps: int) -> float:
        history = EM(steps=steps, tol=0, fresh=False, progress=False).fit(latentia_model(work), data)
        return history.records[-1]["log_marginal"]

    def expect(_: int) -> float:
        with torch.no_grad():
            return float(latentia_model(work).expect(batch)[1]) / batch.size

    def path(_: int) -> float:
        return changes(decode_path(latentia_model(work), data)[0].numpy())

    return {"fit": fit, "expect": expect, "path": path}


def hmmlearn(work: Work, implementation: str) -> dict[str, Callable[[int], float]]:
    from hmmlearn.hmm import CategoricalHMM, GaussianHMM

    states, width = work.emission.shape
    rows = work.x.reshape(-1, 1) if work.symbolic else work.x.reshape(-1, width)
    lengths = [work.x.shape[1]] * len(work.x)

    def model(steps: int) -> Any:
        shared = {"n_components": states, "n_iter": steps, "tol": -np.inf, "init_params": ""}
        if work.symbolic:
            peer: Any = CategoricalHMM(**shared, n_features=width, implementation=implementation)
            peer.emissionprob_ = work.emission
        else:
            # maximum likelihood: its defaults add 1e-2 to each variance
            peer = GaussianHMM(**shared, covariance_type="diag", min_covar=0.0, covars_prior=0.0, covars_weight=1,
                               implementation=implementation)  # fmt: skip
            peer.n_features, peer.means_, peer.covars_ = width, work.emission, np.ones((states, width))
        peer.startprob_, peer.transmat_ = work.initial, work.transition
        return peer

    def fit(steps: int) -> float:
        # its last value is that of the parameters before the last step
        peer = model(steps)
        peer.fit(rows, lengths)
        return peer.score(rows, lengths) / len(lengths)

    def expect(_: int) -> float:
        return model(1)._do_estep(rows, lengths)[1] / len(lengths)

    def path(_: int) -> float:
        return changes(model(1).decode(rows, lengths)[1].reshape(work.x.shape[:2]))

    return {"fit": fit, "expect": expect, "path": path}


def dynamax(work: Work) -> dict[str, Callable[[int], float]]:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    from dynamax.hidden_markov_model import DiagonalGaussianHMM

    states, width = work.emission.shape
    x = jnp.asarray(work.x)
    model = DiagonalGaussianHMM(states, width, 1.001, 1.001, emission_prior_mean_concentration=1e-6,
                                emission_prior_concentration=1e-6, emission_prior_scale=1e-6)  # fmt: skip
    parameters, properties = model.initialize(
        jax.random.PRNGKey(0),
        initial_probs=jnp.asarray(work.initial),
        transition_matrix=jnp.asarray(work.transition),
        emission_means=jnp.asarray(work.emission),
        emission_scale_diags=jnp.ones((states, width)),
    )

    # compiled once, before the race: fit_em compiles again at each call
    @jax.jit
    def step(parameters, state):
        sums, values = jax.vmap(lambda one: model.e_step(parameters, one))(x)
        return *model.m_step(parameters, properties, sums, state), jnp.mean(values)

    @jax.jit
    def value_of(parameters):
        return jnp.mean(jax.vmap(lambda one: model.marginal_log_prob(parameters, one))(x))

    start = model.initialize_m_step_state(parameters, properties)
    expect_all = jax.jit(lambda parameters: jax.vmap(lambda one: model.e_step(parameters, one))(x))
    decode = jax.jit(lambda parameters: jax.vmap(lambda one: model.most_likely_states(parameters, one))(x))
    jax.block_until_ready((step(parameters, start), value_of(parameters), expect_all(parameters), decode(parameters)))

    def fit(steps: int) -> float:
        found, state = parameters, start
        for _ in range(steps):
            found, state, _ = step(found, state)
        return float(value_of(found))

    def expect(_: int) -> float:
        return float(jax.block_until_ready(expect_all(parameters))[1].mean())

    def path(_: int) -> float:
        return changes(np.asarray(decode(parameters)))

    return {"fit": fit, "expect": expect, "path": path}


def pomegranate(work: Work) -> dict[str, Callable[[int], float]]:
    from pomegranate.distributions import Categorical, Normal
    from pomegranate.hmm import DenseHMM

    states, width = work.emission.shape
    x = torch.from_numpy(work.x.reshape(*work.x.shape[:2], -1))
    x = x.long() if work.symbolic else x.float()

    def model(steps: int) -> Any:
        emission = torch.from_numpy(work.emission).float()
        parts = [
            Categorical(row.unsqueeze(0)) if work.symbolic else Normal(row, torch.ones(width), covariance_type="diag")
            for row in emission
        ]
        ends = np.full(states, 1e-6, dtype=np.float32)
        chain = {"edges": work.transition.astype(np.float32), "starts": work.initial.astype(np.float32), "ends": ends}
        return DenseHMM(parts, **chain, max_iter=steps, tol=-1e30)

    def fit(steps: int) -> float:
        peer = model(steps)
        peer.fit(x)
        return float(peer.log_probability(x).mean())

    def expect(_: int) -> float:
        return float(model(1).forward_backward(x)[-1].mean())

    return {"fit": fit, "expect": expect}


def peers(work: Work, options: argparse.Namespace) -> dict[str, dict[str, Callable[[int], float]]]:
    found = {"latentia": latentia(work)}
    if installed("hmmlearn"):
        found["hmmlearn scaling"] = hmmlearn(work, "scaling")
        if options.slow:
            found["hmmlearn log, its default"] = hmmlearn(work, "log")
    # of symbols dynamax makes an array (N, T, K, V): 51 GB of this work
    if not work.symbolic and installed("dynamax"):
        found["dynamax, jit"] = dynamax(work)
    if options.slow and installed("pomegranate"):
        found["pomegranate float32"] = pomegranate(work)
    return found


def races(options: argparse.Namespace) -> list[dict[str, Any]]:
    small = options.quick
    works = [
        sequences(100 if small else 2000, 100, 32, 1000, True),
        sequences(50 if small else 500, 200, 16, 8, False),
        sequences(1, 5_000 if small else 200_000, 16, 8, False),
    ]
    verbs = {"fit": f"{options.steps} EM steps", "expect": "an E-step", "path": "best paths"}
    found = []
    for work in works:
        contenders = peers(work, options)
        for verb, words in verbs.items():
            able = {name: does[verb] for name, does in contenders.items() if verb in does}
            timed: Contenders = {name: lambda does=does: does(options.steps) for name, does in able.items()}
            repeats = {name: 1 if "pomegranate" in name or "default" in name else options.repeats for name in timed}
            found.append(race(f"{words}: {work.words}", timed, repeats, options.threads))
    return found


def seconds_a_step(count: int, steps: int, states: int) -> float:
    work = sequences(count, steps, states, 1000, True)
    model, batch, taken = latentia_model(work), Batch(torch.from_numpy(work.x)), []
    with torch.no_grad():
        for _ in range(4):
            began = time.perf_counter()
            model.update(model.expect(batch)[0])
            taken.append(time.perf_counter() - began)
    return min(taken[1:])


def grown(options: argparse.Namespace) -> dict[str, float]:
    base = {"N": 1000, "T": 100, "K": 16}
    factors = [1, 2, 4] if options.quick else [1, 2, 4, 8]
    curves = {}
    for name in base:
        sizes = [base[name] * factor for factor in factors]
        taken = [seconds_a_step(**dict(zip(("count", "steps", "states"), {**base, name: size}.values(), strict=True)))
                 for size in sizes]  # fmt: skip
        curves[name] = ([float(size) for size in sizes], taken)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / ("hmm_quick.svg" if options.quick else "hmm.svg")
    slopes = growth(path, curves, "HMM of 1,000 symbols, an EM step from N = 1,000, T = 100, K = 16")
    if options.quick:
        path.unlink()
    print("\nslopes on log axes:", {name: round(value, 2) for name, value in slopes.items()})
    return slopes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--slow", action="store_true", help="hmmlearn's default and pomegranate too: many minutes")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="cores for everyone, as far as they use them")
    options = parser.parse_args()
    content = {"races": races(options), "slopes": grown(options)}
    if not options.quick:
        save("hmm", content, ("hmmlearn", "dynamax", "jax", "pomegranate"))


if __name__ == "__main__":
    main()
