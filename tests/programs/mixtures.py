"""Discrete latents: mixtures, networks of causes, latent classes, and distributions that hide them."""

from __future__ import annotations

import itertools
import math

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import config_enumerate

from programs.case import Answer, Table, normals, t

table = Table()
Y = t(-1.2, 0.3, 2.4, 2.9)
COUNTS = t(0.0, 0, 3, 5)


@table.add("enumeration", "plate", args=(Y,), oracle="enum", compiled=True)
def gaussian_mixture(y):
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((2,), 2.0)))
    with pyro.plate("component", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
    with pyro.plate("data", 4):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Normal(loc[z], 1.0), obs=y)


@table.add("enumeration", "config_enumerate", "plate", args=(Y,), oracle="brute")
@config_enumerate
def mixture_that_asks_for_enumeration(y):
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("data", 4):
        z = pyro.sample("z", dist.Bernoulli(p))
        pyro.sample("y", dist.Normal(3.0 * z, 1.0), obs=y)


@table.add("enumeration", "config_enumerate", "plate", args=(Y,), oracle="brute")
def mixture_enumerated_in_sequence(y):
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    z = pyro.sample("z", dist.Bernoulli(p), infer={"enumerate": "sequential"})
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(3.0 * z, 1.0), obs=y)


@table.add("enumeration", "OneHotCategorical", "plate", args=(Y,), oracle="enum")
def one_hot_mixture(y):
    loc = pyro.sample("loc", dist.Normal(torch.zeros(3), 3.0).to_event(1))
    with pyro.plate("data", 4):
        z = pyro.sample("z", dist.OneHotCategorical(t(0.2, 0.5, 0.3)))
        pyro.sample("y", dist.Normal((z * loc).sum(-1), 1.0), obs=y)


@table.add("enumeration", "Binomial", args=(Y,), oracle="brute")
def binomial_latent(y):
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    n = pyro.sample("n", dist.Binomial(3, p))
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(n, 1.0), obs=y)


@table.add("enumeration", "nested plates", args=(normals(2, 3, seed=1),), oracle="enum", nesting=2)
def classes_of_groups_and_members(y):
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2, 2), 1.0).to_event(2))
    with pyro.plate("group", 2, dim=-2):
        a = pyro.sample("a", dist.Bernoulli(0.4)).long()
        with pyro.plate("member", 3, dim=-1):
            b = pyro.sample("b", dist.Bernoulli(0.2 + 0.5 * a)).long()
            pyro.sample("y", dist.Normal(loc[a, b], 1.0), obs=y)


