"""Normal-normal: an unknown mean, measured five times with known noise.

    mu  ~ Normal(0, 2)
    y_i ~ Normal(mu, 1)

Data: five invented numbers.

Reference: precisions add, so mu | y ~ Normal(v sum(y), sqrt(v)) with 1/v = 1/4 + 5. Jointly
y ~ MultivariateNormal(0, I + 4 * ones), which gives the evidence.
Murphy (2007), Conjugate Bayesian analysis of the Gaussian distribution, section 2.
https://www.cs.ubc.ca/~murphyk/Papers/bayesGauss.pdf
"""

import numpy as np
import pyro
import pyro.distributions as dist
import torch

import phlogiston as ph

y = torch.tensor([1.2, -0.4, 0.8, 2.1, 0.5], dtype=torch.float64)


def normal_normal(num_observations: int) -> None:
    """``num_observations`` is the number of measurements."""
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("observation", num_observations):
        pyro.sample("y", dist.Normal(mu, 1.0))


def _reference() -> ph.Reference:
    values = y.numpy()
    n = len(values)
    variance = 1.0 / (1.0 / 4.0 + n)
    covariance = np.eye(n) + 4.0 * np.ones((n, n))
    _, log_det = np.linalg.slogdet(covariance)
    distance = values @ np.linalg.solve(covariance, values)
    return ph.Reference(
        mean={"mu": variance * values.sum()},
        sd={"mu": np.sqrt(variance)},
        log_evidence=float(-0.5 * (n * np.log(2.0 * np.pi) + log_det + distance)),
        source="closed form: conjugate Normal posterior",
        regenerate="models/normal_normal.py, _reference()",
    )


model = ph.Model(normal_normal, len(y), coords={"observation": list(range(len(y)))}).observe(y=y)
reference = _reference()
