"""What a caller reads when something is wrong."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph


def schools(sigma: torch.Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("school", 8):
        theta = pyro.sample("theta", dist.Normal(mu, 3.0))
        pyro.sample("y", dist.Normal(theta, sigma))


MODEL = ph.Model(schools, torch.ones(8))


def coin() -> None:
    p = pyro.sample("p", dist.Beta(2.0, 3.0))
    pyro.sample("heads", dist.Binomial(10, p))


@pytest.mark.parametrize(("bad", "message"), [(math.nan, "2 NaN of 8 values"), (math.inf, "2 infinite of 8 values")])
def test_observations_that_are_not_finite_name_site_and_count(bad: float, message: str) -> None:
    y = np.zeros(8)
    y[[1, 4]] = bad
    with pytest.raises(ph.ModelError, match=f"site 'y': found {message}; expected finite numbers"):
        MODEL.observe(y=y)


def test_observations_inside_the_program_are_checked_too() -> None:
    def program() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("row", 2):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=torch.tensor([1.0, math.nan]))

    with pytest.raises(ph.ModelError, match="site 'y': found 1 NaN of 2 values"):
        ph.infer(ph.Model(program), "nuts")


def test_inputs_that_are_not_finite_are_named() -> None:
    sigma = torch.tensor([1.0, math.nan, 1, 1, 1, 1, 1, 1])
    with pytest.raises(ph.ModelError, match="input 'sigma': found 1 NaN of 8 values"):
        ph.Model(schools, sigma).observe(y=np.zeros(8))


def test_a_parameter_outside_its_constraint_is_noticed_before_sampling() -> None:
    with pytest.raises(ph.ModelError, match="site 'y': found a log probability that is NaN under Normal"):
        ph.Model(schools, -torch.ones(8)).observe(y=np.zeros(8))


def test_a_shape_that_does_not_fit_the_plate_names_the_plate() -> None:
    with pytest.raises(
        ph.ModelError,
        match=r"site 'y': found an observed value of shape \(7,\); expected shape \(8,\), as plate 'school' has 8",
    ):
        MODEL.observe(y=np.zeros(7))
    with pytest.raises(ph.ModelError, match=r"found an observed value of shape \(\); expected shape \(8,\)"):
        MODEL.observe(y=1.0)


def test_a_batch_without_a_plate_comes_with_the_line_to_write() -> None:
    model = ph.Model(lambda: pyro.sample("y", dist.Normal(pyro.sample("mu", dist.Normal(0.0, 1.0)), 1.0)))
    with pytest.raises(ph.ModelError, match=r'write: with pyro.plate\("y_plate", 3\): pyro.sample\("y", ...\)'):
        model.observe(y=np.zeros(3))


def test_a_program_with_a_batch_outside_plates_runs_and_is_warned_of() -> None:
    def program() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu, torch.ones(3)), obs=torch.zeros(3))

    with pytest.warns(
        ph.ShapeWarning, match=r"site 'y': found batch shape \(3,\) with 1 dimension\(s\) outside any plate"
    ):
        posterior = ph.infer(ph.Model(program), "importance", seed=0)
    assert posterior.pointwise_log_likelihood()["y"].shape == (1, 10_000, 3)


def test_an_observation_outside_the_support() -> None:
    with pytest.raises(
        ph.ModelError, match="site 'heads': found an observed value outside the support; expected Binomial"
    ):
        ph.Model(coin).observe(heads=12.0)


def test_observations_that_are_no_numbers() -> None:
    with pytest.raises(ph.ModelError, match="site 'heads': found str; expected numbers"):
        ph.Model(coin).observe(heads="seven")


def test_an_unknown_site_gets_the_nearest_name() -> None:
    with pytest.raises(ph.UnknownName, match=r"has no site 'thetta'; did you mean 'theta'\? \(known: mu, theta, y\)"):
        MODEL.observe(thetta=np.zeros(8))


def test_an_unknown_method_gets_the_nearest_name() -> None:
    with pytest.raises(ph.UnknownName, match=r"unknown method 'nutz'; did you mean 'nuts'\?"):
        ph.infer(MODEL, "nutz")


@pytest.mark.parametrize("method", ["exact", "rejection", "importance", "nuts"])
def test_an_unknown_setting_gets_the_nearest_name(method: str) -> None:
    setting = "num_particle" if method == "importance" else "num_sample"
    with pytest.raises(
        ph.UnknownName, match=rf"method '{method}' has no setting '{setting}'; did you mean '{setting}s'\?"
    ):
        ph.infer(MODEL, method, **{setting: 10})


def test_a_misspelt_keyword_of_a_verb_is_not_taken_for_a_setting() -> None:
    with pytest.raises(ph.UnknownName, match="did you mean 'seed'"):
        ph.infer(MODEL, "nuts", sed=0)
    with pytest.raises(ph.UnknownName, match="did you mean 'num_simulations'"):
        ph.calibrate(MODEL, "nuts", num_simulation=10)
    with pytest.raises(ph.UnknownName, match="did you mean 'checkpoint'"):
        ph.train(MODEL, "svi", chekpoint="run")


def test_settings_beside_a_method_are_refused() -> None:
    with pytest.raises(TypeError, match=r"found settings \['num_samples'\] beside a method.*write: nuts\(...\)"):
        ph.infer(MODEL, ph.NUTS(), num_samples=10)


def test_something_that_is_no_method() -> None:
    with pytest.raises(TypeError, match="found int as the method; expected a name or a method"):
        ph.infer(MODEL, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ph.Importance(num_particles=0), "num_particles: found 0; expected an integer above zero"),
        (lambda: ph.Importance(num_particles=1e5), "num_particles: found 100000.0; expected an integer above zero"),
        (lambda: ph.Importance(family="cauchy"), "family: found 'cauchy'"),
        (lambda: ph.Importance(proposal="posterior"), "proposal: found 'posterior'"),
        (lambda: ph.Importance(proposal=3), "proposal: found 3"),
        (lambda: ph.Importance(degrees_of_freedom=-1), "degrees_of_freedom: found -1"),
        (lambda: ph.NUTS(num_samples=-1), "num_samples: found -1; expected an integer above zero"),
        (lambda: ph.NUTS(num_chains=True), "num_chains: found True; expected an integer above zero"),
        (lambda: ph.NUTS(target_accept_prob=1.5), "target_accept_prob: found 1.5; expected a number between 0 and 1"),
        (lambda: ph.NUTS(target_accept_prob="high"), "target_accept_prob: found 'high'"),
        (
            lambda: ph.SVI(guide=ph.Amortized),
            r"guide: found the class Amortized; expected .*; write: guide=Amortized\(\)",
        ),
        (lambda: ph.NUTS(mass_matrix="full"), "mass_matrix: found 'full'; expected 'auto' or 'diag'"),
        (lambda: ph.Rejection(likelihood_bound="guess"), "likelihood_bound: found 'guess'"),
        (lambda: ph.Rejection(likelihood_bound=math.inf), "likelihood_bound: found inf; expected a finite log M"),
        (lambda: ph.Rejection(likelihood_bound=None), "likelihood_bound: found None"),
        (lambda: ph.Rejection(tolerance=0), "tolerance: found 0; expected a number above zero"),
        (lambda: ph.Exact(num_samples=0), "num_samples: found 0"),
        (lambda: ph.Importance(engine="gpu"), "engine: found 'gpu'"),
    ],
)
def test_settings_without_sense_are_refused_where_they_are_written(make: Any, message: str) -> None:
    with pytest.raises(ph.SettingError, match=message):
        make()


def test_a_program_that_throws_names_its_line() -> None:
    def program(x: torch.Tensor) -> None:
        raise ZeroDivisionError("in here")

    with pytest.raises(
        ph.ProgramError, match=r"program 'program' raised ZeroDivisionError at .*test_bad_input.py:\d+:"
    ) as caught:
        ph.infer(ph.Model(program, torch.ones(2)), "importance")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_program_that_throws_only_in_the_middle_says_so_as_well() -> None:
    calls = []

    def program() -> None:
        calls.append(1)
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        if len(calls) > 8:
            raise RuntimeError("tired")
        pyro.sample("y", dist.Normal(1.0 if x > 0 else 2.0, 1.0))

    with pytest.raises(ph.ProgramError, match=r"RuntimeError at .*tired"):
        ph.infer(ph.Model(program).observe(y=1.0), "importance", num_particles=200, seed=0)


def test_inputs_that_do_not_fit_the_program() -> None:
    with pytest.raises(TypeError, match=r"the inputs do not fit schools\(sigma.*missing a required argument: 'sigma'"):
        ph.Model(schools)


def test_something_that_is_no_program() -> None:
    with pytest.raises(TypeError, match="Model: found a int; expected a callable"):
        ph.Model(3)  # type: ignore[arg-type]


def impossible() -> None:
    z = pyro.sample("z", dist.Uniform(0.0, 1.0))
    pyro.sample("y", dist.Uniform(z, z + 1.0))


def impossible_to_match() -> None:
    pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Poisson(0.001))


def test_impossible_evidence_is_an_error_under_importance_and_rejection() -> None:
    def program() -> None:
        z = pyro.sample("z", dist.Uniform(0.0, 1.0))
        pyro.factor("window", torch.where(z > 2.0, 0.0, -math.inf))

    for method in ("importance", "rejection"):
        with pytest.raises(ph.ImpossibleEvidence, match=r"none of|all 10000 particles have likelihood zero"):
            ph.infer(ph.Model(program), method, seed=0)


def test_hopeless_matching_stops_early_and_says_so() -> None:
    model = ph.Model(impossible_to_match).observe(y=30.0)
    with pytest.raises(ph.ImpossibleEvidence, match=r"none of 524288 prior draws was accepted \(log evidence below"):
        ph.infer(model, ph.Rejection(likelihood_bound="match", max_attempts=50_000_000), seed=0)


def test_too_few_attempts_return_what_there_is_with_a_warning() -> None:
    model = ph.Model(coin).observe(heads=7.0)
    with pytest.warns(ph.RejectionWarning, match=r"\d+ of 1000 draws after 2000 attempts"):
        posterior = ph.infer(model, ph.Rejection(likelihood_bound="match", max_attempts=2000), seed=0)
    assert 50 < posterior.num_draws < 400


def test_matching_continuous_data_is_refused_with_what_would_do() -> None:
    with pytest.raises(ph.UnsupportedModel, match=r"site 'y': found continuous observations.*tolerance=\{\"y\": 0.5\}"):
        ph.infer(MODEL.observe(y=np.zeros(8)), ph.Rejection(likelihood_bound="match"))


def test_a_tolerance_for_an_unknown_site() -> None:
    with pytest.raises(ph.UnknownName, match="observes no site 'z'"):
        ph.infer(MODEL.observe(y=np.zeros(8)), ph.Rejection(tolerance={"z": 1.0}))


def test_a_bound_that_is_exceeded_is_an_error_with_the_value() -> None:
    with pytest.raises(
        ph.SettingError, match=r"likelihood_bound: found a draw with log likelihood -1\.3.*none above -5"
    ):
        ph.infer(ph.Model(coin).observe(heads=7.0), ph.Rejection(likelihood_bound=-5.0), seed=0)


def test_a_proposal_with_foreign_sites_or_shapes() -> None:
    model = MODEL.observe(y=np.zeros(8))

    def foreign(sigma: torch.Tensor) -> None:
        pyro.sample("mew", dist.Normal(0.0, 1.0))

    def misshapen(sigma: torch.Tensor) -> None:
        pyro.sample("theta", dist.Normal(torch.zeros(5), 1.0).to_event(1))

    with pytest.raises(
        ph.ModelError, match=r"proposal 'foreign': site 'mew' is no latent of 'schools'; did you mean 'mu'"
    ):
        ph.infer(model, ph.Importance(proposal=foreign))
    with pytest.raises(ph.ModelError, match=r"site 'theta': found shape \(5,\); expected shape \(8,\)"):
        ph.infer(model, ph.Importance(proposal=misshapen))


def test_uneven_weights_are_warned_of_with_the_next_action() -> None:
    def narrow() -> None:
        pyro.sample("p", dist.Beta(200.0, 20.0))

    with pytest.warns(ph.WeightWarning, match=r"Pareto k-hat is .* \(limit 0.70\).*Student-t tails"):
        posterior = ph.infer(ph.Model(coin).observe(heads=2.0), ph.Importance(proposal=narrow), seed=0)
    assert posterior.warnings


def test_a_model_without_latents() -> None:
    model = ph.Model(lambda: pyro.sample("y", dist.Normal(0.0, 1.0))).observe(y=1.0)
    with pytest.raises(ph.UnsupportedModel, match="found no latent site"):
        ph.infer(model, "importance")


def test_no_starting_point_names_the_site_that_has_none() -> None:
    def program() -> None:
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("never", torch.tensor(-math.inf))

    with pytest.raises(ph.ModelError, match="starting point, site 'never': found a log probability of -inf"):
        ph.infer(ph.Model(program), "nuts", num_warmup=10, num_samples=10)


def test_a_poisson_latent_is_refused_by_nuts_with_the_alternatives() -> None:
    def program() -> None:
        pyro.sample("x", dist.Normal(0.0, 1.0))
        rate = pyro.sample("n", dist.Poisson(3.0))
        pyro.sample("y", dist.Normal(rate, 1.0))

    with pytest.raises(
        ph.UnsupportedModel, match=r"site 'n': found a discrete latent that cannot be enumerated \(Poisson\)"
    ):
        ph.infer(ph.Model(program).observe(y=1.0), "nuts")


def test_minibatches_that_a_program_chooses_by_itself_are_refused_with_the_fix() -> None:
    def program(**choice: Any) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("row", 10, **choice):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=torch.zeros(5))

    with pytest.raises(ph.ModelError, match=r"plate 'row' subsampled.*write: pyro.plate\(\"row\", 10\)"):
        ph.infer(ph.Model(program, subsample=torch.arange(5)), "importance")
    with pytest.raises(
        ph.ModelError, match=r"site 'y': found an observed value of shape \(5,\); expected shape \(10,\)"
    ):
        ph.infer(ph.Model(program, subsample_size=5), "importance")


def test_masked_latents_are_refused_where_a_density_is_needed() -> None:
    def program() -> None:
        mask = torch.tensor([True, False])
        with pyro.plate("row", 2):
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.tensor([1.0, math.nan]), obs_mask=mask)

    with pytest.raises(ph.UnsupportedModel, match="site 'y_unobserved': found a masked latent"):
        ph.infer(ph.Model(program), "nuts")


def test_a_site_named_like_its_plate() -> None:
    def program() -> None:
        with pyro.plate("row", 2):
            pyro.sample("row_effect", dist.Normal(0.0, 1.0))
        pyro.deterministic("row", torch.ones(()))

    with pytest.raises(ph.ProgramError, match="Multiple sample sites named 'row'"):
        _ = ph.Model(program).sites


def test_files_that_are_no_posteriors(tmp_path: Any) -> None:
    with pytest.raises(ph.DataFileError, match="found no such file"):
        ph.load(tmp_path / "nothing.nc")
    (tmp_path / "text.nc").write_text("hello")
    with pytest.raises(ph.DataFileError, match="found no phlogiston posterior"):
        ph.load(tmp_path / "text.nc")


def line(X: torch.Tensor) -> None:
    slope = pyro.sample("slope", dist.Normal(torch.zeros(X.shape[-1]), 1.0).to_event(1))
    with pyro.plate("row", len(X)):
        pyro.sample("y", dist.Normal(X @ slope, 1.0))


def counted() -> None:
    pyro.sample("slope", dist.Poisson(torch.ones(2)).to_event(1))


def test_a_proposal_that_observes_or_is_of_another_kind_is_refused() -> None:
    model = ph.Model(line, torch.ones(3, 2)).observe(y=torch.zeros(3))
    with pytest.raises(ph.ModelError, match="proposal 'line', site 'y': found an observation"):
        ph.infer(model, "importance", proposal=model, seed=0, progress=False)
    with pytest.raises(ph.ModelError, match=r"site 'slope': found discrete values \(Poisson\); expected continuous"):
        ph.infer(model, "importance", proposal=counted, seed=0, progress=False)


def test_draws_of_another_model_are_not_gone_on_with_loaded_or_predicted_from(tmp_path: Path) -> None:
    X, y = torch.eye(3)[:, :2], torch.tensor([1.0, 2.0, 3.0])
    model, short = ph.Model(line, X).observe(y=y), ph.NUTS(num_samples=20, num_warmup=20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)
        posterior = ph.infer(model, short, seed=0, progress=False)
    other = model.observe(y=y + 1.0)
    with pytest.raises(ph.SettingError, match="resume_from: found data 'y' that differ in 3 of 3 numbers"):
        ph.infer(other, short, resume_from=posterior, progress=False)
    with pytest.raises(ph.SettingError, match=r"write: resume_from=ph\.load\(path, model=model\)"):
        ph.infer(model, short, resume_from="posterior.nc", progress=False)  # type: ignore[arg-type]
    with pytest.raises(ph.ModelError, match=r"site 'slope': found shape \(1,\) .* where the draws have \(2,\)"):
        posterior.predict(torch.ones(5, 1))
    assert posterior.predict(torch.ones(5, 2))["y"].shape == (4, 20, 5)
    path = posterior.save(tmp_path / "posterior.nc")
    assert isinstance(ph.load(path, model=model), ph.Posterior)
    with pytest.raises(ph.DataFileError, match="found data 'y' that differ in 3 of 3"):
        ph.load(path, model=other)
    with pytest.raises(ph.DataFileError, match=r"found site 'slope' of shape \(2,\), not \(1,\)"):
        ph.load(path, model=ph.Model(line, X[:, :1]).observe(y=y))


def test_a_proposal_of_other_arguments_and_an_executor_that_is_none() -> None:
    with pytest.raises(ph.SettingError, match=r"found a function of \(\); expected one of \(values, rng\)"):
        ph.MH(proposal=coin)
    with pytest.raises(TypeError, match=r"executor: found 4; .* write: executor=concurrent\.futures"):
        ph.infer(ph.Model(coin), "nuts", executor=4, progress=False)  # type: ignore[arg-type]


def test_a_proposal_that_cannot_reach_all_of_the_prior_is_told() -> None:
    def line() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu, 1.0))

    def narrow() -> None:
        pyro.sample("mu", dist.Uniform(0.0, 1.0))

    def wide() -> None:
        pyro.sample("mu", dist.StudentT(5.0, 0.0, 1.0))

    model = ph.Model(line).observe(y=0.5)
    with pytest.warns(ph.errors.WeightWarning, match="the proposal's support leaves out 6[5-7]% of the prior"):
        post = ph.infer(model, ph.Importance(num_particles=1000, proposal=narrow), seed=0, progress=False)
    assert post.diagnose().verdict == "do not use"
    fine = ph.infer(model, ph.Importance(num_particles=1000, proposal=wide), seed=0, progress=False)
    assert not fine.diagnose(thorough=False)


def test_a_posterior_of_other_shapes_is_no_proposal() -> None:
    def normal(size: int) -> None:
        a = pyro.sample("a", dist.Normal(torch.zeros(size), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(a.sum(), 1.0))

    earlier = ph.infer(ph.Model(normal, 2).observe(y=0.5), "importance", num_particles=500, seed=0, progress=False)
    message = r"site 'a': found draws of shape \(2,\) in the proposal; expected shape \(3,\)"
    with pytest.raises(ph.UnsupportedModel, match=message):
        ph.infer(ph.Model(normal, 3).observe(y=0.5), "importance", proposal=earlier, seed=0, progress=False)


@pytest.mark.parametrize(
    ("law", "y", "count"),
    [
        (dist.Bernoulli(torch.tensor([0.0, 0.5, 1.0])), [1.0, 1.0, 0.0], 2),
        (dist.Binomial(4, torch.tensor([0.0, 0.5, 1.0])), [1.0, 2.0, 4.0], 1),
        (dist.Categorical(torch.tensor([0.0, 0.5, 0.5])), [0, 1, 0], 2),
    ],
)
def test_data_of_probability_zero_are_impossible(law: Any, y: list[float], count: int) -> None:
    def program(latent: bool) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("i", 3):
            moved = type(law)(probs=(law.probs + 0.0 * z).clamp(0.0, 1.0)) if latent else law
            pyro.sample("y", moved)

    message = f"site 'y': found {count} observed values? of probability zero under {type(law).__name__}"
    with pytest.raises(ph.ModelError, match=message):
        ph.Model(program, False).observe(y=torch.tensor(y)).validated()
    if not isinstance(
        law, dist.Binomial
    ):  # its other argument would be needed here; elsewhere the data may be possible
        assert not ph.Model(program, True).observe(y=torch.tensor(y)).check()


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    post = ph.infer(ph.Model(coin).observe(heads=7.0), "importance", num_particles=1000, seed=0, progress=False)
    (tmp_path / "file").write_text("")
    for write in (post.save, post.report):
        with pytest.raises(ph.DataFileError, match=r"found a folder; expected the path of a file in a folder of yours"):
            write(tmp_path)
        with pytest.raises(ph.DataFileError, match="post: found no way to write there"):
            write(tmp_path / "file" / "post")
