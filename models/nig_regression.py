"""Bayesian linear regression with the conjugate normal-inverse-gamma prior.

    variance ~ InverseGamma(2, 1)
    beta     ~ MultivariateNormal(0, variance * 10 I)          intercept and slope
    y_i      ~ Normal(beta_0 + beta_1 x_i, sqrt(variance))

Data: six invented points.

Reference: with design matrix X and prior precision L0 = I / 10, the posterior has the prior's form with
    Ln = L0 + X'X,  m = Ln^-1 X'y,  an = 2 + n / 2,  bn = 1 + (y'y - m' Ln m) / 2.
Marginally variance ~ InverseGamma(an, bn), and beta is a multivariate t with 2 an degrees of freedom and
covariance bn / (an - 1) Ln^-1. Here an = 5, so every moment quoted exists.
Murphy (2007), Conjugate Bayesian analysis of the Gaussian distribution, section 6 for the prior.
https://www.cs.ubc.ca/~murphyk/Papers/bayesGauss.pdf
Lindley and Smith (1972), Bayes estimates for the linear model.
https://doi.org/10.1111/j.2517-6161.1972.tb00885.x
"""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy.special import gammaln
from torch import Tensor

import phlogiston as ph

x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
y = torch.tensor([-1.1, 0.2, 0.9, 2.3, 2.8, 4.4], dtype=torch.float64)
prior_covariance = 10.0 * torch.eye(2, dtype=torch.float64)


def nig_regression(x: Tensor, prior_covariance: Tensor) -> None:
    """``x`` has shape [observations], ``prior_covariance`` (in units of the variance) [2, 2]."""
    variance = pyro.sample("variance", dist.InverseGamma(2.0, 1.0))
    covariance = variance[..., None, None] * prior_covariance
    beta = pyro.sample("beta", dist.MultivariateNormal(prior_covariance.new_zeros(2), covariance))
    with pyro.plate("observation", len(x)):
        pyro.sample("y", dist.Normal(beta[..., 0] + beta[..., 1] * x, variance.sqrt()))


def _reference() -> ph.Reference:
    design = np.stack([np.ones(len(x)), x.numpy()], axis=1)
    target, n = y.numpy(), len(y)
    precision_0 = np.linalg.inv(prior_covariance.numpy())
    precision_n = precision_0 + design.T @ design
    mean = np.linalg.solve(precision_n, design.T @ target)
    a_0, b_0 = 2.0, 1.0
    a_n = a_0 + n / 2.0
    b_n = b_0 + 0.5 * (target @ target - mean @ precision_n @ mean)
    variance = b_n / (a_n - 1.0)
    log_det_ratio = np.linalg.slogdet(precision_0)[1] - np.linalg.slogdet(precision_n)[1]
    log_evidence = -0.5 * n * np.log(2.0 * np.pi) + 0.5 * log_det_ratio + gammaln(a_n) - gammaln(a_0)
    log_evidence += a_0 * np.log(b_0) - a_n * np.log(b_n)
    return ph.Reference(
        mean={"beta": mean, "variance": variance},
        sd={
            "beta": np.sqrt(variance * np.diag(np.linalg.inv(precision_n))),
            "variance": variance / np.sqrt(a_n - 2.0),
        },
        log_evidence=float(log_evidence),
        source="closed form: conjugate normal-inverse-gamma posterior",
        regenerate="models/nig_regression.py, _reference()",
    )


model = ph.Model(nig_regression, x, prior_covariance, coords={"observation": list(range(len(x)))}).observe(y=y)
reference = _reference()
