"""Memory and time of the evaluation of 10,000 MNIST-sized images with 1,000 importance samples each.

    python benchmarks/evaluation_memory.py                          some minutes on one core
    python benchmarks/evaluation_memory.py --images 100 --samples 50
    python benchmarks/evaluation_memory.py --peer_python /somewhere/bin/python      an interpreter that has pythae

Each contender is a process of its own with the same network, 784-200-200-50 tanh and Bernoulli pixels, and the same
random images; its figures are the peak of its resident memory (VmHWM, Linux; Python and torch are some 400 MB of it)
and the time of the evaluation alone, on the clock and on the processor (another's work on the machine counts in the
first). pythae's `get_nll` takes one image at a time: it runs on a part, named in the
result, and its time for all of them is the multiple. It is left out where pythae is not installed.

Its `get_nll` evaluates Bernoulli pixels by binary_cross_entropy of the decoder's sigmoid, in float32, so that the two
need not agree in the last digits; here the weights are random in any case.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Any

from side_by_side import save

LATENTIA = """
import sys, time, torch
from latentia.data import load
from latentia.evaluate import log_marginal
from latentia.models import VAE
images, samples, threads = map(int, sys.argv[1:4])
torch.set_num_threads(threads)
torch.manual_seed(0)
model = VAE((28, 28), latent=50, hidden=(200, 200))
x = (torch.rand(images, 28, 28) < 0.13).float()
data = load(x, values="binary", kind="image")
began, used = time.perf_counter(), time.process_time()
value = log_marginal(model, data, importance_samples=samples).value.mean()
seconds, used = time.perf_counter() - began, time.process_time() - used
"""
PYTHAE = """
import sys, time, torch
from torch import nn
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
images, samples, threads = map(int, sys.argv[1:4])
torch.set_num_threads(threads)
torch.manual_seed(0)
class Encoder(BaseEncoder):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(784, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh())
        self.mean, self.log_variance = nn.Linear(200, 50), nn.Linear(200, 50)
    def forward(self, x):
        h = self.layers(x.flatten(1))
        return ModelOutput(embedding=self.mean(h), log_covariance=self.log_variance(h))
class Decoder(BaseDecoder):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(50, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(),
                                    nn.Linear(200, 784), nn.Sigmoid())
    def forward(self, z):
        return ModelOutput(reconstruction=self.layers(z).reshape(-1, 1, 28, 28))
model = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=50, reconstruction_loss="bce"), Encoder(), Decoder()).eval()
x = (torch.rand(images, 1, 28, 28) < 0.13).float()
began, used = time.perf_counter(), time.process_time()
with torch.no_grad():
    value = model.get_nll(x, n_samples=samples, batch_size=min(samples, 100))
seconds, used = time.perf_counter() - began, time.process_time() - used
"""
TAIL = """
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(peak / 1000, seconds, used, float(value))
"""


def measured(python: str, code: str, images: int, samples: int, threads: int) -> dict[str, Any]:
    words = [python, "-c", code + TAIL, str(images), str(samples), str(threads)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    peak, seconds, used, value = map(float, done.stdout.split()[-4:])
    said = {"images": images, "samples": samples, "peak_megabytes": peak, "seconds": seconds}
    return {**said, "processor_seconds": used, "mean": value}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--peer_images", type=int, default=100, help="images that pythae evaluates")
    parser.add_argument("--peer_python", default=sys.executable, help="the interpreter that has pythae")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", default="evaluation_memory", help="of the file in benchmarks/results")
    asked = parser.parse_args()
    found = {"latentia": measured(sys.executable, LATENTIA, asked.images, asked.samples, asked.threads)}
    if subprocess.run([asked.peer_python, "-c", "import pythae"], capture_output=True, check=False).returncode:
        print(f"pythae is not installed for {asked.peer_python}: it is left out")
    else:
        part = min(asked.peer_images, asked.images)
        found["pythae"] = measured(asked.peer_python, PYTHAE, part, asked.samples, asked.threads)
    for name, row in found.items():
        each = row["processor_seconds"] / row["images"]
        row["processor_seconds_for_all"] = each * asked.images
        print(f"{name:10} peak {row['peak_megabytes']:7.0f} MB  {row['images']:6,} images in {row['seconds']:8.1f} s  ")
        print(f"{'':10} {1000 * each:.2f} ms of processor an image, {each * asked.images:.0f} s for {asked.images:,}")
    save(asked.name, {"threads": asked.threads, "contenders": found}, ("pythae",))


if __name__ == "__main__":
    main()
