"""The adversarial trainer: right gradients, players that stay apart, a run that goes on bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import phlogiston as ph
from phlogiston.training.adversarial.critics import Critic, normalised
from phlogiston.training.adversarial.data import compared
from phlogiston.training.adversarial.losses import LOSSES
from phlogiston.training.adversarial.steps import GanSteps, Regularisers, StepInputs
from phlogiston.training.fitted import Fitted

ROWS, LOC, SLOPE, SHIFT = 64, 0.3, 0.7, -0.2


def shifted(n: int) -> None:
    """The 1-D Gaussian game: a normal with a learned mean."""
    loc = pyro.param("loc", torch.tensor(LOC))
    with pyro.plate("n", n):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.deterministic("x", loc + z)


def data(rows: int = ROWS, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(rows))


class Line(nn.Module):
    """D(x) = slope x + shift."""

    def __init__(self) -> None:
        super().__init__()
        self.slope, self.shift = nn.Parameter(torch.tensor(SLOPE)), nn.Parameter(torch.tensor(SHIFT))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.slope * x + self.shift


def game(
    loss: str, **settings: Any
) -> tuple[GanSteps, StepInputs, torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
    table = compared(ph.Model(shifted, ROWS).observe(x=data()), None, torch.float64)
    critic = Critic(Line(), table.data[:2], ())
    graph = table.generator.traced(ROWS)
    players = GanSteps(
        table.generator, critic, LOSSES[loss], Regularisers(**settings), table.data, (), graph, instance_noise=False
    )
    feed = players.inputs(np.random.default_rng(1), torch.arange(ROWS), 0.0)
    fake = LOC + feed.noises[0]
    return players, feed, table.data, fake, critic.initial


def sigmoid(v: torch.Tensor) -> torch.Tensor:
    return 1.0 / (1.0 + torch.exp(-v))


# d loss / d D(x), written by hand: at data and at draws for the critic, at draws for the generator.
Slope = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
BY_HAND: dict[str, tuple[Slope, Slope, Slope]] = {
    "minimax": (lambda r, f: -sigmoid(-r), lambda r, f: sigmoid(f), lambda r, f: -sigmoid(f)),
    "non_saturating": (lambda r, f: -sigmoid(-r), lambda r, f: sigmoid(f), lambda r, f: -sigmoid(-f)),
    "hinge": (lambda r, f: -(r < 1.0).double(), lambda r, f: (f > -1.0).double(), lambda r, f: -torch.ones_like(f)),
    "least_squares": (lambda r, f: r - 1.0, lambda r, f: f, lambda r, f: f - 1.0),
    "wasserstein": (
        lambda r, f: -torch.ones_like(r),
        lambda r, f: torch.ones_like(f),
        lambda r, f: -torch.ones_like(f),
    ),
    "relativistic": (lambda r, f: -sigmoid(f - r), lambda r, f: sigmoid(f - r), lambda r, f: -sigmoid(r - f)),
    "f_kl": (lambda r, f: -torch.ones_like(r), lambda r, f: torch.exp(f - 1), lambda r, f: -torch.exp(f - 1)),
    "f_reverse_kl": (lambda r, f: -torch.exp(-r), lambda r, f: torch.ones_like(f), lambda r, f: -torch.ones_like(f)),
    "f_js": (lambda r, f: -sigmoid(-r), lambda r, f: sigmoid(f), lambda r, f: -sigmoid(f)),
    "f_pearson": (lambda r, f: -torch.ones_like(r), lambda r, f: f / 2 + 1, lambda r, f: -(f / 2 + 1)),
    "f_hellinger": (lambda r, f: -torch.exp(-r), lambda r, f: torch.exp(f), lambda r, f: -torch.exp(f)),
}


def test_every_loss_has_gradients_by_hand() -> None:
    assert set(BY_HAND) == set(LOSSES)


@pytest.mark.parametrize("loss", list(LOSSES))
def test_both_gradients_are_the_analytic_ones(loss: str) -> None:
    players, feed, real, fake, critic = game(loss)
    of_real, of_fake = SLOPE * real + SHIFT, SLOPE * fake + SHIFT
    at_real, at_fake, own = (slope(of_real, of_fake) for slope in BY_HAND[loss])
    _, (slope, shift) = players.critic_gradient(critic, (*feed.tensors, torch.tensor(LOC, dtype=torch.float64)))
    assert float(-slope) == pytest.approx(float((at_real * real + at_fake * fake).mean()), rel=1e-5)
    assert float(-shift) == pytest.approx(float((at_real + at_fake).mean()), rel=1e-5, abs=1e-7)
    _, (loc,) = players.generator_gradient((torch.tensor(LOC, dtype=torch.float64),), (*feed.tensors, *critic))
    assert float(-loc) == pytest.approx(float((own * SLOPE).mean()), rel=1e-5)


@pytest.mark.parametrize("name", ["r1", "r2", "gradient_penalty"])
def test_a_penalty_adds_its_analytic_gradient(name: str) -> None:
    plain, feed, _, _, critic = game("wasserstein")
    with_it, own, _, _, _ = game("wasserstein", **{name: 3.0})
    loc = torch.tensor(LOC, dtype=torch.float64)
    _, before = plain.critic_gradient(critic, (*feed.tensors, loc))
    _, after = with_it.critic_gradient(critic, (*own.tensors, loc))
    expected = 3.0 * SLOPE if name != "gradient_penalty" else 3.0 * 2.0 * (SLOPE - 1.0)
    assert float(before[0] - after[0]) == pytest.approx(expected, rel=1e-5)
    assert float(before[1] - after[1]) == pytest.approx(0.0, abs=1e-9)


def test_the_best_critic_of_two_normals_gives_the_known_numbers() -> None:
    rng = np.random.default_rng(0)
    real, fake = torch.from_numpy(rng.standard_normal(400_000)), torch.from_numpy(1.0 + rng.standard_normal(400_000))
    best = [0.5 - real, 0.5 - fake]  # log N(x; 0, 1) - log N(x; 1, 1)
    total = float(LOSSES["non_saturating"].critic(best[0], best[1], 0.0))
    right = float(0.5 * ((best[0] > 0).double().mean() + (best[1] < 0).double().mean()))
    assert total / 2 == pytest.approx(0.5817, abs=0.002)
    assert math.log(2.0) - total / 2 == pytest.approx(0.1114, abs=0.002)
    assert right == pytest.approx(0.6915, abs=0.002)
    # the Jensen-Shannon bound of the f-GAN family counts both halves: 2 JS
    assert -float(LOSSES["f_js"].critic(best[0], best[1], 0.0)) == pytest.approx(2 * 0.1114, abs=0.004)
    ratio = [1.0 + best[0], 1.0 + best[1]]
    assert -float(LOSSES["f_kl"].critic(ratio[0], ratio[1], 0.0)) == pytest.approx(0.5, abs=0.01)


def quick(**settings: Any) -> ph.Adversarial:
    chosen = {"num_steps": 200, "batch_size": 32, "engine": "graph", **settings}
    return ph.Adversarial(**chosen)


def trained(steps: int = 200, **more: Any) -> Fitted:
    model = ph.Model(shifted, 256).observe(x=2.0 + data(256))
    keys = {"resume_from", "checkpoint"} & set(more)
    given = {key: more.pop(key) for key in keys}
    return ph.train(model, quick(num_steps=steps, **more), seed=3, progress=False, **given)


def test_the_mean_is_found_and_neither_players_step_moves_the_other() -> None:
    fitted = trained(400, optim=ph.Adam(learning_rate=0.02, beta1=0.0, beta2=0.99))
    assert float(fitted.params["loc"]) == pytest.approx(2.0, abs=0.3)
    players, feed, _, _, critic = game("relativistic", r1=1.0, r2=1.0)
    loc = (torch.tensor(LOC, dtype=torch.float64),)
    kept = [value.clone() for value in (*critic, *loc)]
    found = players.critic_gradient(critic, (*feed.tensors, *loc))[1]
    other = players.generator_gradient(loc, (*feed.tensors, *critic))[1]
    assert (len(found), len(other)) == (2, 1)
    assert all(torch.equal(a, b) for a, b in zip(kept, (*critic, *loc), strict=True))
    assert all(value.grad is None for value in (*critic, *loc))


def test_a_program_and_a_critic_of_the_users_stay_as_they_were() -> None:
    net, critic = nn.Linear(1, 1), Line()

    def program() -> None:
        pyro.module("net", net)
        with pyro.plate("n", 64):
            pyro.deterministic("x", net(pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1)))[:, 0])

    before = [value.detach().clone() for value in (*net.parameters(), *critic.parameters())]
    fitted = ph.train(ph.Model(program).observe(x=data()), quick(num_steps=20, critic=critic), seed=0, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, (*net.parameters(), *critic.parameters()), strict=True))
    assert any(not torch.equal(v, b.reshape(v.shape)) for v, b in zip(fitted.params.values(), before, strict=False))


def test_a_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    settings = {"critic_steps": 2, "instance_noise": 0.1, "instance_noise_steps": 150, "final_rate": 1.0}
    whole = trained(250, **settings)
    file = tmp_path / "half.pt"
    trained(130, checkpoint=file, **settings)
    second = trained(250, resume_from=file, **settings)
    for name in ("ema", "critic", "generator"):
        assert all(torch.equal(a, b) for a, b in zip(whole.state[name], second.state[name], strict=True)), name
    for name, curve in whole.history.items():
        np.testing.assert_array_equal(curve, second.history[name])


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "non_saturating", "label_smoothing": 0.1, "packing": 2},
        {"loss": "wasserstein", "r1": 0.0, "r2": 0.0, "gradient_penalty": 10.0, "critic_steps": 3},
        {"loss": "wasserstein", "r1": 0.0, "r2": 0.0, "clip_weights": 0.05},
        {"loss": "hinge", "spectral_norm": True},
        {"loss": "minimax", "precision": "bfloat16"},
        {"loss": "f_reverse_kl", "precision": "float64", "engine": "loop"},
    ],
    ids=lambda s: s["loss"],
)
def test_every_setting_plays(settings: dict[str, Any]) -> None:
    fitted = trained(30, **settings)
    assert fitted.stop_reason == "all 30 steps were done"
    assert all(np.isfinite(curve).all() for curve in fitted.history.values())
    if "clip_weights" in settings:
        count = (len(fitted.state["critic"]) - 1) // 3
        assert max(float(value.abs().max()) for value in fitted.state["critic"][:count]) <= 0.05 + 1e-6


def test_spectral_normalisation_gives_a_largest_singular_value_of_one() -> None:
    weight = torch.from_numpy(np.random.default_rng(0).standard_normal((20, 30)))
    weight[:, 0] *= 5.0
    assert float(torch.linalg.matrix_norm(normalised(weight), ord=2)) == pytest.approx(1.0, abs=0.01)


def test_observed_classes_reach_the_critic() -> None:
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 2, 400))
    points = 3.0 * labels.double() + 0.1 * torch.from_numpy(rng.standard_normal(400))

    def program() -> None:
        locs = pyro.param("locs", torch.tensor([1.4, 1.6]))
        with pyro.plate("n", 400):
            label = pyro.sample("label", dist.Categorical(torch.ones(2)))
            pyro.deterministic("x", locs[label.long()] + 0.1 * pyro.sample("z", dist.Normal(0.0, 1.0)))

    model = ph.Model(program).observe(x=points, label=labels)
    optim = ph.Adam(learning_rate=0.02, beta1=0.0, beta2=0.99)
    fitted = ph.train(model, quick(num_steps=400, batch_size=64, optim=optim), seed=0, progress=False)
    np.testing.assert_allclose(fitted.params["locs"].numpy(), [0.0, 3.0], atol=0.3)


def plain(value: Any) -> ph.Model:
    return ph.Model(shifted, ROWS).observe(x=value)


class Wide(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(x.shape[0], 2)


def test_bad_input_is_refused_with_the_fix() -> None:
    bad = data()
    bad[3] = math.nan
    with pytest.raises(ph.ModelError, match=r"site 'x': found 1 of 64 numbers that are NaN"):
        ph.train(plain(bad), quick())
    with pytest.raises(ph.SettingError, match=r"found 100 for 64 rows of 'x'.*write: batch_size=64"):
        ph.train(plain(data()), quick(batch_size=100))
    with pytest.raises(ph.ModelError, match=r"critic: found an output of shape \(2, 2\).*write: nn.Linear"):
        ph.train(plain(data()), quick(critic=Wide()))
    with pytest.raises(ph.ModelError, match="critic: found RuntimeError"):
        ph.train(plain(data()), quick(critic=nn.Linear(3, 1)))
    with pytest.raises(ph.UnsupportedModel, match=r"0 continuous sites with data.*write: model.observe"):
        ph.train(ph.Model(shifted, ROWS), quick())
    with pytest.raises(ph.SettingError, match="label_smoothing: found loss='hinge'"):
        ph.Adversarial(loss="hinge", label_smoothing=0.1)
    with pytest.raises(ph.SettingError, match="packing: found 3 for batches of 32"):
        quick(packing=3)


class Of(nn.Module):
    """A critic of a user's making."""

    def __init__(self, rule: Any) -> None:
        super().__init__()
        self.layer, self.rule = nn.Linear(1, 1), rule

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.rule(self.layer, x.unsqueeze(1)).squeeze(1)
        return found


