"""Guides that are programs, minibatches, and learning a program's own parameters."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import phlogiston as ph
from phlogiston.training.batches import Batches

QUICK: dict[str, Any] = {"engine": "graph", "window": 40, "num_steps": 1000}


def fit(model: ph.Model, **settings: Any) -> ph.Posterior:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)
        return ph.infer(model, ph.SVI(**{**QUICK, **settings}), seed=1, progress=False)


def learn(model: ph.Model, **settings: Any) -> ph.Fitted:
    more = {name: settings.pop(name) for name in ("resume_from", "checkpoint") if name in settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)
        return ph.train(model, ph.SVI(**{**QUICK, **settings}), seed=1, progress=False, **more)


def data(rows: int = 60) -> torch.Tensor:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((rows, 1))
    return torch.from_numpy(z @ np.array([[1.0, -0.5, 0.8]]) + 0.5 * rng.standard_normal((rows, 3))).float()


def means(rows: int) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("row", rows):
        pyro.sample("y", dist.Normal(mu, 1.0))


class LinearDecoder:
    """A factor analysis whose loadings are a module's weights, used as Pyro's users do: the result of module unused."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = nn.Linear(1, 3, bias=False)

    def __call__(self, rows: int) -> None:
        pyro.module("decoder", self.net)
        sd = pyro.param("sd", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("row", rows):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), sd).to_event(1))


def decoder() -> LinearDecoder:
    with torch.random.fork_rng():
        return LinearDecoder()


def ppca_maximum(x: torch.Tensor) -> float:
    values = np.linalg.eigvalsh(x.double().numpy().T @ x.double().numpy() / len(x))[::-1]
    rest = values[1:].mean()
    return -0.5 * len(x) * (3 * np.log(2 * np.pi) + np.log(values[0]) + 2 * np.log(rest) + 3)


def marginal(params: Any) -> torch.Tensor:
    weight = params["decoder$$$weight"].double()
    return weight @ weight.T + params["sd"].double() ** 2 * torch.eye(3, dtype=torch.float64)


def likelihood(params: Any) -> float:
    normal = dist.MultivariateNormal(torch.zeros(3, dtype=torch.float64), marginal(params))
    return float(normal.log_prob(data().double()).sum())


def test_a_pyro_guide_reaches_the_exact_posterior(load_model: Any) -> None:
    module = load_model("normal_normal")

    def guide() -> None:
        loc = pyro.param("loc", torch.tensor(0.0))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        pyro.sample("mu", dist.Normal(loc, scale))

    post = fit(module.model, guide=guide, num_particles=8)
    assert abs(post.gap.value) < 0.002
    assert post.state["guide/scale"] == pytest.approx(0.436436, abs=0.02)
    assert post.log_evidence.value == pytest.approx(-7.886954, abs=0.01)
    assert set(post.history) >= {"elbo", "reconstruction", "kl/mu"}
    np.testing.assert_allclose(post.history["reconstruction"] - post.history["kl/mu"], post.history["elbo"])


@pytest.mark.parametrize("guide", ["normal", "multivariate_normal"])
def test_minibatches_reach_what_all_data_reach(guide: str) -> None:
    y = data(53)[:, 0]
    model = ph.Model(means, 53).observe(y=y)
    post = fit(model, guide=guide, batch_size=10, num_particles=4)
    precision = 0.25 + 53
    assert post.history["elbo"].shape == (post.figures["steps"],)
    assert post.moments("mu").mean == pytest.approx(float(y.sum()) / precision, abs=0.01)
    assert abs(post.gap.value) < 0.05


def test_every_row_comes_once_an_epoch_the_last_short_batch_too() -> None:
    batches = Batches(23, 5, np.random.SeedSequence(3))
    assert batches.per_epoch == 5
    for epoch in range(3):
        rows = [batches.at(epoch * 5 + i) for i in range(5)]
        assert [len(r) for r in rows] == [5, 5, 5, 5, 3]
        assert sorted(torch.cat(rows).tolist()) == list(range(23))
    assert not torch.equal(batches.at(0), batches.at(5))


