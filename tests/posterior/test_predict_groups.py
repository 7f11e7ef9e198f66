"""Predictions for other groups: known ones keep what was learned of them, new ones come from the population."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph

pytestmark = pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")
EFFECTS = torch.tensor([4.0, -2.0, 1.0, 7.0, -5.0])
GROUP = torch.arange(5).repeat_interleave(40)
Y = EFFECTS[GROUP] + 0.1 * torch.from_numpy(np.random.default_rng(0).standard_normal(200))
NAMES = list("abcde")
TAU = 10.0


def program(group: torch.Tensor, num_groups: int) -> None:
    with pyro.plate("group", num_groups):
        a = pyro.sample("a", dist.Normal(0.0, TAU))
    with pyro.plate("row", len(group)):
        pyro.sample("y", dist.Normal(a[group], 0.1))


@pytest.fixture(scope="module")
def post() -> ph.Posterior:
    model = ph.Model(program, GROUP, 5, coords={"group": NAMES}).observe(y=Y)
    return ph.infer(model, "laplace", num_samples=2000, seed=0, progress=False)


def assert_known(draws: torch.Tensor, effect: float) -> None:
    """Predictions of a group that was seen: around its effect, with the error of one observation."""
    values = draws.double()
    assert abs(float(values.mean()) - effect) < 0.1
    assert float(values.std()) == pytest.approx(0.1 * np.sqrt(1.0 + 1.0 / 40.0), rel=0.1)


def assert_new(draws: torch.Tensor) -> None:
    """Predictions of a group that nobody saw: around the population's mean, with its spread."""
    values, sd = draws.double(), np.hypot(TAU, 0.1)
    assert abs(float(values.mean())) < 5.0 * sd / np.sqrt(len(values))
    assert float(values.std()) == pytest.approx(sd, rel=5.0 / np.sqrt(2.0 * len(values)))


def predicted(post: ph.Posterior, groups: list[int], count: int, **more: object) -> torch.Tensor:
    return post.predict(torch.tensor(groups), count, **more)["y"].flatten(0, 1)


def test_the_same_groups_keep_their_effects(post: ph.Posterior) -> None:
    found = predicted(post, [0, 3], 5)
    assert_known(found[:, 0], 4.0)
    assert_known(found[:, 1], 7.0)


def test_fewer_groups_are_the_first_ones(post: ph.Posterior) -> None:
    found = predicted(post, [0, 1, 2], 3)
    for place in range(3):
        assert_known(found[:, place], float(EFFECTS[place]))


def test_more_groups_are_the_old_ones_and_new_ones(post: ph.Posterior) -> None:
    found = predicted(post, [0, 4, 5, 7], 8)
    assert_known(found[:, 0], 4.0)
    assert_known(found[:, 1], -5.0)
    assert_new(found[:, 2])
    assert_new(found[:, 3])
    assert abs(np.corrcoef(found[:, 2], found[:, 3])[0, 1]) < 5.0 / np.sqrt(len(found))


@pytest.mark.parametrize("names", [["e", "new", "b"], ["x", "e", "b", "a", "y", "z"], ["e", "d", "c", "b", "a"]])
def test_groups_are_known_by_their_labels(post: ph.Posterior, names: list[str]) -> None:
    found = predicted(post, list(range(len(names))), len(names), coords={"group": names})
    for place, name in enumerate(names):
        if name in NAMES:
            assert_known(found[:, place], float(EFFECTS[NAMES.index(name)]))
        else:
            assert_new(found[:, place])


def test_latents_that_depend_on_each_other_are_drawn_together() -> None:
    def nested(group: torch.Tensor, num_groups: int) -> None:
        with pyro.plate("group", num_groups):
            scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
            a = pyro.sample("a", dist.Normal(10.0 * scale, 0.1))
        with pyro.plate("row", len(group)):
            pyro.sample("y", dist.Normal(a[group], 1.0))

    model = ph.Model(nested, torch.tensor([0, 1]), 2).observe(y=[10.0, 30.0])
    post = ph.infer(model, ph.NUTS(num_samples=200, num_warmup=200), seed=0, progress=False)
    draws = post.predict(torch.tensor([0, 1, 2]), 3, sites=("scale", "a", "y"))
    ratio = (draws["a"] / draws["scale"]).flatten(0, 1)
    assert ((ratio - 10.0).abs() < 0.6 / draws["scale"].flatten(0, 1)).all(), (
        "a new group's effect goes with its own scale"
    )
    assert abs(float(draws["y"][..., 1].mean()) - 30.0) < 1.0
    assert float(draws["y"][..., 2].std()) > 5.0


def test_two_plates_may_grow_at_once() -> None:
    def crossed(i: torch.Tensor, j: torch.Tensor, rows: int, columns: int) -> None:
        with pyro.plate("columns", columns, dim=-1), pyro.plate("rows", rows, dim=-2):
            a = pyro.sample("a", dist.Normal(0.0, TAU))
        with pyro.plate("data", len(i)):
            pyro.sample("y", dist.Normal(a[i, j], 0.1))

    i, j = (grid.reshape(-1) for grid in torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij"))
    y = torch.arange(6.0)
    post = ph.infer(ph.Model(crossed, i, j, 2, 3).observe(y=y), "laplace", num_samples=1000, seed=0, progress=False)
    found = post.predict(torch.tensor([1, 2, 1]), torch.tensor([2, 0, 3]), 3, 4)["y"].flatten(0, 1).double()
    assert abs(float(found[:, 0].mean()) - 5.0) < 0.1
    assert float(found[:, 1].std()) > 8.0
    assert float(found[:, 2].std()) > 8.0


def test_groups_that_are_observed_directly_are_known_where_their_inputs_are() -> None:
    def schools(sigma: torch.Tensor) -> None:
        with pyro.plate("school", len(sigma)):
            theta = pyro.sample("theta", dist.Normal(0.0, TAU))
            pyro.sample("y", dist.Normal(theta, sigma))

    sigma = torch.tensor([0.1, 0.1, 0.2])
    post = ph.infer(ph.Model(schools, sigma).observe(y=[5.0, -5.0, 1.0]), "laplace", seed=0, progress=False)
    longer = post.predict(torch.tensor([0.1, 0.1, 0.2, 0.3]))["y"].flatten(0, 1)
    assert longer.mean(0)[:3].tolist() == pytest.approx([5.0, -5.0, 1.0], abs=0.1)
    assert float(longer[:, 3].std()) > 5.0
    other = post.predict(torch.tensor([0.3, 0.4]))["y"].flatten(0, 1)
    assert (other.std(0) > 5.0).all(), "rows with other inputs are new rows"


def test_labels_that_do_not_fit_are_refused(post: ph.Posterior) -> None:
    with pytest.raises(ph.ModelError, match="coords 'group'"):
        predicted(post, [0], 3, coords={"group": ["a", "b"]})


def test_weighted_draws_keep_their_groups() -> None:
    few = ph.Model(program, GROUP[:80], 2).observe(y=Y[:80] * 0.0 + torch.tensor([3.0, -3.0]).repeat_interleave(40))
    laplace = ph.infer(few, "laplace", num_samples=500, seed=0, progress=False)
    post = ph.infer(few, ph.Importance(proposal=laplace, num_particles=2000), seed=0, progress=False)
    found = post.predict(torch.tensor([0, 1, 2]), 3)["y"].flatten(0, 1)
    assert_known(found[:, 0], 3.0)
    assert_known(found[:, 1], -3.0)
    assert_new(found[:, 2])