@table.add("enumeration", "nested plates", args=(torch.tensor([[0, 1, 2], [2, 2, 1]]),), oracle="enum", nesting=2)
def topics(words):
    with pyro.plate("topic", 2):
        phi = pyro.sample("phi", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("document", 2, dim=-2):
        theta = pyro.sample("theta", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("word", 3, dim=-1):
            z = pyro.sample("z", dist.Categorical(theta))
            pyro.sample("w", dist.Categorical(phi[z]), obs=words)


def sprinkler_evidence() -> float:
    total = 0.0
    for rain, sprinkler in itertools.product((0, 1), (0, 1)):
        on = (0.4, 0.01)[rain]
        total += (0.2 if rain else 0.8) * (on if sprinkler else 1 - on) * (1 - 0.1**rain * 0.2**sprinkler)
    return math.log(total)


@table.add("enumeration", observed={"wet": 1.0}, oracle="brute", answer=Answer("exact", sprinkler_evidence()))
def sprinkler():
    rain = pyro.sample("rain", dist.Bernoulli(0.2))
    on = pyro.sample("on", dist.Bernoulli(torch.where(rain > 0, 0.01, 0.4)))
    pyro.sample("wet", dist.Bernoulli(1.0 - 0.1**rain * 0.2**on))


@table.add("enumeration", "plate", args=(torch.tensor([[1.0, 1, 0], [0, 0, 1]]),), oracle="enum", nesting=2)
def raters(votes):
    """Dawid and Skene: true classes seen through raters of unknown skill."""
    with pyro.plate("rater", 3, dim=-1):
        skill = pyro.sample("skill", dist.Beta(4.0, 2.0))
    with pyro.plate("item", 2, dim=-2):
        truth = pyro.sample("truth", dist.Bernoulli(0.5))
        with pyro.plate("rating", 3, dim=-1):
            pyro.sample("vote", dist.Bernoulli(truth * skill + (1.0 - truth) * (1.0 - skill)), obs=votes)


@table.add("enumeration", "plate", args=(Y,), oracle="enum")
def two_latents_in_one_plate(y):
    q = pyro.sample("q", dist.Beta(2.0, 2.0))
    with pyro.plate("data", 4):
        a = pyro.sample("a", dist.Bernoulli(q))
        b = pyro.sample("b", dist.Categorical(torch.stack([0.5 * a, 1.0 - 0.5 * a], -1)))
        pyro.sample("y", dist.Normal(a + 2.0 * b, 1.0), obs=y)


@table.add("enumeration", "plate", args=(Y,), oracle="enum")
def one_latent_for_all_data(y):
    loc = pyro.sample("loc", dist.Normal(torch.zeros(3), 2.0).to_event(1))
    z = pyro.sample("z", dist.Categorical(t(0.2, 0.3, 0.5)))
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(loc[z], 1.0), obs=y)


@table.add("enumeration", "factor", args=(Y,), oracle="brute")
def mixture_with_a_factor_inside(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 4):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.factor("tilt", a * z)
        pyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=y)


@table.add("enumeration", "poutine.scale", args=(Y,), oracle="brute")
def mixture_of_copies(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 4):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("y", dist.Normal(a + 2.0 * z, 1.0), obs=y)
    with poutine.scale(scale=0.5), pyro.plate("more", 4):
        pyro.sample("x", dist.Normal(a, 1.0), obs=y + 1.0)


@table.add(
    "enumeration",
    "poutine.mask",
    "plate",
    args=(Y,),
    oracle="brute",
)
def masked_mixture_entries(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 4), poutine.mask(mask=torch.tensor([True, False, True, True])):
        z = pyro.sample("z", dist.Categorical(t(0.2, 0.3, 0.5)))
        pyro.sample("y", dist.Normal(a + z, 1.0), obs=y)


@table.add(
    "enumeration",
    "poutine.mask",
    "markov",
    "plate",
    args=(torch.tensor([[1.0, 0, 1], [0, 1, 1]]),),
    oracle="brute",
)
def capture_and_recapture(seen):
    """Cormack, Jolly and Seber: an animal counts from its first capture on."""
    survival = pyro.sample("survival", dist.Beta(4.0, 2.0))
    catch = pyro.sample("catch", dist.Beta(2.0, 2.0))
    with pyro.plate("animal", 2):
        alive, known = torch.ones(2), seen[:, 0] > 0
        for i in pyro.markov(range(1, 3)):
            with poutine.mask(mask=known):
                alive = pyro.sample(f"alive_{i}", dist.Bernoulli(survival * alive))
                pyro.sample(f"seen_{i}", dist.Bernoulli(catch * alive), obs=seen[:, i])
            alive = torch.where(known, alive, 1.0)
            known = known | (seen[:, i] > 0)


@table.add("MixtureSameFamily", observed={"y": Y})
def mixture_same_family():
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
    loc = pyro.sample("loc", dist.Normal(torch.zeros(3), 2.0).to_event(1))
    with pyro.plate("data", 4):
        pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(loc, 1.0)))


@table.add("MixtureSameFamily", observed={"y": Y}, answer=Answer("importance", settings={"num_particles": 4000}))
def latent_of_a_mixture():
    positive = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Gamma(t(1.0, 5.0), t(1.0, 2.0)))
    scale = pyro.sample("scale", positive)
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(0.0, scale))


@table.add("MaskedMixture", observed={"y": Y})
def masked_mixture():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    which = torch.tensor([True, False, True, False])
    with pyro.plate("data", 4):
        parts = dist.Normal(a, 1.0).expand([4]), dist.Laplace(a, 2.0).expand([4])
        pyro.sample("y", dist.MaskedMixture(which, *parts))


