"""Eight schools: eight coaching courses, each with an effect and a known standard error.

    mu      ~ Normal(0, 5)                    the mean effect over all schools
    tau     ~ HalfCauchy(5)                   how much schools differ
    theta_j ~ Normal(mu, tau)                 the effect in school j = A, ..., H
    y_j     ~ Normal(theta_j, sigma_j)        the estimate, with its standard error sigma_j

`centred` says exactly that. Small tau squeezes theta against mu, which makes a funnel that gradient methods
cannot enter. `eight_schools` is the same model without it: theta_j = mu + tau * theta_raw_j with
theta_raw_j ~ Normal(0, 1).

Data: Rubin (1981), points on the SAT-V. Estimation in parallel randomized experiments.
https://doi.org/10.3102/10769986006004377
Non-centring: Papaspiliopoulos, Roberts and Skold (2007). https://doi.org/10.1214/088342307000000014

Reference: given tau, (mu, theta, y) are jointly Gaussian, so mu and theta integrate out in closed form. What
is left is one integral over log tau, which `quadrature` does by the trapezoid rule. The integrand falls
exponentially at both ends, so the rule is exact to rounding.
"""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import phlogiston as ph

SCHOOLS = ["A", "B", "C", "D", "E", "F", "G", "H"]
y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=torch.float64)
sigma = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], dtype=torch.float64)


def eight_schools(sigma: Tensor) -> None:
    """The non-centred program; ``sigma`` holds the standard errors, of shape [schools]."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(sigma)):
        theta_raw = pyro.sample("theta_raw", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * theta_raw, event_dim=0)
        pyro.sample("y", dist.Normal(theta, sigma))


def centred(sigma: Tensor) -> None:
    """The same model with theta drawn directly; ``sigma`` has shape [schools]."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(sigma)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma))


def quadrature(num_points: int = 4001) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], float]:
    """Posterior means, standard deviations and log evidence by the trapezoid rule over log tau."""
    effect, variance = y.numpy(), sigma.numpy() ** 2
    log_tau = np.linspace(-30.0, 15.0, num_points)
    tau = np.exp(log_tau)
    spread = variance + tau[:, None] ** 2  # var(y_j | mu, tau)
    # mu | tau, y is Normal(mu_mean, mu_var); p(y | tau) = p(y | mu) p(mu) / p(mu | y), read off at mu = 0.
    mu_var = 1.0 / (1.0 / 25.0 + (1.0 / spread).sum(1))
    mu_mean = mu_var * (effect / spread).sum(1)
    log_like = -0.5 * (np.log(2.0 * np.pi * spread) + effect**2 / spread).sum(1)
    log_like += 0.5 * np.log(mu_var / 25.0) + 0.5 * mu_mean**2 / mu_var
    log_prior = np.log(2.0 / (5.0 * np.pi)) - np.log1p((tau / 5.0) ** 2) + log_tau  # with the Jacobian tau
    log_weight = log_like + log_prior + np.log(log_tau[1] - log_tau[0])
    log_evidence = np.logaddexp.reduce(log_weight)
    weight = np.exp(log_weight - log_evidence)

    own = tau[:, None] ** 2 / spread  # theta_j leans on its own estimate by this much, on mu by the rest
    theta_mean = own * effect + (1.0 - own) * mu_mean[:, None]
    theta_var = own * variance + (1.0 - own) ** 2 * mu_var[:, None]
    mean = {"mu": weight @ mu_mean, "tau": weight @ tau, "theta": weight @ theta_mean}
    second = {
        "mu": weight @ (mu_var + mu_mean**2),
        "tau": weight @ tau**2,
        "theta": weight @ (theta_var + theta_mean**2),
    }
    sd = {site: np.sqrt(second[site] - mean[site] ** 2) for site in mean}
    return mean, sd, float(log_evidence)


model = ph.Model(eight_schools, sigma, coords={"school": SCHOOLS}).observe(y=y)
centred_model = ph.Model(centred, sigma, coords={"school": SCHOOLS}).observe(y=y)

reference = ph.Reference(
    mean={
        "mu": 4.39682071,
        "tau": 3.59770548,
        "theta": [6.2118842, 4.9401784, 3.9270044, 4.7570983, 3.6154770, 4.0426126, 6.2967241, 4.8542533],
    },
    sd={
        "mu": 3.31770446,
        "tau": 3.21995841,
        "theta": [5.5931262, 4.6742685, 5.2626151, 4.7802973, 4.6574526, 4.8268656, 5.0778488, 5.2908011],
    },
    log_evidence=-31.31134735,
    source="one-dimensional quadrature over log tau, with mu and theta integrated out in closed form",
    regenerate="python models/eight_schools.py",
)

if __name__ == "__main__":
    np.set_printoptions(precision=7, floatmode="fixed", linewidth=110)
    mean, sd, log_evidence = quadrature()
    for site in mean:
        print(f"{site}: mean {mean[site]}, sd {sd[site]}")
    print(f"log evidence: {log_evidence:.8f}")
