# pyright: reportMissingImports=false, reportMissingModuleSource=false, reportArgumentType=false
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false
"""Training steps a second of a VAE and of an IWAE, against JAX, NumPyro, Pyro, pythae and a loop written by hand.

    python benchmarks/vae_speed.py               both works on one core and on two, some thirty minutes
    python benchmarks/vae_speed.py --quick       seconds, to see that it runs
    python benchmarks/vae_speed.py --overhead    a minute: the learner against the shortest loop around our model

Works: a VAE 784-400-400-20 (ReLU), batches of 128, and an importance-weighted autoencoder 784-200-200-50 (tanh), 50
samples, batches of 20; Adam at 1e-3, on the fixed binarization of MNIST. Everyone takes the same number of steps in
chunks of 500, in a process that has so many cores and no more. They take the chunks in turn, one at work while the rest
sleep, since a shared machine is twice as fast in one minute as in the next. The figures are medians over the chunks but
the first, which may compile: of the steps a second, and of the ratio to the first contender's. Then the weights are put
into our model, and the bound is measured on held-out images, so that nobody is fast by learning less. Peers run as
their documentation says, JAX and NumPyro with the whole chunk as one compiled scan.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

CHUNK = 500


class Work(NamedTuple):
    hidden: int
    latent: int
    activation: str
    batch: int
    samples: int  # 0: the ELBO


WORKS = {"VAE": Work(400, 20, "relu", 128, 0), "IWAE": Work(200, 50, "tanh", 20, 50)}
Weights = list[Any]  # of the six linear maps, encoder and decoder: (out, in) and (out,), twelve arrays


def images(path: str, part: str):
    import numpy as np
    import scipy.io

    return scipy.io.loadmat(Path(path) / f"binarized_mnist_{part}.mat")["X"].astype(np.float32)


def training(options: argparse.Namespace, work: Work):
    import numpy as np

    x = images(options.data, "train")
    return x[np.random.default_rng(0).integers(len(x), size=CHUNK * work.batch)]


# ------------------------------------------------------------------------------------------------ contenders


def latentia(x, work: Work, chunks: int, mark, precision: str, compile: bool = False):
    import torch

    from latentia.data import load
    from latentia.learners import Gradient
    from latentia.models import VAE
    from latentia.objectives import elbo, iwae

    model = VAE(
        (784,),
        latent=work.latent,
        hidden=(work.hidden, work.hidden),
        activation=work.activation,  # type: ignore[arg-type]
    )
    objective = partial(iwae, samples=work.samples) if work.samples else elbo
    learner = Gradient(
        objective=objective,
        epochs=chunks,
        batch_size=work.batch,
        precision=precision,  # type: ignore[arg-type]
        compile=compile,
        progress=False,
    )
    learner.fit(model, load(torch.from_numpy(x)), callbacks=[lambda record: mark()])
    return [p.detach().numpy() for p in (*model.encoder.parameters(), *model.decoder.parameters())]


def by_hand(x, work: Work, chunks: int, mark, flush: bool = False):
    import torch
    from torch import nn

    torch.set_flush_denormal(flush)
    torch.manual_seed(0)
    act = nn.ReLU if work.activation == "relu" else nn.Tanh
    h, d = work.hidden, work.latent
    encoder = nn.Sequential(nn.Linear(784, h), act(), nn.Linear(h, h), act(), nn.Linear(h, 2 * d))
    decoder = nn.Sequential(nn.Linear(d, h), act(), nn.Linear(h, h), act(), nn.Linear(h, 784))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    data, draws = torch.from_numpy(x), max(work.samples, 1)
    for _ in range(chunks):
        for index in torch.randperm(len(data)).split(work.batch):
            batch = data[index]
            mean, log_scale = encoder(batch).chunk(2, -1)
            noise = torch.randn(draws, *mean.shape)
            z = mean + noise * log_scale.exp()
            logits = decoder(z)
            fit = -nn.functional.binary_cross_entropy_with_logits(
                logits, batch.expand_as(logits), reduction="none"
            ).sum(-1)
            if work.samples:
                weight = fit - 0.5 * (z**2).sum(-1) + (0.5 * noise**2 + log_scale).sum(-1)
                loss = -torch.logsumexp(weight, 0).mean()
            else:
                kl = 0.5 * (mean**2 + (2 * log_scale).exp() - 2 * log_scale - 1).sum(-1)
                loss = (kl - fit).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        mark()
    return [p.detach().numpy() for p in (*encoder.parameters(), *decoder.parameters())]


def _jax_network(work: Work):
    """Initial weights as (in, out) matrices, and the function of a network."""
    import jax
    import jax.numpy as jnp

    act = jax.nn.relu if work.activation == "relu" else jnp.tanh
    h, d = work.hidden, work.latent
    sizes = {"encoder": [784, h, h, 2 * d], "decoder": [d, h, h, 784]}

    def start(key):
        parameters = {}
        for name, widths in sizes.items():
            layers = []
            for i, o in pairwise(widths):
                key, one = jax.random.split(key)
                bound = (6 / (i + o)) ** 0.5
                layers.append((jax.random.uniform(one, (i, o), minval=-bound, maxval=bound), jnp.zeros(o)))
            parameters[name] = layers
        return parameters

    def run(layers, x):
        for i, (w, b) in enumerate(layers):
            x = x @ w + b
            x = act(x) if i + 1 < len(layers) else x
        return x

    return start, run


def _as_torch(parameters) -> Weights:
    import numpy as np

    layers = [*parameters["encoder"], *parameters["decoder"]]
    return [np.asarray(part) for w, b in layers for part in (w.T, b)]


def jax_scan(x, work: Work, chunks: int, mark):
    import jax
    import jax.numpy as jnp
    import optax

    start, run = _jax_network(work)
    optimizer = optax.adam(1e-3)

    def loss(parameters, batch, key):
        mean, log_scale = jnp.split(run(parameters["encoder"], batch), 2, -1)
        noise = jax.random.normal(key, (max(work.samples, 1), *mean.shape))
        z = mean + noise * jnp.exp(log_scale)
        logits = run(parameters["decoder"], z)
        fit = (batch * logits - jax.nn.softplus(logits)).sum(-1)
        if work.samples:
            weight = fit - 0.5 * (z**2).sum(-1) + (0.5 * noise**2 + log_scale).sum(-1)
            return -jax.nn.logsumexp(weight, 0).mean()
        return (0.5 * (mean**2 + jnp.exp(2 * log_scale) - 2 * log_scale - 1).sum(-1) - fit).mean()

    def step(carry, index):
        parameters, state, key, data = carry
        key, one = jax.random.split(key)
        slopes = jax.grad(loss)(parameters, data[index], one)
        updates, state = optimizer.update(slopes, state)
        return (optax.apply_updates(parameters, updates), state, key, data), None

    @partial(jax.jit, donate_argnums=(0, 1))
    def chunk(parameters, state, key, data):
        key, one = jax.random.split(key)
        order = jax.random.permutation(one, len(data)).reshape(-1, work.batch)
        return jax.lax.scan(step, (parameters, state, key, data), order)[0][:3]

    parameters, key, data = start(jax.random.key(0)), jax.random.key(1), jnp.asarray(x)
    state = optimizer.init(parameters)
    for _ in range(chunks):
        parameters, state, key = jax.block_until_ready(chunk(parameters, state, key, data))
        mark()
    return _as_torch(parameters)


def numpyro_scan(x, work: Work, chunks: int, mark):
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import SVI, RenyiELBO, TraceMeanField_ELBO

    start, run = _jax_network(work)
    begin = start(jax.random.key(0))

    def model(batch):
        decoder = numpyro.param("decoder", begin["decoder"])
        with numpyro.plate("batch", len(batch)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(work.latent), 1).expand([work.latent]).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=run(decoder, z)).to_event(1), obs=batch)

    def guide(batch):
        encoder = numpyro.param("encoder", begin["encoder"])
        mean, log_scale = jnp.split(run(encoder, batch), 2, -1)
        with numpyro.plate("batch", len(batch)):
            numpyro.sample("z", dist.Normal(mean, jnp.exp(log_scale)).to_event(1))

    objective = RenyiELBO(alpha=0, num_particles=work.samples) if work.samples else TraceMeanField_ELBO()
    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), objective)

    @jax.jit
    def chunk(state, key, data):
        order = jax.random.permutation(key, len(data)).reshape(-1, work.batch)
        return jax.lax.scan(lambda state, index: (svi.update(state, data[index])[0], None), state, order)[0]

    data = jnp.asarray(x)
    state = svi.init(jax.random.key(1), data[: work.batch])
    for i in range(chunks):
        state = jax.block_until_ready(chunk(state, jax.random.key(2 + i), data))
        mark()
    return _as_torch(svi.get_params(state))


def pyro_svi(x, work: Work, chunks: int, mark):
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro.infer import SVI, RenyiELBO, TraceMeanField_ELBO
    from torch import nn

    pyro.enable_validation(False)
    act = nn.ReLU if work.activation == "relu" else nn.Tanh
    h, d = work.hidden, work.latent
    encoder = nn.Sequential(nn.Linear(784, h), act(), nn.Linear(h, h), act(), nn.Linear(h, 2 * d))
    decoder = nn.Sequential(nn.Linear(d, h), act(), nn.Linear(h, h), act(), nn.Linear(h, 784))

    def model(batch):
        pyro.module("decoder", decoder)
        with pyro.plate("batch", len(batch)):
            z = pyro.sample("z", dist.Normal(torch.zeros(d), torch.ones(d)).expand([len(batch), d]).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=batch)

    def guide(batch):
        pyro.module("encoder", encoder)
        mean, log_scale = encoder(batch).chunk(2, -1)
        with pyro.plate("batch", len(batch)):
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))

    objective = (
        RenyiELBO(alpha=0, num_particles=work.samples, vectorize_particles=True, max_plate_nesting=1)
        if work.samples
        else TraceMeanField_ELBO()
    )
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), objective)
    data = torch.from_numpy(x)
    for _ in range(chunks):
        for index in torch.randperm(len(data)).split(work.batch):
            svi.step(data[index])
        mark()
    return [p.detach().numpy() for p in (*encoder.parameters(), *decoder.parameters())]


def pythae_trainer(x, work: Work, chunks: int, mark):
    import logging
    import tempfile

    import torch
    from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback
    from torch import nn

    logging.disable(logging.CRITICAL)
    act = nn.ReLU if work.activation == "relu" else nn.Tanh
    h, d = work.hidden, work.latent

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(784, h), act(), nn.Linear(h, h), act(), nn.Linear(h, 2 * d))

        def forward(self, x):
            mean, log_variance = self.net(x).chunk(2, -1)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(d, h), act(), nn.Linear(h, h), act(), nn.Linear(h, 784), nn.Sigmoid())

        def forward(self, z):
            return ModelOutput(reconstruction=self.net(z))

    class Mark(TrainingCallback):
        def on_epoch_end(self, training_config, **kwargs):
            mark()

    kind, config = (IWAE, IWAEConfig) if work.samples else (VAE, VAEConfig)
    given = {"number_samples": work.samples} if work.samples else {}
    settings = config(input_dim=(784,), latent_dim=d, reconstruction_loss="bce", **given)
    model = kind(settings, encoder=Encoder(), decoder=Decoder())
    with tempfile.TemporaryDirectory() as folder:
        trainer = BaseTrainer(
            model=model,
            train_dataset=_PythaeData(torch.from_numpy(x)),
            training_config=BaseTrainerConfig(
                output_dir=folder, num_epochs=chunks, per_device_train_batch_size=work.batch, learning_rate=1e-3,
                optimizer_cls="Adam", no_cuda=True,
            ),
            callbacks=[Mark()],
        )  # fmt: skip
        trainer.train()
    encoder, decoder = model.encoder.net, model.decoder.net
    weights = [p.detach().numpy() for p in (*encoder.parameters(), *decoder.parameters())]
    # theirs is a log-variance, ours a log standard deviation
    weights[4], weights[5] = weights[4].copy(), weights[5].copy()
    weights[4][d:] *= 0.5
    weights[5][d:] *= 0.5
    return weights


class _PythaeData:
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        from pythae.data.datasets import DatasetOutput

        return DatasetOutput(data=self.x[index])


CONTENDERS = {
    "latentia": partial(latentia, precision="medium"),
    "latentia, compiled": partial(latentia, precision="medium", compile=True),
    "latentia float32": partial(latentia, precision="highest"),
    "latentia float32, compiled": partial(latentia, precision="highest", compile=True),
    "JAX scan": jax_scan,
    "NumPyro scan": numpyro_scan,
    "PyTorch by hand": by_hand,
    "PyTorch by hand, denormals flushed": partial(by_hand, flush=True),
    "Pyro": pyro_svi,
    "pythae": pythae_trainer,
}


SLOW = ("latentia", "PyTorch by hand", "Pyro", "pythae")
"""These take their turns among themselves: the others would wait too long for theirs, and the machine change."""
FAST = tuple(name for name in CONTENDERS if name == "latentia" or name not in SLOW)


# ------------------------------------------------------------------------------------------------ one of them


def bound(weights: Weights, work: Work, options: argparse.Namespace) -> float:
    """The mean bound on held-out images under these weights, in nats: the ELBO, or the importance-weighted bound."""
    import torch

    from latentia.model import Batch
    from latentia.models import VAE
    from latentia.objectives import elbo, iwae

    model = VAE((784,), latent=work.latent, hidden=(work.hidden,) * 2, activation=work.activation)  # type: ignore[arg-type]
    parameters = (*model.encoder.parameters(), *model.decoder.parameters())
    for parameter, value in zip(parameters, weights, strict=True):
        parameter.data = torch.tensor(value)
    objective = partial(iwae, samples=work.samples) if work.samples else partial(elbo, samples=10)
    torch.manual_seed(0)
    # the file has like digits together, so every fifth of it
    x = torch.from_numpy(images(options.data, "test")[::5].copy())
    with torch.no_grad():
        return float(torch.cat([objective(model, Batch(part)).value for part in x.split(100)]).mean())


READY = "-- ready --"


def one(options: argparse.Namespace) -> None:
    """Run a contender in this process, a chunk whenever it is told to, and print what came out."""
    os.sched_setaffinity(0, set(range(options.cores)))
    work, seconds, began = WORKS[options.work], [], [0.0]

    def wait() -> None:
        print(READY, flush=True)
        sys.stdin.readline()
        began[0] = time.perf_counter()

    def mark() -> None:
        seconds.append(time.perf_counter() - began[0])
        wait()

    x = training(options, work)
    wait()
    weights = CONTENDERS[options.one](x, work, options.chunks, mark=mark)
    print(json.dumps({"seconds": seconds, "bound": bound(weights, work, options)}))


class Contender:
    """A process that takes a step of `one` at each turn."""

    def __init__(self, name: str, work: str, cores: int, options: argparse.Namespace):
        command = [
            sys.executable, __file__, "--one", name, "--work", work, "--cores", str(cores),
            "--chunks", str(options.chunks), "--data", options.data,
        ]  # fmt: skip
        threads = {"OMP_NUM_THREADS": str(cores), "MKL_NUM_THREADS": str(cores), "JAX_PLATFORMS": "cpu"}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(command, text=True, env=os.environ | threads, **pipes)
        self.found: dict[str, Any] = {}
        self.last = ""
        self.arrive()

    def arrive(self) -> None:
        """Until it waits for its next turn, or has ended."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.rstrip().endswith(READY):  # a progress bar may stand before it
                return
            self.last = line.strip() or self.last
            if line.startswith('{"seconds"'):
                self.found = json.loads(line)
        self.process.wait()

    def turn(self) -> None:
        if self.process.poll() is None:
            assert self.process.stdin is not None
            print(file=self.process.stdin, flush=True)
            self.arrive()

    def result(self) -> dict[str, Any]:
        return self.found or {"failed": self.last[:200]}


