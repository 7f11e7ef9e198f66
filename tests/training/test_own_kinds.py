"""Guides and losses of a user's own, by object and by name."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph
from phlogiston.training.adversarial.losses import LOSSES
from phlogiston.training.guides import GUIDES, normal

pytestmark = pytest.mark.filterwarnings("ignore::phlogiston.ConvergenceWarning")  # runs are short


class Shared:
    """Independent normals that all have one scale."""

    def around(self, start: ph.GuideStart) -> ph.Guide:
        def spread(params: Any) -> torch.Tensor:
            return params["log_scale"].exp()

        def draw(params: Any, noise: torch.Tensor) -> torch.Tensor:
            return params["loc"][:, None] + spread(params) * noise

        def log_prob(params: Any, u: torch.Tensor) -> torch.Tensor:
            return torch.distributions.Normal(params["loc"][:, None], spread(params)).log_prob(u).sum(0)

        start_scale = torch.zeros((), dtype=start.loc.dtype)
        return ph.Guide("shared", {"loc": start.loc, "log_scale": start_scale}, len(start.loc), draw, log_prob)


def pair() -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with pyro.plate("i", 40):
        pyro.sample("y", dist.Normal(z, 1.0).to_event(1))


def model() -> ph.Model:
    return ph.Model(pair).observe(y=torch.linspace(-0.5, 1.5, 40)[:, None].expand(40, 2))


@pytest.mark.parametrize("settings", [{}, {"batch_size": 10, "num_particles": 4}], ids=["flat", "minibatches"])
def test_a_guide_family_of_ones_own_reaches_the_best_guide_of_its_form(settings: dict[str, Any]) -> None:
    method = ph.SVI(guide=Shared(), engine="graph", num_steps=3000, **settings)
    post = ph.infer(model(), method, seed=0, progress=False)
    # The posterior of each coordinate has precision 1 + 40 and mean 40 * 0.5 / 41: the guide can reach it.
    assert post.moments("z").mean == pytest.approx([20 / 41] * 2, abs=0.02)
    spread = {name: value for name, value in post.state.items() if name.endswith("log_scale")}
    assert [float(value) for value in spread.values()] == pytest.approx([-0.5 * math.log(41.0)], abs=0.1)


def test_a_registered_guide_is_known_by_its_name() -> None:
    ph.register("guide", "shared", Shared)
    try:
        by_name = ph.infer(model(), "svi", guide="shared", num_steps=1500, engine="graph", seed=1, progress=False)
    finally:
        GUIDES.unregister("shared")
    by_object = ph.infer(model(), "svi", guide=Shared(), num_steps=1500, engine="graph", seed=1, progress=False)
    assert torch.equal(by_name.draws["z"], by_object.draws["z"])
    with pytest.raises(ph.SettingError, match=r"guide: found 'shared'; expected|did you mean"):
        ph.SVI(guide="shared")
    with pytest.raises(ph.SettingError, match=r"guide 'shared': found .*normal.*; expected a class or object with ar"):
        ph.register("guide", "shared", normal)


def generator(network: torch.nn.Module) -> None:
    pyro.module("network", network)
    with pyro.plate("n", 256):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.deterministic("x", network(z[:, None])[:, 0])


def game(loss: Any) -> ph.Fitted:
    torch.manual_seed(0)
    data = 2.0 + torch.randn(256)
    settings = ph.Adversarial(loss=loss, num_steps=120, batch_size=64, engine="graph")
    return ph.train(ph.Model(generator, torch.nn.Linear(1, 1)).observe(x=data), settings, seed=0, progress=False)


def test_a_loss_of_ones_own_trains_as_the_same_loss_by_name_does() -> None:
    hinge = LOSSES["hinge"]
    own = ph.Loss(critic=hinge.critic, generator=hinge.generator)
    ph.register("loss", "own_hinge", own)
    try:
        fits = [game(loss) for loss in ("hinge", own, "own_hinge")]
    finally:
        LOSSES.unregister("own_hinge")
    for other in fits[1:]:
        assert torch.equal(fits[0].params["network$$$weight"], other.params["network$$$weight"])
    with pytest.raises(ph.SettingError, match=r"loss: found <function .*expected a name, or ph.Loss"):
        ph.Adversarial(loss=lambda real, fake: real.mean())
    with pytest.raises(ph.SettingError, match=r"label_smoothing: found .*; expected one of minimax"):
        ph.Adversarial(loss=own, label_smoothing=0.1)
