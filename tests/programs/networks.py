"""Programs with modules and parameters: ``pyro.param``, ``pyro.module``, PyroModule, normalising flows, kernels."""

from __future__ import annotations

import itertools

import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import torch
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn
from torch.distributions import constraints

from programs.case import Answer, Table, normals

table = Table()
BRANCHES = "branches on the value of a latent"  # it does not: its priors were made outside of the program
X = normals(6, 2, seed=1)
Y = normals(6, seed=2)
IMAGES = (normals(4, 5, seed=3) > 0).double()


def network(*sizes: int, seed: int = 0) -> nn.Sequential:
    """Linear layers with tanh between them, the same in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for inside, outside in itertools.pairwise(sizes):
            layers += [nn.Linear(inside, outside, dtype=torch.float64), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


@table.add("param", "plate", observed={"y": Y})
def free_location():
    loc = pyro.param("loc", torch.tensor(0.3))
    z = pyro.sample("z", dist.Normal(loc, 1.0))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Normal(z, 1.0))


@table.add("param", "plate", observed={"y": Y}, roles={"scale": "parameter", "z": "latent", "y": "observed"})
def constrained_parameters():
    scale = pyro.param("scale", lambda: torch.tensor(2.0), constraint=constraints.positive)
    weights = pyro.param("weights", torch.ones(3) / 3.0, constraint=constraints.simplex)
    z = pyro.sample("z", dist.Normal(weights[0], scale))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Normal(z, 1.0))


DECODER = network(2, 4, 5)


@table.add("module", "plate", "to_event", args=(IMAGES,))
def decoder(x):
    pyro.module("decoder", DECODER)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=DECODER(z)).to_event(1), obs=x)


CLASSES = network(5, 5, seed=1)


@table.add("module", "plate", "enumeration", args=(IMAGES,), oracle="brute")
def semi_supervised_decoder(x):
    pyro.module("decoder", DECODER)
    pyro.module("classes", CLASSES)
    one = torch.eye(5)
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    k = pyro.sample("k", dist.Categorical(torch.ones(2)))
    pyro.sample("x", dist.Bernoulli(logits=DECODER(z) + CLASSES(one[k])).to_event(1), obs=x[0])


class Line(PyroModule):
    """A linear regression whose weights are random."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](2, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 5.0).expand([1]).to_event(1))

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 5.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, sigma), obs=y)
        return mean


table.add("PyroModule", "PyroSample", "plate", args=(X, Y), name="line_as_a_module", loop_today=BRANCHES)(Line())


class Network(PyroModule):
    """A Bayesian network with one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = PyroModule[nn.Linear](2, 3)
        self.first.weight = PyroSample(dist.Normal(0.0, 1.0).expand([3, 2]).to_event(2))
        self.first.bias = PyroSample(dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        self.last = PyroModule[nn.Linear](3, 1)
        self.last.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 3]).to_event(2))
        self.last.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> None:
        mean = self.last(torch.tanh(self.first(x))).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=mean), obs=y)


FLIPS = (Y > 0).double()
table.add("PyroModule", "PyroSample", args=(X, FLIPS), name="network_as_a_module", loop_today=BRANCHES)(Network())


class Hierarchy(PyroModule):
    """Attributes whose priors depend on each other, and a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.width = PyroParam(torch.tensor(0.7, dtype=torch.float64), constraint=constraints.positive)
        self.mu = PyroSample(dist.Normal(0.0, 1.0))

    @PyroSample
    def scale(self) -> dist.Distribution:
        return dist.LogNormal(self.mu, self.width)

    def forward(self, y: torch.Tensor) -> None:
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(self.mu, self.scale), obs=y)


table.add("PyroModule", "PyroSample", "PyroParam", args=(Y,), name="attributes_that_depend")(Hierarchy())


@table.add("module", "to_event", args=(X,), observed={"y": Y})
def weights_as_events(x):
    w = pyro.sample("w", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
    v = pyro.sample("v", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Normal(torch.relu(x @ w) @ v, 1.0))


@table.add("plate", "to_event", observed={"x": torch.tensor([[0.0, 2], [1, 3], [4, 0]])})
def sparse_gamma_factors():
    top = pyro.sample("top", dist.Gamma(torch.full((2, 2), 0.5), 0.5).to_event(2))
    bottom = pyro.sample("bottom", dist.Gamma(torch.full((2, 2), 0.5), 0.5).to_event(2))
    with pyro.plate("data", 3):
        z = pyro.sample("z", dist.Gamma(torch.full((2,), 0.5), 0.5).to_event(1))
        w = pyro.sample("w", dist.Gamma(0.5, 0.5 / (z @ top)).to_event(1))
        pyro.sample("x", dist.Poisson(w @ bottom).to_event(1))


def fixed(make):
    """A transform module with the same weights in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().double()


SPLINE = fixed(lambda: transforms.Spline(2, count_bins=4))
COUPLING = fixed(lambda: transforms.affine_coupling(2, hidden_dims=[4]))
PLANAR = fixed(lambda: transforms.Planar(2))
CONDITIONAL = fixed(lambda: transforms.conditional_spline(1, 1, hidden_dims=[4], count_bins=4))


@table.add("TransformedDistribution", "module", observed={"x": X[0]})
def spline_flow_of_data():
    pyro.module("spline", SPLINE)
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("x", dist.TransformedDistribution(dist.Normal(loc, 1.0).to_event(1), [SPLINE]))


@table.add("TransformedDistribution", "module", observed={"x": X[0]})
def coupling_flow_as_a_prior():
    pyro.module("coupling", COUPLING)
    z = pyro.sample("z", dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), [COUPLING]))
    pyro.sample("x", dist.Normal(z, 0.5).to_event(1))


@table.add("ConditionalTransform", "module", observed={"x": X[0, :1]}, loop_today="as_strided_scatter")
def conditional_flow():
    pyro.module("conditional", CONDITIONAL)
    z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
    law = dist.ConditionalTransformedDistribution(dist.Normal(torch.zeros(1), torch.ones(1)).to_event(1), [CONDITIONAL])
    pyro.sample("x", law.condition(z))


def kernel_model():
    kernel = gp.kernels.RBF(input_dim=2)
    kernel.lengthscale = PyroSample(dist.LogNormal(0.0, 0.5))
    kernel.variance = PyroSample(dist.LogNormal(0.0, 0.5))
    return gp.models.GPRegression(X, Y, kernel.double(), noise=torch.tensor(0.5, dtype=torch.float64))


table.add("contrib.gp", "PyroSample", name="gp_regression_of_contrib", loop_today="invalid size")(kernel_model().model)


@table.add("module", observed={"y": Y})
def batch_norm_in_eval_mode():
    norm = NORM.eval()
    z = pyro.sample("z", dist.Normal(torch.zeros(6, 2), 1.0).to_event(2))
    pyro.sample("y", dist.Normal(norm(z).sum(-1), 1.0).to_event(1))


NORM = nn.BatchNorm1d(2, dtype=torch.float64)


@table.add("param", "plate", observed={"y": Y}, answer=Answer("importance", settings={"num_particles": 3000}))
def parameter_of_a_positive_latent():
    rate = pyro.param("rate", torch.tensor(1.5), constraint=constraints.positive)
    scale = pyro.sample("scale", dist.Exponential(rate))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Normal(0.0, scale))
