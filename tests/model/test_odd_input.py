"""Programs and data that are unusual, and what the library makes of them: an answer that is right, or a lesson."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

import phlogiston as ph

QUIET: dict[str, Any] = {"seed": 0, "progress": False}


def schools(sigma: torch.Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("school", len(sigma)):
        theta = pyro.sample("theta", dist.Normal(mu, 3.0))
        pyro.sample("y", dist.Normal(theta, sigma))


def coin() -> None:
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("toss", 4):
        pyro.sample("y", dist.Bernoulli(p))


def normal() -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    pyro.sample("y", dist.Normal(mu, 1.0))


@pytest.mark.parametrize(
    "as_given",
    [
        np.array,
        pd.Series,
        lambda values: xr.DataArray(values, dims="school"),
        torch.tensor,
        lambda values: np.array(values, dtype=int),
        lambda values: np.array(values, dtype=np.float32),
    ],
    ids=["numpy", "pandas", "xarray", "torch", "int", "float32"],
)
def test_arrays_of_every_library_give_the_same_answer(as_given: Any) -> None:
    expected = ph.infer(
        ph.Model(schools, torch.tensor([1.0, 2.0, 3.0])).observe(y=[1.0, 2.0, 3.0]), "importance", **QUIET
    )
    model = ph.Model(schools, as_given([1.0, 2.0, 3.0])).observe(y=as_given([1.0, 2.0, 3.0]))
    assert ph.infer(model, "importance", **QUIET).log_evidence == expected.log_evidence


@pytest.mark.parametrize("method", ["importance", "rejection", ph.Rejection(likelihood_bound="match")])
def test_truth_values_are_data(method: Any) -> None:
    posterior = ph.infer(ph.Model(coin).observe(y=np.array([True, False, True, True])), method, **QUIET)
    assert abs(posterior.log_evidence.value - math.log(1 / 20)) < 4 * posterior.log_evidence.se


def test_truth_values_inside_the_program_come_with_the_line_to_write() -> None:
    def program(y: torch.Tensor) -> None:
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        with pyro.plate("toss", 2):
            pyro.sample("y", dist.Bernoulli(p), obs=y)

    with pytest.raises(
        ph.ModelError, match=r"site 'y': found observed values of type bool.*write: obs=value.double\(\)"
    ):
        ph.infer(ph.Model(program, np.array([True, False])), "importance", **QUIET)


def test_dimensions_of_length_one_stay() -> None:
    posterior = ph.infer(ph.Model(schools, torch.ones(1)).observe(y=[1.0]), "importance", **QUIET)
    assert posterior.predict()["y"].shape == (1, 10_000, 1)
    assert posterior.data["posterior"]["theta"].dims == ("chain", "draw", "school")


@pytest.mark.parametrize("method", ["importance", "rejection"])
def test_float32_tensors_inside_a_program_do_not_lower_the_precision_of_draws(method: str) -> None:
    scale = torch.ones(2)

    def program() -> None:
        b = pyro.sample("b", dist.Normal(torch.zeros(2, dtype=torch.float32), scale).to_event(1))
        pyro.sample("y", dist.Normal(b.sum(), 1.0))

    posterior = ph.infer(ph.Model(program).observe(y=0.5), method, **QUIET)
    assert posterior.draws["b"].dtype == torch.float64
    assert posterior.engine == "graph"
    exact = float(torch.distributions.Normal(0.0, math.sqrt(3.0)).log_prob(torch.tensor(0.5)))
    assert abs(posterior.log_evidence.value - exact) < 4 * posterior.log_evidence.se


def test_a_support_that_depends_on_a_latent_is_not_judged_by_one_draw_of_it() -> None:
    def program() -> None:
        z = pyro.sample("z", dist.Uniform(0.0, 1.0))
        pyro.sample("y", dist.Uniform(z, z + 1.0))

    for y, exact in ((0.02, math.log(0.02)), (0.5, math.log(0.5)), (1.98, math.log(0.02))):
        posterior = ph.infer(ph.Model(program).observe(y=y), "importance", **QUIET)
        assert abs(posterior.log_evidence.value - exact) < 4 * posterior.log_evidence.se


def test_data_outside_every_support_that_latents_allow() -> None:
    def program() -> None:
        z = pyro.sample("z", dist.Uniform(0.0, 1.0))
        pyro.sample("y", dist.Uniform(0.0, z))

    model = ph.Model(program).observe(y=2.0)
    with pytest.raises(ph.ModelError, match=r"starting point, site 'y': found a log probability of -inf at 2.0"):
        ph.infer(model, "nuts", **QUIET)
    with pytest.raises(ph.ImpossibleEvidence):
        ph.infer(model, "importance", **QUIET)


def test_impossible_evidence_is_an_error_under_exact() -> None:
    def program() -> None:
        pyro.sample("z", dist.Bernoulli(0.5))
        pyro.factor("never", torch.tensor(-math.inf))

    with pytest.raises(ph.ImpossibleEvidence, match="method 'exact': found a log evidence of -inf"):
        ph.infer(ph.Model(program), "exact", **QUIET)


@pytest.mark.parametrize("method", ["importance", "nuts", "rejection"])
def test_a_prior_outside_its_constraint_is_noticed_before_sampling(method: str) -> None:
    def program(scale: torch.Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, scale))
        pyro.sample("y", dist.Normal(z, 1.0))

    with pytest.raises(ph.ModelError, match="site 'z': found a log probability that is NaN under Normal"):
        ph.infer(ph.Model(program, torch.tensor(-1.0)).observe(y=1.0), method, **QUIET)


@pytest.mark.parametrize(("bad", "kind"), [(math.nan, "NaN"), (math.inf, "infinite")])
def test_inputs_that_are_not_finite_are_named_in_simulations_too(bad: float, kind: str) -> None:
    model = ph.Model(schools, torch.tensor([1.0, bad]))
    with pytest.raises(ph.ModelError, match=f"input 'sigma': found 1 {kind} of 2 values"):
        model.simulate(3, seed=0)
    with pytest.raises(ph.ModelError, match=f"input 'sigma': found 1 {kind} of 2 values"):
        model.observe(y=[0.0, 0.0])


@pytest.mark.parametrize("method", ["importance", "rejection"])
def test_a_density_that_is_undefined_at_some_draws_names_draw_and_site(method: str) -> None:
    def program() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(torch.sqrt(z), 1.0))

    with pytest.raises(
        ph.ModelError, match=r"weights: found nan .* in \d+ of \d+ draws; .*z=-\d.*, where site 'y' has log prob"
    ):
        ph.infer(ph.Model(program).observe(y=1.0), method, **QUIET)


def sometimes_drawn() -> None:
    z = pyro.sample("z", dist.Bernoulli(0.5))
    w = pyro.sample("w", dist.Normal(0.0, 1.0)) if z > 0.5 else 0.0
    pyro.sample("y", dist.Normal(w, 1.0))


def of_random_length() -> None:
    n = pyro.sample("n", dist.Poisson(2.0))
    total = sum(pyro.sample(f"x_{i}", dist.Normal(0.0, 1.0)) for i in range(int(n)))
    pyro.sample("y", dist.Normal(total, 1.0))


@pytest.mark.parametrize(("program", "site"), [(sometimes_drawn, "w"), (of_random_length, r"x_\d")])
def test_sites_that_come_and_go_are_refused_by_name(program: Any, site: str) -> None:
    with pytest.raises(
        ph.ModelError, match=f"site '{site}': found a statement that .*; expected the same sites in every"
    ):
        ph.infer(ph.Model(program).observe(y=1.0), "importance", num_particles=300, **QUIET)


@pytest.mark.parametrize("method", ["exact", "nuts"])
def test_a_branch_on_an_enumerated_latent_comes_with_the_line_to_write(method: str) -> None:
    def program() -> None:
        z = pyro.sample("z", dist.Bernoulli(0.5))
        m = pyro.sample("m", dist.Normal(0.0, 1.0)) if method == "nuts" else 0.0
        pyro.sample("y", dist.Normal(m + (1.0 if z > 0.5 else 0.0), 1.0))

    with pytest.raises(
        ph.UnsupportedModel, match=r"test_odd_input.py:\d+.*write: torch.tensor\(\[if_0, if_1\]\)\[z.long"
    ):
        ph.infer(ph.Model(program).observe(y=1.0), method, **QUIET)


def test_labels_that_do_not_fit_are_doubted() -> None:
    model = ph.Model(schools, torch.ones(3), coords={"skool": ["a"], "school": ["a", "b"]})
    assert [str(problem) for problem in model.check()] == [
        "coords 'skool': found no such dimension; expected the name of a plate or dimension; did you mean 'school'? "
        "(known: school)",
        "coords 'school': found 2 labels; expected 3; the dimension is numbered instead",
    ]


@pytest.mark.parametrize("seed", ["a", -1, 1.5, True])
def test_seeds_without_sense(seed: Any) -> None:
    with pytest.raises(ph.SettingError, match=f"seed: found {seed!r}; expected an integer, zero or above, or None"):
        ph.infer(ph.Model(normal).observe(y=1.0), "importance", seed=seed)
    with pytest.raises(ph.SettingError, match="seed: found"):
        ph.Model(normal).simulate(3, seed=seed)


def test_integers_of_numpy_are_integers() -> None:
    method = ph.Importance(num_particles=np.int64(500))
    assert ph.infer(ph.Model(normal).observe(y=1.0), method, seed=np.int64(3), progress=False).num_draws == 500


def test_names_in_capitals_are_understood_as_misspelt() -> None:
    with pytest.raises(ph.UnknownName, match=r"unknown method 'NUTS'; did you mean 'nuts'\?"):
        ph.infer(normal, "NUTS")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([1j, 2.0, 3.0]), "site 'y': found complex numbers; expected real ones"),
        ([[1.0], [1.0, 2.0]], "site 'y': found list; expected numbers"),
        (None, "site 'y': found NoneType; expected numbers"),
        (
            np.zeros((3, 1)),
            r"found an observed value of shape \(3, 1\); expected shape \(3,\), as plate 'school' has 3",
        ),
    ],
)
def test_observations_that_cannot_be_data(value: Any, message: str) -> None:
    with pytest.raises(ph.ModelError, match=message):
        ph.Model(schools, torch.ones(3)).observe(y=value)


def test_nothing_is_inferred_from_a_value_for_what_is_computed() -> None:
    def program() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.deterministic("twice", 2.0 * z)
        pyro.factor("extra", -z)

    with pytest.raises(ph.UnsupportedModel, match="site 'twice': found a value for an output that is computed"):
        ph.infer(ph.Model(program).observe(twice=1.0), "importance", **QUIET)
    with pytest.raises(ph.UnknownName, match="observe: 'extra' is a factor in program 'program'; expected a site that"):
        ph.Model(program).observe(extra=1.0)


def test_a_posterior_answers_misspelt_sites_with_the_nearest() -> None:
    posterior = ph.infer(ph.Model(schools, torch.ones(3)).observe(y=[1.0, 2.0, 3.0]), "importance", **QUIET)
    asks = {
        "expect": lambda: posterior.expect(lambda draw: draw["thet"]),
        "moments": lambda: posterior.moments("thet"),
        "summary": lambda: posterior.summary("thet"),
        "predict": lambda: posterior.predict(sites="thet"),
    }
    for verb, ask in asks.items():
        with pytest.raises(ph.UnknownName, match=f"{verb}: .* no site 'thet'; did you mean 'theta'"):
            ask()
    with pytest.raises(ph.UnknownName, match="loo: found no site 'x'"):
        posterior.loo("x")
    with pytest.raises(TypeError, match=r"the inputs do not fit schools\(sigma"):
        posterior.predict(1, 2, 3)
    assert list(posterior.summary("mu").index) == ["mu"]
    assert list(posterior.predict(sites="theta")) == ["theta"]


WEIGHTS = torch.tensor([0.3, 0.7])


def test_a_mixture_is_a_latent_where_its_components_share_a_support() -> None:
    def program() -> None:
        x = pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(WEIGHTS), dist.Gamma(COUNTS, torch.tensor(2.0))))
        pyro.sample("y", dist.Poisson(x))

    # A gamma prior's mixture is a mixture a posteriori: Gamma(a + 4, 3), reweighted by the negative binomial of y = 4.
    log_weights = WEIGHTS.log() + dist.GammaPoisson(COUNTS, torch.tensor(2.0)).log_prob(torch.tensor(4.0))
    mean = float((log_weights.softmax(0) * (COUNTS + 4.0) / 3.0).sum())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)
        posterior = ph.infer(ph.Model(program).observe(y=4.0), "nuts", num_samples=500, seed=0)
    moments = posterior.moments("x")
    assert abs(moments.mean - mean) < 4.0 * moments.mean_se


COUNTS = torch.tensor([2.0, 9.0])


def test_a_mixture_whose_components_have_bounds_of_their_own_is_refused_by_name() -> None:
    def program() -> None:
        ends = torch.tensor([1.0, 2.0])
        x = pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(WEIGHTS), dist.Uniform(torch.zeros(2), ends)))
        pyro.sample("y", dist.Normal(x, 1.0))

    with pytest.raises(ph.UnsupportedModel, match=r"site 'x': found the support Mixture.*the same for all components"):
        ph.infer(ph.Model(program).observe(y=0.3), "nuts", seed=0)


def test_one_hot_latents_that_depend_on_each_other_are_summed_out_and_drawn_back() -> None:
    table = torch.tensor([[0.2, 0.8], [0.5, 0.5]])

    def program() -> None:
        z = pyro.sample("z", dist.Categorical(WEIGHTS))
        w = pyro.sample("w", dist.OneHotCategorical(table[z]))
        pyro.sample("y", dist.Normal(w[..., 1], 0.5))

    likelihood = dist.Normal(torch.tensor([0.0, 1.0]), 0.5).log_prob(torch.tensor(0.3)).exp()
    joint = WEIGHTS[:, None] * table * likelihood
    posterior = ph.infer(ph.Model(program).observe(y=0.3), "exact", num_samples=2000, seed=0)
    assert posterior.log_evidence is not None
    assert abs(posterior.log_evidence.value - float(joint.sum().log())) < 1e-6
    moments = posterior.moments("w")
    assert np.all(np.abs(moments.mean - (joint.sum(0) / joint.sum()).numpy()) < 4.0 * moments.mean_se)


def test_simulations_that_no_memory_holds_are_refused_with_a_number_that_fits() -> None:
    def images() -> None:
        with pyro.plate("image", 60):
            pyro.sample("x", dist.Normal(torch.zeros(784), 1.0).to_event(1))

    with pytest.raises(
        ph.SettingError, match=r"simulate: found 1,000,000,000 draws of every site, 376,320 GB.*num_samples="
    ):
        ph.Model(images).simulate(1_000_000_000)