@pytest.mark.parametrize(
    ("critic", "message"),
    [
        (Of(lambda layer, x: layer(x) * math.nan), "outputs at data that are not finite"),
        (Of(lambda layer, x: layer(x.detach())), "no gradient to the data"),
        (Of(lambda layer, x: (layer(x) > 0.0).float()), "no gradient to the data"),
        (Of(lambda layer, x: layer(x.reshape(2, 1))), "found RuntimeError: shape .* is invalid"),
        (Of(lambda layer, x: layer(x)).requires_grad_(False), "found no parameter to learn"),
    ],
)
def test_a_critic_that_cannot_learn_or_teach_is_refused(critic: nn.Module, message: str) -> None:
    with pytest.raises(ph.ModelError, match=f"critic: .*{message}"):
        ph.train(plain(data()), quick(critic=critic))


def test_what_is_frozen_in_a_critic_stays_as_it_was() -> None:
    critic = nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1))
    critic[1].requires_grad_(False)
    fitted = ph.train(plain(data()), quick(critic=critic, num_steps=2), seed=0, progress=False)
    assert [tuple(value.shape) for value in fitted.state["critic"][:2]] == [(1, 4), (1,)]


@pytest.mark.parametrize("engine", ["graph", "loop"])
def test_networks_that_draw_by_themselves_follow_the_seed(engine: str) -> None:
    critic = nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    settings: dict[str, Any] = {"critic": critic, "engine": engine, "check_every": 50, "final_rate": 1.0}
    before = torch.get_rng_state()
    whole = trained(70, **settings)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    first = trained(40, **settings)
    rest = trained(70, **settings, resume_from=first)
    assert torch.equal(whole.params["loc"], rest.params["loc"])
    assert whole.history["check_distance"][0] == rest.history["check_distance"][0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optim": 0.001}, r"optim: found 0.001; expected a ph.Adam; write: optim=ph.Adam"),
        ({"critic_optim": "adam"}, "critic_optim: found 'adam'; expected a ph.Adam"),
        ({"critic": "mlp"}, "critic: found 'mlp'; expected a torch.nn.Module"),
        ({"critic": Line}, r"expected a torch.nn.Module; write: critic=Line\(\)"),
        ({"r1": "much"}, "r1: found 'much'; expected a number from zero on"),
        ({"r2": math.inf}, "r2: found inf; expected a number from zero on"),
        ({"ema": "0.9"}, "ema: found '0.9'; expected a number from 0 to 1"),
    ],
)
def test_settings_of_another_kind_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ph.SettingError, match=message):
        quick(**settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x * 0.0 + 0.1, "found 64 rows that are all the same; expected data that vary"),
        (lambda x: x * 1e30, "whose square is beyond float32; expected numbers nearer to one; write: x = data /"),
        (lambda x: x * 1e-30, "whose square is beyond float32"),
    ],
)
def test_data_that_cannot_be_measured_are_refused(change: Any, message: str) -> None:
    with pytest.raises(ph.ModelError, match=message):
        ph.train(plain(change(data())), quick())


