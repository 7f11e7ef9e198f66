"""Regressions and measurements: linear, counts, ordered, hierarchical, missing data, censoring, weights."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine

from programs.case import Answer, Table, normals, t

table = Table()
X = normals(6, 2, seed=1)
Y = normals(6, seed=2)
FLIPS = (Y > 0).double()
COUNTS = t(0.0, 1, 4, 2, 0, 3)
GROUP = torch.tensor([0, 0, 1, 1, 2, 2])
BRANCHES = "branches on the value of a latent"  # it does not: a tensor of data is asked for a number
SHAPES = "upper bound and lower bound inconsistent with step sign"  # Pyro counts the cuts with a dynamic shape
PICKS = "Attempting to batch over indexing with a boolean mask"


def linear_evidence(x: torch.Tensor, y: torch.Tensor) -> float:
    """log p(y) of ``b ~ N(0, 2); y ~ N(x b, 0.5)``."""
    covariance = 4.0 * x @ x.T + 0.25 * torch.eye(len(y), dtype=y.dtype)
    return float(torch.distributions.MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y))


@table.add("to_event", "plate", args=(X, Y), answer=Answer("laplace", linear_evidence(X, Y)), compiled=True)
def linear(x, y=None):
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    with pyro.plate("data", len(x)):
        return pyro.sample("y", dist.Normal(x @ b, 0.5), obs=y)


@table.add("plate", args=(X[:, 0], X[:, 1]), observed={"y": Y})
def interacting_slopes(rugged, africa):
    a = pyro.sample("a", dist.Normal(8.0, 10.0))
    b = [pyro.sample(f"b_{i}", dist.Normal(0.0, 1.0)) for i in range(3)]
    sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
    with pyro.plate("data", 6):
        mean = a + b[0] * africa + b[1] * rugged + b[2] * africa * rugged
        pyro.sample("y", dist.Normal(mean, sigma))


@table.add("plate", args=(X,), observed={"y": FLIPS})
def logistic(x):
    b = pyro.sample("b", dist.Laplace(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Bernoulli(logits=x @ b))


@table.add("plate", args=(X[:, 0],), observed={"y": COUNTS})
def poisson_with_exposure(x):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Poisson(torch.exp(a + b * x) * torch.arange(1.0, 7.0)))


@table.add("plate", args=(X[:, 0],), observed={"y": COUNTS})
def negative_binomial(x):
    size = pyro.sample("size", dist.Gamma(2.0, 0.5))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.NegativeBinomial(size, logits=b * x))


@table.add("plate", "nested plates", args=(GROUP,), observed={"y": Y})
def varying_intercepts(group):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    with pyro.plate("group", 3):
        a = pyro.sample("a", dist.Normal(mu, tau))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Normal(a[group], 1.0))


@table.add("plate", "LKJCholesky", "MultivariateNormal", args=(GROUP, X[:, 0]), observed={"y": Y})
def correlated_intercepts_and_slopes(group, x):
    spread = pyro.sample("spread", dist.HalfCauchy(torch.ones(2)).to_event(1))
    factor = pyro.sample("factor", dist.LKJCholesky(2, 2.0))
    with pyro.plate("group", 3):
        ab = pyro.sample("ab", dist.MultivariateNormal(torch.zeros(2), scale_tril=spread[:, None] * factor))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Normal(ab[group, 0] + ab[group, 1] * x, 1.0))


@table.add("plate", "HalfCauchy", args=(X,), observed={"y": Y})
def horseshoe(x):
    tau = pyro.sample("tau", dist.HalfCauchy(1.0))
    with pyro.plate("column", 2):
        lam = pyro.sample("lam", dist.HalfCauchy(1.0))
        raw = pyro.sample("raw", dist.Normal(0.0, 1.0))
        b = pyro.deterministic("b", raw * lam * tau)
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Normal(x @ b, 1.0))


@table.add(
    "OrderedLogistic", "plate", args=(X[:, 0],), observed={"y": torch.tensor([0, 1, 2, 1, 0, 2])}, loop_today=SHAPES
)
def ordered(x):
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.OrderedLogistic(b * x, torch.tensor([-1.0, 1.0])))


@table.add(
    "OrderedLogistic",
    "TransformedDistribution",
    "plate",
    args=(X[:, 0],),
    observed={"y": torch.tensor([0, 1, 2, 1, 0, 2])},
    loop_today=SHAPES,
)
def ordered_by_latent_cuts(x):
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    first = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    cuts = pyro.sample("cuts", dist.TransformedDistribution(first, dist.transforms.OrderedTransform()))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.OrderedLogistic(b * x, cuts))


@table.add("plate", "StudentT", args=(X[:, 0],), observed={"y": Y})
def robust(x):
    df = pyro.sample("df", dist.Gamma(2.0, 0.1))
    b = pyro.sample("b", dist.StudentT(3.0, 0.0, 2.5))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.StudentT(df, b * x, 1.0))


@table.add("Categorical", "plate", args=(X,), observed={"y": torch.tensor([0, 1, 2, 1, 0, 2])})
def multinomial_logit(x):
    w = pyro.sample("w", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Categorical(logits=x @ w))


@table.add("Multinomial", observed={"y": t(5.0, 3, 2)}, loop_today=PICKS)
def multinomial():
    p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
    pyro.sample("y", dist.Multinomial(10, p))


@table.add("plate", args=(torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])), observed={"wins": t(1.0, 1.0, 0.0)})
def paired_comparisons(left, right):
    with pyro.plate("player", 3):
        skill = pyro.sample("skill", dist.Normal(0.0, 1.0))
    with pyro.plate("match", 3):
        pyro.sample("wins", dist.Bernoulli(logits=skill[left] - skill[right]))


@table.add("crossed plates", observed={"y": (normals(3, 4, seed=4) > 0).double()})
def item_response():
    with pyro.plate("person", 3, dim=-2):
        ability = pyro.sample("ability", dist.Normal(0.0, 1.0))
    with pyro.plate("item", 4, dim=-1):
        easy = pyro.sample("easy", dist.Normal(0.0, 1.0))
        slope = pyro.sample("slope", dist.LogNormal(0.0, 0.3))
    with pyro.plate("one", 3, dim=-2), pyro.plate("other", 4, dim=-1):
        pyro.sample("y", dist.Bernoulli(logits=slope * (ability - easy)))


@table.add("MultivariateNormal", args=(X[:, 0],), observed={"y": Y})
def gaussian_process(x):
    length = pyro.sample("length", dist.LogNormal(0.0, 0.5))
    noise = pyro.sample("noise", dist.HalfNormal(1.0))
    kernel = torch.exp(-0.5 * ((x[:, None] - x) / length).square()) + (noise.square() + 1e-4) * torch.eye(6)
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(6), kernel))


def beta_evidence(a: float, b: float, heads: int, n: int) -> float:
    def log_beta(p: float, q: float) -> float:
        return math.lgamma(p) + math.lgamma(q) - math.lgamma(p + q)

    return log_beta(a + heads, b + n - heads) - log_beta(a, b)


@table.add(
    "plate",
    observed={"y": FLIPS},
    answer=Answer("importance", beta_evidence(2.0, 3.0, int(FLIPS.sum()), 6), settings={"num_particles": 4000}),
)
def coin():
    p = pyro.sample("p", dist.Beta(2.0, 3.0))
    with pyro.plate("flip", 6):
        pyro.sample("y", dist.Bernoulli(p))


def gamma_evidence(a: float, b: float, y: torch.Tensor) -> float:
    total, n = float(y.sum()), len(y)
    return (
        math.lgamma(a + total) - math.lgamma(a) + a * math.log(b) - (a + total) * math.log(b + n)
        - float(torch.lgamma(y + 1.0).sum())
    )  # fmt: skip


@table.add(
    "plate",
    observed={"y": COUNTS},
    answer=Answer(
        "nuts",
        mean={"rate": (3.0 + float(COUNTS.sum())) / (2.0 + 6.0)},
        settings={"num_samples": 200, "num_warmup": 100, "num_chains": 4, "engine": "graph"},
    ),
)
def counts_of_one_rate():
    rate = pyro.sample("rate", dist.Gamma(3.0, 2.0))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Poisson(rate))


@table.add(
    "plate",
    observed={"y": COUNTS},
    answer=Answer("importance", gamma_evidence(3.0, 2.0, COUNTS), settings={"num_particles": 4000}),
)
def counts_of_one_rate_by_importance():
    rate = pyro.sample("rate", dist.Gamma(3.0, 2.0))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Poisson(rate))


HOLES = torch.where(torch.tensor([False, True, False, False, True, False]), torch.nan, Y)


@table.add("missing data", "plate", observed={"y": HOLES}, missing="latent")
def holes_in_the_data():
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Normal(mu, 1.0))


@table.add("missing data", "plate", observed={"y": HOLES.exp()}, missing="latent")
def holes_in_positive_data():
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Exponential(rate))


@table.add("missing data", "plate", args=(X,), observed={"x": HOLES, "y": Y}, missing="latent")
def holes_in_a_predictor(z):
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", 6):
        x = pyro.sample("x", dist.Normal(z[:, 0], 1.0))
        pyro.sample("y", dist.Normal(b[0] + b[1] * x, 1.0))


@table.add("poutine.mask", "plate", args=(HOLES,))
def holes_under_a_mask(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 6), poutine.mask(mask=~torch.isnan(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=torch.nan_to_num(y))


@table.add("plate", args=(HOLES,), loop_today=BRANCHES)
def holes_left_out_by_indexing(y):
    ok = ~torch.isnan(y)
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", int(ok.sum())):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y[ok])


@table.add("plate", args=(Y,), loop_today=BRANCHES)
def assertions_on_data(y):
    assert (y > -100.0).all()
    if y.abs().max() > 50.0:
        raise ValueError("expected standardised data")
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


@table.add("plate", observed={"seen": X[:, 0], "y": Y})
def errors_in_a_variable():
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 6):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("seen", dist.Normal(x, 0.3))
        pyro.sample("y", dist.Normal(b * x, 1.0))


@table.add("factor", "plate", args=(t(0.5, 1.2, 3.0, 2.0), torch.tensor([False, True, True, False])))
def survival_with_censoring(time, censored):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("patient", 4):
        law = dist.Exponential(rate)
        pyro.factor("time", torch.where(censored, -rate * time, law.log_prob(time)))


@table.add("poutine.mask", "plate", args=(t(0.5, 1.2, 3.0, 2.0), torch.tensor([False, True, True, False])))
def censoring_by_a_bernoulli(time, censored):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("patient", 4):
        with poutine.mask(mask=~censored):
            pyro.sample("time", dist.Exponential(rate), obs=time)
        with poutine.mask(mask=censored):
            pyro.sample("late", dist.Bernoulli(torch.exp(-rate * time)), obs=torch.ones(4))


@table.add("poutine.scale", "plate", args=(X[:, 0], t(1.0, 2.0, 0.5, 1.0, 0.0, 3.0)), observed={"y": Y})
def weighted_rows(x, weight):
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 6), poutine.scale(scale=weight):
        pyro.sample("y", dist.Normal(b * x, 1.0))


@table.add("plate", args=(X[:, 0],), observed={"y": Y})
def width_that_varies(x):
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Normal(b[0] * x, torch.nn.functional.softplus(b[1] * x)))


@table.add("ImproperUniform", "plate", observed={"y": Y}, answer=Answer("laplace", mean={"mu": float(Y.mean())}))
def flat_prior():
    mu = pyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Normal(mu, 1.0))


@table.add("plate", args=(torch.eye(6, dtype=torch.float32),), observed={"y": Y})
def captured_single_precision(basis):
    b = pyro.sample("b", dist.Normal(torch.zeros(6), 1.0).to_event(1))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Normal(basis @ b, 1.0))
