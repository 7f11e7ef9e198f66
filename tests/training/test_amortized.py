"""Amortised guides: what they find in a program, the networks that they build, and what they refuse."""

from __future__ import annotations

import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

import phlogiston as ph
from phlogiston.training.amortised.encoders import Standardise


def images(shape: tuple[int, ...] = (8, 8), count: int = 12) -> ph.Model:
    weights = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))

    def program(weights: torch.Tensor) -> None:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("image", count):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = torch.tensordot(z, weights, 1)
            pyro.sample("x", dist.Normal(loc, scale).to_event(len(shape)))

    return ph.Model(program, weights).observe(x=torch.randn(count, *shape))


def documents(mask: torch.Tensor, words: torch.Tensor, states: int = 5) -> ph.Model:
    def program(mask: torch.Tensor) -> None:
        with pyro.plate("document", mask.shape[0], dim=-2):
            shares = pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
            with pyro.plate("position", mask.shape[1], dim=-1), poutine.mask(mask=mask):
                pyro.sample("word", dist.Categorical(shares @ (torch.ones(3, states) / states)))

    return ph.Model(program, mask).observe(word=words)


def eight(sigma: torch.Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("school", 8):
        theta = pyro.sample("theta", dist.Normal(mu, 3.0))
        pyro.sample("y", dist.Normal(theta, sigma))


def drawn(guide: Any, **held: torch.Tensor) -> dict[str, Any]:
    pyro.clear_param_store()
    trace = poutine.trace(guide).get_trace()
    pyro.clear_param_store()
    return {name: msg for name, msg in trace.nodes.items() if msg["type"] == "sample" and name not in held}


def test_images_are_read_by_convolutions_and_global_latents_are_left_to_another_guide() -> None:
    guide = ph.Amortized().build(images())
    assert guide.kind == "conv"
    assert (guide.split.plate.name, guide.split.rest, guide.split.observed) == ("image", ("scale",), ("x",))
    assert drawn(guide)["z"]["value"].shape == (12, 2)
    assert ph.Amortized(encoder="mlp").build(images()).kind == "mlp"


def test_data_beside_the_observations_are_read_too() -> None:
    model = ph.Model(eight, torch.arange(1.0, 9.0)).observe(y=torch.randn(8))
    guide = ph.Amortized().build(model)
    assert (guide.split.observed, guide.split.inputs, guide.split.rest) == (("y",), ("sigma",), ("mu",))
    torch.testing.assert_close(guide.features[:, 1], torch.arange(1.0, 9.0))
    assert ph.Amortized(inputs=("y",)).build(model).features.shape == (8, 1)
    assert drawn(guide)["theta"]["value"].shape == (8,)


def test_a_ragged_set_is_read_in_any_order_and_without_what_is_not_there() -> None:
    mask = torch.arange(7) < torch.tensor([3, 7, 5, 1]).unsqueeze(-1)
    words = torch.randint(0, 5, (4, 7), generator=torch.Generator().manual_seed(1))
    guide = ph.Amortized().build(documents(mask, words), seed=3)
    assert guide.kind == "set"
    assert guide.features.shape == (4, 7, 6)
    value = drawn(guide)["shares"]["value"]
    assert value.shape == (4, 1, 3)
    torch.testing.assert_close(value.sum(-1), torch.ones(4, 1))
    loc, _ = guide.encoder(guide.features)
    shuffled, _ = guide.encoder(guide.features[:, torch.randperm(7)])
    torch.testing.assert_close(loc, shuffled)
    hidden = torch.where(mask, words, (words + 1) % 5)  # other words where there are none
    again, _ = guide.encoder(guide.at(documents(mask, hidden)).features)
    torch.testing.assert_close(loc, again)
    longer = guide.at(documents(mask.repeat(1, 2), words.repeat(1, 2)))
    assert longer.encoder(longer.features)[0].shape == (4, 2)


def test_the_density_of_the_guide_is_that_of_its_draws() -> None:
    mask = torch.ones(6, 4, dtype=torch.bool)
    guide = ph.Amortized().build(documents(mask, torch.zeros(6, 4, dtype=torch.long)))
    made = guide.distributions(guide.features)["shares"]
    draws = made.sample((40_000,))
    # E_q[1 / q] over a simplex of two free coordinates is its area, 1/2
    inverse = torch.exp(-made.log_prob(draws))[..., 0]
    inside = ((draws.amin(-1) > 0.05)[..., 0]).float()  # the corners, where 1/q is heavy-tailed, left out on both sides
    area = 0.5 * (1.0 - 3 * 0.05) ** 2
    error = (inverse * inside).std(0) / 200.0
    assert (((inverse * inside).mean(0) - area).abs() < 4 * error).all()


def test_correlated_latents_have_a_full_covariance() -> None:
    guide = ph.Amortized(covariance="full", encoder="mlp").build(images())
    _, factor = guide.encoder(guide.features)
    assert factor.shape == (12, 2, 2)
    assert (factor[:, 0, 1] == 0).all()
    assert drawn(guide)["z"]["value"].shape == (12, 2)
    with pytest.raises(ph.UnsupportedModel, match="latents theta that are not one vector a datum"):
        ph.Amortized(covariance="full").build(ph.Model(eight, torch.ones(8)).observe(y=torch.randn(8)))


def test_the_same_seed_builds_the_same_encoder() -> None:
    first, again, other = (ph.Amortized().build(images(), seed=seed) for seed in (1, 1, 2))
    for a, b in zip(first.encoder.parameters(), again.encoder.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert not torch.equal(next(first.encoder.parameters()), next(other.encoder.parameters()))


@pytest.mark.parametrize("kind", ["conv", "mlp", "set"])
def test_encoders_export(kind: str) -> None:
    if kind == "set":
        guide = ph.Amortized().build(documents(torch.ones(6, 4, dtype=torch.bool), torch.zeros(6, 4).long()))
    else:
        guide = ph.Amortized(encoder=kind).build(images())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(guide.encoder.eval(), (guide.features,)).module()
    for a, b in zip(exported(guide.features), guide.encoder(guide.features), strict=True):
        torch.testing.assert_close(a, b)
    restored = ph.Amortized(encoder="auto" if kind == "set" else kind)
    assert restored.encoder  # a spec is plain data
    state = guide.encoder.state_dict()
    guide.encoder.load_state_dict(state)


def test_a_module_of_the_users_own_is_tried_before_training() -> None:
    class Pair(nn.Module):
        def __init__(self, inputs: int, positive: bool = True) -> None:
            super().__init__()
            self.layer, self.positive = nn.Linear(inputs, 4), positive

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            loc, scale = self.layer(x.flatten(1)).chunk(2, -1)
            return loc, scale.exp() if self.positive else -scale.exp()

    guide = ph.Amortized(encoder=Pair(64)).build(images())
    assert drawn(guide)["z"]["value"].shape == (12, 2)
    with pytest.raises(ph.ModelError, match=r"Amortized: encoder: found RuntimeError.*expected a pair of tensors"):
        ph.Amortized(encoder=Pair(63)).build(images())
    with pytest.raises(ph.ModelError, match=r"found output Tensor; expected a pair of tensors, loc \(2, 2\)"):
        ph.Amortized(encoder=nn.Sequential(nn.Flatten(), nn.Linear(64, 4))).build(images())
    with pytest.raises(ph.ModelError, match=r"a scale that is not positive; .* write: scale.exp\(\)"):
        ph.Amortized(encoder=Pair(64, positive=False)).build(images())


def test_latents_that_depend_on_each_other_across_the_plate_are_warned_of() -> None:
    def walk() -> None:
        with pyro.plate("time", 10):
            step = pyro.sample("step", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(step.cumsum(0), 1.0))

    with pytest.warns(ph.AmortisationWarning, match="site 'step': found elements of plate 'time' that site 'y' ties"):
        ph.Amortized().build(ph.Model(walk).observe(y=torch.randn(10)))


def test_batch_normalisation_ties_data_together() -> None:
    decoder = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6))

    def program() -> None:
        with pyro.plate("image", 10):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1))

    with pytest.warns(ph.AmortisationWarning, match="site 'x' ties together"):
        ph.Amortized().build(ph.Model(program).observe(x=torch.randn(10, 6)))