def test_a_minibatch_bound_is_unbiased_for_that_of_all_data() -> None:
    from phlogiston.engine.learning.elbo_terms import Learning

    model = ph.Model(means, 53).observe(y=data(53)[:, 0])
    plate = model.sites["y"].plates[0]

    def guide(rows: int) -> None:
        pyro.sample("mu", dist.Normal(pyro.param("loc", torch.tensor(0.3)), 1e-9))

    learning = Learning(model, model.structure, guide, plate=plate, dtype=torch.float64)
    whole = learning.terms({**learning.example(53)})["x/y"].sum()
    batches, total = Batches(53, 10, np.random.SeedSequence(0)), 0.0
    for step in range(batches.per_epoch):
        index = batches.at(step)
        rows = learning.terms({**learning.example(len(index)), "index": index})["x/y"]
        assert rows.shape == (len(index),)
        total += float(rows.sum())
    assert total == pytest.approx(float(whole), rel=1e-6)


def test_a_linear_vae_reaches_the_maximum_of_ppca() -> None:
    x = data()
    model = ph.Model(decoder(), 60).observe(x=x)

    def guide(rows: int) -> None:
        weight = pyro.param("weight", torch.zeros(3, 1))
        scale = pyro.param("scale", torch.ones(1), constraint=dist.constraints.positive)
        with pyro.plate("row", rows) as index:
            pyro.sample("z", dist.Normal(x[index] @ weight, scale).to_event(1))

    fitted = learn(model, guide=guide, num_particles=8, optim=ph.Adam(learning_rate=0.03))
    best = ppca_maximum(x)
    assert fitted.history["elbo"][-200:].mean() == pytest.approx(best, abs=0.01 * 60)
    assert set(fitted.params) == {"decoder$$$weight", "sd"}
    covariance = marginal(fitted.params)
    assert likelihood(fitted.params) == pytest.approx(best, abs=0.3)
    drawn = fitted.simulate(4000, seed=0)["x"].reshape(-1, 3)  # the trained program is a model again
    torch.testing.assert_close(torch.cov(drawn.double().T), covariance, atol=0.05, rtol=0.05)


def test_minibatches_train_and_the_users_module_stays_as_it_was() -> None:
    program = decoder()
    before = program.net.weight.detach().clone()
    model = ph.Model(program, 60).observe(x=data())

    def guide(rows: int) -> None:
        with pyro.plate("row", rows, dim=-1) as index:
            weight = pyro.param("weight", torch.zeros(3, 1))
            pyro.sample("z", dist.Normal(data()[index] @ weight, 0.5).to_event(1))

    fitted = learn(model, guide=guide, batch_size=16, stop=False, num_steps=400)
    assert torch.equal(program.net.weight, before)
    assert not torch.equal(fitted.params["decoder$$$weight"], before)
    assert likelihood(fitted.params) > likelihood({"decoder$$$weight": before, "sd": torch.tensor(1.0)}) + 5.0
    assert fitted.stop_reason == "all 400 steps were done"


def test_an_amortised_guide_is_trained_with_the_program() -> None:
    model = ph.Model(decoder(), 60).observe(x=data())
    family = ph.Amortized(hidden=(8,))
    fitted = learn(model, guide=family, batch_size=20, num_steps=600, stop=False, optim=ph.Adam(learning_rate=0.01))
    assert fitted.history["elbo"][-100:].mean() == pytest.approx(ppca_maximum(data()), abs=6.0)
    loc, scale = fitted.guide.encoder(data())
    assert loc.shape == scale.shape == (60, 1)
    untrained = family.build(model, seed=0).encoder(data())[0]
    assert not torch.allclose(loc, untrained, atol=0.05)


