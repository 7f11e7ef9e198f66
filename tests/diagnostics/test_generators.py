"""Generators side by side, and the models of digits that are judged so."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph
from phlogiston.model.resize import generated
from phlogiston.stats.images import sharpness

SLOPE = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, -0.5]])
QUICK = ph.AIS(num_particles=500, num_temperatures=30, engine="graph")


def linear(n: int, slope: torch.Tensor) -> None:
    shift = pyro.param("shift", torch.zeros(3))
    with pyro.plate("rows", n):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.deterministic("x", z @ slope.T + shift, event_dim=1)


def fixed() -> None:
    with pyro.plate("rows", 30):
        pyro.deterministic("x", pyro.sample("z", dist.Normal(0.0, 1.0)))


def truth(n: int = 200) -> ph.Model:
    return ph.Model(linear, n, SLOPE)


def real(count: int, seed: int) -> torch.Tensor:
    return generated(truth(), count, seed)["x"]


def test_rows_are_generated_in_any_number_from_any_plate() -> None:
    made = generated(truth(50), 7, seed=0)
    assert {name: tuple(value.shape) for name, value in made.items()} == {"z": (7, 2), "x": (7, 3)}
    torch.testing.assert_close(made["x"], made["z"] @ SLOPE.double().T)
    again = generated(ph.Model(fixed), 70, seed=0)["x"]  # its size is no input: three runs
    assert again.shape == (70,)
    assert len(again.unique()) == 70
    with pytest.raises(ph.UnsupportedModel, match="found no plate; expected one that holds the rows"):
        generated(ph.Model(lambda: pyro.sample("z", dist.Normal(0.0, 1.0))), 3, seed=0)
    with pytest.raises(ph.SettingError, match="num_elements: found 0"):
        generated(truth(), 0, seed=0)


@pytest.fixture(scope="module")
def found() -> ph.GeneratorComparison:
    shifted = truth().with_parameters({"shift": torch.tensor([0.0, 1.0, 0.0])})
    narrow = ph.Model(linear, 200, 0.3 * SLOPE)
    return ph.compare_generators(
        {"truth": truth(), "shifted": shifted, "narrow": narrow, "given": real(150, 5)},
        real(150, 1),
        other_data=real(180, 2),
        classify=lambda x: torch.stack([x[:, 0], -x[:, 0], torch.full_like(x[:, 0], -9.0)], -1),
        noise=0.5,
        num_images=2,
        method=QUICK,
        seed=0,
    )


def test_the_true_generator_scores_as_other_data_do_and_others_do_not(found: ph.GeneratorComparison) -> None:
    judged = found.judgements
    assert found.names == ("truth", "shifted", "narrow", "given")
    for name in ("truth", "given", "data"):
        assert abs(judged[name].c2st.accuracy.value - 0.5) < 4 * judged[name].c2st.accuracy.se
        assert abs(judged[name].kid.value) < 4 * judged[name].kid.se
        assert judged[name].check.state == "fine"
    for name in ("shifted", "narrow"):
        assert judged[name].c2st.p_value < 1e-3
        assert judged[name].frechet > 4 * judged["truth"].frechet
    assert judged["narrow"].check.state != "fine"
    assert judged["narrow"].fidelity.coverage.value < judged["data"].fidelity.coverage.value - 0.2
    assert judged["truth"].classes.sum() == 150
    assert judged["truth"].classes[2] == 0
    assert found.class_divergence(judged["truth"]) < 0.05


def test_likelihoods_are_the_exact_ones_and_are_compared_in_pairs(found: ph.GeneratorComparison) -> None:
    rows = real(150, 1)[:2]
    for name, slope, shift in (("truth", 1.0, 0.0), ("shifted", 1.0, 1.0), ("narrow", 0.3, 0.0)):
        w = slope * SLOPE.double()
        covariance = w @ w.T + 0.25 * torch.eye(3)
        at = dist.MultivariateNormal(torch.tensor([0.0, shift, 0.0]).double(), covariance)
        exact = at.log_prob(rows).numpy()
        off = np.abs(found.judgements[name].log_likelihood - exact)
        assert np.all(off < 4 * found.judgements[name].likelihood_errors)
    gap = found.likelihood_difference("truth", "narrow")
    both = found.judgements["truth"].log_likelihood - found.judgements["narrow"].log_likelihood
    assert gap.value == pytest.approx(both.mean())
    assert gap.se == pytest.approx(both.std(ddof=1) / math.sqrt(2))
    assert not found.judgements["given"].log_likelihood.size
    with pytest.raises(ValueError, match="likelihood_difference: found no likelihoods"):
        found.likelihood_difference("truth", "given")


def test_a_comparison_is_a_table_a_picture_and_a_page(found: ph.GeneratorComparison, tmp_path: Path) -> None:
    table = found.summary()
    assert list(table.index) == ["truth", "shifted", "narrow", "given", "data"]
    assert {"C2ST", "KID", "coverage", "classes", "log lik."} <= set(table.columns)
    assert "sharpness" not in table.columns  # no images
    assert "narrow" in str(found)
    assert len(found.plot().axes) >= 4
    page = found.report(tmp_path / "pages" / "generators.html").read_text()
    assert all(name in page for name in ("narrow: coverage of the data", "log lik.", "held-out data"))


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    # the Laplacian of i^2 is two everywhere, that of a checkerboard minus or plus eight
    smooth = np.tile((np.arange(6.0) ** 2)[:, None], (1, 6))
    board = np.indices((6, 6)).sum(0) % 2 * 2.0 - 1.0
    exact = sharpness(np.stack([smooth, board]))
    assert exact.value == pytest.approx((0.0 + 64.0) / 2.0)
    assert exact.se == pytest.approx(32.0)


def test_what_cannot_be_compared_is_refused() -> None:
    rows = real(20, 0)
    with pytest.raises(ph.SettingError, match=r"compare_generators: found \{\}; expected a mapping"):
        ph.compare_generators({}, rows)
    with pytest.raises(ph.SettingError, match="expected a mapping of names, none of them 'data'"):
        ph.compare_generators({"data": truth()}, rows)
    with pytest.raises(ph.SettingError, match="data: found 3 rows; expected at least 8"):
        ph.compare_generators({"truth": truth()}, rows[:3])
    with pytest.raises(ph.UnknownName, match=r"'truth' generates no site 'y'"):
        ph.compare_generators({"truth": truth()}, rows, site="y")
    with pytest.raises(ph.ModelError, match=r"found draws of shape \(3,\) beside data of shape \(2,\)"):
        ph.compare_generators({"truth": truth()}, rows[:, :2])
    with pytest.raises(ph.ModelError, match="compare_generators: 'bad': found 60 of 60 numbers that are NaN"):
        ph.compare_generators({"bad": np.full((20, 3), np.nan)}, rows)
    with pytest.raises(ValueError, match=r"compare_generators: 'bad': found str .*expected an array of numbers"):
        ph.compare_generators({"bad": "draws"}, rows)
    with pytest.raises(ph.SettingError, match="compare_generators: 'bad': found 3 rows; expected at least 8"):
        ph.compare_generators({"bad": real(3, 1)}, rows)
    with pytest.raises(ph.SettingError, match="num_images: found -1; expected an integer above zero"):
        ph.compare_generators({"truth": truth()}, rows, noise=0.1, num_images=-1)
    for scores, shape in (
        (lambda x: x[:, 0], r"\(20,\)"),
        (lambda x: x[:3], r"\(3, 3\)"),
        (lambda x: x / 0.0, "finite"),
    ):
        with pytest.raises(ph.ModelError, match=f"classify: found scores .*{shape}"):
            ph.compare_generators({"truth": truth()}, rows, classify=scores)
    with pytest.raises(ph.ModelError, match=r"postprocess: found shape \(9, 3\); expected as before, \(20, 3\)"):
        ph.compare_generators({"truth": truth()}, rows, postprocess=lambda x: x[:9])
    short = ph.MH(num_samples=10, num_warmup=10, num_chains=2, engine="graph")
    with pytest.warns(ph.PhlogistonWarning), pytest.raises(ph.SettingError, match="one that estimates the evidence"):
        ph.compare_generators({"truth": truth()}, rows, noise=0.1, num_images=1, method=short)


@pytest.fixture(scope="module")
def digits(load_model: Any) -> Any:
    return load_model("gan_digits")


def briefly(digits: Any, model: ph.Model, **more: Any) -> ph.Fitted:
    settings = dataclasses.replace(digits.adversarial(num_steps=12, **more), engine="graph")
    return ph.train(model, settings, seed=0, progress=False)


def test_generators_of_digits_play_at_any_size_and_by_class(digits: Any) -> None:
    made = briefly(digits, digits.model).generate(5, seed=0)
    assert made["x"].shape == (5, 8, 8)
    assert 0.0 <= float(made["x"].min()) <= float(made["x"].max()) <= 1.0
    large = briefly(digits, digits.model_of(12), size=12)
    assert large.generate(3, seed=0)["x"].shape == (3, 12, 12)
    assert digits.Generator(28)(torch.zeros(2, 16)).shape == (2, 28, 28)
    given = briefly(digits, digits.conditional_model, conditional=True)
    assert digits.by_class(given, each=2).shape == (20, 8, 8)
    assert 0.0 <= digits.obeyed(given, digits.Classifier(steps=5), count=20) <= 1.0


def test_a_decoder_is_a_generator_and_both_are_judged(digits: Any, tmp_path: Path) -> None:
    svi = dataclasses.replace(digits.svi, num_steps=10, engine="graph")
    encoded = ph.train(digits.vae_model, svi, seed=0, progress=False)
    decoder = digits.as_generator(encoded)
    z = generated(decoder, 4, seed=0)
    net = torch.func.functional_call(digits.generator(), encoded.state_dict("generator"), (z["z"].float(),))
    torch.testing.assert_close(z["x"].float(), net, rtol=1e-4, atol=1e-5)
    classifier = digits.Classifier(steps=300)
    assert classifier.accuracy() > 0.9
    found = digits.judged({"VAE": decoder}, classifier)
    assert found.judgements["data"].fidelity.coverage.value > 0.9
    assert found.judgements["VAE"].sharpness.value < found.judgements["data"].sharpness.value
    assert "sharpness" in found.report(tmp_path / "page.html").read_text()


@pytest.mark.slow
def test_the_generator_of_digits_is_sharper_than_the_vae_and_obeys_the_class(digits: Any) -> None:
    gan = ph.train(digits.model, digits.adversarial(), seed=0, progress=False)
    given = ph.train(digits.conditional_model, digits.adversarial(conditional=True), seed=0, progress=False)
    vae = ph.train(digits.vae_model, digits.svi, seed=0, progress=False)
    classifier = digits.Classifier()
    found = digits.judged({"GAN": gan, "VAE": digits.as_generator(vae)}, classifier)
    print(found)
    real, gans, vaes = (found.judgements[name] for name in ("data", "GAN", "VAE"))
    assert abs(gans.sharpness.value - real.sharpness.value) < abs(vaes.sharpness.value - real.sharpness.value)
    assert (gans.classes > 0).all()
    assert gans.fidelity.coverage.value > 0.75
    assert digits.obeyed(given, classifier) > 0.85