@table.add("ZeroInflatedPoisson", observed={"y": COUNTS})
def zero_inflated_poisson():
    gate = pyro.sample("gate", dist.Beta(1.0, 1.0))
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", 4):
        pyro.sample("y", dist.ZeroInflatedPoisson(rate, gate=gate))


@table.add("ZeroInflatedNegativeBinomial", observed={"y": COUNTS})
def zero_inflated_negative_binomial():
    logits = pyro.sample("logits", dist.Normal(0.0, 1.0))
    total = pyro.sample("total", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", 4):
        pyro.sample("y", dist.ZeroInflatedNegativeBinomial(total, logits=logits, gate_logits=logits))


@table.add("ZeroInflatedDistribution", observed={"y": COUNTS})
def zero_inflated_geometric():
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("data", 4):
        pyro.sample("y", dist.ZeroInflatedDistribution(dist.Geometric(p), gate=0.5 * p))


@table.add("MixtureOfDiagNormals", observed={"y": Y[:2]})
def mixture_of_diagonal_normals():
    locs = pyro.sample("locs", dist.Normal(torch.zeros(3, 2), 1.0).to_event(2))
    pyro.sample("y", dist.MixtureOfDiagNormals(locs, torch.ones(3, 2), torch.zeros(3)))


@table.add("MixtureOfDiagNormalsSharedCovariance", observed={"y": Y[:2]})
def mixture_of_normals_of_one_width():
    locs = pyro.sample("locs", dist.Normal(torch.zeros(3, 2), 1.0).to_event(2))
    pyro.sample("y", dist.MixtureOfDiagNormalsSharedCovariance(locs, torch.ones(2), torch.zeros(3)))


@table.add(
    "GaussianScaleMixture",
    observed={"y": Y[:2]},
)
def scale_mixture():
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    # Pyro cannot differentiate this distribution by its scale: it writes over a value that its gradient needs.
    pyro.sample("y", dist.GaussianScaleMixture(torch.ones(2), torch.zeros(2), torch.full((2,), 0.1)))
    pyro.factor("pull", -0.5 * shift**2)


@table.add("BetaBinomial", observed={"y": COUNTS})
def beta_binomial():
    a = pyro.sample("a", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))
    with pyro.plate("data", 4):
        pyro.sample("y", dist.BetaBinomial(a[0], a[1], 6))


@table.add("GammaPoisson", observed={"y": COUNTS})
def gamma_poisson():
    a = pyro.sample("a", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))
    with pyro.plate("data", 4):
        pyro.sample("y", dist.GammaPoisson(a[0], a[1]))


@table.add("DirichletMultinomial", observed={"y": COUNTS})
def dirichlet_multinomial():
    a = pyro.sample("a", dist.Gamma(torch.full((4,), 2.0), 1.0).to_event(1))
    pyro.sample("y", dist.DirichletMultinomial(a, total_count=8))


@table.add("factor", "plate", args=(Y,))
def robust_line_summed_by_hand(y):
    good = pyro.sample("good", dist.Beta(4.0, 1.0))
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("data", 4):
        both = [
            torch.log(good) + dist.Normal(mu, 0.5).log_prob(y),
            torch.log1p(-good) + dist.Normal(0.0, 9.0).log_prob(y),
        ]
        pyro.factor("line", torch.logsumexp(torch.stack(both), 0))


MOVES = "found here: a support that depends on a discrete latent ends in an error of torch"


@table.add(
    "enumeration",
    "support that moves",
    args=(Y,),
    oracle="brute",
    wrong_today=dict.fromkeys(("density", "gradient", "tier"), MOVES),
)
def support_moved_by_a_discrete_latent(y):
    k = pyro.sample("k", dist.Bernoulli(0.3))
    x = pyro.sample("x", dist.Uniform(torch.zeros(()), 1.0 + k))
    pyro.sample("y", dist.Normal(x, 0.5), obs=y[0])
