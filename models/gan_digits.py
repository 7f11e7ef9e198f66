"""Handwritten digits from a convolutional generator, trained by comparison; with the class given; at any size.

    z_i ~ Normal(0, I)                      of length 16
    x_i = G(z_i)                            8 x 8 (or 28 x 28, any multiple of four) pixels in [0, 1]

and, conditionally, c_i ~ Categorical(1/10, ...) and x_i = G(z_i, c_i), with the class passed to the critic too.

Data: scikit-learn's copy of the UCI digits, 1,797 images of 8 x 8 pixels with 17 levels of grey; 1,500 to train on and
297 that nothing is trained on. Larger sizes are these images, interpolated; or, for 28 x 28, MNIST's 10,000 test images
where PHLOGISTON_DATA is a folder with mnist_t10k.npz.

`vae` is the same network as the decoder of a variational autoencoder, y_i ~ Normal(G(z_i), sigma): the only difference
is how it learns. `python models/gan_digits.py` trains all three and judges them on one page, in runs/gan_digits;
with --large it trains the generator of 28 x 28 instead.
Radford, Metz and Chintala (2016), DCGAN. https://arxiv.org/abs/1511.06434
Miyato and Koyama (2018), cGANs with projection discriminator. https://arxiv.org/abs/1802.05637
"""

import os
import sys
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import phlogiston as ph
from phlogiston.report.plots.images import sheet

latents, classes, channels = 16, 10, 32
digits = load_digits()
shuffled = np.random.default_rng(0).permutation(len(digits.target))
train, test = shuffled[:1500], shuffled[1500:]
x_train, x_test = (torch.tensor(digits.images[rows] / 16.0).float() for rows in (train, test))
labels_train, labels_test = (torch.tensor(digits.target[rows]) for rows in (train, test))


class Generator(nn.Module):
    """z [B, 16] (and classes [B]) -> pixels [B, size, size] in [0, 1]: by two transposed convolutions."""

    def __init__(self, size: int = 8, conditional: bool = False) -> None:
        super().__init__()
        start = size // 4
        self.classes = classes if conditional else 0
        self.body = nn.Sequential(
            nn.Linear(latents + self.classes, 2 * channels * start**2),
            nn.LeakyReLU(0.2),
            nn.Unflatten(1, (2 * channels, start, start)),
            nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(channels, 1, 4, stride=2, padding=1),
            nn.Sigmoid(),
            nn.Flatten(1, 2),
        )

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        if label is not None:
            known = (label.unsqueeze(-1) == torch.arange(self.classes)).to(z.dtype)
            z = torch.cat([z.expand(*known.shape[:-1], latents), known], -1)
        lead = z.shape[:-1]  # the classes too, where they are summed out
        found = self.body(z.reshape(-1, z.shape[-1]))
        return found.reshape(*lead, *found.shape[1:])


