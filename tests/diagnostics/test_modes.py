"""Modes, normals around them and along the way to them, and flows."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph
from phlogiston.inference.optimise.lbfgs import climb_paths
from phlogiston.inference.optimise.normal_approx import along, at_mode


def quadratic(precision: np.ndarray, centre: np.ndarray) -> Any:
    def evaluate(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slope = -(points - centre) @ precision
        return 0.5 * (slope * (points - centre)).sum(1), slope

    return evaluate


def ill_conditioned() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    return turn @ np.diag([1.0, 3.0, 10.0, 30.0, 100.0, 1000.0]) @ turn.T, rng.standard_normal(6)


def test_climbers_reach_the_top_of_an_ill_conditioned_quadratic() -> None:
    precision, centre = ill_conditioned()
    paths = climb_paths(quadratic(precision, centre), np.random.default_rng(1).standard_normal((5, 6)))
    assert paths.arrived.all()
    np.testing.assert_allclose(paths.points[-1], np.broadcast_to(centre, (5, 6)), atol=1e-4)
    assert (np.diff(paths.values, axis=0) >= 0.0).all()


def test_the_normal_at_a_mode_is_the_one_of_a_quadratic() -> None:
    precision, centre = ill_conditioned()
    normal, smallest = at_mode(quadratic(precision, centre), centre)
    assert smallest == pytest.approx(1.0, rel=1e-5)
    exact = torch.distributions.MultivariateNormal(
        torch.from_numpy(centre), precision_matrix=torch.from_numpy(precision)
    )
    points = normal.draw(np.random.default_rng(2).standard_normal((50, 6)))
    np.testing.assert_allclose(normal.log_prob(points), exact.log_prob(torch.from_numpy(points)).numpy(), rtol=1e-4)


def test_normals_along_a_path_are_densities_and_the_last_is_near_the_target() -> None:
    precision, centre = ill_conditioned()
    evaluate = quadratic(precision, centre)
    paths = climb_paths(evaluate, np.full((1, 6), 2.0), memory=6)
    last = along(paths, 0)[-1]
    noise = np.random.default_rng(3).standard_normal((40_000, 6))
    points = last.draw(noise)
    covariance = np.cov(points.T)
    squares = np.einsum("ni,ij,nj->n", points - last.loc, np.linalg.inv(covariance), points - last.loc)
    exact = -0.5 * squares - 0.5 * np.linalg.slogdet(covariance)[1] - 3 * np.log(2 * np.pi)
    np.testing.assert_allclose(last.log_prob(points[:200]), exact[:200], atol=0.3)
    np.testing.assert_allclose(last.loc, centre, atol=1e-3)


def test_the_mode_is_that_of_the_density_as_written(load_model: Any) -> None:
    beta = ph.infer(load_model("beta_binomial").model, "map", seed=0)
    assert float(beta.draws["theta"]) == pytest.approx(8.0 / 13.0, abs=1e-6)
    assert beta.converged
    shifted = ph.infer(load_model("beta_binomial").model, "map", jacobian=True, seed=0)
    assert float(shifted.draws["theta"]) == pytest.approx(9.0 / 15.0, abs=1e-6)
    rate = ph.infer(
        load_model("gamma_poisson").model, ph.SVI(guide="delta", engine="graph", window=50), seed=0, progress=False
    )
    assert float(rate.draws["rate"]) == pytest.approx(11.0 / 5.0, abs=1e-3)
    assert rate.log_evidence is None


def test_a_density_without_a_mode_is_reported_with_the_site(load_model: Any) -> None:
    with pytest.warns(ph.ConvergenceWarning, match=r"map: .*no mode was found.*still rises along site"):
        ph.infer(load_model("eight_schools").centred_model, "map", seed=0)


def test_laplace_is_exact_for_a_normal_and_says_so_elsewhere(load_model: Any) -> None:
    module = load_model("ppca")
    post = ph.infer(module.model, "laplace", seed=0)
    assert abs(post.gap.value) < 1e-5
    assert post.figures["laplace_evidence"] == pytest.approx(module.reference.log_evidence, abs=1e-6)
    with pytest.warns(ph.WeightWarning):
        ph.infer(load_model("eight_schools").model, "laplace", seed=0)
    again = ph.infer(module.model, ph.SVI(guide="laplace"), seed=0)
    assert abs(again.gap.value) < 1e-5


def test_pathfinder_covers_separate_modes() -> None:
    def program() -> None:
        x = pyro.sample("x", dist.Normal(0.0, 10.0))
        pyro.factor("modes", torch.logaddexp(-0.5 * (x - 6.0) ** 2 / 0.25, -0.5 * (x + 6.0) ** 2 / 0.25))

    post = ph.infer(ph.Model(program), ph.Pathfinder(num_paths=16), seed=0, progress=False)
    assert float(post.expect(lambda draw: draw["x"] > 0).value) == pytest.approx(0.5, abs=0.03)
    exact = np.log(2 * np.sqrt(2 * np.pi * 0.25)) - 0.5 * np.log(2 * np.pi * 100.25) - 0.5 * 36 / 100.25
    assert post.log_evidence.value == pytest.approx(exact, abs=0.02)


def test_pathfinder_can_resample_and_starts_chains(load_model: Any) -> None:
    module = load_model("gamma_poisson")
    post = ph.infer(module.model, ph.Pathfinder(resample=True), seed=0, progress=False)
    assert post.log_weights is None
    assert post.moments("rate").mean == pytest.approx(2.4, abs=0.06)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)
        nuts = ph.NUTS(initial="pathfinder", num_samples=300, num_warmup=100, num_chains=8, engine="graph")
        chains = ph.infer(module.model, nuts, seed=0, progress=False)
    found = chains.moments("rate")
    assert abs(found.mean - 2.4) < 4 * found.mean_se


@pytest.mark.slow
def test_a_flow_follows_the_funnel_where_normals_cannot(load_model: Any) -> None:
    model = load_model("funnel").centred_model.with_inputs(2)
    settings: dict[str, Any] = {"engine": "graph", "num_steps": 500, "window": 100}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)
        normal = ph.infer(model, ph.SVI(**settings), seed=0, progress=False)
        flow = ph.infer(
            model, ph.SVI(guide="flow", optim=ph.Adam(learning_rate=0.01), **settings), seed=0, progress=False
        )
    assert flow.elbo.value > normal.elbo.value + 0.3
    assert abs(flow.log_evidence.value) < 4 * flow.log_evidence.se + 0.05
