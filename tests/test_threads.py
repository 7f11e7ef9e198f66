"""Calls from several threads give what they give alone, and leave every global as it was."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from test_globals import unchanged

import phlogiston as ph

pytestmark = pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")


def model(k: int) -> ph.Model:
    def program() -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(a, 1.0), obs=torch.tensor(float(k)))

    return ph.Model(program)


def deep(n: int) -> None:
    w = pyro.param("w", torch.tensor(0.5))
    with pyro.plate("rows", n):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(w * z, 0.3))


def nuts(k: int) -> torch.Tensor:
    return ph.infer(
        model(k), "nuts", seed=k, progress=False, num_samples=40, num_warmup=40, num_chains=2, engine="graph"
    ).draws["a"]


def looped(k: int) -> torch.Tensor:
    return ph.infer(model(k), "importance", seed=k, progress=False, num_particles=50).draws["a"]


def svi(k: int) -> torch.Tensor:
    return ph.infer(model(k), ph.SVI(engine="graph", num_steps=60), seed=k, progress=False).draws["a"]


def predicted(k: int) -> torch.Tensor:
    post = ph.infer(model(k), "importance", seed=k, progress=False, num_particles=500)
    return post.predict()["y"]


def trained(k: int) -> torch.Tensor:
    data = torch.as_tensor(np.random.default_rng(k).normal(size=20))
    fitted = ph.train(ph.Model(deep, 20).observe(x=data), ph.SVI(engine="graph", num_steps=40), seed=k, progress=False)
    return fitted.params["w"]


JOBS: tuple[Callable[[int], torch.Tensor], ...] = (nuts, looped, svi, predicted, trained)


def test_eight_threads_give_what_one_gives() -> None:
    tasks = [(JOBS[i % len(JOBS)], i) for i in range(16)]
    alone = [job(k) for job, k in tasks]
    with unchanged(), ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda task: task[0](task[1]), tasks))
    for (job, k), one, other in zip(tasks, alone, together, strict=True):
        assert torch.equal(one, other), f"{job.__name__}({k})"


def test_one_model_in_eight_threads() -> None:
    shared = model(3)

    def draw(seed: int) -> Any:
        return ph.infer(shared, "importance", seed=seed, progress=False, num_particles=300).draws["a"]

    alone = [draw(seed) for seed in range(8)]
    with unchanged(), ThreadPoolExecutor(8) as pool:
        together = list(pool.map(draw, range(8)))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
