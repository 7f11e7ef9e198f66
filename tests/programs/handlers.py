"""Effect handlers: condition, do, scope, lift, block, reparam, mask, scale, equalize, and their like."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.autoname import scope
from pyro.infer import reparam as rp

from programs.case import Answer, Table, normals, t

table = Table()
Y = normals(4, seed=2)
MASK = torch.tensor([True, False, True, True])
BRANCHES = "branches on the value of a latent"  # Pyro does, on numbers that no latent feeds


def line(y=None):
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    b = pyro.sample("b", dist.Normal(a, 1.0))
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(b, 1.0), obs=y)


def normal_evidence(y: torch.Tensor, variance: float) -> float:
    covariance = torch.eye(len(y), dtype=y.dtype) + variance
    return float(torch.distributions.MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y))


ANSWER = Answer("laplace", normal_evidence(Y, 5.0))
table.add("condition", answer=ANSWER, name="conditioned")(pyro.condition(line, data={"y": Y}))
table.add("condition", args=(Y,), roles={"a": "observed", "b": "latent"}, name="conditioned_latent")(
    pyro.condition(line, data={"a": torch.tensor(1.0)})
)
table.add("do", args=(Y,), name="intervened")(pyro.do(line, data={"a": torch.tensor(1.0)}))
table.add("do", args=(Y,), name="intervened_on_the_mean")(poutine.do(line, data={"b": torch.tensor(0.5)}))


@table.add("uncondition", observed={"y": Y})
def unconditioned():
    with poutine.uncondition():
        a = pyro.sample("a", dist.Normal(0.0, 1.0), obs=torch.tensor(3.0))
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(a, 1.0))


@table.add("scope", observed={"y": Y})
def scoped():
    with scope(prefix="left"):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with scope(prefix="right"), scope(prefix="inner"):
        b = pyro.sample("a", dist.Exponential(1.0))
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(a, b))


@table.add("scope", "plate", args=(Y,))
def scoped_submodels(y):
    for name in ("one", "two"):
        with scope(prefix=name):
            line(y)


@table.add("scope")
@scope(prefix="named")
def scoped_by_contrib():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(a, 1.0), obs=Y)


def with_parameters():
    a = pyro.param("a", torch.tensor(0.0))
    b = pyro.param("b", torch.tensor(1.0), constraint=dist.constraints.positive)
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(a, b), obs=Y)


PRIORS = {"a": dist.Normal(t(0.0), 1.0), "b": dist.LogNormal(t(0.0), 1.0)}
table.add("lift", name="lifted", roles={"a": "latent", "b": "latent"})(poutine.lift(with_parameters, prior=PRIORS))


@table.add("block", observed={"y": Y}, roles={"y": "observed"})
def blocked_draws_are_constants():
    with poutine.block(hide=["hidden"]):
        pyro.sample("hidden", dist.Normal(0.0, 1.0), obs=torch.tensor(0.5))
    a = pyro.sample("a", dist.Normal(0.5, 1.0))
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(a, 1.0))


@table.add("equalize", observed={"y_0": Y, "y_1": Y + 1.0})
def equalized():
    for i in range(2):
        a = pyro.sample(f"a_{i}", dist.Normal(0.0, 1.0))
        with pyro.plate(f"data_{i}", 4):
            pyro.sample(f"y_{i}", dist.Normal(a, 1.0))


CASES_EQUALIZED = poutine.equalize(equalized, ["a_0", "a_1"])
table.add("equalize", observed={"y_0": Y, "y_1": Y + 1.0}, name="one_latent_for_two")(CASES_EQUALIZED)


@table.add("substitute", observed={"y": Y})
def substituted():
    with poutine.substitute(data={"scale": torch.tensor(2.0)}):
        scale = pyro.param("scale", torch.tensor(1.0))
    a = pyro.sample("a", dist.Normal(0.0, scale))
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(a, 1.0))


@table.add("poutine.mask", "plate", args=(Y,), roles={"y": "observed"})
def masked_data(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 4), poutine.mask(mask=MASK):
        pyro.sample("y", dist.Normal(a, 1.0), obs=y)


@table.add("distribution.mask", "plate", args=(Y,))
def masked_distribution(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(a, 1.0).mask(MASK), obs=y)


@table.add("poutine.mask", "distribution.mask", "plate", args=(Y,))
def masks_within_masks(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 4), poutine.mask(mask=MASK), poutine.mask(mask=MASK.flip(0)):
        pyro.sample("y", dist.Normal(a, 1.0).mask(torch.tensor([True, True, True, False])), obs=y)


@table.add("poutine.mask", args=(Y,))
def nothing_counts(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 4), poutine.mask(mask=False):
        pyro.sample("y", dist.Normal(a, 1.0), obs=y)


@table.add("poutine.mask", "plate", observed={"y": Y})
def masked_latents():
    with pyro.plate("data", 4):
        with poutine.mask(mask=MASK):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(a, 1.0))


@table.add("poutine.mask", "plate", observed={"y": Y})
def mask_that_depends_on_a_latent():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 4) as i, poutine.mask(mask=a > 0.3 * i - 0.5):
        pyro.sample("y", dist.Normal(a, 1.0))


@table.add("obs_mask", "plate")
def observed_under_a_mask():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 4):
        y = pyro.sample("y", dist.Normal(a, 1.0), obs=Y, obs_mask=MASK)
        pyro.sample("x", dist.Normal(y, 1.0), obs=Y + 1.0)


@table.add("poutine.scale", observed={"y": Y})
def scaled_everything():
    with poutine.scale(scale=0.5):
        line_of = pyro.sample("a", dist.Exponential(1.0))
        with pyro.plate("data", 4):
            pyro.sample("y", dist.Normal(0.0, line_of))


@table.add("poutine.scale", "poutine.mask", args=(Y,))
def scale_and_mask_together(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with (
        pyro.plate("data", 4),
        poutine.scale(scale=t(1.0, 2.0, 3.0, 0.5)),
        poutine.mask(mask=MASK),
        poutine.scale(scale=2.0),
    ):
        pyro.sample("y", dist.Normal(a, 1.0), obs=y)


@table.add("poutine.scale", args=(Y,))
def scale_by_a_latent(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    power = pyro.sample("power", dist.Beta(2.0, 2.0))
    with pyro.plate("data", 4), poutine.scale(scale=power):
        pyro.sample("y", dist.Normal(a, 1.0), obs=y)


@table.add("factor", roles={"f": "factor"}, answer=Answer("laplace", 0.5 * math.log(2.0 / 3.0), tolerance=1e-6))
def factored():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.factor("f", -0.25 * a.square())


@table.add("factor", "plate", observed={"y": Y})
def factor_in_a_plate():
    with pyro.plate("data", 4):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.factor("f", -a.abs())
        pyro.sample("y", dist.Normal(a, 1.0))


@table.add("factor", "poutine.scale", "poutine.mask")
def factor_under_handlers():
    with pyro.plate("data", 4):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with poutine.scale(scale=3.0), poutine.mask(mask=MASK):
            pyro.factor("f", -a.square())


@table.add("deterministic", observed={"y": Y}, roles={"b": "deterministic"})
def computed():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.deterministic("b", a.exp())
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(0.0, b))


@table.add("Delta", observed={"y": Y}, roles={"b": "deterministic"})
def point_masses():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Delta(2.0 * a))
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(b, 1.0))


@table.add(
    "Delta",
    observed={"y": Y},
)
def point_mass_with_a_density():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Delta(2.0 * a, log_density=-a.square()))
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(b, 1.0))


@table.add("Delta", "plate", "to_event", observed={"y": Y})
def point_masses_in_a_plate():
    with pyro.plate("data", 4):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Delta(torch.stack([a, -a], -1), event_dim=1))
        pyro.sample("y", dist.Normal(b[..., 0], 1.0))


@table.add("broadcast", observed={"y": Y})
def broadcast():
    with poutine.broadcast(), pyro.plate("data", 4):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(a, 1.0))


@table.add("infer_config", observed={"y": Y})
def configured():
    a = pyro.sample("a", dist.Normal(0.0, 1.0), infer={"note": 1})
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(a, 1.0))


table.add("infer_config", observed={"y": Y}, name="configured_by_handler")(
    poutine.infer_config(configured, config_fn=lambda site: {"is_auxiliary": False})
)


def schools():
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(5.0))
    with pyro.plate("data", 4):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, 1.0), obs=Y)


ROLES = {"theta": "deterministic", "theta_decentered": "latent", "mu": "latent", "y": "observed"}
for name, strategy in {"noncentred": rp.LocScaleReparam(0.0), "half_centred": rp.LocScaleReparam(0.5)}.items():
    table.add("reparam", "LocScaleReparam", "plate", name=name, roles=ROLES)(
        poutine.reparam(schools, config={"theta": strategy})
    )


def reparametrised(strategy, make, **settings):
    """A latent ``z`` under a strategy of Pyro, seen with noise."""
    kind = type(strategy).__name__

    def program():
        with poutine.reparam(config={"z": strategy}):
            z = pyro.sample("z", make())
        pyro.sample("y", dist.Normal(z.sum(), 1.0), obs=torch.tensor(0.7))

    table.add("reparam", kind, name=f"reparam_by_{kind}", **settings)(program)


def log_normal():
    base = dist.Normal(0.0, 1.0)
    return dist.TransformedDistribution(
        base, [dist.transforms.AffineTransform(0.5, 2.0), dist.transforms.ExpTransform()]
    )


reparametrised(rp.TransformReparam(), log_normal)
reparametrised(rp.StudentTReparam(), lambda: dist.StudentT(4.0, torch.tensor(0.0), 1.0))
reparametrised(rp.GumbelSoftmaxReparam(), lambda: dist.RelaxedOneHotCategorical(torch.tensor(0.7), torch.ones(3)))
reparametrised(rp.HaarReparam(-1), lambda: dist.Normal(torch.zeros(4), 1.0).to_event(1))
reparametrised(rp.DiscreteCosineReparam(-1), lambda: dist.Normal(torch.zeros(4), 1.0).to_event(1))
reparametrised(rp.SplitReparam([1, 3], -1), lambda: dist.Normal(torch.zeros(4), 1.0).to_event(1))
reparametrised(rp.ProjectedNormalReparam(), lambda: dist.ProjectedNormal(torch.tensor([1.0, 0.5])), loop_today=BRANCHES)
reparametrised(rp.LatentStableReparam(), lambda: dist.Stable(1.8, 0.1), loop_today=BRANCHES)


@table.add(
    "reparam",
    "AutoReparam",
    "plate",
    name="automatically_reparametrised",
    roles={"y": "observed", "mu": "deterministic", "theta": "deterministic"},
)
@poutine.reparam(config=rp.AutoReparam())
def automatically_reparametrised():
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("data", 4):
        theta = pyro.sample("theta", dist.LogNormal(mu, 1.0))
        pyro.sample("y", dist.Normal(theta, 1.0), obs=Y)
