"""Digits with few labels: a generative classifier, by Bayes' rule, with a variational autoencoder inside.

    class_i ~ Categorical(1/10)                          known for 100 images, summed out for the others
    z_i     ~ Normal(0, I)                               of length 8: how the digit is written
    x_i     ~ Normal(sigmoid(decoder(z_i, class_i)), 0.3)   8 x 8 pixels

Images without a label say how digits look, those with one what they are called. A new image is classified by
P(class | x) = P(x | class) P(class) / P(x), each P(x | class) bounded by importance sampling from the encoder.
Each labelled image stands ten times in the training data: with 1,300 images that only have to be explained and 100 that
also have to be named, the names would else hardly count (Kingma et al. weigh them up in the objective instead).

Data: scikit-learn's digits; of 1,797 images 500 to test on, 100 with labels (ten of each class), the rest without.

`python models/ssvae_digits.py` trains on five splits and prints the accuracy on the test images beside that of logistic
regression on the same 100 labelled images.
Kingma, Rezende, Mohamed and Welling (2014), Semi-supervised learning with deep generative models.
https://arxiv.org/abs/1406.5298
"""

import sys
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import phlogiston as ph
from phlogiston.report.plots import images as pictures_of

digits = load_digits()
pixels, labels = torch.tensor(digits.images / 16.0).float(), digits.target
LATENTS, COPIES = 8, 10


def split(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with a label (100, ten a class), without (1,197) and for testing (500)."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    test, rest = shuffled[:500], shuffled[500:]
    labelled = np.concatenate([rest[labels[rest] == c][:10] for c in range(10)])
    return labelled, np.setdiff1d(rest, labelled), test


class Decoder(nn.Module):
    """z [B, 8] and a class [B] (or [10, B], all of them) -> pixels [..., B, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.from_latents, self.from_class = nn.Linear(LATENTS, 128), nn.Linear(10, 128, bias=False)
        self.out = nn.Linear(128, 64)

    def forward(self, z: Tensor, kind: Tensor) -> Tensor:
        one_hot = (kind.long().unsqueeze(-1) == torch.arange(10)).to(z.dtype)
        hidden = torch.relu(self.from_latents(z) + self.from_class(one_hot))
        made = torch.sigmoid(self.out(hidden))
        return made.reshape(*made.shape[:-1], 8, 8)


def ssvae(decoder: Decoder, num_images: int) -> None:
    """``class`` may be observed, in part or not at all."""
    pyro.module("decoder", decoder)
    with pyro.plate("image", num_images):
        kind = pyro.sample("class", dist.Categorical(torch.ones(10) / 10))
        z = pyro.sample("z", dist.Normal(torch.zeros(LATENTS), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(decoder(z, kind), 0.3).to_event(2))


def model_of(seed: int) -> ph.Model:
    """The program with the training images of a split, labelled ones ten times."""
    labelled, unlabelled, _ = split(seed)
    rows = np.concatenate([np.repeat(labelled, COPIES), unlabelled])
    known = torch.full((len(rows),), torch.nan)
    known[: COPIES * len(labelled)] = torch.tensor(np.repeat(labels[labelled], COPIES)).float()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder = Decoder()
    return ph.Model(ssvae, decoder, len(rows)).observe(x=pixels[rows]).observe(missing="latent", **{"class": known})


model = model_of(0)
svi = ph.SVI(
    guide=ph.Amortized(encoder="mlp", hidden=(128,), inputs=("x",)),
    batch_size=100,
    num_steps=1500,
    optim=ph.Adam(learning_rate=2e-3),
    stop=False,
)


def classify(fitted: ph.Fitted, images: Tensor, num_samples: int = 50) -> np.ndarray:
    """P(class | image) by Bayes' rule, [N, 10]."""
    bounds = [
        fitted.bound_log_likelihood(
            x=images, num_samples=num_samples, seed=0, **{"class": torch.full((len(images),), c)}
        )
        for c in range(10)
    ]
    log_joint = np.stack([bound.per_datum for bound in bounds], -1)  # log P(x | class) + log P(class)
    odds = np.exp(log_joint - log_joint.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def accuracies(seed: int) -> tuple[float, float]:
    """Of the generative classifier and of logistic regression, on the test images of a split."""
    labelled, _, test = split(seed)
    fitted = ph.train(model_of(seed), svi, seed=seed, progress=False)
    generative = float((classify(fitted, pixels[test]).argmax(-1) == labels[test]).mean())
    flat = pixels.flatten(1).numpy()
    regression = LogisticRegression(max_iter=2000).fit(flat[labelled], labels[labelled])
    return generative, float(regression.score(flat[test], labels[test]))


def pictures(fitted: ph.Fitted) -> dict[str, Any]:
    """One style of writing a column, one class a row: the latents are shared, the class is set."""
    z = torch.randn(12, LATENTS, generator=torch.Generator().manual_seed(0))
    decoder = fitted.model.inputs["decoder"]
    with torch.no_grad():
        kinds = torch.arange(10).repeat_interleave(12)
        made = torch.func.functional_call(decoder, fitted.state_dict("decoder"), (z.repeat(10, 1), kinds))
    title = "Each row a class, each column a style of writing"
    return {"styles": pictures_of.sheet(made.numpy(), columns=12, title=title)}


def main(seeds: int = 5) -> None:
    """Print the accuracy of both classifiers for each split."""
    found = np.array([accuracies(seed) for seed in range(seeds)])
    for seed, (generative, discriminative) in enumerate(found):
        print(f"split {seed}: generative {generative:.3f}, logistic regression {discriminative:.3f}")
    mean, spread = found.mean(0), found.std(0, ddof=1) if seeds > 1 else np.zeros(2)
    print(f"mean    : generative {mean[0]:.3f} ± {spread[0]:.3f}, logistic regression {mean[1]:.3f} ± {spread[1]:.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
