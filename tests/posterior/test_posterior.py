"""The three questions, their shapes and errors; groups, dims and files."""

from __future__ import annotations

import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph
from phlogiston.stats import arviz as arviz_edge
from phlogiston.stats import weights as diagnostics
from phlogiston.stats.moments import quantiles
from phlogiston.stats.weights import _fit_generalized_pareto


def normal(x: torch.Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(mu + 0.0 * x, 1.0))


Y = np.array([1.2, -0.4, 0.8, 2.1, 0.5])
MODEL = ph.Model(normal, np.zeros(5), coords={"row": list("abcde")}).observe(y=Y)


@pytest.fixture(scope="module")
def weighted() -> ph.Posterior:
    return ph.infer(MODEL, "importance", num_particles=20_000, seed=0)


@pytest.fixture(scope="module")
def chains() -> ph.Posterior:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)
        return ph.infer(MODEL, ph.NUTS(num_samples=200, num_warmup=100, num_chains=2), seed=0)


def test_expectations_carry_their_error(weighted: ph.Posterior, chains: ph.Posterior) -> None:
    for posterior in (weighted, chains):
        mean = posterior.expect("mu")
        assert abs(mean.value - 0.8) < 4 * mean.se
        above = posterior.expect(lambda draw: draw["mu"] > 0.8)
        assert abs(above.value - 0.5) < 4 * above.se
        both = posterior.expect(lambda draw: torch.stack([draw["mu"], draw["mu"] ** 2]))
        assert both.value.shape == both.se.shape == (2,)


def test_an_expectation_may_branch(weighted: ph.Posterior) -> None:
    found = weighted.expect(lambda draw: 1.0 if draw["mu"] > 0.8 else 0.0)
    assert abs(found.value - 0.5) < 4 * found.se


def test_errors_cover_the_truth_as_often_as_they_say() -> None:
    z = []
    for seed in range(60):
        posterior = ph.infer(MODEL, "importance", num_particles=2000, seed=seed)
        z.append((posterior.expect("mu").value - 0.8) / posterior.expect("mu").se)
        z.append((posterior.log_evidence.value + 7.886954) / posterior.log_evidence.se)
    assert 0.75 < np.std(z) < 1.3


def test_an_unknown_site_in_expect_gets_the_nearest(weighted: ph.Posterior) -> None:
    with pytest.raises(ph.UnknownName, match="expect: found no site 'nu'; did you mean 'mu'"):
        weighted.expect("nu")


def test_predictions_are_new_data_with_the_right_moments(weighted: ph.Posterior, chains: ph.Posterior) -> None:
    for posterior in (weighted, chains):
        drawn = posterior.predict(seed=1)["y"]
        assert drawn.shape == (posterior.num_chains, posterior.num_draws, 5)
        assert drawn.std((0, 1)).min() > 0.5
        exact_sd = math.sqrt(1.0 + 4.0 / 21.0)
        tolerance = 5 * exact_sd / math.sqrt(posterior.num_chains * posterior.num_draws / 3)
        assert (drawn.mean((0, 1)) - 0.8).abs().max() < tolerance


def test_prior_predictions(weighted: ph.Posterior) -> None:
    drawn = weighted.predict(prior=True, seed=1)["y"]
    assert drawn.shape == (1, 20_000, 5)
    assert float(drawn.std()) == pytest.approx(math.sqrt(5.0), rel=0.03)


def test_predictions_at_inputs_of_another_size(weighted: ph.Posterior) -> None:
    assert weighted.predict(torch.zeros(9))["y"].shape == (1, 20_000, 9)
    assert weighted.predict(x=np.zeros(1))["y"].shape == (1, 20_000, 1)


