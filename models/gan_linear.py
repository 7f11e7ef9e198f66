"""A linear generator of irises: the adversarial principal components, whose posterior is known in closed form.

    z_n ~ Normal(0, I)         of length 2
    x_n = W z_n + b            of length 4, with W and b learned from comparison with data

Data: scikit-learn's iris, 150 flowers, standardised.

A generator has no density; with a measurement of its output around it, y ~ Normal(x, sigma I), it is the model of
probabilistic principal components (models/ppca.py). So what inference makes of the trained generator can be checked:
with M = I + W'W / sigma^2, z | y ~ MultivariateNormal(M^-1 W'(y - b) / sigma^2, M^-1) and
y ~ MultivariateNormal(b, WW' + sigma^2 I).
Tipping and Bishop (1999), Probabilistic principal component analysis. https://doi.org/10.1111/1467-9868.00196

`python models/gan_linear.py` trains it, inverts a flower of which one length is missing, and prints both answers.
"""

from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from sklearn.datasets import load_iris
from torch import nn

import phlogiston as ph

iris = load_iris()
data = torch.tensor((iris.data - iris.data.mean(0)) / iris.data.std(0)).float()
latents, noise = 2, 0.3


def gan_linear(n: int, net: nn.Module) -> None:
    """``n`` flowers from a linear network."""
    pyro.module("generator", net)
    with pyro.plate("flower", n):
        z = pyro.sample("z", dist.Normal(torch.zeros(latents), 1.0).to_event(1))
        pyro.deterministic("x", net(z), event_dim=1)


def network(seed: int = 0) -> nn.Module:
    """Latents ``[..., 2]`` to flowers ``[..., 4]``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(latents, data.shape[1])


model = ph.Model(gan_linear, len(data), network()).observe(x=data)
adversarial = ph.Adversarial(num_steps=2000, batch_size=75, engine="graph")


@dataclass(frozen=True)
class Exact:
    """Posterior mean and standard deviation of the latents of one flower, its completion, and log p(y)."""

    mean: np.ndarray
    sd: np.ndarray
    completed: np.ndarray
    log_evidence: float


def exact(fitted: ph.Fitted, flower: torch.Tensor, sigma: float = noise) -> Exact:
    """In closed form, from the learned parameters; NaN marks lengths that were not seen."""
    learned = {name: value.double().numpy() for name, value in fitted.state_dict("generator").items()}
    whole, shift, y = learned["weight"], learned["bias"], flower.double().numpy()
    seen = ~np.isnan(y)
    w, rest = whole[seen], y[seen] - shift[seen]
    covariance = np.linalg.inv(np.eye(latents) + w.T @ w / sigma**2)
    mean = covariance @ w.T @ rest / sigma**2
    marginal = w @ w.T + sigma**2 * np.eye(seen.sum())
    distance = rest @ np.linalg.solve(marginal, rest)
    log_evidence = -0.5 * (seen.sum() * np.log(2.0 * np.pi) + np.linalg.slogdet(marginal)[1] + distance)
    return Exact(mean, np.sqrt(np.diag(covariance)), shift + whole @ mean, float(log_evidence))


def angles(fitted: ph.Fitted) -> np.ndarray:
    """Between the learned plane and that of the first two principal components, in degrees."""
    learned, _ = np.linalg.qr(fitted.state_dict("generator")["weight"].double().numpy())
    principal = np.linalg.svd(data.double().numpy(), full_matrices=False)[2][:latents].T
    cosines = np.linalg.svd(learned.T @ principal, compute_uv=False)
    return np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))


if __name__ == "__main__":
    fitted = ph.train(model, adversarial, seed=0)
    print(f"angles to the principal plane: {angles(fitted).round(1)} degrees, {fitted.seconds:.0f} s")
    flower = data[80].clone()
    flower[2] = torch.nan
    known, measured = exact(fitted, flower), fitted.measured(x=flower, noise=noise)
    post = ph.infer(measured, "nuts", seed=0)
    found, spread = post.expect("z"), post.expect(lambda draw: (draw["z"] - torch.from_numpy(known.mean)) ** 2)
    print(f"z: NUTS {found}, closed form {known.mean.round(4)}")
    print(f"sd: NUTS {np.sqrt(spread.value).round(4)}, closed form {known.sd.round(4)}")
    print(
        f"petal length: {post.expect('x').value[0, 2]:.4f}, closed form {known.completed[2]:.4f}, was {data[80, 2]:.4f}"
    )
    evidence = ph.infer(measured, ph.AIS(), seed=0).log_evidence
    print(f"log p(y): AIS {evidence}, closed form {known.log_evidence:.4f}")
