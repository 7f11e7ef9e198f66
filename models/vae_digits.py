"""A variational autoencoder of handwritten digits, with a perceptron or with convolutions.

    z_i ~ Normal(0, I)                     of length 2 or 8
    x_i ~ Bernoulli(logits = decoder(z_i)) 8 x 8 pixels

Data: scikit-learn's copy of the UCI digits, 1,797 images of 8 x 8 pixels, black above one half;
1,500 to train on and 297 to test on.

`python models/vae_digits.py` trains both, prints the bounds on the test images and writes pictures to runs/vae_digits.
Kingma and Welling (2014), Auto-encoding variational Bayes. https://arxiv.org/abs/1312.6114
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy.stats import norm
from sklearn.datasets import load_digits
from torch import Tensor, nn

import phlogiston as ph
from phlogiston.report.plots import images as pictures_of

digits = load_digits()
shuffled = np.random.default_rng(0).permutation(len(digits.target))
train, test = shuffled[:1500], shuffled[1500:]
x_train, x_test = (torch.tensor(digits.images[rows] > 7.5).float() for rows in (train, test))
labels_train, labels_test = digits.target[train], digits.target[test]


def perceptron(latents: int) -> nn.Module:
    """z [B, latents] -> logits [B, 8, 8]."""
    return nn.Sequential(nn.Linear(latents, 128), nn.ReLU(), nn.Linear(128, 64), nn.Unflatten(1, (8, 8)))


def convolutional(latents: int) -> nn.Module:
    """z [B, latents] -> logits [B, 8, 8], by way of a 4 x 4 image of 32 channels."""
    return nn.Sequential(
        nn.Linear(latents, 32 * 16),
        nn.ReLU(),
        nn.Unflatten(1, (32, 4, 4)),
        nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 1, 3, padding=1),
        nn.Flatten(1, 2),
    )


def vae(decoder: nn.Module, latents: int, num_images: int) -> None:
    """``decoder`` maps [B, latents] to logits [B, 8, 8]."""
    pyro.module("decoder", decoder)
    with pyro.plate("image", num_images):
        z = pyro.sample("z", dist.Normal(torch.zeros(latents), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(2))


def model_of(build: Any, latents: int, images: Tensor = x_train) -> ph.Model:
    """The program with an untrained decoder, observing some images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = build(latents)
    return ph.Model(vae, decoder, latents, len(images)).observe(x=images)


model = model_of(perceptron, 2)
conv_model = model_of(convolutional, 8)
svi = ph.SVI(guide=ph.Amortized(encoder="mlp", hidden=(128,)), batch_size=100, num_steps=6000, cosine=True)
conv_svi = ph.SVI(guide=ph.Amortized(encoder="conv", hidden=(128,)), batch_size=100, num_steps=3000, cosine=True)


def decoded(fitted: ph.Fitted, z: Tensor) -> np.ndarray:
    """Pixel probabilities at latents [..., latents]: [..., 8, 8]."""
    decoder = fitted.model.inputs["decoder"]
    weights = fitted.state_dict("decoder")
    with torch.no_grad():
        logits = torch.func.functional_call(decoder, weights, (z.reshape(-1, z.shape[-1]).float(),))
    return torch.sigmoid(logits).reshape(*z.shape[:-1], 8, 8).numpy()


def pictures(fitted: ph.Fitted) -> dict[str, Any]:
    """Samples, reconstructions of test images, and the latent plane where there are two latents."""
    drawn = fitted.generate(96, seed=0)
    means = fitted.posterior(x=x_test, num_samples=50, seed=0).draws["z"].mean((0, 1))
    made = {
        "samples": pictures_of.sheet(
            decoded(fitted, drawn["z"]), columns=16, title="Draws from the trained prior: the probability of each pixel"
        ),
        "reconstructions": pictures_of.reconstructions(x_test[:16].numpy(), decoded(fitted, means[:16])),
    }
    if means.shape[-1] == 2:
        grid = torch.tensor(norm.ppf(np.linspace(0.02, 0.98, 16))).float()
        plane = torch.stack(torch.meshgrid(grid, -grid, indexing="xy"), -1)
        made["latent_plane"] = pictures_of.latent_plane(
            means.numpy(), labels_test, title="Where the encoder puts test digits, which it was not told the classes of"
        )
        made["manifold"] = pictures_of.manifold(decoded(fitted, plane))
    return made


def report(name: str, fitted: ph.Fitted, folder: Path) -> None:
    """Print the bounds on the test images, and write the pictures."""
    bound, likelihood = (
        fitted.estimate_elbo(x=x_test, seed=0),
        fitted.bound_log_likelihood(x=x_test, num_samples=500, seed=0),
    )
    print(f"{name}: ELBO {bound.mean.value:.2f}, log likelihood (K = 500) {likelihood.mean.value:.2f} nats an image")
    print(f"  {fitted.usage(x=x_test)}; {fitted.stop_reason}; {fitted.seconds:.0f} s on tier {fitted.engine}")
    for title, figure in pictures(fitted).items():
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}_{title}.png", dpi=130)


if __name__ == "__main__":
    out = Path("runs/vae_digits")
    report("perceptron", ph.train(model, svi, seed=0), out)
    report("convolutions", ph.train(conv_model, conv_svi, seed=0), out)