def test_a_program_without_latents_in_a_plate_is_refused() -> None:
    def program() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("i", 5):
            pyro.sample("y", dist.Normal(mu, 1.0))

    model = ph.Model(program).observe(y=torch.randn(5))
    with pytest.raises(ph.UnsupportedModel, match=r"found no plate that holds both continuous latents \(mu\)"):
        ph.Amortized().build(model)
    with pytest.raises(ph.UnknownName, match=r"no plate 'j'; \(known: i\)"):
        ph.Amortized(plate="j").build(model)
    with pytest.raises(ph.UnknownName, match=r"no data 'sigm' along plate 'school'; did you mean 'sigma'"):
        ph.Amortized(inputs=("sigm",)).build(ph.Model(eight, torch.ones(8)).observe(y=torch.randn(8)))


def test_settings_without_sense_are_refused() -> None:
    with pytest.raises(ph.SettingError, match="encoder: found 'cnn'; expected one of auto, mlp, conv, set"):
        ph.Amortized(encoder="cnn")
    with pytest.raises(ph.SettingError, match="covariance: found 'block'"):
        ph.Amortized(covariance="block")  # type: ignore[arg-type]
    with pytest.raises(ph.SettingError, match="hidden, channels"):
        ph.Amortized(hidden=(0,))
    vectors = images(shape=(64,))
    with pytest.raises(ph.SettingError, match=r"encoder='conv': found data of shape \(64,\).*write: x.reshape"):
        ph.Amortized(encoder="conv").build(vectors)
    with pytest.raises(ph.SettingError, match="no plate within the plate"):
        ph.Amortized(encoder="set").build(vectors)


def test_data_of_another_shape_are_refused_by_a_trained_encoder() -> None:
    guide = ph.Amortized().build(images())
    with pytest.raises(ph.ModelError, match=r"data of shape \(9, 9\) each; expected \(8, 8\)"):
        guide.at(images(shape=(9, 9)))


def test_a_feature_that_hardly_varied_does_not_drown_the_others() -> None:
    data = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    data[:, 2] = 0.0
    data[0, 2] = 0.01
    seen = Standardise(data.mean(0), data.std(0))(data + torch.tensor([0.0, 0.0, 1.0]))
    assert float(seen[:, 2].max()) == 5.0
    torch.testing.assert_close(seen[:, 0], (data[:, 0] - data[:, 0].mean()) / data[:, 0].std())