def test_local_latents_of_new_rows_are_drawn_anew_and_global_ones_kept() -> None:
    def groups(sigma: torch.Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        with pyro.plate("group", len(sigma)):
            theta = pyro.sample("theta", dist.Normal(mu, 1.0))
            pyro.sample("y", dist.Normal(theta, sigma))

    model = ph.Model(groups, torch.full((4,), 0.1)).observe(y=np.full(4, 3.0))
    posterior = ph.infer(model, ph.NUTS(num_samples=300, num_warmup=200, num_chains=2, target_accept_prob=0.9), seed=0)
    same, other = posterior.predict()["y"], posterior.predict(torch.full((2,), 0.2), sites=("theta", "mu", "y"))
    assert float(same.std()) < 0.3
    assert other["theta"].shape == (2, 300, 2)
    assert torch.equal(other["mu"], posterior.draws["mu"])
    residual = other["theta"] - other["mu"][..., None]
    assert float(residual.std()) == pytest.approx(1.0, abs=0.15)


def test_programs_that_observe_inside_are_unobserved_for_prediction() -> None:
    def program(y: torch.Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    posterior = ph.infer(ph.Model(program, torch.tensor(Y)), "importance", seed=0)
    assert float(posterior.predict()["y"].std((0, 1)).min()) > 0.9
    assert abs(posterior.expect("mu").value - 0.8) < 4 * posterior.expect("mu").se


def test_shapes_are_those_of_one_run_without_padding() -> None:
    def program() -> None:
        pyro.sample("scalar", dist.Normal(0.0, 1.0))
        pyro.sample("vector", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("outer", 3, dim=-2):
            pyro.sample("column", dist.Normal(0.0, 1.0))
            with pyro.plate("inner", 1, dim=-1):
                pyro.sample("matrix", dist.Dirichlet(torch.ones(4)))

    with poutine_shapes(program) as expected:
        draws = ph.Model(program).simulate(7, seed=0)
    assert {name: tuple(value.shape) for name, value in draws.items()} == {n: (7, *s) for n, s in expected.items()}
    posterior = ph.infer(ph.Model(program), "importance", num_particles=500, seed=0)
    assert posterior.data["posterior"]["matrix"].dims == ("chain", "draw", "outer", "inner", "matrix_dim_2")
    assert posterior.data["posterior"]["matrix"].shape == (1, 500, 3, 1, 4)


class poutine_shapes:  # noqa: N801
    """The shapes of a plain traced run."""

    def __init__(self, program: Any) -> None:
        trace = pyro.poutine.trace(program).get_trace()
        nodes = trace.nodes.items()
        self.shapes = {
            n: tuple(m["value"].shape) for n, m in nodes if m["type"] == "sample" and "Subsample" not in str(m["fn"])
        }

    def __enter__(self) -> dict[str, tuple[int, ...]]:
        return self.shapes

    def __exit__(self, *error: object) -> None:
        return


def test_groups_have_plates_for_dims_and_labels_for_coords(weighted: ph.Posterior) -> None:
    data = weighted.data
    assert data["observed_data"]["y"].dims == ("row",)
    assert list(data["observed_data"]["y"].coords["row"].values) == list("abcde")
    assert data["weighted_posterior"]["log_weight"].shape == (1, 20_000)
    assert data["posterior"].attrs["resampled_from_weighted_draws"] == 20_000
    resampled = data["posterior"]["mu"].values
    assert abs(resampled.mean() - 0.8) < 6 * 0.44 / math.sqrt(weighted.figures["ess"])
    assert list(weighted.with_predictions().data["posterior_predictive"]["y"].dims) == ["chain", "draw", "row"]


def test_labels_of_another_length_are_dropped() -> None:
    model = MODEL.with_inputs(np.zeros(3)).observe(y=np.zeros(3))
    posterior = ph.infer(model, "importance", num_particles=500, seed=0)
    assert list(posterior.data["observed_data"]["y"].coords["row"].values) == [0, 1, 2]


def test_sample_stats_have_the_names_of_the_schema(chains: ph.Posterior) -> None:
    expected = {
        "diverging",
        "energy",
        "lp",
        "acceptance_rate",
        "tree_depth",
        "n_steps",
        "step_size",
        "reached_max_treedepth",
    }
    assert set(chains.stats) == expected
    assert chains.stats["diverging"].dtype == torch.bool
    assert chains.stats["n_steps"].dtype == torch.int64
    joint = MODEL.target().log_joint({"mu": chains.draws["mu"]})
    torch.testing.assert_close(chains.stats["lp"], joint)
    assert (chains.stats["energy"] > -chains.stats["lp"] - 20).all()
    assert 0.6 < float(chains.stats["acceptance_rate"].mean()) < 1.0


def test_summaries_have_only_the_columns_that_make_sense(weighted: ph.Posterior, chains: ph.Posterior) -> None:
    shared = ["mean", "sd", "q5", "q95", "mcse_mean", "mcse_sd"]
    assert list(weighted.summary().columns) == shared
    assert list(chains.summary().columns) == [*shared, "ess_bulk", "ess_tail", "r_hat"]
    assert weighted.summary().loc["mu", "q95"] == pytest.approx(0.8 + 1.6449 * 0.436436, abs=0.05)


def test_summary_rows_carry_labels() -> None:
    def program() -> None:
        with pyro.plate("row", 2):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    posterior = ph.infer(ph.Model(program, coords={"row": ["north", "south"]}), "importance", seed=0)
    assert list(posterior.summary().index) == ["z[north]", "z[south]"]


def test_pointwise_likelihood_and_loo(weighted: ph.Posterior, chains: ph.Posterior) -> None:
    for posterior, tolerance in ((weighted, 0.06), (chains, 0.3)):
        pointwise = posterior.pointwise_log_likelihood()["y"]
        by_hand = torch.distributions.Normal(posterior.draws["mu"][..., None], 1.0).log_prob(torch.tensor(Y))
        torch.testing.assert_close(pointwise, by_hand)
        assert posterior.loo().elpd == pytest.approx(-7.210612, abs=tolerance)


def test_a_posterior_survives_the_disk(weighted: ph.Posterior, chains: ph.Posterior, tmp_path: Path) -> None:
    for posterior in (weighted, chains, weighted.with_predictions()):
        back = ph.load(posterior.save(tmp_path / "deep" / "posterior.nc"), model=MODEL)
        assert set(back.draws) == set(posterior.draws)
        assert all(torch.equal(back.draws[name], value) for name, value in posterior.draws.items())
        assert all(torch.equal(back.stats[name], value) for name, value in posterior.stats.items())
        assert back.log_evidence == posterior.log_evidence
        assert (back.method, back.seed, back.is_chain, back.engine) == (
            posterior.method, posterior.seed, posterior.is_chain, posterior.engine,
        )  # fmt: skip
        assert back.warnings == posterior.warnings
        assert set(back.predictions) == set(posterior.predictions)
        assert back.predict(seed=3)["y"].shape == posterior.predict(seed=3)["y"].shape
        assert str(back.expect("mu")) == str(posterior.expect("mu"))


def test_exact_marginals_survive_the_disk(load_model: Any, tmp_path: Path) -> None:
    posterior = ph.infer(load_model("hmm").model, "exact", seed=0)
    back = ph.load(posterior.save(tmp_path / "hmm.nc"))
    torch.testing.assert_close(back.marginals["z_2"], posterior.marginals["z_2"])
    with pytest.raises(ValueError, match=r"predict: found a posterior without its model.*ph.load\(path, model=model\)"):
        back.predict()


def test_arviz_reads_our_files(chains: ph.Posterior, tmp_path: Path) -> None:
    groups = arviz_edge.from_netcdf(chains.save(tmp_path / "posterior.nc").read_bytes())
    assert set(groups) >= {"posterior", "sample_stats", "observed_data", "constant_data"}
    assert groups["posterior"].attrs["inference_library"] == "phlogiston"


def test_models_and_posteriors_can_be_pickled(weighted: ph.Posterior) -> None:
    back = pickle.loads(pickle.dumps(weighted))
    assert torch.equal(back.draws["mu"], weighted.draws["mu"])
    assert back.model.observed["y"].tolist() == Y.tolist()


def test_repr_says_what_it_is(weighted: ph.Posterior) -> None:
    assert repr(weighted).startswith("Posterior(importance: 1 x 20000 draws of mu, log evidence -7.8")
    assert repr(MODEL) == "Model(normal, observed: y)"


def test_deterministics_are_those_of_their_draw(load_model: Any) -> None:
    posterior = ph.infer(load_model("eight_schools").model, "importance", num_particles=1000, seed=0)
    draws = posterior.draws
    torch.testing.assert_close(draws["theta"], draws["mu"][..., None] + draws["tau"][..., None] * draws["theta_raw"])


def test_nothing_is_printed(capfd: Any) -> None:
    ph.infer(MODEL, "importance", seed=0)
    assert capfd.readouterr() == ("", "")


class TestDiagnostics:
    """The statistics themselves, on what has a known answer."""

    def test_effective_sample_size_of_an_autoregression(self) -> None:
        rng = np.random.default_rng(0)
        for phi in (0.0, 0.5, 0.9):
            x = np.zeros((4, 20_000))
            noise = rng.standard_normal(x.shape) * math.sqrt(1 - phi**2)
            for t in range(1, x.shape[1]):
                x[:, t] = phi * x[:, t - 1] + noise[:, t]
            assert arviz_edge.ess(x, "mean") / x.size == pytest.approx((1 - phi) / (1 + phi), rel=0.12)

    def test_a_tail_for_which_the_exponential_is_a_candidate_is_fitted(self) -> None:
        quartile = (math.sqrt(34.0 / 2.5) - 1.0) / 3.0  # of 20 numbers: then one of the candidates is zero
        tail = np.concatenate([np.linspace(0.05 * quartile, quartile, 5), np.linspace(quartile, 1.0, 16)[1:]])
        shape, scale = _fit_generalized_pareto(tail)
        near = _fit_generalized_pareto(tail * (1.0 + 1e-9))
        assert (shape, scale) == pytest.approx(near, rel=1e-6)

    @pytest.mark.parametrize("variance", [0.3, 0.5, 0.8])
    def test_pareto_k_of_a_narrow_proposal(self, variance: float) -> None:
        x = np.random.default_rng(0).standard_normal(400_000) * math.sqrt(variance)
        _, khat = diagnostics.pareto_smooth(-0.5 * x**2 + 0.5 * x**2 / variance)
        assert khat == pytest.approx(1.0 - variance, abs=0.12)

    def test_smoothed_weights_are_those_of_arviz(self) -> None:
        import arviz

        if not hasattr(arviz, "psislw"):
            pytest.skip("ArviZ 1.x has no psislw")
        x = np.random.default_rng(1).standard_normal(5000) * 0.6
        ours, khat = diagnostics.pareto_smooth(-0.5 * x**2 + 0.5 * x**2 / 0.36)
        theirs, expected = arviz.psislw(-0.5 * x**2 + 0.5 * x**2 / 0.36)
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
        assert khat == pytest.approx(float(expected))

    def test_tails_without_a_largest_number_are_cut_off_in_silence(self) -> None:
        x = 200.0 * np.random.default_rng(2).standard_normal(1000) ** 2
        smoothed, khat = diagnostics.pareto_smooth(x)
        assert khat > 2.0
        assert smoothed.max() == pytest.approx(0.0, abs=0.7)

    def test_weights_shifted_by_a_constant_are_the_same_weights(self) -> None:
        x = np.random.default_rng(1).standard_normal(1000)
        np.testing.assert_allclose(diagnostics.pareto_smooth(x)[0], diagnostics.pareto_smooth(x - 1000.0)[0], atol=1e-9)
        assert diagnostics.log_mean_exp(x - 1000.0).value == pytest.approx(diagnostics.log_mean_exp(x).value - 1000.0)

    def test_weights_that_are_not_numbers_are_refused(self) -> None:
        with pytest.raises(ValueError, match="found 1 NaN or \\+inf of 3"):
            diagnostics.log_mean_exp(np.array([0.0, math.nan, -math.inf]))

    def test_systematic_resampling_keeps_expectations(self) -> None:
        rng = np.random.default_rng(0)
        weights = rng.random(50)
        counts = np.bincount(diagnostics.systematic_resample(np.log(weights), 10_000, rng), minlength=50)
        assert np.abs(counts - 10_000 * weights / weights.sum()).max() < 1.0

    def test_weighted_quantiles(self) -> None:
        values = np.arange(100.0).reshape(1, 100)
        weights = np.where(np.arange(100) < 10, 0.1, 0.0).reshape(1, 100)
        assert quantiles(values, (0.5,), weights)[0] == 4.0


def test_names_of_one_version_ago_still_work_and_say_the_new_one() -> None:
    post = ph.infer(MODEL, "importance", num_particles=20_000, seed=0)
    with pytest.warns(DeprecationWarning, match=r"Posterior.log_likelihood is now called pointwise_log_likelihood"):
        pointwise = post.log_likelihood()
    torch.testing.assert_close(pointwise, post.pointwise_log_likelihood())
    with pytest.warns(DeprecationWarning, match=r"Posterior.check is now called predictive_check"):
        assert post.check("mean", "y").p_value == post.predictive_check("mean", "y").p_value
    with pytest.warns(DeprecationWarning, match=r"phlogiston.Report is now called Diagnosis"):
        assert ph.Report is ph.Diagnosis  # type: ignore[attr-defined]


def test_every_error_has_one_base_and_keeps_its_own() -> None:
    found = [
        getattr(ph, name) for name in ph.__all__ if name.endswith("Error") or name in ("UnknownName", "WorkerDied")
    ]
    assert {issubclass(error, ph.PhlogistonError) for error in found} == {True}
    assert issubclass(ph.SettingError, ValueError)
    assert issubclass(ph.UnknownName, TypeError)
    assert issubclass(ph.WorkerDied, RuntimeError)


@pytest.mark.parametrize("method", ["importance", "nuts"])
def test_the_mean_of_a_ratio_that_has_none_is_warned_of(method: str) -> None:
    def program() -> None:
        pyro.sample("a", dist.Normal(1.0, 0.5))
        pyro.sample("b", dist.Normal(1.0, 0.5))

    post = ph.infer(ph.Model(program), method, seed=0, progress=False)
    with pytest.warns(ph.ConvergenceWarning, match=r"expect: .* Pareto shape"):
        post.expect(lambda draw: draw["a"] / draw["b"])
    assert post.expect(lambda draw: draw["a"] * draw["b"]).value == pytest.approx(1.0, abs=0.05)
    assert post.expect(lambda draw: draw["a"] > 1.0).value == pytest.approx(0.5, abs=0.05)
