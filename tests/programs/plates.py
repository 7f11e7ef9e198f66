"""Plates: sized and unsized, nested, crossed, by loop, as decorators, subsampled."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch

from programs.case import Answer, Table, normals, t

table = Table()
Y = normals(6)
GRID = normals(3, 4, seed=1)
GROUP = torch.tensor([0, 0, 1, 1, 2, 2])
BRANCHES = "branches on the value of a latent"  # it does not: a plate or its size asks a tensor for a number


def gaussian_evidence(y: torch.Tensor, prior_sd: float, noise_sd: float) -> float:
    """log p(y) of ``mu ~ N(0, prior_sd); y ~ N(mu, noise_sd)``."""
    n = len(y)
    covariance = noise_sd**2 * torch.eye(n, dtype=y.dtype) + prior_sd**2 * torch.ones(n, n, dtype=y.dtype)
    return float(torch.distributions.MultivariateNormal(torch.zeros(n, dtype=y.dtype), covariance).log_prob(y))


def gaussian_mean(y: torch.Tensor, prior_sd: float, noise_sd: float) -> float:
    """E[mu | y] of the same."""
    return float(y.sum() / (len(y) + (noise_sd / prior_sd) ** 2))


CONJUGATE = Answer("laplace", gaussian_evidence(Y, 2.0, 1.0), {"mu": gaussian_mean(Y, 2.0, 1.0)})


@table.add("plate", observed={"y": t(28, 8, -3, 7, -1, 1, 18, 12)})
def schools():
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", 8):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])))


@table.add("plate", args=(Y,), answer=CONJUGATE)
def conjugate_plate(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


@table.add("plate", "nested plates", observed={"y": GRID})
def nested():
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("row", 3, dim=-2):
        a = pyro.sample("a", dist.Normal(0.0, scale))
        with pyro.plate("column", 4, dim=-1):
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("y", dist.Normal(b, 0.5))


@table.add("plate", "nested plates", observed={"y": GRID.T.reshape(4, 1, 3)})
def plates_with_a_gap_between_their_dims():
    with pyro.plate("outer", 4, dim=-3):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("inner", 3, dim=-1):
            pyro.sample("y", dist.Normal(a, 1.0))


@table.add("plate", "crossed plates", observed={"y": GRID}, compiled=True)
def crossed():
    rows, columns = pyro.plate("row", 3, dim=-2), pyro.plate("column", 4, dim=-1)
    with rows:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with columns:
        b = pyro.sample("b", dist.Gamma(2.0, 1.0))
    with rows, columns:
        pyro.sample("y", dist.Normal(a, b))


@table.add("plate", "plate_stack", observed={"y": GRID})
def stacked():
    with pyro.plate_stack("cell", (3, 4)):
        a = pyro.sample("a", dist.Laplace(0.0, 1.0))
        pyro.sample("y", dist.Normal(a, 1.0))


@table.add("plate by loop", args=(Y,), loop_today=BRANCHES)
def looped(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    for i in pyro.plate("data", len(y)):
        pyro.sample(f"y_{i}", dist.Normal(mu, 1.0), obs=y[i])


@table.add("plate by loop", args=(Y[:3],), loop_today=BRANCHES)
def looped_latents(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    for i in pyro.plate("data", len(y)):
        z = pyro.sample(f"z_{i}", dist.Exponential(1.0))
        pyro.sample(f"y_{i}", dist.Normal(mu, z), obs=y[i])


@table.add("plate by loop", "nested plates", args=(GRID,), loop_today=BRANCHES)
def loops_within_loops(y):
    for i in pyro.plate("row", 3):
        a = pyro.sample(f"a_{i}", dist.Normal(0.0, 1.0))
        for j in pyro.plate(f"column_{i}", 4):
            pyro.sample(f"y_{i}_{j}", dist.Normal(a, 1.0), obs=y[i, j])


@table.add("plate by loop", "plate", "nested plates", args=(GRID,), loop_today=BRANCHES)
def plates_within_loops(y):
    for i in pyro.plate("row", 3):
        scale = pyro.sample(f"scale_{i}", dist.HalfNormal(1.0))
        with pyro.plate(f"column_{i}", 4):
            pyro.sample(f"y_{i}", dist.Normal(0.0, scale), obs=y[i])


@table.add("plate by loop", "nested plates", args=(GRID,), loop_today=BRANCHES)
def loops_within_plates(y):
    with pyro.plate("column", 4):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        for i in pyro.plate("row", 3):
            pyro.sample(f"y_{i}", dist.Normal(a, 1.0), obs=y[i])


@table.add("plate by loop", "enumeration", args=(Y[:3],), oracle="brute", loop_today=BRANCHES)
def looped_mixture(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 2.0))
    for i in pyro.plate("data", len(y)):
        z = pyro.sample(f"z_{i}", dist.Bernoulli(0.3))
        pyro.sample(f"y_{i}", dist.Normal(loc * z, 1.0), obs=y[i])


@table.add("plate without a size", args=(Y,), answer=CONJUGATE)
def unsized(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("data"):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


@table.add(
    "plate without a size",
    observed={"y": Y},
)
def unsized_with_data_given_later():
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("data"):
        pyro.sample("y", dist.Normal(mu, 1.0))


@table.add("plate without a size", args=(Y,))
def unsized_latents(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("data", dim=-1):
        z = pyro.sample("z", dist.Normal(mu, torch.ones(6)))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


@table.add(
    "plate without a size",
    "enumeration",
    args=(Y[:4],),
    oracle="brute",
)
def unsized_mixture(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data"):
        z = pyro.sample("z", dist.Categorical(torch.full((4, 2), 0.5)))
        pyro.sample("y", dist.Normal(mu + 2.0 * z - 1.0, 1.0), obs=y)


@table.add("plate as a decorator", "plate", observed={"y": Y})
def decorated():
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))

    @pyro.plate("data", 6)
    def likelihood():
        pyro.sample("y", dist.Normal(mu, 1.0))

    likelihood()


@table.add("plate", observed={"first": Y, "second": Y + 1.0})
def one_plate_twice():
    data = pyro.plate("data", 6)
    with data:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("first", dist.Normal(z, 1.0))
    with data:
        pyro.sample("second", dist.Normal(2.0 * z, 1.0))


@table.add("plate", args=(GROUP,), observed={"y": Y}, loop_today=BRANCHES)
def groups_by_the_indices_of_data(group):
    with pyro.plate("group", int(group.max()) + 1):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(group)):
        pyro.sample("y", dist.Normal(a[group], 1.0))


@table.add("plate", observed={"y": Y})
def plated_values_used_outside():
    with pyro.plate("part", 3):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    total = pyro.deterministic("total", a.sum())
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Normal(total, 1.0))


@table.add("plate", observed={"y": Y})
def indices_of_a_plate_pick_rows():
    weight = pyro.sample("weight", dist.Normal(0.0, 1.0).expand([6]).to_event(1))
    with pyro.plate("data", 6) as i:
        pyro.sample("y", dist.Normal(weight[i], 1.0))


@table.add("plate", "to_event", observed={"y": GRID})
def events_in_a_plate():
    with pyro.plate("row", 3):
        a = pyro.sample("a", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(a, torch.ones(4)).to_event(1))


@table.add("expand_by", observed={"y": Y})
def expanded_without_a_plate():
    a = pyro.sample("a", dist.Gamma(2.0, 1.0).expand_by([6]).to_event(1))
    pyro.sample("y", dist.Normal(0.0, a).to_event(1))


def whole(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


@table.add("subsample_size", args=(Y,), reference=whole, answer=CONJUGATE)
def subsampled_by_index(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("data", 6, subsample_size=2) as i:
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y[i])


@table.add("subsample_size", "pyro.subsample", args=(Y,), reference=whole)
def subsampled_by_handler(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("data", 6, subsample_size=3):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=pyro.subsample(y, event_dim=0))


@table.add("subsample_size", args=(Y,), reference=whole, answer=CONJUGATE)
def subsample_of_everything(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("data", 6, subsample=torch.arange(6)) as i:
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y[i])


@table.add("plate", "poutine.scale", observed={"y": Y})
def plates_of_copies():
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 6), pyro.poutine.scale(scale=2.5):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0))