def test_a_training_goes_on_bit_for_bit_from_memory_and_from_disk(tmp_path: Path) -> None:
    def make() -> ph.Model:
        return ph.Model(decoder(), 60).observe(x=data())

    def guide(rows: int) -> None:
        with pyro.plate("row", rows, dim=-1) as index:
            weight = pyro.param("weight", torch.zeros(3, 1))
            pyro.sample("z", dist.Normal(data()[index] @ weight, 0.5).to_event(1))

    common = {"guide": guide, "batch_size": 25, "stop": False}
    straight = learn(make(), num_steps=80, **common)
    half = learn(make(), num_steps=40, checkpoint=tmp_path / "half.pt", **common)
    for before in (half, tmp_path / "half.pt"):
        whole = learn(make(), num_steps=80, resume_from=before, **common)
        assert all(torch.equal(whole.params[name], straight.params[name]) for name in straight.params)
        np.testing.assert_array_equal(whole.history["elbo"], straight.history["elbo"])


def test_the_score_function_finds_discrete_posteriors_with_a_guide_of_its_own() -> None:
    def program() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("y", dist.Normal(2.0 * z + mu, 1.0))

    def guide() -> None:
        logit = pyro.param("logit", torch.tensor(0.0))
        z = pyro.sample("z", dist.Bernoulli(logits=logit))
        loc = pyro.param("loc", torch.zeros(2))
        pyro.sample("mu", dist.Normal(loc[0] + loc[1] * z, 0.5**0.5))

    model = ph.Model(program).observe(y=1.6)
    post = fit(model, guide=guide, num_particles=64, optim=ph.Adam(learning_rate=0.03))
    wide = torch.tensor(2.0).sqrt()
    odds = (
        0.3
        / 0.7
        * torch.exp(
            dist.Normal(2.0, wide).log_prob(torch.tensor(1.6)) - dist.Normal(0.0, wide).log_prob(torch.tensor(1.6))
        )
    )
    assert 1 / (1 + np.exp(-post.state["guide/logit"])) == pytest.approx(float(odds / (1 + odds)), abs=0.03)
    assert post.gap.value < 0.01


@pytest.mark.slow
def test_the_importance_weighted_bound_of_rows_is_tighter() -> None:
    x = data()
    held = ph.Model(decoder(), 60).observe(x=x)

    def guide(rows: int) -> None:
        with pyro.plate("row", rows):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(60, 1)), 1.0).to_event(1))

    elbo = fit(held, guide=guide, num_particles=8, num_steps=400)
    iwae = fit(held, guide=guide, num_particles=8, num_steps=400, bound="iwae", plate="row")
    assert iwae.history["elbo"][-100:].mean() > elbo.history["elbo"][-100:].mean() + 0.5


def test_latents_that_the_guide_lacks_are_guided_or_summed_out(load_model: Any) -> None:
    module = load_model("mixture")

    def guide(*args: Any) -> None:
        pass

    post = fit(module.model, guide=guide, num_particles=8)
    assert abs(post.log_evidence.value - module.reference.log_evidence) < 0.05
    found = post.moments("z")
    assert (np.abs(found.mean - module.reference.mean["z"]) <= 4 * found.mean_se + 0.02).all()


def test_a_program_that_cannot_be_traced_is_looped_over() -> None:
    def program() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        if float(mu) > 100.0:
            mu = mu * 1.0
        pyro.sample("y", dist.Normal(mu, 1.0))

    def guide() -> None:
        pyro.sample("mu", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 0.9))

    post = fit(ph.Model(program).observe(y=1.0), guide=guide, num_steps=300, window=20)
    assert post.engine.startswith("loop")
    assert post.state["guide/loc"] == pytest.approx(0.8, abs=0.1)


def hierarchy() -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("i", 3):
        z = pyro.sample("z", dist.LogNormal(mu, 1.0))
        pyro.sample("y", dist.LogNormal(z.log(), 1.0))


