"""A diffusion in the place of a VAE's prior: the codes of digits are no standard normal.

    python examples/digits_diffusion.py

The VAE is fitted with little weight on its KL, so that its codes keep what an image is; of such codes the standard
normal knows nothing, and a diffusion is learned over them. Both have the same decoder and posterior: by how much the
bounds differ is what the prior is worth.
"""

from functools import partial

from latentia.data import load
from latentia.evaluate import evaluate
from latentia.learners import Gradient
from latentia.models import VAE, LatentDiffusion
from latentia.objectives import elbo
from latentia.tasks import generate


def main() -> None:
    train, held_out = load("digits", values="levels").split(0.2)
    vae = VAE((8, 8), symbols=17, likelihood="categorical", latent=6, hidden=(64,))
    learner = {"lr": 5e-3, "schedule": "cosine", "progress": False}
    Gradient(partial(elbo, beta=0.2), epochs=40, **learner).fit(vae, train)
    prior = LatentDiffusion(vae, hidden=64, layers=2, steps=100)
    Gradient(elbo, epochs=60, **learner).fit(prior, train)
    before = evaluate(vae, held_out, importance_samples=50)
    after = evaluate(prior, held_out, importance_samples=16)
    print(f"{len(held_out)} held-out digits, nats per image")
    print(f"normal prior      bound {before.elbo:7.2f}   KL {before.kl:5.2f}")
    noise = after.log_marginal_mc_se
    print(
        f"diffusion prior   bound {after.log_marginal:7.2f}   KL at most {after.kl:5.2f}   (± {noise:.2f} of sampling)"
    )
    for name, model in (("normal prior", vae), ("diffusion prior", prior)):
        x = generate(model, 6, seed=1)[0].x
        print(f"\ndraws, {name}")
        for row in range(8):
            print("  ".join("".join(" .:+#"[(int(value) + 3) // 4] for value in image[row]) for image in x))


if __name__ == "__main__":
    main()