class Critic(nn.Module):
    """Images [B, size, size] (and classes [B]) -> one number each; a class moves it along a direction of its own."""

    def __init__(self, size: int = 8, conditional: bool = False) -> None:
        super().__init__()
        width = 2 * channels * (size // 4) ** 2
        self.body = nn.Sequential(
            nn.Conv2d(1, channels, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        self.out = nn.Linear(width, 1)
        self.directions = nn.Parameter(0.1 * torch.randn(classes, width)) if conditional else None

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        features = self.body(x.unsqueeze(1))
        found = self.out(features).squeeze(-1)
        if label is None:
            return found
        known = (label.reshape(-1, 1) == torch.arange(classes)).to(x.dtype)
        return found + (features * (known @ self.directions)).mean(-1)


def gan_digits(n: int, net: nn.Module) -> None:
    """``n`` images."""
    pyro.module("generator", net)
    with pyro.plate("image", n):
        z = pyro.sample("z", dist.Normal(torch.zeros(latents), 1.0).to_event(1))
        pyro.deterministic("x", net(z), event_dim=2)


def conditional_digits(n: int, net: nn.Module) -> None:
    """``n`` images, the class decided before any pixel."""
    pyro.module("generator", net)
    with pyro.plate("image", n):
        label = pyro.sample("label", dist.Categorical(torch.ones(classes) / classes))
        z = pyro.sample("z", dist.Normal(torch.zeros(latents), 1.0).to_event(1))
        pyro.deterministic("x", net(z, label), event_dim=2)


def vae(n: int, net: nn.Module) -> None:
    """The same generator under a measurement, whose spread is learned too."""
    pyro.module("generator", net)
    sigma = pyro.param("sigma", torch.tensor(0.2), constraint=dist.constraints.positive)
    with pyro.plate("image", n):
        z = pyro.sample("z", dist.Normal(torch.zeros(latents), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(net(z), sigma).to_event(2))


def generator(size: int = 8, conditional: bool = False) -> Generator:
    """With the same initial parameters every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Generator(size, conditional)


def critic(size: int = 8, conditional: bool = False) -> Critic:
    """With the same initial parameters every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Critic(size, conditional)


def resized(images: Tensor, size: int) -> Tensor:
    """Images ``[N, 8, 8]`` interpolated to ``[N, size, size]``."""
    return F.interpolate(images.unsqueeze(1), size=(size, size), mode="bilinear").squeeze(1)


def adversarial(size: int = 8, conditional: bool = False, num_steps: int = 4000) -> ph.Adversarial:
    """The trainer's settings: the default game between these networks."""
    return ph.Adversarial(
        critic=critic(size, conditional), num_steps=num_steps, batch_size=64, r1=0.1, r2=0.1, ema=0.995,
        optim=ph.Adam(learning_rate=1e-3, beta1=0.0, beta2=0.99),
    )  # fmt: skip


model = ph.Model(gan_digits, len(x_train), generator()).observe(x=x_train)
conditional_model = ph.Model(conditional_digits, len(x_train), generator(conditional=True)).observe(
    x=x_train, label=labels_train
)
vae_model = ph.Model(vae, len(x_train), generator()).observe(y=x_train)
svi = ph.SVI(guide=ph.Amortized(encoder="conv", hidden=(128,)), batch_size=100, num_steps=3000, cosine=True)


def images_of(size: int) -> Tensor:
    """Images to train on, ``[N, size, size]``: MNIST's where they are at hand and of that size, else interpolated."""
    stored = Path(os.environ.get("PHLOGISTON_DATA", "")) / "mnist_t10k.npz"
    if size == 28 and stored.is_file():
        return torch.from_numpy(np.load(stored)["images"].reshape(-1, 28, 28) / np.float32(255.0))
    return resized(x_train, size)


def model_of(size: int) -> ph.Model:
    """The generator of larger images."""
    images = images_of(size)
    return ph.Model(gan_digits, len(images), generator(size)).observe(x=images)


def as_generator(fitted: ph.Fitted) -> ph.Model:
    """What a variational autoencoder draws before it adds noise: its decoder in the place of the generator."""
    learned = {name: value for name, value in fitted.params.items() if name.startswith("generator$$$")}
    return ph.Model(gan_digits, len(x_train), generator()).with_parameters(learned)


class Classifier:
    """A small network trained on the digits of the run: ``features`` to measure in, ``scores`` to count classes."""

    def __init__(self, seed: int = 0, steps: int = 600) -> None:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU())
            self.head = nn.Linear(32, classes)
            optimiser = torch.optim.AdamW([*self.body.parameters(), *self.head.parameters()], lr=2e-3, weight_decay=0.1)
            for _ in range(steps):
                rows = torch.randint(len(x_train), (128,))
                noisy = x_train[rows] + 0.1 * torch.randn(128, 8, 8)
                optimiser.zero_grad()
                F.cross_entropy(self.scores(noisy), labels_train[rows]).backward()
                optimiser.step()
        with torch.no_grad():
            self.unit = self.body(x_train).square().mean().sqrt()

    def features(self, x: Tensor) -> Tensor:
        """Images [n, 8, 8] -> [n, 32], with mean square one on the data."""
        return self.body(x) / self.unit

    def scores(self, x: Tensor) -> Tensor:
        """Images [n, 8, 8] -> [n, 10]."""
        return self.head(self.body(x))

    def accuracy(self) -> float:
        """On the held-out images."""
        with torch.no_grad():
            return float((self.scores(x_test).argmax(-1) == labels_test).double().mean())


def obeyed(fitted: ph.Fitted, classifier: Classifier, count: int = 500) -> float:
    """Share of a conditional generator's draws that the classifier puts into the class that was asked for."""
    made = fitted.generate(count, seed=1)
    with torch.no_grad():
        return float((classifier.scores(made["x"].float()).argmax(-1) == made["label"].long()).double().mean())


def by_class(fitted: ph.Fitted, each: int = 12) -> np.ndarray:
    """Draws of a conditional generator, ``each`` of every class: ``[10 * each, 8, 8]``."""
    made = fitted.generate(60 * each, seed=2)
    rows = [made["x"][made["label"] == c][:each] for c in range(classes)]
    return torch.cat(rows).numpy()


def judged(generators: dict[str, ph.Fitted | ph.Model], classifier: Classifier, **settings: object) -> object:
    """The generators on one page, in the features of a classifier of the run."""
    return ph.compare_generators(
        generators,
        x_test,
        other_data=x_train,
        features=classifier.features,
        classify=classifier.scores,
        postprocess=lambda x: (16.0 * x).round() / 16.0,  # to the 17 levels of grey that the data have
        seed=0,
        **settings,
    )


def small(out: Path) -> None:
    """Three generators of 8 x 8 pixels on one page."""
    gan = ph.train(model, adversarial(), seed=0)
    given = ph.train(conditional_model, adversarial(conditional=True), seed=0)
    encoded = ph.train(vae_model, svi, seed=0)
    for name, fitted in {"GAN": gan, "conditional GAN": given, "VAE": encoded}.items():
        print(f"{name}: {fitted.stop_reason}, {fitted.seconds:.0f} s on tier {fitted.engine}")
    classifier = Classifier()
    print(f"the classifier is right on {classifier.accuracy():.1%} of held-out digits, ", end="")
    print(f"and sees the class that was asked for in {obeyed(given, classifier):.1%} of conditional draws")
    found = judged({"GAN": gan, "conditional GAN": given, "VAE": as_generator(encoded)}, classifier)
    print(found, found.class_counts(), sep="\n\n")
    print("page:", found.report(out / "page.html"))
    found.plot().savefig(out / "page.png", dpi=130)
    sheet(by_class(given), columns=12, title="The conditional generator, a class a row").savefig(out / "classes.png")


def large(out: Path) -> None:
    """One generator of 28 x 28 pixels."""
    fitted = ph.train(model_of(28), adversarial(28, num_steps=3000), seed=0)
    drawn = fitted.generate(96, seed=0)["x"].numpy()
    sheet(drawn, columns=16, title="28 x 28 pixels").savefig(out / "large.png", dpi=130)
    print(f"28 x 28, from {len(images_of(28))} images: {fitted.stop_reason}, {fitted.seconds:.0f} s, {fitted.warnings}")


if __name__ == "__main__":
    folder = Path("runs/gan_digits")
    folder.mkdir(parents=True, exist_ok=True)
    large(folder) if "--large" in sys.argv else small(folder)
