"""Watching a game: alarms by loss, held-out data, early stopping, samples over time, pages."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from PIL import Image
from scipy.stats import wasserstein_distance
from torch import nn

import phlogiston as ph
from phlogiston.diagnostics.checks.gan import check_distance, check_game
from phlogiston.training.adversarial.loop import Alarm
from phlogiston.training.adversarial.losses import LOSSES
from phlogiston.training.adversarial.monitor import (
    Schedule,
    calibration_error,
    centres,
    faults,
    occupied,
    split,
    updated_alarms,
)
from phlogiston.training.fitted import Fitted

ANGLES = torch.arange(8) * math.pi / 4.0
CENTRES = torch.stack([ANGLES.cos(), ANGLES.sin()], 1)


def ring(count: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    noise = torch.from_numpy(rng.standard_normal((count, 2))).float()
    return CENTRES[torch.from_numpy(rng.integers(0, 8, count))] + 0.02 * noise


def generator(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = [part for pair in pairwise((4, 32, 32)) for part in (nn.Linear(*pair), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(32, 2))


def program(count: int, net: nn.Module) -> None:
    pyro.module("generator", net)
    with pyro.plate("points", count):
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.deterministic("x", net(z), event_dim=1)


def played(seed: int = 0, rows: int = 2000, **settings: Any) -> Fitted:
    model = ph.Model(program, rows, generator(seed)).observe(x=ring(rows))
    chosen = {"num_steps": 500, "batch_size": 64, "engine": "graph", **settings}
    return ph.train(model, ph.Adversarial(**chosen), seed=seed, progress=False)


def forced(seed: int) -> Fitted:
    """A generator that is far faster than its critic runs after the one best place."""
    fast, slow = ph.Adam(learning_rate=1e-2), ph.Adam(learning_rate=3e-4)
    unbalanced: dict[str, Any] = {"optim": fast, "critic_optim": slow, "final_rate": 1.0}
    return played(seed, loss="non_saturating", r1=0.0, r2=0.0, **unbalanced)


@pytest.fixture(scope="module")
def healthy() -> Fitted:
    return played(0)


def flagged(fitted: Fitted) -> list[str]:
    return [text for text in fitted.warnings if text.startswith("mode collapse")]


def check_forced(seed: int) -> None:
    with pytest.warns(ph.ConvergenceWarning, match=r"mode collapse, from step \d+ on: the draws left out \d+%"):
        fitted = forced(seed)
    assert flagged(fitted), fitted.history["check_missing"]
    report = fitted.diagnose()
    assert report.verdict == "do not use"
    assert "mode collapse" in fitted.stop_reason


def test_a_forced_collapse_is_flagged_within_500_steps() -> None:
    check_forced(0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_a_forced_collapse_is_flagged_within_500_steps_of_other_seeds(seed: int) -> None:
    check_forced(seed)


def test_a_healthy_game_raises_no_alarm(healthy: Fitted) -> None:
    assert healthy.warnings == ()
    assert healthy.stop_reason == "all 500 steps were done"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_a_healthy_game_of_another_seed_raises_no_alarm(seed: int) -> None:
    assert played(seed).warnings == ()


def check(step: int, **numbers: float) -> dict[str, float]:
    usual = {"missing": 0.0, "right_data": 0.6, "right_draws": 0.6, "right_pairs": 0.7, "memory": 0.0}
    return {"step": float(step), **usual, **numbers}


def test_an_alarm_is_raised_by_two_checks_and_ends() -> None:
    loss = LOSSES["relativistic"]
    bad = [check(step, missing=0.5 + step / 1000) for step in (100, 200, 300)]
    once = updated_alarms((), None, bad[0], loss)
    assert once == ()
    raised = updated_alarms(once, bad[0], bad[1], loss)
    assert [(a.kind, a.since, a.until, a.number) for a in raised] == [("mode collapse", 200, 0, 0.7)]
    worse = updated_alarms(raised, bad[1], bad[2], loss)
    assert worse[0].number == pytest.approx(0.8)
    over = updated_alarms(worse, bad[2], check(400), loss)
    assert str(over[0]) == "mode collapse, steps 200 to 400: the draws left out 80% of the data"
    assert updated_alarms(over, check(400), check(500, missing=0.9), loss) == over


@pytest.mark.parametrize(
    ("loss", "numbers", "kinds"),
    [
        ("minimax", {"right_data": 0.96, "right_draws": 0.97}, ["critic wins"]),
        ("non_saturating", {"right_data": 0.96, "right_draws": 0.97}, []),
        ("non_saturating", {"right_data": 0.995, "right_draws": 1.0}, ["critic wins"]),
        ("hinge", {"right_data": 1.0, "right_draws": 0.9}, []),
        ("relativistic", {"right_data": 1.0, "right_draws": 1.0, "right_pairs": 0.95}, []),
        ("relativistic", {"right_pairs": 1.0}, ["critic wins"]),
        ("wasserstein", {"right_data": 1.0, "right_draws": 1.0, "right_pairs": 1.0}, []),
        ("f_js", {"right_pairs": 1.0, "memory": 0.3}, ["critic wins", "critic memorises"]),
    ],
)
def test_alarms_know_the_loss(loss: str, numbers: dict[str, float], kinds: list[str]) -> None:
    assert list(faults(check(100, **numbers), LOSSES[loss])) == kinds


def test_cells_of_k_means_see_what_is_left_out() -> None:
    data, rng = ring(1000).double().numpy(), np.random.default_rng(0)
    middles = centres(data, 32, rng)
    shares = occupied(data, middles)
    assert shares.min() > 0.0
    half = data[(np.abs(data - CENTRES[:4].double().numpy()[:, None]).max(2) < 0.2).any(0)]
    left_out = shares[occupied(half, middles) == 0.0].sum()
    assert left_out == pytest.approx(1.0 - len(half) / len(data), abs=0.01)


def test_calibration_is_the_distance_of_confidence_from_success() -> None:
    rng = np.random.default_rng(0)
    odds = rng.normal(size=200_000)
    right = rng.random(odds.size) < 1.0 / (1.0 + np.exp(-np.abs(odds)))
    honest = np.where(right, np.abs(odds), -np.abs(odds))
    assert calibration_error(honest) < 0.01
    sure = calibration_error(3.0 * honest)
    expected = np.abs(1.0 / (1.0 + np.exp(-3.0 * np.abs(odds))) - 1.0 / (1.0 + np.exp(-np.abs(odds)))).mean()
    assert sure == pytest.approx(expected, abs=0.01)


def test_sliced_wasserstein_is_exact_where_it_can_be() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=200), rng.exponential(size=331)
    found = ph.divergence.sliced_wasserstein(x, y)
    assert found.value == pytest.approx(wasserstein_distance(x, y), rel=1e-12)
    plane = rng.normal(size=(300, 2))
    moved = ph.divergence.sliced_wasserstein(plane, plane + np.array([3.0, 4.0]), num_projections=2000, seed=1)
    assert abs(moved.value - 5.0 * 2.0 / math.pi) < 5.0 * moved.se
    with pytest.raises(ph.SettingError, match="num_projections: found 0"):
        ph.divergence.sliced_wasserstein(x, y, num_projections=0)


def test_rows_are_held_out_where_they_can_be_spared() -> None:
    seed = np.random.SeedSequence(0)
    learnt, held = split(2000, 64, seed)
    assert (len(learnt), len(held)) == (1800, 200)
    assert sorted([*learnt.tolist(), *held.tolist()]) == list(range(2000))
    assert [len(part) for part in split(400, 64, seed)] == [400, 0]
    assert [len(part) for part in split(50_000, 64, seed)] == [49_000, 1000]


def test_a_game_stops_where_held_out_data_come_no_nearer() -> None:
    still = ph.Adam(learning_rate=1e-9)
    fitted = played(0, optim=still, patience=150, num_steps=1000, final_rate=1.0)
    assert fitted.converged
    assert fitted.figures["steps"] < 1000
    assert fitted.stop_reason.startswith("no smaller distance to held-out data in")
    assert f"the parameters of step {fitted.state['best_step']}" in fitted.stop_reason
    for kept, best in zip(fitted.params.values(), fitted.state["best"], strict=True):
        assert torch.equal(kept, best)


def test_checks_are_the_same_where_a_run_goes_on(tmp_path: Path, healthy: Fitted) -> None:
    file, half = tmp_path / "half.pt", played(0, num_steps=300, final_rate=1.0)
    half.save(file)
    model = ph.Model(program, 2000, generator(0)).observe(x=ring(2000))
    settings = ph.Adversarial(num_steps=500, batch_size=64, engine="graph", final_rate=1.0)
    second = ph.train(model, settings, seed=0, progress=False, resume_from=file)
    whole = played(0, final_rate=1.0)
    for name, curve in whole.history.items():
        np.testing.assert_array_equal(curve, second.history[name])
    assert second.state["best_step"] == whole.state["best_step"]
    assert torch.equal(second.state["draws"], whole.state["draws"])


def test_pictures_are_due_often_at_first() -> None:
    schedule = Schedule(every=100, patience=0, frames=5, steps=1600)
    assert [schedule.due(kept) for kept in range(6)] == [0.0, 100.0, 400.0, 900.0, 1600.0, math.inf]


def test_samples_over_time_become_a_sheet_and_an_animation(tmp_path: Path, healthy: Fitted) -> None:
    steps = [step for step, _ in healthy.state["frames"]]
    assert steps[0] == 0
    assert steps[-1] == 500
    assert steps == sorted(set(steps))
    with Image.open(healthy.film(tmp_path / "samples.png")) as sheet:
        assert sheet.format == "PNG"
        assert np.asarray(sheet.convert("L")).std() > 5.0
    with Image.open(healthy.film(tmp_path / "samples.gif")) as film:
        assert film.format == "GIF"
        assert getattr(film, "n_frames", 1) == len(steps)
    with pytest.raises(ph.SettingError, match=r"expected a .png or a .gif"):
        healthy.film(tmp_path / "samples.mp4")
    with pytest.raises(ph.UnsupportedModel, match=r"no samples over time.*write: ph.train"):
        Fitted(model=healthy.model, method="svi").film(tmp_path / "samples.gif")


def test_a_page_shows_the_game(tmp_path: Path, healthy: Fitted) -> None:
    page = healthy.report(tmp_path / "page.html").read_text()
    for text in ("Samples over time", "alarms of the game", "distance to held-out data", "mean of x"):
        assert text in page, text
    assert "$$$" not in page.partition("The program")[0]


def test_findings_of_a_game() -> None:
    assert check_game([Alarm(kind="critic wins", since=3, number=0.99, until=5)]).outcome == "none at the end, 1 before"
    assert check_game([Alarm(kind="critic wins", since=9, number=0.99)]).state == "caution"
    assert check_game([Alarm(kind="mode collapse", since=9, number=0.5)]).state == "do not use"
    distances = np.array([0.5, 0.1, 0.3])
    assert check_distance(distances, 0.15).state == "fine"
    assert check_distance(distances, 0.3).state == "caution"
    assert check_distance(distances[:1], 0.3).state == "not judged"
