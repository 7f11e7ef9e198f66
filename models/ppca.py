"""Probabilistic principal components: one point in four dimensions, explained by two hidden coordinates.

    z ~ Normal(0, I)                          of length 2
    x ~ Normal(W z, sqrt(sigma2) I)           of length 4, with the loadings W and sigma2 known

Data: one invented point and loading matrix. `linear_vae` learns W, the mean and sigma from irises: the same model with
an amortised guide, whose maximum Tipping and Bishop give in closed form (`maximum`).

Reference: with M = W'W + sigma2 I, z | x ~ MultivariateNormal(M^-1 W'x, sigma2 M^-1), and
x ~ MultivariateNormal(0, WW' + sigma2 I). The posterior is correlated: no guide with independent coordinates
comes nearer than 0.045032 nats to the evidence.
Tipping and Bishop (1999), Probabilistic principal component analysis. https://doi.org/10.1111/1467-9868.00196
"""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from sklearn.datasets import load_iris
from torch import Tensor, nn

import phlogiston as ph

loadings = torch.tensor([[1.0, 0.0], [0.5, 1.0], [0.0, -1.0], [0.3, 0.2]], dtype=torch.float64)
sigma2 = torch.tensor(0.25, dtype=torch.float64)
x = torch.tensor([1.0, 0.5, -0.2, 0.4], dtype=torch.float64)


def ppca(loadings: Tensor, sigma2: Tensor) -> None:
    """``loadings`` has shape [features, components]; ``sigma2`` is the noise variance, a scalar."""
    z = pyro.sample("z", dist.Normal(loadings.new_zeros(loadings.shape[1]), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z @ loadings.T, sigma2.sqrt()).to_event(1))


def linear_vae(decoder: nn.Linear, num_rows: int) -> None:
    """The same program for many rows, with loadings, mean and noise to be learned."""
    pyro.module("decoder", decoder)
    sigma = pyro.param("sigma", torch.tensor(1.0), constraint=dist.constraints.positive)
    with pyro.plate("row", num_rows):
        z = pyro.sample("z", dist.Normal(torch.zeros(decoder.in_features), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(decoder(z), sigma).to_event(1))


def maximum(rows: np.ndarray, components: int) -> float:
    """The largest log likelihood that any parameters give, in nats a row."""
    features = rows.shape[1]
    spectrum = np.sort(np.linalg.eigvalsh(np.cov(rows.T, bias=True)))[::-1]
    noise = spectrum[components:].mean()
    log_det = np.log(spectrum[:components]).sum() + (features - components) * np.log(noise)
    return float(-0.5 * (features * np.log(2.0 * np.pi) + log_det + features))


def linear_vae_model() -> ph.Model:
    """The linear VAE on standardised irises."""
    rows = load_iris().data
    rows = torch.tensor((rows - rows.mean(0)) / rows.std(0)).float()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = nn.Linear(2, 4)
    return ph.Model(linear_vae, decoder, len(rows)).observe(x=rows)


def _reference() -> ph.Reference:
    w, noise, point = loadings.numpy(), float(sigma2), x.numpy()
    inverse = np.linalg.inv(w.T @ w + noise * np.eye(2))
    marginal = w @ w.T + noise * np.eye(4)
    distance = point @ np.linalg.solve(marginal, point)
    return ph.Reference(
        mean={"z": inverse @ w.T @ point},
        sd={"z": np.sqrt(noise * np.diag(inverse))},
        log_evidence=float(-0.5 * (4.0 * np.log(2.0 * np.pi) + np.linalg.slogdet(marginal)[1] + distance)),
        source="closed form: linear Gaussian posterior",
        regenerate="models/ppca.py, _reference()",
    )


model = ph.Model(ppca, loadings, sigma2).observe(x=x)
reference = _reference()


if __name__ == "__main__":
    linear = linear_vae_model()
    svi = ph.SVI(guide=ph.Amortized(hidden=()), num_steps=3000, optim=ph.Adam(learning_rate=0.02), cosine=True)
    learned = ph.train(linear, svi, seed=0).estimate_elbo(num_samples=100, seed=0).mean
    best = maximum(linear.observed["x"].double().numpy(), 2)
    print(f"linear VAE: ELBO {learned.value:.4f} nats a row; maximum of principal components {best:.4f}")