def test_draws_that_are_not_finite_before_training_are_refused() -> None:
    def logarithm() -> None:
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("n", ROWS):
            pyro.deterministic("x", loc + pyro.sample("z", dist.Normal(0.0, 1.0)).log())

    with pytest.raises(ph.ModelError, match=r"site 'x': found .* not finite, drawn before any training"):
        ph.train(ph.Model(logarithm).observe(x=data()), quick())


def test_a_game_goes_on_with_another_loss_but_not_from_anything() -> None:
    first = ph.train(plain(data()), quick(num_steps=100, check_every=100), seed=0, progress=False)
    other = quick(num_steps=200, check_every=100, loss="hinge")
    second = ph.train(plain(data()), other, progress=False, resume_from=first)
    assert np.isnan(second.history["check_calibration"]).tolist() == [False, True]
    with pytest.raises(ph.SettingError, match=r"resume_from: found 3; expected what ph.train returned"):
        ph.train(plain(data()), quick(), resume_from=3)  # type: ignore[arg-type]


def test_a_generator_without_a_latent_or_with_a_smaller_range_is_refused() -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.Sigmoid())

    def without() -> None:
        pyro.param("loc", torch.zeros(()))
        with pyro.plate("n", ROWS):
            pyro.deterministic("x", torch.zeros(ROWS))

    def squashed() -> None:
        pyro.module("net", net)
        with pyro.plate("n", ROWS):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.deterministic("x", net(z)[:, 0])

    with pytest.raises(ph.UnsupportedModel, match="no latent site; expected noise"):
        ph.train(ph.Model(without).observe(x=data()), quick())
    with pytest.raises(ph.ModelError, match=r"found data from 0 to 255; expected numbers that the generator can reach"):
        ph.train(ph.Model(squashed).observe(x=torch.linspace(0.0, 255.0, ROWS)), quick())


def test_inference_on_an_output_without_a_density_is_refused() -> None:
    with pytest.raises(ph.UnsupportedModel, match=r"site 'x': found a value for an output.*write: ph.measured"):
        ph.infer(plain(data()), "nuts", num_samples=10)
