"""Evidence from draws, models of the same data, methods on the same model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph
from phlogiston.stats.bridge import bridge

pytestmark = pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")  # short runs earn them
NUTS = ph.NUTS(num_samples=400, num_warmup=200, engine="graph")
Y = [1.2, -0.4, 0.8, 2.1, 0.5]


def normal(prior_sd: float) -> Callable[[], None]:
    def program() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, prior_sd))
        with pyro.plate("i", 5):
            pyro.sample("y", dist.Normal(mu, 1.0))

    return program


def fitted(prior_sd: float = 2.0, y: Any = Y, method: Any = "smc") -> ph.Posterior:
    return ph.infer(ph.Model(normal(prior_sd)).observe(y=y), method, seed=0, progress=False)


def exact_log_evidence(prior_sd: float) -> float:
    y, covariance = np.array(Y), np.eye(5) + prior_sd**2
    quadratic = y @ np.linalg.solve(covariance, y)
    return float(-0.5 * (5 * math.log(2 * math.pi) + np.linalg.slogdet(covariance)[1] + quadratic))


def of_nu() -> None:
    nu = pyro.sample("nu", dist.Normal(0.0, 2.0))
    with pyro.plate("i", 5):
        pyro.sample("y", dist.Normal(nu, 1.0))


def flat() -> None:
    mu = pyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    with pyro.plate("i", 5):
        pyro.sample("y", dist.Normal(mu, 1.0))


def test_the_bridge_finds_a_known_ratio_with_an_honest_error() -> None:
    z = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(1.0, 1.0, 300), rng.normal(0.0, 1.5, 300)

        def log_ratio(u: np.ndarray) -> np.ndarray:  # p has the constant e^3 sqrt(2 pi), q has 1
            return 3.0 - 0.5 * (u - 1.0) ** 2 + 0.5 * (u / 1.5) ** 2 + math.log(1.5 * math.sqrt(2.0 * math.pi))

        found = bridge(log_ratio(x), log_ratio(y), 0.5)
        ours, theirs = found.ours, found.theirs
        error = math.sqrt(ours.var() / ours.mean() ** 2 / 300 + theirs.var() / theirs.mean() ** 2 / 300)
        z.append((found.log_ratio - 3.0 - 0.5 * math.log(2.0 * math.pi)) / error)
    assert 0.75 < np.std(z) < 1.3
    assert abs(np.mean(z)) < 4 / math.sqrt(60)


@pytest.mark.parametrize("name", ["eight_schools", "mixture", "nig_regression"])
def test_evidence_from_the_draws_of_chains(name: str, load_model: Any) -> None:
    module = load_model(name)
    post = ph.infer(module.model, NUTS, seed=3, progress=False)
    for method in ("bridge", "importance"):
        found = ph.evidence(post, method)
        assert abs(found.value - module.reference.log_evidence) < 4 * found.se
        assert 0.0 < found.se < 0.1


def test_evidence_from_weighted_and_from_resampled_draws(load_model: Any) -> None:
    module = load_model("eight_schools")
    weighted = ph.infer(module.model, ph.Importance(num_particles=20_000), seed=0, progress=False)
    resampled = ph.infer(module.model, ph.Importance(num_particles=20_000, max_draws=5000), seed=0, progress=False)
    for post in (weighted, resampled):
        found = ph.evidence(post)
        assert abs(found.value - module.reference.log_evidence) < 4 * found.se
        assert found.se < 0.05
    assert ph.evidence(weighted, seed=1) == ph.evidence(weighted, seed=1)


def test_the_error_of_the_bridge_knows_of_autocorrelation() -> None:
    model = ph.Model(normal(2.0)).observe(y=Y)
    errors, z = [], []
    for seed in range(10):
        sticky = ph.MH(num_samples=600, num_warmup=200, step_size=0.15, target_accept_prob=0.95)
        post = ph.infer(model, sticky, seed=seed, progress=False)
        found = ph.evidence(post)
        errors.append(found.se)
        z.append((found.value - exact_log_evidence(2.0)) / found.se)
    fresh = ph.evidence(ph.infer(model, NUTS, seed=0, progress=False)).se
    assert np.median(errors) > 1.5 * fresh
    assert np.std(z) < 2.0
    assert max(np.abs(z)) < 5


def test_an_evidence_that_does_not_exist_is_refused_with_the_reason() -> None:
    post = ph.infer(ph.Model(flat).observe(y=Y), NUTS, seed=0, progress=False)
    with pytest.raises(ph.UnsupportedModel, match="'mu': found an improper flat prior, under which the evidence is"):
        ph.evidence(post)
    with pytest.raises(ValueError, match="evidence: found a posterior without its model"):
        ph.evidence(replace(post, model=None))
    with pytest.raises(ph.SettingError, match="method: found 'harmonic'; expected 'bridge' or 'importance'"):
        ph.evidence(post, "harmonic")  # type: ignore[arg-type]
    coin = ph.infer(ph.Model(lambda: pyro.sample("z", dist.Bernoulli(0.5))), "exact", seed=0)
    with pytest.raises(ph.UnsupportedModel, match='methods that estimate it as they go: "exact", "importance"'):
        ph.evidence(coin)
    short = ph.infer(ph.Model(normal(1.0)).observe(y=Y), ph.NUTS(num_samples=5, num_warmup=20), seed=0, progress=False)
    with pytest.raises(ValueError, match="found 20 draws; expected at least 40"):
        ph.evidence(short)


def test_models_are_compared_by_bayes_factor_and_by_leave_one_out() -> None:
    found = ph.compare({"tight": fitted(0.1), "right": fitted(2.0), "chain": fitted(5.0, method=NUTS)}, seed=0)
    assert found.names[0] == "right"
    for one, other, sds in (("right", "tight", (2.0, 0.1)), ("right", "chain", (2.0, 5.0))):
        factor = found.log_bayes_factor(one, other)
        assert abs(factor.value - exact_log_evidence(sds[0]) + exact_log_evidence(sds[1])) < 4 * factor.se
    assert sum(found.probabilities.values()) == pytest.approx(1.0)
    assert found.loo["right"].elpd == pytest.approx(-7.210612, abs=0.05)
    difference = found.elpd_difference("right", "tight")
    assert difference.value == pytest.approx(found.loo["right"].elpd - found.loo["tight"].elpd)
    assert sum(found.weights.values()) == pytest.approx(1.0, abs=1e-6)
    table = found.summary()
    assert list(table.index) == list(found.names)
    assert {"log evidence", "log BF", "P(model)", "elpd_loo", "d_elpd", "d_se", "weight", "bad k"} <= set(table.columns)
    assert "! 5 observations are few" in str(found)


def test_stacking_weights_are_the_best_mixture() -> None:
    from phlogiston.stats import arviz

    rng = np.random.default_rng(0)
    values = {"a": rng.normal(-1.0, 0.6, 40), "b": rng.normal(-1.0, 0.6, 40)}
    draws = {
        name: np.broadcast_to(v, (2, 500, 40)) + 1e-3 * rng.normal(size=(2, 500, 40)) for name, v in values.items()
    }
    found = arviz.stacking(draws)
    grid = np.linspace(0.0, 1.0, 1001)[:, None]
    score = np.log(grid * np.exp(values["a"]) + (1.0 - grid) * np.exp(values["b"])).sum(1)
    assert found["a"] == pytest.approx(float(grid[score.argmax(), 0]), abs=0.02)


def test_weighted_draws_and_lists_can_be_compared() -> None:
    posts = [fitted(s, method=ph.Importance(num_particles=4000)) for s in (1.0, 2.0)]
    found = ph.compare(posts)
    assert set(found.names) == {"importance 1", "importance 2"}
    assert found.loo["importance 2"].elpd == pytest.approx(-7.210612, abs=0.05)


def test_two_methods_on_one_model_are_not_two_models() -> None:
    found = ph.compare({"smc": fitted(), "importance": fitted(method=ph.Importance(num_particles=4000))}, seed=0)
    assert "smc and importance are of one model: what tells them apart is chance; methods: ph.agree" in found.warnings
    other = ph.compare({"one": fitted(1.0), "two": fitted(2.0)}, seed=0)
    assert not any("of one model" in line for line in other.warnings)


def test_what_cannot_be_compared_is_refused_with_the_reason() -> None:
    one = fitted()
    with pytest.raises(ValueError, match=r"found data 'y' that differ in 1 of 5 numbers \('a', 'b'\); expected poster"):
        ph.compare({"a": one, "b": fitted(y=[*Y[:4], 0.6])})

    def other_site() -> None:
        pyro.sample("w", dist.Normal(pyro.sample("mu", dist.Normal(0.0, 1.0)), 1.0))

    other = ph.infer(ph.Model(other_site).observe(w=1.0), "smc", seed=0, progress=False)
    with pytest.raises(ValueError, match="found data 'w' observed by 'b' alone; expected posteriors of the same data"):
        ph.compare({"a": one, "b": other})
    with pytest.raises(ValueError, match="compare: found 1 posteriors; expected at least two"):
        ph.compare([one])
    with pytest.raises(TypeError, match="compare: 'b': found int; expected a posterior"):
        ph.compare({"a": one, "b": 3})  # type: ignore[dict-item]


def test_a_measure_that_does_not_exist_is_an_error_if_asked_for_and_else_a_warning() -> None:
    improper = ph.infer(ph.Model(flat).observe(y=Y), NUTS, seed=0, progress=False)
    proper = fitted()
    with pytest.raises(ph.UnsupportedModel, match="improper flat prior, under which the evidence is defined up to"):
        ph.compare({"proper": proper, "flat": improper}, by="evidence")
    found = ph.compare({"proper": proper, "flat": improper})
    assert found.log_evidence["flat"] is None
    assert "flat: no evidence, as evidence: site 'mu': found an improper flat prior" in str(found)
    assert found.loo["flat"] is not None
    with pytest.raises(ValueError, match="found no evidence for 'flat'"):
        found.log_bayes_factor("proper", "flat")

    def by_factor() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.factor("data", -0.5 * (mu - 1.0) ** 2)

    posts = [ph.infer(ph.Model(by_factor), "smc", seed=s, progress=False) for s in (0, 1)]
    with pytest.raises(ph.UnsupportedModel, match="no observed site, so no pointwise likelihood to leave one out of"):
        ph.compare(posts, by="loo")
    only = ph.compare(posts)
    assert all(left_out is None for left_out in only.loo.values())
    assert "elpd_loo" not in only.summary().columns


def test_methods_that_are_right_agree(load_model: Any) -> None:
    model = load_model("mixture").model
    methods = [
        ph.Importance(num_particles=10_000),
        "smc",
        ph.NUTS(num_samples=500, num_warmup=200, num_chains=8, engine="graph"),
        "exact",
    ]
    found = ph.agree(model, methods=methods, seed=1, progress=False)
    assert found.agreed, str(found)
    assert found.outlier == ""
    assert set(found.refused) == {"exact"}
    assert "exact" in str(found)
    assert all(0.35 < test.accuracy.value < 0.6 for test in found.c2st.values())
    assert min(test.p_value for test in found.mmd.values()) > 0.001
    assert found.log_evidence["nuts"] is not None
    assert found.verdict.startswith("3 methods agree on 5 numbers")
    assert isinstance(found.plot(), matplotlib.figure.Figure)
    assert list(found.summary().index) == ["importance", "smc", "nuts"]


def correlated() -> ph.Model:
    covariance = torch.tensor([[1.0, 0.95], [0.95, 1.0]])
    return ph.Model(lambda: pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), covariance)))


def test_the_method_that_is_wrong_is_named_with_the_reason(tmp_path: Path) -> None:
    model = correlated()
    posts = {
        "smc": ph.infer(model, "smc", seed=0, progress=False),
        "nuts": ph.infer(model, NUTS, seed=0, progress=False),
        "mean-field": ph.infer(model, ph.SVI(engine="graph", num_steps=1000), seed=0, progress=False),
    }
    posts["mean-field"] = replace(posts["mean-field"], log_weights=None, log_evidence=None)  # as most libraries have it
    found = ph.agree(posts, seed=0)
    assert found.outlier == "mean-field"
    assert "its sd of z[" in found.why
    assert max(found.c2st["smc", "mean-field"].accuracy.value, found.c2st["nuts", "mean-field"].accuracy.value) > 0.6
    assert found.mmd["smc", "mean-field"].p_value < 0.01
    assert not found.differ("nuts", "smc")
    text = found.report(tmp_path / "new" / "agree.html", command="ph.agree(posts)").read_text()
    assert "<script" not in text
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "do not use",  # what mean-field's own checks say of it
        "Model",
        "Methods",
        "Side by side",
        "Pairs of methods",
        "Means and spreads",
        *(f"Reproducibility of {name}" for name in posts),
    ]
    assert "do not use mean-field: its sd of z[" in text


def test_of_two_the_one_whose_own_checks_fail_is_named() -> None:
    model = correlated()
    good = ph.infer(model, NUTS, seed=0, progress=False)
    stuck = {"z": good.draws["z"].clone()}
    stuck["z"][0] = stuck["z"][0, :1] + 3.0
    found = ph.agree({"good": good, "bad": replace(good, draws=stuck)}, seed=0)
    assert not found.agreed
    assert found.outlier == "bad"
    assert found.reports["bad"].findings[0].message in found.why


def test_what_cannot_be_held_against_each_other_is_refused() -> None:
    with pytest.raises(ValueError, match="found a model without methods; expected a list of two or more; write"):
        ph.agree(correlated())
    with pytest.raises(ValueError, match=r"found 1 method that can treat the model \(method 'exact' cannot treat"):
        ph.agree(correlated(), methods=["exact", "smc"], seed=0, progress=False)
    with pytest.raises(ValueError, match="agree: found data 'y' that differ in 1 of 5 numbers"):
        ph.agree([fitted(), fitted(y=[*Y[:4], 0.6])])
    one = fitted()
    with pytest.raises(TypeError, match="found methods beside posteriors"):
        ph.agree([one, one], methods=["smc"])
    with pytest.raises(ValueError, match="found 'b' with no site 'mu'; expected posteriors of the model of 'a'"):
        ph.agree({"a": one, "b": replace(one, draws={"nu": one.draws["mu"]})})
    other = ph.infer(ph.Model(of_nu).observe(y=Y), "smc", seed=0, progress=False)
    with pytest.raises(ValueError, match="found latent 'mu' of 'a', which 'b' lacks or has in another shape"):
        ph.agree({"a": one, "b": other})
    with pytest.raises(ValueError, match="found the draws of 'smc 1' again in 'smc 2'; expected runs with"):
        ph.agree([one, one])
    with pytest.raises(ValueError, match="found 'b' with draws to which the model gives another density; expected"):
        ph.agree({"a": one, "b": fitted(3.0)})
    for given, message in (("nuts", "found methods='nuts'"), (["nuts"], r"found methods=\['nuts'\]")):
        with pytest.raises(ValueError, match=message):
            ph.agree(correlated(), methods=given)
    with pytest.raises(TypeError, match="evidence: found int; expected a posterior"):
        ph.evidence(3)  # type: ignore[arg-type]


def test_a_method_named_twice_runs_with_another_seed() -> None:
    methods = ["importance", ph.Importance(num_particles=10_000)]
    found = ph.agree(correlated(), methods=methods, seed=0, progress=False)
    assert found.agreed
    assert min(found.z.values()) > 0.0