def race(names: Sequence[str], work: str, cores: int, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What came of each, all of them taking a chunk in turn: a machine's slow minute is everybody's."""
    contenders = {name: Contender(name, work, cores, options) for name in names}
    for _ in range(options.chunks + 1):  # the last turn is for the bound
        for contender in contenders.values():
            contender.turn()
    rows = {name: contender.result() for name, contender in contenders.items()}
    ours = next(iter(rows.values())).get("seconds", [])
    for row in rows.values():
        if "failed" in row:
            continue
        # the first chunk may compile
        steady = row["seconds"][1:] or row["seconds"]
        row["steps_per_second"] = CHUNK / statistics.median(steady)
        shares = [mine / theirs for mine, theirs in zip(ours, row["seconds"], strict=False)]
        row["of_the_first"] = statistics.median(shares[1:] or shares or [math.nan])
    return rows


def overhead(options: argparse.Namespace, work: Work, steps: int = 50) -> float:
    """The seconds of the learner's steps over those of our model and objective in the shortest loop there is: the
    median over turns of 50 steps, in one process on one core."""
    import torch

    from latentia.data import load
    from latentia.learners import Gradient
    from latentia.model import Batch
    from latentia.models import VAE
    from latentia.objectives import elbo, iwae

    torch.set_num_threads(1)
    data = torch.from_numpy(training(options, work)[: steps * work.batch])
    objective = partial(iwae, samples=work.samples) if work.samples else elbo
    shape: Any = {"latent": work.latent, "hidden": (work.hidden,) * 2, "activation": work.activation}
    model, again = VAE((784,), **shape), VAE((784,), **shape)
    again.start(Batch(data), torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(again.parameters(), lr=1e-3, fused=True)
    shares = []

    def bare(record: Any) -> None:
        began = time.perf_counter()
        for index in torch.randperm(len(data)).split(work.batch):
            loss = -objective(again, Batch(data.index_select(0, index))).value.mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        shares.append(record["seconds"] / (time.perf_counter() - began))

    learner = Gradient(
        objective, epochs=options.chunks * CHUNK // steps, batch_size=work.batch, precision="medium", progress=False
    )
    learner.fit(model, load(data), callbacks=[bare])
    return statistics.median(shares[len(shares) // 7 :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/binarized_mnist", help="folder of the fixed binarization")
    parser.add_argument("--chunks", type=int, default=7, help=f"of {CHUNK} steps each")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, help="leave the others out, and write nothing")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--cores", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--name", default="vae_speed", help="of the file in benchmarks/results")
    parser.add_argument("--quick", action="store_true", help="two chunks")
    parser.add_argument("--overhead", action="store_true", help="of the learner, on one core")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--work", choices=WORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        options.cores = options.cores[0]
        one(options)
        return
    from side_by_side import save

    if not Path(options.data).is_dir():
        sys.exit(f"{options.data} is not here: name the folder of the fixed binarization of MNIST with --data")
    options.chunks = 2 if options.quick else options.chunks
    if options.overhead:
        shares = {work: overhead(options, WORKS[work]) for work in options.works}
        print(*(f"{work}: {share:.3f} of the shortest loop's time" for work, share in shares.items()), sep="\n")
        if not options.quick:
            save("vae_speed_overhead", {"of_the_shortest_loop": shares}, ())
        return
    races = []
    # on two cores the slow ones are not asked: they are far behind on one, and some have nothing for another to do
    groups = [(FAST, cores) for cores in options.cores] + [(SLOW, 1)] * (1 in options.cores)
    for names, cores in [(options.only, cores) for cores in options.cores] if options.only else groups:
        for work in options.works:
            print(f"\n{work}, {cores} core{'s' if cores > 1 else ''}, {options.chunks * CHUNK} steps", flush=True)
            rows = race(names, work, cores, options)
            for name, row in rows.items():
                told = "{steps_per_second:8.1f} steps/s  {of_the_first:5.2f} of the first   bound {bound:8.2f}"
                print(f"  {name:36} {row.get('failed') or told.format(**row)}", flush=True)
            races.append({"work": work, "cores": cores, "contenders": rows})
            if not (options.quick or options.only):
                save(options.name, {"races": races}, ("jax", "numpyro", "optax", "pyro-ppl", "pythae"))


if __name__ == "__main__":
    main()
