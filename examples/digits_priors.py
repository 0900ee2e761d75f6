"""Where digits live: a standard normal prior, a learned flow, and a mixture of the model's own posteriors.

    python examples/digits_priors.py

Encoder and decoder are the same, of images in 17 grey levels; what the prior knows of where the codes are is not. The
last has the standard normal prior again, and a posterior that is an inverse autoregressive flow: its bound is closer to
log p(x).
"""

from latentia.data import load
from latentia.evaluate import evaluate
from latentia.learners import Gradient
from latentia.models import VAE, VampVAE

EPOCHS = 45


def main() -> None:
    train, held_out = load("digits", values="levels").split(0.2)
    options = {"event_shape": (8, 8), "symbols": 17, "likelihood": "categorical", "latent": 6, "hidden": (64,)}
    models = {
        "standard normal": VAE(**options),
        "autoregressive flow": VAE(**options, prior="maf"),
        "VampPrior, K = 50": VampVAE(**options, pseudo_inputs=50),
        "normal, IAF posterior": VAE(**options, posterior="iaf"),
    }
    print(f"{len(held_out)} held-out digits, nats per image (K = 100)")
    print(f"{'prior':22} {'log p(x)':>9} {'ELBO':>8} {'gap':>6} {'KL':>6}")
    for name, model in models.items():
        Gradient(epochs=EPOCHS, lr=5e-3, schedule="cosine", progress=False).fit(model, train)
        found = evaluate(model, held_out, importance_samples=100)
        gap = found.log_marginal - found.elbo
        print(f"{name:22} {found.log_marginal:9.2f} {found.elbo:8.2f} {gap:6.2f} {found.kl:6.2f}")


if __name__ == "__main__":
    main()
