"""latentia: latent-variable models on PyTorch, from mixtures to latent diffusion.

A latent-variable model is a joint log p(x, z) together with a way to guess z. Learning, evaluation
and every use of a model are functions of those two.

    import latentia
    from latentia.models import GaussianMixture, HMM, VAE

    model.save("customers.safetensors")
    model = latentia.load_model("customers.safetensors")
    run = latentia.open_run("runs/customers")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentia.runs.saved import load_model, open_run

__all__ = ["__version__", "load_model", "open_run"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in ("load_model", "open_run"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from latentia.runs import saved  # with torch and all models: not for `import latentia`

    return getattr(saved, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
