"""The variational autoencoder of MNIST: 784-400-20, pixels black or white.

    z_i ~ Normal(0, I)                        of length 20
    x_i ~ Bernoulli(logits = decoder(z_i))    28 x 28 pixels, flattened

Data: all 70,000 images through scikit-learn's `fetch_openml` (60,000 to train on), or, where PHLOGISTON_DATA is a
folder with mnist_t10k.npz, its 10,000 (8,000 to train on, 2,000 to test on). A pixel is black above one half.

`python models/vae_mnist.py [epochs]` trains, prints the bounds on test images and writes pictures to runs/vae_mnist.
Kingma and Welling (2014), Auto-encoding variational Bayes. https://arxiv.org/abs/1312.6114
LeCun, Cortes and Burges, The MNIST database of handwritten digits (CC BY-SA 3.0).
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import phlogiston as ph
from phlogiston.report.plots import images as pictures_of

LATENTS, HIDDEN = 20, 400


def data() -> tuple[Tensor, Tensor]:
    """Training and test images, [N, 784], 0 or 1."""
    stored = Path(os.environ.get("PHLOGISTON_DATA", "")) / "mnist_t10k.npz"
    if stored.is_file():
        images, count = np.load(stored)["images"].reshape(-1, 784), 8000
    else:
        from sklearn.datasets import fetch_openml

        images, count = fetch_openml("mnist_784", version=1, as_frame=False, parser="liac-arff").data, 60_000
    black = torch.from_numpy(np.asarray(images, dtype=np.float32) / 255.0 > 0.5).float()
    return black[:count].contiguous(), black[count:].contiguous()


def vae(decoder: nn.Module, num_images: int) -> None:
    """``decoder`` maps [B, 20] to logits [B, 784]."""
    pyro.module("decoder", decoder)
    with pyro.plate("image", num_images):
        z = pyro.sample("z", dist.Normal(torch.zeros(LATENTS), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1))


def model_of(images: Tensor, seed: int = 0) -> ph.Model:
    """The program with an untrained decoder, observing some images."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder = nn.Sequential(nn.Linear(LATENTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 784))
    return ph.Model(vae, decoder, len(images)).observe(x=images)


def svi_of(num_images: int, epochs: int, **settings: Any) -> ph.SVI:
    """Batches of 128, Adam at 0.001."""
    steps = epochs * -(-num_images // 128)
    return ph.SVI(guide=ph.Amortized(hidden=(HIDDEN,)), batch_size=128, num_steps=steps, stop=False, **settings)


def decoded(fitted: ph.Fitted, z: Tensor) -> np.ndarray:
    """Pixel probabilities at latents [B, 20]: [B, 28, 28]."""
    with torch.no_grad():
        logits = torch.func.functional_call(fitted.model.inputs["decoder"], fitted.state_dict("decoder"), (z.float(),))
    return torch.sigmoid(logits).reshape(-1, 28, 28).numpy()


def pictures(fitted: ph.Fitted, images: Tensor) -> dict[str, Any]:
    """Samples, and reconstructions of some images."""
    means = fitted.posterior(x=images[:16], num_samples=100, seed=0).draws["z"].mean((0, 1))
    drawn = decoded(fitted, fitted.generate(96, seed=0)["z"])
    return {
        "samples": pictures_of.sheet(
            drawn, columns=16, title="Draws from the trained prior: the probability of a pixel"
        ),
        "reconstructions": pictures_of.reconstructions(images[:16].reshape(-1, 28, 28).numpy(), decoded(fitted, means)),
    }


def main(epochs: int) -> None:
    """Train, print the bounds on test images, write the pictures."""
    train, test = data()
    fitted = ph.train(model_of(train), svi_of(len(train), epochs), seed=0)
    print(
        f"test ELBO {fitted.estimate_elbo(x=test, seed=0).mean.value:.2f} nats an image, after {fitted.seconds:.0f} s"
    )
    print(fitted.bound_log_likelihood(x=test[:1000], num_samples=500, seed=0))
    print(fitted.usage(x=test))
    print(fitted.split_gap(x=test[:100], seed=0))
    folder = Path("runs/vae_mnist")
    folder.mkdir(parents=True, exist_ok=True)
    for title, figure in pictures(fitted, test).items():
        figure.savefig(folder / f"{title}.png", dpi=130)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
