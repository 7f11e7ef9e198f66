"""Simulation-based calibration: exact posteriors are uniform, wrong ones are seen, and said in words."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph
from phlogiston.inference.method import Needs
from phlogiston.stats import ranks

ROOT_N = 3


def normal() -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("i", ROOT_N):
        pyro.sample("y", dist.Normal(mu, 1.0))


def switch() -> None:
    z = pyro.sample("z", dist.Bernoulli(0.3))
    pyro.sample("y", dist.Normal(2.0 * z, 1.0))


MODEL = ph.Model(normal).observe(y=[0.0, 1.0, 2.0])


@dataclass(frozen=True, kw_only=True)
class Conjugate:
    """Independent draws of the closed-form posterior, shifted and stretched on request."""

    shift: float = 0.0
    stretch: float = 1.0
    needs: ClassVar[Needs] = Needs()

    def __call__(self, model: ph.Model, *, seed: int | None = None, progress: bool = True) -> ph.Posterior:
        variance = 1.0 / (0.25 + ROOT_N)
        mean = variance * float(model.observed["y"].sum())
        noise = np.random.default_rng(seed).standard_normal((1, 127))
        draws = mean + variance**0.5 * (self.shift + self.stretch * noise)
        return ph.Posterior(draws={"mu": torch.from_numpy(draws)}, method="conjugate", model=model, seed=seed)


def test_exact_ranks_are_uniform_in_98_of_100_seeds() -> None:
    rng, passed, variance = np.random.default_rng(1), 0, 1.0 / (0.25 + ROOT_N)
    for _ in range(200):
        mu = 2.0 * rng.standard_normal(200)
        mean = variance * (ROOT_N * mu + ROOT_N**0.5 * rng.standard_normal(200))
        draws = mean + variance**0.5 * rng.standard_normal((99, 200))
        u = ranks.fractional_ranks(mu, draws, rng)
        passed += ranks.chi_square(u, ranks.bins_for(200)) > 0.01
    assert passed >= 196


def test_ranks_of_discrete_values_are_uniform() -> None:
    rng = np.random.default_rng(0)
    p = rng.beta(1.0, 1.0, 4000)
    z, draws = rng.random(4000) < p, rng.random((30, 4000)) < p
    u = ranks.fractional_ranks(z.astype(float), draws.astype(float), rng)
    assert ranks.uniformity(u, 20).p_value > 1e-3


def test_the_band_holds_95_percent_of_uniform_sets() -> None:
    rng = np.random.default_rng(5)
    inside = np.mean([not ranks.outside_band(rng.random(100)) for _ in range(1000)])
    assert abs(inside - 0.95) < 4.0 * np.sqrt(0.95 * 0.05 / 1000) + 0.01


@pytest.mark.parametrize("count", [150])
def test_the_conjugate_sampler_is_calibrated(count: int) -> None:
    found = ph.calibrate(MODEL, Conjugate(), num_simulations=count, seed=3, progress=False)
    assert found.calibrated
    assert str(found).splitlines()[0].endswith("calibrated")
    share = found.coverage("mu", 0.8)
    assert abs(float(share.value) - 0.8) < 4.0 * float(share.se)
    assert set(found.ranks) == {"mu", "log likelihood"}
    assert found.num_simulations == count


@pytest.mark.parametrize(
    ("wrong", "shape", "words"),
    [
        (Conjugate(stretch=0.5), "over-confident", "too narrow"),
        (Conjugate(stretch=2.0), "under-confident", "too wide"),
        (Conjugate(shift=-0.8), "biased low", "too far to the left"),
        (Conjugate(shift=0.8), "biased high", "too far to the right"),
    ],
)
def test_the_four_wrong_shapes_are_named(wrong: Conjugate, shape: str, words: str) -> None:
    found = ph.calibrate(MODEL, wrong, num_simulations=150, seed=0, progress=False)
    assert found.shape("mu") == shape
    assert words in str(found)
    assert "mu" in found.wrong
    assert found.leaves_band("mu")


@dataclass(frozen=True, kw_only=True)
class Prior:
    """A method that does not look at the data."""

    needs: ClassVar[Needs] = Needs()

    def __call__(self, model: ph.Model, *, seed: int | None = None, progress: bool = True) -> ph.Posterior:
        draws = 2.0 * torch.from_numpy(np.random.default_rng(seed).standard_normal((1, 127)))
        return ph.Posterior(draws={"mu": draws}, method="prior", model=model, seed=seed)


def test_only_the_log_likelihood_sees_a_method_that_ignores_the_data() -> None:
    found = ph.calibrate(MODEL, Prior(), num_simulations=200, seed=0, progress=False)
    assert found.shape("mu") == "uniform"
    assert found.wrong == ("log likelihood",)


def test_discrete_sites_are_ranked() -> None:
    model = ph.Model(switch).observe(y=0.0)
    found = ph.calibrate(model, "exact", num_samples=100, num_simulations=60, seed=0, progress=False)
    assert set(found.ranks) == {"z", "log likelihood"}
    assert found.calibrated


def test_nuts_runs_simulations_at_once_and_is_calibrated() -> None:
    found = ph.calibrate(
        MODEL, "nuts", num_samples=150, num_warmup=200, engine="graph", num_simulations=150, seed=0, progress=False
    )
    assert found.batched
    assert found.calibrated, str(found)
    assert found.sizes.min() >= 20


def test_batched_nuts_gives_the_closed_form_posterior_of_each_data_set() -> None:
    from phlogiston.engine.densities.per_dataset import Replicated
    from phlogiston.inference.mcmc.batched_nuts import sample_replicates
    from phlogiston.inference.mcmc.nuts import NutsBlock

    data = torch.tensor([[0.0, 1.0, 2.0], [300.0, 310.0, 305.0], [-4.0, -4.0, -1.0]], dtype=torch.float64)
    sampler = NutsBlock(num_warmup=300, target_accept_prob=0.8, max_tree_depth=8, step_size=1.0, mass_matrix="diag")
    start: Any = ("uniform", np.random.SeedSequence(2))
    found = sample_replicates(
        MODEL.target("graph"), Replicated(MODEL, ("y",), engine="graph"), sampler, {"y": data}, 4, 1000, start
    )
    variance = 1.0 / (0.25 + ROOT_N)
    mean, sd = found.u.mean((1, 2))[:, 0], found.u.flatten(1, 2).std(1)[:, 0]
    worth = 4000 / 4  # correlated draws
    assert ((mean - variance * data.sum(1)).abs() < 5.0 * (variance / worth) ** 0.5).all()
    assert ((sd - variance**0.5).abs() < 5.0 * (variance / 2.0 / worth) ** 0.5).all()


def test_a_mixture_with_discrete_latents_is_calibrated_under_nuts() -> None:
    def program() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("i", 4):
            z = pyro.sample("z", dist.Bernoulli(0.4))
            pyro.sample("y", dist.Normal(mu + 3.0 * z, 1.0))

    found = ph.calibrate(
        ph.Model(program).observe(y=torch.zeros(4)),
        ph.NUTS(num_samples=200, num_warmup=200, engine="graph"),
        num_simulations=64,
        seed=1,
        progress=False,
    )
    assert found.batched
    assert found.calibrated, str(found)
    assert {"mu", "z[0]", "z[3]"} <= set(found.ranks)


def test_posterior_calibration_around_the_data() -> None:
    post = ph.infer(MODEL, "nuts", num_samples=500, engine="graph", seed=0, progress=False)
    method = ph.NUTS(num_samples=150, num_warmup=200, engine="graph")
    found = ph.calibrate(MODEL, method, around=post, num_simulations=128, seed=0, progress=False)
    assert found.source == "posterior"
    assert found.calibrated, str(found)


def test_a_checkpoint_goes_on_and_executors_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from phlogiston.diagnostics.calibrate import worker

    whole = ph.calibrate(MODEL, Conjugate(), num_simulations=30, seed=4, progress=False)
    with ThreadPoolExecutor(2) as pool:
        spread = ph.calibrate(MODEL, Conjugate(), num_simulations=30, seed=4, progress=False, executor=pool)
    assert np.array_equal(whole.ranks["mu"], spread.ranks["mu"])
    usual, calls, file = worker.Worker.run, 0, tmp_path / "kept"

    def interrupted(self: worker.Worker, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 10:
            raise KeyboardInterrupt
        return usual(self, *args)

    monkeypatch.setattr(worker.Worker, "run", interrupted)
    part = ph.calibrate(MODEL, Conjugate(), num_simulations=30, seed=4, progress=False, checkpoint=file)
    assert part.interrupted
    assert part.num_simulations == 10
    monkeypatch.undo()
    rest = ph.calibrate(MODEL, Conjugate(), num_simulations=30, seed=4, progress=False, checkpoint=file)
    assert np.array_equal(whole.ranks["mu"], rest.ranks["mu"])
    with pytest.raises(ph.SettingError, match="another run"):
        ph.calibrate(MODEL, Conjugate(shift=1.0), num_simulations=30, seed=4, progress=False, checkpoint=file)
    post = ph.infer(MODEL, "nuts", num_samples=500, seed=0, progress=False)
    with pytest.raises(ph.SettingError, match="other simulations"):
        ph.calibrate(MODEL, Conjugate(), around=post, num_simulations=30, seed=4, progress=False, checkpoint=file)

    def edited() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 7.0))
        with pyro.plate("i", ROOT_N):
            pyro.sample("y", dist.Normal(mu, 1.0))

    edited.__name__ = edited.__qualname__ = MODEL.name
    again = ph.Model(edited).observe(y=[0.0, 1.0, 2.0])
    with pytest.raises(ph.SettingError, match="other simulations"):
        ph.calibrate(again, Conjugate(), num_simulations=30, seed=4, progress=False, checkpoint=file)


def linear(weights: torch.Tensor) -> None:
    with pyro.plate("datum", 400):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ weights, 1.0).to_event(1))


class Encoder(torch.nn.Module):
    """The exact posterior of ``linear``, with its spread stretched on request."""

    def __init__(self, stretch: float = 1.0) -> None:
        super().__init__()
        self.stretch = stretch

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.sum(1, keepdim=True) / 3.0, torch.full((len(x), 1), self.stretch / 3.0**0.5)


def fitted_with(encoder: torch.nn.Module) -> ph.Fitted:
    model = ph.Model(linear, torch.ones(1, 2)).observe(x=torch.zeros(400, 2))
    return ph.Fitted(model=model, method="svi", guide=ph.Amortized(encoder=encoder).build(model))


def test_an_amortised_guide_is_ranked_by_its_own_draws_unless_asked() -> None:
    exact, narrow = fitted_with(Encoder()), fitted_with(Encoder(0.6))
    found = ph.calibrate(exact.model, exact, num_simulations=600, seed=0, progress=False)
    assert found.calibrated, str(found)
    assert set(found.ranks) == {"z[0]", "log likelihood"}
    assert found.num_simulations == 600
    assert ph.calibrate(narrow.model, narrow, num_simulations=300, seed=0).shape("z[0]") == "over-confident"
    mended = ph.calibrate(narrow.model, narrow, num_simulations=300, corrected=True, sites="z", seed=0)
    assert mended.calibrated, str(mended)  # weights of a guide with 0.6 of the spread: heavy, but finite enough


def test_a_collapsed_guide_is_seen_by_the_log_likelihood_alone() -> None:
    class Prior(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.zeros(len(x), 1), torch.ones(len(x), 1)

    collapsed = fitted_with(Prior())
    found = ph.calibrate(collapsed.model, collapsed, num_simulations=400, seed=1, progress=False)
    assert found.wrong == ("log likelihood",)


def test_a_fitted_takes_its_own_model_and_nothing_of_runs() -> None:
    fitted = fitted_with(Encoder())
    with pytest.raises(ph.SettingError, match=r"ph.calibrate\(fitted.model, fitted\)"):
        ph.calibrate(MODEL, fitted)
    with pytest.raises(ph.SettingError, match="checkpoint: found"):
        ph.calibrate(fitted.model, fitted, checkpoint="kept")
    with pytest.raises(ph.UnknownName, match="did you mean 'z'"):
        ph.calibrate(fitted.model, fitted, sites=["zz"])


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """Draws from a normal that is too wide, with the weights that mend it."""

    needs: ClassVar[Needs] = Needs()

    def __call__(self, model: ph.Model, *, seed: int | None = None, progress: bool = True) -> ph.Posterior:
        variance = 1.0 / (0.25 + ROOT_N)
        noise = np.random.default_rng(seed).standard_normal((1, 400))
        draws = variance * float(model.observed["y"].sum()) + 2.0 * variance**0.5 * noise
        log_weights = torch.from_numpy(0.5 * noise**2 - 0.5 * (2.0 * noise) ** 2)
        return ph.Posterior(
            draws={"mu": torch.from_numpy(draws)}, log_weights=log_weights, method="weighted", model=model, seed=seed
        )


@pytest.mark.parametrize(("corrected", "shape"), [(None, "uniform"), (True, "uniform"), (False, "under-confident")])
def test_weights_count_unless_a_guides_own_draws_are_asked_for(corrected: bool | None, shape: str) -> None:
    found = ph.calibrate(MODEL, Weighted(), num_simulations=100, corrected=corrected, seed=0, progress=False)
    assert found.shape("mu") == shape


def test_one_site_may_be_named_by_itself() -> None:
    found = ph.calibrate(MODEL, Conjugate(), num_simulations=20, sites="mu", seed=0, progress=False)
    assert set(found.ranks) == {"mu", "log likelihood"}


def test_a_posterior_around_must_be_of_the_model_and_have_enough_draws() -> None:
    post = ph.infer(MODEL, "nuts", num_samples=500, seed=0, progress=False)
    with pytest.warns(ph.ConvergenceWarning):
        short = ph.infer(MODEL, "nuts", num_samples=20, num_warmup=50, seed=0, progress=False)

    def wider() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        with pyro.plate("i", ROOT_N):
            pyro.sample("y", dist.Normal(mu, 1.0))

    def other() -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 2.0))
        with pyro.plate("i", ROOT_N):
            pyro.sample("y", dist.Normal(loc, 1.0))

    with pytest.raises(ph.SettingError, match="around: found draws that are worth"):
        ph.calibrate(MODEL, Conjugate(), around=short, num_simulations=100)
    with pytest.raises(ph.SettingError, match="data 'y' that differ in 3 of 3"):
        ph.calibrate(MODEL.observe(y=[5.0, 6.0, 7.0]), Conjugate(), around=post)
    for program, message in ((wider, "another density"), (other, "no site 'loc'")):
        with pytest.raises(ph.SettingError, match=message):
            ph.calibrate(ph.Model(program).observe(y=[0.0, 1.0, 2.0]), "nuts", around=post)


def test_bad_input_is_refused() -> None:
    def scaled() -> None:
        with pyro.poutine.scale(scale=2.0):
            mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu, 1.0))

    with pytest.raises(ph.UnsupportedModel, match="site 'mu': found a density that is scaled"):
        ph.calibrate(ph.Model(scaled).observe(y=0.0), "nuts")

    def improper() -> None:
        mu = pyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
        pyro.sample("y", dist.Normal(mu, 1.0))

    def factored() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.factor("extra", -mu)
        pyro.sample("y", dist.Normal(mu, 1.0))

    with pytest.raises(ph.UnsupportedModel, match="site 'mu': found an improper flat prior"):
        ph.calibrate(ph.Model(improper).observe(y=0.0), "nuts")
    with pytest.raises(ph.UnsupportedModel, match="site 'extra': found a factor"):
        ph.calibrate(ph.Model(factored).observe(y=0.0), "nuts")
    with pytest.raises(ph.UnsupportedModel, match="nothing observed"):
        ph.calibrate(ph.Model(normal), "nuts")
    with pytest.raises(ph.SettingError, match="num_simulations"):
        ph.calibrate(MODEL, "nuts", num_simulations=5)
    with pytest.raises(ph.UnknownName, match="did you mean 'mu'"):
        ph.calibrate(MODEL, "nuts", sites=["muu"])
    with pytest.raises(ph.UnknownName, match="nuts"):
        ph.calibrate(MODEL, "nutz")


def test_pictures() -> None:
    found = ph.calibrate(MODEL, Conjugate(stretch=0.5), num_simulations=100, seed=0, progress=False)
    assert len(found.plot().axes) == len(found.plot("ranks").axes) == 2
    with pytest.raises(ph.UnknownName, match="ecdf"):
        found.plot("ecd")  # type: ignore[arg-type]


@pytest.mark.slow
def test_nuts_is_calibrated_on_three_models(load_model: Any) -> None:
    for name, sites in (("eight_schools", None), ("nig_regression", None), ("mixture", None)):
        found = ph.calibrate(load_model(name).model, "nuts", num_simulations=200, sites=sites, seed=0, progress=False)
        assert found.batched
        assert found.calibrated, f"{name}: {found}"
