"""Every distribution of Pyro that has a density: as a prior with latent parameters, as an observation, transformed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch.distributions import constraints

from programs.case import Answer, Table, normals, t

table = Table()
Law = Callable[[torch.Tensor], Any]
SUPPORT = "issue 15.4: a transformed distribution that reports the whole line for its support"
BRANCHES = "branches on the value of a latent"  # Pyro asks a tensor for a number


def prior_and_data(name: str, law: Law, seen: Any, **settings: Any) -> None:
    """A positive ``a``, a latent ``z`` and an observed ``x`` of the same law, and noise around ``z``."""

    def program() -> None:
        a = pyro.sample("a", dist.LogNormal(0.0, 0.5))
        z = pyro.sample("z", law(a))
        pyro.sample("x", law(a), obs=torch.as_tensor(seen))
        pyro.sample("y", dist.Normal(z.reshape(-1)[:2].sum(), 1.0), obs=torch.tensor(0.4))

    table.add(name, name=f"prior_{name}", **settings)(program)


def data_alone(name: str, law: Law, seen: Any, **settings: Any) -> None:
    """A positive ``a`` and an observed ``x``."""

    def program() -> None:
        a = pyro.sample("a", dist.LogNormal(0.0, 0.5))
        pyro.sample("x", law(a), obs=torch.as_tensor(seen))

    table.add(name, name=f"data_{name}", **settings)(program)


ZERO = torch.zeros(2, dtype=torch.float64)
EYE = torch.eye(2, dtype=torch.float64)
HALVES = t(0.3, -0.4)
PAIR = t(0.25, 0.75)

prior_and_data("AffineBeta", lambda a: dist.AffineBeta(2.0, a, -1.0, 3.0), 0.5)
prior_and_data("AsymmetricLaplace", lambda a: dist.AsymmetricLaplace(0.0, a, 2.0), 0.5)
prior_and_data("SoftAsymmetricLaplace", lambda a: dist.SoftAsymmetricLaplace(0.0, a, 2.0), 0.5)
prior_and_data("Beta", lambda a: dist.Beta(a, 2.0), 0.3)
prior_and_data("Cauchy", lambda a: dist.Cauchy(0.0, a), 0.3)
prior_and_data("Chi2", lambda a: dist.Chi2(3.0 * a), 1.3)
prior_and_data("ContinuousBernoulli", lambda a: dist.ContinuousBernoulli(logits=a), 0.3)
prior_and_data("Dirichlet", lambda a: dist.Dirichlet(torch.stack([a, 2.0 * a])), PAIR)
prior_and_data("Exponential", lambda a: dist.Exponential(a), 0.7)
prior_and_data("FisherSnedecor", lambda a: dist.FisherSnedecor(4.0, 3.0 + a), 0.7)
prior_and_data("FoldedDistribution", lambda a: dist.FoldedDistribution(dist.Normal(a, 1.0)), 0.7)
prior_and_data("Gamma", lambda a: dist.Gamma(a, 2.0), 0.7)
prior_and_data("Gumbel", lambda a: dist.Gumbel(0.0, a), 0.7)
prior_and_data("HalfCauchy", lambda a: dist.HalfCauchy(a), 0.7)
prior_and_data("HalfNormal", lambda a: dist.HalfNormal(a), 0.7)
prior_and_data("InverseGamma", lambda a: dist.InverseGamma(2.0, a), 0.7)
prior_and_data("Kumaraswamy", lambda a: dist.Kumaraswamy(a, 2.0), 0.7)
prior_and_data("Laplace", lambda a: dist.Laplace(0.0, a), 0.7)
prior_and_data("LKJCholesky", lambda a: dist.LKJCholesky(3, a), torch.eye(3, dtype=torch.float64))
prior_and_data("LKJ", lambda a: dist.LKJ(3, a), torch.eye(3, dtype=torch.float64))
prior_and_data("LogNormal", lambda a: dist.LogNormal(0.0, a), 0.7)
prior_and_data("Logistic", lambda a: dist.Logistic(0.0, a), 0.7)
prior_and_data("LogisticNormal", lambda a: dist.LogisticNormal(torch.zeros(1), a.reshape(1)), PAIR)
prior_and_data(
    "LowRankMultivariateNormal",
    lambda a: dist.LowRankMultivariateNormal(ZERO, EYE[:, :1], a * EYE[0] + 1.0),
    HALVES,
    loop_today="invalid size",
)
prior_and_data("MultivariateNormal", lambda a: dist.MultivariateNormal(ZERO, (1.0 + a) * EYE), HALVES)
prior_and_data(
    "MultivariateNormal_of_precision", lambda a: dist.MultivariateNormal(ZERO, precision_matrix=a * EYE), HALVES
)
prior_and_data("MultivariateStudentT", lambda a: dist.MultivariateStudentT(3.0 + a, ZERO, EYE), HALVES)
prior_and_data("OMTMultivariateNormal", lambda a: dist.OMTMultivariateNormal(ZERO, a * EYE), HALVES)
prior_and_data("Pareto", lambda a: dist.Pareto(0.5, a), 0.7)
prior_and_data(
    "ProjectedNormal", lambda a: dist.ProjectedNormal(torch.stack([a, a])), t(0.6, 0.8), refused="the support Sphere"
)
prior_and_data("RelaxedBernoulli", lambda a: dist.RelaxedBernoulli(torch.tensor(0.7), logits=a), 0.3)
prior_and_data(
    "RelaxedOneHotCategorical", lambda a: dist.RelaxedOneHotCategorical(torch.tensor(0.7), torch.stack([a, a])), PAIR
)
prior_and_data("SkewLogistic", lambda a: dist.SkewLogistic(0.0, 1.0, a), 0.3)
prior_and_data("SoftLaplace", lambda a: dist.SoftLaplace(0.0, a), 0.3)
prior_and_data("StudentT", lambda a: dist.StudentT(3.0, 0.0, a), 0.3)
prior_and_data("TruncatedPolyaGamma", lambda a: dist.TruncatedPolyaGamma(torch.tensor(1.0)), 0.3)
prior_and_data("Uniform", lambda a: dist.Uniform(-a, 2.0 * a), 0.1)
data_alone("VonMises", lambda a: dist.VonMises(0.2, a), 0.3)
data_alone("VonMises3D", lambda a: dist.VonMises3D(a * t(0.6, 0.8, 0.0)), t(0.0, 0.6, 0.8))
prior_and_data("Weibull", lambda a: dist.Weibull(1.0, 1.0 + a), 0.7)
data_alone("Wishart", lambda a: dist.Wishart(torch.tensor(4.0), (1.0 + a) * EYE), EYE)
prior_and_data("Stable", lambda a: dist.StableWithLogProb(1.7, 0.2, a), 0.3, loop_today=BRANCHES)

data_alone("Bernoulli", lambda a: dist.Bernoulli(a / (1.0 + a)), 1.0)
data_alone("Binomial", lambda a: dist.Binomial(5, logits=a), 3.0)
data_alone("Categorical", lambda a: dist.Categorical(logits=torch.stack([a, 2.0 * a, -a])), 2)
data_alone("ExtendedBinomial", lambda a: dist.ExtendedBinomial(torch.tensor(5), logits=a), 3.0)
data_alone("ExtendedBetaBinomial", lambda a: dist.ExtendedBetaBinomial(a, 2.0, torch.tensor(5)), 3.0)
data_alone("Geometric", lambda a: dist.Geometric(logits=-a), 3.0)
data_alone(
    "GroupedNormalNormal",
    lambda a: dist.GroupedNormalNormal(t(0.0, 1.0), a * t(1.0, 1.0), t(1.0, 2.0, 1.0), torch.tensor([0, 1, 1])),
    t(0.2, 0.3, 0.4),
    loop_today=BRANCHES,
)
data_alone("LogNormalNegativeBinomial", lambda a: dist.LogNormalNegativeBinomial(4.0, torch.tensor(0.3), a), 3.0)
data_alone(
    "Multinomial",
    lambda a: dist.Multinomial(5, torch.stack([a, a / a]) / (1.0 + a)),
    t(3.0, 2.0),
    loop_today="boolean mask",
)
data_alone(
    "NanMaskedNormal",
    lambda a: dist.NanMaskedNormal(0.0, a * torch.ones(3)).to_event(1),
    t(0.2, float("nan"), 0.4),
    loop_today=BRANCHES,
)
data_alone("NegativeBinomial", lambda a: dist.NegativeBinomial(a, logits=torch.tensor(0.3)), 3.0)
data_alone("OneHotCategorical", lambda a: dist.OneHotCategorical(logits=torch.stack([a, -a])), t(1.0, 0.0))
data_alone("Poisson", lambda a: dist.Poisson(a), 3.0)
data_alone(
    "SineBivariateVonMises",
    lambda a: dist.SineBivariateVonMises(0.1, 0.2, 1.0 + a, 2.0 + a, torch.tensor(0.3)),
    t(0.1, 0.3),
    loop_today=BRANCHES,
)
data_alone(
    "SineSkewed",
    lambda a: dist.SineSkewed(dist.VonMises(torch.zeros(2), a).to_event(1), t(0.1, 0.3)),
    t(0.1, 0.3),
    loop_today=BRANCHES,
)
data_alone("SpanningTree", lambda a: dist.SpanningTree(a * torch.arange(3.0)), torch.tensor([[0, 1], [1, 2]]))
data_alone("OneOneMatching", lambda a: dist.OneOneMatching(a * torch.eye(3)), torch.tensor([1, 0, 2]))
data_alone("CoalescentTimes", lambda a: dist.CoalescentTimes(torch.zeros(3), a), t(-1.0, -0.5))
data_alone("Unit", lambda a: dist.Unit(-a), torch.zeros(0))


def scaled(base: Any, loc: float, scale: Any) -> Any:
    return dist.TransformedDistribution(base, [dist.transforms.AffineTransform(loc, scale)])


prior_and_data("TransformedDistribution", lambda a: scaled(dist.Normal(0.0, 1.0), 1.0, a), 0.3)
LYING = dict.fromkeys(("density", "gradient"), SUPPORT)
prior_and_data(
    "TransformedDistribution_of_Exponential",
    lambda a: scaled(dist.Exponential(a), 1.0, 2.0),
    1.3,
    supports={"z": constraints.greater_than(1.0)},
    wrong_today=LYING,
)
prior_and_data(
    "TransformedDistribution_of_Beta",
    lambda a: scaled(dist.Beta(a, 2.0), 0.0, 3.0),
    1.3,
    supports={"z": constraints.interval(0.0, 3.0)},
)
prior_and_data(
    "chain_of_transforms",
    lambda a: dist.TransformedDistribution(
        dist.Normal(0.0, a), [dist.transforms.SigmoidTransform(), dist.transforms.ExpTransform()]
    ),
    1.3,
    supports={"z": constraints.interval(1.0, 2.718281828459045)},
    wrong_today=LYING,
)
prior_and_data("expand", lambda a: dist.Gamma(a, 1.0).expand([2]).to_event(1), t(0.3, 0.4))
prior_and_data("expand_by", lambda a: dist.Gamma(a, 1.0).expand_by([2, 2]).to_event(2), t([[0.3, 0.4], [0.5, 0.6]]))
prior_and_data("Independent", lambda a: dist.Independent(dist.Normal(torch.zeros(2), a), 1), HALVES)
prior_and_data(
    "reshape_of_events", lambda a: dist.Normal(torch.zeros(2, 2), a).to_event(2), torch.eye(2, dtype=torch.float64)
)
prior_and_data("Uniform_on_a_box", lambda a: dist.Uniform(torch.zeros(2), a * torch.ones(2)).to_event(1), t(0.01, 0.02))
prior_and_data(
    "OrderedTransform",
    lambda a: dist.TransformedDistribution(
        dist.Normal(torch.zeros(2), a).to_event(1), dist.transforms.OrderedTransform()
    ),
    HALVES.sort().values,
)
prior_and_data("ImproperUniform", lambda a: dist.ImproperUniform(constraints.positive, (), ()), 0.3)


@table.add(
    "TransformedDistribution", observed={"y": normals(3)}, answer=Answer("importance", settings={"num_particles": 4000})
)
def log_normal_by_transform():
    z = pyro.sample("z", dist.TransformedDistribution(dist.Normal(0.0, 1.0), dist.transforms.ExpTransform()))
    with pyro.plate("data", 3):
        pyro.sample("y", dist.Normal(0.0, z))


@table.add("has_enumerate_support", "enumeration", observed={"y": normals(3)}, oracle="brute")
def two_dimensional_bernoulli():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("pair", 3):
        b = pyro.sample("b", dist.Bernoulli(logits=a))
        c = pyro.sample("c", dist.Bernoulli(0.3 + 0.4 * b))
        pyro.sample("y", dist.Normal(b - c, 1.0))