@pytest.mark.parametrize(
    ("name", "gap"),
    [
        ("AutoNormal", None),
        pytest.param("AutoMultivariateNormal", 0.0, marks=pytest.mark.slow),
    ],
)
def test_an_autoguide_of_pyro_reaches_the_best_of_its_family(name: str, gap: float | None) -> None:
    from pyro.infer import autoguide

    observed = torch.tensor([1.0, 2.0, 0.5])
    guide = getattr(autoguide, name)(pyro.condition(hierarchy, data={"y": observed}))
    model = ph.Model(hierarchy).observe(y=observed)  # normal in mu and log z: a full normal is exact
    post = fit(model, guide=guide, num_particles=4)
    reference = fit(model, guide="normal")
    if gap is None:
        assert post.elbo.value == pytest.approx(reference.elbo.value, abs=4 * np.hypot(post.elbo.se, reference.elbo.se))
    else:
        assert abs(post.gap.value) < 0.01
    assert post.log_evidence.value == pytest.approx(reference.log_evidence.value, abs=0.05)


def test_kl_warmup_and_free_bits_change_the_path_and_not_the_report() -> None:
    model = ph.Model(decoder(), 60).observe(x=data())
    plain = learn(model, guide=ph.Amortized(hidden=(8,)), num_steps=100, stop=False)
    warmed = learn(model, guide=ph.Amortized(hidden=(8,)), num_steps=100, stop=False, kl_warmup=80)
    assert plain.history["elbo"][0] == warmed.history["elbo"][0]
    assert plain.history["elbo"][-1] != warmed.history["elbo"][-1]
    free = learn(model, guide=ph.Amortized(hidden=(8,)), num_steps=100, stop=False, free_bits=2.0)
    assert free.history["kl/z"][-20:].mean() > plain.history["kl/z"][-20:].mean()


def test_a_program_that_ignores_the_rows_asked_for_is_told_how_to_write_it() -> None:
    covariates, response = torch.linspace(-1.0, 1.0, 6), torch.linspace(0.0, 1.0, 6)  # which are no inputs

    def program() -> None:
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("row", 6):
            pyro.sample("y", dist.Normal(covariates * slope, 1.0), obs=response)

    with pytest.raises(
        ph.ModelError, match=r"plate 'row': found a program or guide that does not run at some.*x\[rows\]"
    ):
        fit(ph.Model(program), batch_size=3)


def test_a_term_that_is_no_number_stops_training_with_its_site() -> None:
    def program() -> None:
        w = pyro.param("w", torch.tensor(1.0))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0))
        pyro.factor("cliff", torch.log(1.2 - w) + 100.0 * w)

    def guide() -> None:
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    with pytest.warns(ph.ConvergenceWarning, match=r"step \d+ met a bound or gradient that is not finite.*'cliff'"):
        fitted = ph.train(ph.Model(program).observe(y=1.0), ph.SVI(guide=guide, **QUICK), seed=0, progress=False)
    assert torch.isfinite(fitted.params["w"])


def test_what_does_not_fit_is_refused() -> None:
    model = ph.Model(means, 53).observe(y=data(53)[:, 0])

    def misnamed(rows: int) -> None:
        pyro.sample("nu", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    with pytest.raises(ph.ModelError, match=r"guide: site 'nu' is no latent of the program; did you mean 'mu'"):
        fit(model, guide=misnamed)
    with pytest.raises(ph.ModelError, match=r"batch_size: found 64; expected at most the 53 rows of plate 'row'"):
        fit(model, batch_size=64)
    with pytest.raises(ph.SettingError, match="a warm-up that ends before training does"):
        ph.SVI(kl_warmup=500, num_steps=500)
    with pytest.raises(ph.ModelError, match="plate: found 'column'; expected row"):
        fit(model, batch_size=10, plate="column")
    with pytest.raises(ph.UnsupportedModel, match="batch_size: found observations outside of any plate"):
        fit(
            ph.Model(lambda: pyro.sample("y", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0))).observe(
                y=1.0
            ),
            batch_size=2,
        )
